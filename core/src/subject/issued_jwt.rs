//! A JWT of a subject issuer → a verified token of one kind.
//!
//! Each step produces a value that the next one requires: [`Presented`] has the form of a JWT and names an issuer,
//! [`VerifiedJwt`] is signed with a key of that issuer, [`OutsideToken`] conforms to every rule of its kind. The rules of
//! the kinds exclude one another, so that no token passes as another kind (RFC 8725 §3.11, §3.12):
//!
//! | kind | `typ` | `aud` names | must have | must not have |
//! | --- | --- | --- | --- | --- |
//! | access token | `at+jwt` | one of `audience` | RFC 9068: `sub`, `client_id`, `iat`, `jti`, `exp` | |
//! | the same, legacy | that, `JWT` or none | one of `audience`, no client of ID tokens | `exp` | claims of ID tokens, events, proofs |
//! | JWT | `JWT` or none | one of `audience`, no client of ID tokens | `exp` | claims of ID tokens, events, proofs |
//! | ID token | `JWT` or none | one of `id_token_audience` | `sub`, `iat`, `exp` | claims of events, proofs |
//!
//! Nothing in a token distinguishes a legacy access token from another JWT, so the configuration never accepts both
//! from one issuer.

use std::sync::Arc;

use jsonwebtoken::Algorithm;
use writ_verifier::Members;
use writ_verifier::jwks::{Candidates, VerificationKey};
use writ_verifier::jws::Jws;

use super::SubjectError;
use super::SubjectFault::{AudienceMismatch, ClaimsInvalid, IssuerUnknown, Malformed, SignatureInvalid};
use super::jwt::{self, wrong_typ};
use super::members::{Audience, members, text};
use super::outside::{OutsideToken, ValidationContext};
use super::settings::AccessTokenProfile;
use crate::request::Source;

/// A text in the form of a JWT. Nothing in it is proven.
#[derive(Debug)]
pub(super) struct Presented<'a> {
    jws: Jws<'a>,
    claims: Members,
    issuer: String,
}

impl<'a> Presented<'a> {
    /// Parses a strict JWS with an unambiguous JSON object, which is not a Txn-Token and names an issuer.
    pub(super) fn parse(text: &'a str) -> Result<Self, SubjectError> {
        let jws = jwt::parse(text)?;
        if jws.typ.as_deref() == Some(writ_verifier::claims::TYP) {
            return Err(Malformed.because("its typ is `txntoken+jwt`: a Txn-Token is presented as txn_token only"));
        }
        let claims = members(&jws.payload)?;
        let issuer = jwt::issuer(&claims)?;
        Ok(Self { jws, claims, issuer })
    }

    /// `iss`, unproven.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `kid`, unproven.
    pub(super) fn kid(&self) -> Option<&str> {
        self.jws.kid.as_deref()
    }

    /// `alg`, unproven.
    pub(super) fn algorithm(&self) -> Algorithm {
        self.jws.algorithm
    }

    /// Checks the signature with `keys`, which are the issuer's.
    pub(super) fn signed_with(self, keys: &Candidates) -> Result<VerifiedJwt, SubjectError> {
        let key = keys.find_signer(&self.jws);
        let key = key.ok_or(SignatureInvalid.because("it was not made with the key that its header names"))?;
        let Jws { kid, typ, algorithm, .. } = self.jws;
        let signed = Signed { typ, claims: Arc::new(self.claims) };
        Ok(VerifiedJwt { issuer: self.issuer, kid, algorithm, key: Arc::clone(key), signed })
    }
}

/// A JWT whose signature was found valid, with all that the check depended on.
#[derive(Debug)]
pub(super) struct VerifiedJwt {
    issuer: String,
    kid: Option<String>,
    algorithm: Algorithm,
    key: Arc<VerificationKey>,
    signed: Signed,
}

impl VerifiedJwt {
    /// `iss`.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `kid` of its header.
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// `alg` of its header.
    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether the key that verified it is still one of `keys`, those that its issuer publishes now.
    pub(super) fn is_signed_with_one_of(&self, keys: &Candidates) -> bool {
        keys.contains(&self.key)
    }

    /// The token without the proof of its origin.
    pub(super) fn signed(&self) -> &Signed {
        &self.signed
    }

    /// The memory that it takes, in bytes, roughly.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>() + self.signed.claims.size()
    }
}

/// A JWT that its issuer has signed; its kind and audience are not checked yet.
#[derive(Debug)]
pub(super) struct Signed {
    typ: Option<String>,
    claims: Arc<Members>,
}

/// Validates `token` as the kind that it was presented as.
pub(super) fn read(kind: Source, token: &Signed, by: ValidationContext<'_>) -> Result<OutsideToken, SubjectError> {
    match kind {
        Source::AccessToken => access_token(token, by),
        Source::Jwt => jwt(token, by),
        Source::IdToken => id_token(token, by),
        Source::SelfSigned
        | Source::UnsignedJson
        | Source::TxnToken
        | Source::ExpiredTxnToken
        | Source::ClientCredentials => Err(IssuerUnknown.into()),
    }
}

/// Claims of security events and logout tokens (RFC 8417), and of proofs of possession (RFC 9449 §4.2).
const OF_EVENTS_AND_PROOFS: [&str; 3] = ["events", "htm", "htu"];

