//! What the planner hands to execution: closed enums, one struct per variant. Pure values; no I/O, no clock.
//!
//! A [`Plan`] is made once per statement text, session `search_path`, catalog and topology *shape* (tables, keyspaces,
//! the set of shards: not the ring, not moves), and cached. Routing ([`super::route`]) happens per execution, against the topology
//! of that moment, and gives the shards. Where the shards' texts depend on a move (filters on rows that a shard holds but does not
//! own), the plan carries the places where the text is to be spliced, and [`super::filter`] makes the text per shard.

use std::ops::Range;
use std::sync::Arc;

use ringway_topology::ids::KeyspaceId;
use ringway_topology::model::TableName;
use ringway_topology::token::{KeyType, KeyValue};

use crate::sql::splice::Splice;
use crate::wire::backend::PgError;

/// What a statement does to rows; decides holding, mirroring, fencing and whether it may be run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// SELECT ... FOR UPDATE / SHARE, or a SELECT of functions that may write.
    LockingRead,
    Write,
}

#[derive(Clone, Debug)]
pub enum Plan {
    /// Handled by the session itself.
    Session(SessionCommand),
    /// Administration of the cluster in SQL.
    Admin(AdminCommand),
    /// SELECT, INSERT, UPDATE, DELETE, MERGE, VALUES, TABLE, WITH.
    Query(Query),
    /// INSERT whose shard keys a shard computes before its rows find their owners.
    ComputedKeys(ComputedKeys),
    /// INSERT of a query's rows, which travel from wherever they are to the owners of their keys.
    InsertSelect(Box<InsertSelect>),
    /// Runs on every member shard in one transaction with one outcome.
    Ddl(Ddl),
    /// COPY table FROM STDIN.
    CopyIn(CopyIn),
    /// COPY table / query TO STDOUT.
    CopyOut(CopyOut),
    /// EXPLAIN: `inner` decides what is shown.
    Explain(Explain),
    /// DECLARE CURSOR over rows of sharded tables.
    Cursor(Cursor),
    /// UPDATE and DELETE ... WHERE CURRENT OF.
    AtCursor(AtCursor),
    /// Goes to the home shard as it is: VACUUM, ANALYZE of single tables, NOTIFY, CALL of procedures, DO, ...
    Home(Home),
}

/// A write where a cursor stands.
#[derive(Clone, Debug)]
pub struct AtCursor {
    pub query: Box<Query>,
    /// The cursor's name.
    pub cursor: String,
}

#[derive(Clone, Debug)]
pub enum SessionCommand {
    Empty,
    /// BEGIN / START TRANSACTION with its modes as written (without the verb), e.g. `ISOLATION LEVEL REPEATABLE READ`.
    Begin {
        modes: TransactionModes,
        /// The command tag: the verb as it was written.
        tag: &'static str,
    },
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint {
        name: String,
    },
    Release {
        name: String,
    },
    RollbackTo {
        name: String,
    },
    /// SET [SESSION|LOCAL] name = value, also SET TIME ZONE; `sql` is the statement as the shards take it.
    Set {
        name: String,
        local: bool,
        value: Option<String>,
        sql: String,
    },
    /// SET [SESSION|LOCAL] name FROM CURRENT.
    SetFromCurrent {
        name: String,
        local: bool,
        sql: String,
    },
    /// SELECT set_config(...), ...; gives a row.
    SetConfig {
        items: Vec<ConfigItem>,
        /// It has no effect, and gives no row, if the server knows no setting of this name.
        only_known: Option<String>,
        sql: String,
    },
    Reset {
        name: Option<String>,
        sql: String,
    },
    Show {
        name: String,
        sql: String,
    },
    /// SET TRANSACTION modes.
    SetTransaction {
        modes: TransactionModes,
    },
    /// SET SESSION CHARACTERISTICS AS TRANSACTION modes: the defaults of later transactions, which are settings.
    SetCharacteristics {
        modes: TransactionModes,
    },
    SetConstraints {
        sql: String,
    },
    Discard(Discard),
    /// PREPARE name [(types)] AS statement: the inner text as written.
    Prepare {
        name: String,
        parameter_types: Vec<String>,
        sql: String,
    },
    /// EXECUTE name (arguments as SQL text).
    Execute {
        name: String,
        arguments: Vec<String>,
    },
    /// EXPLAIN EXECUTE: what stands before EXECUTE, and the rest as there.
    ExplainExecute {
        explain: String,
        name: String,
        arguments: Vec<String>,
    },
    Deallocate {
        name: Option<String>,
    },
    Listen {
        channel: String,
        /// The name as it was written, if it was too long.
        written: Option<String>,
    },
    /// None: all.
    Unlisten {
        channel: Option<String>,
    },
    /// SELECT pg_listening_channels(); gives rows.
    ListeningChannels {
        label: String,
    },
}

