//! Time in whole seconds since 1970, read once for each operation and passed on.
//!
//! Requests are decided by the system clock. Maintenance (dropping records, forgetting and rotating keys) and the expiry
//! of blocks use a [`Clock`], which compares the system clock with a monotonic one: records that are dropped
//! because the time was briefly wrong cannot be recovered.

use std::fmt;
use std::ops::{Add, Sub};
#[cfg(feature = "testing")]
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Smaller steps are ignored. The store accepts a clock that is this far behind the last recorded event.
pub const STEP_TOLERANCE: Duration = Duration::from_secs(30);

/// A forward step is accepted once it has lasted this long.
const CONFIRMED_AFTER: Duration = Duration::from_secs(15);

/// How long after a start the clock may still be corrected, as happens at boot.
const SETTLED_AFTER_START: Duration = Duration::from_secs(6);

/// How long nothing is dropped after a step.
const SETTLED_AFTER_STEP: Duration = Duration::from_secs(60 * 60);

/// Unix time in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// `seconds` after 1970-01-01T00:00:00Z.
    pub const fn from_epoch(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The system clock, rounded down. A clock before 1970 reads as 1970: every time check then refuses.
    pub fn now() -> Self {
        Self(u64::try_from(Utc::now().timestamp()).unwrap_or(0))
    }

    /// Seconds since 1970.
    pub const fn epoch(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// Drops fractions of seconds; saturates.
impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }
}

/// Drops fractions of seconds; saturates at 1970.
impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_secs()))
    }
}

