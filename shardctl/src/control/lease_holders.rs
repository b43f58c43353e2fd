//! Which gateways may hold a lease, as the store knows it: a restarted control plane waits for these, and for no others.
//!
//! A gateway is written down before it is given a lease, and forgotten when its stream has ended and its lease run out.

use std::time::Instant;

use ringway_topology::ids::GatewayId;
use ringway_topology::store::{Record, RecordKind};

use super::registry::{GatewaySession, LEASE};
use super::{blocking, Control, ControlError};

impl Control {
    /// A gateway's stream begins. It may be given a lease when this returns.
    pub async fn register_gateway(
        &self,
        gateway: GatewayId,
        listen_address: String,
    ) -> Result<GatewaySession, ControlError> {
        let _one = self.inner.lease_holders.lock().await;
        let session = self.gateways().register(gateway, listen_address);
        self.put(Record { kind: RecordKind::LeaseHolder, id: gateway.0, bytes: Vec::new() }).await?;
        Ok(session)
    }

    /// Its stream has ended: nothing renews its lease any more, unless it attaches again.
    pub async fn gateway_detached(&self, session: GatewaySession) {
        tokio::time::sleep(LEASE).await;
        let _one = self.inner.lease_holders.lock().await;
        if self.gateways().is_latest(session) {
            self.forget_lease_holder(session.gateway).await;
        }
    }

    /// Those that a predecessor gave leases, and that have not attached until these ran out.
    pub(super) async fn forget_lost_lease_holders(&self) {
        tokio::time::sleep(LEASE).await;
        let _one = self.inner.lease_holders.lock().await;
        for gateway in self.gateways().lost() {
            self.forget_lease_holder(gateway).await;
        }
    }

    async fn forget_lease_holder(&self, gateway: GatewayId) {
        let store = std::sync::Arc::clone(&self.inner.store);
        if let Err(error) = blocking(move || store.remove(RecordKind::LeaseHolder, gateway.0)).await {
            // A restart waits for it once more.
            tracing::warn!(%error, gateway = gateway.0, "a gateway that is gone stays in the store");
        }
    }
}

impl super::Gateways {
    /// False: another stream of the same gateway has taken over.
    fn is_latest(&self, session: GatewaySession) -> bool {
        self.registry().is_latest(session)
    }

    fn lost(&self) -> Vec<GatewayId> {
        self.registry().lost(Instant::now())
    }
}
