//! An imagined request → the decision on it, by the rules that decide live requests.
//!
//! Nothing is verified and nothing is signed: the trial gives the result of the verification. Checks that
//! need the network, the store or the keys are not made; [`Allowed::unchecked`] lists them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use url::form_urlencoded;
use uuid::{NoContext, Uuid};
use writ_verifier::{Members, Scope, TxnClaims};

use crate::config::Config;
use crate::config::document;
use writ_core::claims::{self, ClaimsPreview};
use writ_core::client::{ClientError, ClientId};
use writ_core::decision::{AppliedRule, Circumstances, Denial, GrantKind, Trace, TrialGrant, admit, decide_trial};
use writ_core::keys::{SigningAlgorithm, token};
use writ_core::policy::{ClientPolicy, PolicySet};
use writ_core::refusal::Refusal;
use writ_core::request::{
    CLIENT_CREDENTIALS, Form, RequestError, TOKEN_EXCHANGE, TXN_TOKEN_TYPE, TYPE_PREFIX, TokenRequest,
};
use writ_core::request::{Source, Subject};
use writ_core::subject::{AnySubject as _, AnyTxnToken, SubjectError, TrialPresenter, TrialSubject, members};
use writ_platform::clock::Timestamp;

/// The lifetime of a Txn-Token, if the trial does not give one.
const MINUTE: Duration = Duration::from_secs(60);

/// How long a token of a subject issuer is still valid, if the trial does not say.
const HOUR: Duration = Duration::from_secs(3600);

/// An imagined request; absent parts have the most common value.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) client: String,
    pub(super) source: Source,
    pub(super) scope: String,
    /// `sub` of the token.
    pub(super) subject: Option<String>,
    /// The scope of the subject token.
    pub(super) subject_scope: Option<String>,
    pub(super) details: Option<String>,
    pub(super) context: Option<String>,
    /// The claims of the subject token.
    pub(super) presented: Option<Members>,
    /// How long ago the subject token expired.
    pub(super) age: Option<Age>,
}

/// The time since an expiry; negative before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age {
    by: Duration,
    ahead: bool,
}

impl Age {
    pub(super) fn from_secs(seconds: u64) -> Self {
        Self { by: Duration::from_secs(seconds), ahead: false }
    }

    fn expiry(self, now: Timestamp) -> Timestamp {
        if self.ahead { now + self.by } else { now - self.by }
    }
}

/// `40d`, or `-30s` for a token that expires in half a minute.
impl FromStr for Age {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (ahead, by) = text.strip_prefix('-').map_or((false, text), |by| (true, by));
        Ok(Self { by: document::duration(by)?, ahead })
    }
}

/// The trial is not a request: something is missing, or does not apply to its source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct TrialError {
    /// The option or the key of a test file.
    pub(super) key: &'static str,
    pub(super) message: String,
}

impl TrialError {
    fn new(key: &'static str, message: impl fmt::Display) -> Self {
        Self { key, message: message.to_string() }
    }
}

/// The subject of a token, if the trial does not give one.
const SOMEONE: &str = "someone";

/// The input of a decision besides the request: policies, settings, the time.
#[derive(Debug)]
pub(super) struct World {
    pub(super) policies: PolicySet,
    pub(super) directory: PathBuf,
    pub(super) settings: claims::Settings,
    pub(super) clock_skew: Duration,
    pub(super) algorithm: SigningAlgorithm,
    pub(super) now: Timestamp,
}

impl World {
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

    /// `None` if `name` is not a client id, or the client has no policy.
    pub(super) fn client(&self, name: &str) -> Option<&ClientPolicy> {
        let id: ClientId = name.parse().ok()?;
        self.policies.of(&id).map(AsRef::as_ref)
    }

    /// The path of a client's policy, whether or not it exists.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.toml"))
    }
}

/// The decision, and the rules that led to it.
#[derive(Debug)]
pub(super) struct Verdict {
    /// In the order in which they were applied; the last one decided. Those of the decision and, around them, those that
    /// are no part of it.
    pub(super) rules: Vec<AppliedRule>,
    pub(super) outcome: Result<Allowed, Refusal>,
}

/// A token that would be issued.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) claims: ClaimsPreview,
    /// Conditions for the token that a trial does not check, a sentence each.
    pub(super) unchecked: Vec<String>,
}

/// The subject of a trial before it is checked.
enum Proof {
    Client,
    Named(Subject),
    Asserted(Source, Subject, Members),
    Outside(Source, Subject, Option<Scope>, Members),
    Own(Box<TxnClaims>),
}

