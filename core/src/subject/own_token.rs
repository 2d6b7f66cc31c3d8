//! A Txn-Token of this service: as a subject token, for replacement while it is alive and for redemption afterwards;
//! and for introspection.
//!
//! In: the token's text and a lookup of the service's keys. Out: an [`OwnToken`]. For introspection only published keys and
//! live tokens count. Only clients that may redeem can use the history of keys, and only for expired tokens: others get the
//! same answer for an archived key as for an unknown one (R-DELAY-02, A-107).

use std::sync::Arc;
use std::time::Duration;

use writ_verifier::claims::TYP;
use writ_verifier::jwks::VerificationKey;
use writ_verifier::{TrustDomain, TxnClaims};

use super::facts::{AnyTxnToken, sealed};
use super::{SubjectError, SubjectFault, jwt};
use crate::request::Source;
use writ_platform::clock::Timestamp;
use writ_platform::digest::sha256;

/// Clocks of instances differ: an `iat` this far ahead is accepted.
const INSTANCE_SKEW: Duration = Duration::from_secs(5);

/// The result of looking up a `kid` in the key ring.
pub enum KnownKey {
    /// It may have signed the token.
    Signing(SignedBy),
    /// A key that no longer verifies anything: revoked, or past its retention.
    Gone,
    /// Never a key of this service.
    Unknown,
}

/// A key of this service, and the span in which it signed.
pub struct SignedBy {
    /// Verifies the token's signature, with the only `alg` that its tokens have. `None` verifies nothing.
    pub public: Option<Arc<VerificationKey>>,
    /// Whether the JWKS contains it; otherwise it is historical.
    pub published: bool,
    /// `previous`, `historical` …, for the audit log.
    pub state: &'static str,
    /// The first second in which it signed; `None` if it has not signed yet.
    pub from: Option<Timestamp>,
    /// The last second in which it signed; `None` while it signs.
    pub until: Option<Timestamp>,
    /// The longest lifetime that was allowed while it signed.
    pub(crate) max_lifetime: Duration,
}

impl SignedBy {
    /// Whether its span overlaps the seconds from `first` to `last`. All ends are included: the start of the span was
    /// rounded down, its end is rounded up.
    fn signed_within(&self, first: Timestamp, last: Timestamp) -> bool {
        self.from.is_some_and(|from| from <= last) && self.until.is_none_or(|until| first <= until)
    }
}

/// An unaltered Txn-Token that this service issued. Only [`verify`] and [`verify_live`] make one.
///
/// It cannot be constructed:
///
/// ```compile_fail,E0451
/// use writ_core::subject::OwnToken;
/// fn revive(token: OwnToken) -> OwnToken {
///     OwnToken { alive: true, ..token }
/// }
/// ```
///
/// or changed:
///
/// ```compile_fail,E0616
/// use writ_core::subject::OwnToken;
/// fn change(mut token: OwnToken) {
///     token.claims.sub = "another".to_owned();
/// }
/// ```
#[derive(Debug, Clone)]
pub struct OwnToken {
    claims: TxnClaims,
    signed_part: [u8; 32],
    kid: String,
    key_state: &'static str,
    alive: bool,
}

impl OwnToken {
    /// The claims of the token.
    pub fn claims(&self) -> &TxnClaims {
        &self.claims
    }

    /// Converts the token into its claims.
    pub(crate) fn into_claims(self) -> TxnClaims {
        self.claims
    }

    /// Whether it had not expired at the instant of its verification.
    pub fn is_alive(&self) -> bool {
        self.alive
    }

    /// SHA-256 of header and payload, which identifies a token, since its signature has a second valid form.
    pub fn signed_part(&self) -> &[u8; 32] {
        &self.signed_part
    }

    /// The key that signed it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The state of that key, for the audit log.
    pub fn key_state(&self) -> &'static str {
        self.key_state
    }
}

impl sealed::TxnToken for OwnToken {}

impl AnyTxnToken for OwnToken {
    fn claims(&self) -> &TxnClaims {
        &self.claims
    }

    fn into_claims(self) -> TxnClaims {
        self.claims
    }

    fn is_alive(&self) -> bool {
        self.alive
    }
}

/// The source that policies name for a live or an expired Txn-Token.
pub(super) fn source(alive: bool) -> Source {
    if alive { Source::TxnToken } else { Source::ExpiredTxnToken }
}

#[cfg(test)]
impl OwnToken {
    /// A token that no key signed, for tests.
    pub(crate) fn unverified(claims: TxnClaims, alive: bool) -> Self {
        let key_state = if alive { "current" } else { "historical" };
        Self { claims, signed_part: [0; 32], kid: "k".into(), key_state, alive }
    }

    /// An expired token of a minute that no key signed.
    pub(crate) fn expired(txn: &str, signed_part: u8, iat: u64) -> Self {
        let claims = serde_json::json!({
            "iat": iat, "exp": iat + 60, "aud": "d.example", "txn": txn, "sub": "u-1", "scope": "account.purge",
            "req_wl": "account-service", "tctx": {"contract": "C-1"}, "rctx": {"req_ip": "192.0.2.1"}
        });
        let claims = serde_json::from_value(claims).unwrap();
        Self { signed_part: [signed_part; 32], ..Self::unverified(claims, false) }
    }

    pub(crate) fn claims_mut(&mut self) -> &mut TxnClaims {
        &mut self.claims
    }
}

