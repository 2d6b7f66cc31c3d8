//! How a refused trial could be changed to pass, and where: for authors of policies, never for a client.

use writ_verifier::Members;
use writ_verifier::json::Limits;

use super::trial::{Trial, Verdict, World};
use writ_core::decision::Denial;
use writ_core::policy::mapping::Rejection;
use writ_core::policy::{ClientPolicy, PurposeRule};
use writ_core::refusal::Refusal;
use writ_core::request::RequestError;
use writ_core::request::Source;
use writ_core::subject::{SubjectError, SubjectFault};

/// The cure for a refusal, in a sentence or two.
pub(super) fn hint(trial: &Trial, refusal: &Refusal, verdict: &Verdict, world: &World) -> String {
    let Some(policy) = world.client(&trial.client) else { return unknown_client(trial, world) };
    let last = verdict.rules.last();
    let line = last.and_then(|rule| rule.line);
    let rule = line.and_then(|line| policy.purposes.iter().rfind(|rule| rule.line <= line));
    let file = world.file(&trial.client).display().to_string();
    let at = line.map_or_else(|| file.clone(), |line| format!("{file}, line {line}"));
    let hint = Hint { trial, world, policy, rule, file, at };
    match refusal {
        Refusal::Request(error) => of_request(error),
        Refusal::Subject(error) => hint.of_subject(error),
        Refusal::Policy(denial) => hint.of_denial(denial),
        Refusal::TokenTooLarge => format!("{}: let tctx and rctx carry less, or raise tokens.max_size", hint.at),
        // No trial ends with one of these.
        Refusal::Client(_)
        | Refusal::RateLimited(_)
        | Refusal::Pdp(_)
        | Refusal::Blocked(_)
        | Refusal::Ledger(_)
        | Refusal::Keys(_)
        | Refusal::IntrospectionNotAllowed
        | Refusal::Audit(_)
        | Refusal::NotAudited(_)
        | Refusal::Timeout
        | Refusal::Internal => format!("{}: no policy changes this", hint.at),
    }
}

fn unknown_client(trial: &Trial, world: &World) -> String {
    let known: Vec<_> = world.policies.iter().map(|policy| policy.client_id.as_str()).collect();
    let clients = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("write {}, with what its certificate holds; there are {clients}", world.file(&trial.client).display())
}

fn of_request(error: &RequestError) -> String {
    match error {
        RequestError::Scope(_) => "a scope is one or more purposes separated by single spaces".to_owned(),
        RequestError::Malformed(name, _) => format!("{name} must be one JSON object without repeated members"),
        other => format!("{other}: no policy changes this"),
    }
}

struct Hint<'a> {
    trial: &'a Trial,
    world: &'a World,
    policy: &'a ClientPolicy,
    /// The table that refused.
    rule: Option<&'a PurposeRule>,
    file: String,
    /// The file, and the line where there is one.
    at: String,
}