impl Trial {
    /// Decides.
    ///
    /// # Errors
    /// [`TrialError`], regardless of the policies.
    pub(super) fn decide(&self, world: &World) -> Result<Verdict, TrialError> {
        let client = world.client(&self.client);
        let file = world.file(&self.client).display().to_string();
        let detail = if client.is_some() { file } else { format!("there is no {file}") };
        let mut rules = vec![AppliedRule { rule: "client", line: None, passed: client.is_some(), detail }];
        let Some(client) = client else {
            return Ok(Verdict { rules, outcome: Err(ClientError::Unknown.into()) });
        };
        let proof = self.proof(client, world)?;
        let mut trace = Trace::default();
        let outcome = self.outcome(client, proof, world, &mut trace);
        rules.extend(trace.applied_rules());
        let outcome = outcome.map_err(|Refused { refusal, rule }| {
            rules.extend(rule);
            refusal
        });
        Ok(Verdict { rules, outcome })
    }

    fn outcome<'w>(
        &self,
        client: &'w ClientPolicy,
        proof: Proof,
        world: &World,
        trace: &mut Trace<'w>,
    ) -> Result<Allowed, Refused> {
        let request = self.request(&proof, world).map_err(|error| Refused::by("request", error))?;
        let asked = admit(client, &request, trace)?;
        let subject = proof.check(client, asked.may_redeem(), world);
        let subject = subject.map_err(|error| Refused::by("subject_token", error))?;
        let source = subject.source();
        let at = Circumstances { now: world.now, max_replacements: world.settings.max_replacements };
        let grant = decide_trial(&asked, subject, at, trace)?;
        world.issue(&grant, source)
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

    fn refuse(&self, key: &'static str, given: bool) -> Result<(), TrialError> {
        let message = || format!("does not apply to a request by {}", self.source.name());
        if given { Err(TrialError::new(key, message())) } else { Ok(()) }
    }

    /// `sub` of the token, `default` if nothing gives one, and the claims of a token about it.
    fn claims(&self, default: &str, world: &World) -> Result<(Subject, Members), TrialError> {
        let mut claims = self.presented.clone().unwrap_or_default();
        let sub = self.subject.clone().or_else(|| claims.get("sub")).unwrap_or_else(|| default.to_owned());
        let sub = subject(&sub)?;
        if claims.raw("sub").is_none() {
            set(&mut claims, "sub", &sub);
        }
        if let Some(age) = self.age {
            set(&mut claims, "exp", &age.expiry(world.now).epoch());
        }
        Ok((sub, claims))
    }

    /// The scope of a token of a subject issuer, by its own claim or its issuer's settings. An ID token has none.
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
            None if own_word => members::scope(claims, "scope").map_err(|error| TrialError::new("presented", error)),
            None => Ok(None),
        }
    }

    /// The claims of a Txn-Token, with a value for each that the trial leaves out.
    fn own_claims(&self, world: &World) -> Result<TxnClaims, TrialError> {
        let mut claims = self.presented.clone().unwrap_or_default();
        self.subject.iter().for_each(|sub| set(&mut claims, "sub", sub));
        self.subject_scope.iter().for_each(|scope| set(&mut claims, "scope", scope));
        for (name, default) in [("sub", SOMEONE), ("scope", &self.scope), ("req_wl", SOMEONE)] {
            if claims.raw(name).is_none() {
                set(&mut claims, name, &default);
            }
        }
        let time = |claims: &Members, name| claims.get(name).map(Timestamp::from_epoch);
        let (iat, exp) = (time(&claims, "iat"), time(&claims, "exp"));
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
    /// The text of the subject token; for one that does not exist, a text that cannot occur elsewhere in the request.
    fn text(&self) -> String {
        match self {
            Self::Asserted(Source::UnsignedJson, _, claims) => serde_json::to_string(claims).unwrap_or_default(),
            _ => Uuid::new_v4().to_string(),
        }
    }

    fn check(self, client: &ClientPolicy, may_redeem: bool, world: &World) -> Result<TrialSubject, SubjectError> {
        let World { policies, clock_skew, now, settings, .. } = world;
        let (clock_skew, now) = (*clock_skew, *now);
        match self {
            Self::Client => Ok(TrialSubject::client()),
            Self::Named(sub) => Ok(TrialSubject::named(sub)),
            Self::Asserted(source, sub, claims) => TrialSubject::asserted(source, sub, claims, clock_skew, now),
            Self::Outside(source, sub, scope, claims) => {
                let by = TrialPresenter { client, policies, clock_skew, now };
                TrialSubject::outside(source, sub, scope, claims, by)
            }
            Self::Own(claims) => TrialSubject::txn_token(*claims, &settings.trust_domain, may_redeem, now),
        }
    }
}

impl World {
    /// The token that a grant would yield, or why it could not be issued.
    fn issue(&self, grant: &TrialGrant, source: Source) -> Result<Allowed, Refused> {
        let claims = ClaimsPreview::of_trial(grant, self.now, &self.settings);
        let length = token::length(claims.as_txn_claims(), self.algorithm);
        let redeems = matches!(grant.kind(), GrantKind::Redeem { .. });
        if !redeems && length > self.settings.max_size {
            let detail = format!("the token would have {length} bytes, at most {}", self.settings.max_size);
            let rule = AppliedRule { rule: "tokens.max_size", line: None, passed: false, detail };
            return Err(Refused { refusal: Refusal::TokenTooLarge, rule: Some(rule) });
        }
        Ok(Allowed { claims, unchecked: self.unchecked(grant, source) })
    }

