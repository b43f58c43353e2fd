//! `SHOW ringway.*`, `SHOW POOLS`, `SHOW STATS`, ...: small results of the gateway's own.
//!
//! Names of subjects and columns are PgBouncer's where it has the same thing.

mod pools;

use bytes::BytesMut;
use ringway_topology::model::{ShardState, TableKind, Topology};

use super::describe::text_field;
use super::gateway::Gateway;
use crate::wire::backend::{self, FieldDescription};
use crate::wire::frontend::Formats;
use crate::wire::{Format, PgError, SqlState};

/// What can be shown, by its name in lower case without the `ringway.` in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Shards,
    Moves,
    Tables,
    Ring,
    Epoch,
    Version,
    Pools,
    Clients,
    Servers,
    Stats,
    StatsTotals,
    Databases,
    Users,
    Lists,
    Listeners,
    Config,
    Help,
}

const INT8_OID: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Text(&'static str),
    /// bigint
    Number(&'static str),
}

use Column::{Number, Text};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    Text(String),
    Number(i64),
    Null,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::Text(text.into())
    }
}

/// A count, as a cell.
fn number(count: impl TryInto<i64>) -> Cell {
    Cell::Number(count.try_into().unwrap_or(i64::MAX))
}

/// A result.
#[derive(Clone, Debug)]
pub struct Table {
    columns: &'static [Column],
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn fields(&self) -> Vec<FieldDescription> {
        fields(self.columns)
    }

    /// DataRow messages. `formats`: of Bind; None: text. Fails with 22023 at a row in a format that there is not.
    pub fn encode_rows(&self, out: &mut BytesMut, formats: Option<Formats<'_>>) -> Result<(), PgError> {
        let unsupported = Format::unsupported(formats.iter().flat_map(Formats::iter));
        if let Some(error) = unsupported.filter(|_| !self.rows.is_empty()) {
            return Err(error);
        }
        for row in &self.rows {
            let values = row.iter().enumerate().map(|(index, cell)| {
                let format = formats.map_or(Format::Text, |formats| formats.get(index));
                match (cell, format) {
                    (Cell::Null, _) => None,
                    (Cell::Text(text), _) => Some(text.as_bytes().to_vec()),
                    (Cell::Number(number), Format::Text | Format::Other(_)) => Some(number.to_string().into_bytes()),
                    (Cell::Number(number), Format::Binary) => Some(number.to_be_bytes().to_vec()),
                }
            });
            backend::data_row(out, values);
        }
        Ok(())
    }
}

fn fields(columns: &[Column]) -> Vec<FieldDescription> {
    let field = |column: &Column| match column {
        Text(name) => text_field(name),
        Number(name) => FieldDescription { type_oid: INT8_OID, typlen: 8, ..text_field(name) },
    };
    columns.iter().map(field).collect()
}

impl Subject {
    pub fn named(what: &str) -> Option<Subject> {
        let what = what.to_ascii_lowercase();
        Some(match what.strip_prefix("ringway.").unwrap_or(&what) {
            "shards" => Subject::Shards,
            "moves" => Subject::Moves,
            "tables" => Subject::Tables,
            "ring" => Subject::Ring,
            "epoch" => Subject::Epoch,
            "version" => Subject::Version,
            "pools" => Subject::Pools,
            "clients" => Subject::Clients,
            "servers" => Subject::Servers,
            "stats" => Subject::Stats,
            "stats_totals" => Subject::StatsTotals,
            "databases" => Subject::Databases,
            "users" => Subject::Users,
            "lists" => Subject::Lists,
            "listeners" => Subject::Listeners,
            "config" => Subject::Config,
            "help" => Subject::Help,
            _ => return None,
        })
    }

    /// The cluster is everybody's to look at; who uses it how is the administrators'.
    pub fn is_public(self) -> bool {
        use Subject::*;
        matches!(self, Shards | Moves | Tables | Ring | Epoch | Version)
    }

