//! Writing statements and transactions.

use super::terms::{quoted, CUSTOMER_TABLE, ITEM_TABLE, ORDER_TABLE};
use super::Maker;
use crate::case::Case;
use crate::case::Expectation::{Equal, Hard, Plain};
use crate::fixture::{CUSTOMERS, PRODUCTS, STATUSES, TENANTS};

impl Maker {
    fn known_tenant(&mut self) -> i64 {
        self.number(1..TENANTS + 1)
    }

    fn customer_row(&mut self) -> String {
        let (tenant, id) = (self.known_tenant(), self.fresh_id());
        let score = if self.chance(0.3) { "NULL".to_owned() } else { format!("{}.25", self.number(-9..99)) };
        format!("({tenant}, {id}, 'Customer {id}', {score})")
    }

    pub fn insert(&mut self) -> Case {
        let returning = self.pick(&["", "", " RETURNING *", " RETURNING id, upper(name) AS u"]);
        match self.number(0..10) {
            0 => {
                // A key that is taken: none of the rows must come in.
                let (row, tenant) = (self.customer_row(), self.known_tenant());
                Case::new(
                    Equal,
                    format!(
                        "INSERT INTO customers (tenant_id, id, name, score) VALUES {row}, ({tenant}, 1, 'taken', 1)"
                    ),
                )
            }
            1 => {
                let (tenant, other) = (self.known_tenant(), self.known_tenant());
                let id = self.fresh_id();
                Case::new(
                    Equal,
                    format!(
                        "INSERT INTO customers (tenant_id, id, name) VALUES ({tenant}, 1, 'old'), ({other}, {id}, 'new') \
                         ON CONFLICT (tenant_id, id) DO UPDATE SET name = customers.name || '+' || excluded.name{returning}"
                    ),
                )
            }
            2 => {
                let (tenant, other) = (self.known_tenant(), self.known_tenant());
                let id = self.fresh_id();
                Case::new(
                    Equal,
                    format!(
                        "INSERT INTO customers (tenant_id, id, name) VALUES ({tenant}, 2, 'old'), ({other}, {id}, 'new') \
                         ON CONFLICT DO NOTHING{returning}"
                    ),
                )
            }
            3 => {
                let tenant = TENANTS + 50 + self.number(0..9);
                Case::new(
                    Equal,
                    format!("INSERT INTO customers (tenant_id, id, name) VALUES ({tenant}, 1, 'no such tenant')"),
                )
            }
            4 => {
                let (tenant, source) = (self.known_tenant(), self.known_tenant());
                let offset = self.fresh_id() * 100;
                Case::new(
                    if tenant == source { Equal } else { Hard },
                    format!(
                        "INSERT INTO orders (tenant_id, id, customer_id, status) SELECT {tenant}, id + {offset}, 1, status \
                         FROM orders WHERE tenant_id = {source} AND id < 20"
                    ),
                )
            }
            5 => {
                let offset = self.fresh_id() * 100;
                Case::new(
                    Hard,
                    format!(
                        "INSERT INTO orders (tenant_id, id, customer_id) SELECT tenant_id, id + {offset}, id FROM customers \
                         WHERE id <= {CUSTOMERS}"
                    ),
                )
            }
            6 => {
                let slug = quoted(&format!("it''s {}", self.fresh_id()));
                Case::new(
                    Equal,
                    format!("INSERT INTO documents (slug, size) VALUES ({slug}, 7) RETURNING slug, size + 1"),
                )
            }
            _ => {
                let rows: Vec<String> = (0..self.number(1..6)).map(|_| self.customer_row()).collect();
                Case::new(
                    Equal,
                    format!("INSERT INTO customers (tenant_id, id, name, score) VALUES {}{returning}", rows.join(", ")),
                )
            }
        }
    }

