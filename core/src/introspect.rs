//! `POST /introspect`: whether a Txn-Token is valid now (RFC 7662).
//!
//! In: an [`IncomingRequest`]. Out: the claims of a valid token, or only the fact that it is not valid.

use std::sync::Arc;

use writ_verifier::TxnClaims;

use crate::audit::{AuditContext, Event};
use crate::blocks::BlockTarget;
use crate::endpoint::{Endpoint, IncomingRequest, TokenService, catch_panic, known_key};
use crate::policy::PolicySet;
use crate::refusal::Refusal;
use crate::request::TokenText;
use crate::subject::OwnToken;
use crate::subject::own_token;
use writ_platform::clock::Instants;
use writ_platform::completion::RunToCompletion;

/// The answer to an introspection.
#[derive(Debug)]
pub enum Introspected {
    /// The token is valid: its claims.
    Active(Box<TxnClaims>),
    /// It is not valid; the reason is not disclosed.
    Inactive,
}

impl TokenService {
    /// Answers one introspection; the answer is in the audit log when this ends, even if the client disconnects.
    ///
    /// # Errors
    /// [`Refusal`] of the request; it never tells what is wrong with the token.
    pub fn introspect(self: &Arc<Self>, request: IncomingRequest) -> RunToCompletion<Result<Introspected, Refusal>> {
        let (service, in_flight) = (Arc::clone(self), self.in_flight.clone());
        RunToCompletion::new(async move {
            let policies = service.policies.snapshot(); // one version for the whole request
            let mut context = request.audit_context(&policies);
            let outcome = match catch_panic(Box::pin(service.answer(&request, &policies, &mut context))).await {
                Ok(answer) => Ok(answer),
                Err(refusal) => service.record_refusal(Endpoint::Introspection, &request, &context, refusal).await,
            };
            drop(in_flight);
            outcome
        })
    }

    /// Every step from the request to the answer, in order.
    async fn answer<'r>(
        &self,
        request: &'r IncomingRequest,
        policies: &'r PolicySet,
        context: &mut AuditContext<'r>,
    ) -> Result<Introspected, Refusal> {
        let now = self.clock.read(); // once for the whole request
        let (client, form) = request.authenticate(policies, &self.limits, context)?;
        if !client.introspect {
            return Err(Refusal::IntrospectionNotAllowed);
        }
        let token = form.token()?;
        context.set_introspected(&token);
        self.limits.take(Some(&client.client_id))?;
        self.ledger.check_clock(now.system)?; // if the clock had gone back, expired tokens would be active
        let live = self.find_live(&token, now);
        self.record(request, Event::token_introspected(context, live.as_ref())).await?; // before the answer is sent
        Ok(live.map_or(Introspected::Inactive, |token| Introspected::Active(Box::new(token.into_claims()))))
    }

    /// The token, if it verifies, has not expired and is not blocked.
    fn find_live(&self, token: &TokenText, now: Instants) -> Option<OwnToken> {
        let find = |kid: &str| known_key(self.keys.find(kid));
        let live = own_token::verify_live(token.expose(), &self.settings.trust_domain, find, now.system).ok()?;
        self.blocks.check(&BlockTarget::of_token(live.claims()), now.believed).is_ok().then_some(live)
    }
}
