//! The lease's clock: one atomic number, read before every answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A lease ends for the gateway this much earlier than for the control plane.
pub(super) const MARGIN: Duration = Duration::from_millis(500);

/// A lease as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// In the past for a lease that ran out or was never given.
    pub valid_until: Instant,
}

impl Lease {
    pub fn is_live(&self) -> bool {
        Instant::now() < self.valid_until
    }
}

/// Monotonic, lock-free, shared by all tasks.
#[derive(Debug, Clone)]
pub struct LeaseClock {
    shared: Arc<Clock>,
}

#[derive(Debug)]
struct Clock {
    start: Instant,
    /// Nanoseconds after `start`; 0: never given.
    valid_until: AtomicU64,
    /// How often a lease had run out before it was given again.
    lapses: AtomicU64,
}

impl LeaseClock {
    pub(super) fn new() -> LeaseClock {
        let (valid_until, lapses) = (AtomicU64::new(0), AtomicU64::new(0));
        LeaseClock { shared: Arc::new(Clock { start: Instant::now(), valid_until, lapses }) }
    }

    /// A clock whose lease never runs out: for tests, and for a gateway without a control plane.
    pub fn always_live() -> LeaseClock {
        let clock = LeaseClock::new();
        clock.shared.valid_until.store(u64::MAX / 2, Ordering::Release);
        clock
    }

    pub fn lease(&self) -> Lease {
        let nanoseconds = self.shared.valid_until.load(Ordering::Acquire);
        Lease { valid_until: self.shared.start + Duration::from_nanos(nanoseconds) }
    }

    pub fn is_live(&self) -> bool {
        self.lease().is_live()
    }

    /// How often the lease had run out before it was given again: it grows before such a lease is live.
    pub fn lapses(&self) -> u64 {
        self.shared.lapses.load(Ordering::Acquire)
    }

    /// A heartbeat that was sent at `sent_at` has been granted `length`. A lease never gets shorter.
    pub(super) fn renew(&self, sent_at: Instant, length: Duration) {
        let valid_until = sent_at + length.saturating_sub(MARGIN);
        let nanoseconds = valid_until.saturating_duration_since(self.shared.start).as_nanos();
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX / 2);
        let known = self.shared.valid_until.load(Ordering::Acquire);
        if known > 0 && !self.is_live() {
            self.shared.lapses.fetch_add(1, Ordering::AcqRel);
        }
        self.shared.valid_until.fetch_max(nanoseconds, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_from_the_sending_and_ends_early() {
        let clock = LeaseClock::new();
        assert!(!clock.is_live());
        let sent_at = Instant::now();
        clock.renew(sent_at, Duration::from_secs(3));
        assert!(clock.is_live());
        assert_eq!(clock.lease().valid_until, sent_at + Duration::from_millis(2500));
        clock.renew(sent_at, Duration::from_secs(1));
        assert_eq!(clock.lease().valid_until, sent_at + Duration::from_millis(2500), "never shorter");
        assert!(LeaseClock::always_live().is_live());
    }

    #[test]
    fn a_lease_that_ran_out_is_counted_when_it_comes_again() {
        let clock = LeaseClock::new();
        let long_ago = Instant::now();
        clock.renew(long_ago, MARGIN);
        assert!(!clock.is_live());
        assert_eq!(clock.lapses(), 0);
        clock.renew(Instant::now(), Duration::from_secs(60));
        clock.renew(Instant::now(), Duration::from_secs(60));
        assert!(clock.is_live());
        assert_eq!(clock.lapses(), 1);
    }
}
