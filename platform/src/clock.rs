//! What time it is: whole seconds since 1970, read once for an act and passed on.
//!
//! Requests are decided by the system's clock. Maintenance (dropping records, forgetting and rotating keys) and the end
//! of a block go by a [`Clock`], which compares it with one that only runs forward: what is dropped by a time that was
//! wrong for a moment cannot be had back.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat, Utc};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// How far the clock may step without consequences: the store takes it this far behind the last recorded event, too.
pub const TOLERANCE: Duration = Duration::from_secs(30);

/// A step ahead counts as right once it has lasted for so long.
const CONFIRMED_AFTER: Duration = Duration::from_secs(15);

/// For so long after a start the clock may still be set right, as it is at boot.
const SETTLED_AFTER_START: Duration = Duration::from_secs(6);

/// For so long after a step nothing is dropped for good.
const SETTLED_AFTER_STEP: Duration = Duration::from_secs(60 * 60);

/// A whole second of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The second `seconds` after 1970-01-01T00:00:00Z.
    pub const fn from_epoch(seconds: u64) -> Self {
        Self(seconds)
    }

    /// The system's clock, rounded down. A clock before 1970 reads as 1970: every time check then refuses.
    pub fn now() -> Self {
        Self(u64::try_from(Utc::now().timestamp()).unwrap_or(0))
    }

    /// Seconds since 1970.
    pub const fn epoch(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// Whole seconds only; what lies beyond the range stays at its end.
impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }
}

/// Whole seconds only; what lies before 1970 is 1970.
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

/// A duration in whole seconds as people write it: `60d5m`, `0s`.
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

/// The system's clock, watched.
///
/// Its time is the system's. After a step ahead it goes on as if there had been none, until the step has lasted for
/// 15 seconds. After any step, nothing may be dropped for an hour ([`Clock::is_settled`]). A step back is nothing that
/// this could judge: the ledger knows what was recorded.
#[derive(Debug)]
pub struct Clock(Mutex<Course>);

/// Both clocks at one moment, since 1970 and since boot.
#[derive(Debug, Clone, Copy)]
struct Reading {
    wall: Duration,
    since_boot: Duration,
}

/// How the system's clock ran beside the other one.
#[derive(Debug)]
struct Course {
    /// How far the system's clock was ahead of the other one when it was last read, in milliseconds.
    offset: i64,
    /// How far it was when it was last right.
    trusted: i64,
    /// Since when, by the other clock, it has not stepped; and for how long it must not, so that things may be dropped.
    steady_since: Duration,
    settles_after: Duration,
}

impl Clock {
    /// Watches the system's clock from now on; what it shows now counts as right.
    pub fn start() -> Self {
        Self(Mutex::new(Course::begin(Reading::take())))
    }

    /// The time to do maintenance by.
    pub fn now(&self) -> Timestamp {
        let reading = Reading::take();
        Timestamp(self.course(reading).time(reading).as_secs())
    }

    /// How long it is until `instant`, fractions included.
    pub fn until(&self, instant: Timestamp) -> Duration {
        let reading = Reading::take();
        Duration::from_secs(instant.0).saturating_sub(self.course(reading).time(reading))
    }

    /// By how much it is ahead of what can be believed.
    pub fn ahead(&self) -> Option<Duration> {
        self.course(Reading::take()).ahead()
    }

    /// Whether it has run for long enough without a step that what is over by it may be dropped for good.
    pub fn is_settled(&self) -> bool {
        let reading = Reading::take();
        let course = self.course(reading);
        course.steady_for(reading) >= course.settles_after
    }

    /// For how long it has not stepped.
    pub fn steady_for(&self) -> Duration {
        let reading = Reading::take();
        self.course(reading).steady_for(reading)
    }

    /// Takes the system's time as right: an operator has checked it.
    pub fn trust(&self) -> Timestamp {
        let reading = Reading::take();
        self.course(reading).trust();
        Timestamp(reading.wall.as_secs())
    }

    /// Nothing that is done to it can fail half-way, so it is in order even after a panic elsewhere.
    fn course(&self, reading: Reading) -> MutexGuard<'_, Course> {
        let mut course = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        course.observe(reading);
        course
    }
}

impl Reading {
    /// A clock before 1970 reads as 1970. The other clock also runs while the machine is suspended.
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

impl Course {
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
        // What drifts slowly is followed.
        if !is_step(offset, self.trusted) || self.steady_for(reading) >= CONFIRMED_AFTER {
            self.trusted = offset;
        }
    }

    fn ahead(&self) -> Option<Duration> {
        let ahead = u64::try_from(self.offset.saturating_sub(self.trusted)).ok().map(Duration::from_millis);
        ahead.filter(|ahead| *ahead > TOLERANCE)
    }

