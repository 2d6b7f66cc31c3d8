//! The flow of one exchange, top to bottom.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::audit::{Audit, Decision, TokenDigest};
use crate::blocks::Blocks;
use crate::claims::{self, Claims, Foreseen};
use crate::decision::{Asked, Circumstances, Denial, Grant, GrantKind, Step, Trace, admit, decide};
use crate::endpoint::{self, Ask, Endpoint, InFlight, known_key};
use crate::keys::{KeyRing, Signer, TxnToken};
use crate::ledger::{Entry, Ledger, LedgerError, Redeemable, Term};
use crate::limits::Limits;
use crate::pdp::{self, Pdp, PdpError};
use crate::permit::{ApprovedGrant, Inquiry, Permit};
use crate::policy::{Policies, PolicySet};
use crate::refusal::Refusal;
use crate::request::Source;
use crate::request::holds_jws;
use crate::request::{Presented, TokenRequest, TokenText};
use crate::subject::issuers::Issuers;
use crate::subject::own_token;
use crate::subject::self_signed::{self, Presentation};
use crate::subject::{SubjectFault, VerifiedSubject, unsigned_json};
use writ_platform::clock::{Clock, Timestamp};

/// With more policies than this, metrics name no client.
const MOST_NAMED: usize = 500;

/// A Txn-Token that may leave: signed, on record and in the log.
#[derive(Debug)]
pub struct Issued {
    /// The token.
    pub token: TxnToken,
    /// Its purposes.
    pub scope: String,
    /// Its `exp`.
    pub expires_at: Timestamp,
    /// Seconds until then.
    pub expires_in: u64,
    /// Until when it can be redeemed, if it went on record.
    pub redeemable_until: Option<Timestamp>,
}

/// Everything that an exchange needs: the rooms that the flow passes through.
pub struct Exchange {
    /// What is the same in every token.
    pub settings: claims::Settings,
    /// The policies in force.
    pub policies: Arc<Policies>,
    /// Who may still say no to what they allow.
    pub pdp: Option<Arc<Pdp>>,
    /// Who signs access tokens.
    pub issuers: Arc<Issuers>,
    /// What signs, and what may have signed.
    pub keys: Arc<KeyRing>,
    /// What is counted and recorded.
    pub ledger: Arc<Ledger>,
    /// What an operator has stopped.
    pub blocks: Arc<Blocks>,
    /// When what an operator has stopped goes on: not because the clock has just stepped ahead.
    pub clock: Arc<Clock>,
    /// How often a client may ask.
    pub limits: Arc<Limits>,
    /// Where each decision is recorded.
    pub audit: Audit,
    /// Lives as long as work is in flight.
    pub in_flight: InFlight,
}

impl Exchange {
    /// Decides on one request; the decision is in the audit log when this returns.
    ///
    /// # Errors
    /// [`Refusal`]: every cause.
    pub async fn token(self: &Arc<Self>, ask: Ask) -> Result<Issued, Refusal> {
        let exchange = Arc::clone(self);
        endpoint::to_its_end(self.in_flight.clone(), async move { exchange.recorded(&ask).await }).await
    }

    async fn recorded(&self, ask: &Ask) -> Result<Issued, Refusal> {
        let started = Instant::now();
        let policies = self.policies.snapshot(); // one view for the whole request
        let mut decision = Decision::begin(ask, &policies);
        let mut trace = Trace::default();
        let outcome = endpoint::or_internal(self.exchange(ask, &policies, &mut decision, &mut trace)).await;
        explain(&decision, &trace, &outcome);
        if let Err(refusal) = &outcome {
            warn(refusal, &decision);
        }
        let outcome = Endpoint::Token.record(&self.audit, ask, outcome, &mut decision).await;
        let label = decision.client.as_deref().filter(|_| policies.len() <= MOST_NAMED);
        count(label.unwrap_or("-"), &decision, &outcome, started.elapsed());
        outcome
    }

    async fn exchange(
        &self,
        ask: &Ask,
        policies: &PolicySet,
        decision: &mut Decision,
        trace: &mut Trace,
    ) -> Result<Issued, Refusal> {
        let (client, form) = ask.open(policies, &self.limits, decision)?; // none: 401 before the form is looked at
        let request = TokenRequest::parse(&form, &self.settings.trust_domain)?;
        decision.asks(&request);
        self.limits.take(Some(&client.client_id))?;
        let clock = Timestamp::now();
        self.blocks.check_client(&client.client_id, self.clock.now())?;
        let asked = admit(client, &request, trace)?; // what can be refused without the subject token, is
        self.ledger.check_clock(clock)?;
        let signer = self.keys.signer(clock)?; // key and instant as one: `iat` lies in the key's span
        let now = signer.instant();
        let subject = self.verify(ask, &asked, policies, now).await?;
        decision.proves(&subject, now);
        tracing::debug!(
            request_id = ask.request_id,
            source = decision.source,
            sub = decision.sub,
            issuer = decision.subject_issuer,
            key_state = decision.key_state,
            "the subject is verified"
        );
        let at = Circumstances { now, max_replacements: self.settings.max_replacements };
        let names_actor = subject.names_actor();
        let grant = decide(&asked, subject, at, trace)?;
        decision.actors = names_actor.then_some("ignored"); // else it were no grant
        let approved = self.ask_pdp(ask, grant, &request, decision).await?;
        let permit = Permit::new(approved, &self.blocks, self.clock.now())?;
        self.audit.check()?; // what cannot be recorded is not counted
        // A use is counted, and a token recorded, only for what can be read again; `decide` said why not, where it could.
        if matches!(permit.grant().kind(), GrantKind::Redeem { .. })
            && !signer.can_sign(&Foreseen::new(permit.grant().clone(), u32::MAX, now, &self.settings))
        {
            return Err(Denial::ClaimUnreadable.into());
        }
        let term = in_time(ask, self.ledger.spend(&permit, now), late).await?; // durable; a free retry repeats its term
        self.sign(ask, permit, term, &signer, policies, decision).await
    }

