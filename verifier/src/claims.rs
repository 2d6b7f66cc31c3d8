//! The format of a Txn-Token: its header type and its claims. This is the only definition.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::json::{self, Limits, Members};

/// `typ` in the header of a Txn-Token (TT §9.1).
pub const TYP: &str = "txntoken+jwt";

/// A trust domain, purpose or scope has the wrong syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a [`TrustDomain`].
    #[error("a trust domain is 1 to 255 printable ASCII characters without spaces")]
    TrustDomain,
    /// Not a [`Purpose`].
    #[error("a purpose is one or more printable ASCII characters without spaces, '\"' and '\\'")]
    Purpose,
    /// Not a [`Scope`].
    #[error("a scope is one or more purposes separated by single spaces")]
    Scope,
}

macro_rules! string_type {
    ($name:ident) => {
        impl $name {
            /// The text as given.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
    };
}

/// `aud` of a Txn-Token: the trust domain in which it is valid (TT §9.2). 1 to 255 printable ASCII characters without
/// spaces, compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct TrustDomain(String);

string_type!(TrustDomain);

impl FromStr for TrustDomain {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.to_owned())).ok_or(NameError::TrustDomain)
    }
}

/// One value of `scope`: a purpose of a transaction. Syntax `scope-token` of RFC 6749 §3.3, compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Purpose(String);

string_type!(Purpose);

impl FromStr for Purpose {
    type Err = NameError;

    // scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        fits.then(|| Self(text.to_owned())).ok_or(NameError::Purpose)
    }
}

/// One or more purposes, separated by single spaces (RFC 6749 §3.3). The order is kept; repeated purposes are removed
/// when a scope is parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope(Vec<Purpose>);

impl Scope {
    /// The purposes in order; never empty.
    pub fn purposes(&self) -> &[Purpose] {
        &self.0
    }

    /// The purpose, if the scope has exactly one.
    pub fn single(&self) -> Option<&Purpose> {
        match self.0.as_slice() {
            [purpose] => Some(purpose),
            _ => None,
        }
    }

    /// Whether `purpose` is one of the purposes, compared byte for byte.
    pub fn contains(&self, purpose: &str) -> bool {
        self.0.iter().any(|p| p.as_str() == purpose)
    }
}

impl From<Purpose> for Scope {
    fn from(purpose: Purpose) -> Self {
        Self(vec![purpose])
    }
}

impl FromStr for Scope {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut purposes: Vec<Purpose> = Vec::with_capacity(1); // most scopes have one
        for word in text.split(' ') {
            let purpose = word.parse().map_err(|_| NameError::Scope)?;
            if !purposes.contains(&purpose) {
                purposes.push(purpose);
            }
        }
        Ok(Self(purposes))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, purpose) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(purpose.as_str())?;
        }
        Ok(())
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScopeVisitor;
        impl Visitor<'_> for ScopeVisitor {
            type Value = Scope;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("purposes separated by spaces")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Scope, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(ScopeVisitor)
    }
}

/// The claims of a Txn-Token (TT §9.2). Other claims are ignored. Times are seconds since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnClaims {
    /// Issuer: the URL of the Transaction Token Service. Optional.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "refuse_null")]
    pub iss: Option<String>,
    /// When the token was issued.
    pub iat: u64,
    /// When the token expires: it is valid before this second. Always later than `iat`.
    pub exp: u64,
    /// The trust domain. Parsed from a string or an array of one string.
    #[serde(deserialize_with = "parse_audience")]
    pub aud: TrustDomain,
    /// The transaction ID (RFC 8417 §2.2), not empty. Replacement and redemption keep it.
    pub txn: String,
    /// The subject of the transaction, not empty; unique in the trust domain.
    pub sub: String,
    /// The purposes of the transaction.
    pub scope: Scope,
    /// The requesting workload: the client to which this token was issued. Not empty.
    pub req_wl: String,
    /// Every client that requested a token of this transaction, oldest first. Present only in replaced and redeemed
    /// tokens.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub req_wl_chain: Vec<String>,
    /// The details of the transaction. They never change. An empty object is omitted.
    #[serde(skip_serializing_if = "Members::is_empty", default)]
    pub tctx: Members,
    /// The context of the request. An empty object is omitted.
    #[serde(skip_serializing_if = "Members::is_empty", default)]
    pub rctx: Members,
    /// The token is not valid before this second. Optional; Writ does not issue it, but verifiers apply it.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "refuse_null")]
    pub nbf: Option<u64>,
}

