//! Decodes a token without verifying it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use writ_verifier::json::{Limits, Members};

use writ_platform::clock::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a signed JWT: three parts of base64url, the first two of JSON")]
pub(crate) struct InspectError;

/// Header and claims of a JWT in their original order and with all digits. Nothing is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoded {
    header: Members,
    claims: Members,
}

impl Decoded {
    /// Parses the compact serialization.
    pub(crate) fn parse(token: &str) -> Result<Self, InspectError> {
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InspectError);
        };
        Ok(Self { header: members(header)?, claims: members(claims)? })
    }

    /// `{"header":{…},"claims":{…}}` on one line.
    pub(crate) fn to_json(&self) -> String {
        format!(r#"{{"header":{},"claims":{}}}"#, line(&self.header), line(&self.claims))
    }

    fn time(&self, claim: &str) -> Option<Timestamp> {
        self.claims.get(claim).map(Timestamp::from_epoch)
    }
}

/// For people: one member a line, then the times in RFC 3339.
impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "header {}", block(&self.header))?;
        write!(f, "claims {}", block(&self.claims))?;
        for (claim, word) in [("iat", "issued "), ("nbf", "begins "), ("exp", "expires")] {
            if let Some(time) = self.time(claim) {
                write!(f, "\n{word} {time}")?;
            }
        }
        write!(f, "\nnot verified")
    }
}

fn members(part: &str) -> Result<Members, InspectError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| InspectError)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| InspectError)?;
    Members::parse(text, Limits::DEFAULT).map_err(|_| InspectError)
}

fn line(members: &Members) -> String {
    let members = members.iter().map(|(name, value)| format!("{}:{}", quoted(name), escaped(value)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

fn block(members: &Members) -> String {
    let members = members.iter().map(|(name, value)| format!("  {}: {}", quoted(name), escaped(value)));
    format!("{{\n{}\n}}", members.collect::<Vec<_>>().join(",\n"))
}

fn quoted(name: &str) -> String {
    escaped(&serde_json::Value::from(name).to_string())
}

/// JSON text with control characters escaped, so that they do not reach a terminal. Inside strings the meaning is the
/// same; between values JSON allows only white space, which becomes spaces.
fn escaped(json: &str) -> String {
    let one = |c: char| match c {
        '\t' | '\n' | '\r' => " ".to_owned(),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    json.chars().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn numbers_and_order_are_preserved() {
        let text = token(r#"{"typ":"txntoken+jwt","alg":"ES256"}"#, r#"{"z":100000000000000000001,"a":{"b":0.10}}"#);
        let json = Decoded::parse(&text).unwrap().to_json();
        assert_eq!(
            json,
            r#"{"header":{"typ":"txntoken+jwt","alg":"ES256"},"claims":{"z":100000000000000000001,"a":{"b":0.10}}}"#
        );
    }

    #[test]
    fn times_are_shown_in_rfc_3339() {
        let shown = Decoded::parse(&token("{}", r#"{"exp":1793000060}"#)).unwrap().to_string();
        assert!(shown.contains("\"exp\": 1793000060\n}\nexpires 2026-10-26T07:34:20Z\nnot verified"), "{shown}");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = token("{}", "{\"a\":\"\u{9b}2J\u{7f}\",\r\n \"\\u001b\":[1,\n2]}");
        let decoded = Decoded::parse(&text).unwrap();
        for shown in [decoded.to_json(), decoded.to_string()] {
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
        }
        assert!(decoded.to_json().contains(r#""a":"\u009b2J\u007f","\u001b":[1, 2]"#), "{}", decoded.to_json());
        assert!(serde_json::from_str::<serde_json::Value>(&decoded.to_json()).is_ok());
    }

    #[test]
    fn text_that_is_not_a_jwt_is_refused() {
        for text in ["", "a.b", "a.b.c.d", "{}.{}.", &token("[]", "{}"), &token("{}", "{\"a\":1,\"a\":2}")] {
            assert_eq!(Decoded::parse(text), Err(InspectError), "{text}");
        }
    }
}
