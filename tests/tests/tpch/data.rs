//! Rows for the schema, the same each time: small, and chosen so that every query finds some.

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const SEED: u64 = 19_920_101;
const SUPPLIERS: i32 = 40;
const CUSTOMERS: i32 = 150;
const PARTS: i32 = 120;
const ORDERS: i32 = 600;
const SUPPLIERS_OF_A_PART: i32 = 4;
const LINES_MAX: i32 = 7;
/// Every so many-th order is large.
const LARGE_ORDERS: i32 = 15;
/// Every so many-th customer has no orders.
const IDLE_CUSTOMERS: i32 = 3;
/// Days from 1992-01-01 to the last order's date.
const ORDER_DAYS: i32 = 2400;
/// What was received by then is no longer open: 1995-06-17, in days from 1992-01-01.
const TODAY: i32 = 1263;

const REGIONS: [&str; 5] = ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"];
/// Names and regions.
const NATIONS: [(&str, usize); 25] = [
    ("ALGERIA", 0),
    ("ARGENTINA", 1),
    ("BRAZIL", 1),
    ("CANADA", 1),
    ("EGYPT", 4),
    ("ETHIOPIA", 0),
    ("FRANCE", 3),
    ("GERMANY", 3),
    ("INDIA", 2),
    ("INDONESIA", 2),
    ("IRAN", 4),
    ("IRAQ", 4),
    ("JAPAN", 2),
    ("JORDAN", 4),
    ("KENYA", 0),
    ("MOROCCO", 0),
    ("MOZAMBIQUE", 0),
    ("PERU", 1),
    ("CHINA", 2),
    ("ROMANIA", 3),
    ("SAUDI ARABIA", 4),
    ("VIETNAM", 2),
    ("RUSSIA", 3),
    ("UNITED KINGDOM", 3),
    ("UNITED STATES", 1),
];
/// Those that queries name, and more of their regions.
const FREQUENT_NATIONS: [usize; 8] = [2, 3, 6, 7, 8, 18, 20, 13];
const SEGMENTS: [&str; 5] = ["AUTOMOBILE", "BUILDING", "FURNITURE", "MACHINERY", "HOUSEHOLD"];
const COLORS: [&str; 8] = ["forest", "green", "almond", "blue", "ivory", "rose", "forest", "green"];
const BRANDS: [u8; 5] = [12, 23, 34, 45, 51];
const TYPES: [&str; 8] = [
    "ECONOMY ANODIZED STEEL",
    "PROMO BURNISHED COPPER",
    "LARGE BRUSHED BRASS",
    "STANDARD PLATED BRASS",
    "MEDIUM POLISHED TIN",
    "SMALL PLATED NICKEL",
    "PROMO POLISHED BRASS",
    "ECONOMY ANODIZED STEEL",
];
const SIZES: [i32; 10] = [15, 49, 14, 23, 3, 9, 3, 1, 5, 15];
const CONTAINERS: [&str; 8] = ["SM CASE", "SM BOX", "MED BAG", "MED BOX", "LG CASE", "LG PACK", "MED BOX", "JUMBO JAR"];
const PRIORITIES: [&str; 5] = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"];
const INSTRUCTIONS: [&str; 3] = ["DELIVER IN PERSON", "COLLECT COD", "DELIVER IN PERSON"];
const MODES: [&str; 6] = ["AIR", "AIR REG", "MAIL", "SHIP", "RAIL", "AIR"];
const COMMENTS: [&str; 4] =
    ["quickly final", "the special bold requests wake", "Customer is full of Complaints", "it's even"];

fn one<'a, T>(random: &mut StdRng, of: &'a [T]) -> &'a T {
    &of[random.random_range(0..of.len())]
}

fn money(random: &mut StdRng, cents: std::ops::Range<i32>) -> String {
    let cents = random.random_range(cents);
    format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100)
}

fn nation(random: &mut StdRng) -> usize {
    if random.random_bool(0.8) {
        *one(random, &FREQUENT_NATIONS)
    } else {
        random.random_range(0..NATIONS.len())
    }
}

fn phone(random: &mut StdRng, nation: usize) -> String {
    format!(
        "{}-{:03}-{:03}-{:04}",
        nation + 10,
        random.random_range(100..1000),
        nation * 7,
        random.random_range(0..9999)
    )
}

fn comment(random: &mut StdRng) -> String {
    one(random, &COMMENTS).replace('\'', "''")
}

fn day(days: i32) -> String {
    format!("date '1992-01-01' + {days}")
}

