//! `POST /token`: the flow of an exchange.
//!
//! In: an [`IncomingRequest`]. Out: a token that is signed, on record and in the audit log, or a [`Refusal`] that is in the
//! audit log. `TokenService::issue` names every step in its order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audit::{AuditContext, Event};
use crate::claims::{Claims, ClaimsDraft, Unreadable};
use crate::client::ClientId;
use crate::decision::{AdmittedRequest, AppliedRule, Circumstances, Denial, Grant, GrantKind, Trace, admit, decide};
use crate::endpoint::{Endpoint, IncomingRequest, TokenService, catch_panic, known_key};
use crate::exchange_metrics::ExchangeMetrics;
use crate::keys::{KeysError, Signer, TxnToken};
use crate::ledger::{Entry, LedgerError, Redeemable, Term};
use crate::permit::{ApprovedGrant, Inquiry, Permit};
use crate::policy::PolicySet;
use crate::refusal::Refusal;
use crate::request::{Source, TokenRequest};
use crate::subject::{SingleUse, VerificationContext, VerifiedSubject};
use writ_platform::clock::Timestamp;
use writ_platform::completion::RunToCompletion;

/// With more policies than this, metrics have no client label.
const MAX_CLIENT_LABELS: usize = 500;

/// A Txn-Token that may be sent: signed, on record and in the audit log.
#[derive(Debug)]
pub struct Issued {
    token: TxnToken,
    scope: String,
    expires_at: Timestamp,
    expires_in: Duration,
    redeemable_until: Option<Timestamp>,
}

impl Issued {
    /// The token.
    pub fn token(&self) -> &TxnToken {
        &self.token
    }

    /// Its purposes, separated by spaces.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// `exp`.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    /// Whole seconds until `exp`.
    pub fn expires_in(&self) -> u64 {
        self.expires_in.as_secs()
    }

    /// The last second in which it can be redeemed; `None` if it is not on record for that.
    pub fn redeemable_until(&self) -> Option<Timestamp> {
        self.redeemable_until
    }

    /// An unsigned token, for tests of the response: `expires_at` is in seconds since 1970, a minute from now.
    #[cfg(any(test, feature = "testing"))]
    pub fn unsigned(compact: &str, scope: &str, expires_at: u64, redeemable_until: Option<u64>) -> Self {
        Self {
            token: TxnToken::unsigned(compact),
            scope: scope.to_owned(),
            expires_at: Timestamp::from_epoch(expires_at),
            expires_in: Duration::from_secs(60),
            redeemable_until: redeemable_until.map(Timestamp::from_epoch),
        }
    }
}

/// A token that is signed, but neither on record nor in the audit log yet.
struct SignedToken {
    signed: TxnToken,
    claims: Claims,
    term: Term,
    /// The identifier that it uses up when it is recorded.
    single_use: Option<SingleUse>,
}

impl TokenService {
    /// Answers one exchange; the outcome is in the audit log when this ends. It ends even if the client disconnects, so
    /// that a counted use is always logged.
    ///
    /// # Errors
    /// Any [`Refusal`].
    pub fn exchange(self: &Arc<Self>, request: IncomingRequest) -> RunToCompletion<Result<Issued, Refusal>> {
        let (service, in_flight) = (Arc::clone(self), self.in_flight.clone());
        RunToCompletion::new(async move {
            let started = Instant::now();
            let policies = service.policies.snapshot(); // one version for the whole request
            let (mut context, mut trace) = (request.audit_context(&policies), Trace::default());
            // Boxed, as is each rare step of it: what is around a future moves it, and its size is that of its largest step.
            let flow = Box::pin(service.issue(&request, &policies, &mut context, &mut trace));
            let outcome = catch_panic(flow).await;
            log_rules(&context, &trace, &outcome);
            let outcome = match outcome {
                Ok(issued) => Ok(issued),
                Err(refusal) => {
                    warn_of_failed_redemption(&refusal, &context);
                    Box::pin(service.record_refusal(Endpoint::Token, &request, &context, refusal)).await
                }
            };
            count(&service.metrics, &context, &policies, &outcome, started.elapsed());
            drop(in_flight);
            outcome
        })
    }

