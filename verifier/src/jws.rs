//! A strict parser for compact JWS (RFC 7515 §7.1, RFC 8725 §3).
//!
//! A token has exactly one text: three parts of canonical base64url, and a header without members that change its
//! meaning. A [`Jws`] is parsed, not verified: the caller selects key and algorithm by its own rules.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;

use crate::json::{Limits, Members};

/// The maximum length of `kid` in characters.
pub const KID_MAX: usize = 256;

/// Why a text is not an acceptable JWS. The messages contain nothing of the token but the names of known header members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// The token is longer than the limit of the caller.
    #[error("the token is too long")]
    TooLong,
    /// The token does not consist of three parts of canonical base64url.
    #[error("not a compact JWS: {0}")]
    Form(&'static str),
    /// The header is not unambiguous JSON, a member has the wrong type, or a forbidden member is present.
    #[error("the header is not acceptable: {0}")]
    Header(&'static str),
    /// `alg` is not supported, symmetric or `none`.
    #[error("the algorithm is not acceptable: {0}")]
    Algorithm(&'static str),
}

/// A parsed, unverified compact JWS. `Debug` shows only the algorithm.
pub struct Jws<'a> {
    /// `alg`: always asymmetric.
    pub algorithm: Algorithm,
    /// `kid`: 1 to [`KID_MAX`] characters without control characters.
    pub kid: Option<String>,
    /// `typ` in lower case without `application/` (RFC 7515 §4.1.9).
    pub typ: Option<String>,
    /// The decoded payload.
    pub payload: Vec<u8>,
    /// The JWS signing input: encoded header and payload, without the signature (RFC 7515 §5.1).
    pub signed_part: &'a str,
    /// The decoded signature.
    pub signature: Vec<u8>,
}

impl fmt::Debug for Jws<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jws").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

struct Header(Members);

/// The header members that most tokens have and no others.
const USUAL: [&str; 3] = ["alg", "kid", "typ"];

/// Header members that change the meaning of a token or the key that verifies it. A token that has one is refused.
const FORBIDDEN: [(&str, &str); 10] = [
    ("crit", "its header has crit, and no extension of JWS is supported"),
    ("b64", "its header has b64"),
    ("zip", "its header has zip"),
    ("enc", "its header has enc: it is encrypted"),
    ("jwk", "its header has jwk, and a key inside a token is never trusted"),
    ("jku", "its header has jku, and a key that a token refers to is never fetched"),
    ("x5u", "its header has x5u, and a certificate that a token refers to is never fetched"),
    ("x5c", "its header has x5c, and a certificate inside a token is never trusted"),
    ("epk", "its header has epk: it is encrypted"),
    ("p2c", "its header has p2c: it is encrypted"),
];

impl<'a> Jws<'a> {
    /// Parses `text`, which may have at most `max_len` bytes.
    ///
    /// # Errors
    /// [`JwsError`] if `text` is not an acceptable JWS.
    pub fn parse(text: &'a str, max_len: usize) -> Result<Self, JwsError> {
        const NOT_THREE: JwsError = JwsError::Form("it does not have three parts");
        if text.len() > max_len {
            return Err(JwsError::TooLong);
        }
        match text.bytes().filter(|&b| b == b'.').count() {
            2 => {}
            4 => return Err(JwsError::Form("it has five parts: it is encrypted, and only signed tokens are read")),
            0 | 1 => return Err(JwsError::Form("it has fewer than three parts")),
            _ => return Err(JwsError::Form("it has more than three parts")),
        }
        let (signed_part, signature) = text.rsplit_once('.').ok_or(NOT_THREE)?;
        let (header, payload) = signed_part.split_once('.').ok_or(NOT_THREE)?;
        let decode = |part, why| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwsError::Form(why));
        let signature = decode(signature, "its third part, the signature, is not base64url without padding")?;
        let header = Header::parse(&decode(header, "its first part, the header, is not base64url without padding")?)?;
        let (typ, kid) = (header.typ()?, header.kid()?);
        let algorithm = header.algorithm()?;
        let payload = decode(payload, "its second part, the claims, is not base64url without padding")?;
        Ok(Self { algorithm, kid, typ, payload, signed_part, signature })
    }
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, JwsError> {
        const FORM: JwsError =
            JwsError::Header("its header is not a JSON object in which each member name occurs once");
        let text = std::str::from_utf8(bytes).map_err(|_| FORM)?;
        let header = Self(Members::parse(text, Limits::DEFAULT).map_err(|_| FORM)?);
        if header.0.iter().all(|(name, _)| USUAL.contains(&name)) {
            return Ok(header);
        }
        if let Some((_, why)) = FORBIDDEN.iter().find(|(name, _)| header.0.raw(name).is_some()) {
            return Err(JwsError::Header(why));
        }
        let nested = header.text("cty", "cty of its header must be a string")?;
        if nested.is_some_and(|cty| cty.eq_ignore_ascii_case("jwt")) {
            return Err(JwsError::Header("its header has cty `JWT`: it contains another token"));
        }
        Ok(header)
    }

    fn text(&self, name: &str, why: &'static str) -> Result<Option<Cow<'_, str>>, JwsError> {
        self.0.raw(name).map(|_| self.0.text(name).ok_or(JwsError::Header(why))).transpose()
    }

    fn kid(&self) -> Result<Option<String>, JwsError> {
        let kid = self.text("kid", "kid of its header must be a string")?;
        let fits =
            |kid: &Cow<'_, str>| (1..=KID_MAX).contains(&kid.chars().count()) && !kid.chars().any(char::is_control);
        if kid.as_ref().is_none_or(fits) {
            Ok(kid.map(Cow::into_owned))
        } else {
            Err(JwsError::Header("kid of its header must have 1 to 256 characters, none a control character"))
        }
    }

    fn algorithm(&self) -> Result<Algorithm, JwsError> {
        if self.0.raw("alg").is_none() {
            return Err(JwsError::Header("its header has no alg"));
        }
        match self.0.text("alg").as_deref() {
            Some("ES256") => Ok(Algorithm::ES256),
            Some("ES384") => Ok(Algorithm::ES384),
            Some("EdDSA" | "Ed25519") => Ok(Algorithm::EdDSA),
            Some("RS256") => Ok(Algorithm::RS256),
            Some("RS384") => Ok(Algorithm::RS384),
            Some("RS512") => Ok(Algorithm::RS512),
            Some("PS256") => Ok(Algorithm::PS256),
            Some("PS384") => Ok(Algorithm::PS384),
            Some("PS512") => Ok(Algorithm::PS512),
            Some(none) if none.eq_ignore_ascii_case("none") => {
                Err(JwsError::Algorithm("its alg is none: it is not signed"))
            }
            Some("HS256" | "HS384" | "HS512") => {
                Err(JwsError::Algorithm("its alg is symmetric: every verifier could sign such a token"))
            }
            Some(_) => Err(JwsError::Algorithm("its alg is not supported")),
            None => Err(JwsError::Algorithm("its alg must be a string")),
        }
    }

    fn typ(&self) -> Result<Option<String>, JwsError> {
        const PREFIX: &str = "application/";
        let typ = self.text("typ", "typ of its header must be a string")?;
        Ok(typ.map(|typ| {
            let has_prefix = typ.get(..PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(PREFIX));
            let subtype = if has_prefix { &typ[PREFIX.len()..] } else { &typ };
            subtype.to_ascii_lowercase()
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> String {
        format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode("s"))
    }

    fn parse(text: &str) -> Result<Jws<'_>, JwsError> {
        Jws::parse(text, 16 * 1024)
    }

    #[test]
    fn a_valid_header_is_parsed() {
        let text = token(r#"{"typ":"application/TxnToken+JWT","alg":"ES256","kid":"k"}"#);
        let jws = parse(&text).unwrap();
        assert_eq!(
            (jws.algorithm, jws.typ.as_deref(), jws.kid.as_deref()),
            (Algorithm::ES256, Some("txntoken+jwt"), Some("k"))
        );
    }

    /// A-044, A-045
    #[test]
    fn unsigned_tokens_and_symmetric_algorithms_are_refused() {
        for alg in ["\"none\"", "\"None\"", "\"NONE\"", "null", "[]", "[\"ES256\"]", "\"HS256\"", "\"\"", "\"es256\""] {
            assert!(parse(&token(&format!(r#"{{"alg":{alg}}}"#))).is_err(), "{alg}");
        }
        assert!(parse(&token("{}")).is_err());
    }

    /// Unknown members are ignored, even those whose names are reserved by a library.
    #[test]
    fn unknown_members_have_no_meaning() {
        for name in ["x", "$serde_json::private::RawValue", "$serde_json::private::Number"] {
            for member in [format!(r#""{name}":"{{\"alg\":""#), format!(r#""x":{{"{name}":"1e999"}}"#)] {
                let text = token(&format!(r#"{{"alg":"ES256",{member}}}"#));
                assert_eq!(parse(&text).map(|jws| jws.algorithm), Ok(Algorithm::ES256), "{member}");
            }
        }
        for header in [
            r#"{"$serde_json::private::RawValue":"{\"alg\":\"ES256\"}"}"#,
            r#"{"alg":{"$serde_json::private::RawValue":"\"ES256\""}}"#,
            r#"{"alg":"ES256","kid":{"$serde_json::private::RawValue":"\"k\""}}"#,
            r#"["ES256"]"#,
        ] {
            assert!(parse(&token(header)).is_err(), "{header}");
        }
    }

    /// A-047, A-049
    #[test]
    fn members_that_change_the_meaning_are_refused() {
        for (name, why) in FORBIDDEN {
            let error = parse(&token(&format!(r#"{{"alg":"ES256","{name}":""}}"#))).err();
            assert_eq!(error, Some(JwsError::Header(why)), "{name}");
            assert!(why.contains(name));
        }
        assert!(parse(&token(r#"{"alg":"ES256","cty":"JWT"}"#)).is_err());
    }

    /// A-048
    #[test]
    fn a_kid_is_short_and_printable() {
        for kid in ["\"\"", "1", "[]", "null", r#""a\u0000""#, r#""a\r\nb""#, &format!("\"{}\"", "k".repeat(257))] {
            assert!(parse(&token(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#))).is_err(), "{kid}");
        }
    }

    /// A-052, A-053: a token has exactly one text.
    #[test]
    fn other_spellings_of_the_same_token_are_refused() {
        let good = token(r#"{"alg":"ES256"}"#);
        assert!(parse(&good).is_ok());
        for bad in [
            format!("{good}="),
            format!(" {good}"),
            format!("{good}\n"),
            format!("Bearer {good}"),
            format!("{good}.{good}"),
            ".".repeat(12_000),
            good.replace("cw", "cx"), // the unused bits of the last character
            token(r#"{"alg":"ES256","alg":"ES256"}"#),
            token(r#"{"alg":"ES256","\u0061lg":"ES256"}"#),
        ] {
            assert!(parse(&bad).is_err(), "{bad}");
        }
        assert_eq!(Jws::parse(&good, 10).err(), Some(JwsError::TooLong));
    }
}