    pub fn fields(self) -> Vec<FieldDescription> {
        fields(self.columns())
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Subject::Shards => &[Text("number"), Text("name"), Text("state"), Text("dsn")],
            Subject::Moves => &[
                Text("id"),
                Text("kind"),
                Text("source"),
                Text("target"),
                Text("phase"),
                Text("arcs"),
                Text("mirror"),
                Text("hold"),
            ],
            Subject::Tables => {
                &[Text("schema"), Text("name"), Text("kind"), Text("key"), Text("type"), Text("keyspace")]
            }
            Subject::Ring => &[Text("keyspace"), Text("arc"), Text("shard")],
            Subject::Epoch => &[Text("epoch")],
            Subject::Version => &[Text("version")],
            _ => pools::columns(self),
        }
    }

    pub fn table(self, gateway: &Gateway) -> Table {
        let view = gateway.view.current();
        let topology = view.as_ref().map(|view| &*view.topology);
        let of_cluster = |rows: fn(&Topology) -> Vec<Vec<String>>| {
            let rows = topology.map(rows).unwrap_or_default();
            rows.into_iter().map(|row| row.into_iter().map(Cell::Text).collect()).collect()
        };
        let rows = match self {
            Subject::Shards => of_cluster(shards),
            Subject::Moves => of_cluster(moves),
            Subject::Tables => of_cluster(tables),
            Subject::Ring => of_cluster(ring),
            Subject::Epoch => of_cluster(|topology| vec![vec![topology.epoch.0.to_string()]]),
            Subject::Version => vec![vec![format!("Ringway {}", env!("CARGO_PKG_VERSION")).into()]],
            _ => pools::rows(self, gateway, topology),
        };
        Table { columns: self.columns(), rows }
    }
}

pub fn unknown(what: &str) -> PgError {
    PgError::new(SqlState::UNDEFINED_OBJECT, format!("there is nothing to show by the name \"{what}\"")).hint(
        "Known: ringway.shards, ringway.moves, ringway.tables, ringway.ring, ringway.epoch, POOLS, CLIENTS, SERVERS, STATS, \
         STATS_TOTALS, DATABASES, USERS, LISTS, LISTENERS, CONFIG, VERSION, HELP.",
    )
}

fn shard_name(topology: &Topology, id: ringway_topology::ids::ShardId) -> String {
    topology.shard(id).map_or_else(|| id.to_string(), |shard| shard.name.clone())
}

fn shards(topology: &Topology) -> Vec<Vec<String>> {
    let rows = topology.shards.values().map(|shard| {
        let state = match shard.state {
            ShardState::Joining => "joining",
            ShardState::Member => "member",
        };
        vec![shard.id.to_string(), shard.name.clone(), state.to_owned(), without_password(&shard.dsn)]
    });
    rows.collect()
}

/// A secret never shows.
fn without_password(dsn: &str) -> String {
    let Some((scheme, rest)) = dsn.split_once("://") else { return "(not a URL)".to_owned() };
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    let shown = match authority.rsplit_once('@') {
        Some((user, host)) => format!("{}@{host}", user.split(':').next().unwrap_or_default()),
        None => authority.to_owned(),
    };
    let tail = tail.split('?').next().unwrap_or_default();
    format!("{scheme}://{shown}{tail}")
}

/// The name that the model's own serialisation gives.
fn word(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn moves(topology: &Topology) -> Vec<Vec<String>> {
    let flag = |on: bool| if on { "t" } else { "f" }.to_owned();
    let rows = topology.moves.values().map(|m| {
        vec![
            m.id.0.to_string(),
            word(m.kind),
            shard_name(topology, m.source),
            shard_name(topology, m.target),
            word(m.phase),
            m.arcs.len().to_string(),
            flag(m.routing.mirror),
            flag(m.routing.hold),
        ]
    });
    rows.collect()
}

fn tables(topology: &Topology) -> Vec<Vec<String>> {
    let rows = topology.tables.iter().map(|table| {
        let (schema, name) = (table.name.schema.clone(), table.name.name.clone());
        match &table.kind {
            TableKind::Sharded { keyspace, key_column, key_type } => {
                let space = topology.keyspace(*keyspace).map(|k| k.name.clone()).unwrap_or_default();
                vec![schema, name, "sharded".into(), key_column.clone(), key_type.to_string(), space]
            }
            TableKind::Reference => {
                vec![schema, name, "reference".into(), String::new(), String::new(), String::new()]
            }
        }
    });
    rows.collect()
}

fn ring(topology: &Topology) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for keyspace in topology.keyspaces.values() {
        for (arc, shard) in keyspace.ring().arcs() {
            rows.push(vec![keyspace.name.clone(), arc.to_string(), shard_name(topology, shard)]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_show() {
        assert_eq!(without_password("postgresql://r:s3cret@h:1/db?password=x"), "postgresql://r@h:1/db");
        assert_eq!(without_password("postgresql://r:a@b@h/db"), "postgresql://r@h/db");
        assert_eq!(without_password("host=h password=x"), "(not a URL)");
    }

    #[test]
    fn subjects_are_found_by_either_name() {
        assert_eq!(Subject::named("ringway.shards"), Some(Subject::Shards));
        assert_eq!(Subject::named("POOLS"), Some(Subject::Pools));
        assert_eq!(Subject::named("work_mem"), None);
    }
}
