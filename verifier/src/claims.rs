//! The format of a Txn-Token: its header type and its claims, defined here and nowhere else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::json::{self, Limits, Members};

/// `typ` in the header of a Txn-Token (TT §9.1).
pub const TYP: &str = "txntoken+jwt";

/// A name does not have the form that its kind asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// See [`TrustDomain`].
    #[error("a trust domain is 1 to 255 printable ASCII characters without space")]
    TrustDomain,
    /// See [`Purpose`].
    #[error("a purpose is one or more printable ASCII characters without space, '\"' and '\\'")]
    Purpose,
    /// See [`Scope`].
    #[error("a scope is one or more purposes separated by single spaces")]
    Scope,
}

macro_rules! string_type {
    ($name:ident) => {
        impl $name {
            /// The name as text.
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

/// What `aud` of a Txn-Token names: the domain inside which it is valid. Compared as it is written (TT §9.2).
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

/// One value of `scope`: what a transaction is for. RFC 6749 §3.3 `scope-token`, compared byte for byte.
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

/// One or more purposes in the order given, each once (RFC 6749 §3.3, single spaces only).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope(Vec<Purpose>);

impl Scope {
    /// The purposes in order; never empty.
    pub fn purposes(&self) -> &[Purpose] {
        &self.0
    }

    /// The only purpose, if there is just one.
    pub fn single(&self) -> Option<&Purpose> {
        match self.0.as_slice() {
            [purpose] => Some(purpose),
            _ => None,
        }
    }

    /// Whether `purpose` is one of them.
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
        let mut purposes: Vec<Purpose> = Vec::new();
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
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The claims of a Txn-Token (TT §9.2). Members that are not listed are ignored when read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnClaims {
    /// The service that issued it; may be switched off.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "present")]
    pub iss: Option<String>,
    /// When it was issued, epoch seconds.
    pub iat: u64,
    /// The first second in which it is not valid any more, epoch seconds.
    pub exp: u64,
    /// The trust domain.
    #[serde(deserialize_with = "one_audience")]
    pub aud: TrustDomain,
    /// The transaction: the same through every replacement and redemption.
    pub txn: String,
    /// Whom the transaction is for; unique in the trust domain.
    pub sub: String,
    /// What the transaction is for.
    pub scope: Scope,
    /// The client that asked for this token.
    pub req_wl: String,
    /// Every client that asked for a token of this transaction, oldest first; only on replaced and redeemed tokens.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub req_wl_chain: Vec<String>,
    /// The details of the transaction, which never change.
    #[serde(skip_serializing_if = "Members::is_empty", default)]
    pub tctx: Members,
    /// The circumstances of the request.
    #[serde(skip_serializing_if = "Members::is_empty", default)]
    pub rctx: Members,
    /// Not valid before this second; Writ issues none, and honours it where present.
    #[serde(skip_serializing_if = "Option::is_none", default, deserialize_with = "present")]
    pub nbf: Option<u64>,
}

impl TxnClaims {
    /// Reads the payload of a Txn-Token.
    ///
    /// # Errors
    /// [`ClaimsError`] where the JSON is ambiguous, a required claim is missing, or a claim has the wrong type.
    pub fn parse(payload: &[u8]) -> Result<Self, ClaimsError> {
        let text = std::str::from_utf8(payload).map_err(|_| ClaimsError)?;
        json::check(text, Limits::DEFAULT).map_err(|_| ClaimsError)?;
        let claims: Self = serde_json::from_str(text).map_err(|_| ClaimsError)?;
        let named = [&claims.txn, &claims.sub, &claims.req_wl].iter().all(|name| !name.is_empty());
        (named && claims.exp > claims.iat).then_some(claims).ok_or(ClaimsError)
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

    /// `rctx.delayed`, if this token came from redeeming an expired one.
    ///
    /// # Errors
    /// [`ClaimsError`] if the member is there but not of this form: such a token must not pass as an ordinary one.
    pub fn delayed(&self) -> Result<Option<Delayed>, ClaimsError> {
        match self.rctx.raw(Delayed::MEMBER) {
            None => Ok(None),
            Some(text) => serde_json::from_str(text).map(Some).map_err(|_| ClaimsError),
        }
    }
}

/// The payload is not that of a Txn-Token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the claims are not those of a Txn-Token")]
pub struct ClaimsError;

/// `rctx.delayed`: the expired token that was redeemed for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delayed {
    /// When the original was issued, epoch seconds.
    pub iat: u64,
    /// When the original expired, epoch seconds.
    pub exp: u64,
    /// Which use of the transaction's right to redeem this is, from 1.
    #[serde(rename = "use")]
    pub use_number: u32,
}

impl Delayed {
    /// The member's name in `rctx`; no client can supply it.
    pub const MEMBER: &'static str = "delayed";
}

/// `null` is not the same as absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A string, or an array of one string (R-VERIFY-04).
fn one_audience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrustDomain, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Audience {
        One(TrustDomain),
        List([TrustDomain; 1]),
    }
    match Audience::deserialize(deserializer)? {
        Audience::One(domain) | Audience::List([domain]) => Ok(domain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"iss":"https://tts.example","iat":1790000000,"exp":1790000060,"aud":"d.example","txn":"t-1","sub":"u-1","scope":"order.refund","req_wl":"gateway","tctx":{"amount":100000000000000000001}}"#;

    #[test]
    fn claims_come_out_as_they_went_in() {
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
    fn times_that_wrap_or_end_before_they_begin_are_refused() {
        for exp in ["-1", "1790000000", "1e400", "18446744073709551616", "\"1790000060\"", "1790000060.5", "null"] {
            assert!(TxnClaims::parse(GOOD.replace("1790000060", exp).as_bytes()).is_err(), "{exp}");
        }
    }

    #[test]
    fn a_scope_has_single_spaces_and_counts_a_purpose_once() {
        assert_eq!("a b a".parse::<Scope>().unwrap().to_string(), "a b");
        for text in ["", " ", " a", "a ", "a  b", "a\tb", "a\u{a0}b", "a\"b", "a\\b", "ä"] {
            assert!(text.parse::<Scope>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_malformed_delayed_member_is_no_ordinary_token() {
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
