//! Reading statements.

use super::terms::{Kind, Table, CUSTOMER_TABLE, ITEM_TABLE, ORDER_TABLE, TENANT_TABLE};
use super::Maker;
use crate::case::Expectation::{Equal, Hard, Plain};
use crate::case::{Case, Rows};

impl Maker {
    /// One shard key.
    pub fn point_read(&mut self) -> Case {
        let table = self.table();
        let (list, key) = (self.select_list(table, ""), self.key_condition(table, ""));
        let mut sql = format!("SELECT {list} FROM {} WHERE {key}", table.name);
        if self.chance(0.4) {
            sql += &format!(" AND {}", self.condition(table, ""));
        }
        let mut rows = Rows::AnyOrder;
        if self.chance(0.4) {
            sql += &format!(" ORDER BY {}", self.total_order(table, ""));
            rows = Rows::Ordered;
            if self.chance(0.5) {
                sql += &self.limit();
            }
        }
        let case = Case::new(Equal, sql).rows(rows);
        self.sometimes_extended(case)
    }

    fn sometimes_extended(&mut self, case: Case) -> Case {
        match self.number(0..6) {
            0 => case.extended(Vec::new(), false),
            1 => case.extended(Vec::new(), true),
            _ => case,
        }
    }

    /// Some columns in some directions, then the primary key: no ties are left.
    fn total_order(&mut self, table: &Table, alias: &str) -> String {
        let mut keys = Vec::new();
        for _ in 0..self.number(0..3) {
            let (column, _) = table.columns[self.number(0..table.columns.len() as i64) as usize];
            keys.push(self.sort_key(&format!("{alias}{column}")));
        }
        for column in table.primary_key {
            keys.push(self.sort_key(&format!("{alias}{column}")));
        }
        keys.join(", ")
    }

    fn sort_key(&mut self, expression: &str) -> String {
        let direction = self.pick(&["", "", " ASC", " DESC", " DESC"]);
        let nulls = self.pick(&["", "", " NULLS FIRST", " NULLS LAST"]);
        format!("{expression}{direction}{nulls}")
    }

    fn limit(&mut self) -> String {
        match self.number(0..5) {
            0 => format!(" LIMIT {} OFFSET {}", self.number(0..20), self.number(0..20)),
            1 => format!(" OFFSET {}", self.number(0..30)),
            2 => format!(" FETCH FIRST {} ROWS ONLY", self.number(1..9)),
            3 => format!(" OFFSET {} LIMIT {}", self.number(0..9), self.number(0..9)),
            _ => format!(" LIMIT {}", self.number(0..12)),
        }
    }

    /// Colocated tables, held to one key.
    pub fn key_join(&mut self) -> Case {
        let join = self.join_of_orders();
        let key = self.tenant();
        let held = self.pick(&["o", "c", "t"]);
        let held = if held == "t" { "t.id".to_owned() } else { format!("{held}.tenant_id") };
        let condition = self.condition(&ORDER_TABLE, "o.");
        let list = self.select_list(&ORDER_TABLE, "o.");
        let sql = format!("SELECT c.name, t.plan, {list} FROM {join} WHERE {held} = {key} AND {condition}");
        let case = Case::new(Equal, sql);
        self.sometimes_extended(case)
    }

    fn join_of_orders(&mut self) -> String {
        let customers = self.pick(&[
            "JOIN customers c ON c.tenant_id = o.tenant_id AND c.id = o.customer_id",
            "JOIN customers AS c ON o.tenant_id = c.tenant_id AND (o.customer_id = c.id)",
        ]);
        let tenants = self.pick(&["JOIN tenants t ON t.id = o.tenant_id", "JOIN tenants t ON c.tenant_id = t.id"]);
        format!("orders o {customers} {tenants}")
    }

