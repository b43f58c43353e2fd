//! The shrinker by itself, with conditions in place of servers.

use anyhow::Result;

use crate::generate::{self, Kind};
use crate::shrink::{shrink, Failing, Oracle};

/// "Fails" if a statement has all of these texts, and a table has a row and a column of this name.
struct Words {
    words: &'static [&'static str],
    tried: usize,
}

impl Oracle for Words {
    async fn fails(&mut self, case: &Failing) -> Result<bool> {
        self.tried += 1;
        let has = |sql: String| self.words.iter().all(|word| sql.contains(word));
        let statement = case.statements.iter().any(|statement| has(statement.node.render().0));
        Ok(statement && case.schema.tables.iter().any(|table| !table.rows.is_empty()))
    }
}

/// All statements of a world, which have the words somewhere.
fn failing(words: &[&str]) -> Failing {
    let found = (0..50).find_map(|seed| {
        let world = generate::world(seed, 60);
        let statements: Vec<_> = world.scripts.into_iter().flat_map(|script| script.statements).collect();
        let case = Failing { schema: world.schema, statements };
        let has = |sql: &str| words.iter().all(|word| sql.contains(word));
        case.statements.iter().any(|statement| has(&statement.node.render().0)).then_some(case)
    });
    found.expect("chance makes them")
}

async fn shrunk(words: &'static [&'static str]) -> (Failing, usize) {
    let mut oracle = Words { words, tried: 0 };
    let small = shrink(failing(words), &mut oracle).await.expect("the oracle never fails itself");
    assert!(oracle.fails(&small).await.expect("it answers"), "the small case fails as well");
    (small, oracle.tried)
}

#[tokio::test]
async fn what_does_not_matter_goes() {
    for words in
        [&["LEFT JOIN", "max("][..], &["OVER (", "CASE WHEN"], &["NOT IN (", "GROUP BY"], &["RETURNING", "UPDATE"]]
    {
        let (small, tried) = shrunk(words).await;
        assert_eq!(small.statements.len(), 1, "{}", small.script());
        assert_eq!(small.schema.tables.len(), 1);
        assert_eq!(small.schema.tables[0].rows.len(), 1);
        assert!(small.schema.tables[0].columns.len() <= 2, "{}", small.script());
        let sql = small.statements[0].node.render().0;
        assert!(sql.len() < 400, "{tried} attempts left {sql}");
    }
}

#[test]
fn reductions_are_smaller() {
    let world = generate::world(7, 100);
    for statement in world.scripts.iter().flat_map(|script| &script.statements) {
        let size = statement.node.size();
        assert!(statement.node.reductions().iter().all(|node| node.size() < size));
    }
}

#[test]
fn a_seed_makes_the_same_again() {
    let texts = |seed| -> Vec<String> {
        let world = generate::world(seed, 200);
        let statements = world.scripts.iter().flat_map(|script| &script.statements);
        world.schema.create().into_iter().chain(statements.map(|statement| statement.node.render().0)).collect()
    };
    assert_eq!(texts(3), texts(3));
    assert_ne!(texts(3), texts(4));
}

/// What an .slt file is given can be read there.
#[test]
fn a_script_is_read_again() {
    let world = generate::world(11, 150);
    let statements: Vec<_> = world.scripts.into_iter().flat_map(|script| script.statements).collect();
    let case = Failing { schema: world.schema, statements };
    let setup = case.schema.create().len() + case.schema.fill().len() + case.schema.drop().len();
    let read = crate::case::parse("f", &case.script()).expect("it is well formed");
    assert_eq!(read.len(), setup + case.statements.len());
    let expected = case.statements.iter().map(|statement| statement.case());
    for (read, expected) in read[case.schema.create().len() + case.schema.fill().len()..].iter().zip(expected) {
        assert_eq!((&read.sql, &read.rows, &read.protocol), (&expected.sql, &expected.rows, &expected.protocol));
    }
    assert!(case.statements.iter().any(|statement| matches!(statement.kind, Kind::Write(_))));
}