    /// The checks that need the network, the store or the keys.
    fn unchecked(&self, grant: &TrialGrant, source: Source) -> Vec<String> {
        let mut unchecked = Vec::new();
        for purpose in grant.asks_pdp() {
            unchecked.push(format!("the decision point would be asked about {purpose}, and may refuse"));
        }
        if let GrantKind::Redeem { max_uses, require_record, .. } = grant.kind() {
            if *require_record {
                unchecked.push("the presented token must be on record".to_owned());
            }
            let uses = if *max_uses == 1 { "use" } else { "uses" };
            unchecked.push(format!("at most {max_uses} {uses} of this transaction and purpose, over all clients"));
        }
        if source == Source::SelfSigned {
            unchecked.push("its jti must not have been used before".to_owned());
        }
        unchecked.push("whether a `writ block` entry stops this request".to_owned());
        if grant.original().is_none_or(AnyTxnToken::is_alive)
            && let Some(max_age) = self.policies.redeemable_for(grant.scope(), grant.client().as_str())
        {
            let until = grant.expiry(self.now) + max_age;
            unchecked.push(format!("the token would go on record, to be redeemed until {until} at the latest"));
        }
        unchecked
    }
}

/// A refused trial, with the rule that refused it if that is outside of the decision.
struct Refused {
    refusal: Refusal,
    rule: Option<AppliedRule>,
}

impl Refused {
    fn by(rule: &'static str, cause: impl Into<Refusal>) -> Self {
        let refusal = cause.into();
        let detail = refusal.description();
        Self { rule: Some(AppliedRule { rule, line: None, passed: false, detail }), refusal }
    }
}

/// The trace of the decision ends with the rule.
impl From<Denial> for Refused {
    fn from(denial: Denial) -> Self {
        Self { refusal: denial.into(), rule: None }
    }
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
    use crate::config::policy::{Settings, folder};

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
        verdict.outcome.as_ref().map_or_else(|refusal| refusal.reason().as_str(), |_| "allow")
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
    fn missing_claims_of_a_txn_token_get_default_values() {
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
        let claims = r#"{"req_wl":"b","iat":1790000010,"exp":1790000040}"#;
        assert_eq!(times(own(new, None, claims)), [10, 40]);
        assert_eq!(times(own(new, Some("0s"), claims)), [-30, 0]);
        let claims = own(old, Some("1h"), least);
        assert_eq!((claims.aud.as_str(), claims.sub.as_str()), ("d.example", "u-1"));
        let began = Uuid::parse_str(&claims.txn).unwrap().get_timestamp().unwrap().to_unix().0;
        assert_eq!(began, claims.iat, "so that fifteen minutes can be counted");
        assert_eq!(own(old, None, r#"{"req_wl":"b","txn":"t"}"#).txn, "t");
    }

    /// The policy's rules about tokens apply to those of a trial, too.
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
        // An ID token has no scope, even if it has a claim of that name.
        let presented = Some(members(r#"{"scope":"g"}"#));
        assert_eq!(reason(&Trial { presented, ..trial(Source::IdToken) }, &world), "scope_unknown");
    }

    /// As the service reads them: of plain JSON only `exp` is a time.
    #[test]
    fn the_claims_that_a_client_vouches_for_have_times() {
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
        assert_eq!(verdict.rules.last().unwrap().rule, "tokens.max_size");
    }

    /// The last rule is the one that decided, inside the decision or outside of it.
    #[test]
    fn every_refusal_is_the_last_rule() {
        let world = world(&[("a", OUTSIDE)]);
        let with = |change: fn(&mut Trial)| {
            let mut trial = Trial { subject_scope: Some("g".to_owned()), ..trial(Source::AccessToken) };
            change(&mut trial);
            let verdict = trial.decide(&world).unwrap();
            let last = verdict.rules.last().unwrap().clone();
            assert_eq!(last.passed, verdict.outcome.is_ok(), "{last:?}");
            (last.rule, last.line)
        };
        assert_eq!(with(|_| {}), ("granted_by", Some(7)));
        assert_eq!(with(|trial| trial.client = "..".to_owned()), ("client", None));
        assert_eq!(with(|trial| trial.scope = "s  t".to_owned()), ("request", None));
        assert_eq!(with(|trial| trial.scope = "t".to_owned()), ("scope", None));
        assert_eq!(with(|trial| trial.source = Source::Jwt), ("accept", Some(6)));
        assert_eq!(with(|trial| trial.age = Some(Age::from_secs(60))), ("subject_token", None));
        assert_eq!(with(|trial| trial.subject_scope = Some("x".to_owned())), ("granted_by", Some(7)));
    }
}
