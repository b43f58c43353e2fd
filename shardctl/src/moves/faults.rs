//! Points at which fault tests kill the control plane.
//!
//! `RINGWAY_FAULT_FILE` names a file. While it holds the line `<point> kill`, reaching that point appends the point to
//! `<file>.hit` and ends this process with SIGKILL. Without the variable a point costs one look at an unset option.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::step::Effect;

/// Inside the effects that do something in several parts, and inside the sweeper.
const MIDDLES: [&str; 15] = [
    "JoinTarget:middle",
    "CloseTarget:middle",
    "InstallCapture:middle",
    "Backfill:middle",
    "Verify:middle",
    "Fence:middle",
    "Switch:middle",
    "Switch:opened",
    "ReverseFence:middle",
    "ReverseSwitch:middle",
    "ReverseSwitch:opened",
    "PublishUnmirror:middle",
    "DeleteMoved:middle",
    "DeleteCopied:middle",
    "Sweep:middle",
];

/// Every point, as `shardctl serve --list-fault-points` prints them.
pub fn all() -> Vec<String> {
    let mut points: Vec<String> = Effect::ALL
        .iter()
        .flat_map(|effect| [format!("{}:before", effect.name()), format!("{}:after", effect.name())])
        .collect();
    points.extend(MIDDLES.iter().map(|point| (*point).to_owned()));
    points
}

fn fault_file() -> Option<&'static PathBuf> {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    FILE.get_or_init(|| std::env::var_os("RINGWAY_FAULT_FILE").map(PathBuf::from)).as_ref()
}

/// Dies here if the fault file says so.
pub fn point(effect: &str, place: &str) {
    let Some(file) = fault_file() else { return };
    let name = format!("{effect}:{place}");
    let Ok(wanted) = std::fs::read_to_string(file) else { return };
    if wanted.lines().any(|line| line.trim() == format!("{name} kill")) {
        die(file, &name);
    }
}

fn die(file: &std::path::Path, name: &str) {
    let mut hit = file.as_os_str().to_owned();
    hit.push(".hit");
    let written = std::fs::OpenOptions::new().create(true).append(true).open(PathBuf::from(hit)).and_then(|mut hit| {
        writeln!(hit, "{name}")?;
        hit.sync_all()
    });
    if let Err(error) = written {
        tracing::error!(%error, "the fault file's hit cannot be written");
    }
    // Dying is the point of it.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_middle_belongs_to_an_effect_or_the_sweeper() {
        for point in MIDDLES {
            let effect = point.split(':').next().unwrap_or_default();
            assert!(effect == "Sweep" || Effect::ALL.iter().any(|e| e.name() == effect), "{point}");
        }
        assert_eq!(all().len(), Effect::ALL.len() * 2 + MIDDLES.len());
    }
}
