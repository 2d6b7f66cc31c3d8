//! A JSON object that names a subject; only the client's certificate authenticates it (TT §11.2.2).

use std::time::Duration;

use super::asserted::{AssertedSubject, statement};
use super::members::{members, subject};
use super::{SubjectError, SubjectFault};
use crate::request::Source;
use writ_platform::clock::Timestamp;

/// The largest object that is read, in bytes.
const MAX_LEN: usize = 16 * 1024;

/// Parses `text`. Checks `exp` if present, with `clock_skew`; the policy decides about all other members.
///
/// # Errors
/// The first [`SubjectError`] in this order: form, claims, times.
pub(super) fn verify(text: &str, clock_skew: Duration, now: Timestamp) -> Result<AssertedSubject, SubjectError> {
    if text.len() > MAX_LEN {
        return Err(SubjectFault::Malformed.because("it is longer than 16 KiB"));
    }
    let claims = members(text.as_bytes())?;
    let sub = subject(&claims)?;
    statement(Source::UnsignedJson, sub, claims, clock_skew, now).map(AssertedSubject::new)
}
