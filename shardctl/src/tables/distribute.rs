//! The steps round a change of a table's kind: checks, the epoch in which statements on it wait, the distributed
//! transaction, and the epoch of the new kind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ringway_topology::ids::{KeyspaceId, ShardId};
use ringway_topology::model::{Keyspace, Placement, Table, TableKind, TableName, Topology};
use ringway_topology::ring::Ring;
use ringway_topology::token::KeyFamily;

use super::checks::{self, Wanted};
use super::inspect::{has_rows, inspect, TableInfo};
use super::name::{parse_column, parse_table};
use super::{reference, settle, shard_rows, Distributed, ShardTable};
use crate::control::{Control, ControlError};
use crate::pg::ServiceClient;
use crate::shards::fences::{self, Fences};

/// For transactions that use the table to end.
const DRAIN_MAX: Duration = Duration::from_secs(15);

/// Makes a table sharded; moves its rows to their owners.
pub async fn shard_table(control: &Control, wanted: &ShardTable) -> Result<Distributed, ControlError> {
    let _one = control.lock_operations().await?;
    let table = parse_table(&wanted.table)?;
    let key = parse_column(&wanted.key_column)?;
    let topology = control.topology();
    let members = Members::connect(control).await?;
    let info = members.inspect(&table).await?;
    checks::check_kind(&table, &info)?;
    let key_type = checks::check_key(&table, &info, &key)?;
    let place = find_keyspace(&topology, wanted, key_type.family())?;
    if let Some(known) = topology.table(&table.schema, &table.name) {
        return already(known, &key, &place, topology.epoch);
    }
    let mut warnings = checks::check_uniques(&table, &info, &key, wanted.allow_local_unique)?;
    let keyspace = match &place {
        Place::Known(id) => Some(*id),
        Place::New(_) => None,
    };
    let filled = members.tables_with_rows(&table, &info).await?;
    checks::check_foreign_keys(&table, &info, Wanted::Sharded { key: &key, keyspace }, &topology, &filled)?;
    members.check_rows_at_home_only(&table).await?;

    let kind = |keyspace| TableKind::Sharded { keyspace, key_column: key.clone(), key_type };
    let done = change_kind(control, &table, |topology| {
        let keyspace = match &place {
            Place::Known(id) => *id,
            Place::New(name) => make_keyspace(topology, name, key_type.family())?,
        };
        Ok(kind(keyspace))
    })
    .await?;
    warnings.extend(done.warnings);
    Ok(Distributed { warnings, ..done })
}

/// Makes a table a reference table; copies its rows to every shard.
pub async fn reference_table(control: &Control, table: &str) -> Result<Distributed, ControlError> {
    let _one = control.lock_operations().await?;
    let table = parse_table(table)?;
    let topology = control.topology();
    let members = Members::connect(control).await?;
    let info = members.inspect(&table).await?;
    checks::check_kind(&table, &info)?;
    if let Some(known) = topology.table(&table.schema, &table.name) {
        return match known.kind {
            TableKind::Reference => Ok(unchanged(topology.epoch)),
            TableKind::Sharded { .. } => Err(ControlError::Precondition(format!(
                "{table} is sharded already; first SELECT undistribute_table('{table}')"
            ))),
        };
    }
    let filled = members.tables_with_rows(&table, &info).await?;
    checks::check_foreign_keys(&table, &info, Wanted::Reference, &topology, &filled)?;
    members.check_rows_at_home_only(&table).await?;
    change_kind(control, &table, |_| Ok(TableKind::Reference)).await
}

fn unchanged(epoch: ringway_topology::ids::Epoch) -> Distributed {
    Distributed { epoch, warnings: vec!["nothing to do: it is already".to_owned()], rows: 0 }
}

fn already(
    known: &Table,
    key: &str,
    place: &Place,
    epoch: ringway_topology::ids::Epoch,
) -> Result<Distributed, ControlError> {
    match (&known.kind, place) {
        (TableKind::Sharded { keyspace, key_column, .. }, Place::Known(wanted))
            if keyspace == wanted && key_column == key && !known.changing =>
        {
            Ok(unchanged(epoch))
        }
        (TableKind::Sharded { key_column, .. }, _) => Err(ControlError::Precondition(format!(
            "{} is sharded already, by {key_column}; to change that, first SELECT undistribute_table('{}')",
            known.name, known.name
        ))),
        (TableKind::Reference, _) => {
            Err(ControlError::Precondition(format!("{} is a reference table already", known.name)))
        }
    }
}

enum Place {
    Known(KeyspaceId),
    New(String),
}

