//! Format codes of results that PostgreSQL does not know: Bind takes them, and the first row is an error.

use anyhow::Result;

use super::pair::{bind, describe, execute, parse, sync};
use super::Pair;

type Ports = (u16, u16);

const STATEMENTS: &[&str] = &[
    "SELECT id, kind FROM items WHERE id = 3",
    "SELECT id, kind FROM items WHERE id = 999",
    "SELECT id, kind FROM items ORDER BY id",
    "SELECT id, kind FROM items WHERE kind > 99",
    "SELECT id, kind FROM items WHERE kind > 99 ORDER BY id",
    "SELECT kind, count(*) FROM items GROUP BY kind",
    "SELECT kind, avg(price) FROM items GROUP BY kind",
    "SELECT sum(a.kind), count(*) FROM items a JOIN items b ON a.kind = b.id",
    "SELECT id, 1 FROM plain",
    "SELECT 1, 2",
    "SHOW work_mem",
    "SELECT set_config('app.x', 'y', false)",
    "EXPLAIN (COSTS off) SELECT 1",
    "INSERT INTO plain VALUES (700)",
    "INSERT INTO parts VALUES (700, 1)",
    "INSERT INTO parts VALUES (700, 1), (701, 1), (702, 1), (703, 1)",
    "INSERT INTO parts VALUES (700, 1), (701, 1), (702, 1), (703, 1) RETURNING item, n",
    "INSERT INTO parts SELECT id + 700, 1 FROM items WHERE id < 9 RETURNING item, n",
    "UPDATE items SET kind = kind RETURNING id, kind",
    "UPDATE items SET kind = kind WHERE id = 3 RETURNING id, kind",
    "UPDATE items SET kind = kind WHERE id = 999 RETURNING id, kind",
    "SET work_mem TO '5MB'",
    "BEGIN",
];

fn run(sql: &str) -> Vec<u8> {
    [parse("", sql, &[]), bind("", "", &[], &[]), execute("", 0)].concat()
}

pub async fn unknown(ports: Ports) -> Result<()> {
    let mut pair = Pair::connect(ports).await?;
    for sql in STATEMENTS {
        for codes in [&[2][..], &[u16::MAX], &[0, 7], &[1, 7]] {
            let columns =
                sql.matches("SHOW").count() + sql.matches("EXPLAIN").count() + sql.matches("set_config").count();
            if codes.len() > 1 && columns == 1 {
                continue;
            }
            for name in ["", "p"] {
                let what = format!("{sql}, {codes:?}, {name:?}");
                let opened = [parse("", sql, &[]), bind(name, "", &[], codes)].concat();
                for steps in [
                    &[vec![opened.clone(), execute(name, 0), sync()]][..],
                    &[vec![opened.clone(), describe('P', name), sync()]],
                    &[vec![opened.clone(), execute(name, 3), execute(name, 3), sync()]],
                    &[vec![run("BEGIN"), sync()], vec![opened.clone(), sync()], vec![execute(name, 2), sync()]],
                ] {
                    for messages in steps {
                        pair.exact_messages(&what, messages).await?;
                    }
                    pair.same("ROLLBACK").await?;
                    pair.same("DELETE FROM parts WHERE item >= 700").await?;
                    pair.same("DELETE FROM plain WHERE id >= 700").await?;
                }
            }
        }
    }
    Ok(())
}