/// What stands in the select list beside or with calls of set_config. PostgreSQL computes them in their order.
#[derive(Clone, Debug)]
pub enum ConfigItem {
    Set(SetConfig),
    Current(CurrentSetting),
}

/// One call of current_setting, and the name of its column.
#[derive(Clone, Debug)]
pub struct CurrentSetting {
    pub name: SettingArgument,
    /// NULL for a setting that is not known, and no error. PostgreSQL reads the argument.
    pub missing_ok: Option<SettingArgument>,
    pub alias: String,
}

/// One call of set_config, and the name of its column.
#[derive(Clone, Debug)]
pub struct SetConfig {
    pub name: SettingArgument,
    /// NULL: the default.
    pub value: SettingArgument,
    pub local: SettingArgument,
    pub alias: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingArgument {
    /// `None` is NULL.
    Literal(Option<String>),
    /// `$index` (from 0).
    Parameter(usize),
}

/// DISCARD what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    All,
    Plans,
    Sequences,
    Temporary,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransactionModes {
    pub isolation: Option<Isolation>,
    pub read_only: Option<bool>,
    pub deferrable: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

#[derive(Clone, Debug)]
pub enum AdminCommand {
    /// SELECT create_distributed_table('t', 'col' [, colocate_with => 'u']); column name of the single result.
    CreateDistributedTable {
        table: String,
        column: String,
        colocate_with: Option<String>,
    },
    CreateReferenceTable {
        table: String,
    },
    UndistributeTable {
        table: String,
    },
    /// SHOW ringway.shards | ringway.moves | ringway.tables | ringway.ring | ringway.epoch | POOLS | STATS | VERSION ...
    ShowCluster {
        what: String,
    },
    /// SET ringway.shard = 's2' | DEFAULT.
    PinShard {
        name: Option<String>,
    },
}

/// Which shards a statement concerns, before parameters and ring are known.
#[derive(Clone, Debug)]
pub enum Targets {
    /// No rows of ours, or only reference tables' and catalogs': any member; prefer one that the transaction has open.
    AnyOne,
    /// Single tables: the home shard.
    Home,
    /// Held to keys: every execution evaluates them; the shards are the owners of all of them together. An empty list (IN ())
    /// or only NULLs selects no row: any one shard answers.
    Keys(Keys),
    /// Rows everywhere in a keyspace: every shard that owns an arc of it.
    Keyspace(KeyspaceId),
    /// Every member shard (reference-table writes).
    EveryMember,
}

#[derive(Clone, Debug)]
pub struct Keys {
    pub keyspace: KeyspaceId,
    pub values: Vec<KeyExpression>,
}

/// Evaluates to a key without asking a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyExpression {
    /// A literal, already in the column's type. None is NULL.
    Constant(Option<KeyValue>),
    /// `$index` (from 0), cast by PostgreSQL to the key column's type. If the client declares another type for it than one of
    /// the key's family, routing refuses.
    /// `typmod`: the key column's modifier when the value is stored (INSERT), -1 when it is compared; routing refuses a value
    /// that storing would change.
    Parameter { index: usize, key_type: KeyType, typmod: i32 },
    /// `= ANY($index)`: every element of an array.
    ParameterArray { index: usize, key_type: KeyType },
}

/// A statement over rows.
#[derive(Clone, Debug)]
pub struct Query {
    /// As the client sent it (one statement, without its semicolon).
    pub sql: Arc<str>,
    pub access: Access,
    pub targets: Targets,
    /// Sharded tables that it touches anywhere: a statement with any of them is filtered during a move unless it goes to one
    /// shard by its keys.
    pub sharded: Vec<ShardedReference>,
    /// The same references at their places in the text that shards are sent when routing gives more than one
    /// (`Concatenate::sql`, `MergeSort::sql`, `Aggregate::partial_sql`). That text may leave out parameters of the statement:
    /// their types, as described for the original, must be declared.
    pub rewritten: Vec<ShardedReference>,
    /// How it runs when routing gives more than one shard. With exactly one, the text is forwarded verbatim.
    pub multi: MultiShard,
    /// The statement reads or writes a table that is being distributed: it waits for the next epoch.
    pub tables: Vec<TableName>,
    /// SELECT (or RETURNING): the client expects rows.
    pub returns_rows: bool,
    /// It reads the clock: when it runs on several shards, all are given one value ([`super::clock`]).
    pub clock: bool,
    /// A sharded table of its has columns whose values are OIDs ([`super::oid_columns`]).
    pub oid_columns: bool,
    /// It calls functions of the application's, or such as the catalog does not know: planned by the catalog of before, it must
    /// not run in a transaction that has changed the schema.
    pub calls_code: bool,
    /// It reads one row by its primary key ([`super::point_read`]).
    pub point_read: Option<PointRead>,
}

/// Which parameters of a point read may take a literal's place, and mean the same: a bit each, the lowest for `$1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PointRead {
    /// In the place of a whole number.
    pub for_numbers: u64,
    /// In the place of a string.
    pub for_strings: u64,
}

