//! Permit and term → the claims of a Txn-Token.
//!
//! In: a [`Permit`] and the [`Term`] that the ledger returns for it. Out: [`Claims`], which a key signs. Between the two is
//! a [`ClaimsDraft`], so that no use is counted for a token that its readers would refuse.

use serde::Serialize;
use writ_verifier::{Delayed, Members, TOKEN_MAX, TrustDomain, TxnClaims};

use crate::decision::{Grant, GrantKind, TrialGrant};
use crate::ledger::Term;
use crate::permit::Permit;
use crate::policy::mapping::TransactionContext;
use crate::subject::AnyTxnToken;
use writ_platform::clock::Timestamp;
use writ_platform::unique::uuid_v7;

/// The largest `tokens.max_size`, in bytes. A redeemed token is longer than its original (the mark, the chain, the name of
/// another client, the signature of another algorithm) and must still be accepted by readers.
pub const LARGEST: u32 = 14_336;

/// The bytes that the claims of most tokens need.
const USUAL_PAYLOAD: usize = 512;

const _: () = assert!(LARGEST as usize + 2048 == TOKEN_MAX);

/// Settings that apply to every token (`[tokens]`).
#[derive(Debug, Clone)]
pub struct Settings {
    /// `aud`.
    pub trust_domain: TrustDomain,
    /// `iss`.
    pub issuer: String,
    /// Whether tokens have `iss`.
    pub include_iss: bool,
    /// The maximum length of an issued token in bytes; redeemed ones may be longer.
    pub max_size: usize,
    /// How many replacements one transaction may have.
    pub max_replacements: u32,
}

/// The claims of a token that policy, PDP and kill switch permit and for which the ledger set a term. A key signs nothing
/// else. Only [`ClaimsDraft::complete`] creates them.
///
/// They cannot be constructed:
///
/// ```compile_fail,E0451
/// use writ_core::claims::Claims;
/// use writ_verifier::TxnClaims;
/// fn forge(claims: TxnClaims, payload: Vec<u8>) -> Claims {
///     Claims { claims, payload }
/// }
/// ```
///
/// or read from JSON:
///
/// ```compile_fail,E0277
/// let forged: writ_core::claims::Claims = serde_json::from_str("{}").unwrap();
/// ```
///
/// and nothing else can be signed:
///
/// ```compile_fail,E0308
/// use writ_core::keys::Signer;
/// use writ_verifier::TxnClaims;
/// fn sign(signer: &Signer, claims: &TxnClaims) {
///     let _ = signer.sign(claims);
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Claims {
    claims: TxnClaims,
    payload: Vec<u8>,
}

impl Claims {
    /// The claims in the form in which they are signed.
    pub fn as_txn_claims(&self) -> &TxnClaims {
        &self.claims
    }

    /// The JSON that is signed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

/// The claims of a permitted token before its term is known: `iat` and `exp` are as if it were issued now, and the use
/// number is the largest. They were parsed back, so that every reader will accept the token.
///
/// They cannot be signed before a use is spent:
///
/// ```compile_fail,E0308
/// use writ_core::{claims::ClaimsDraft, keys::Signer};
/// fn sign(signer: &Signer, draft: &ClaimsDraft) {
///     let _ = signer.sign(draft);
/// }
/// ```
///
/// and the term must be the ledger's:
///
/// ```compile_fail,E0308
/// use writ_core::claims::{Claims, ClaimsDraft};
/// use writ_platform::clock::Timestamp;
/// fn guess(draft: ClaimsDraft, now: Timestamp) -> Claims {
///     draft.complete(now)
/// }
/// ```
#[derive(Debug)]
pub struct ClaimsDraft {
    permit: Permit,
    claims: TxnClaims,
    payload: Vec<u8>,
}

/// Readers would refuse a token with these claims, or read other values from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the claims cannot be read back")]
pub struct Unreadable;

impl ClaimsDraft {
    /// The claims that `permit` allows. A new transaction gets a fresh `txn` (`UUIDv7`, R-CLAIM-03); an existing one keeps
    /// its `txn`, `sub` and all its members (R-SUBJ-20, R-DELAY-15).
    ///
    /// # Errors
    /// [`Unreadable`], for claims that the decision did not already refuse.
    pub fn new(permit: Permit, now: Timestamp, settings: &Settings) -> Result<Self, Unreadable> {
        let claims = write(permit.grant(), now, u32::MAX, settings);
        let payload = to_json(&claims)?;
        let same = TxnClaims::parse(&payload).is_ok_and(|read| read == claims);
        if same { Ok(Self { permit, claims, payload }) } else { Err(Unreadable) }
    }

