//! A request as somebody imagines it → what would be decided on it, by the very functions that decide.
//!
//! Nothing is proven here and nothing is signed: what a verification would have found is taken from the trial. What
//! takes the network, the store or the keys cannot be known; it is told in [`Allowed::open`].

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use url::form_urlencoded;
use uuid::{NoContext, Uuid};
use writ_verifier::{Members, Scope, TxnClaims};

use crate::config::Config;
use crate::config::document;
use writ_core::claims::{self, Foreseen};
use writ_core::client::{ClientError, ClientId};
use writ_core::decision::{Circumstances, Grant, GrantKind, Step, Trace, admit, decide};
use writ_core::keys::{SigningAlgorithm, token};
use writ_core::policy::{ClientPolicy, PolicySet};
use writ_core::refusal::Refusal;
use writ_core::request::{
    CLIENT_CREDENTIALS, Form, RequestError, TOKEN_EXCHANGE, TXN_TOKEN_TYPE, TYPE_PREFIX, TokenRequest,
};
use writ_core::request::{Source, Subject};
use writ_core::subject::outside;
use writ_core::subject::{AssertedSubject, OutsideToken, OwnToken, SubjectError, SupposedBy, VerifiedSubject};
use writ_platform::clock::Timestamp;

/// What is not told of a Txn-Token: how long it lives.
const MINUTE: Duration = Duration::from_secs(60);

/// What is not told of an outside token: how long it is still good.
const HOUR: Duration = Duration::from_secs(3600);

/// A request. What is not told is what it mostly is.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    /// The client that asks.
    pub(super) client: String,
    /// The kind of proof.
    pub(super) source: Source,
    /// The purposes asked for.
    pub(super) scope: String,
    /// The final subject.
    pub(super) subject: Option<String>,
    /// What the subject token covers.
    pub(super) subject_scope: Option<String>,
    /// `request_details`.
    pub(super) details: Option<String>,
    /// `request_context`.
    pub(super) context: Option<String>,
    /// The claims of the subject token.
    pub(super) presented: Option<Members>,
    /// How long ago the subject token expired.
    pub(super) age: Option<Age>,
}

/// How long ago something expired; before its expiry less than nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age {
    by: Duration,
    ahead: bool,
}

impl Age {
    /// That many seconds ago.
    pub(super) fn of(seconds: u64) -> Self {
        Self { by: Duration::from_secs(seconds), ahead: false }
    }

    fn expiry(self, now: Timestamp) -> Timestamp {
        if self.ahead { now + self.by } else { now - self.by }
    }
}

/// `40d`, or `-30s` for what lives for another half minute.
impl FromStr for Age {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (ahead, by) = text.strip_prefix('-').map_or((false, text), |by| (true, by));
        Ok(Self { by: document::duration(by)?, ahead })
    }
}

/// The trial is no request of its kind: something is missing, or has no place in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct TrialError {
    /// The part that it is about.
    pub(super) key: &'static str,
    /// What is wrong with it.
    pub(super) message: String,
}

impl TrialError {
    fn new(key: &'static str, message: impl fmt::Display) -> Self {
        Self { key, message: message.to_string() }
    }
}

/// Whom a token is about, where nothing says it.
const SOMEONE: &str = "someone";

/// What a decision needs besides the request.
#[derive(Debug)]
pub(super) struct World {
    /// The policies.
    pub(super) policies: PolicySet,
    /// Their folder.
    pub(super) directory: PathBuf,
    /// What is the same in every token.
    pub(super) settings: claims::Settings,
    /// Tolerated on outside tokens.
    pub(super) clock_skew: Duration,
    /// What signs.
    pub(super) algorithm: SigningAlgorithm,
    /// The instant of the request.
    pub(super) now: Timestamp,
}

impl World {
    /// These policies, under this configuration.
    pub(super) fn new(config: Config, policies: PolicySet, now: Timestamp) -> Self {
        Self {
            policies,
            directory: config.policies.directory,
            settings: config.claims,
            clock_skew: config.clock_skew,
            algorithm: config.keys.algorithm,
            now,
        }
    }

    /// The policy of a client, by any name.
    pub(super) fn client(&self, name: &str) -> Option<&ClientPolicy> {
        let id: ClientId = name.parse().ok()?;
        self.policies.of(&id).map(AsRef::as_ref)
    }

