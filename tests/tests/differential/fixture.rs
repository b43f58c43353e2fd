//! The shop that the statements are about, on one PostgreSQL and on the gateway: small, with NULLs, ties and odd strings.

use anyhow::{ensure, Result};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// The same on both.
pub const SCHEMA: &[&str] = &[
    "CREATE TABLE countries (code text PRIMARY KEY, name text NOT NULL, vat numeric(5,2), eu boolean NOT NULL, founded date)",
    "CREATE TABLE tenants (
        id bigint PRIMARY KEY,
        name text NOT NULL,
        country text REFERENCES countries,
        plan text NOT NULL DEFAULT 'free',
        credit numeric(12,2) NOT NULL DEFAULT 0 CHECK (credit >= -1000),
        created_at timestamptz NOT NULL DEFAULT '2024-01-01 00:00:00+00',
        attributes jsonb)",
    "CREATE TABLE customers (
        tenant_id bigint NOT NULL REFERENCES tenants,
        id integer NOT NULL,
        name text NOT NULL,
        email text,
        born date,
        score double precision,
        vip boolean,
        PRIMARY KEY (tenant_id, id),
        UNIQUE (tenant_id, email))",
    "CREATE TABLE orders (
        tenant_id bigint NOT NULL,
        id bigint NOT NULL,
        customer_id integer NOT NULL,
        status text NOT NULL DEFAULT 'new',
        total numeric(12,2),
        placed_at timestamp,
        note text,
        tags text[],
        ref uuid,
        PRIMARY KEY (tenant_id, id),
        FOREIGN KEY (tenant_id, customer_id) REFERENCES customers ON DELETE CASCADE)",
    "CREATE TABLE order_items (
        tenant_id bigint NOT NULL,
        order_id bigint NOT NULL,
        line smallint NOT NULL,
        product text NOT NULL,
        quantity integer NOT NULL CHECK (quantity > 0),
        price numeric(10,2) NOT NULL,
        PRIMARY KEY (tenant_id, order_id, line),
        FOREIGN KEY (tenant_id, order_id) REFERENCES orders ON DELETE CASCADE)",
    "CREATE TABLE documents (slug text PRIMARY KEY, body text, size integer, data bytea)",
    "CREATE TABLE settings (name text PRIMARY KEY, value text, number integer)",
];

/// Through the gateway only. `settings` stays single; `documents` is a keyspace of its own.
pub const DISTRIBUTION: &[&str] = &[
    "SELECT create_reference_table('countries')",
    "SELECT create_distributed_table('tenants', 'id')",
    "SELECT create_distributed_table('customers', 'tenant_id', colocate_with => 'tenants')",
    "SELECT create_distributed_table('orders', 'tenant_id', colocate_with => 'tenants')",
    "SELECT create_distributed_table('order_items', 'tenant_id', colocate_with => 'tenants')",
    "SELECT create_distributed_table('documents', 'slug')",
];

/// What makes a plain PostgreSQL accept [`DISTRIBUTION`].
pub const NO_DISTRIBUTION: &[&str] = &[
    "CREATE FUNCTION create_reference_table(text) RETURNS void LANGUAGE SQL AS ''",
    "CREATE FUNCTION create_distributed_table(text, text, colocate_with text DEFAULT '') RETURNS void LANGUAGE SQL AS ''",
];

/// Every table and its primary key, referenced tables first.
pub const TABLES: &[(&str, &str)] = &[
    ("countries", "code"),
    ("tenants", "id"),
    ("customers", "tenant_id, id"),
    ("orders", "tenant_id, id"),
    ("order_items", "tenant_id, order_id, line"),
    ("documents", "slug"),
    ("settings", "name"),
];

/// Those that are sharded, and their keys.
pub const SHARDED_TABLES: &[(&str, &str)] = &[
    ("tenants", "id"),
    ("customers", "tenant_id"),
    ("orders", "tenant_id"),
    ("order_items", "tenant_id"),
    ("documents", "slug"),
];
pub const REFERENCE_TABLES: &[&str] = &["countries"];

pub const TENANTS: i64 = 12;
pub const CUSTOMERS: i64 = 4;
pub const STATUSES: [&str; 4] = ["new", "paid", "sent", "returned"];
pub const PRODUCTS: [&str; 5] = ["apple", "Apple", "pear", "über-pear", "zebra"];
pub const COUNTRIES: [&str; 5] = ["AT", "CH", "DE", "FR", "JP"];
pub const SLUGS: [&str; 8] = ["", "a", "about", "Zoo", "straße", "日本", "it's", "x y"];

