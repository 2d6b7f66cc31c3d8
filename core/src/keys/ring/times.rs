//! When keys change.

use std::time::Duration;

/// A consistent set of times that determine when keys change, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTimes {
    rotation_period: Duration,
    jwks_max_age: Duration,
    max_lifetime: Duration,
    retention: Duration,
}

/// Why the times are inconsistent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTimesError {
    /// A previous key must stay published while its tokens live and verifiers may have the old JWKS.
    #[error("rotation_period must not be shorter than max_lifetime and jwks_max_age together")]
    RotationTooShort,
}

impl KeyTimes {
    /// Checks that the times are consistent.
    ///
    /// # Errors
    /// [`KeyTimesError`] if `rotation_period` is shorter than `max_lifetime + jwks_max_age`.
    pub fn new(
        rotation_period: Duration,
        jwks_max_age: Duration,
        max_lifetime: Duration,
        retention: Duration,
    ) -> Result<Self, KeyTimesError> {
        if rotation_period < max_lifetime + jwks_max_age {
            return Err(KeyTimesError::RotationTooShort);
        }
        Ok(Self { rotation_period, jwks_max_age, max_lifetime, retention })
    }

    /// How long a key signs (`keys.rotation_period`).
    pub(crate) const fn rotation_period(self) -> Duration {
        self.rotation_period
    }

    /// How long verifiers may cache a JWKS (`tokens.jwks_max_age`).
    pub const fn jwks_max_age(self) -> Duration {
        self.jwks_max_age
    }

    /// How long a key is published before it signs: until no verifier has an older JWKS, plus a second, since the time
    /// of its generation is rounded down.
    pub fn lead(self) -> Duration {
        self.jwks_max_age + Duration::from_secs(1)
    }

    /// The maximum lifetime of tokens (`tokens.max_lifetime`).
    pub const fn max_lifetime(self) -> Duration {
        self.max_lifetime
    }

    /// How long a public key is kept after its last signature (`keys.retention`).
    pub const fn retention(self) -> Duration {
        self.retention
    }
}

/// Durations as whole seconds in records.
pub(super) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        duration.as_secs().serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_may_not_be_shorter_than_lifetime_and_publication() {
        let times = |rotation| {
            let seconds = Duration::from_secs;
            KeyTimes::new(seconds(rotation), seconds(2), seconds(3), seconds(100))
        };
        assert!(times(5).is_ok());
        assert_eq!(times(4), Err(KeyTimesError::RotationTooShort));
    }
}