    /// Where the policy of a client is, or would be.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.toml"))
    }
}

/// What was decided, and by which rules.
#[derive(Debug)]
pub(super) struct Verdict {
    /// The rules in the order in which they were applied.
    pub(super) trace: Trace,
    /// What came of them.
    pub(super) outcome: Result<Allowed, Refusal>,
}

/// A token that would be issued.
#[derive(Debug)]
pub(super) struct Allowed {
    /// What it would say.
    pub(super) claims: Foreseen,
    /// What must hold besides, and cannot be known here.
    pub(super) open: Vec<String>,
}

/// What stands for the subject, as it would be verified.
enum Proof {
    Client,
    Named(Subject),
    Asserted(Source, Subject, Members),
    Outside(Source, Subject, Option<Scope>, Members),
    Own(Box<TxnClaims>),
}

impl Trial {
    /// What would be decided.
    ///
    /// # Errors
    /// [`TrialError`], whatever the policies say.
    pub(super) fn decide(&self, world: &World) -> Result<Verdict, TrialError> {
        let mut trace = Trace::default();
        let client = world.client(&self.client);
        let file = world.file(&self.client).display().to_string();
        let detail = if client.is_some() { file } else { format!("there is no {file}") };
        trace.push(Step { rule: "client", line: None, passed: client.is_some(), detail: detail.into() });
        let Some(client) = client else {
            return Ok(Verdict { trace, outcome: Err(ClientError::Unknown.into()) });
        };
        let proof = self.proof(client, world)?;
        let outcome = self.outcome(client, proof, world, &mut trace);
        Ok(Verdict { trace, outcome })
    }

    fn outcome(
        &self,
        client: &ClientPolicy,
        proof: Proof,
        world: &World,
        trace: &mut Trace,
    ) -> Result<Allowed, Refusal> {
        let request = self.request(&proof, world).map_err(|error| refused("request", error, trace))?;
        let asked = admit(client, &request, trace)?;
        let may_redeem = asked.redeeming_rule().is_some();
        let subject = proof.verified(client, may_redeem, world);
        let subject = subject.map_err(|error| refused("subject_token", error, trace))?;
        let source = subject.source();
        let at = Circumstances { now: world.now, max_replacements: world.settings.max_replacements };
        let grant = decide(&asked, subject, at, trace)?;
        world.issue(grant, source, trace)
    }

    /// The form that the client would send, read as the service reads it.
    fn request(&self, proof: &Proof, world: &World) -> Result<TokenRequest, RequestError> {
        let domain = &world.settings.trust_domain;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("requested_token_type", TXN_TOKEN_TYPE);
        form.append_pair("audience", domain.as_str());
        form.append_pair("scope", &self.scope);
        for (name, sent) in [("request_details", &self.details), ("request_context", &self.context)] {
            if let Some(sent) = sent {
                form.append_pair(name, sent);
            }
        }
        let grant = match proof {
            Proof::Client => CLIENT_CREDENTIALS,
            Proof::Named(sub) => {
                form.append_pair("requested_subject", sub.as_str());
                CLIENT_CREDENTIALS
            }
            Proof::Asserted(..) | Proof::Outside(..) | Proof::Own(_) => {
                let kind = if let Proof::Own(_) = proof { Source::TxnToken } else { self.source };
                form.append_pair("subject_token_type", &format!("{TYPE_PREFIX}{}", kind.name()));
                form.append_pair("subject_token", &proof.text());
                TOKEN_EXCHANGE
            }
        };
        form.append_pair("grant_type", grant);
        TokenRequest::parse(&Form::parse(form.finish().as_bytes())?, domain)
    }

    fn proof(&self, client: &ClientPolicy, world: &World) -> Result<Proof, TrialError> {
        match self.source {
            Source::ClientCredentials => {
                self.refuse("presented", self.presented.is_some())?;
                self.refuse("age", self.age.is_some())?;
                self.refuse("subject_scope", self.subject_scope.is_some())?;
                let named = self.subject.as_deref().map(subject).transpose()?;
                Ok(named.map_or(Proof::Client, Proof::Named))
            }
            Source::UnsignedJson | Source::SelfSigned => {
                self.refuse("subject_scope", self.subject_scope.is_some())?;
                let (sub, claims) = self.claims(client.subject.as_str(), world)?;
                Ok(Proof::Asserted(self.source, sub, claims))
            }
            Source::AccessToken | Source::Jwt | Source::IdToken => {
                let (sub, mut claims) = self.claims(SOMEONE, world)?;
                if self.age.is_none() && claims.raw("exp").is_none() {
                    set(&mut claims, "exp", &(world.now + HOUR).epoch());
                }
                let scope = self.covered(&mut claims)?;
                Ok(Proof::Outside(self.source, sub, scope, claims))
            }
            Source::TxnToken | Source::ExpiredTxnToken => self.own_claims(world).map(|own| Proof::Own(Box::new(own))),
        }
    }

