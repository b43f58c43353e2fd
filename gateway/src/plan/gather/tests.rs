use std::sync::Arc;

use super::KNOWN_ROWS_MAX;
use crate::plan::types::{Fragment, Gather, Limited};

/// `by`: the fragments whose rows limit it.
fn fragment(filtered: bool, by: &[usize]) -> Fragment {
    let sql: Arc<str> = Arc::from("SELECT 1");
    let limited = |fragment: &usize| Limited {
        fragment: *fragment,
        column: "x".into(),
        array_type: 1016,
        sql: Arc::clone(&sql),
        alone: Arc::clone(&sql),
    };
    let limited = by.iter().map(limited).collect();
    Fragment {
        sql: Arc::clone(&sql),
        alone: Arc::clone(&sql),
        shape: sql.to_string(),
        table: ringway_topology::model::TableName::new("public", "t"),
        columns: Vec::new(),
        primary_key: Vec::new(),
        filtered,
        limited,
    }
}

/// The order in which fragments are read, and by which they are limited.
fn order(fragments: Vec<Fragment>, counts: &[u64]) -> Vec<(usize, Option<usize>)> {
    let gather = Gather { fragments, sql: Arc::from(""), places: Vec::new(), parameters: 0 };
    let mut rows = vec![None; counts.len()];
    let mut order = Vec::new();
    while let Some((index, limited)) = gather.next(&rows) {
        rows[index] = Some(counts[index]);
        order.push((index, limited.map(|by| by.fragment)));
    }
    order
}

#[test]
fn few_rows_limit_what_is_read_after_them() {
    let chain = || vec![fragment(false, &[1]), fragment(false, &[0, 2]), fragment(true, &[1]), fragment(true, &[])];
    assert_eq!(order(chain(), &[5, 5, 5, 5]), [(2, None), (1, Some(2)), (0, Some(1)), (3, None)]);
    // Many rows limit nothing.
    let many = KNOWN_ROWS_MAX + 1;
    assert_eq!(order(chain(), &[5, 5, many, 5]), [(2, None), (3, None), (0, None), (1, Some(0))]);
    assert_eq!(order(chain(), &[5, many, KNOWN_ROWS_MAX, 5]), [(2, None), (1, Some(2)), (3, None), (0, None)]);
    // The fewest count.
    let star = vec![fragment(true, &[]), fragment(true, &[]), fragment(false, &[0, 1])];
    assert_eq!(order(star, &[9, 3, 1]), [(0, None), (2, Some(0)), (1, None)]);
    assert_eq!(order(Vec::new(), &[]), []);
}