    async fn verify(
        &self,
        ask: &Ask,
        asked: &Asked<'_>,
        policies: &PolicySet,
        now: Timestamp,
    ) -> Result<VerifiedSubject, Refusal> {
        let client = asked.client();
        let outside = async |kind, token: &TokenText| {
            let verifying = self.issuers.verify(kind, token.expose(), client, policies, now);
            in_time(ask, verifying, || SubjectFault::IssuerUnavailable.into()).await.map(VerifiedSubject::Outside)
        };
        match &asked.request().presented {
            Presented::Client => Ok(VerifiedSubject::Client),
            Presented::Named(subject) => Ok(VerifiedSubject::Named(subject.clone())),
            Presented::AccessToken(token) => outside(Source::AccessToken, token).await,
            Presented::Jwt(token) => outside(Source::Jwt, token).await,
            Presented::IdToken(token) => outside(Source::IdToken, token).await,
            Presented::SelfSigned(token) => {
                let by = Presentation {
                    client,
                    certificate: &ask.certificate,
                    issuer: &self.settings.issuer,
                    clock_skew: self.issuers.clock_skew(),
                    now,
                };
                Ok(VerifiedSubject::Asserted(self_signed::verify(token.expose(), by)?))
            }
            Presented::UnsignedJson(json) => {
                let asserted = unsigned_json::verify(json.expose(), self.issuers.clock_skew(), now)?;
                Ok(VerifiedSubject::Asserted(asserted))
            }
            Presented::TxnToken(token) => {
                let may_redeem = asked.redeeming_rule().is_some();
                let find = |kid: &str| known_key(self.keys.find(kid));
                let domain = &self.settings.trust_domain;
                let own = own_token::verify(token.expose(), domain, may_redeem, find, now)?;
                Ok(VerifiedSubject::Own(Box::new(own)))
            }
        }
    }

    /// What the policies allow, the external decision point may still forbid.
    async fn ask_pdp(
        &self,
        ask: &Ask,
        grant: Grant,
        request: &TokenRequest,
        decision: &mut Decision,
    ) -> Result<ApprovedGrant, PdpError> {
        let proof = pdp::Proof { source: decision.source, issuer: decision.subject_issuer.as_deref() };
        let inquiry = Inquiry { request, proof, request_id: &ask.request_id, deadline: ask.deadline };
        let approved = ApprovedGrant::obtain(grant, self.pdp.as_deref(), inquiry).await;
        decision.pdp = match &approved {
            Ok(approved) => approved.pdp_asked().then_some("allowed"),
            Err(error) => Some(error.outcome()),
        };
        approved
    }

    async fn sign(
        &self,
        ask: &Ask,
        permit: Permit,
        term: Term,
        signer: &Signer,
        policies: &PolicySet,
        decision: &mut Decision,
    ) -> Result<Issued, Refusal> {
        let now = signer.instant();
        let single_use = match permit.grant().kind() {
            GrantKind::Issue { single_use, .. } => *single_use,
            GrantKind::Replace { .. } | GrantKind::Redeem { .. } => None,
        };
        let claims = Claims::new(permit, term, &self.settings);
        let token = signer.sign(&claims)?;
        let mut redeemable_until = None;
        if term.spent().is_none() {
            if token.as_str().len() > self.settings.max_size {
                return Err(Refusal::TokenTooLarge);
            }
            let facts = claims.as_txn_claims();
            redeemable_until = policies.redeemable_for(&facts.scope, &facts.req_wl).map(|max_age| term.exp() + max_age);
            let signed_part = token.signed_part_sha256();
            let redeemable = |keep_until| Redeemable { signed_part, txn: &facts.txn, keep_until };
            let entry = Entry { token: redeemable_until.map(redeemable), single_use };
            if !entry.is_empty() {
                in_time(ask, self.ledger.record(entry, now), late).await?; // on record before it leaves
            }
        }
        let scope = claims.as_txn_claims().scope.to_string();
        // A free retry may have read the clock before the use that it repeats was counted.
        let expires_in = term.exp().since(now.max(term.iat())).as_secs();
        decision.issues(&claims, &token, term);
        Ok(Issued { token, scope, expires_at: term.exp(), expires_in, redeemable_until })
    }
}

