//! The only owner of two times: the last recorded event, and the floors up to which records may be missing.
//!
//! Each recorded event moves the last event forward, in the same transaction. Only an operator can move it back. A
//! clock that is more than [`STEP_TOLERANCE`] behind it is wrong, and no age computed from it can be trusted.
//!
//! A *floor* is an instant up to which records may be missing. For a token issued (or an identifier created) up to
//! then, the absence of a recorded use does not prove that it is unused. A repair sets floors, and so does an operator
//! who sets the clock back to before a time at which records were dropped.

use std::time::Duration;

use writ_platform::clock::{STEP_TOLERANCE, Timestamp};

/// Records are kept this much longer than needed, so that a clock that is a day ahead drops nothing early.
pub(crate) const RETENTION_MARGIN: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// The outcome of recording an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "nothing is recorded if the clock is behind"]
pub enum EventOutcome {
    /// The event is durable.
    Recorded,
    /// The time of the event is more than [`STEP_TOLERANCE`] before the last event; nothing was recorded.
    ClockBehind,
}

/// Whether `now` is more than [`STEP_TOLERANCE`] before the last event.
pub(crate) fn is_behind(last: Timestamp, now: Timestamp) -> bool {
    now + STEP_TOLERANCE < last
}