    pub fn change(&mut self) -> Case {
        let tenant = self.tenant();
        let id = self.number(1..9);
        let status = quoted(self.pick(&STATUSES));
        let order = self.condition(&ORDER_TABLE, "");
        let returning = self.pick(&["", "", " RETURNING tenant_id, id, status, total"]);
        match self.number(0..14) {
            0 | 1 => Case::new(
                Equal,
                format!("UPDATE orders SET status = {status} WHERE tenant_id = {tenant} AND id = {id}{returning}"),
            ),
            2 | 3 => Case::new(
                Equal,
                format!(
                    "UPDATE orders SET total = coalesce(total, 0) + 1.50, status = {status} WHERE {order}{returning}"
                ),
            ),
            4 => Case::new(
                Equal,
                format!(
                    "UPDATE customers SET score = score * 2, vip = NOT vip WHERE tenant_id IN ({tenant}, {})",
                    self.tenant()
                ),
            ),
            5 => Case::new(
                Plain,
                format!(
                    "UPDATE orders o SET note = c.name FROM customers c WHERE c.tenant_id = o.tenant_id \
                     AND c.id = o.customer_id AND {}",
                    self.condition(&CUSTOMER_TABLE, "c.")
                ),
            ),
            6 => Case::new(
                Equal,
                format!(
                    "DELETE FROM order_items WHERE tenant_id = {tenant} AND order_id = {id} RETURNING line, product"
                ),
            ),
            7 => Case::new(
                Plain,
                format!("DELETE FROM order_items WHERE {} AND line = 3", self.condition(&ITEM_TABLE, "")),
            ),
            8 => Case::new(
                Plain,
                format!(
                    "DELETE FROM order_items i USING orders o WHERE o.tenant_id = i.tenant_id AND o.id = i.order_id \
                     AND o.status = {status} AND i.quantity = {id}"
                ),
            ),
            9 => Case::new(Equal, format!("DELETE FROM customers WHERE tenant_id = {tenant} AND id > 1000")),
            10 => Case::new(
                Equal,
                format!(
                    "UPDATE order_items SET quantity = quantity - {} WHERE product = {}",
                    self.number(1..4),
                    quoted(self.pick(&PRODUCTS))
                ),
            ),
            11 => Case::new(Hard, format!("UPDATE tenants SET id = id + 100 WHERE id = {tenant}")),
            12 => Case::new(Plain, format!("UPDATE countries SET vat = coalesce(vat, 0) + {id} WHERE eu")),
            _ => Case::new(
                Equal,
                format!("UPDATE settings SET number = number + {id} WHERE name <> 'setting3' RETURNING name, number"),
            ),
        }
    }

    /// BEGIN, some statements, perhaps savepoints and errors, COMMIT or ROLLBACK.
    pub fn transaction(&mut self) -> Vec<Case> {
        let begin = self.pick(&[
            "BEGIN",
            "BEGIN",
            "START TRANSACTION",
            "BEGIN ISOLATION LEVEL REPEATABLE READ",
            "BEGIN TRANSACTION READ WRITE",
        ]);
        let mut cases = vec![Case::new(Equal, begin)];
        for _ in 0..self.number(1..5) {
            match self.number(0..8) {
                0 => {
                    cases.push(Case::new(Equal, "SAVEPOINT a"));
                    let inner = if self.chance(0.5) { self.insert() } else { self.change() };
                    cases.push(inner);
                    cases.push(Case::new(Equal, self.pick(&["ROLLBACK TO SAVEPOINT a", "ROLLBACK TO a", "RELEASE a"])));
                    if self.chance(0.5) {
                        cases.push(self.aggregate());
                    }
                }
                1 => {
                    cases.push(Case::new(Equal, "SAVEPOINT s"));
                    let tenant = self.tenant();
                    let failing = self.pick(&["1 / (id - id)", "no_such_column", "name::int"]);
                    cases.push(Case::new(
                        Plain,
                        format!("SELECT {failing} FROM customers WHERE tenant_id = {tenant} AND id = 1 AND name <> ''"),
                    ));
                    cases.push(Case::new(Equal, "ROLLBACK TO SAVEPOINT s"));
                    cases.push(self.point_read());
                }
                2 | 3 => cases.push(self.insert()),
                4 => cases.push(self.point_read()),
                5 => cases.push(self.aggregate()),
                _ => cases.push(self.change()),
            }
        }
        cases.push(Case::new(Equal, self.pick(&["COMMIT", "COMMIT", "ROLLBACK", "END"])));
        cases
    }
}