    fn refuse(&self, key: &'static str, told: bool) -> Result<(), TrialError> {
        let message = || format!("has no place in a request by {}", self.source.name());
        if told { Err(TrialError::new(key, message())) } else { Ok(()) }
    }

    /// The final subject, `supposed` if nothing says it, and the claims of a token about it.
    fn claims(&self, supposed: &str, world: &World) -> Result<(Subject, Members), TrialError> {
        let mut claims = self.presented.clone().unwrap_or_default();
        let sub = self.subject.clone().or_else(|| claims.get("sub")).unwrap_or_else(|| supposed.to_owned());
        let sub = subject(&sub)?;
        if claims.raw("sub").is_none() {
            set(&mut claims, "sub", &sub);
        }
        if let Some(age) = self.age {
            set(&mut claims, "exp", &age.expiry(world.now).epoch());
        }
        Ok((sub, claims))
    }

    /// What an outside token covers, by its own word or its issuer's settings. An ID token has no word of its own.
    fn covered(&self, claims: &mut Members) -> Result<Option<Scope>, TrialError> {
        let scope = |text: &str| text.parse::<Scope>().map_err(|error| TrialError::new("subject_scope", error));
        let own_word = self.source != Source::IdToken;
        match &self.subject_scope {
            Some(text) => {
                if own_word && claims.raw("scope").is_none() {
                    set(claims, "scope", text);
                }
                scope(text).map(Some)
            }
            None if own_word => outside::scope(claims, "scope").map_err(|error| TrialError::new("presented", error)),
            None => Ok(None),
        }
    }

    /// The claims of a Txn-Token: whatever can be made up is.
    fn own_claims(&self, world: &World) -> Result<TxnClaims, TrialError> {
        let mut claims = self.presented.clone().unwrap_or_default();
        self.subject.iter().for_each(|sub| set(&mut claims, "sub", sub));
        self.subject_scope.iter().for_each(|scope| set(&mut claims, "scope", scope));
        for (name, supposed) in [("sub", SOMEONE), ("scope", &self.scope), ("req_wl", SOMEONE)] {
            if claims.raw(name).is_none() {
                set(&mut claims, name, &supposed);
            }
        }
        let told = |claims: &Members, name| claims.get(name).map(Timestamp::from_epoch);
        let (iat, exp) = (told(&claims, "iat"), told(&claims, "exp"));
        let lifetime = iat.zip(exp).map_or(MINUTE, |(iat, exp)| exp.since(iat));
        let expiry = match (self.age, exp) {
            (Some(age), _) => age.expiry(world.now),
            (None, Some(exp)) => exp,
            (None, None) if self.source == Source::TxnToken => world.now + lifetime,
            (None, None) => world.now,
        };
        let issued = iat.filter(|_| self.age.is_none()).unwrap_or(expiry - lifetime);
        set(&mut claims, "iat", &issued.epoch());
        set(&mut claims, "exp", &expiry.epoch());
        if claims.raw("aud").is_none() {
            set(&mut claims, "aud", &world.settings.trust_domain);
        }
        if claims.raw("txn").is_none() {
            let began = uuid::Timestamp::from_unix(NoContext, issued.epoch(), 0);
            set(&mut claims, "txn", &Uuid::new_v7(began).to_string());
        }
        let text = serde_json::to_vec(&claims).unwrap_or_default();
        TxnClaims::parse(&text).map_err(|_| TrialError::new("presented", "are not the claims of a Txn-Token"))
    }
}

impl Proof {
    /// What would be sent as subject token. Of one that nobody made, a text that nothing else in the request can hold.
    fn text(&self) -> String {
        match self {
            Self::Asserted(Source::UnsignedJson, _, claims) => serde_json::to_string(claims).unwrap_or_default(),
            _ => Uuid::new_v4().to_string(),
        }
    }

