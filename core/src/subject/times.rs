//! `exp`, `nbf` and `iat` of a subject token.

use std::time::Duration;

use writ_verifier::Members;

use super::SubjectError;
use super::SubjectFault::{ClaimsInvalid, Expired, NotYetValid};
use writ_platform::clock::Timestamp;

/// A time before 2001-09-09 or later than this from now is a mistake or an attack.
const MAX_AHEAD: Duration = Duration::from_secs(10 * 366 * 86_400);
const EARLIEST: Duration = Duration::from_secs(1_000_000_000);

/// The times of a token, since 1970; each is plausible.
pub(super) struct Times {
    pub(super) exp: Option<Duration>,
    nbf: Option<Duration>,
    pub(super) iat: Option<Duration>,
}

impl Times {
    pub(super) fn read(claims: &Members, now: Timestamp) -> Result<Self, SubjectError> {
        let time = |name, earliest| match claims.raw(name) {
            None => Ok(None),
            Some(text) => numeric_date(text, earliest, now).map(Some).map_err(|fault| {
                ClaimsInvalid.because_of(format!("`{name}` must be a number of seconds since 1970: {fault}"))
            }),
        };
        Ok(Self {
            exp: time("exp", EARLIEST)?,
            // Some issuers write 0 for no lower limit.
            nbf: time("nbf", Duration::ZERO)?,
            iat: time("iat", EARLIEST)?,
        })
    }

    /// Checks that `now` is within the times. Returns the first second in which the token has expired, the skew included;
    /// `None` if it has no `exp`.
    ///
    /// This clock has whole seconds, so a fraction of one counts against the token at both ends. A token issued in the
    /// future comes from a clock that is ahead and will become valid, so its claims are not at fault.
    pub(super) fn hold(&self, now: Timestamp, skew: Duration) -> Result<Option<Timestamp>, SubjectError> {
        let expires = self.exp.map(|exp| Timestamp::from_epoch(exp.as_secs()));
        if let Some(expired_at) = expires.filter(|exp| now >= *exp + skew) {
            return Err(Expired { expired_at }.into());
        }
        let latest = Duration::from_secs((now + skew).epoch());
        for (name, time) in [("nbf", self.nbf), ("iat", self.iat)] {
            if let Some(time) = time.filter(|time| *time > latest) {
                let ahead = time.as_secs().saturating_sub(now.epoch());
                return Err(
                    NotYetValid.because_of(format!("`{name}` is {ahead} seconds ahead of the clock of this service"))
                );
            }
        }
        Ok(expires.map(|exp| exp + skew))
    }
}

/// Parses a JSON number of seconds since 1970, integer or fraction (RFC 7519 §2), from `earliest` to ten years from now, so
/// that no sum overflows. The error names the mistake.
fn numeric_date(text: &str, earliest: Duration, now: Timestamp) -> Result<Duration, &'static str> {
    const NO_NUMBER: &str = "it is not a number";
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Err(NO_NUMBER);
    }
    let seconds: f64 = text.parse().map_err(|_| NO_NUMBER)?;
    let latest = Duration::from_secs((now + MAX_AHEAD).epoch());
    if let Ok(milliseconds) = Duration::try_from_secs_f64(seconds / 1000.0)
        && (EARLIEST..=latest).contains(&milliseconds)
    {
        return Err("it looks like milliseconds");
    }
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| "it is out of range")?;
    if time > latest {
        return Err("it is more than ten years ahead");
    }
    if time < earliest {
        return Err("it is before 2001");
    }
    Ok(time)
}