fn find_keyspace(topology: &Topology, wanted: &ShardTable, family: KeyFamily) -> Result<Place, ControlError> {
    let fits = |keyspace: &Keyspace| {
        if keyspace.family == family {
            return Ok(Place::Known(keyspace.id));
        }
        Err(ControlError::Precondition(format!(
            "keyspace {} is for keys of the kind {}, and this key is of the kind {}",
            keyspace.name,
            word(keyspace.family),
            word(family)
        )))
    };
    match (&wanted.keyspace, &wanted.colocate_with) {
        (Some(_), Some(_)) => {
            Err(ControlError::Invalid("give a keyspace or a table to colocate with, not both".into()))
        }
        (Some(name), None) => match topology.keyspace_named(name) {
            Some(keyspace) => fits(keyspace),
            None => Ok(Place::New(name.clone())),
        },
        (None, Some(other)) => {
            let other = parse_table(other)?;
            match topology.table(&other.schema, &other.name).map(|table| &table.kind) {
                Some(TableKind::Sharded { keyspace, .. }) => match topology.keyspace(*keyspace) {
                    Some(keyspace) => fits(keyspace),
                    None => Err(ControlError::Internal(format!("the keyspace of {other} is gone"))),
                },
                _ => Err(ControlError::NotFound(format!("{other} is no sharded table to colocate with"))),
            }
        }
        (None, None) => {
            let own = format!("default_{}", word(family));
            let defaults = ["default", own.as_str()];
            let known = defaults.iter().filter_map(|name| topology.keyspace_named(name));
            match known.into_iter().find(|keyspace| keyspace.family == family) {
                Some(keyspace) => Ok(Place::Known(keyspace.id)),
                None if topology.keyspace_named("default").is_none() => Ok(Place::New("default".to_owned())),
                None => Ok(Place::New(own)),
            }
        }
    }
}

fn word(family: KeyFamily) -> String {
    ringway_topology::convert::word_of(&family)
}

/// Equal arcs for all members.
fn make_keyspace(topology: &mut Topology, name: &str, family: KeyFamily) -> Result<KeyspaceId, ControlError> {
    let members: Vec<ShardId> = topology.members().map(|shard| shard.id).collect();
    let ring = Ring::equal(&members).map_err(|error| ControlError::Precondition(error.to_string()))?;
    let id = KeyspaceId(topology.next_keyspace);
    topology.next_keyspace += 1;
    let keyspace = Keyspace { id, name: name.to_owned(), family, placement: Placement::Ring(ring) };
    topology.keyspaces.insert(id, keyspace);
    Ok(id)
}

/// Sessions on all members, the home shard's first.
pub struct Members {
    pub sessions: Vec<(ShardId, String, ServiceClient)>,
}

impl Members {
    pub async fn connect(control: &Control) -> Result<Members, ControlError> {
        let topology = control.topology();
        let mut sessions = Vec::new();
        for shard in topology.members() {
            sessions.push((shard.id, shard.name.clone(), control.shard_client(shard.id).await?));
        }
        if sessions.is_empty() {
            return Err(ControlError::Precondition(
                "the cluster has no shard yet; add one: shardctl shard add NAME DSN".into(),
            ));
        }
        Ok(Members { sessions })
    }

    pub fn home(&self) -> &(ShardId, String, ServiceClient) {
        &self.sessions[0]
    }

    /// The table as the home shard has it; the others must have it alike.
    pub async fn inspect(&self, table: &TableName) -> Result<TableInfo, ControlError> {
        let mut found: Option<TableInfo> = None;
        for (_, name, client) in &self.sessions {
            let info = inspect(client, table).await.map_err(|error| error.context(format!("shard {name}")))?;
            let Some(info) = info else {
                return Err(match found {
                    None => ControlError::NotFound(format!("there is no table {table}")),
                    Some(_) => ControlError::Precondition(format!(
                        "shard {name} has no table {table}; create it through the gateway, which creates it everywhere"
                    )),
                });
            };
            match &found {
                None => found = Some(info),
                Some(first) if first.columns == info.columns => {}
                Some(_) => {
                    return Err(ControlError::Precondition(format!(
                        "the columns of {table} on shard {name} differ from the home shard's; change the table through \
                         the gateway only"
                    )))
                }
            }
        }
        found.ok_or_else(|| ControlError::NotFound(format!("there is no table {table}")))
    }

    async fn tables_with_rows(&self, table: &TableName, info: &TableInfo) -> Result<BTreeSet<TableName>, ControlError> {
        let (_, _, home) = self.home();
        let others = info.outgoing.iter().chain(&info.incoming).map(|foreign_key| &foreign_key.other);
        let mut filled = BTreeSet::new();
        for one in others.chain([table]) {
            if has_rows(home, one).await? {
                filled.insert(one.clone());
            }
        }
        Ok(filled)
    }

