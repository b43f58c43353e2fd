use super::super::compare::field;
use super::super::data_row::data_row;
use super::*;
use crate::plan::types::{LimitOffset, SortKey};
use crate::wire::Format;

const INT8: u32 = 20;
const TEXT: u32 = 25;
const NUMERIC: u32 = 1700;

fn fields(types: &[u32]) -> Vec<FieldDescription> {
    types.iter().map(|oid| field(*oid, Format::Text)).collect()
}

fn gathered(types: &[u32], rows: &[&[Option<&str>]]) -> Partials {
    let mut partials = Partials::new(&fields(types), |_| None, 1 << 20).unwrap();
    for row in rows {
        partials.push(&data_row(row.iter().copied())).unwrap();
    }
    partials
}

fn aggregate(sql: &str, combine_parameters: Vec<usize>, partial_columns: usize) -> Aggregate {
    Aggregate { partial_sql: "".into(), combine_sql: sql.into(), combine_parameters, partial_columns }
}

#[test]
fn partials_become_arrays_of_one_statement() {
    let partials = gathered(&[NUMERIC, INT8], &[&[Some("1.50"), Some("3")], &[None, Some("0")]]);
    let plan = aggregate("SELECT sum(p.c0) / sum(p.c1) FROM {partials} HAVING sum(p.c1) > $1", vec![4], 2);
    let statement = partials.aggregate(&plan);
    assert_eq!(
        statement.sql,
        r#"SELECT sum(p.c0) / sum(p.c1) FROM ROWS FROM (pg_catalog.unnest($2::pg_catalog."numeric"[]), pg_catalog.unnest($3::pg_catalog."int8"[])) AS p(c0, c1) HAVING sum(p.c1) > $1"#
    );
    assert_eq!(statement.arrays, [&br#"{"1.50",NULL}"#[..], br#"{"3","0"}"#]);
}

#[test]
fn elements_are_quoted() {
    let values = ["", "NULL", r#"a"b\c,{d}"#, " x ", "zwölf"];
    let rows: Vec<_> = values.iter().map(|value| [Some(*value)]).collect();
    let rows: Vec<&[_]> = rows.iter().map(|row| &row[..]).collect();
    let statement = gathered(&[TEXT], &rows).statement("{partials}", 0);
    assert_eq!(statement.arrays, [r#"{"","NULL","a\"b\\c,{d}"," x ","zwölf"}"#.as_bytes()]);
}

#[test]
fn no_rows_and_no_columns() {
    let statement = gathered(&[INT8], &[]).statement("{partials}", 0);
    assert_eq!(
        (&statement.sql[..], &statement.arrays[0][..]),
        (r#"ROWS FROM (pg_catalog.unnest($1::pg_catalog."int8"[])) AS p(c0)"#, &b"{}"[..])
    );
    let statement = gathered(&[], &[&[], &[]]).statement("SELECT 1 FROM {partials}", 3);
    assert_eq!(statement.sql, "SELECT 1 FROM (SELECT FROM pg_catalog.generate_series(1, 2)) AS p");
    assert!(statement.arrays.is_empty());
}

#[test]
fn what_no_array_takes_as_it_is_travels_as_text() {
    let names = |oid| (oid == 20_000).then(|| "shop.\"mood\"".to_owned());
    let partials = Partials::new(&fields(&[INT8, 1007, 603, 20_000]), names, 100).unwrap();
    assert_eq!(
        partials.item_sql(1),
        "(SELECT u.c0, u.c1::pg_catalog.\"int4\"[], u.c2::pg_catalog.\"box\", u.c3::shop.\"mood\" FROM \
         ROWS FROM (pg_catalog.unnest($1::pg_catalog.\"int8\"[]), pg_catalog.unnest($2::pg_catalog.\"text\"[]), \
         pg_catalog.unnest($3::pg_catalog.\"text\"[]), pg_catalog.unnest($4::pg_catalog.\"text\"[])) AS u(c0, c1, c2, c3)) AS p(c0, c1, c2, c3)"
    );
    for oid in [2249, 2278, 705, 20_001] {
        assert_eq!(Partials::new(&fields(&[oid]), names, 100).unwrap_err().code().as_str(), "0A000");
    }
}

#[test]
fn rows_are_bounded_and_checked() {
    let mut partials = Partials::new(&fields(&[TEXT]), |_| None, 20).unwrap();
    let row = data_row([Some("12345")]);
    partials.push(&row).unwrap();
    partials.push(&row).unwrap();
    assert_eq!(partials.push(&row), Err(MergeError::GatherBytes { bytes_max: 20 }));
    let mut partials = Partials::new(&fields(&[TEXT, TEXT]), |_| None, 20).unwrap();
    assert_eq!(partials.push(&row), Err(MergeError::MalformedRow));
}

#[test]
fn an_order_that_only_postgresql_knows() {
    let names = ["id", "say \"hi\"", "hidden"].map(str::to_owned);
    let key = |column, descending, nulls_first| SortKey { column, descending, nulls_first };
    let plan = MergeSort {
        sql: "".into(),
        order: vec![key(2, true, true), key(0, false, false)],
        hidden_columns: 1,
        limit: LimitOffset::default(),
        distinct: None,
    };
    assert_eq!(
        order_by_sql(&plan, &names, Window::new(5, Some(10))),
        r#"SELECT p.c0 AS "id", p.c1 AS "say ""hi""" FROM {partials} ORDER BY p.c2 DESC NULLS FIRST, p.c0 ASC NULLS LAST LIMIT 10 OFFSET 5"#
    );
    let plan = MergeSort { distinct: Some(1), ..plan };
    assert_eq!(
        order_by_sql(&plan, &names, Window::ALL),
        r#"SELECT DISTINCT ON (p.c2) p.c0 AS "id", p.c1 AS "say ""hi""" FROM {partials} ORDER BY p.c2 DESC NULLS FIRST, p.c0 ASC NULLS LAST"#
    );
}