impl Hint<'_> {
    fn of_subject(&self, error: &SubjectError) -> String {
        let own = matches!(self.trial.source, Source::TxnToken | Source::ExpiredTxnToken);
        match error.fault() {
            SubjectFault::Expired { .. } if own => format!(
                "{}: an expired Txn-Token is accepted only for a purpose with a [purpose.redemption] table",
                self.file
            ),
            SubjectFault::Expired { .. } => {
                "the client needs a fresh token: no policy accepts an expired one".to_owned()
            }
            SubjectFault::Redeemed => "a redeemed token cannot be exchanged: redeem the original again".to_owned(),
            SubjectFault::AudienceMismatch if own => {
                format!("the token is not for {}", self.world.settings.trust_domain)
            }
            SubjectFault::AudienceMismatch => {
                format!("{}: subject_token_audience must contain a value of `aud` of the token", self.file)
            }
            SubjectFault::ClaimsInvalid
                if self.trial.presented.as_ref().is_some_and(|claims| claims.raw("cnf").is_some()) =>
            {
                format!("{}: set vouches_for_bound_tokens, if this client checks the proof of such tokens", self.file)
            }
            _ => format!("{error}: change the claims of the token; no policy changes this"),
        }
    }

    fn of_denial(&self, denial: &Denial) -> String {
        let at = &self.at;
        match denial {
            Denial::PurposeNotAllowed => self.no_purpose(),
            Denial::SourceNotAllowed => self.no_source(),
            Denial::ActorNotAllowed => format!(
                "{at}: add actors = \"ignore\", if an actor may act for the subject; each requested purpose needs it"
            ),
            Denial::SubjectNotAllowed => {
                let sub = self.sub();
                let has = self.rule.is_some_and(|rule| rule.subjects.is_some());
                if has { format!("{at}: add a pattern to subjects that matches {sub}") } else { format!("{at}: add subjects = [\"{sub}\"], or a pattern") }
            }
            Denial::ScopeUnknown => {
                "give the scope of the token (--subject-scope); for an issuer that sends no scope, set `scopes` in writ.toml".to_owned()
            }
            Denial::ScopeExceedsSubjectToken if self.trial.source.is_outside() => {
                let covered = self.trial.subject_scope.clone();
                let covered = covered.or_else(|| self.claims().get("scope")).unwrap_or_default();
                format!("{at}: add the scope of the token ({covered}) to granted_by, if that is enough")
            }
            Denial::ScopeExceedsSubjectToken => "request only purposes of the presented token".to_owned(),
            Denial::DetailsRejected(rejection) => self.rejected(rejection),
            Denial::ClaimMissing => {
                format!("{at}: remove the member from tctx.subject, or present a token with that claim (--presented)")
            }
            Denial::ClaimUnreadable => {
                format!("{at}: remove the member from tctx.subject, or request a token with less in it")
            }
            Denial::ConditionFailed => self.condition(),
            Denial::ReplacementLimit => {
                "a new transaction is needed; tokens.max_replacements in writ.toml limits how often a token can be replaced".to_owned()
            }
            Denial::UnsupportedOnRedemption(name) => format!("leave out {name}: a redeemed token keeps its own"),
            Denial::RedemptionNotAllowed if self.several() => {
                "only a token with a single purpose can be redeemed: request a token for each purpose".to_owned()
            }
            Denial::RedemptionNotAllowed => {
                let by = self.claims().get::<String>("req_wl").unwrap_or_default();
                format!("{at}: add \"{by}\" to issued_to, if its tokens may be redeemed")
            }
            Denial::RedemptionTooEarly { redeemable_at } => format!("{at}: shorten min_age, or try again at {redeemable_at}"),
            Denial::RedemptionTooOld { .. } => format!("{at}: a longer max_age accepts older tokens"),
        }
    }

    fn no_purpose(&self) -> String {
        let wanted = self
            .trial
            .scope
            .split(' ')
            .find(|word| self.policy.purposes.iter().all(|rule| rule.purpose.as_str() != *word));
        let mut known: Vec<&str> = Vec::new();
        for rule in &self.policy.purposes {
            if !known.contains(&rule.purpose.as_str()) {
                known.push(rule.purpose.as_str());
            }
        }
        let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
        format!(
            "{}: add a [[purpose]] table with scope = \"{}\"; it has {known}",
            self.file,
            wanted.unwrap_or_default()
        )
    }

    fn no_source(&self) -> String {
        let (at, source) = (&self.at, self.trial.source);
        let name = source.name();
        let more = match source {
            Source::AccessToken | Source::Jwt | Source::IdToken
                if self.rule.is_some_and(|rule| rule.granted_by.is_empty()) =>
            {
                ", and granted_by with the scopes that allow it"
            }
            Source::ExpiredTxnToken => ", and a [purpose.redemption] table",
            Source::UnsignedJson | Source::SelfSigned => ", and subjects with those that it may name",
            Source::ClientCredentials => ", if no subject token is needed",
            Source::AccessToken | Source::Jwt | Source::IdToken | Source::TxnToken => "",
        };
        if source.is_self_asserted() && self.rule.is_some_and(|rule| rule.redemption.is_some()) {
            return format!(
                "{at}: a client that can redeem a purpose must not get it without a token; give it to another client"
            );
        }
        format!("{at}: add \"{name}\" to accept{more}")
    }

    fn rejected(&self, rejection: &Rejection) -> String {
        let at = &self.at;
        match rejection {
            Rejection::Unfit(_) => format!("{at}: send details that fit the schema named there, or change the schema"),
            Rejection::TwoValues(name) => {
                format!("{at}: {name} would have two values: remove one of them")
            }
            Rejection::Unreadable(_) => {
                format!(
                    "{at}: copy less; a token has at most 16 levels, and 256 members in one object, its own included"
                )
            }
            Rejection::HoldsToken(name) => format!("{at}: {name} contains a token; a token must not contain another"),
        }
    }

    /// The condition, and the values of the members that it reads.
    fn condition(&self) -> String {
        let members = self.rule.and_then(|rule| rule.when.as_ref()).map(|when| when.members()).unwrap_or_default();
        let values: Vec<_> = members.iter().map(|path| format!("{path} is {}", self.value(path))).collect();
        let values = if values.is_empty() { String::new() } else { format!("; here {}", values.join(", ")) };
        format!("{}: `when` must be true{values}", self.at)
    }

    /// The value of a member as a condition sees it.
    fn value(&self, path: &str) -> String {
        let own = matches!(self.trial.source, Source::TxnToken | Source::ExpiredTxnToken);
        let redeems = own && self.rule.is_some_and(|rule| rule.redemption.is_some());
        let claims = self.claims();
        let carried = |name| claims.raw(name).map(str::to_owned);
        let mut words = path.split('.');
        let fact = match words.next() {
            Some("details") if redeems => carried("tctx"),
            Some("context") if redeems => carried("rctx"),
            Some("details") => self.trial.details.clone(),
            Some("context") => self.trial.context.clone(),
            Some("subject") => match words.next() {
                Some("claims") => serde_json::to_string(&claims).ok(),
                _ => serde_json::to_string(&self.sub()).ok(),
            },
            _ => None,
        };
        let inside = |raw: String, word| Some(Members::parse(&raw, Limits::DOCUMENT).ok()?.raw(word)?.to_owned());
        let found = fact.and_then(|fact| words.try_fold(fact, inside));
        found.filter(|raw| raw != "null").unwrap_or_else(|| "not there".to_owned())
    }

    /// The claims of the subject token, as far as the trial gives them.
    fn claims(&self) -> Members {
        let mut claims = self.trial.presented.clone().unwrap_or_default();
        for (name, given) in [("sub", &self.trial.subject), ("scope", &self.trial.subject_scope)] {
            if let Some(given) = given.as_ref().filter(|_| claims.raw(name).is_none()) {
                let _ = claims.set(name, given);
            }
        }
        claims
    }

    fn sub(&self) -> String {
        let given = self.trial.subject.clone().or_else(|| self.claims().get("sub"));
        given.unwrap_or_else(|| self.policy.subject.to_string())
    }

    fn several(&self) -> bool {
        let scope = self.trial.subject_scope.clone().or_else(|| self.claims().get("scope"));
        scope.is_some_and(|scope| scope.contains(' '))
    }
}
