//! A JSON object that names a subject; nothing proves it but the client's own certificate (TT §11.2.2).

use std::time::Duration;

use writ_verifier::Members;

use super::SubjectError;
use super::asserted::{AssertedSubject, subject};
use super::outside::{Times, members};
use crate::clock::Timestamp;
use crate::policy::Source;

/// The longest object that is read, in bytes.
const MAX_LEN: usize = 16 * 1024;

/// Reads `text`. An `exp` in it is honoured, with `clock_skew`; whatever else it says is for the policy to name.
///
/// # Errors
/// The first [`SubjectError`] in this order: form, claims, times.
pub fn verify(text: &str, clock_skew: Duration, now: Timestamp) -> Result<AssertedSubject, SubjectError> {
    if text.len() > MAX_LEN {
        return Err(SubjectError::Malformed);
    }
    let claims = members(text.as_bytes())?;
    let sub = subject(&claims)?;
    let usable_until = claims.raw("exp").map(|_| usable_until(&claims, clock_skew, now)).transpose()?;
    Ok(AssertedSubject { source: Source::UnsignedJson, sub, claims, usable_until, single_use: None })
}

fn usable_until(claims: &Members, clock_skew: Duration, now: Timestamp) -> Result<Timestamp, SubjectError> {
    let times = Times::read(claims, now)?;
    times.hold(now, clock_skew)?;
    Ok(times.expires() + clock_skew)
}
