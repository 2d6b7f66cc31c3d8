//! A response of the target.

use reqwest::header::HeaderMap;
use serde_json::{Map, Value};
use writ_verifier::json::{self, Limits};

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// When the whole body had arrived, in Unix seconds.
    pub(crate) received_at: u64,
}

impl Response {
    /// The values of that header, joined as in RFC 9110 section 5.3; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> String {
        let values = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?"));
        values.collect::<Vec<_>>().join(", ")
    }

    /// In lower case, without parameters.
    pub(crate) fn media_type(&self) -> String {
        self.header("content-type").split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    pub(crate) fn is_no_store(&self) -> bool {
        let directives = self.header("cache-control").to_ascii_lowercase();
        directives.split(',').any(|directive| directive.trim() == "no-store")
    }

    /// The members of the body, if it is a JSON object.
    pub(crate) fn members(&self) -> Option<Map<String, Value>> {
        json::from_slice(&self.body, Limits::DOCUMENT).ok()
    }

    /// `error`, if it has the syntax of RFC 6749 section 5.2 and at most 100 characters.
    pub(crate) fn error(&self) -> Option<String> {
        let members = self.members()?;
        let code = members.get("error")?.as_str()?;
        let fits = (1..=100).contains(&code.len()) && is_error_text(code);
        fits.then(|| code.to_owned())
    }

    pub(crate) fn has_token(&self) -> bool {
        self.status < 300
            && self.members().is_some_and(|members| members.get("access_token").is_some_and(|token| !token.is_null()))
    }

    pub(crate) fn body_contains(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Status and error code, for the report.
    pub(crate) fn summary(&self) -> String {
        match self.error() {
            _ if self.has_token() => format!("{}, a token", self.status),
            Some(error) => format!("{} {error}", self.status),
            None => format!("{} without a readable error code", self.status),
        }
    }
}

/// What `error` and `error_description` may contain (RFC 6749 section 5.2): printable ASCII except `"` and `\`.
pub(crate) fn is_error_text(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..=0x7e).contains(&byte) && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_read_as_the_standards_define() {
        let response = |status, header: &'static str, body: &str| Response {
            status,
            headers: HeaderMap::from_iter([(reqwest::header::CACHE_CONTROL, header.parse().unwrap())]),
            body: body.as_bytes().to_vec(),
            received_at: 0,
        };
        let refusal = response(400, "private, No-Store", r#"{"error":"invalid_scope","x":"abc"}"#);
        assert!(refusal.is_no_store() && refusal.body_contains("abc") && !refusal.has_token());
        assert_eq!(refusal.summary(), "400 invalid_scope");
        assert!(!response(200, "max-age=60, x=no-store", "{}").is_no_store());
        assert_eq!(response(400, "", r#"{"error":"a\"b"}"#).error(), None);
        assert!(response(200, "", r#"{"access_token":"t"}"#).has_token());
        assert!(!response(200, "", r#"{"access_token":null}"#).has_token());
    }
}