impl TxnClaims {
    /// Parses the payload of a Txn-Token.
    ///
    /// # Errors
    /// [`ClaimsError`] if the JSON is invalid or ambiguous, a required claim is missing or empty, a claim has the wrong
    /// type, or `exp` is not later than `iat`.
    pub fn parse(payload: &[u8]) -> Result<Self, ClaimsError> {
        let text = std::str::from_utf8(payload).map_err(|_| ClaimsError)?;
        json::check(text, Limits::DEFAULT).map_err(|_| ClaimsError)?;
        let claims: Self = serde_json::from_str(text).map_err(|_| ClaimsError)?;
        let are_named = [&claims.txn, &claims.sub, &claims.req_wl].iter().all(|name| !name.is_empty());
        (are_named && claims.exp > claims.iat).then_some(claims).ok_or(ClaimsError)
    }

    /// The claims by their names, as a payload has them.
    ///
    /// # Errors
    /// [`ClaimsError`] if a value cannot be written as JSON, which claims that were read never have.
    pub fn to_members(&self) -> Result<Members, ClaimsError> {
        let Self { iss, iat, exp, aud, txn, sub, scope, req_wl, req_wl_chain, tctx, rctx, nbf } = self;
        let mut members = Members::default();
        let mut write = || {
            iss.iter().try_for_each(|iss| members.set("iss", iss))?;
            members.set("iat", iat)?;
            members.set("exp", exp)?;
            members.set("aud", aud)?;
            members.set("txn", txn)?;
            members.set("sub", sub)?;
            members.set("scope", scope)?;
            members.set("req_wl", req_wl)?;
            if !req_wl_chain.is_empty() {
                members.set("req_wl_chain", req_wl_chain)?;
            }
            for (name, object) in [("tctx", tctx), ("rctx", rctx)] {
                if !object.is_empty() {
                    members.set(name, object)?;
                }
            }
            nbf.iter().try_for_each(|nbf| members.set("nbf", nbf))
        };
        write().map_err(|_: json::JsonError| ClaimsError)?;
        Ok(members)
    }

    /// `rctx.delayed`; `None` if this token was not issued for an expired one.
    ///
    /// # Errors
    /// [`ClaimsError`] if the member is present but malformed: such a token must not pass as an ordinary one.
    pub fn delayed(&self) -> Result<Option<Delayed>, ClaimsError> {
        match self.rctx.raw(Delayed::MEMBER) {
            None => Ok(None),
            Some(text) => serde_json::from_str(text).map(Some).map_err(|_| ClaimsError),
        }
    }
}

/// The payload does not contain the claims of a Txn-Token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the payload does not contain valid claims of a Txn-Token")]
pub struct ClaimsError;

/// `rctx.delayed`: facts about the expired token that was redeemed for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delayed {
    /// When the expired token was issued, in seconds since the Unix epoch.
    pub iat: u64,
    /// When it expired, in seconds since the Unix epoch.
    pub exp: u64,
    /// The number of this redemption, from 1.
    #[serde(rename = "use")]
    pub use_number: u32,
}

impl Delayed {
    /// The name of the member in `rctx`; clients cannot set it.
    pub const MEMBER: &'static str = "delayed";
}