    async fn check_rows_at_home_only(&self, table: &TableName) -> Result<(), ControlError> {
        for (_, name, client) in &self.sessions[1..] {
            if has_rows(client, table).await? {
                return Err(ControlError::Precondition(format!(
                    "{table} has rows on shard {name}, which is not its home: somebody wrote past the gateway; look at \
                     them, then delete them there"
                )));
            }
        }
        Ok(())
    }
}

/// The table's statements wait while it changes.
async fn change_kind(
    control: &Control,
    table: &TableName,
    kind: impl Fn(&mut Topology) -> Result<TableKind, ControlError> + Send,
) -> Result<Distributed, ControlError> {
    fences::raise(control, Fences::DDL).await?;
    let outcome = change_kind_fenced(control, table, kind).await;
    if outcome.is_err() {
        settle::settle_table(control, table).await;
    }
    fences::lift_or_settle_later(control).await;
    outcome
}

async fn change_kind_fenced(
    control: &Control,
    table: &TableName,
    kind: impl Fn(&mut Topology) -> Result<TableKind, ControlError> + Send,
) -> Result<Distributed, ControlError> {
    let topology = control
        .change("table changing", |topology| {
            let kind = kind(topology)?;
            refuse_while_moving(topology, &kind)?;
            topology.tables.push(Table { name: table.clone(), kind, changing: true });
            Ok(())
        })
        .await?;
    drain(control, &topology, table).await?;
    let changed = topology.table(&table.schema, &table.name).cloned();
    let changed = changed.ok_or_else(|| ControlError::Internal(format!("{table} is gone from the topology")))?;
    let sessions = Members::connect(control).await?;
    let done = match &changed.kind {
        TableKind::Sharded { keyspace, key_column, .. } => {
            let key = shard_rows::Key { keyspace: *keyspace, column: key_column };
            shard_rows::shard_rows(&topology, &sessions, table, key).await
        }
        TableKind::Reference => reference::copy_everywhere(&sessions, table).await,
    };
    let (rows, warnings) = done?;
    let topology = settle::publish_changed(control, table).await?;
    Ok(Distributed { epoch: topology.epoch, warnings, rows })
}

/// A move copies the tables of its keyspace as they are when it is in the topology, and waits for those that are being
/// distributed (moves/effects/publish.rs).
pub fn refuse_while_moving(topology: &Topology, kind: &TableKind) -> Result<(), ControlError> {
    let TableKind::Sharded { keyspace, .. } = kind else { return Ok(()) };
    match topology.moves.values().find(|moving| moving.keyspace == *keyspace) {
        Some(moving) => Err(ControlError::Precondition(format!(
            "rows of the table's keyspace are moving (move {0}); wait for it to end (shardctl move watch {0}), or cancel it",
            moving.id
        ))),
        None => Ok(()),
    }
}

/// From here on no statement is left that began before this epoch, in which the table is changing.
pub async fn drain(control: &Control, topology: &Topology, table: &TableName) -> Result<(), ControlError> {
    let members = fences::members(control);
    let deadline = Instant::now() + DRAIN_MAX;
    control.gateways().wait_drained_or_terminate(topology.epoch, deadline, &members).await.map_err(|error| {
        ControlError::Precondition(format!("statements on {table} do not end: {error}; nothing was changed, try again"))
    })?;
    fences::raise_floors(control, topology.epoch, &members).await
}

/// For tests: which keyspace a request would take.
#[cfg(test)]
pub(super) fn keyspace_of(topology: &Topology, key_type: ringway_topology::token::KeyType) -> String {
    let wanted = ShardTable {
        table: "t".into(),
        key_column: "k".into(),
        keyspace: None,
        colocate_with: None,
        allow_local_unique: false,
    };
    match find_keyspace(topology, &wanted, key_type.family()) {
        Ok(Place::Known(id)) => format!("known {id}"),
        Ok(Place::New(name)) => format!("new {name}"),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use ringway_topology::token::KeyType;

    use super::*;

    #[test]
    fn default_keyspaces() {
        let mut topology = Topology::empty("c".into(), "s".into());
        assert_eq!(keyspace_of(&topology, KeyType::Int4), "new default");
        let ring = Ring::equal(&[ShardId(1)]).unwrap();
        let keyspace = Keyspace {
            id: KeyspaceId(1),
            name: "default".into(),
            family: KeyFamily::Integer,
            placement: Placement::Ring(ring),
        };
        topology.keyspaces.insert(keyspace.id, keyspace);
        assert_eq!(keyspace_of(&topology, KeyType::Int2), "known 1");
        assert_eq!(keyspace_of(&topology, KeyType::Uuid), "new default_uuid");
    }
}