/// RFC 3339 in UTC, like `2026-10-26T07:34:20Z`; the bare number where it has no such form.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0)) {
            Some(time) => f.write_str(&time.to_rfc3339_opts(SecondsFormat::Secs, true)),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Prints whole seconds as people write them: `60d5m`, `0s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_secs();
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, seconds) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            if left >= seconds {
                write!(f, "{}{unit}", left / seconds)?;
                left %= seconds;
            }
        }
        Ok(())
    }
}

/// The system clock, checked for steps.
///
/// After a forward step, it continues as if the clock had not been changed until the step has lasted for 15 seconds. After
/// any step, nothing may be dropped for an hour ([`Clock::is_settled`]). Steps back are followed at once; the ledger,
/// which records the last event, refuses a clock that is too far behind it.
#[derive(Debug)]
pub struct Clock {
    source: Source,
    drift: Mutex<Drift>,
}

/// The source of a [`Clock`]'s readings.
#[derive(Debug)]
enum Source {
    System,
    /// Seconds since 1970, set by a test. The monotonic clock advances with them, so no step is ever detected.
    #[cfg(feature = "testing")]
    Set(AtomicU64),
}

/// One reading of a [`Clock`], for everything that belongs to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instants {
    /// The system time, by which requests are decided.
    pub system: Timestamp,
    /// The accepted time ([`Clock::now`]), by which blocks begin and end.
    pub believed: Timestamp,
}

/// Both clocks at the same moment: since 1970 and since boot.
#[derive(Debug, Clone, Copy)]
struct Reading {
    wall: Duration,
    since_boot: Duration,
}

/// How the system clock has moved in relation to the monotonic one.
#[derive(Debug)]
struct Drift {
    /// System clock minus monotonic clock at the last reading, in milliseconds.
    offset: i64,
    /// The same when the system clock was last accepted as right.
    trusted: i64,
    /// The time of the last step, or of the start, by the monotonic clock.
    steady_since: Duration,
    /// How long after `steady_since` records may be dropped.
    settles_after: Duration,
}

impl Clock {
    /// Accepts the present system time as right, and detects steps from now on.
    pub fn start() -> Self {
        Self::of(Source::System)
    }

    /// A clock that shows `now` until [`Clock::set`] changes it.
    #[cfg(feature = "testing")]
    pub fn stopped_at(now: Timestamp) -> Self {
        Self::of(Source::Set(AtomicU64::new(now.0)))
    }

    /// Sets a clock that was made with [`Clock::stopped_at`].
    ///
    /// # Panics
    /// If this is the system clock.
    #[cfg(feature = "testing")]
    pub fn set(&self, now: Timestamp) {
        match &self.source {
            Source::System => panic!("the system clock cannot be set"),
            Source::Set(time) => time.store(now.0, Ordering::SeqCst),
        }
    }

    fn of(source: Source) -> Self {
        let drift = Mutex::new(Drift::begin(source.reading()));
        Self { source, drift }
    }

    /// Reads both times at the same moment.
    pub fn read(&self) -> Instants {
        let reading = self.source.reading();
        let believed = Timestamp(self.drift(reading).time(reading).as_secs());
        Instants { system: Timestamp(reading.wall.as_secs()), believed }
    }

    /// The accepted time, for maintenance.
    pub fn now(&self) -> Timestamp {
        self.read().believed
    }

    /// The time until `instant`, including fractions of a second; zero if it has passed.
    pub fn until(&self, instant: Timestamp) -> Duration {
        let reading = self.source.reading();
        Duration::from_secs(instant.0).saturating_sub(self.drift(reading).time(reading))
    }

    /// How far the system clock is ahead of the accepted time, after a step that is not yet accepted.
    pub fn ahead(&self) -> Option<Duration> {
        self.drift(self.source.reading()).ahead()
    }

    /// Whether the clock has run long enough without a step that expired records may be dropped.
    pub fn is_settled(&self) -> bool {
        let reading = self.source.reading();
        let drift = self.drift(reading);
        drift.steady_for(reading) >= drift.settles_after
    }

    /// The time since the last step, or since the start.
    pub fn steady_for(&self) -> Duration {
        let reading = self.source.reading();
        self.drift(reading).steady_for(reading)
    }

    /// Accepts the system time as right, because an operator has checked it.
    pub fn trust(&self) -> Timestamp {
        let reading = self.source.reading();
        self.drift(reading).trust();
        Timestamp(reading.wall.as_secs())
    }

    /// No operation on it can panic halfway, so it is consistent even if the lock is poisoned.
    fn drift(&self, reading: Reading) -> MutexGuard<'_, Drift> {
        let mut drift = self.drift.lock().unwrap_or_else(PoisonError::into_inner);
        drift.observe(reading);
        drift
    }
}

impl Reading {
    /// A clock before 1970 reads as 1970. The monotonic clock also runs while the machine is suspended.
    fn take() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since_boot = clock_gettime(ClockId::Boottime);
        // Neither is negative.
        let seconds = u64::try_from(since_boot.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(since_boot.tv_nsec).unwrap_or(0);
        Self { wall, since_boot: Duration::new(seconds, nanoseconds) }
    }

    fn offset(self) -> i64 {
        milliseconds(self.wall).saturating_sub(milliseconds(self.since_boot))
    }
}

impl Source {
    fn reading(&self) -> Reading {
        match self {
            Self::System => Reading::take(),
            #[cfg(feature = "testing")]
            Self::Set(time) => {
                let time = Duration::from_secs(time.load(Ordering::SeqCst));
                Reading { wall: time, since_boot: time }
            }
        }
    }
}

impl Drift {
    fn begin(reading: Reading) -> Self {
        let (offset, steady_since) = (reading.offset(), reading.since_boot);
        Self { offset, trusted: offset, steady_since, settles_after: SETTLED_AFTER_START }
    }

    fn observe(&mut self, reading: Reading) {
        let offset = reading.offset();
        if is_step(offset, self.offset) {
            self.steady_since = reading.since_boot;
            self.settles_after = SETTLED_AFTER_STEP;
        }
        self.offset = offset;
        // Slow drift is followed.
        if !is_step(offset, self.trusted) || self.steady_for(reading) >= CONFIRMED_AFTER {
            self.trusted = offset;
        }
    }

    fn ahead(&self) -> Option<Duration> {
        let ahead = u64::try_from(self.offset.saturating_sub(self.trusted)).ok().map(Duration::from_millis);
        ahead.filter(|ahead| *ahead > STEP_TOLERANCE)
    }

    fn time(&self, reading: Reading) -> Duration {
        reading.wall.saturating_sub(self.ahead().unwrap_or_default())
    }

    fn steady_for(&self, reading: Reading) -> Duration {
        // Another thread may have observed a later reading first.
        reading.since_boot.saturating_sub(self.steady_since)
    }

    /// Keeps a later time that was accepted a moment ago: the operator may have set the clock back only for a moment.
    fn trust(&mut self) {
        self.trusted = self.trusted.max(self.offset);
    }
}

fn is_step(offset: i64, before: i64) -> bool {
    u128::from(offset.abs_diff(before)) > STEP_TOLERANCE.as_millis()
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp::from_epoch(1_793_000_060).to_string(), "2026-10-26T07:34:20Z");
        assert_eq!(Timestamp::from_epoch(u64::MAX).to_string(), u64::MAX.to_string());
    }

    #[test]
    fn a_duration_reads_as_people_write_it() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (300, "5m"), (3_661, "1h1m1s"), (86_400, "1d")] {
            assert_eq!(HumanDuration(Duration::from_secs(seconds)).to_string(), text);
        }
        assert_eq!(HumanDuration(Duration::from_secs(5_184_300)).to_string(), "60d5m");
        assert_eq!(HumanDuration(Duration::from_millis(90_999)).to_string(), "1m30s");
    }

    #[test]
    fn arithmetic_stops_at_both_ends() {
        assert_eq!(Timestamp::from_epoch(u64::MAX) + Duration::from_secs(1), Timestamp::from_epoch(u64::MAX));
        assert_eq!(Timestamp::from_epoch(1) - Duration::from_secs(2), Timestamp::from_epoch(0));
        assert_eq!(Timestamp::from_epoch(1).since(Timestamp::from_epoch(2)), Duration::ZERO);
    }

    const NOW: u64 = 1_790_000_000;
    const DAY: i64 = 86_400;

    /// A clock under test: the monotonic time, and how far the system clock is off, in seconds.
    struct Simulated {
        drift: Drift,
        since_boot: u64,
        off: i64,
    }

    impl Simulated {
        fn start() -> Self {
            Self { drift: Drift::begin(reading(1000, 0)), since_boot: 1000, off: 0 }
        }

        fn step(&mut self, off: i64) -> &mut Self {
            self.off = off;
            self.observe()
        }

        /// A reading each second, as the service takes them.
        fn wait(&mut self, seconds: u64) -> &mut Self {
            for _ in 0..seconds {
                self.since_boot += 1;
                self.observe();
            }
            self
        }

        fn observe(&mut self) -> &mut Self {
            self.drift.observe(reading(self.since_boot, self.off));
            self
        }

        fn is_settled(&self) -> bool {
            self.drift.steady_for(reading(self.since_boot, self.off)) >= self.drift.settles_after
        }

        /// How far the time for maintenance is off.
        fn off(&self) -> i64 {
            let time = self.drift.time(reading(self.since_boot, self.off));
            i64::try_from(time.as_secs()).unwrap() - i64::try_from(NOW + self.since_boot).unwrap()
        }
    }

    fn reading(since_boot: u64, off: i64) -> Reading {
        let wall = Duration::from_secs((NOW + since_boot).saturating_add_signed(off));
        Reading { wall, since_boot: Duration::from_secs(since_boot) }
    }

    ///
    #[test]
    fn a_step_ahead_is_accepted_once_it_has_lasted() {
        for off in [31, 3600, 4 * DAY, 9000 * DAY] {
            let mut clock = Simulated::start();
            assert_eq!((clock.wait(100).drift.ahead(), clock.off()), (None, 0));
            clock.step(off).wait(4);
            assert_eq!((clock.drift.ahead(), clock.off()), (Some(Duration::from_secs(off.unsigned_abs())), 0));
            assert_eq!((clock.step(0).drift.ahead(), clock.off()), (None, 0), "corrected at once");
            clock.step(off).wait(14);
            assert!(clock.drift.ahead().is_some());
            assert_eq!((clock.wait(1).drift.ahead(), clock.off()), (None, off));
        }
    }

    ///
    #[test]
    fn a_clock_that_keeps_stepping_is_never_accepted() {
        let mut clock = Simulated::start();
        for off in (1..20).map(|number| number * DAY) {
            clock.step(off).wait(10);
            assert_eq!((clock.drift.ahead().is_some(), clock.off()), (true, 0));
        }
    }

    ///
    #[test]
    fn nothing_is_dropped_for_an_hour_after_a_step_in_either_direction() {
        for off in [4 * DAY, -4 * DAY, 31, -31] {
            let mut clock = Simulated::start();
            assert!(!clock.wait(5).is_settled() && clock.wait(1).is_settled(), "a start");
            clock.step(off).wait(4);
            assert!(!clock.is_settled() && !clock.step(0).wait(3599).is_settled());
            assert!(clock.wait(1).is_settled());
        }
    }

    #[test]
    fn small_steps_and_slow_drift_are_followed() {
        let mut clock = Simulated::start();
        clock.wait(10);
        for off in (1..1000).map(|number| number * 20) {
            clock.step(off).wait(1);
            assert_eq!((clock.drift.ahead(), clock.off(), clock.is_settled()), (None, off, true));
        }
    }

    #[test]
    fn an_operators_check_accepts_a_step_at_once_and_keeps_the_time_before() {
        let mut clock = Simulated::start();
        clock.step(DAY).drift.trust();
        assert_eq!((clock.drift.ahead(), clock.off()), (None, DAY));
        clock.step(-DAY).drift.trust();
        assert_eq!(clock.step(DAY).drift.ahead(), None);
        clock.step(-DAY).wait(60).step(DAY);
        assert!(clock.drift.ahead().is_some(), "but not a time accepted long ago");
    }

    #[test]
    fn the_clock_of_this_host_is_settled_and_runs() {
        let clock = Clock::start();
        assert_eq!((clock.ahead(), clock.is_settled()), (None, false));
        assert!(clock.now().epoch().abs_diff(Timestamp::now().epoch()) <= 1);
        let second = clock.until(clock.now() + Duration::from_secs(1));
        assert!(second <= Duration::from_secs(1) && second > Duration::ZERO, "{second:?}");
    }
}
