//! The form of a JWT, before any signature is checked; and the mistakes in a text that is not one.

use writ_verifier::Members;
use writ_verifier::jws::{Jws, JwsError};

use super::SubjectError;
use super::SubjectFault::{IssuerUnknown, Malformed, SignatureInvalid};

/// The maximum length of a JWT in bytes; longer than any token that this service issues, redeemed ones included.
pub(super) const MAX_LEN: usize = 16 * 1024;

/// `iss`, unproven.
pub(super) fn issuer(claims: &Members) -> Result<String, SubjectError> {
    let written = claims.raw("iss").is_some();
    let why = if written { "`iss` must be a string" } else { "`iss` is missing" };
    claims.get("iss").ok_or(IssuerUnknown.because(why))
}

/// Refuses a text that is longer than any JWT that is read.
pub(super) fn check_len(text: &str) -> Result<(), SubjectError> {
    if text.len() > MAX_LEN { Err(TOO_LONG) } else { Ok(()) }
}

const TOO_LONG: SubjectError = Malformed.because("it is longer than 16 KiB");

pub(super) fn parse(text: &str) -> Result<Jws<'_>, SubjectError> {
    Jws::parse(text, MAX_LEN).map_err(|error| match error {
        JwsError::Algorithm(why) => SignatureInvalid.because(why),
        JwsError::TooLong => TOO_LONG,
        JwsError::Form(why) | JwsError::Header(why) => Malformed.because(common_mistake(text).unwrap_or(why)),
    })
}

/// The mistake in copying or encoding `text`, if it is a common one.
pub fn common_mistake(text: &str) -> Option<&'static str> {
    let starts = |prefix: &str| text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let is_space = |c: char| c.is_whitespace() || c == '\u{feff}';
    if text.ends_with('\n') {
        Some("it ends with a newline, as files do")
    } else if text.ends_with(is_space) {
        Some("it ends with white space")
    } else if starts("Bearer ") {
        Some("it begins with `Bearer `: only the token itself is to be sent")
    } else if starts("DPoP ") {
        Some("it begins with `DPoP `: only the token itself is to be sent")
    } else if text.starts_with(is_space) {
        Some("it begins with white space")
    } else if text.contains(is_space) {
        Some("it has white space in it")
    } else if text.starts_with(['"', '\'']) {
        Some("it is in quotation marks")
    } else if text.starts_with('{') {
        Some("it is JSON, not a token alone")
    } else if text.contains('%') {
        Some("it has a percent sign in it, as if it were encoded twice")
    } else {
        None
    }
}

/// A `typ` for a message, which may repeat only well-known ones.
fn shown_typ(typ: Option<&str>) -> &'static str {
    const KNOWN: [(&str, &str); 12] = [
        ("at+jwt", "`at+jwt`"),
        ("jwt", "`JWT`"),
        ("txntoken+jwt", "`txntoken+jwt`"),
        ("logout+jwt", "`logout+jwt`"),
        ("secevent+jwt", "`secevent+jwt`"),
        ("dpop+jwt", "`dpop+jwt`"),
        ("token-introspection+jwt", "`token-introspection+jwt`"),
        ("oauth-authz-req+jwt", "`oauth-authz-req+jwt`"),
        ("client-authentication+jwt", "`client-authentication+jwt`"),
        ("rt+jwt", "`rt+jwt`"),
        ("jose", "`JOSE`"),
        ("", "empty"),
    ];
    let Some(typ) = typ else { return "absent" };
    KNOWN.iter().find(|(known, _)| *known == typ).map_or("another one", |(_, shown)| shown)
}

/// The error for a `typ` that is not the one `expected` of tokens presented as `presented_as`.
pub(super) fn wrong_typ(typ: Option<&str>, presented_as: &str, expected: &str) -> SubjectError {
    Malformed.because_of(format!("its typ is {}; as {presented_as} it must be {expected}", shown_typ(typ)))
}