/// Statements that fill all tables.
pub fn load() -> Vec<String> {
    let mut random = StdRng::seed_from_u64(SEED);
    let regions = REGIONS.iter().enumerate().map(|(key, name)| format!("{key}, '{name}', NULL"));
    let nations = NATIONS.iter().enumerate().map(|(key, (name, region))| format!("{key}, '{name}', {region}, NULL"));
    let mut statements = vec![insert("region", regions), insert("nation", nations)];
    statements.push(insert("supplier", (1..=SUPPLIERS).map(|key| supplier(&mut random, key))));
    statements.push(insert("customer", (1..=CUSTOMERS).map(|key| customer(&mut random, key))));
    statements.push(insert("part", (1..=PARTS).map(|key| part(&mut random, key))));
    let supplied = (1..=PARTS).flat_map(|part| (0..SUPPLIERS_OF_A_PART).map(move |nth| (part, supplier_of(part, nth))));
    statements.push(insert("partsupp", supplied.map(|(part, supplier)| part_supplier(&mut random, part, supplier))));
    let (mut orders, mut lines) = (Vec::new(), Vec::new());
    for key in 1..=ORDERS {
        order(&mut random, key, &mut orders, &mut lines);
    }
    statements.push(insert("orders", orders.into_iter()));
    statements.push(insert("lineitem", lines.into_iter()));
    statements
}

fn insert(table: &str, rows: impl Iterator<Item = String>) -> String {
    let rows: Vec<String> = rows.map(|row| format!("({row})")).collect();
    format!("INSERT INTO {table} VALUES {}", rows.join(", "))
}

fn supplier(random: &mut StdRng, key: i32) -> String {
    let nation = nation(random);
    let (balance, phone, comment) = (money(random, -99_999..999_999), phone(random, nation), comment(random));
    format!("{key}, 'Supplier#{key:09}', 'street {key}', {nation}, '{phone}', {balance}, '{comment}'")
}

fn customer(random: &mut StdRng, key: i32) -> String {
    let nation = nation(random);
    let (balance, phone, comment) = (money(random, -99_999..999_999), phone(random, nation), comment(random));
    let segment = one(random, &SEGMENTS);
    format!("{key}, 'Customer#{key:09}', 'lane {key}', {nation}, '{phone}', {balance}, '{segment}', '{comment}'")
}

fn part(random: &mut StdRng, key: i32) -> String {
    let name = format!("{} {}", one(random, &COLORS), one(random, &COLORS));
    let (brand, kind, size) = (one(random, &BRANDS), one(random, &TYPES), one(random, &SIZES));
    let (container, price) = (one(random, &CONTAINERS), money(random, 90_000..200_000));
    format!(
        "{key}, '{name}', 'Manufacturer#{}', 'Brand#{brand}', '{kind}', {size}, '{container}', {price}, ''",
        brand / 10
    )
}

fn supplier_of(part: i32, nth: i32) -> i32 {
    (part + nth * (SUPPLIERS / SUPPLIERS_OF_A_PART)) % SUPPLIERS + 1
}

fn part_supplier(random: &mut StdRng, part: i32, supplier: i32) -> String {
    let (quantity, cost, comment) = (random.random_range(1..10_000), money(random, 100..100_000), comment(random));
    format!("{part}, {supplier}, {quantity}, {cost}, '{comment}'")
}

fn order(random: &mut StdRng, key: i32, orders: &mut Vec<String>, lines: &mut Vec<String>) {
    let mut customer = random.random_range(1..=CUSTOMERS);
    if customer % IDLE_CUSTOMERS == 0 {
        customer -= 1;
    }
    let date = random.random_range(0..ORDER_DAYS);
    let large = key % LARGE_ORDERS == 0;
    let count = if large { LINES_MAX } else { random.random_range(1..=LINES_MAX) };
    let mut open = 0;
    for number in 1..=count {
        let part = random.random_range(1..=PARTS);
        let supplier = supplier_of(part, random.random_range(0..SUPPLIERS_OF_A_PART));
        let quantity = if large { random.random_range(44..=50) } else { random.random_range(1..=50) };
        let shipped = date + random.random_range(1..=121);
        let committed = date + random.random_range(30..=90);
        let received = shipped + random.random_range(1..=30);
        let flag = match received <= TODAY {
            true => *one(random, &["R", "A"]),
            false => "N",
        };
        let is_open = shipped > TODAY;
        open += i32::from(is_open);
        lines.push(format!(
            "{key}, {part}, {supplier}, {number}, {quantity}, {}, 0.{:02}, 0.{:02}, '{flag}', '{}', {}, {}, {}, '{}', '{}', '{}'",
            money(random, 90_000..9_000_000),
            random.random_range(0..=10),
            random.random_range(0..=8),
            if is_open { "O" } else { "F" },
            day(shipped),
            day(committed),
            day(received),
            one(random, &INSTRUCTIONS),
            one(random, &MODES),
            comment(random)
        ));
    }
    let status = match open {
        0 => "F",
        open if open == count => "O",
        _ => "P",
    };
    orders.push(format!(
        "{key}, {customer}, '{status}', {}, {}, '{}', 'Clerk#{:09}', 0, '{}'",
        money(random, 100_000..50_000_000),
        day(date),
        one(random, &PRIORITIES),
        key % 10,
        comment(random)
    ));
}