    fn time(&self, reading: Reading) -> Duration {
        reading.wall.saturating_sub(self.ahead().unwrap_or_default())
    }

    fn steady_for(&self, reading: Reading) -> Duration {
        // Another thread may have read the clock later and been quicker.
        reading.since_boot.saturating_sub(self.steady_since)
    }

    /// What was right a moment ago can still be believed: the operator may have gone back for a look only.
    fn trust(&mut self) {
        self.trusted = self.trusted.max(self.offset);
    }
}

fn is_step(offset: i64, before: i64) -> bool {
    u128::from(offset.abs_diff(before)) > TOLERANCE.as_millis()
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

    /// A course of readings: the other clock, and how far the system's is off, in seconds.
    struct Watched {
        course: Course,
        since_boot: u64,
        off: i64,
    }

    impl Watched {
        fn start() -> Self {
            Self { course: Course::begin(reading(1000, 0)), since_boot: 1000, off: 0 }
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
            self.course.observe(reading(self.since_boot, self.off));
            self
        }

        fn is_settled(&self) -> bool {
            self.course.steady_for(reading(self.since_boot, self.off)) >= self.course.settles_after
        }

        /// How far the time to act by is off.
        fn off(&self) -> i64 {
            let time = self.course.time(reading(self.since_boot, self.off));
            i64::try_from(time.as_secs()).unwrap() - i64::try_from(NOW + self.since_boot).unwrap()
        }
    }

    fn reading(since_boot: u64, off: i64) -> Reading {
        let wall = Duration::from_secs((NOW + since_boot).saturating_add_signed(off));
        Reading { wall, since_boot: Duration::from_secs(since_boot) }
    }

    ///
    #[test]
    fn a_step_ahead_is_not_believed_until_it_has_lasted() {
        for off in [31, 3600, 4 * DAY, 9000 * DAY] {
            let mut clock = Watched::start();
            assert_eq!((clock.wait(100).course.ahead(), clock.off()), (None, 0));
            clock.step(off).wait(4);
            assert_eq!((clock.course.ahead(), clock.off()), (Some(Duration::from_secs(off.unsigned_abs())), 0));
            assert_eq!((clock.step(0).course.ahead(), clock.off()), (None, 0), "back again at once");
            clock.step(off).wait(14);
            assert!(clock.course.ahead().is_some());
            assert_eq!((clock.wait(1).course.ahead(), clock.off()), (None, off));
        }
    }

    ///
    #[test]
    fn a_clock_that_jumps_about_is_never_believed() {
        let mut clock = Watched::start();
        for off in (1..20).map(|number| number * DAY) {
            clock.step(off).wait(10);
            assert_eq!((clock.course.ahead().is_some(), clock.off()), (true, 0));
        }
    }

    ///
    #[test]
    fn after_a_step_either_way_it_takes_an_hour_until_things_may_be_dropped() {
        for off in [4 * DAY, -4 * DAY, 31, -31] {
            let mut clock = Watched::start();
            assert!(!clock.wait(5).is_settled() && clock.wait(1).is_settled(), "a start");
            clock.step(off).wait(4);
            assert!(!clock.is_settled() && !clock.step(0).wait(3599).is_settled());
            assert!(clock.wait(1).is_settled());
        }
    }

    #[test]
    fn small_steps_and_slow_drift_are_nothing() {
        let mut clock = Watched::start();
        clock.wait(10);
        for off in (1..1000).map(|number| number * 20) {
            clock.step(off).wait(1);
            assert_eq!((clock.course.ahead(), clock.off(), clock.is_settled()), (None, off, true));
        }
    }

    #[test]
    fn what_an_operator_has_checked_is_believed_at_once_and_so_is_what_was_right_before() {
        let mut clock = Watched::start();
        clock.step(DAY).course.trust();
        assert_eq!((clock.course.ahead(), clock.off()), (None, DAY));
        clock.step(-DAY).course.trust();
        assert_eq!(clock.step(DAY).course.ahead(), None);
        clock.step(-DAY).wait(60).step(DAY);
        assert!(clock.course.ahead().is_some(), "but not what was right long ago");
    }

    #[test]
    fn the_clock_of_this_machine_is_right_and_runs() {
        let clock = Clock::start();
        assert_eq!((clock.ahead(), clock.is_settled()), (None, false));
        assert!(clock.now().epoch().abs_diff(Timestamp::now().epoch()) <= 1);
        let second = clock.until(clock.now() + Duration::from_secs(1));
        assert!(second <= Duration::from_secs(1) && second > Duration::ZERO, "{second:?}");
    }
}
