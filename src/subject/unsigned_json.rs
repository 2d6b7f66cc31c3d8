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
    // No other time is looked at: whatever else the object says is for the policy to name.
    let mut expiry = Members::default();
    expiry.adopt("exp", &claims, "exp");
    let usable_until = Times::read(&expiry, now)?.hold(now, clock_skew)?;
    Ok(AssertedSubject { source: Source::UnsignedJson, sub, claims, usable_until, single_use: None })
}
