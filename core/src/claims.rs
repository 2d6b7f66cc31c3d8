//! Grant and instant → the claims of a Txn-Token.

use serde::Serialize;
use uuid::Uuid;
use writ_verifier::{Delayed, Members, TOKEN_MAX, TrustDomain, TxnClaims};

use crate::decision::{Grant, GrantKind};
use crate::ledger::Term;
use crate::permit::Permit;
use crate::policy::mapping::TransactionContext;
use writ_platform::clock::Timestamp;

/// The largest `tokens.max_size`, in bytes: what a token becomes longer by when it is redeemed (the mark, the chain, the
/// name of another client, the signature of another algorithm) must still be read.
pub const LARGEST: u32 = 14_336;

const _: () = assert!(LARGEST as usize + 2048 == TOKEN_MAX);

/// What is the same in every token (`[tokens]`).
#[derive(Debug, Clone)]
pub struct Settings {
    /// `aud`.
    pub trust_domain: TrustDomain,
    /// `iss`.
    pub issuer: String,
    /// Whether `iss` is written.
    pub include_iss: bool,
    /// The longest token that is issued, in bytes.
    pub max_size: usize,
    /// How many replacements may lead from a transaction's first token to another.
    pub max_replacements: u32,
}

/// The claims of a token that policy, PDP and kill switch permit and the ledger gave a term: the only thing that a key
/// signs.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Claims(TxnClaims);

impl Claims {
    /// The claims of what `permit` allows, for the time that `term` gives. A new transaction gets a fresh `txn`
    /// (`UUIDv7`, R-CLAIM-03); one that goes on keeps its `txn`, `sub` and all its members (R-SUBJ-20, R-DELAY-15).
    pub fn new(permit: Permit, term: Term, settings: &Settings) -> Self {
        let use_number = term.spent().map_or(0, |spent| spent.use_number);
        Self(txn_claims(permit.into_grant(), term.iat(), term.exp(), use_number, settings))
    }

    /// The claims in the form in which they are signed.
    pub fn as_txn_claims(&self) -> &TxnClaims {
        &self.0
    }
}

/// What the token of a grant would say: no use is spent for it, and no key signs it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Foreseen(TxnClaims);

impl Foreseen {
    /// The claims of what `grant` allows at `now`; `use_number` is written only for a redemption.
    pub fn new(grant: Grant, use_number: u32, now: Timestamp, settings: &Settings) -> Self {
        let exp = grant.expiry(now);
        Self(txn_claims(grant, now, exp, use_number, settings))
    }

    /// The claims as they would be signed.
    pub fn as_txn_claims(&self) -> &TxnClaims {
        &self.0
    }
}

fn txn_claims(grant: Grant, iat: Timestamp, exp: Timestamp, use_number: u32, settings: &Settings) -> TxnClaims {
    let client = grant.client().as_str().to_owned();
    let scope = grant.scope().clone();
    let (TransactionContext { tctx, mut rctx }, kind) = grant.into_parts();
    let (txn, sub, chain) = match kind {
        GrantKind::Issue { sub, .. } => (Uuid::now_v7().to_string(), sub.as_str().to_owned(), Vec::new()),
        GrantKind::Replace { original, .. } => carried_over(original.claims, &client),
        GrantKind::Redeem { original, .. } => {
            mark_delayed(&mut rctx, &original.claims, use_number);
            carried_over(original.claims, &client)
        }
    };
    TxnClaims {
        iss: settings.include_iss.then(|| settings.issuer.clone()),
        iat: iat.epoch(),
        exp: exp.epoch(),
        aud: settings.trust_domain.clone(),
        txn,
        sub,
        scope,
        req_wl: client,
        req_wl_chain: chain,
        tctx,
        rctx,
        nbf: None,
    }
}

#[cfg(test)]
impl Claims {
    /// Claims that no policy granted, for tests of what is done with claims.
    pub(crate) fn about(sub: &str) -> Self {
        Self(
            serde_json::from_value(serde_json::json!({
                "iat": 1_790_000_000, "exp": 1_790_000_060, "aud": "d.example", "txn": "t", "sub": sub,
                "scope": "a", "req_wl": "gateway"
            }))
            .unwrap(),
        )
    }
}

/// `txn`, `sub` and the chain of a token that follows on `original`: the client is put at its end (R-SUBJ-24).
fn carried_over(original: TxnClaims, client: &str) -> (String, String, Vec<String>) {
    let TxnClaims { txn, sub, req_wl, req_wl_chain, .. } = original;
    let mut chain = if req_wl_chain.is_empty() { vec![req_wl] } else { req_wl_chain };
    chain.push(client.to_owned());
    (txn, sub, chain)
}

/// Verifiers shall see where a redeemed token comes from (R-DELAY-16).
fn mark_delayed(rctx: &mut Members, original: &TxnClaims, use_number: u32) {
    let delayed = Delayed { iat: original.iat, exp: original.exp, use_number };
    rctx.set(Delayed::MEMBER, &delayed).expect("three numbers under fixed names always make JSON");
}

#[cfg(test)]
mod chains;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

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

    fn written(grant: Grant, spent: Option<Spent>, include_iss: bool) -> Value {
        serde_json::to_value(Claims::new(grant.into(), term(spent), &settings(include_iss))).unwrap()
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
        original.claims.req_wl_chain = vec!["gateway".into(), "account-service".into()];
        assert_eq!(redeemed(original)["req_wl_chain"], json!(["gateway", "account-service", "job"]));
    }

    /// Numbers stay as they were written, whatever a double could hold.
    #[test]
    fn what_is_carried_over_is_not_rounded() {
        let mut original = OwnToken::expired("t", 1, NOW - 3600);
        original.claims.tctx = serde_json::from_str(r#"{"amount":100000000000000000001,"rate":0.10}"#).unwrap();
        let grant = Grant::redeeming("job", original, 1, true);
        let spent = Some(Spent { use_number: 1, retry: false });
        let text = serde_json::to_string(&Claims::new(grant.into(), term(spent), &settings(true))).unwrap();
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
