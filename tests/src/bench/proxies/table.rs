//! One line for each target of a workload: medians of the rounds, and ratios to the direct connection and to PgBouncer.

use super::pgbench::Run;

/// What a run has cost a proxy.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    pub nanoseconds: u64,
    pub memory_bytes: u64,
}

pub struct Row {
    name: &'static str,
    pub note: &'static str,
    runs: Vec<Run>,
    /// Of the proxy, for each transaction, in microseconds.
    cpu: Vec<f64>,
    /// Of the proxy, after the run, in MB.
    memory: Vec<f64>,
}

impl Row {
    pub fn new(name: &'static str) -> Row {
        Row { name, note: "", runs: Vec::new(), cpu: Vec::new(), memory: Vec::new() }
    }

    /// `proxy`: its processor time for the run, and its memory afterwards.
    pub fn add(&mut self, run: Run, proxy: Option<Spent>) {
        self.runs.push(run);
        if let Some(spent) = proxy {
            self.cpu.push(spent.nanoseconds as f64 / 1_000.0 / run.transactions.max(1) as f64);
            self.memory.push(spent.memory_bytes as f64 / 1e6);
        }
    }

    fn per_second(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.per_second).collect()
    }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Of the ratios round by round.
fn ratio(a: &Row, b: &Row) -> f64 {
    median(a.per_second().iter().zip(b.per_second()).map(|(a, b)| a / b).collect())
}

fn latency(row: &Row) -> f64 {
    median(row.runs.iter().map(|run| run.latency_ms).collect())
}

pub fn print_header() {
    println!(
        "{:<46} {:>9} {:>10} {:>11} {:>11} {:>9} {:>13} {:>10} {:>9}",
        "medians", "per s", "of direct", "of bouncer", "latency ms", "added", "proxy CPU us", "per CPU s", "MB"
    );
}

pub fn print(workload: &str, rows: &[Row]) {
    println!("{workload}");
    let direct = rows.iter().find(|row| row.name == "direct");
    let bouncer = rows.iter().find(|row| row.name == "pgbouncer");
    let bouncer_cpu = bouncer.map(|row| median(row.cpu.clone()));
    for row in rows {
        let of = |other: Option<&Row>| other.map_or_else(String::new, |other| format!("{:.2}", ratio(row, other)));
        let cpu = median(row.cpu.clone());
        // How many transactions a second of the proxy's processor time serves, against PgBouncer.
        let per_cpu = bouncer_cpu.filter(|_| !row.cpu.is_empty()).map(|bouncer| bouncer / cpu);
        println!(
            "  {:<44} {:>9.0} {:>10} {:>11} {:>11.3} {:>9} {:>13} {:>10} {:>9}",
            format!("{}{}", row.name, row.note),
            median(row.per_second()),
            of(direct),
            of(bouncer),
            latency(row),
            direct
                .filter(|_| row.name != "direct")
                .map_or_else(String::new, |direct| format!("{:.3}", latency(row) - latency(direct))),
            if row.cpu.is_empty() { String::new() } else { format!("{cpu:.1}") },
            per_cpu.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            if row.memory.is_empty() { String::new() } else { format!("{:.1}", median(row.memory.clone())) },
        );
    }
}
