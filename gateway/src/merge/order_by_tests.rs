use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::compare::field;
use super::super::data_row::data_row;
use super::*;
use crate::plan::types::LimitOffset;
use crate::wire::Format;

const ORDER: ValueOrder = ValueOrder { strings_by_bytes: true, iso_dates: true, exact_floats: true };

fn fields() -> [FieldDescription; 3] {
    [field(25, Format::Text), field(23, Format::Text), field(1700, Format::Text)]
}

fn key(column: usize, descending: bool, nulls_first: bool) -> SortKey {
    SortKey { column, descending, nulls_first }
}

fn plan(order: Vec<SortKey>, hidden_columns: usize, distinct: Option<usize>) -> MergeSort {
    MergeSort { sql: "".into(), order, hidden_columns, limit: LimitOffset::default(), distinct }
}

type Row = [Option<String>; 3];

fn row(text: &str, number: Option<i32>, amount: &str) -> Row {
    [Some(text.to_owned()), number.map(|number| number.to_string()), Some(amount.to_owned())]
}

fn frame(row: &Row) -> Frame {
    data_row(row.iter().map(|value| value.as_deref()))
}

/// An independent reference: the order of two rows under the keys.
fn reference(keys: &[SortKey], a: &Row, b: &Row) -> Ordering {
    for key in keys {
        let order = match (&a[key.column], &b[key.column]) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => {
                if key.nulls_first {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (Some(_), None) => {
                if key.nulls_first {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (Some(a), Some(b)) => {
                let order = match key.column {
                    0 => a.as_bytes().cmp(b.as_bytes()),
                    1 => a.parse::<i32>().unwrap().cmp(&b.parse().unwrap()),
                    _ => a.parse::<f64>().unwrap().partial_cmp(&b.parse().unwrap()).unwrap(),
                };
                if key.descending {
                    order.reverse()
                } else {
                    order
                }
            }
        };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Rows arrive when they are asked for, or now and then unasked.
fn merge(mut merge: OrderBy, shards: &[Vec<Row>], random: &mut StdRng) -> Vec<Frame> {
    let mut sent = vec![0; shards.len()];
    let mut merged = Vec::new();
    let mut push = |merge: &mut OrderBy, shard: usize| {
        match shards[shard].get(sent[shard]) {
            Some(row) => merge.push(shard, frame(row)),
            None => merge.finish(shard),
        }
        sent[shard] += 1;
    };
    loop {
        match merge.step().unwrap() {
            Step::Done => return merged,
            Step::Row(row) => merged.push(row),
            Step::NeedMore(shard) => {
                if random.random_bool(0.3) {
                    push(&mut merge, random.random_range(0..shards.len()));
                } else {
                    push(&mut merge, shard);
                }
            }
        }
    }
}

#[test]
fn random_answers_are_merged_as_one_sort_would() {
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        let keys: Vec<SortKey> = (0..random.random_range(1..4))
            .map(|_| key(random.random_range(0..3), random.random(), random.random()))
            .collect();
        let hidden = random.random_range(0..3);
        let shards: Vec<Vec<Row>> = (0..random.random_range(1..6))
            .map(|_| {
                let mut rows: Vec<Row> = (0..random.random_range(0..20))
                    .map(|_| {
                        let number = random.random_bool(0.8).then(|| random.random_range(-5..5));
                        row(
                            ["a", "B", "aa", "ä"][random.random_range(0..4)],
                            number,
                            ["1", "1.50", "-3"][random.random_range(0..3)],
                        )
                    })
                    .collect();
                rows.sort_by(|a, b| reference(&keys, a, b));
                rows
            })
            .collect();
        let distinct = random.random_bool(0.3).then(|| random.random_range(1..=keys.len()));
        let offset = if random.random_bool(0.5) { random.random_range(0..10) } else { 0 };
        let limit = random.random_bool(0.5).then(|| random.random_range(0..30));

        let mut all: Vec<Row> = shards.concat();
        all.sort_by(|a, b| reference(&keys, a, b));
        if let Some(distinct) = distinct {
            all.dedup_by(|a, b| reference(&keys[..distinct], a, b).is_eq());
        }
        let expected: Vec<Row> =
            all.into_iter().skip(offset).take(limit.map_or(usize::MAX, |limit| limit as usize)).collect();

        let operator = OrderBy::new(
            &plan(keys.clone(), hidden, distinct),
            &fields(),
            ORDER,
            Window::new(offset as u64, limit),
            shards.len(),
        )
        .unwrap();
        let merged = merge(operator, &shards, &mut random);
        assert_eq!(merged.len(), expected.len(), "seed {seed}");
        for (frame, expected) in merged.iter().zip(&expected) {
            let columns = values(frame).unwrap();
            assert_eq!(columns.len(), 3 - hidden, "seed {seed}");
            for ((index, expected), value) in expected.iter().enumerate().zip(columns) {
                let value = value.map(|value| String::from_utf8(value.to_vec()).unwrap());
                // Rows that are equal in all keys come in any order.
                if keys.iter().any(|key| key.column == index) {
                    assert_eq!(&value, expected, "seed {seed}");
                }
            }
        }
    }
}

#[test]
fn no_row_is_lost_among_equals() {
    let rows: Vec<Row> = (0..10).map(|number| row("x", Some(number), "1")).collect();
    let shards = [rows[..4].to_vec(), rows[4..5].to_vec(), rows[5..].to_vec()];
    let operator = OrderBy::new(&plan(vec![key(0, false, false)], 0, None), &fields(), ORDER, Window::ALL, 3).unwrap();
    let merged = merge(operator, &shards, &mut StdRng::seed_from_u64(1));
    let mut expected: Vec<_> = rows.iter().map(|row| frame(row).into_bytes()).collect();
    let mut merged: Vec<_> = merged.into_iter().map(Frame::into_bytes).collect();
    expected.sort();
    merged.sort();
    assert_eq!(merged, expected);
}

#[test]
fn it_asks_for_what_it_needs_and_stops_at_the_limit() {
    let plan = plan(vec![key(1, true, true)], 0, None);
    let mut merge = OrderBy::new(&plan, &fields(), ORDER, Window::new(0, Some(2)), 2).unwrap();
    let rows = [9, 8, 7].map(|number| frame(&row("x", Some(number), "0")));
    assert_eq!(merge.step(), Ok(Step::NeedMore(0)));
    merge.push(0, rows[0].clone());
    assert_eq!(merge.step(), Ok(Step::NeedMore(1)));
    assert_eq!(merge.step(), Ok(Step::NeedMore(1)), "asking again changes nothing");
    merge.push(1, rows[1].clone());
    assert_eq!(merge.step(), Ok(Step::Row(rows[0].clone())));
    assert_eq!(merge.step(), Ok(Step::NeedMore(0)));
    merge.finish(0);
    assert_eq!(merge.step(), Ok(Step::Row(rows[1].clone())));
    assert_eq!(merge.step(), Ok(Step::Done), "without a further row");
}

#[test]
fn equal_numerics_are_one_distinct_row() {
    let shards =
        [vec![row("a", None, "1.0"), row("a", None, "2")], vec![row("a", None, "1.00"), row("b", None, "1.00")]];
    let plan = plan(vec![key(0, false, false), key(1, false, false), key(2, false, false)], 0, Some(3));
    let operator = OrderBy::new(&plan, &fields(), ORDER, Window::ALL, 2).unwrap();
    assert_eq!(merge(operator, &shards, &mut StdRng::seed_from_u64(1)).len(), 3);
}

#[test]
fn orders_that_are_not_known_are_not_merged() {
    let locale = ValueOrder { strings_by_bytes: false, ..ORDER };
    assert!(mergeable(&fields(), &[key(1, false, false), key(0, true, true)], ORDER));
    assert!(!mergeable(&fields(), &[key(1, false, false), key(0, true, true)], locale));
    assert!(mergeable(&fields(), &[key(1, false, false)], locale), "only the keys count");
    assert!(!mergeable(&fields(), &[key(3, false, false)], ORDER), "no such column");
}

#[test]
fn malformed_rows_are_errors() {
    let mut merge = OrderBy::new(&plan(vec![key(2, false, false)], 0, None), &fields(), ORDER, Window::ALL, 1).unwrap();
    merge.push(0, data_row([Some("only"), Some("1")]));
    assert_eq!(merge.step(), Err(MergeError::MalformedRow));
}