/// Refuses `null`, which serde would treat as absent.
fn refuse_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Accepts a string, or an array of one string (R-VERIFY-04).
fn parse_audience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
    struct AudienceVisitor;
    impl<'de> Visitor<'de> for AudienceVisitor {
        type Value = TrustDomain;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a trust domain, or an array of one")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TrustDomain, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<TrustDomain, A::Error> {
            let first = names.next_element()?.ok_or_else(|| A::Error::invalid_length(0, &self))?;
            let second: Option<IgnoredAny> = names.next_element()?;
            if second.is_some() { Err(A::Error::invalid_length(2, &self)) } else { Ok(first) }
        }
    }
    deserializer.deserialize_any(AudienceVisitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"iss":"https://tts.example","iat":1790000000,"exp":1790000060,"aud":"d.example","txn":"t-1","sub":"u-1","scope":"order.refund","req_wl":"gateway","tctx":{"amount":100000000000000000001}}"#;

    #[test]
    fn claims_are_written_as_they_were_read() {
        let claims = TxnClaims::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&claims).unwrap(), GOOD);
    }

    #[test]
    fn the_members_of_claims_are_those_of_their_payload() {
        let all = GOOD.replace(
            "\"tctx\"",
            r#""req_wl_chain":["a","gateway"],"rctx":{"ip":"::1","n":1.50},"nbf":1790000001,"tctx""#,
        );
        for text in [GOOD, &all] {
            let claims = TxnClaims::parse(text.as_bytes()).unwrap();
            let written = serde_json::to_string(&claims).unwrap();
            assert_eq!(serde_json::to_string(&claims.to_members().unwrap()).unwrap(), written);
        }
    }

    /// R-VERIFY-04
    #[test]
    fn an_audience_of_one_element_is_taken_and_of_two_is_not() {
        assert!(TxnClaims::parse(GOOD.replace("\"d.example\"", "[\"d.example\"]").as_bytes()).is_ok());
        assert!(TxnClaims::parse(GOOD.replace("\"d.example\"", "[\"d.example\",\"e.example\"]").as_bytes()).is_err());
        assert!(TxnClaims::parse(GOOD.replace("\"d.example\"", "[]").as_bytes()).is_err());
    }

    /// R-VERIFY-05
    #[test]
    fn a_claim_that_is_missing_or_of_the_wrong_type_is_refused() {
        for name in ["iat", "exp", "aud", "txn", "sub", "scope", "req_wl"] {
            let mut claims: serde_json::Map<String, serde_json::Value> = serde_json::from_str(GOOD).unwrap();
            claims.insert(name.into(), serde_json::json!({}));
            assert!(
                TxnClaims::parse(serde_json::to_string(&claims).unwrap().as_bytes()).is_err(),
                "{name} of wrong type"
            );
            claims.remove(name);
            assert!(TxnClaims::parse(serde_json::to_string(&claims).unwrap().as_bytes()).is_err(), "{name} missing");
        }
    }

    #[test]
    fn times_out_of_range_or_order_are_refused() {
        for exp in ["-1", "1790000000", "1e400", "18446744073709551616", "\"1790000060\"", "1790000060.5", "null"] {
            assert!(TxnClaims::parse(GOOD.replace("1790000060", exp).as_bytes()).is_err(), "{exp}");
        }
    }

    #[test]
    fn a_scope_has_single_spaces_and_keeps_a_purpose_once() {
        assert_eq!("a b a".parse::<Scope>().unwrap().to_string(), "a b");
        for text in ["", " ", " a", "a ", "a  b", "a\tb", "a\u{a0}b", "a\"b", "a\\b", "ä"] {
            assert!(text.parse::<Scope>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_malformed_delayed_member_is_an_error() {
        let with = |delayed: &str| {
            TxnClaims::parse(
                GOOD.replace("\"tctx\"", &format!("\"rctx\":{{\"delayed\":{delayed}}},\"tctx\"")).as_bytes(),
            )
            .unwrap()
        };
        assert_eq!(with(r#"{"iat":1,"exp":2,"use":3}"#).delayed(), Ok(Some(Delayed { iat: 1, exp: 2, use_number: 3 })));
        assert_eq!(with("null").delayed(), Err(ClaimsError));
        assert_eq!(with("{}").delayed(), Err(ClaimsError));
    }
}