/// One appearance of a sharded table in a statement's text: where the filter on owned arcs is spliced in.
#[derive(Clone, Debug)]
pub struct ShardedReference {
    pub table: TableName,
    pub keyspace: KeyspaceId,
    pub key_column: String,
    pub splice: FilterSplice,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterSplice {
    /// Bytes `start..end` name the table (with its ONLY or *), `alias` is how the statement calls it: replaced by
    /// `(SELECT * FROM <table> WHERE <condition>) AS alias`. `aliased`: an alias follows in the text already.
    Relation { start: usize, end: usize, alias: String, aliased: bool },
    /// Target of UPDATE or DELETE called `alias`: `<condition>` on `alias.key` is added to the WHERE that spans `start..end`
    /// (the expression after WHERE, parenthesised), or, with `start == end`, a WHERE is inserted there.
    Where { start: usize, end: usize, alias: String },
    /// Target of INSERT: never filtered.
    None,
    /// The extent is not exactly known: while a filter is needed the statement is refused.
    Unknown,
}

/// More than one shard. Each variant says what each shard is sent and how the answers become one.
#[derive(Clone, Debug)]
pub enum MultiShard {
    /// Rows of all shards, in any order, each shard asked the same text.
    Concatenate(Concatenate),
    MergeSort(MergeSort),
    Aggregate(Aggregate),
    /// UPDATE or DELETE everywhere in one transaction; counts are added, RETURNING rows concatenated.
    Write,
    /// A reference table's write on every member: one shard's count and RETURNING rows are the answer.
    WriteEverywhere,
    /// Multi-row INSERT: each row goes to its owner.
    InsertSplit(InsertSplit),
    /// INSERT ... SELECT held to keys that several shards own.
    InsertSelect(Box<InsertSelect>),
    /// A query over rows that travel to one shard.
    Gather(Box<Gather>),
    /// Cannot be made exact.
    Refused(Box<PgError>),
}

/// Every fragment's rows come into a temporary table on one shard, the workbench; the statement reads these tables there.
#[derive(Clone, Debug)]
pub struct Gather {
    pub fragments: Vec<Fragment>,
    /// The statement as it is.
    pub sql: Arc<str>,
    /// Where it names sharded tables.
    pub places: Vec<GatheredPlace>,
    /// How many parameters it has.
    pub parameters: usize,
}

#[derive(Clone, Debug)]
pub struct GatheredPlace {
    /// Bytes of the statement.
    pub range: Range<usize>,
    /// Whose rows are read there.
    pub fragment: usize,
    /// ` AS name`, if the statement gives none.
    pub alias: String,
}

#[derive(Clone, Debug)]
pub struct Fragment {
    /// A query of one sharded table, planned by itself. Uses the client's parameters.
    pub sql: Arc<str>,
    /// The same without what it is joined with on its shard: for transactions whose fragments are not read of one snapshot, where a row
    /// could match a row of this moment, and none of those that have travelled before.
    pub alone: Arc<str>,
    /// The same without its condition: its columns.
    pub shape: String,
    pub table: TableName,
    pub columns: Vec<String>,
    /// Columns by which the statement may group instead of all others.
    pub primary_key: Vec<String>,
    /// A condition leaves rows out.
    pub filtered: bool,
    pub limited: Vec<Limited>,
}

impl Fragment {
    /// Which rows it reads; None: all.
    pub fn conditions(&self) -> Option<&str> {
        self.sql.strip_prefix(self.shape.as_str())?.strip_prefix(" WHERE ")
    }
}

/// A fragment's query once the rows of another are there: only rows that match these.
#[derive(Clone, Debug)]
pub struct Limited {
    pub fragment: usize,
    /// Its values are an array, the parameter after the client's.
    pub column: String,
    pub array_type: u32,
    pub sql: Arc<str>,
    /// As [`Fragment::alone`].
    pub alone: Arc<str>,
}

#[derive(Clone, Debug)]
pub struct Concatenate {
    /// What each shard is sent, if it differs from the statement (LIMIT + OFFSET pushed down as their sum).
    pub sql: Option<Arc<str>>,
    pub limit: LimitOffset,
}

#[derive(Clone, Debug, Default)]
pub struct LimitOffset {
    pub limit: Option<CountExpression>,
    pub offset: Option<CountExpression>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CountExpression {
    Constant(u64),
    /// `$index` (from 0), an int8; NULL means none.
    Parameter {
        index: usize,
    },
}

/// Rows arrive sorted from each shard and are merged with bounded memory.
#[derive(Clone, Debug)]
pub struct MergeSort {
    /// What each shard is sent: ORDER BY kept, LIMIT/OFFSET as their sum, sort columns that are not in the output appended.
    pub sql: Arc<str>,
    pub order: Vec<SortKey>,
    /// Columns appended to the output for sorting only, at its end: cut off before the client sees a row.
    pub hidden_columns: usize,
    pub limit: LimitOffset,
    /// SELECT DISTINCT, or DISTINCT ON (first n sort keys): equal neighbours are dropped. None otherwise.
    pub distinct: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortKey {
    /// Index into the shard's row.
    pub column: usize,
    pub descending: bool,
    pub nulls_first: bool,
}

/// Partials on the shards, then a combine step by PostgreSQL itself on one shard:
/// `combine_sql` selects from `unnest($1::type[], ...) AS p(c0, c1, ...)`, one array parameter per column of the partial.
#[derive(Clone, Debug)]
pub struct Aggregate {
    /// What each shard is sent; its rows are the partials.
    pub partial_sql: Arc<str>,
    /// The final statement. In it `{partials}` stands for the FROM item; `p.c0`, `p.c1`, ... are the partial's columns.
    /// Parameters of the client's statement that it uses (HAVING, LIMIT) are renumbered by `combine_parameters`.
    pub combine_sql: Arc<str>,
    /// For `$n` of the combine statement, in order: the index of the client's parameter. The arrays of the partials follow.
    pub combine_parameters: Vec<usize>,
    pub partial_columns: usize,
}

#[derive(Clone, Debug)]
pub struct InsertSplit {
    /// Text before the first row of VALUES and after the last one, as byte ranges of the statement.
    pub head_end: usize,
    pub tail_start: usize,
    /// Byte range of each row `( ... )` and its key.
    pub rows: Vec<InsertRow>,
}

#[derive(Clone, Debug)]
pub struct InsertRow {
    pub start: usize,
    pub end: usize,
    pub key: KeyExpression,
}

/// The query's rows are read whole; then each owner is sent `head`, a SELECT of its rows, and `tail`.
#[derive(Clone, Debug)]
pub struct InsertSelect {
    pub sql: Arc<str>,
    /// The query with the statement's WITH: planned by itself. Uses the client's parameters.
    pub select_sql: Arc<str>,
    /// `INSERT INTO ... ` up to the query.
    pub head: String,
    /// ON CONFLICT and RETURNING.
    pub tail: String,
    /// `head` or `tail` reads the clock.
    pub clock: bool,
    pub returns_rows: bool,
    pub calls_code: bool,
    /// See [`Query::tables`].
    pub tables: Vec<TableName>,
    pub table: TableName,
    pub keyspace: KeyspaceId,
    /// Names and types of the columns that are given, in their order. The query may give fewer.
    pub columns: Vec<(String, u32)>,
    /// Of the key among them.
    pub key_position: usize,
    pub key_type: KeyType,
    /// The key column's modifier.
    pub typmod: i32,
}

/// Every place in `sql` gets a parameter, after the client's own, whose value is that row of `keys_sql`; then it is planned again.
#[derive(Clone, Debug)]
pub struct ComputedKeys {
    pub sql: Arc<str>,
    /// One row with one column per key, of the key's type. Uses the client's parameters.
    pub keys_sql: Arc<str>,
    pub key_type: KeyType,
    /// The key column's modifier.
    pub typmod: i32,
    pub places: Vec<KeyPlace>,
    /// What else changes in `sql`: the key's column is listed.
    pub splices: Vec<Splice>,
}

#[derive(Clone, Debug)]
pub struct KeyPlace {
    /// Bytes of the statement that the parameter replaces.
    pub range: Range<usize>,
    pub before: String,
    pub after: &'static str,
}

#[derive(Clone, Debug)]
pub struct Ddl {
    pub sql: Arc<str>,
    /// Command tag on success comes from the shards.
    pub kind: DdlKind,
    /// Tables that it names, resolved where they exist: refused while a keyspace of theirs is moving.
    pub tables: Vec<TableName>,
    /// It makes a view, or a rule, of tables that are on several shards.
    pub hides_shards: bool,
}

impl Ddl {
    /// LOCK TABLE, which PostgreSQL runs in transaction blocks only.
    pub fn locks(&self) -> bool {
        self.sql.split_whitespace().next().is_some_and(|word| word.eq_ignore_ascii_case("lock"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DdlKind {
    /// One transaction over all members.
    Transactional,
    /// Cannot run in a transaction (CREATE INDEX CONCURRENTLY, VACUUM, ...): shard by shard.
    ShardByShard,
    /// CREATE TEMPORARY TABLE and the like: pins the session to one shard.
    Temporary,
}

#[derive(Clone, Debug)]
pub struct CopyIn {
    pub sql: Arc<str>,
    pub table: TableName,
    pub destination: CopyDestination,
    pub format: CopyFormat,
    /// A query of the columns that are copied: their types.
    pub columns_sql: Arc<str>,
}

#[derive(Clone, Debug)]
pub enum CopyDestination {
    /// Index of the key among the columns that are copied, and how many there are.
    Sharded {
        keyspace: KeyspaceId,
        key_position: usize,
        columns: usize,
        key_type: KeyType,
    },
    EveryMember,
    Home,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyFormat {
    Text { delimiter: u8, null: String },
    Csv { delimiter: u8, quote: u8, escape: u8, null: String, header: bool },
    Binary,
}

#[derive(Clone, Debug)]
pub struct CopyOut {
    pub sql: Arc<str>,
    pub targets: Targets,
    pub sharded: Vec<ShardedReference>,
    pub format: CopyFormat,
    /// A query of the columns that are copied: their types.
    pub columns_sql: Arc<str>,
    pub multi: CopyMulti,
}

/// COPY TO over more than one shard.
#[derive(Clone, Debug)]
pub enum CopyMulti {
    /// Each shard's rows as they come.
    Concatenate,
    /// The query's rows come together: the place of the query in the statement.
    Gather(Box<Query>, Range<usize>),
    /// Cannot be made exact.
    Refused(Box<PgError>),
}

#[derive(Clone, Debug)]
pub struct Explain {
    /// As a shard takes it.
    pub sql: Arc<str>,
    pub options: super::explain::Options,
    pub inner: Box<Plan>,
    /// The explained statement's text.
    pub inner_sql: Arc<str>,
}

/// DECLARE ... CURSOR FOR a query over sharded tables that only reads.
#[derive(Clone, Debug)]
pub struct Cursor {
    pub sql: Arc<str>,
    pub options: super::cursor::Options,
    /// Its places in the text count from where it begins.
    pub query: Box<Query>,
    /// It reads backwards though it was declared neither SCROLL nor NO SCROLL.
    pub scrolls_by_default: bool,
}

#[derive(Clone, Debug)]
pub struct Home {
    pub sql: Arc<str>,
    /// The connection must stay with the session (cursors WITH HOLD, ...).
    pub pins: bool,
}

impl Home {
    /// NOTIFY: it commits, or not, with the rest of a pipeline.
    pub fn notifies(&self) -> bool {
        self.sql.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("notify"))
    }
}