/// Claims of ID tokens (OIDC §2, §3.3.2.11).
const OF_ID_TOKENS: [&str; 4] = ["nonce", "at_hash", "c_hash", "s_hash"];

/// `typ` of tokens that are not marked as another kind.
const UNTYPED: &str = "`JWT` or absent";

/// RFC 9068 §4, or the looser rules of the `legacy` profile.
fn access_token(token: &Signed, by: ValidationContext<'_>) -> Result<OutsideToken, SubjectError> {
    let typed = token.typ.as_deref() == Some("at+jwt");
    match by.issuer.access_token_profile {
        AccessTokenProfile::Rfc9068 if typed => {
            by.audience(&token.claims, &by.issuer.audience)?;
            required_by_rfc_9068(&token.claims)?;
        }
        AccessTokenProfile::Legacy if typed || token.is_untyped() => no_id_token(&token.claims, by)?,
        AccessTokenProfile::Rfc9068 => {
            let expected = "`at+jwt`, unless its issuer is set to jwt_access_tokens = 'legacy'";
            return Err(wrong_typ(token.typ.as_deref(), "access_token", expected));
        }
        AccessTokenProfile::Legacy => {
            return Err(wrong_typ(token.typ.as_deref(), "access_token", "`at+jwt`, `JWT` or absent"));
        }
    }
    by.complete(Source::AccessToken, Arc::clone(&token.claims))
}

/// Any token that an issuer signs for services, within its settings; it is not marked as another kind.
fn jwt(token: &Signed, by: ValidationContext<'_>) -> Result<OutsideToken, SubjectError> {
    if !token.is_untyped() {
        return Err(wrong_typ(token.typ.as_deref(), "jwt", UNTYPED));
    }
    no_id_token(&token.claims, by)?;
    by.complete(Source::Jwt, Arc::clone(&token.claims))
}

/// OIDC §3.1.3.7, except checks that only the client of the login can make, such as `nonce`.
fn id_token(token: &Signed, by: ValidationContext<'_>) -> Result<OutsideToken, SubjectError> {
    if !token.is_untyped() {
        return Err(wrong_typ(token.typ.as_deref(), "id_token", UNTYPED));
    }
    has_none(&token.claims, &OF_EVENTS_AND_PROOFS, OF_OTHERS)?;
    let audience = by.audience(&token.claims, &by.issuer.id_token_audience)?;
    authorized_party(&token.claims, &audience, &by.issuer.id_token_audience)?;
    has_texts(&token.claims, &["sub"])?;
    has_all(&token.claims, &["iat", "exp"])?;
    by.complete(Source::IdToken, Arc::clone(&token.claims))
}

impl Signed {
    /// `typ` is `JWT` or absent.
    fn is_untyped(&self) -> bool {
        matches!(self.typ.as_deref(), None | Some("jwt"))
    }
}

/// A token without a specific `typ` must be intended for a service and not for a client, and must not have claims of other
/// kinds.
fn no_id_token(claims: &Members, by: ValidationContext<'_>) -> Result<(), SubjectError> {
    has_none(claims, &OF_EVENTS_AND_PROOFS, OF_OTHERS)?;
    has_none(
        claims,
        &OF_ID_TOKENS,
        "is one of ID tokens: present it as id_token, or have its issuer leave the claim out",
    )?;
    let audience = by.audience(claims, &by.issuer.audience)?;
    if audience.names_one_of(&by.issuer.id_token_audience) {
        return Err(AudienceMismatch
            .because("`aud` names a client of ID tokens (id_token_audience): it is no token for services"));
    }
    has_all(claims, &["exp"])
}

/// `azp` must be present if `aud` has several names, and name one of `clients`.
fn authorized_party(claims: &Members, audience: &Audience<'_>, clients: &[String]) -> Result<(), SubjectError> {
    if claims.raw("azp").is_none() {
        let unmistakable = audience.is_single();
        return unmistakable.then_some(()).ok_or(ClaimsInvalid.because("`azp` is missing beside several audiences"));
    }
    let azp = text(claims, "azp")?;
    let known = clients.iter().any(|client| azp == client.as_str());
    known.then_some(()).ok_or(AudienceMismatch.because("`azp` is not one of the clients in id_token_audience"))
}

/// RFC 9068 §2.2; `iss` and `aud` are checked for every token.
fn required_by_rfc_9068(claims: &Members) -> Result<(), SubjectError> {
    has_texts(claims, &["sub", "client_id", "jti"])?;
    has_all(claims, &["iat", "exp"])
}

const OF_OTHERS: &str = "is one of security events, logout tokens and proofs of possession";

fn has_none(claims: &Members, names: &[&str], why: &str) -> Result<(), SubjectError> {
    match names.iter().find(|name| claims.raw(name).is_some()) {
        Some(name) => Err(Malformed.because_of(format!("the claim `{name}` {why}"))),
        None => Ok(()),
    }
}

fn has_all(claims: &Members, names: &[&str]) -> Result<(), SubjectError> {
    match names.iter().find(|name| claims.raw(name).is_none()) {
        Some(name) => Err(ClaimsInvalid.because_of(format!("`{name}` is missing"))),
        None => Ok(()),
    }
}

fn has_texts(claims: &Members, names: &[&str]) -> Result<(), SubjectError> {
    for name in names {
        if text(claims, name)?.is_empty() {
            return Err(ClaimsInvalid.because_of(format!("`{name}` is empty")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
