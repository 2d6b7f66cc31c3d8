//! Grant and instant → the claims of a Txn-Token.

use serde::Serialize;
use uuid::Uuid;
use writ_verifier::{Delayed, Members, TrustDomain, TxnClaims};

use crate::ledger::Term;
use crate::policy::decide::{Grant, GrantKind};
use crate::subject::OwnToken;

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
    /// How often a transaction's token may be replaced.
    pub max_replacements: u32,
}

/// The claims of a token that policy granted and the ledger allowed: the only thing that a key signs.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Claims(TxnClaims);

impl Claims {
    /// The claims of what `grant` allows, for the time that `term` gives. A new transaction gets a fresh `txn`
    /// (`UUIDv7`, R-CLAIM-03); a redeemed one keeps all its members (R-DELAY-15, R-DELAY-16).
    pub fn new(grant: Grant, term: Term, settings: &Settings) -> Self {
        let client = grant.client().as_str().to_owned();
        let scope = grant.scope().clone();
        let carried = match grant.into_kind() {
            GrantKind::Issue { sub, .. } => Carried::first(sub.as_str().to_owned()),
            GrantKind::Redeem { original, .. } => Carried::over(*original, &client, term),
        };
        Self(TxnClaims {
            iss: settings.include_iss.then(|| settings.issuer.clone()),
            iat: term.iat.epoch(),
            exp: term.exp.epoch(),
            aud: settings.trust_domain.clone(),
            txn: carried.txn,
            sub: carried.sub,
            scope,
            req_wl: client,
            req_wl_chain: carried.chain,
            tctx: carried.tctx,
            rctx: carried.rctx,
            nbf: None,
        })
    }

    /// The claims in the form in which they are signed.
    pub fn as_txn_claims(&self) -> &TxnClaims {
        &self.0
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

/// What does not come from this request alone.
struct Carried {
    txn: String,
    sub: String,
    chain: Vec<String>,
    tctx: Members,
    rctx: Members,
}

impl Carried {
    fn first(sub: String) -> Self {
        let (tctx, rctx) = (Members::default(), Members::default());
        Self { txn: Uuid::now_v7().to_string(), sub, chain: Vec::new(), tctx, rctx }
    }

    fn over(original: OwnToken, client: &str, term: Term) -> Self {
        let TxnClaims { iat, exp, txn, sub, req_wl, req_wl_chain, tctx, mut rctx, .. } = original.claims;
        let use_number = term.spent.map_or(0, |spent| spent.use_number);
        let delayed = Delayed { iat, exp, use_number };
        rctx.set(Delayed::MEMBER, &delayed).expect("three numbers under fixed names always make JSON");
        let mut chain = if req_wl_chain.is_empty() { vec![req_wl] } else { req_wl_chain };
        chain.push(client.to_owned());
        Self { txn, sub, chain, tctx, rctx }
    }
}
