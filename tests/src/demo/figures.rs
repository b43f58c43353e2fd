//! Numbers out of samples.

use hdrhistogram::Histogram;
use ringway_proto::v1::{Move, MoveStatus};
use ringway_topology::token::token_of_int;

use crate::shop::traffic::{Finished, Sample};

/// A span of wall-clock time, in microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub from: u64,
    pub to: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    pub operations_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// What the clients got done, and how fast, in a span.
pub fn traffic(finished: &Finished, span: Span) -> Traffic {
    let mut histogram = microseconds();
    for (started, duration) in &finished.latencies {
        if (span.from..span.to).contains(started) {
            histogram.saturating_record(u64::from(*duration));
        }
    }
    Traffic {
        operations_per_second: histogram.len() as f64 * 1e6 / (span.to - span.from).max(1) as f64,
        p50_ms: histogram.value_at_quantile(0.5) as f64 / 1000.0,
        p99_ms: histogram.value_at_quantile(0.99) as f64 / 1000.0,
    }
}

/// Writes to moving rows whose time overlaps a cutover's hold, as their clients measured them from end to end.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

fn moves(movement: &Move, tenant: i64) -> bool {
    let token = token_of_int(tenant).0;
    movement.arcs.iter().any(|arc| arc.after.is_none_or(|after| token > after) && token <= arc.through)
}

/// Writes to moving rows that met a cutover.
pub fn held(samples: &[Sample], status: &MoveStatus) -> Held {
    let mut histogram = microseconds();
    for sample in samples.iter().filter(|sample| meets_a_hold(sample, status) && is_of_moving_rows(sample, status)) {
        histogram.saturating_record(sample.duration_us);
    }
    if histogram.is_empty() {
        return Held::default();
    }
    Held {
        count: histogram.len(),
        p50_ms: histogram.value_at_quantile(0.5) as f64 / 1000.0,
        p99_ms: histogram.value_at_quantile(0.99) as f64 / 1000.0,
        max_ms: histogram.max() as f64 / 1000.0,
    }
}

/// Durations of the writes that met no cutover: those to moving rows, which are double-written, and the others.
pub fn not_held(samples: &[Sample], status: &MoveStatus) -> (Histogram<u64>, Histogram<u64>) {
    let (mut moving, mut others) = (microseconds(), microseconds());
    for sample in samples.iter().filter(|sample| !meets_a_hold(sample, status)) {
        let histogram = if is_of_moving_rows(sample, status) { &mut moving } else { &mut others };
        histogram.saturating_record(sample.duration_us);
    }
    (moving, others)
}

/// With the share that took less than `short`.
pub fn distribution(durations: &Histogram<u64>, short: std::time::Duration) -> String {
    if durations.is_empty() {
        return "none".into();
    }
    let ms = |quantile| durations.value_at_quantile(quantile) as f64 / 1000.0;
    format!(
        "{} writes, p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms; {:.2}% took less than {short:?}",
        durations.len(),
        ms(0.5),
        ms(0.99),
        durations.max() as f64 / 1000.0,
        durations.percentile_below((short.as_micros() as u64).saturating_sub(1)),
    )
}

fn meets_a_hold(sample: &Sample, status: &MoveStatus) -> bool {
    let end = sample.started_unix_us + sample.duration_us;
    status.cutovers.iter().any(|c| sample.started_unix_us < c.released_unix_us && end > c.held_from_unix_us)
}

fn is_of_moving_rows(sample: &Sample, status: &MoveStatus) -> bool {
    status.r#move.as_ref().is_some_and(|m| moves(m, sample.tenant) || moves(m, sample.other_tenant))
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.count == 0 {
            return write!(f, "none: no write to a moving row met the cutover");
        }
        write!(
            f,
            "{} writes, p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            self.count, self.p50_ms, self.p99_ms, self.max_ms
        )
    }
}

/// Up to an hour, to three digits.
fn microseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are valid")
}