    /// The permit that allows these claims.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The length of the JSON, with the largest numbers possible.
    pub(crate) fn payload_len(&self) -> usize {
        self.payload.len()
    }

    /// Completes the claims with the times and the use number of `term`: only numbers change, which no reader refuses.
    ///
    /// # Errors
    /// [`Unreadable`], which does not happen: the draft has been written once.
    pub fn complete(self, term: Term) -> Result<Claims, Unreadable> {
        let Self { permit, mut claims, payload } = self;
        let is_as_drafted = (claims.iat, claims.exp) == (term.iat().epoch(), term.exp().epoch());
        if is_as_drafted && term.spent().is_none() {
            return Ok(Claims { claims, payload });
        }
        (claims.iat, claims.exp) = (term.iat().epoch(), term.exp().epoch());
        if let (GrantKind::Redeem { original, .. }, Some(spent)) = (permit.grant().kind(), term.spent()) {
            mark_delayed(&mut claims.rctx, original.claims(), spent.use_number);
        }
        let payload = to_json(&claims)?;
        Ok(Claims { claims, payload })
    }
}

fn to_json(claims: &TxnClaims) -> Result<Vec<u8>, Unreadable> {
    let mut payload = Vec::with_capacity(USUAL_PAYLOAD);
    serde_json::to_writer(&mut payload, claims).map_err(|_| Unreadable)?;
    Ok(payload)
}

/// The claims that a trial would lead to; for a redemption, those of its first use. No key signs them:
///
/// ```compile_fail,E0308
/// use writ_core::{claims::ClaimsPreview, keys::Signer};
/// fn sign(signer: &Signer, preview: &ClaimsPreview) {
///     let _ = signer.sign(preview);
/// }
/// ```
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ClaimsPreview(TxnClaims);

impl ClaimsPreview {
    /// The claims that `grant` would lead to at `now`.
    pub fn of_trial(grant: &TrialGrant, now: Timestamp, settings: &Settings) -> Self {
        Self(write(grant, now, 1, settings))
    }

    /// The claims in the form in which they would be signed.
    pub fn as_txn_claims(&self) -> &TxnClaims {
        &self.0
    }
}

fn write<T: AnyTxnToken>(grant: &Grant<T>, now: Timestamp, use_number: u32, settings: &Settings) -> TxnClaims {
    let client = grant.client().as_str();
    let TransactionContext { tctx, mut rctx } = grant.carried().clone();
    let (txn, sub, chain) = match grant.kind() {
        GrantKind::Issue { sub, .. } => (uuid_v7().to_string(), sub.as_str().to_owned(), Vec::new()),
        GrantKind::Replace { original, .. } => carried_over(original.claims(), client),
        GrantKind::Redeem { original, .. } => {
            mark_delayed(&mut rctx, original.claims(), use_number);
            carried_over(original.claims(), client)
        }
    };
    TxnClaims {
        iss: settings.include_iss.then(|| settings.issuer.clone()),
        iat: now.epoch(),
        exp: grant.expiry(now).epoch(),
        aud: settings.trust_domain.clone(),
        txn,
        sub,
        scope: grant.scope().clone(),
        req_wl: client.to_owned(),
        req_wl_chain: chain,
        tctx,
        rctx,
        nbf: None,
    }
}

#[cfg(test)]
impl Claims {
    /// Claims that no policy granted, for tests.
    pub(crate) fn about(sub: &str) -> Self {
        let claims = serde_json::json!({
            "iat": 1_790_000_000, "exp": 1_790_000_060, "aud": "d.example", "txn": "t", "sub": sub,
            "scope": "a", "req_wl": "gateway"
        });
        Self { payload: serde_json::to_vec(&claims).unwrap(), claims: serde_json::from_value(claims).unwrap() }
    }
}

/// `txn`, `sub` and the chain of a token that succeeds `original`; the client is appended to the chain (R-SUBJ-24).
fn carried_over(original: &TxnClaims, client: &str) -> (String, String, Vec<String>) {
    let mut chain = original.req_wl_chain.clone();
    if chain.is_empty() {
        chain.push(original.req_wl.clone());
    }
    chain.push(client.to_owned());
    (original.txn.clone(), original.sub.clone(), chain)
}

/// Marks a redeemed token, so that verifiers can see its origin (R-DELAY-16).
fn mark_delayed(rctx: &mut Members, original: &TxnClaims, use_number: u32) {
    let delayed = Delayed { iat: original.iat, exp: original.exp, use_number };
    rctx.set(Delayed::MEMBER, &delayed).expect("three numbers under fixed names always make JSON");
}

#[cfg(test)]
mod chains;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::ledger::Spent;
    use crate::subject::OwnToken;

