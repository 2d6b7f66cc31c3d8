//! The flow of one exchange, top to bottom.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use crate::audit::{Audit, Decision, TokenDigest};
use crate::blocks::{Blocks, Matter};
use crate::claims::{self, Claims};
use crate::clock::{Clock, Timestamp};
use crate::endpoint::{self, Ask, Endpoint, InFlight, known_key};
use crate::keys::{KeyRing, Signer, TxnToken};
use crate::ledger::{Entry, Ledger, LedgerError, Redeemable, Term};
use crate::limits::Limits;
use crate::policy::decide::{Asked, Circumstances, Denial, Grant, GrantKind, Step, Trace, admit, decide};
use crate::policy::mapping::holds_jws;
use crate::policy::pdp::{self, Pdp, PdpError, Question};
use crate::policy::{Policies, PolicySet, Source};
use crate::refusal::Refusal;
use crate::request::{Presented, TokenRequest, TokenText};
use crate::response::HttpRefusal;
use crate::subject::issuers::Issuers;
use crate::subject::own_token;
use crate::subject::self_signed::{self, Presentation};
use crate::subject::{SubjectFault, VerifiedSubject, unsigned_json};

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
        self.ask_pdp(ask, &grant, &request, decision).await?;
        self.blocks.check(&Matter::of_grant(&grant), self.clock.now())?;
        self.audit.check()?; // what cannot be recorded is not counted
        // A use is counted, and a token recorded, only for what can be read again; `decide` said why not, where it could.
        if matches!(grant.kind(), GrantKind::Redeem { .. })
            && !signer.can_sign(&Claims::foreseen(&grant, now, &self.settings))
        {
            return Err(Denial::ClaimUnreadable.into());
        }
        let term = in_time(ask, self.ledger.spend(&grant, now), late).await?; // durable; a free retry repeats its term
        self.sign(ask, grant, term, &signer, policies, decision).await
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
        grant: &Grant,
        request: &TokenRequest,
        decision: &mut Decision,
    ) -> Result<(), PdpError> {
        let proof = pdp::Proof { source: decision.source, issuer: decision.subject_issuer.as_deref() };
        let Some(question) = Question::about(grant, request, proof, &ask.request_id) else { return Ok(()) };
        let outcome = match &self.pdp {
            Some(pdp) => pdp.ask(&question, ask.deadline).await,
            None => Err(PdpError::Unavailable(pdp::Fault::NotConfigured)),
        };
        decision.pdp = Some(pdp::name(&outcome));
        outcome
    }

    async fn sign(
        &self,
        ask: &Ask,
        grant: Grant,
        term: Term,
        signer: &Signer,
        policies: &PolicySet,
        decision: &mut Decision,
    ) -> Result<Issued, Refusal> {
        let now = signer.instant();
        let single_use = match grant.kind() {
            GrantKind::Issue { single_use, .. } => *single_use,
            GrantKind::Replace { .. } | GrantKind::Redeem { .. } => None,
        };
        let claims = Claims::new(grant, term, &self.settings);
        let token = signer.sign(&claims)?;
        let mut redeemable_until = None;
        if term.spent.is_none() {
            if token.as_str().len() > self.settings.max_size {
                return Err(Refusal::TokenTooLarge);
            }
            let facts = claims.as_txn_claims();
            redeemable_until = policies.redeemable_for(&facts.scope, &facts.req_wl).map(|max_age| term.exp + max_age);
            let signed_part = token.signed_part_sha256();
            let redeemable = |keep_until| Redeemable { signed_part, txn: &facts.txn, keep_until };
            let entry = Entry { token: redeemable_until.map(redeemable), single_use };
            if !entry.is_empty() {
                in_time(ask, self.ledger.record(entry, now), late).await?; // on record before it leaves
            }
        }
        let scope = claims.as_txn_claims().scope.to_string();
        // A free retry may have read the clock before the use that it repeats was counted.
        let expires_in = term.exp.since(now.max(term.iat)).as_secs();
        decision.issues(&claims, &token, term);
        Ok(Issued { token, scope, expires_at: term.exp, expires_in, redeemable_until })
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
        self.use_number = term.spent.map(|spent| spent.use_number);
        self.retry = term.spent.is_some_and(|spent| spent.retry);
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

/// Counts a `POST /token` that the listener answered alone.
pub fn count_unheard(refusal: HttpRefusal) {
    let outcome = if refusal.is_fault() { "error" } else { "refused" };
    metrics::counter!("writ_token_requests_total",
        "client" => "-", "source" => "-", "outcome" => outcome, "reason" => refusal.reason())
    .increment(1);
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use proptest::sample::select;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
    use serde_json::Value;
    use tempfile::TempDir;
    use tokio::sync::mpsc;
    use url::form_urlencoded;
    use writ_verifier::Verifier;
    use zeroize::Zeroizing;

    use super::*;
    use crate::client::PeerCertificate;
    use crate::keys::ring::KeyTimes;
    use crate::keys::seal::SealingKeys;
    use crate::keys::{Settings, SigningAlgorithm};
    use crate::limits;
    use crate::policy::file;
    use crate::policy::folder;
    use crate::request::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE, TXN_TOKEN_TYPE};
    use crate::store::{self, Store};
    use crate::telemetry::sink::Sink;
    use crate::telemetry::{Format, Log};

    const SECOND: Duration = Duration::from_secs(1);

    const POLICIES: [(&str, &str); 2] = [
        (
            "accounts",
            r#"[[purpose]]
            scope = "account.purge"
            lifetime = "1s"
            accept = ["client_credentials"]
            [[purpose]]
            scope = "mailbox.deliver"
            accept = ["client_credentials"]"#,
        ),
        (
            "job",
            r#"[[purpose]]
            scope = "account.purge"
            accept = ["expired_txn_token"]
            redemption = { issued_to = ["accounts"], max_age = "1h" }"#,
        ),
    ];

    struct Scene {
        exchange: Arc<Exchange>,
        in_flight: mpsc::Receiver<std::convert::Infallible>,
        store: Store,
        log: Sink,
        _folder: TempDir,
    }

    impl Scene {
        async fn new() -> Self {
            Self::with(&POLICIES, 4096).await
        }

        async fn with(clients: &[(&str, &str)], max_size: usize) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("data");
            let store = Store::open(&store::Settings { path }).await.unwrap();
            let log = Sink::default();
            let (alive, in_flight) = mpsc::channel(1);
            let exchange = Exchange {
                settings: claims::Settings {
                    trust_domain: "d.example".parse().unwrap(),
                    issuer: "https://tts.d.example".into(),
                    include_iss: true,
                    max_size,
                    max_replacements: 4,
                },
                policies: Arc::new(Policies::new(policies(&folder, clients))),
                pdp: None,
                issuers: Arc::new(Issuers::new(Vec::new(), Duration::ZERO).unwrap()),
                keys: Arc::new(keys(&store).await),
                ledger: Arc::new(Ledger::open(store.clone()).await.unwrap()),
                blocks: Arc::new(Blocks::open(store.clone()).await.unwrap()),
                clock: Arc::new(Clock::start()),
                limits: Arc::new(Limits::new(limits::Settings { requests_per_second_per_client: None })),
                audit: Audit::new(Log::start(Format::Json, log.clone())),
                in_flight: alive,
            };
            Self { exchange: Arc::new(exchange), in_flight, store, log, _folder: folder }
        }

        async fn ask(&self, client: &str, body: &str) -> Result<Issued, Refusal> {
            self.exchange.token(ask(client, body, 10 * SECOND)).await
        }

        async fn reason(&self, client: &str, body: &str) -> &'static str {
            self.ask(client, body).await.expect_err("refused").code().reason
        }

        /// A token to be redeemed, once it may be.
        async fn expired(&self) -> Issued {
            let issued = self.ask("accounts", &credentials("account.purge")).await.unwrap();
            while Timestamp::now() < issued.expires_at {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            issued
        }

        fn last_line(&self) -> Value {
            self.log.lines().pop().expect("a line")
        }
    }

    fn policies(folder: &TempDir, clients: &[(&str, &str)]) -> PolicySet {
        let directory = folder.path().join("policies");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("any.json"), "{}").unwrap();
        for (client, purposes) in clients {
            let head = format!("client_id = \"{client}\"\ntls_client_auth_san_dns = \"{client}.d.example\"\n");
            std::fs::write(directory.join(format!("{client}.toml")), head + purposes).unwrap();
        }
        let settings = file::Settings {
            directory,
            default_lifetime: 60 * SECOND,
            max_lifetime: 300 * SECOND,
            retention: 86_400 * SECOND,
            outside_sources: Vec::new(),
            introspecting_issuers: Vec::new(),
            pdp: false,
        };
        folder::load(&settings).unwrap().0
    }

    async fn keys(store: &Store) -> KeyRing {
        let settings = Settings {
            algorithm: SigningAlgorithm::ES256,
            times: KeyTimes::new(1000 * SECOND, 10 * SECOND, 300 * SECOND, 86_400 * SECOND).unwrap(),
            sealing_key: std::path::PathBuf::new(),
            previous_sealing_keys: Vec::new(),
        };
        let sealing = SealingKeys::new(&Zeroizing::new([1; 32]), &[]).unwrap();
        let domain = "d.example".parse().unwrap();
        KeyRing::open(store.clone(), &settings, sealing, &domain, Timestamp::now()).await.unwrap().0
    }

    fn ask(client: &str, body: &str, time: Duration) -> Ask {
        Ask {
            certificate: Arc::new(certificate(client)),
            authorization: false,
            body: body.as_bytes().to_vec(),
            request_id: "r".into(),
            trace_id: None,
            deadline: Instant::now() + time,
            place: limits::shares::Shares::new(1).take(None).unwrap(),
        }
    }

    fn certificate(client: &str) -> PeerCertificate {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(format!("{client}.d.example").try_into().unwrap())];
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "Example CA");
        let issuer = Issuer::new(ca, KeyPair::generate().unwrap());
        PeerCertificate::parse(params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der()).unwrap()
    }

    fn credentials(scope: &str) -> String {
        format!(
            "grant_type={CLIENT_CREDENTIALS}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example&scope={scope}"
        )
    }

    fn redeeming(token: &Issued) -> String {
        format!(
            "grant_type={TOKEN_EXCHANGE}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example&scope=account.purge\
             &subject_token={}&subject_token_type={TXN_TOKEN_TYPE}",
            token.token.as_str()
        )
    }

    /// Values as large, deep and long as readers take them, and a little more.
    fn any_value() -> impl Strategy<Value = String> {
        let items = |count: usize, item: &str| vec![item; count].join(",");
        let members = |count: usize| {
            let all: Vec<_> = (0..count).map(|number| format!("\"k{number}\":0")).collect();
            format!("{{{}}}", all.join(","))
        };
        prop_oneof![
            (11..=17_usize).prop_map(|levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels))),
            (10..=16_usize).prop_map(|levels| format!("{}1e-999{}", "{\"k\":".repeat(levels), "}".repeat(levels))),
            (254..=258_usize).prop_map(move |count| format!("[{}]", items(count, "1"))),
            (254..=258_usize).prop_map(members),
            select(vec![0_usize, 300, 5_000, 10_000, 10_400, 10_600, 10_700, 12_000])
                .prop_map(|length| format!("\"{}\"", "x".repeat(length))),
            (10_300..10_700_usize).prop_map(|length| format!("\"{}\"", "ä".repeat(length / 2))),
            select(vec!["1e308", "1e309", "1e-400", "-0", "0.10", "123456789012345678901", "1e-99999999999999999999"])
                .prop_map(str::to_owned),
            select(vec!["\"\\u0000\\ud83d\\ude00\"", "{\"\":{\"$serde_json::private::RawValue\":\"[\"}}", "null"])
                .prop_map(str::to_owned),
        ]
    }

    /// An object with this value, and so many members beside it.
    fn any_object() -> impl Strategy<Value = String> {
        let others = prop_oneof![3 => 0..3_usize, 1 => 252..=257_usize];
        (any_value(), others).prop_map(|(value, others)| {
            let others: Vec<_> = (1..=others).map(|number| format!(",\"m{number}\":0")).collect();
            format!("{{\"m0\":{value}{}}}", others.concat())
        })
    }

    /// R-REQ-12, R-REQ-16: whatever is sent, it is refused before anything is recorded, or makes a token that verifiers
    /// read, that can be replaced, and that can be redeemed; and so can what replaced it.
    #[tokio::test]
    async fn a_token_is_issued_only_if_it_can_be_read_and_redeemed() {
        const CASES: usize = 500;
        let names: Vec<_> = (0..260).map(|number| format!("\"m{number}\"")).collect();
        let purpose = |scope: &str, accept: &str, more: &str| {
            format!(
                "[[purpose]]\nscope = \"{scope}\"\nlifetime = \"2s\"\naccept = [\"{accept}\"]\nsubjects = [\"*\"]\n\
                 request_details = \"any.json\"\ntctx.copy = [{names}]\nrctx.copy = [{names}]\n{more}\n",
                names = names.join(",")
            )
        };
        let keeper = purpose("file.delete", "client_credentials", "")
            + &purpose("file.erase", "unsigned_json", "tctx.subject = { who = \"profile\" }");
        let relay = purpose("file.delete", "txn_token", "") + &purpose("file.erase", "txn_token", "");
        let job = ["file.delete", "file.erase"].map(|scope| {
            format!(
                "[[purpose]]\nscope = \"{scope}\"\naccept = [\"expired_txn_token\"]\n\
                 redemption = {{ issued_to = [\"keeper\", \"relay\"], max_age = \"1h\", max_uses = 2 }}\n"
            )
        });
        let clients = [("keeper", keeper.as_str()), ("relay", relay.as_str()), ("job", &job.concat())];
        let scene = Scene::with(&clients, claims::LARGEST as usize).await;
        let keys = scene.exchange.keys.jwks().body.clone();
        let verifier = Verifier::builder("d.example").jwks_json(keys).build().unwrap();
        let exchange = |token: &Issued, scope: &str, kind: &str| {
            format!(
                "grant_type={TOKEN_EXCHANGE}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example&scope={scope}\
                 &subject_token={}&subject_token_type={kind}",
                token.token.as_str()
            )
        };
        let mut runner = TestRunner::deterministic();
        let case = (any_object(), proptest::option::of(any_object()), proptest::option::of(any_value()));
        let (mut kept, mut refused) = (Vec::new(), std::collections::BTreeMap::<_, usize>::new());
        for _ in 0..CASES {
            let (details, context, profile) = case.new_tree(&mut runner).unwrap().current();
            let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let context = context.map(|context| format!("&request_context={}", encoded(&context)));
            let more = format!("&request_details={}{}", encoded(&details), context.unwrap_or_default());
            let (scope, body) = match &profile {
                None => ("file.delete", credentials("file.delete") + &more),
                Some(profile) => {
                    let subject = encoded(&format!("{{\"sub\":\"u-1\",\"profile\":{profile}}}"));
                    let kind = "urn:ietf:params:oauth:token-type:unsigned_json";
                    let body = format!(
                        "grant_type={TOKEN_EXCHANGE}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example\
                         &scope=file.erase&subject_token={subject}&subject_token_type={kind}{more}"
                    );
                    ("file.erase", body)
                }
            };
            match scene.ask("keeper", &body).await {
                Err(refusal) => *refused.entry(refusal.code().reason).or_default() += 1,
                Ok(issued) => {
                    assert!(issued.redeemable_until.is_some());
                    verifier.verify(issued.token.as_str()).await.unwrap_or_else(|error| panic!("{details}: {error}"));
                    match scene.ask("relay", &exchange(&issued, scope, TXN_TOKEN_TYPE)).await {
                        Ok(replaced) => {
                            verifier.verify(replaced.token.as_str()).await.unwrap();
                            kept.push((scope, replaced));
                        }
                        // It became longer by the chain.
                        Err(refusal) => assert_eq!(refusal.code().reason, "token_too_large", "{details}"),
                    }
                    kept.push((scope, issued));
                }
            }
        }
        let last = kept.iter().map(|(_, issued)| issued.expires_at).max().unwrap();
        while Timestamp::now() < last {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for (scope, issued) in &kept {
            let redeemed = scene.ask("job", &exchange(issued, scope, TXN_TOKEN_TYPE)).await;
            let redeemed = redeemed.unwrap_or_else(|refusal| panic!("{refusal:?}: {:?}", issued.token.as_str().len()));
            verifier.verify(redeemed.token.as_str()).await.unwrap();
            let find = |kid: &str| known_key(scene.exchange.keys.find(kid));
            let domain = &scene.exchange.settings.trust_domain;
            own_token::verify_live(redeemed.token.as_str(), domain, find, Timestamp::now()).unwrap();
        }
        let refusals = ["details_rejected", "parameter_malformed", "subject_token_claims_invalid", "token_too_large"];
        println!("{CASES} requests: {} tokens, all redeemed; refused: {refused:?}", kept.len());
        assert!(
            refused.keys().all(|reason| refusals.contains(reason) || *reason == "subject_token_malformed"),
            "{refused:?}"
        );
        assert!(kept.len() > 50 && refusals.iter().all(|reason| refused.contains_key(reason)), "{refused:?}");
    }

    /// CONTRACT 3.3, 10
    #[tokio::test]
    async fn a_token_that_leaves_is_in_the_log() {
        let scene = Scene::new().await;
        let issued = scene.ask("accounts", &credentials("account.purge")).await.unwrap();
        assert_eq!(issued.redeemable_until, Some(issued.expires_at + 3600 * SECOND));
        let line = scene.last_line();
        assert_eq!(line["event"], "token_issued");
        assert_eq!((&line["client"], &line["source"]), (&"accounts".into(), &"client_credentials".into()));
        assert_eq!(line["token_sha256"], serde_json::json!(TokenDigest::of(issued.token.as_str())));
        assert_eq!(line["exp"], issued.expires_at.epoch());
        assert!(line.get("reason").is_none() && line.get("retry").is_none() && line.get("key_state").is_none());
        let plain = scene.ask("accounts", &credentials("mailbox.deliver")).await.unwrap();
        assert_eq!(plain.redeemable_until, None, "nobody can redeem it");
    }

    /// CONTRACT 10
    #[tokio::test]
    async fn a_redemption_tells_its_use_and_its_repetition() {
        let scene = Scene::new().await;
        let original = scene.expired().await;
        let first = scene.ask("job", &redeeming(&original)).await.unwrap();
        let line = scene.last_line();
        assert_eq!((&line["use"], &line["key_state"]), (&1.into(), &"current".into()));
        assert!(line["delayed_by"].is_u64() && line.get("retry").is_none());
        assert_eq!(first.redeemable_until, None, "a redeemed token is never redeemed");
        scene.ask("job", &redeeming(&original)).await.unwrap();
        assert_eq!((&scene.last_line()["use"], &scene.last_line()["retry"]), (&1.into(), &true.into()));
        assert_eq!(scene.reason("job", &redeeming(&first)).await, "redemption_not_allowed");
        assert_eq!(scene.log.lines().len(), 4);
    }

    /// A-132, A-101: a use that was counted is not lost with the line that could not be written.
    #[tokio::test]
    async fn what_cannot_be_recorded_does_not_leave_and_is_free_to_repeat() {
        let scene = Scene::new().await;
        let original = scene.expired().await;
        scene.log.fill(true);
        assert_eq!(scene.reason("job", &redeeming(&original)).await, "audit_unavailable");
        assert_eq!(scene.reason("accounts", &credentials("mailbox.deliver")).await, "audit_unavailable");
        scene.log.fill(false);
        // It is found out within a second that the log works again.
        while scene.ask("job", &redeeming(&original)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!((&scene.last_line()["use"], &scene.last_line()["retry"]), (&1.into(), &true.into()));
    }

    /// A-102, A-123
    #[tokio::test]
    async fn without_a_store_only_what_needs_none_is_issued() {
        let scene = Scene::new().await;
        let original = scene.expired().await;
        scene.store.clone().close().await;
        assert_eq!(scene.reason("job", &redeeming(&original)).await, "store_unavailable");
        assert_eq!(scene.reason("accounts", &credentials("account.purge")).await, "store_unavailable");
        scene.ask("accounts", &credentials("mailbox.deliver")).await.unwrap();
    }

    #[tokio::test]
    async fn a_request_whose_time_is_over_is_not_begun() {
        let scene = Scene::new().await;
        let late = scene.exchange.token(ask("accounts", &credentials("account.purge"), Duration::ZERO)).await;
        assert_eq!(late.expect_err("refused").code().reason, "request_timeout");
        assert_eq!(scene.last_line()["reason"], "request_timeout");
        assert_eq!(scene.log.lines().len(), 1);
    }

    /// A-038
    #[tokio::test]
    async fn work_goes_on_when_its_client_goes_away() {
        let mut scene = Scene::new().await;
        let asking = scene.exchange.token(ask("accounts", &credentials("account.purge"), 10 * SECOND));
        assert!(asking.now_or_never().is_none(), "it is not done at once");
        drop(scene.exchange);
        assert!(scene.in_flight.recv().await.is_none());
        assert_eq!(scene.log.events(), ["token_issued"]);
    }

    /// CONTRACT 3.6: the first hit wins, and each answer has one line.
    #[tokio::test]
    async fn refusals_come_in_order_and_each_has_one_line() {
        let scene = Scene::new().await;
        let good = credentials("mailbox.deliver");
        let cases = [
            ("stranger", "%".to_owned(), "client_unknown"),
            ("accounts", "%".to_owned(), "parameter_malformed"),
            ("accounts", format!("{good}&client_id=job&client_secret=x"), "client_id_mismatch"),
            ("accounts", format!("{good}&client_secret=x&grant_type="), "parameter_repeated"),
            ("accounts", format!("{good}&client_secret=x&resource=x"), "parameter_unsupported"),
            ("accounts", format!("{good}&resource=x"), "resource_unsupported"),
            ("accounts", credentials("account.delete"), "purpose_not_allowed"),
            ("job", credentials("account.purge"), "source_not_allowed"),
        ];
        for (number, (client, body, reason)) in cases.into_iter().enumerate() {
            assert_eq!(scene.reason(client, &body).await, reason);
            assert_eq!(scene.log.lines().len(), number + 1, "{reason}");
            assert_eq!(
                (&scene.last_line()["event"], &scene.last_line()["reason"]),
                (&"token_refused".into(), &reason.into())
            );
        }
        assert!(scene.log.lines()[0].get("client").is_none(), "a stranger has no name");
    }
}