/// Statements that fill all tables, with the same values each time.
pub fn load() -> Result<Vec<String>> {
    let mut random = StdRng::seed_from_u64(42);
    let mut statements = Vec::new();
    statements.push(
        "INSERT INTO countries VALUES ('AT', 'Österreich', 20, true, '1918-11-12'), ('CH', 'Schweiz', 8.1, false, NULL), \
         ('DE', 'Deutschland', 19, true, '1949-05-23'), ('FR', 'France', 20.00, true, '0843-08-10'), \
         ('JP', '日本', NULL, false, '0660-02-11 BC')"
            .to_owned(),
    );
    let rows = (1..=TENANTS).map(|id| {
        let country = match id % 6 {
            5 => "NULL".to_owned(),
            index => format!("'{}'", COUNTRIES[index as usize]),
        };
        let plan = ["free", "pro", "Pro", "team"][(id % 4) as usize];
        let credit = random.random_range(-900..5_000) as f64 / 4.0;
        let attributes = match id % 3 {
            0 => "NULL".to_owned(),
            rest => format!("'{{\"tier\": {rest}, \"tags\": [\"a\", \"ü{id}\"]}}'"),
        };
        format!(
            "({id}, 'Tenant {}', {country}, '{plan}', {credit}, '2024-01-{id:02} 1{}:30:00+00', {attributes})",
            id % 7,
            id % 10
        )
    });
    statements.push(insert("tenants", rows));
    let mut random = StdRng::seed_from_u64(43);
    let mut customers = Vec::new();
    let mut orders = Vec::new();
    let mut items = Vec::new();
    for tenant in 1..=TENANTS {
        for customer in 1..=CUSTOMERS {
            let email = nullable(&mut random, 0.25, |_| format!("'c{customer}@t{tenant}.example'"));
            let born = nullable(&mut random, 0.2, |random| {
                format!("'{}-{:02}-15'", random.random_range(1950..2005), random.random_range(1..=12))
            });
            let score =
                nullable(&mut random, 0.2, |random| format!("{}", f64::from(random.random_range(-40..400)) / 4.0));
            let vip = nullable(&mut random, 0.2, |random| random.random::<bool>().to_string());
            let name = ["Ada", "ada", "Bob", "Çelik", "", "de la Cruz"][random.random_range(0..6)];
            customers.push(format!("({tenant}, {customer}, '{name}', {email}, {born}, {score}, {vip})"));
        }
        for order in 1..=random.random_range(5..15i64) {
            let status = STATUSES[random.random_range(0..4)];
            let total = nullable(&mut random, 0.15, |random| {
                format!("{}.{:02}", random.random_range(-50..999), random.random_range(0..100))
            });
            let placed = nullable(&mut random, 0.15, |random| {
                format!(
                    "'2024-0{}-{:02} {:02}:00:00.{}'",
                    random.random_range(1..10),
                    random.random_range(1..29),
                    random.random_range(0..24),
                    random.random_range(0..999)
                )
            });
            let note = nullable(&mut random, 0.4, |random| {
                format!("'{}'", ["a", "B", "b", "ä", "", " ", "10", "9"][random.random_range(0..8)])
            });
            let tags = nullable(&mut random, 0.4, |random| {
                ["'{}'", "'{x}'", "'{x,\"y z\"}'", "'{NULL,q}'"][random.random_range(0..4)].to_owned()
            });
            let reference = nullable(&mut random, 0.4, |random| {
                format!("'{:08x}-0000-4000-8000-000000000000'", random.random::<u32>())
            });
            let customer = random.random_range(1..=CUSTOMERS);
            orders.push(format!(
                "({tenant}, {order}, {customer}, '{status}', {total}, {placed}, {note}, {tags}, {reference})"
            ));
            for line in 1..=random.random_range(0..4) {
                let product = PRODUCTS[random.random_range(0..PRODUCTS.len())];
                items.push(format!(
                    "({tenant}, {order}, {line}, '{product}', {}, {}.{:02})",
                    random.random_range(1..9),
                    random.random_range(0..200),
                    random.random_range(0..100)
                ));
            }
        }
    }
    for (table, rows) in [("customers", customers), ("orders", orders), ("order_items", items)] {
        ensure!(!rows.is_empty());
        statements.push(insert(table, rows.into_iter()));
    }
    statements.push(insert(
        "documents",
        SLUGS.iter().enumerate().map(|(index, slug)| {
            format!("('{}', 'body {}', {}, '\\x{index:02x}ff')", slug.replace('\'', "''"), index % 3, index * 10)
        }),
    ));
    statements.push(insert(
        "settings",
        (1..=6).map(|n| {
            format!("('setting{n}', {}, {})", if n == 3 { "NULL".into() } else { format!("'{}'", n % 2) }, n * n)
        }),
    ));
    Ok(statements)
}

fn nullable(random: &mut StdRng, nulls: f64, value: impl FnOnce(&mut StdRng) -> String) -> String {
    if random.random_bool(nulls) {
        "NULL".to_owned()
    } else {
        value(random)
    }
}

fn insert(table: &str, rows: impl Iterator<Item = String>) -> String {
    format!("INSERT INTO {table} VALUES {}", rows.collect::<Vec<_>>().join(", "))
}
