//! Tables, columns, literals and conditions.

use super::Maker;
use crate::fixture::{COUNTRIES, CUSTOMERS, PRODUCTS, SLUGS, STATUSES, TENANTS};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tenant,
    Small,
    Money,
    Float,
    Word(&'static [&'static str]),
    Bool,
    Date,
    Timestamp,
}

pub struct Table {
    pub name: &'static str,
    pub key: &'static str,
    pub primary_key: &'static [&'static str],
    pub columns: &'static [(&'static str, Kind)],
}

pub const TENANT_TABLE: Table = Table {
    name: "tenants",
    key: "id",
    primary_key: &["id"],
    columns: &[
        ("id", Kind::Tenant),
        ("name", Kind::Word(&["Tenant 0", "Tenant 3", "Tenant 6", "Z"])),
        ("country", Kind::Word(&COUNTRIES)),
        ("plan", Kind::Word(&["free", "pro", "Pro", "team"])),
        ("credit", Kind::Money),
    ],
};

pub const CUSTOMER_TABLE: Table = Table {
    name: "customers",
    key: "tenant_id",
    primary_key: &["tenant_id", "id"],
    columns: &[
        ("tenant_id", Kind::Tenant),
        ("id", Kind::Small),
        ("name", Kind::Word(&["Ada", "ada", "Bob", "Çelik", ""])),
        ("email", Kind::Word(&["c1@t1.example", "c2@t5.example", "m"])),
        ("born", Kind::Date),
        ("score", Kind::Float),
        ("vip", Kind::Bool),
    ],
};

pub const ORDER_TABLE: Table = Table {
    name: "orders",
    key: "tenant_id",
    primary_key: &["tenant_id", "id"],
    columns: &[
        ("tenant_id", Kind::Tenant),
        ("id", Kind::Small),
        ("customer_id", Kind::Small),
        ("status", Kind::Word(&STATUSES)),
        ("total", Kind::Money),
        ("placed_at", Kind::Timestamp),
        ("note", Kind::Word(&["a", "B", "ä", "", "10"])),
    ],
};

pub const ITEM_TABLE: Table = Table {
    name: "order_items",
    key: "tenant_id",
    primary_key: &["tenant_id", "order_id", "line"],
    columns: &[
        ("tenant_id", Kind::Tenant),
        ("order_id", Kind::Small),
        ("line", Kind::Small),
        ("product", Kind::Word(&PRODUCTS)),
        ("quantity", Kind::Small),
        ("price", Kind::Money),
    ],
};

pub const DOCUMENT_TABLE: Table = Table {
    name: "documents",
    key: "slug",
    primary_key: &["slug"],
    columns: &[
        ("slug", Kind::Word(&SLUGS)),
        ("body", Kind::Word(&["body 0", "body 1", "body 2"])),
        ("size", Kind::Small),
    ],
};

pub const SHARDED: &[&Table] = &[&TENANT_TABLE, &CUSTOMER_TABLE, &ORDER_TABLE, &ITEM_TABLE, &DOCUMENT_TABLE];

pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Maker {
    pub fn table(&mut self) -> &'static Table {
        self.pick(SHARDED)
    }

    /// Mostly one that exists.
    pub fn tenant(&mut self) -> i64 {
        self.number(1..TENANTS + 3)
    }

    pub fn literal(&mut self, kind: Kind) -> String {
        match kind {
            Kind::Tenant => self.tenant().to_string(),
            Kind::Small => self.number(0..CUSTOMERS * 3).to_string(),
            Kind::Money => format!("{}.{}", self.number(-20..900), self.number(0..100)),
            Kind::Float => format!("{}", self.number(-10..400) as f64 / 4.0),
            Kind::Word(words) => quoted(self.pick(words)),
            Kind::Bool => self.chance(0.5).to_string(),
            Kind::Date => format!("'{}-06-01'", self.number(1950..2005)),
            Kind::Timestamp => format!("'2024-0{}-11 10:00:00'", self.number(1..10)),
        }
    }

    /// Holds the statement to one shard key.
    pub fn key_condition(&mut self, table: &Table, alias: &str) -> String {
        let key = format!("{alias}{}", table.key);
        let (name, kind) = table.columns[0];
        debug_assert_eq!(name, table.key);
        let value = self.literal(kind);
        match self.number(0..6) {
            0 => format!("{value} = {key}"),
            1 => format!("({key} = {value})"),
            2 if kind == Kind::Tenant => format!("{key} = {value}::bigint"),
            _ => format!("{key} = {value}"),
        }
    }

    pub fn condition(&mut self, table: &Table, alias: &str) -> String {
        let (column, kind) = table.columns[self.number(0..table.columns.len() as i64) as usize];
        let column = format!("{alias}{column}");
        let value = self.literal(kind);
        match self.number(0..12) {
            0 => format!("{column} IS NULL"),
            1 => format!("{column} IS NOT NULL"),
            2 => format!("{column} <> {value}"),
            3 => format!("{column} IN ({value}, {}, {})", self.literal(kind), self.literal(kind)),
            4 if kind != Kind::Bool => format!("{column} BETWEEN {value} AND {}", self.literal(kind)),
            5 => format!("NOT ({column} = {value} OR {})", self.condition(table, alias)),
            6 => format!("({column} >= {value} AND {})", self.condition(table, alias)),
            7 if matches!(kind, Kind::Word(_)) => format!("{column} LIKE '%{}%'", self.pick(&["a", "e", "n", "_"])),
            8 => format!("coalesce({column}, {value}) = {value}"),
            9 => format!("{column} IS DISTINCT FROM {value}"),
            10 => format!("({column} < {value} OR {})", self.condition(table, alias)),
            _ => format!("{column} > {value}"),
        }
    }

    /** A select list of columns and expressions of them; never volatile. */
    pub fn select_list(&mut self, table: &Table, alias: &str) -> String {
        if alias.is_empty() && self.chance(0.1) {
            return "*".to_owned();
        }
        let count = self.number(1..5);
        let items: Vec<String> = (0..count).map(|index| self.expression(table, alias, index)).collect();
        items.join(", ")
    }

    fn expression(&mut self, table: &Table, alias: &str, index: i64) -> String {
        let (column, kind) = table.columns[self.number(0..table.columns.len() as i64) as usize];
        let column = format!("{alias}{column}");
        let expression = match (self.number(0..8), kind) {
            (0, Kind::Word(_)) => format!("upper({column})"),
            (1, Kind::Word(_)) => format!("{column} || '!'"),
            (0, Kind::Money) => format!("round({column} / 3, 4)"),
            (1, Kind::Money | Kind::Small) => format!("{column} * 2 + 1"),
            (0, Kind::Date) => format!("extract(year FROM {column})"),
            (1, Kind::Timestamp) => format!("date_trunc('month', {column})"),
            (2, _) => format!("CASE WHEN {} THEN {column} END", self.condition(table, alias)),
            (3, _) => format!("{column} IS NULL"),
            (4, _) => format!("coalesce({column}::text, '-')"),
            _ => column,
        };
        match self.chance(0.3) {
            true => format!("{expression} AS x{index}"),
            false => expression,
        }
    }
}
