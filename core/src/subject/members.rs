//! The claims of a subject token as text → members, and typed reads of single claims.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use writ_verifier::json::{self, Limits};
use writ_verifier::{Members, Purpose, Scope};

use super::SubjectError;
use super::SubjectFault::{ClaimsInvalid, Malformed};
use crate::request::Subject;

/// The limits on the claims of an issuer's token. Users can be in hundreds of groups.
pub const LIMITS: Limits = Limits { members: 2048, ..Limits::DEFAULT };

/// The well-known names, which messages may repeat. Any other could be sensitive.
const KNOWN_CLAIMS: [&str; 40] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "act",
    "may_act",
    "scope",
    "scp",
    "client_id",
    "cnf",
    "azp",
    "nonce",
    "auth_time",
    "at_hash",
    "c_hash",
    "s_hash",
    "acr",
    "amr",
    "sid",
    "events",
    "htm",
    "htu",
    "email",
    "name",
    "groups",
    "roles",
    "entitlements",
    "active",
    "token_type",
    "token_use",
    "typ",
    "username",
    "preferred_username",
    "txn",
    "tctx",
    "rctx",
    "req_wl",
];

/// The name of a claim for a message.
pub(super) fn shown(name: &str) -> &str {
    KNOWN_CLAIMS.iter().find(|known| **known == name).copied().unwrap_or("the configured claim")
}

/// Parses an unambiguous JSON object: claims, or a reply.
///
/// A time like `1e400` is accepted, although it is not a double: the check of times reports it.
pub(super) fn members(text: &[u8]) -> Result<Members, SubjectError> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed.because("its claims are not UTF-8"))?;
    Members::parse(text, LIMITS).or_else(|_| tolerate(text))
}

/// The claims, if nothing but a time in them is not acceptable JSON; otherwise the mistake.
fn tolerate(text: &str) -> Result<Members, SubjectError> {
    let object = || serde_json::from_str::<Members>(text);
    let checked = json::check(text, LIMITS);
    let claims = match (checked, object()) {
        (Ok(()), claims) => return claims.map_err(|_| Malformed.because("its claims are not a JSON object")),
        (Err(error), Err(_)) => return Err(Malformed.because_of(format!("its claims are {error}"))),
        (Err(error), Ok(_)) if error.to_string().contains("too many") => {
            return Err(Malformed.because("an array or object in its claims has more than 2048 members"));
        }
        (Err(error), Ok(claims)) => {
            if let Some(name) = repeated(&claims) {
                return Err(Malformed.because_of(format!("the claim `{name}` is repeated")));
            }
            let timeless = timeless(&claims).and_then(|text| json::check(&text, LIMITS).ok());
            timeless.ok_or_else(|| Malformed.because_of(format!("its claims are {error}")))?;
            claims
        }
    };
    Ok(claims)
}

/// The first well-known claim that is repeated.
fn repeated(claims: &Members) -> Option<&'static str> {
    let count = |name: &str| claims.iter().filter(|(other, _)| *other == name).count();
    KNOWN_CLAIMS.into_iter().find(|name| count(name) > 1)
}

/// The claims, with every number in a time claim replaced by 0.
fn timeless(claims: &Members) -> Option<String> {
    let mut claims = claims.clone();
    for name in ["exp", "iat", "nbf"] {
        if claims.raw(name).is_some_and(|value| value.starts_with(|c: char| c == '-' || c.is_ascii_digit())) {
            claims.set(name, &0).ok()?;
        }
    }
    serde_json::to_string(&claims).ok()
}

/// A required claim that is a string.
pub(super) fn text<'a>(claims: &'a Members, name: &str) -> Result<Cow<'a, str>, SubjectError> {
    let fault = |fault: &str| ClaimsInvalid.because_of(format!("`{}` {fault}", shown(name)));
    if claims.raw(name).is_none() {
        return Err(fault("is missing"));
    }
    claims.text(name).ok_or_else(|| fault("must be a string"))
}

/// `aud`, in either of its forms.
pub(super) fn audience(claims: &Members) -> Result<Audience<'_>, SubjectError> {
    if claims.raw("aud").is_none() {
        return Err(ClaimsInvalid.because("`aud` is missing"));
    }
    claims.get("aud").ok_or(ClaimsInvalid.because("`aud` must be a string or an array of strings"))
}

/// The error for a claim that is not a [`Subject`].
pub(super) const SUBJECT_FORM: SubjectError =
    ClaimsInvalid.because("the subject must have 1 to 255 characters, none a control character, and hold no token");

/// `sub`, without any issuer's prefix.
pub(super) fn subject(claims: &Members) -> Result<Subject, SubjectError> {
    text(claims, "sub")?.parse().map_err(|_| SUBJECT_FORM)
}

/// The scope in the claim `name`: by RFC 6749 §3.3 with single spaces only, or an array with one word in each element, as
/// many issuers write it. An empty string or array counts as absent.
///
/// # Errors
/// [`SubjectError`] if the claim is anything else.
pub fn scope(claims: &Members, name: &str) -> Result<Option<Scope>, SubjectError> {
    if claims.raw(name).is_none() {
        return Ok(None);
    }
    let text = claims.text(name).map_or_else(|| joined_words(claims, name).map(Cow::Owned), Ok)?;
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| SCOPE_FORM) }
}

const SCOPE_FORM: SubjectError =
    ClaimsInvalid.because("the scope must be a string of words separated by single spaces, or an array of words");

/// A scope that is an array.
fn joined_words(claims: &Members, name: &str) -> Result<String, SubjectError> {
    let words: Vec<String> = claims.get(name).ok_or(SCOPE_FORM)?;
    // An element with a space in it would become two words.
    let are_words = words.iter().all(|word| word.parse::<Purpose>().is_ok());
    are_words.then(|| words.join(" ")).ok_or(SCOPE_FORM)
}

/// `aud` (RFC 7519 §4.1.3): a string, or an array of strings.
pub(super) struct Audience<'a>(Vec<Cow<'a, str>>);

impl<'a> Audience<'a> {
    /// Whether it contains one of `these`.
    pub(super) fn names_one_of(&self, these: &[impl AsRef<str>]) -> bool {
        self.0.iter().any(|name| these.iter().any(|this| name == this.as_ref()))
    }

    /// Whether it contains exactly one name.
    pub(super) fn is_single(&self) -> bool {
        self.0.len() == 1
    }

    pub(super) fn names(&self) -> &[Cow<'a, str>] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Audience<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        struct AudienceVisitor;
        impl<'de> Visitor<'de> for AudienceVisitor {
            type Value = Audience<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Audience<'de>, E> {
                Ok(Audience(vec![Cow::Borrowed(name)]))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Audience<'de>, E> {
                Ok(Audience(vec![Cow::Owned(name.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Audience<'de>, A::Error> {
                let mut names = Vec::new();
                while let Some(Name(name)) = elements.next_element()? {
                    names.push(name);
                }
                Ok(Audience(names))
            }
        }
        deserializer.deserialize_any(AudienceVisitor)
    }
}