    /// Every step from a request to a token that may be sent, in order. The first that fails determines the refusal.
    async fn issue<'p>(
        &self,
        request: &'p IncomingRequest,
        policies: &'p PolicySet,
        context: &mut AuditContext<'p>,
        trace: &mut Trace<'p>,
    ) -> Result<Issued, Refusal> {
        let now = self.clock.read(); // once for the whole request
        let (client, form) = request.authenticate(policies, &self.limits, context)?;
        let requested = TokenRequest::parse(&form, &self.settings.trust_domain)?;
        context.set_request(&requested);
        self.limits.take(Some(&client.client_id))?;
        self.blocks.check_client(&client.client_id, now.believed)?;
        let admitted = admit(client, &requested, trace)?; // the rules that need no subject token
        self.ledger.check_clock(now.system)?;
        let signer = self.keys.signer(now.system)?; // key and instant together: `iat` is in the key's span
        let subject = self.verify_subject(request, &admitted, policies, signer.instant()).await?;
        context.set_subject(&subject, signer.instant());
        log_subject(context);
        let grant = self.decide(&admitted, subject, signer.instant(), context, trace)?;
        let approved = self.ask_pdp(request, &admitted, grant, context).await?;
        let permit = Permit::new(approved, &self.blocks, now.believed)?; // the kill switch, all selectors
        self.audit.check()?; // no use is counted that could not be audited
        let draft = self.draft(permit, &signer)?; // no use is counted for a token that readers would refuse
        let spent = self.ledger.spend(draft.permit(), signer.instant());
        let term = request.wait_for(spent, || LedgerError::Late).await?; // durable; a free retry repeats its term
        let token = self.sign(draft, term, &signer)?;
        let redeemable_until = self.put_on_record(request, &token, policies, signer.instant()).await?; // durable
        let event = Event::token_issued(context, &token.claims, &token.signed, term);
        self.record(request, event).await?; // in the audit log before it is sent
        Ok(token.issued(redeemable_until, signer.instant()))
    }

    async fn verify_subject(
        &self,
        request: &IncomingRequest,
        admitted: &AdmittedRequest<'_, '_>,
        policies: &PolicySet,
        now: Timestamp,
    ) -> Result<VerifiedSubject, Refusal> {
        let context = VerificationContext {
            client: admitted.client(),
            certificate: &request.certificate,
            policies,
            may_redeem: admitted.may_redeem(),
            trust_domain: &self.settings.trust_domain,
            issuer: &self.settings.issuer,
            deadline: request.deadline,
            now,
        };
        let find_key = |kid: &str| known_key(self.keys.find(kid));
        Ok(VerifiedSubject::verify(&admitted.request().presented, context, &self.issuers, find_key).await?)
    }

    fn decide<'p>(
        &self,
        admitted: &AdmittedRequest<'p, '_>,
        subject: VerifiedSubject,
        now: Timestamp,
        context: &mut AuditContext<'p>,
        trace: &mut Trace<'p>,
    ) -> Result<Grant, Denial> {
        let at = Circumstances { now, max_replacements: self.settings.max_replacements };
        let names_actor = subject.names_actor();
        let grant = decide(admitted, subject, at, trace)?;
        context.set_granted(names_actor);
        Ok(grant)
    }

    async fn ask_pdp(
        &self,
        request: &IncomingRequest,
        admitted: &AdmittedRequest<'_, '_>,
        grant: Grant,
        context: &mut AuditContext<'_>,
    ) -> Result<ApprovedGrant, Refusal> {
        let inquiry = Inquiry {
            request: admitted.request(),
            proof: context.proof(),
            request_id: &request.request_id,
            deadline: request.deadline,
        };
        let answer = ApprovedGrant::obtain(grant, self.pdp.as_deref(), inquiry).await;
        context.set_pdp_outcome(&answer);
        Ok(answer?)
    }

    /// [`decide`] refuses most unreadable claims; the length of the signed token is known only here.
    fn draft(&self, permit: Permit, signer: &Signer) -> Result<ClaimsDraft, Refusal> {
        let redeems = matches!(permit.grant().kind(), GrantKind::Redeem { .. });
        let draft = ClaimsDraft::new(permit, signer.instant(), &self.settings);
        match draft {
            Ok(draft) if !redeems || signer.can_sign(&draft) => Ok(draft),
            Err(Unreadable) if !redeems => Err(KeysError::Claims.into()),
            Ok(_) | Err(Unreadable) => Err(Denial::ClaimUnreadable.into()),
        }
    }

    fn sign(&self, draft: ClaimsDraft, term: Term, signer: &Signer) -> Result<SignedToken, Refusal> {
        let single_use = match draft.permit().grant().kind() {
            GrantKind::Issue { single_use, .. } => *single_use,
            GrantKind::Replace { .. } | GrantKind::Redeem { .. } => None,
        };
        let claims = draft.complete(term).map_err(|_| KeysError::Claims)?;
        let txn_token = signer.sign(&claims)?;
        // For a redemption the use is already counted; its length was checked before that (`draft`).
        if term.spent().is_none() && txn_token.as_str().len() > self.settings.max_size {
            return Err(Refusal::TokenTooLarge);
        }
        Ok(SignedToken { signed: txn_token, claims, term, single_use })
    }

    /// Records the token if a policy can redeem it, and the identifier it uses up. Returns the end of redeemability; a
    /// redeemed token has none.
    async fn put_on_record(
        &self,
        request: &IncomingRequest,
        token: &SignedToken,
        policies: &PolicySet,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Refusal> {
        if token.term.spent().is_some() {
            return Ok(None);
        }
        let claims = token.claims.as_txn_claims();
        let redeemable_until =
            policies.redeemable_for(&claims.scope, &claims.req_wl).map(|max_age| token.term.exp() + max_age);
        let redeemable = |keep_until| Redeemable {
            signed_part: token.signed.signed_part_sha256(),
            txn: &claims.txn,
            iat: token.term.iat(),
            keep_until,
        };
        let entry = Entry { token: redeemable_until.map(redeemable), single_use: token.single_use };
        if !entry.is_empty() {
            Box::pin(request.wait_for(self.ledger.record(entry, now), || LedgerError::Late)).await?;
        }
        Ok(redeemable_until)
    }
}

