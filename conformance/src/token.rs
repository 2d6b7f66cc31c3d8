//! Tokens that the target issues, and forgeries of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use writ_verifier::Scope;
use writ_verifier::json::{self, Limits};
use zeroize::Zeroizing;

use crate::response::Response;

/// A decoded token. Nothing is verified.
#[derive(Clone)]
pub(crate) struct IssuedToken {
    pub(crate) encoded: Zeroizing<String>,
    header: Value,
    claims: Value,
    /// Unix seconds.
    pub(crate) received_at: u64,
}

impl IssuedToken {
    /// `access_token` of a response, if it is a JWT in compact form whose JSON repeats no member.
    pub(crate) fn from_response(response: &Response) -> Option<Self> {
        let members = response.members()?;
        let encoded = members.get("access_token")?.as_str()?;
        let parts: Vec<&str> = encoded.split('.').collect();
        let [header, claims, _signature] = parts[..] else { return None };
        Some(Self {
            encoded: Zeroizing::new(encoded.to_owned()),
            header: decode_object(header)?.into(),
            claims: decode_object(claims)?.into(),
            received_at: response.received_at,
        })
    }

    /// A member of the header; null if there is none.
    pub(crate) fn header(&self, name: &str) -> &Value {
        &self.header[name]
    }

    pub(crate) fn has_header(&self, name: &str) -> bool {
        self.header.get(name).is_some()
    }

    /// A claim; null if there is none.
    pub(crate) fn claim(&self, name: &str) -> &Value {
        &self.claims[name]
    }

    pub(crate) fn claims(&self) -> &Value {
        &self.claims
    }

    pub(crate) fn scope(&self) -> Option<Scope> {
        self.claim("scope").as_str()?.parse().ok()
    }

    /// `exp`, Unix seconds.
    pub(crate) fn expiry(&self) -> Option<u64> {
        self.claim("exp").as_u64()
    }

    /// `exp` minus `iat`, in seconds.
    pub(crate) fn lifetime(&self) -> Option<u64> {
        self.expiry()?.checked_sub(self.claim("iat").as_u64()?)
    }

    pub(crate) fn is_asymmetric(&self) -> bool {
        let algorithm = self.header("alg").as_str().unwrap_or_default();
        ["ES", "RS", "PS", "Ed", "ML-DSA"].iter().any(|prefix| algorithm.starts_with(prefix))
    }
}

fn decode_object(part: &str) -> Option<Map<String, Value>> {
    json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?, Limits::DEFAULT).ok()
}

/// Whether `requested` has every purpose of `granted`.
pub(crate) fn is_within(granted: &Scope, requested: &Scope) -> bool {
    granted.purposes().iter().all(|purpose| requested.contains(purpose.as_str()))
}

/// The same JWT with another signature of the same length.
pub(crate) fn break_signature(token: &str) -> Option<String> {
    let (signed_part, signature) = token.rsplit_once('.').filter(|(rest, _)| rest.contains('.'))?;
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).ok().filter(|bytes| !bytes.is_empty())?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Some(format!("{signed_part}.{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The same JWT with `alg` `none` and no signature.
pub(crate) fn strip_signature(token: &str) -> Option<String> {
    let (header, rest) = token.split_once('.')?;
    let (claims, _) = rest.split_once('.')?;
    let mut header: Value = json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?, Limits::DOCUMENT).ok()?;
    header.as_object_mut()?.insert("alg".to_owned(), "none".into());
    Some(format!("{}.{claims}.", URL_SAFE_NO_PAD.encode(header.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_signature_is_another_one() {
        let token = format!("e30.e30.{}", URL_SAFE_NO_PAD.encode([1, 2, 3]));
        assert_eq!(break_signature(&token), Some(format!("e30.e30.{}", URL_SAFE_NO_PAD.encode([1, 3, 3]))));
        assert_eq!(break_signature("opaque"), None);
        assert_eq!(break_signature("a.b."), None);
    }

    #[test]
    fn an_unsigned_token_keeps_its_claims() {
        let token = format!("{}.Y2xhaW1z.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k"}"#));
        let expected = format!("{}.Y2xhaW1z.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"k"}"#));
        assert_eq!(strip_signature(&token), Some(expected));
        assert_eq!(strip_signature("not.a.token"), None);
    }

    #[test]
    fn only_a_jwt_is_decoded() {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let token = |encoded: &str| {
            let body = serde_json::json!({ "access_token": encoded }).to_string().into_bytes();
            let headers = reqwest::header::HeaderMap::new();
            IssuedToken::from_response(&Response { status: 200, headers, body, received_at: 0 })
        };
        let good = token(&format!("{}.{}.c2ln", part(r#"{"alg":"ES256"}"#), part(r#"{"iat":1,"exp":61}"#))).unwrap();
        assert_eq!((good.lifetime(), good.is_asymmetric()), (Some(60), true));
        let repeated = format!("{}.{}.", part("{}"), part(r#"{"a":1,"a":2}"#));
        for bad in ["", "a.b", "e30.e30", "e30.e30.a.b", "{}.{}.", &format!("{}.e30.", part("[]")), &repeated] {
            assert!(token(bad).is_none(), "{bad}");
        }
    }
}