    const NOW: u64 = 1_790_000_000;

    fn settings(include_iss: bool) -> Settings {
        Settings {
            trust_domain: "d.example".parse().unwrap(),
            issuer: "https://tts.d.example".into(),
            include_iss,
            max_size: 4096,
            max_replacements: 4,
        }
    }

    fn term(spent: Option<Spent>) -> Term {
        Term::for_tests(Timestamp::from_epoch(NOW), Timestamp::from_epoch(NOW + 60), spent)
    }

    fn completed(grant: Grant, spent: Option<Spent>, include_iss: bool) -> Claims {
        let draft = ClaimsDraft::new(grant.into(), Timestamp::from_epoch(NOW), &settings(include_iss));
        draft.unwrap().complete(term(spent)).unwrap()
    }

    fn written(grant: Grant, spent: Option<Spent>, include_iss: bool) -> Value {
        let claims = completed(grant, spent, include_iss);
        assert_eq!(TxnClaims::parse(claims.payload()).as_ref(), Ok(claims.as_txn_claims()));
        serde_json::from_slice(claims.payload()).unwrap()
    }

    fn issued(include_iss: bool) -> Value {
        written(Grant::issuing("gateway", "u-1", "b a", None), None, include_iss)
    }

    fn redeemed(original: OwnToken) -> Value {
        written(Grant::redeeming("job", original, 3, true), Some(Spent { use_number: 2, retry: false }), true)
    }

    /// CONTRACT 3.3
    #[test]
    fn a_new_transaction_has_these_claims_and_no_others() {
        let mut claims = issued(true);
        let txn: Uuid = claims["txn"].take().as_str().unwrap().parse().unwrap();
        assert_eq!(txn.get_version_num(), 7);
        let expected = json!({
            "iss": "https://tts.d.example", "iat": NOW, "exp": NOW + 60, "aud": "d.example", "txn": null,
            "sub": "u-1", "scope": "b a", "req_wl": "gateway"
        });
        assert_eq!(claims, expected);
        assert_ne!(issued(true)["txn"], issued(true)["txn"]);
    }

    /// R-CLAIM-08: never empty or null.
    #[test]
    fn the_issuer_can_be_left_out() {
        assert!(issued(false).get("iss").is_none());
    }

    /// R-DELAY-15, R-DELAY-16
    #[test]
    fn a_redeemed_token_carries_everything_over_and_says_where_it_comes_from() {
        let original = OwnToken::expired("t", 1, NOW - 3600);
        let expected = json!({
            "iss": "https://tts.d.example", "iat": NOW, "exp": NOW + 60, "aud": "d.example", "txn": "t", "sub": "u-1",
            "scope": "account.purge", "req_wl": "job", "req_wl_chain": ["account-service", "job"],
            "tctx": {"contract": "C-1"},
            "rctx": {"req_ip": "192.0.2.1", "delayed": {"iat": NOW - 3600, "exp": NOW - 3540, "use": 2}}
        });
        assert_eq!(redeemed(original), expected);
    }

    /// R-SUBJ-24
    #[test]
    fn the_chain_grows_at_its_end() {
        let mut original = OwnToken::expired("t", 1, NOW - 3600);
        original.claims_mut().req_wl_chain = vec!["gateway".into(), "account-service".into()];
        assert_eq!(redeemed(original)["req_wl_chain"], json!(["gateway", "account-service", "job"]));
    }

    /// Numbers stay as written, even if a double cannot represent them.
    #[test]
    fn what_is_carried_over_is_not_rounded() {
        let mut original = OwnToken::expired("t", 1, NOW - 3600);
        original.claims_mut().tctx = serde_json::from_str(r#"{"amount":100000000000000000001,"rate":0.10}"#).unwrap();
        let grant = Grant::redeeming("job", original, 1, true);
        let spent = Some(Spent { use_number: 1, retry: false });
        let text = String::from_utf8(completed(grant, spent, true).payload().to_vec()).unwrap();
        assert!(text.contains(r#""tctx":{"amount":100000000000000000001,"rate":0.10}"#), "{text}");
    }

    /// The very same claims on a free retry.
    #[test]
    fn a_repeated_use_makes_the_same_claims() {
        let claims = |retry| {
            let grant = Grant::redeeming("job", OwnToken::expired("t", 1, NOW - 3600), 1, true);
            written(grant, Some(Spent { use_number: 1, retry }), true)
        };
        assert_eq!(claims(false), claims(true));
    }
}