/// What is known of a decision grows as the request travels.
impl Decision {
    fn asks(&mut self, request: &TokenRequest) {
        // No policy has seen it yet: a token that was sent in the wrong place must not get into the log (R-PRIV-01).
        let sent = request.presented.token().map(TokenText::expose);
        let is_token = |scope: &String| holds_jws(scope) || sent.is_some_and(|token| scope.contains(token));
        self.scope = Some(request.scope.to_string()).filter(|scope| !is_token(scope));
        self.source = request.presented.sources().first().map(|source| source.name());
        self.subject_token_sha256 = request.presented.token().map(|token| TokenDigest::of(token.expose()));
    }

    fn proves(&mut self, subject: &VerifiedSubject, now: Timestamp) {
        self.source = Some(subject.source().name());
        match subject {
            VerifiedSubject::Client => {}
            VerifiedSubject::Named(sub) => self.sub = Some(sub.to_string()),
            VerifiedSubject::Asserted(asserted) => self.sub = Some(asserted.sub().to_string()),
            VerifiedSubject::Outside(token) => {
                self.sub = Some(token.sub().to_string());
                self.subject_issuer = Some(token.issuer().to_owned());
            }
            VerifiedSubject::Own(token) => {
                self.sub = Some(token.claims.sub.clone());
                self.txn = Some(token.claims.txn.clone());
                if !token.alive {
                    self.key_state = Some(token.key_state);
                    self.delayed_by = now.epoch().checked_sub(token.claims.exp);
                }
            }
        }
    }

    fn issues(&mut self, claims: &Claims, token: &TxnToken, term: Term) {
        let claims = claims.as_txn_claims();
        self.sub = Some(claims.sub.clone());
        self.txn = Some(claims.txn.clone());
        self.exp = Some(claims.exp);
        self.kid = Some(token.kid().to_string());
        self.token_sha256 = Some(TokenDigest::of(token.as_str()));
        self.use_number = term.spent().map(|spent| spent.use_number);
        self.retry = term.spent().is_some_and(|spent| spent.retry);
    }
}

/// With `WRIT_LOG=debug`: the rules that were applied, one line each, and what came of them. What was compared repeats
/// what was sent: it is shown to whoever may read the policies, and nothing of it that could be a token.
fn explain(decision: &Decision, trace: &Trace, outcome: &Result<Issued, Refusal>) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let request_id = decision.request_id.as_str();
    for Step { rule, line, passed, detail } in trace.steps() {
        // A schema says which value does not fit it; and a scope that holds a token is not repeated.
        let is_withheld = decision.scope.is_none() || (*rule == "request_details" && !passed);
        let detail = if is_withheld { String::new() } else { presentable(detail) };
        tracing::debug!(request_id, rule, line, passed, detail, "a rule was applied");
    }
    match outcome {
        Ok(issued) => tracing::debug!(request_id, expires_in = issued.expires_in, "a token is issued"),
        Err(refusal) => tracing::debug!(request_id, cause = refusal.description(), "the request is refused"),
    }
}

/// The text cut to a bound, and without any word that is as long as tokens and keys are.
fn presentable(text: &str) -> String {
    const LONGEST_WORD: usize = 40;
    let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '=');
    let mut shown = String::new();
    for piece in text.split_inclusive(|c| !in_word(c)).take(200) {
        if piece.len() > LONGEST_WORD { shown.push('…') } else { shown.push_str(piece) }
    }
    shown.chars().take(500).collect()
}

/// Waits for others no longer than the request's time allows; `late` says who kept it waiting.
async fn in_time<T, E: Into<Refusal>>(
    ask: &Ask,
    work: impl Future<Output = Result<T, E>>,
    late: impl FnOnce() -> E,
) -> Result<T, Refusal> {
    timeout_at(ask.deadline.into(), work).await.unwrap_or_else(|_| Err(late())).map_err(Into::into)
}

fn late() -> LedgerError {
    LedgerError::Late
}

/// Attempts on stored tokens are told beside the audit line (R-DELAY-21).
fn warn(refusal: &Refusal, decision: &Decision) {
    // Too early is no attempt on anything: whoever polls hears it often.
    let early = matches!(refusal, Refusal::Policy(Denial::RedemptionTooEarly { .. }));
    let redeeming = !early && decision.source == Some(Source::ExpiredTxnToken.name());
    if redeeming && !refusal.is_fault() {
        let reason = refusal.code().reason;
        tracing::warn!(request_id = %decision.request_id, reason, "a token of ours was not redeemed");
    }
}

fn count(client: &str, decision: &Decision, outcome: &Result<Issued, Refusal>, took: Duration) {
    let outcome = match outcome {
        Ok(_) => "issued",
        Err(refusal) if refusal.is_fault() => "error",
        Err(_) => "refused",
    };
    let source = decision.source.unwrap_or("-");
    let reason = decision.reason.unwrap_or("-");
    metrics::counter!("writ_token_requests_total",
        "client" => client.to_owned(), "source" => source, "outcome" => outcome, "reason" => reason)
    .increment(1);
    metrics::histogram!("writ_token_request_duration_seconds", "source" => source).record(took);
}