    fn verified(self, client: &ClientPolicy, may_redeem: bool, world: &World) -> Result<VerifiedSubject, SubjectError> {
        let World { policies, clock_skew, now, settings, .. } = world;
        let (clock_skew, now) = (*clock_skew, *now);
        Ok(match self {
            Self::Client => VerifiedSubject::Client,
            Self::Named(sub) => VerifiedSubject::Named(sub),
            Self::Asserted(source, sub, claims) => {
                VerifiedSubject::Asserted(AssertedSubject::unproven(source, sub, claims, clock_skew, now)?)
            }
            Self::Outside(source, sub, scope, claims) => {
                let by = SupposedBy { client, policies, clock_skew, now };
                VerifiedSubject::Outside(OutsideToken::supposed(source, sub, scope, claims, by)?)
            }
            Self::Own(claims) => {
                let own = OwnToken::supposed(*claims, &settings.trust_domain, may_redeem, now)?;
                VerifiedSubject::Own(Box::new(own))
            }
        })
    }
}

impl World {
    /// What would come of a grant.
    fn issue(&self, grant: Grant, source: Source, trace: &mut Trace) -> Result<Allowed, Refusal> {
        let open = self.open(&grant, source);
        let redeems = matches!(grant.kind(), GrantKind::Redeem { .. });
        let claims = Foreseen::new(grant, 1, self.now, &self.settings);
        let length = token::length(claims.as_txn_claims(), self.algorithm);
        if !redeems && length > self.settings.max_size {
            let detail = format!("the token would have {length} bytes, at most {}", self.settings.max_size);
            let step = Step { rule: "tokens.max_size", line: None, passed: false, detail: detail.into() };
            trace.push(step);
            return Err(Refusal::TokenTooLarge);
        }
        Ok(Allowed { claims, open })
    }

    /// What a decision cannot know.
    fn open(&self, grant: &Grant, source: Source) -> Vec<String> {
        let mut open = Vec::new();
        for purpose in grant.asks_pdp() {
            open.push(format!("the decision point would be asked about {purpose}, and may say no"));
        }
        if let GrantKind::Redeem { max_uses, require_record, .. } = grant.kind() {
            if *require_record {
                open.push("the presented token must be on record".to_owned());
            }
            let uses = if *max_uses == 1 { "use" } else { "uses" };
            open.push(format!("at most {max_uses} {uses} of this transaction and purpose, over all clients"));
        }
        if source == Source::SelfSigned {
            open.push("its jti must not have been used before".to_owned());
        }
        open.push("whether a `writ block` entry stops this request".to_owned());
        if grant.original().is_none_or(|original| original.alive)
            && let Some(max_age) = self.policies.redeemable_for(grant.scope(), grant.client().as_str())
        {
            let until = grant.expiry(self.now) + max_age;
            open.push(format!("the token would go on record, to be redeemed until {until} at the latest"));
        }
        open
    }
}

/// Takes down why a request was refused outside of the policy.
fn refused(rule: &'static str, cause: impl Into<Refusal>, trace: &mut Trace) -> Refusal {
    let refusal = cause.into();
    trace.push(Step { rule, line: None, passed: false, detail: refusal.description().into() });
    refusal
}

fn subject(name: &str) -> Result<Subject, TrialError> {
    name.parse().map_err(|error| TrialError::new("subject", error))
}