    /// All shards, rows in any order.
    pub fn fan_out(&mut self) -> Case {
        let table = self.table();
        let (list, condition) = (self.select_list(table, ""), self.condition(table, ""));
        let case = match self.number(0..8) {
            0 => {
                let limit = self.number(0..15);
                let sql = format!("SELECT {list} FROM {} WHERE {condition} LIMIT {limit}", table.name);
                Case::new(Plain, sql).rows(Rows::Counted)
            }
            1 => {
                let columns = self.columns(table).join(", ");
                Case::new(Plain, format!("SELECT DISTINCT {columns} FROM {} WHERE {condition}", table.name))
            }
            2 => {
                let (name, kind) = table.columns[0];
                let values: Vec<String> = (0..self.number(1..5)).map(|_| self.literal(kind)).collect();
                let sql = match self.chance(0.5) {
                    true => format!("SELECT {list} FROM {} WHERE {name} IN ({})", table.name, values.join(", ")),
                    false => {
                        format!("SELECT {list} FROM {} WHERE {name} = ANY (ARRAY[{}])", table.name, values.join(", "))
                    }
                };
                Case::new(Equal, sql)
            }
            _ => Case::new(Equal, format!("SELECT {list} FROM {} WHERE {condition}", table.name)),
        };
        self.sometimes_extended(case)
    }

