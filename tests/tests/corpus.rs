//! The fuzz targets' checks over their seeds and seeded mutations of them: what a peer sends makes nothing panic, and nothing is
//! allocated for a length that it merely claims. What fuzzing once found is among the seeds.
//!
//! A failure names target, file and case, and leaves its input in a file of the system's temporary directory.

#[path = "../../fuzz/checks/mod.rs"]
mod checks;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use checks::{Target, TARGETS};
use peak_alloc::PeakAlloc;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ringway_gateway::sql::depth::STACK_BYTES;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Mutations of each target's seeds. The numbers are the same on every machine: a failure repeats.
const CASES: u64 = 30_000;
/// Reported, not judged: a busy machine is no error.
const EXPECTED: Duration = Duration::from_secs(30);

// The only test here: others would allocate beside it.
#[test]
fn nothing_that_a_peer_sends_does_harm() {
    let run = || {
        for target in TARGETS {
            let started = Instant::now();
            let cases = check_target(target);
            let took = started.elapsed();
            let slow = if took > EXPECTED { ", slow" } else { "" };
            println!("{}: {cases} cases in {:.1} s{slow}", target.name, took.as_secs_f64());
        }
    };
    // With the stack of the gateway's threads, which its bounds on nesting are made for.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run);
        thread.expect("a thread").join().expect("every case passes");
    });
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut seeds: Vec<_> = std::fs::read_dir(&directory)
        .expect("every target has seeds")
        .map(|entry| entry.expect("a seed").path())
        .map(|path| (path.clone(), std::fs::read(path).expect("a seed can be read")))
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "{target} has no seed");
    seeds
}

fn check_target(target: &Target) -> u64 {
    let seeds = seeds(target.name);
    // What is computed once is not counted to the first case.
    (target.check)(&seeds[0].1);
    for (path, seed) in &seeds {
        check_case(target, path, u64::MAX, seed);
    }
    let mut rng = StdRng::seed_from_u64(1);
    for case in 0..CASES {
        let (path, seed) = &seeds[rng.random_range(0..seeds.len())];
        let other = &seeds[rng.random_range(0..seeds.len())].1;
        let input = mutate(&mut rng, seed, other);
        check_case(target, path, case, &input);
    }
    CASES + seeds.len() as u64
}

fn check_case(target: &Target, path: &Path, case: u64, input: &[u8]) {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    let allocated = ALLOCATOR.peak_usage().saturating_sub(before);
    let (bytes, bytes_of_each) = target.memory;
    let bound = bytes + bytes_of_each * input.len();
    if outcome.is_err() || allocated > bound {
        let kept = std::env::temp_dir().join(format!("ringway-corpus-{}-{case}", target.name));
        let kept_here = std::fs::write(&kept, input).is_ok();
        panic!(
            "{}, {} case {case}, {} bytes (kept in {}: {kept_here}): {}, {allocated} bytes allocated of {bound}",
            target.name,
            path.display(),
            input.len(),
            kept.display(),
            if outcome.is_err() { "it panics" } else { "it passes" },
        );
    }
}

/// One to four changes of the kinds that break parsers.
fn mutate(rng: &mut StdRng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    const NASTY: [[u8; 4]; 6] =
        [[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0x80, 0, 0, 0], [0; 4], [0, 0, 0, 4], [0xff, 0xff, 0xff, 0xfe]];
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let len = bytes.len();
        let at = rng.random_range(0..=len);
        match rng.random_range(0..9) {
            0 if at < len => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < len => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.random()),
            4 if at < len => {
                bytes.remove(at);
            }
            5 if at + 4 <= len => bytes[at..at + 4].copy_from_slice(&NASTY[rng.random_range(0..NASTY.len())]),
            6 if at + 2 <= len => bytes[at..at + 2].copy_from_slice(&[0xff; 2]),
            7 => {
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ if len < 4096 => bytes.extend_from_within(at..),
            _ => {}
        }
    }
    bytes
}