fn set<T: serde::Serialize>(claims: &mut Members, name: &str, value: &T) {
    claims.set(name, value).expect("numbers and strings always make JSON");
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use writ_verifier::json::Limits;

    use super::*;
    use crate::config::policy::file::Settings;
    use crate::config::policy::folder;

    const NOW: Timestamp = Timestamp::from_epoch(1_790_000_000);

    /// The world of these policies.
    pub(in crate::cli::policy) fn world(policies: &[(&str, &str)]) -> World {
        let folder = tempfile::tempdir().unwrap();
        for (client, text) in policies {
            let identity = format!("client_id = \"{client}\"\ntls_client_auth_san_dns = \"{client}.example\"\n");
            fs::write(folder.path().join(format!("{client}.toml")), identity + text).unwrap();
        }
        let settings = Settings {
            directory: folder.path().to_owned(),
            default_lifetime: MINUTE,
            max_lifetime: MINUTE,
            retention: Duration::from_secs(400 * 86_400),
            outside_sources: Source::ALL.to_vec(),
            introspecting_issuers: Vec::new(),
            pdp: false,
        };
        World {
            policies: folder::load(&settings).unwrap().0,
            directory: "policies".into(),
            settings: claims::Settings {
                trust_domain: "d.example".parse().unwrap(),
                issuer: "https://tts.d.example".to_owned(),
                include_iss: true,
                max_size: 1024,
                max_replacements: 4,
            },
            clock_skew: Duration::from_secs(10),
            algorithm: SigningAlgorithm::ES256,
            now: NOW,
        }
    }

    fn members(text: &str) -> Members {
        Members::parse(text, Limits::DEFAULT).unwrap()
    }

    fn trial(source: Source) -> Trial {
        Trial {
            client: "a".to_owned(),
            source,
            scope: "s".to_owned(),
            subject: Some("u-1".to_owned()),
            subject_scope: None,
            details: None,
            context: None,
            presented: None,
            age: None,
        }
    }

    fn reason(trial: &Trial, world: &World) -> &'static str {
        let verdict = trial.decide(world).unwrap();
        verdict.outcome.as_ref().map_or_else(|refusal| refusal.code().reason, |_| "allow")
    }

    const OUTSIDE: &str = "subject_token_audience = [\"https://api.example\"]\n[[purpose]]\nscope = \"s\"\n\
        accept = [\"access_token\", \"id_token\"]\ngranted_by = [\"g\"]\n";

    #[test]
    fn an_age_counts_from_the_expiry() {
        let expiry = |text: &str| text.parse::<Age>().map(|age| age.expiry(NOW).epoch());
        assert_eq!(expiry("1m"), Ok(1_789_999_940));
        assert_eq!(expiry("-30s"), Ok(1_790_000_030));
        assert_eq!((expiry("0s"), expiry("-0s")), (Ok(1_790_000_000), Ok(1_790_000_000)));
        for text in ["", "-", "--1s", "1", "1w", "+1s"] {
            assert!(expiry(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_told_of_a_txn_token_is_made_up() {
        let world = world(&[("unconcerned", "")]);
        let own = |source, age: Option<&str>, claims: &str| {
            let presented = Some(members(claims));
            let age = age.map(|age| age.parse().unwrap());
            let trial = Trial { subject_scope: Some("s".to_owned()), presented, age, ..trial(source) };
            trial.own_claims(&world).unwrap()
        };
        let times = |claims: TxnClaims| [claims.iat, claims.exp].map(|time| time.cast_signed() - 1_790_000_000);
        let (new, old) = (Source::TxnToken, Source::ExpiredTxnToken);
        let least = r#"{"req_wl":"b"}"#;
        assert_eq!(times(own(new, None, least)), [0, 60]);
        assert_eq!(times(own(old, None, least)), [-60, 0]);
        assert_eq!(times(own(old, Some("1h"), least)), [-3660, -3600]);
        assert_eq!(times(own(old, Some("-30s"), least)), [-30, 30], "the age decides whether it is alive");
        let told = r#"{"req_wl":"b","iat":1790000010,"exp":1790000040}"#;
        assert_eq!(times(own(new, None, told)), [10, 40]);
        assert_eq!(times(own(new, Some("0s"), told)), [-30, 0]);
        let claims = own(old, Some("1h"), least);
        assert_eq!((claims.aud.as_str(), claims.sub.as_str()), ("d.example", "u-1"));
        let began = Uuid::parse_str(&claims.txn).unwrap().get_timestamp().unwrap().to_unix().0;
        assert_eq!(began, claims.iat, "so that fifteen minutes can be counted");
        assert_eq!(own(old, None, r#"{"req_wl":"b","txn":"t"}"#).txn, "t");
    }

    /// What the policy says of tokens holds for those that nobody verified, too.
    #[test]
    fn an_outside_token_must_be_one_that_the_client_may_bring() {
        let world = world(&[("a", OUTSIDE), ("b", "subject = \"svc:b\"\n")]);
        let outside = |subject: &str, scope: Option<&str>, claims: &str| {
            let subject_scope = scope.map(str::to_owned);
            let presented = Some(members(claims));
            let subject = Some(subject.to_owned());
            reason(&Trial { subject, subject_scope, presented, ..trial(Source::AccessToken) }, &world)
        };
        assert_eq!(outside("u-1", Some("g"), "{}"), "allow");
        assert_eq!(outside("u-1", None, r#"{"scope":"g","aud":["x","https://api.example"]}"#), "allow");
        assert_eq!(outside("u-1", Some("g"), r#"{"aud":"x"}"#), "subject_token_audience_mismatch");
        assert_eq!(outside("svc:b", Some("g"), "{}"), "subject_token_claims_invalid");
        assert_eq!(outside("u-1", Some("g"), r#"{"cnf":{}}"#), "subject_token_claims_invalid");
        assert_eq!(outside("u-1", Some("g"), r#"{"exp":1789999991}"#), "allow", "the skew is tolerated");
        assert_eq!(outside("u-1", Some("g"), r#"{"exp":1789999990}"#), "subject_token_expired");
        assert_eq!(outside("u-1", Some("g"), r#"{"nbf":1790000011}"#), "subject_token_not_yet_valid");
        // What an ID token says of scopes is nothing, whatever it is called.
        let presented = Some(members(r#"{"scope":"g"}"#));
        assert_eq!(reason(&Trial { presented, ..trial(Source::IdToken) }, &world), "scope_unknown");
    }

    /// As the service reads them: of plain JSON only `exp` is a time.
    #[test]
    fn what_a_client_vouches_for_has_its_time() {
        let text = "[[purpose]]\nscope = \"s\"\naccept = [\"self_signed\", \"unsigned_json\"]\nsubjects = [\"*\"]\n";
        let world = world(&[("a", text)]);
        let vouched =
            |source, claims: &str| reason(&Trial { presented: Some(members(claims)), ..trial(source) }, &world);
        for source in [Source::SelfSigned, Source::UnsignedJson] {
            assert_eq!(vouched(source, "{}"), "allow");
            assert_eq!(vouched(source, r#"{"exp":1789999990}"#), "subject_token_expired");
        }
        let ahead = r#"{"nbf":1790000011,"exp":1790000060}"#;
        assert_eq!(vouched(Source::SelfSigned, ahead), "subject_token_not_yet_valid");
        assert_eq!(vouched(Source::UnsignedJson, ahead), "allow");
    }

    #[test]
    fn a_token_that_would_be_too_large_is_refused() {
        let text =
            "[[purpose]]\nscope = \"s\"\naccept = [\"client_credentials\"]\nsubjects = [\"*\"]\nrctx.copy = [\"a\"]\n";
        let world = world(&[("a", text)]);
        let sent = |length: usize| {
            let context = Some(format!("{{\"a\":\"{}\"}}", "x".repeat(length)));
            Trial { context, ..trial(Source::ClientCredentials) }
        };
        assert_eq!(reason(&sent(100), &world), "allow");
        assert_eq!(reason(&sent(1000), &world), "token_too_large");
        let verdict = sent(1000).decide(&world).unwrap();
        assert_eq!(verdict.trace.steps().last().unwrap().rule, "tokens.max_size");
    }

    /// The last rule is the one that decided, wherever it lies.
    #[test]
    fn every_refusal_is_the_last_rule() {
        let world = world(&[("a", OUTSIDE)]);
        let with = |change: fn(&mut Trial)| {
            let mut trial = Trial { subject_scope: Some("g".to_owned()), ..trial(Source::AccessToken) };
            change(&mut trial);
            let verdict = trial.decide(&world).unwrap();
            let last = verdict.trace.steps().last().unwrap().clone();
            assert_eq!(last.passed, verdict.outcome.is_ok(), "{last:?}");
            (last.rule, last.line)
        };
        assert_eq!(with(|_| {}), ("granted_by", Some(7)));
        assert_eq!(with(|trial| trial.client = "..".to_owned()), ("client", None));
        assert_eq!(with(|trial| trial.scope = "s  t".to_owned()), ("request", None));
        assert_eq!(with(|trial| trial.scope = "t".to_owned()), ("scope", None));
        assert_eq!(with(|trial| trial.source = Source::Jwt), ("accept", Some(6)));
        assert_eq!(with(|trial| trial.age = Some(Age::of(60))), ("subject_token", None));
        assert_eq!(with(|trial| trial.subject_scope = Some("x".to_owned())), ("granted_by", Some(7)));
    }
}
