//! The ring as a pure state machine: next, current, previous, historical, revoked.

use std::time::Duration;

/// When keys change: times that can hold together, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTimes {
    rotation_period: Duration,
    jwks_max_age: Duration,
    max_lifetime: Duration,
    retention: Duration,
}

/// Why the times cannot hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTimesError {
    /// A previous key must stay published while its tokens live and verifiers may hold the old JWKS.
    #[error("rotation_period must not be shorter than max_lifetime and jwks_max_age together")]
    RotationTooShort,
}

impl KeyTimes {
    /// Times that hold together.
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
}