impl SignedToken {
    fn issued(self, redeemable_until: Option<Timestamp>, now: Timestamp) -> Issued {
        let Self { signed, claims, term, .. } = self;
        Issued {
            token: signed,
            scope: claims.as_txn_claims().scope.to_string(),
            expires_at: term.exp(),
            // A free retry may have read the clock before the use it repeats was counted.
            expires_in: term.exp().since(now.max(term.iat())),
            redeemable_until,
        }
    }
}

fn log_subject(context: &AuditContext<'_>) {
    let (source, sub, issuer, key_state) = context.subject();
    let request_id = context.request_id();
    tracing::debug!(request_id, source, sub, issuer, key_state, "the subject is verified");
}

/// Logs at level `debug` the applied rules, one line each, and the outcome. The details repeat values of the request: they
/// are for readers of the policies, and must not contain a token.
fn log_rules(context: &AuditContext<'_>, trace: &Trace<'_>, outcome: &Result<Issued, Refusal>) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let request_id = context.request_id();
    for AppliedRule { rule, line, passed, detail } in trace.applied_rules() {
        // A schema's detail contains the offending value; a scope that contains a token is not repeated.
        let is_withheld = context.scope().is_none() || (rule == "request_details" && !passed);
        let detail = if is_withheld { String::new() } else { presentable(&detail) };
        tracing::debug!(request_id, rule, line, passed, detail, "a rule was applied");
    }
    match outcome {
        Ok(issued) => tracing::debug!(request_id, expires_in = issued.expires_in(), "a token is issued"),
        Err(refusal) => tracing::debug!(request_id, cause = refusal.description(), "the request is refused"),
    }
}

/// At most 500 characters of the text, without words as long as tokens and keys.
fn presentable(text: &str) -> String {
    const MAX_WORD_LEN: usize = 40;
    let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '=');
    let mut shown = String::new();
    for piece in text.split_inclusive(|c| !in_word(c)).take(200) {
        if piece.len() > MAX_WORD_LEN { shown.push('…') } else { shown.push_str(piece) }
    }
    shown.chars().take(500).collect()
}

/// Refused redemptions are logged beside the audit line (R-DELAY-21).
fn warn_of_failed_redemption(refusal: &Refusal, context: &AuditContext<'_>) {
    // A client that polls until it may redeem is expected.
    let is_early = matches!(refusal, Refusal::Policy(Denial::RedemptionTooEarly { .. }));
    let is_redemption = context.source() == Some(Source::ExpiredTxnToken);
    if is_redemption && !is_early && !refusal.is_fault() {
        let reason = refusal.reason().as_str();
        tracing::warn!(request_id = %context.request_id(), reason, "a Txn-Token was not redeemed");
    }
}

fn count(
    metrics: &ExchangeMetrics,
    context: &AuditContext<'_>,
    policies: &PolicySet,
    outcome: &Result<Issued, Refusal>,
    took: Duration,
) {
    let client = context.client().filter(|_| policies.len() <= MAX_CLIENT_LABELS);
    let source = context.source().map_or("-", Source::name);
    let (outcome, reason) = match outcome {
        Ok(_) => ("issued", "-"),
        Err(refusal) => (if refusal.is_fault() { "error" } else { "refused" }, refusal.reason().as_str()),
    };
    metrics.count(client.map_or("-", ClientId::as_str), [source, outcome, reason], took);
}
