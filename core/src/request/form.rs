//! The body of a request → parameters (`application/x-www-form-urlencoded`).

use std::borrow::Cow;

use writ_verifier::json::{Limits, Members};
use zeroize::Zeroizing;

use super::error::RequestError;
use super::presented::TokenText;

const MAX_PARAMETERS: usize = 64;
const MAX_JSON: usize = 16 * 1024;

/// Every known parameter. Messages repeat only these names, since a client may send anything as a name.
const PARAMETERS: [&str; 18] = [
    "grant_type",
    "requested_token_type",
    "audience",
    "scope",
    "subject_token",
    "subject_token_type",
    "request_details",
    "request_context",
    "requested_subject",
    "resource",
    "actor_token",
    "actor_token_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "token",
    "token_type_hint",
];

/// The parameters of a form: decoded, with unique names; empty values are distinct from absent ones.
pub struct Form(Vec<(String, Zeroizing<String>)>);

impl Form {
    /// Decodes a body.
    ///
    /// # Errors
    /// [`RequestError::Malformed`] for bad percent-encoding, UTF-8 or NUL, or more than 64 parameters;
    /// [`RequestError::Repeated`] for a name sent twice, known or not.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let mut parameters: Vec<(String, Zeroizing<String>)> = Vec::new();
        for pair in body.split(|&b| b == b'&').filter(|pair| !pair.is_empty()) {
            if parameters.len() == MAX_PARAMETERS {
                return Err(RequestError::Malformed("the form", "it has more than 64 parameters".into()));
            }
            let place = parameters.len() + 1;
            let mut halves = pair.splitn(2, |&b| b == b'=');
            let name = decode(halves.next().unwrap_or_default()).map_err(|fault| {
                RequestError::Malformed("the form", format!("in the name of parameter {place}, {fault}").into())
            })?;
            let value = decode(halves.next().unwrap_or_default()).map_err(|fault| match known(&name) {
                Some(name) => RequestError::Malformed(name, fault.into()),
                None => RequestError::Malformed("the form", format!("in parameter {place}, {fault}").into()),
            })?;
            if let Some(first) = parameters.iter().position(|(known, _)| *known == *name) {
                return Err(RequestError::Repeated { name: known(&name), first: first + 1, second: place });
            }
            parameters.push((name.to_string(), value));
        }
        Ok(Self(parameters))
    }

    /// The value of `name`, empty ones included.
    pub(super) fn sent(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of `name`; an empty one counts as absent (RFC 6749 §3.2).
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.sent(name).filter(|value| !value.is_empty())
    }

    pub(super) fn required(&self, name: &'static str) -> Result<&str, RequestError> {
        self.value(name).ok_or(RequestError::Missing(name))
    }

    pub(super) fn refuse(&self, names: &[&'static str]) -> Result<(), RequestError> {
        match names.iter().find(|name| self.value(name).is_some()) {
            Some(name) => Err(RequestError::Unsupported(name)),
            None => Ok(()),
        }
    }

    /// `client_id`; `None` if absent or empty.
    pub fn client_id(&self) -> Option<&str> {
        self.value("client_id")
    }

    /// `token` of an introspection (RFC 7662 §2.1); its `token_type_hint` is ignored.
    ///
    /// # Errors
    /// [`RequestError::Missing`] if it is absent or empty.
    pub fn token(&self) -> Result<TokenText, RequestError> {
        self.required("token").map(TokenText::new)
    }

    /// Refuses parameters that would authenticate the client a second time, besides its certificate.
    ///
    /// # Errors
    /// [`RequestError::Unsupported`] naming the parameter.
    pub(crate) fn refuse_second_authentication(&self) -> Result<(), RequestError> {
        self.refuse(&["client_secret", "client_assertion", "client_assertion_type"])
    }

    pub(super) fn object(&self, name: &'static str) -> Result<Option<Members>, RequestError> {
        let Some(text) = self.value(name) else { return Ok(None) };
        let malformed = |why: Cow<'static, str>| RequestError::Malformed(name, why);
        if text.len() > MAX_JSON {
            return Err(malformed("it is longer than 16 KiB".into()));
        }
        if !text.trim_start().starts_with('{') {
            return Err(malformed("it is not the text of a JSON object".into()));
        }
        Members::parse(text, Limits::DEFAULT).map(Some).map_err(|error| malformed(error.to_string().into()))
    }
}

/// The name, if it is known.
fn known(name: &str) -> Option<&'static str> {
    PARAMETERS.into_iter().find(|known| *known == name)
}

/// Decodes `+` to a space and `%XX` to a byte; the result must be UTF-8 without NUL. The error names mistake and place.
fn decode(bytes: &[u8]) -> Result<Zeroizing<String>, String> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut rest = bytes.iter().enumerate();
    while let Some((at, &byte)) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|(_, &d)| char::from(d).to_digit(16)).and_then(|d| u8::try_from(d).ok());
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(format!(
                        "the percent sign at byte {} is not followed by two hexadecimal digits",
                        at + 1
                    ));
                };
                high << 4 | low
            }
            other => other,
        });
    }
    if let Some(at) = decoded.iter().position(|byte| *byte == 0) {
        return Err(format!("byte {} is NUL once it is decoded", at + 1));
    }
    let text = std::str::from_utf8(&decoded);
    text.map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|error| format!("byte {} is not UTF-8 once it is decoded", error.valid_up_to() + 1))
}
