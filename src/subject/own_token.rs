//! A Txn-Token of ours as subject token: for replacement while it lives, for redemption after.
//!
//! Ordinary clients meet the published keys only. The history of keys opens to clients that may redeem, and to nobody
//! else: others hear the same answer for an archived key as for one that was never ours (R-DELAY-02).

use std::time::Duration;

use aws_lc_rs::digest;
use jsonwebtoken::DecodingKey;
use writ_verifier::claims::TYP;
use writ_verifier::jws::{Jws, JwsError};
use writ_verifier::{TrustDomain, TxnClaims};

use super::SubjectError;
use crate::clock::Timestamp;

/// Clocks of instances differ: an `iat` this far ahead is accepted.
const INSTANCE_SKEW: Duration = Duration::from_secs(5);

/// Longer than any token we issue, redeemed ones included.
const MAX_LEN: usize = 16 * 1024;

/// What is known of the key that a token names.
pub enum KnownKey {
    /// It may have signed the token.
    Signing(SignedBy),
    /// It was ours, and serves nothing any more: revoked, or past its retention.
    Gone,
    /// It was never ours.
    Unknown,
}

/// A key of ours, and the span in which its private half signed.
pub struct SignedBy {
    /// The public half.
    pub public: DecodingKey,
    /// What it signs with.
    pub algorithm: jsonwebtoken::Algorithm,
    /// Whether the JWKS lists it; else it is historical.
    pub published: bool,
    /// `previous`, `historical` …, for the audit log.
    pub state: &'static str,
    /// The first second in which it signed; `None` if it has not signed yet.
    pub from: Option<Timestamp>,
    /// The last second in which it signed; `None` while it signs.
    pub until: Option<Timestamp>,
    /// The longest lifetime that was allowed while it signed.
    pub longest_lifetime: Duration,
}

impl SignedBy {
    /// Whole seconds, both ends included: the start was rounded down, the end is rounded up.
    fn signed_at(&self, iat: Timestamp) -> bool {
        self.from.is_some_and(|from| from <= iat) && self.until.is_none_or(|until| iat <= until)
    }
}

/// A Txn-Token that we issued, unaltered.
#[derive(Debug)]
pub struct OwnToken {
    /// Its claims.
    pub claims: TxnClaims,
    /// SHA-256 of header and payload as signed: what identifies a token, since its signature has a second valid form.
    pub signed_part: [u8; 32],
    /// The key that signed it.
    pub kid: String,
    /// The state of that key, for the audit log.
    pub key_state: &'static str,
    /// Whether it has not expired.
    pub alive: bool,
}

/// Verifies `text` as a Txn-Token of `trust_domain`. `may_redeem` says whether the history of keys may be used;
/// `find` looks a `kid` up among our own public keys.
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
    let jws = Jws::parse(text, MAX_LEN).map_err(|error| match error {
        JwsError::Algorithm => SubjectError::SignatureInvalid,
        JwsError::TooLong | JwsError::Form | JwsError::Header => SubjectError::Malformed,
    })?;
    if jws.typ.as_deref() != Some(TYP) {
        return Err(SubjectError::Malformed);
    }
    let kid = jws.kid.as_deref().ok_or(SubjectError::KeyUnknown)?;
    let key = match find(kid) {
        KnownKey::Signing(key) if key.published || may_redeem => key,
        KnownKey::Gone if may_redeem => return Err(SubjectError::KeyGone),
        KnownKey::Signing(_) | KnownKey::Gone | KnownKey::Unknown => return Err(SubjectError::KeyUnknown),
    };
    if jws.algorithm != key.algorithm || !jws.verify(&key.public) {
        return Err(SubjectError::SignatureInvalid);
    }
    let claims = TxnClaims::parse(&jws.payload).map_err(|_| SubjectError::ClaimsInvalid("not those of a Txn-Token"))?;
    if claims.aud != *trust_domain {
        return Err(SubjectError::AudienceMismatch);
    }
    // Looked at before any time: no chain of redemptions buys time, whoever asks and whenever.
    if claims.delayed() != Ok(None) {
        return Err(SubjectError::Redeemed);
    }
    check_span(&claims, &key)?;
    let alive = check_times(&claims, may_redeem, now)?;
    let signed_part = sha256(jws.signed_part.as_bytes());
    Ok(OwnToken { signed_part, kid: kid.to_owned(), key_state: key.state, alive, claims })
}

/// A token from outside the span of its key, or longer than any of its time, is forged or corrupted (R-DELAY-09).
fn check_span(claims: &TxnClaims, key: &SignedBy) -> Result<(), SubjectError> {
    if !key.signed_at(Timestamp::from_epoch(claims.iat)) {
        return Err(SubjectError::ClaimsInvalid("iat lies outside the time in which its key signed"));
    }
    if Duration::from_secs(claims.exp - claims.iat) > key.longest_lifetime {
        return Err(SubjectError::ClaimsInvalid("it lives longer than any token of its time"));
    }
    Ok(())
}

/// Whether the token is alive. An expired one is of use only to a client that may redeem.
fn check_times(claims: &TxnClaims, may_redeem: bool, now: Timestamp) -> Result<bool, SubjectError> {
    let begins = Timestamp::from_epoch(claims.nbf.map_or(claims.iat, |nbf| nbf.max(claims.iat)));
    if begins > now + INSTANCE_SKEW {
        return Err(SubjectError::NotYetValid);
    }
    let expired_at = Timestamp::from_epoch(claims.exp);
    let alive = now < expired_at;
    if alive || may_redeem { Ok(alive) } else { Err(SubjectError::Expired { expired_at }) }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}
