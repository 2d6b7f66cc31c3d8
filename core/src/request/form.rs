//! The body of a request → parameters (`application/x-www-form-urlencoded`).

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use memchr::{memchr, memchr2};
use writ_verifier::json::{Limits, Members};
use zeroize::Zeroizing;

use super::error::RequestError;
use super::presented::TokenText;

const MAX_PARAMETERS: usize = 64;
/// Room for the parameters of most requests.
const USUAL_PARAMETERS: usize = 8;
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
pub struct Form {
    /// All names and values, decoded, one after the other.
    text: Arc<Zeroizing<String>>,
    parameters: Vec<Parameter>,
}

/// The places of a name and its value in the text.
struct Parameter {
    name: Range<usize>,
    value: Range<usize>,
}

impl Form {
    /// Decodes a body.
    ///
    /// # Errors
    /// [`RequestError::Malformed`] for bad percent-encoding, UTF-8 or NUL, or more than 64 parameters;
    /// [`RequestError::Repeated`] for a name sent twice, known or not.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        // Decoding never makes a text longer, so no copy of it is left behind by growing.
        let mut text = Zeroizing::new(Vec::with_capacity(body.len()));
        let mut parameters: Vec<Parameter> = Vec::with_capacity(USUAL_PARAMETERS);
        for pair in body.split(|&b| b == b'&').filter(|pair| !pair.is_empty()) {
            if parameters.len() == MAX_PARAMETERS {
                return Err(RequestError::Malformed("the form", "it has more than 64 parameters".into()));
            }
            let place = parameters.len() + 1;
            let (name, value) = pair.split_at(memchr(b'=', pair).unwrap_or(pair.len()));
            let name = decode(name, &mut text).map_err(|fault| {
                RequestError::Malformed("the form", format!("in the name of parameter {place}, {fault}").into())
            })?;
            let value = decode(value.get(1..).unwrap_or_default(), &mut text);
            let written = &text[name.clone()];
            let value = value.map_err(|fault| match str::from_utf8(written).ok().and_then(known) {
                Some(name) => RequestError::Malformed(name, fault.into()),
                None => RequestError::Malformed("the form", format!("in parameter {place}, {fault}").into()),
            })?;
            if let Some(first) = parameters.iter().position(|other| text[other.name.clone()] == *written) {
                let name = str::from_utf8(written).ok().and_then(known);
                return Err(RequestError::Repeated { name, first: first + 1, second: place });
            }
            parameters.push(Parameter { name, value });
        }
        let text = String::from_utf8(std::mem::take(&mut *text)).map_err(|error| {
            drop(Zeroizing::new(error.into_bytes()));
            RequestError::Malformed("the form", "it is not UTF-8 once it is decoded".into())
        })?;
        Ok(Self { text: Arc::new(Zeroizing::new(text)), parameters })
    }

    /// The place of the value of `name`, empty ones included.
    fn find(&self, name: &str) -> Option<Range<usize>> {
        let text = self.text.as_bytes(); // a part of a text checks where its characters begin
        let parameter = self.parameters.iter().find(|parameter| text[parameter.name.clone()] == *name.as_bytes())?;
        Some(parameter.value.clone())
    }

    /// The value of `name`, empty ones included.
    pub(super) fn sent(&self, name: &str) -> Option<&str> {
        self.find(name).map(|value| &self.text[value])
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
        self.required_token("token")
    }

    /// The token in the parameter `name`.
    pub(super) fn required_token(&self, name: &'static str) -> Result<TokenText, RequestError> {
        let place = self.find(name).filter(|place| !place.is_empty()).ok_or(RequestError::Missing(name))?;
        Ok(TokenText::new(Arc::clone(&self.text), place))
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

/// Decodes `+` to a space and `%XX` to a byte, and appends the result, which must be UTF-8 without NUL. Returns its place.
/// The error names mistake and place.
fn decode(bytes: &[u8], text: &mut Vec<u8>) -> Result<Range<usize>, String> {
    let start = text.len();
    let mut rest = bytes;
    while let Some(at) = memchr2(b'+', b'%', rest) {
        text.extend_from_slice(&rest[..at]);
        if rest[at] == b'+' {
            text.push(b' ');
            rest = &rest[at + 1..];
        } else {
            let digits = rest.get(at + 1..at + 3).unwrap_or_default();
            text.push(from_hexadecimal(digits).ok_or_else(|| {
                let at = bytes.len() - rest.len() + at;
                format!("the percent sign at byte {} is not followed by two hexadecimal digits", at + 1)
            })?);
            rest = &rest[at + 3..];
        }
    }
    text.extend_from_slice(rest);
    let decoded = &text[start..];
    if let Some(at) = memchr(0, decoded) {
        return Err(format!("byte {} is NUL once it is decoded", at + 1));
    }
    match str::from_utf8(decoded) {
        Ok(_) => Ok(start..text.len()),
        Err(error) => Err(format!("byte {} is not UTF-8 once it is decoded", error.valid_up_to() + 1)),
    }
}

/// The byte that two hexadecimal digits are.
fn from_hexadecimal(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    match digits {
        [high, low] => Some(value(*high)? << 4 | value(*low)?),
        _ => None,
    }
}