/// Verifies `text`, a subject token, as a Txn-Token of `trust_domain`. `may_redeem` states whether the history of keys may
/// be used; `find` looks up a `kid` among the keys of this service.
///
/// # Errors
/// The first [`SubjectError`] in this order: form, key, signature, claims, redeemed before, times.
pub fn verify(
    text: &str,
    trust_domain: &TrustDomain,
    may_redeem: bool,
    find: impl FnOnce(&str) -> KnownKey,
    now: Timestamp,
) -> Result<OwnToken, SubjectError> {
    let token = Genuine::verify(text, trust_domain, may_redeem, find)?;
    let alive = check_usable(&token.claims, may_redeem, now)?;
    if alive && !token.key.published {
        return Err(SubjectFault::KeyUnknown.into()); // archived keys verify expired tokens only
    }
    Ok(token.into_own_token(alive))
}

pub(super) fn check_trust_domain(claims: &TxnClaims, trust_domain: &TrustDomain) -> Result<(), SubjectError> {
    if claims.aud == *trust_domain { Ok(()) } else { Err(SubjectFault::AudienceMismatch.into()) }
}

/// Whether a genuine token is alive; an error if it cannot be used as a subject token.
pub(super) fn check_usable(claims: &TxnClaims, may_redeem: bool, now: Timestamp) -> Result<bool, SubjectError> {
    // Checked before the times: no chain of redemptions may ever prolong a transaction.
    if is_redeemed(claims) {
        return Err(SubjectFault::Redeemed.into());
    }
    let alive = is_alive(claims, now)?;
    if alive || may_redeem { Ok(alive) } else { Err(expired(claims)) }
}

/// Whether the token has `rctx.delayed`, in any form.
fn is_redeemed(claims: &TxnClaims) -> bool {
    claims.delayed() != Ok(None)
}

/// Whether it has not expired; an error if it is not yet valid.
fn is_alive(claims: &TxnClaims, now: Timestamp) -> Result<bool, SubjectError> {
    let begins = Timestamp::from_epoch(claims.nbf.map_or(claims.iat, |nbf| nbf.max(claims.iat)));
    if begins > now + INSTANCE_SKEW {
        return Err(SubjectFault::NotYetValid.into());
    }
    Ok(now < Timestamp::from_epoch(claims.exp))
}

fn expired(claims: &TxnClaims) -> SubjectError {
    SubjectFault::Expired { expired_at: Timestamp::from_epoch(claims.exp) }.into()
}

/// Verifies `text` as a Txn-Token of `trust_domain` that is valid now, as every verifier with the published keys would; a
/// redeemed one may be valid too. `find` looks up a `kid` among the keys of this service.
///
/// # Errors
/// The first [`SubjectError`] in this order: form, key, signature, claims, times.
pub fn verify_live(
    text: &str,
    trust_domain: &TrustDomain,
    find: impl FnOnce(&str) -> KnownKey,
    now: Timestamp,
) -> Result<OwnToken, SubjectError> {
    let token = Genuine::verify(text, trust_domain, false, find)?;
    if is_alive(&token.claims, now)? { Ok(token.into_own_token(true)) } else { Err(expired(&token.claims)) }
}

/// An unaltered Txn-Token that a key of this service signed within its span; the token itself may have expired.
struct Genuine {
    claims: TxnClaims,
    signed_part: [u8; 32],
    kid: String,
    key: SignedBy,
}

impl Genuine {
    fn verify(
        text: &str,
        trust_domain: &TrustDomain,
        from_history: bool,
        find: impl FnOnce(&str) -> KnownKey,
    ) -> Result<Self, SubjectError> {
        let jws = jwt::parse(text)?;
        if jws.typ.as_deref() != Some(TYP) {
            return Err(jwt::wrong_typ(jws.typ.as_deref(), "txn_token", "`txntoken+jwt`"));
        }
        let kid = jws.kid.as_deref().ok_or(SubjectFault::KeyUnknown)?;
        let key = match find(kid) {
            KnownKey::Signing(key) if key.published || from_history => key,
            KnownKey::Gone if from_history => return Err(SubjectFault::KeyGone.into()),
            KnownKey::Signing(_) | KnownKey::Gone | KnownKey::Unknown => return Err(SubjectFault::KeyUnknown.into()),
        };
        if !key.public.as_ref().is_some_and(|public| public.verify_jws(&jws)) {
            return Err(SubjectFault::SignatureInvalid.into());
        }
        let claims = TxnClaims::parse(&jws.payload)
            .map_err(|_| SubjectFault::ClaimsInvalid.because("they are not those of a Txn-Token"))?;
        check_trust_domain(&claims, trust_domain)?;
        let token = Self { claims, signed_part: sha256(jws.signed_part.as_bytes()), kid: kid.to_owned(), key };
        token.check_span()?;
        Ok(token)
    }

    /// A token that was not issued while its key signed, or that lives longer than was allowed then, is forged or corrupted
    /// (R-DELAY-09).
    fn check_span(&self) -> Result<(), SubjectError> {
        let (iat, exp) = (self.claims.iat, self.claims.exp);
        // A free retry repeats the claims of a redemption while they are valid, possibly with another current key.
        let last = if is_redeemed(&self.claims) { exp - 1 } else { iat };
        if !self.key.signed_within(Timestamp::from_epoch(iat), Timestamp::from_epoch(last)) {
            return Err(SubjectFault::ClaimsInvalid.because("iat is outside the time in which its key signed"));
        }
        if Duration::from_secs(exp - iat) > self.key.max_lifetime {
            return Err(
                SubjectFault::ClaimsInvalid.because("its lifetime is longer than was allowed when it was issued")
            );
        }
        Ok(())
    }

    fn into_own_token(self, alive: bool) -> OwnToken {
        let Self { claims, signed_part, kid, key } = self;
        OwnToken { claims, signed_part, kid, key_state: key.state, alive }
    }
}

#[cfg(test)]
mod tests;
