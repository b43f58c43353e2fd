//! Sequences of sharded tables give cluster-wide unique values: every shard steps by the same stride, from its own
//! number.

use ringway_topology::ids::ShardId;
use ringway_topology::model::TableName;
use tokio_postgres::Client;

use crate::control::ControlError;

/// By the narrowest of the sequence's and the column's type.
pub const STRIDE: i64 = 1024;
pub const STRIDE_INT4: i64 = 64;
pub const STRIDE_INT2: i64 = 16;

/// A sequence that a table's column takes its default from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// `"schema"."name"`.
    pub name: String,
    /// `"schema"."table"."column"`, as text for messages.
    pub column: String,
    pub column_sql: String,
    pub increment: i64,
    pub maximum: i64,
    pub cycles: bool,
    /// Bytes of the narrowest integer type on the way.
    pub width: i16,
    /// The stride that fits its type.
    pub stride: i64,
}

/// Sequences owned by the table or used in its columns' defaults.
pub async fn of_table(client: &Client, table: &TableName) -> Result<Vec<Sequence>, ControlError> {
    let rows = client
        .query(
            "SELECT DISTINCT pg_catalog.format('%I.%I', n.nspname, c.relname), a.attname::text, pg_catalog.quote_ident(a.attname),
                    s.seqincrement, s.seqmax, s.seqcycle,
                    least(t.typlen, CASE WHEN ct.typlen > 0 AND ct.typcategory = 'N' THEN ct.typlen ELSE 8 END)::int2
             FROM (
                SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid AS attnum FROM pg_catalog.pg_depend d
                WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                  AND d.deptype IN ('a', 'i') AND d.refobjid = $1::text::pg_catalog.regclass
                UNION
                SELECT d.refobjid, f.adrelid, f.adnum FROM pg_catalog.pg_depend d
                JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid
                WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                  AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                  AND f.adrelid = $1::text::pg_catalog.regclass
             ) u
             JOIN pg_catalog.pg_sequence s ON s.seqrelid = u.sequence
             JOIN pg_catalog.pg_type t ON t.oid = s.seqtypid
             JOIN pg_catalog.pg_class c ON c.oid = u.sequence
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_catalog.pg_attribute a ON a.attrelid = u.relation AND a.attnum = u.attnum
             JOIN pg_catalog.pg_type ct ON ct.oid = a.atttypid
             ORDER BY 1",
            &[&table.quoted()],
        )
        .await?;
    let sequence = |row: &tokio_postgres::Row| {
        let width = row.get::<_, i16>(6);
        Sequence {
            name: row.get(0),
            column: format!("{table}.{}", row.get::<_, String>(1)),
            column_sql: row.get(2),
            increment: row.get(3),
            maximum: row.get(4),
            cycles: row.get(5),
            width,
            stride: match width {
                2 => STRIDE_INT2,
                4 => STRIDE_INT4,
                _ => STRIDE,
            },
        }
    };
    Ok(rows.iter().map(sequence).collect())
}

/// The highest value given so far.
pub async fn last_value(client: &Client, sequence: &str) -> Result<i64, ControlError> {
    Ok(client.query_one(&format!("SELECT last_value FROM {sequence}"), &[]).await?.get(0))
}

/// The first value above `floor` that belongs to this shard.
pub fn first_value(shard: ShardId, stride: i64, floor: i64) -> Option<i64> {
    let wanted = i64::from(shard.0) % stride;
    let next = floor.max(0).checked_add(1)?;
    let ahead = (wanted - next.rem_euclid(stride)).rem_euclid(stride);
    next.checked_add(ahead)
}

/// No two shards step in the same track.
pub fn check_tracks(shards: &[ShardId], stride: i64) -> Result<(), ControlError> {
    let mut tracks = std::collections::BTreeMap::new();
    for shard in shards {
        if let Some(other) = tracks.insert(i64::from(shard.0) % stride, *shard) {
            return Err(ControlError::Precondition(format!(
                "shards number {other} and {shard} would give the same values: a sequence of this type has room for \
                 {stride} shards; make the column and its sequence bigint"
            )));
        }
    }
    Ok(())
}

/// Gives the sequence this shard's track, to which TRUNCATE ... RESTART IDENTITY brings it back, above `floor`, in the caller's transaction. Answers how many values are left.
pub async fn set_track(client: &Client, sequence: &Sequence, shard: ShardId, floor: i64) -> Result<i64, ControlError> {
    let maximum = match sequence.width {
        2 => sequence.maximum.min(i16::MAX.into()),
        4 => sequence.maximum.min(i32::MAX.into()),
        _ => sequence.maximum,
    };
    let first = first_value(shard, sequence.stride, floor).filter(|first| *first <= maximum);
    let Some(first) = first else {
        return Err(ControlError::Precondition(format!(
            "sequence {} has no values left for shard number {shard}; make {} bigint",
            sequence.name, sequence.column
        )));
    };
    client
        .batch_execute(&format!(
            "ALTER SEQUENCE {} INCREMENT BY {} START WITH {first} RESTART WITH {first}",
            sequence.name, sequence.stride
        ))
        .await?;
    Ok((maximum - first) / sequence.stride + 1)
}

/// About a sequence whose values may run out.
pub fn warning(sequence: &Sequence, left: i64) -> Option<String> {
    (sequence.width < 8).then(|| {
        format!(
            "{} is no bigint: its sequence {} steps by {}, with {left} values left on each shard",
            sequence.column, sequence.name, sequence.stride
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracks_do_not_meet() {
        for stride in [STRIDE, STRIDE_INT4, STRIDE_INT2] {
            for shard in [1, 2, 15] {
                for floor in [0, 1, 14, 15, 1023, 1024, 1025, 999_999] {
                    let first = first_value(ShardId(shard), stride, floor).unwrap();
                    assert!(first > floor && first <= floor + stride);
                    assert_eq!(first % stride, i64::from(shard) % stride);
                }
            }
        }
        assert_eq!(first_value(ShardId(1), STRIDE, i64::MAX), None);
        assert!(check_tracks(&[ShardId(1), ShardId(2), ShardId(64)], STRIDE_INT4).is_ok());
        assert!(check_tracks(&[ShardId(1), ShardId(65)], STRIDE_INT4).is_err());
    }
}