    fn columns(&mut self, table: &Table) -> Vec<&'static str> {
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        self.some(&names)
    }

    /// All shards, merged in order.
    pub fn ordered(&mut self) -> Case {
        let table = self.table();
        let list = self.select_list(table, "");
        let filter = match self.chance(0.5) {
            true => format!(" WHERE {}", self.condition(table, "")),
            false => String::new(),
        };
        let case = match self.number(0..8) {
            0 => {
                let columns = self.columns(table);
                let keys: Vec<String> = columns.iter().map(|column| self.sort_key(column)).collect();
                let (columns, keys) = (columns.join(", "), keys.join(", "));
                let mut sql = format!("SELECT DISTINCT {columns} FROM {}{filter} ORDER BY {keys}", table.name);
                if self.chance(0.4) {
                    sql += &self.limit();
                }
                Case::new(Plain, sql).rows(Rows::Ordered)
            }
            1 => {
                let column = self.columns(table)[0];
                let order = self.total_order(table, "");
                let key = self.sort_key(column);
                let sql =
                    format!("SELECT DISTINCT ON ({column}) {list} FROM {}{filter} ORDER BY {key}, {order}", table.name);
                Case::new(Plain, sql).rows(Rows::Ordered)
            }
            2 => {
                let columns = self.columns(table);
                let keys: Vec<String> = (1..=columns.len()).map(|place| self.sort_key(&place.to_string())).collect();
                let sql =
                    format!("SELECT {} FROM {}{filter} ORDER BY {}", columns.join(", "), table.name, keys.join(", "));
                Case::new(Plain, sql).rows(Rows::OrderedBy((0..columns.len()).collect()))
            }
            3 => {
                let order = self.total_order(table, "q.");
                let sql = format!("SELECT {list} FROM {} AS q{filter} ORDER BY {order}{}", table.name, self.limit());
                Case::new(Plain, sql).rows(Rows::Ordered)
            }
            4 => {
                let (column, kind) = table.columns[self.number(0..table.columns.len() as i64) as usize];
                let expression = match kind {
                    Kind::Word(_) => format!("lower({column})"),
                    Kind::Money | Kind::Float | Kind::Small | Kind::Tenant => format!("-{column}"),
                    _ => column.to_owned(),
                };
                let (key, order) = (self.sort_key(&expression), self.total_order(table, ""));
                let sql = format!("SELECT {list} FROM {}{filter} ORDER BY {key}, {order}{}", table.name, self.limit());
                Case::new(Plain, sql).rows(Rows::Ordered)
            }
            _ => {
                let mut sql =
                    format!("SELECT {list} FROM {}{filter} ORDER BY {}", table.name, self.total_order(table, ""));
                if self.chance(0.5) {
                    sql += &self.limit();
                }
                Case::new(Equal, sql).rows(Rows::Ordered)
            }
        };
        self.sometimes_extended(case)
    }

    /// All shards, GROUP BY, HAVING and every kind of aggregate.
    pub fn aggregate(&mut self) -> Case {
        let table = self.table();
        let groups: Vec<&str> = if self.chance(0.7) { self.columns(table) } else { Vec::new() };
        let groups = &groups[..groups.len().min(2)];
        let on_key = groups.contains(&table.key);
        let mut expectation = Equal;
        let mut list: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        for _ in 0..self.number(1..4) {
            let (aggregate, exact) = self.aggregate_call(table);
            if !exact && !on_key {
                expectation = Plain;
            }
            list.push(aggregate);
        }
        let mut sql = format!("SELECT {} FROM {}", list.join(", "), table.name);
        if self.chance(0.5) {
            sql += &format!(" WHERE {}", self.condition(table, ""));
        }
        if !groups.is_empty() {
            sql += &format!(" GROUP BY {}", groups.join(", "));
        }
        if self.chance(0.3) {
            expectation = Plain;
            let having = self.pick(&["count(*) > 2", "count(*) = 1", "min(1) < count(*)", "count(*) BETWEEN 2 AND 9"]);
            sql += &format!(" HAVING {having}");
        }
        let mut rows = Rows::AnyOrder;
        if !groups.is_empty() && self.chance(0.5) {
            expectation = Plain;
            let keys: Vec<String> = groups.iter().map(|group| self.sort_key(group)).collect();
            sql += &format!(" ORDER BY {}", keys.join(", "));
            if self.chance(0.4) {
                sql += &self.limit();
            }
            rows = Rows::Ordered;
        }
        let case = Case::new(expectation, sql).rows(rows);
        self.sometimes_extended(case)
    }

    /// And whether it is of the plainest kind.
    fn aggregate_call(&mut self, table: &Table) -> (String, bool) {
        let (column, kind) = table.columns[self.number(0..table.columns.len() as i64) as usize];
        let numeric = matches!(kind, Kind::Tenant | Kind::Small | Kind::Money | Kind::Float);
        match self.number(0..16) {
            0 | 1 => ("count(*)".to_owned(), true),
            2 | 3 => (format!("count({column})"), true),
            4 | 5 if numeric => (format!("sum({column})"), true),
            6 | 7 if numeric => (format!("avg({column})"), false),
            8 | 9 if kind != Kind::Bool => (format!("min({column})"), true),
            10 if kind != Kind::Bool => (format!("max({column})"), true),
            11 => (format!("count(DISTINCT {column})"), false),
            12 => (format!("count(*) FILTER (WHERE {})", self.condition(table, "")), false),
            13 if kind == Kind::Money => (format!("round(stddev({column}), 6)"), false),
            14 if kind == Kind::Bool => (format!("bool_or({column})"), false),
            15 => (format!("string_agg({column}::text, ',' ORDER BY {column}::text)"), false),
            _ => (format!("coalesce(max({column}::text), '-')"), false),
        }
    }

    /// All shards, joined on the key.
    pub fn colocated_join(&mut self) -> Case {
        let join = self.join_of_orders();
        let condition = self.condition(&ORDER_TABLE, "o.");
        let case = match self.number(0..8) {
            0 => {
                let kind = self.pick(&["LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
                let filter = self.condition(&ORDER_TABLE, "o.");
                Case::new(
                    Plain,
                    format!(
                        "SELECT c.tenant_id, c.id, o.id, o.total FROM customers c {kind} orders o \
                         ON o.tenant_id = c.tenant_id AND o.customer_id = c.id AND {filter}"
                    ),
                )
            }
            1 => Case::new(
                Plain,
                format!(
                    "SELECT t.id, k.name, k.vat FROM tenants t LEFT JOIN countries k ON k.code = t.country \
                     WHERE {} ORDER BY t.id",
                    self.condition(&TENANT_TABLE, "t.")
                ),
            )
            .rows(Rows::Ordered),
            2 => Case::new(
                Plain,
                format!(
                    "SELECT i.product, count(*), sum(i.quantity * i.price) FROM orders o JOIN order_items i \
                     USING (tenant_id) WHERE i.order_id = o.id AND {condition} GROUP BY i.product"
                ),
            ),
            3 => Case::new(
                Plain,
                format!(
                    "SELECT o.tenant_id, o.id, i.line FROM orders o, order_items i WHERE o.tenant_id = i.tenant_id \
                     AND o.id = i.order_id AND {} ORDER BY 1, 2 DESC, 3",
                    self.condition(&ITEM_TABLE, "i.")
                ),
            )
            .rows(Rows::Ordered),
            4 => Case::new(
                Hard,
                format!(
                    "SELECT a.id, b.id FROM tenants a JOIN tenants b ON a.country = b.country AND a.id < b.id WHERE {}",
                    self.condition(&TENANT_TABLE, "a.")
                ),
            ),
            5 => Case::new(
                Hard,
                format!("SELECT o.tenant_id, o.id, d.slug FROM orders o JOIN documents d ON d.size = o.id WHERE {condition}"),
            ),
            6 => Case::new(Hard, format!("SELECT o.id, s.value FROM orders o JOIN settings s ON s.number = o.id WHERE {condition}")),
            _ => Case::new(Equal, format!("SELECT o.tenant_id, o.id, c.name, t.plan FROM {join} WHERE {condition}")),
        };
        self.sometimes_extended(case)
    }

    pub fn subquery(&mut self) -> Case {
        let order = self.condition(&ORDER_TABLE, "o.");
        let customer = self.condition(&CUSTOMER_TABLE, "c.");
        let key = self.tenant();
        let correlated = "o.tenant_id = c.tenant_id AND o.customer_id = c.id";
        let case = match self.number(0..12) {
            0 => Case::new(
                Plain,
                format!("SELECT c.tenant_id, c.id FROM customers c WHERE EXISTS (SELECT 1 FROM orders o WHERE {correlated} AND {order})"),
            ),
            1 => Case::new(
                Plain,
                format!("SELECT c.tenant_id, c.id FROM customers c WHERE {customer} AND NOT EXISTS (SELECT FROM orders o WHERE {correlated})"),
            ),
            2 => Case::new(
                Equal,
                format!(
                    "SELECT c.id, (SELECT count(*) FROM orders o WHERE {correlated} AND {order}) FROM customers c \
                     WHERE c.tenant_id = {key}"
                ),
            ),
            3 => Case::new(
                Hard,
                format!("SELECT c.tenant_id, c.id, (SELECT max(o.total) FROM orders o WHERE {correlated}) FROM customers c WHERE {customer}"),
            ),
            4 => Case::new(Hard, format!("SELECT o.id FROM orders o WHERE o.total > (SELECT avg(total) FROM orders) AND {order}")),
            5 => Case::new(
                Hard,
                format!("SELECT id, name FROM tenants WHERE id IN (SELECT tenant_id FROM orders o WHERE {order})"),
            ),
            6 => Case::new(
                Equal,
                format!("WITH w AS (SELECT * FROM orders o WHERE o.tenant_id = {key} AND {order}) SELECT count(*), sum(total) FROM w"),
            ),
            7 => Case::new(Hard, format!("WITH w AS (SELECT tenant_id, total FROM orders o WHERE {order}) SELECT tenant_id, total FROM w")),
            8 => Case::new(
                Hard,
                format!("SELECT q.tenant_id, q.n FROM (SELECT tenant_id, count(*) AS n FROM orders o WHERE {order} GROUP BY tenant_id) q WHERE q.n > 2"),
            ),
            9 => Case::new(
                Equal,
                format!("SELECT q.n FROM (SELECT count(*) AS n FROM orders o WHERE {order} AND tenant_id = {key}) AS q"),
            ),
            10 => Case::new(
                Hard,
                format!("SELECT count(*) FROM (SELECT DISTINCT status FROM orders o WHERE {order}) q"),
            ),
            _ => Case::new(
                Equal,
                format!("SELECT id FROM customers c WHERE tenant_id = {key} AND id IN (SELECT customer_id FROM orders o WHERE o.tenant_id = {key} AND {order})"),
            ),
        };
        self.sometimes_extended(case)
    }

    pub fn window(&mut self) -> Case {
        let function = self.pick(&["row_number()", "sum(total)", "rank()", "lag(id)", "count(*)", "first_value(note)"]);
        let condition = self.condition(&ORDER_TABLE, "");
        let key = self.tenant();
        match self.number(0..4) {
            0 => Case::new(
                Equal,
                format!("SELECT id, {function} OVER (ORDER BY placed_at, id) FROM orders WHERE tenant_id = {key} AND {condition}"),
            ),
            1 => Case::new(
                Hard,
                format!("SELECT tenant_id, id, {function} OVER (ORDER BY total DESC, tenant_id, id) FROM orders WHERE {condition}"),
            ),
            2 => Case::new(
                Hard,
                format!(
                    "SELECT tenant_id, id, {function} OVER (PARTITION BY status ORDER BY tenant_id, id) FROM orders WHERE {condition}"
                ),
            ),
            _ => Case::new(
                Plain,
                format!(
                    "SELECT tenant_id, id, {function} OVER (PARTITION BY tenant_id ORDER BY id) FROM orders WHERE {condition}"
                ),
            ),
        }
    }

    pub fn set_operation(&mut self) -> Case {
        let operation = self.pick(&["UNION", "UNION ALL", "EXCEPT", "INTERSECT", "EXCEPT ALL"]);
        let (a, b) = (self.condition(&ORDER_TABLE, ""), self.condition(&ORDER_TABLE, ""));
        let key = self.tenant();
        match self.number(0..3) {
            0 => Case::new(
                Equal,
                format!(
                    "SELECT id, status FROM orders WHERE tenant_id = {key} AND {a} {operation} \
                     SELECT id, status FROM orders WHERE tenant_id = {key} AND {b}"
                ),
            ),
            1 => Case::new(
                Hard,
                format!(
                    "SELECT tenant_id, id FROM orders WHERE {a} {operation} SELECT tenant_id, id FROM orders WHERE {b}"
                ),
            ),
            _ => {
                let b = self.condition(&CUSTOMER_TABLE, "");
                Case::new(
                    Hard,
                    format!("SELECT status FROM orders WHERE {a} {operation} SELECT name FROM customers WHERE {b} ORDER BY 1"),
                )
                .rows(Rows::Ordered)
            }
        }
    }

    /// By the extended protocol, with parameters in text.
    pub fn with_parameters(&mut self) -> Case {
        let (key, other) = (self.tenant(), self.tenant());
        let binary = self.chance(0.5);
        let text = |value: &dyn ToString| Some(value.to_string());
        let status = *self.pick(&[&"new", &"paid", &"sent"]);
        let (case, parameters) = match self.number(0..8) {
            0 => (Case::new(Equal, "SELECT * FROM tenants WHERE id = $1"), vec![text(&key)]),
            1 => (
                Case::new(Equal, "SELECT id, total FROM orders WHERE status = $2 AND tenant_id = $1 ORDER BY id")
                    .rows(Rows::Ordered),
                vec![text(&key), text(&status)],
            ),
            2 => (
                Case::new(Equal, "SELECT tenant_id, id, name FROM customers WHERE tenant_id IN ($1, $2)"),
                vec![text(&key), text(&other)],
            ),
            3 => (
                Case::new(Equal, "SELECT tenant_id, count(*) FROM orders WHERE tenant_id = ANY ($1) GROUP BY tenant_id"),
                vec![Some(format!("{{{key},{other},NULL}}"))],
            ),
            4 => (
                Case::new(Plain, "SELECT tenant_id, id FROM orders WHERE status <> $1 ORDER BY total NULLS FIRST, 1, 2 LIMIT $2 OFFSET $3")
                    .rows(Rows::Ordered),
                vec![text(&status), text(&self.number(0..20)), text(&self.number(0..9))],
            ),
            5 => (
                Case::new(Plain, "SELECT status, count(*), sum(total) FROM orders WHERE customer_id <> $1 GROUP BY status HAVING count(*) > $2"),
                vec![text(&self.number(1..4)), text(&self.number(0..20))],
            ),
            6 => (
                Case::new(Equal, "UPDATE orders SET note = $3 WHERE tenant_id = $1 AND id = $2 RETURNING id, note, total"),
                vec![text(&key), text(&self.number(1..9)), self.chance(0.8).then(|| "changed".to_owned())],
            ),
            _ => (
                Case::new(Equal, "INSERT INTO documents (slug, body, size) VALUES ($1, $2, $3), ($4, $2, $3 + 1)"),
                vec![
                    Some(format!("p{}", self.fresh_id())),
                    text(&status),
                    text(&self.number(0..99)),
                    Some(format!("q{}", self.fresh_id())),
                ],
            ),
        };
        case.extended(parameters, binary)
    }
}
