//! Whether a Txn-Token is valid right now (RFC 7662): the flow, top to bottom.

use std::sync::Arc;

use writ_verifier::{TrustDomain, TxnClaims};

use crate::audit::{Audit, Decision, TokenDigest};
use crate::blocks::{BlockTarget, Blocks};
use crate::endpoint::{self, Ask, Endpoint, InFlight, known_key};
use crate::keys::KeyRing;
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::policy::{Policies, PolicySet};
use crate::refusal::Refusal;
use crate::subject::OwnToken;
use crate::subject::own_token;
use writ_platform::clock::{Clock, Timestamp};

/// What a client hears of a token.
#[derive(Debug)]
pub enum Introspected {
    /// It is valid: its claims.
    Active(Box<TxnClaims>),
    /// It is not, and nothing else is said.
    Inactive,
}

/// Everything that an introspection needs: the rooms that the flow passes through.
pub struct Introspection {
    /// Whose tokens are known here.
    pub trust_domain: TrustDomain,
    /// The policies in force.
    pub policies: Arc<Policies>,
    /// What may have signed.
    pub keys: Arc<KeyRing>,
    /// What knows whether the clock went back.
    pub ledger: Arc<Ledger>,
    /// What an operator has stopped.
    pub blocks: Arc<Blocks>,
    /// When what an operator has stopped goes on.
    pub clock: Arc<Clock>,
    /// How often a client may ask; `/token` counts too.
    pub limits: Arc<Limits>,
    /// Where each answer is recorded.
    pub audit: Audit,
    /// Lives as long as work is in flight.
    pub in_flight: InFlight,
}

impl Introspection {
    /// Answers one request; the answer is in the audit log when this returns.
    ///
    /// # Errors
    /// [`Refusal`]: what the client did wrong or may not do, never what is wrong with the token.
    pub async fn introspect(self: &Arc<Self>, ask: Ask) -> Result<Introspected, Refusal> {
        let introspection = Arc::clone(self);
        endpoint::to_its_end(self.in_flight.clone(), async move { introspection.recorded(&ask).await }).await
    }

    async fn recorded(&self, ask: &Ask) -> Result<Introspected, Refusal> {
        let policies = self.policies.snapshot(); // one view for the whole request
        let mut decision = Decision::begin(ask, &policies);
        let outcome = endpoint::or_internal(async { self.answer(ask, &policies, &mut decision) }).await;
        Endpoint::Introspection.record(&self.audit, ask, outcome, &mut decision).await
    }

    fn answer(&self, ask: &Ask, policies: &PolicySet, decision: &mut Decision) -> Result<Introspected, Refusal> {
        let (client, form) = ask.open(policies, &self.limits, decision)?; // none: 401 before the form is looked at
        if !client.introspect {
            return Err(Refusal::IntrospectionNotAllowed);
        }
        let token = form.token()?;
        decision.token_sha256 = Some(TokenDigest::of(token.expose()));
        self.limits.take(Some(&client.client_id))?;
        let now = Timestamp::now();
        self.ledger.check_clock(now)?; // by a clock that went back, what has expired would be active
        let find = |kid: &str| known_key(self.keys.find(kid));
        let live = own_token::verify_live(token.expose(), &self.trust_domain, find, now).ok();
        let live =
            live.filter(|token| self.blocks.check(&BlockTarget::of_token(&token.claims), self.clock.now()).is_ok());
        decision.active = Some(live.is_some());
        let Some(token) = live else { return Ok(Introspected::Inactive) };
        decision.knows(&token);
        Ok(Introspected::Active(Box::new(token.claims)))
    }
}

impl Decision {
    fn knows(&mut self, token: &OwnToken) {
        self.txn = Some(token.claims.txn.clone());
        self.sub = Some(token.claims.sub.clone());
        self.scope = Some(token.claims.scope.to_string());
        self.exp = Some(token.claims.exp);
        self.kid = Some(token.kid.clone());
    }
}
