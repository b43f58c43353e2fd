//! Values of PostgreSQL's timeouts (`guc.c`, `parse_int` with `GUC_UNIT_MS`).

use std::time::Duration;

/// `'500'`, `'500ms'`, `'1.5 s'`, `'2min'`; None for 0, which means none, and for what PostgreSQL would not accept.
pub fn parse(value: &str) -> Option<Duration> {
    let value = value.trim();
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let number: f64 = value[..end].parse().ok()?;
    let milliseconds = match value[end..].trim() {
        "us" => 0.001,
        "" | "ms" => 1.0,
        "s" => 1_000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let rounded = (number * milliseconds).round();
    (rounded >= 1.0 && rounded <= f64::from(i32::MAX)).then(|| Duration::from_millis(rounded as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_postgresql_reads_them() {
        for (value, expected) in [
            ("0", None),
            ("500", Some(500)),
            (" 500ms ", Some(500)),
            ("1.5 s", Some(1_500)),
            ("2min", Some(120_000)),
            ("1h", Some(3_600_000)),
            ("1500us", Some(2)),
            ("100us", None),
            ("1 fortnight", None),
            ("", None),
        ] {
            assert_eq!(parse(value), expected.map(Duration::from_millis), "{value:?}");
        }
    }
}
