//! A circuit breaker: suspends calls to a service that has failed repeatedly.

use std::time::{Duration, Instant};

/// The number of consecutive failures that opens the breaker.
const FAILURES: u32 = 5;

/// How long the breaker stays open before the next attempt.
const REST: Duration = Duration::from_secs(5);

/// Counts consecutive failures. After [`FAILURES`] of them, it admits one attempt after each [`REST`] until one succeeds.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    /// Set while the breaker is open: the time of the next attempt.
    next_attempt: Option<Instant>,
}

impl Breaker {
    /// Whether the service may be called at `now`. While open, `true` uses up the attempt, even if its outcome is never
    /// reported; the next one is possible after another [`REST`].
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        match self.next_attempt {
            None => true,
            Some(at) if now < at => false,
            Some(_) => {
                self.next_attempt = Some(now + REST);
                true
            }
        }
    }

    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.next_attempt = Some(now + REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);
    const ALMOST: Duration = Duration::from_millis(4_999);

    fn failed_often(times: u32, now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..times {
            assert!(breaker.admits(now));
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn only_consecutive_failures_open_the_breaker() {
        let now = Instant::now();
        let mut breaker = failed_often(FAILURES - 1, now);
        assert!(breaker.admits(now));
        breaker.succeeded();
        breaker.failed(now);
        assert!(breaker.admits(now), "the failures were not consecutive");
        let mut breaker = failed_often(FAILURES, now);
        assert!(!breaker.admits(now) && !breaker.admits(now + ALMOST));
    }

    #[test]
    fn after_a_rest_one_call_is_admitted_and_its_success_closes_the_breaker() {
        let start = Instant::now();
        let mut breaker = failed_often(FAILURES, start);
        let later = start + REST;
        assert!(breaker.admits(later));
        assert!(!breaker.admits(later), "one only");
        breaker.succeeded();
        assert!(breaker.admits(later) && breaker.admits(later));
    }

    #[test]
    fn a_failed_or_unreported_attempt_begins_another_rest() {
        let start = Instant::now();
        let mut breaker = failed_often(FAILURES, start);
        let second = start + REST;
        assert!(breaker.admits(second));
        breaker.failed(second + MOMENT);
        assert!(!breaker.admits(second + REST));
        let third = second + REST + MOMENT;
        assert!(breaker.admits(third), "its outcome is never reported");
        assert!(!breaker.admits(third + ALMOST));
        assert!(breaker.admits(third + REST));
    }

    #[test]
    fn late_failures_of_earlier_calls_prolong_the_rest() {
        let start = Instant::now();
        let mut breaker = failed_often(FAILURES, start);
        breaker.failed(start + MOMENT);
        assert!(!breaker.admits(start + REST));
        assert!(breaker.admits(start + REST + MOMENT));
    }
}
