//! Reads the catalog of the home shard.

use ringway_topology::model::Topology;

use super::gateway::Gateway;
use crate::catalog::{Catalog, CatalogError};
use crate::pool::error::PoolError;
use crate::pool::Claim;

#[derive(Debug, thiserror::Error)]
pub enum CatalogLoadError {
    #[error("the cluster has no shard yet")]
    NoShard,
    #[error("{0}")]
    Pool(#[from] PoolError),
    #[error("the catalog cannot be understood: {0}")]
    Parse(#[from] CatalogError),
    #[error("the shard gave no catalog")]
    Empty,
}

pub async fn load(gateway: &Gateway, topology: &Topology) -> Result<Catalog, CatalogLoadError> {
    let home = topology.home_shard().and_then(|id| topology.shard(id)).ok_or(CatalogLoadError::NoShard)?;
    let pool = gateway.pools.service(home)?;
    let mut connection = pool.checkout(Claim::First).await?;
    let rows = connection.query(Catalog::LOAD_SQL).await?;
    let text = rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten();
    Ok(Catalog::parse(&text.ok_or(CatalogLoadError::Empty)?)?)
}

/// Reads it again; statements are planned by it from now on.
pub async fn refresh(gateway: &Gateway, topology: &Topology) -> Result<(), CatalogLoadError> {
    let catalog = load(gateway, topology).await?;
    gateway.set_catalog(topology.catalog_version, catalog);
    Ok(())
}
