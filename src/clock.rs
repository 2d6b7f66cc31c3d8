//! What time it is: whole seconds since 1970, read once for an act and passed on.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_reads_as_rfc_3339() {
        assert_eq!(Timestamp::from_epoch(1_793_000_060).to_string(), "2026-10-26T07:34:20Z");
        assert_eq!(Timestamp::from_epoch(u64::MAX).to_string(), u64::MAX.to_string());
    }

    #[test]
    fn arithmetic_stops_at_both_ends() {
        assert_eq!(Timestamp::from_epoch(u64::MAX) + Duration::from_secs(1), Timestamp::from_epoch(u64::MAX));
        assert_eq!(Timestamp::from_epoch(1) - Duration::from_secs(2), Timestamp::from_epoch(0));
        assert_eq!(Timestamp::from_epoch(1).since(Timestamp::from_epoch(2)), Duration::ZERO);
    }
}
