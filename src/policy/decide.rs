//! (client, request, verified subject) → grant or denial, with the trace of rules.
//!
//! Pure: no clock, network or log. [`admit`] says what can be said without the subject token, [`decide`] the rest;
//! both write each rule they apply into the same [`Trace`], so that what is explained is the decision itself.

use std::borrow::Cow;
use std::time::Duration;

use writ_verifier::Scope;

use super::{ClientPolicy, PurposeRule, Redemption, Source, Subject};
use crate::client::ClientId;
use crate::clock::Timestamp;
use crate::request::TokenRequest;
use crate::subject::{OutsideToken, OwnToken, VerifiedSubject};

/// Why policy says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A purpose that this client's policy does not have, whether or not it exists elsewhere.
    #[error("a requested purpose is not allowed for this client")]
    PurposeNotAllowed,
    /// The purpose does not accept this kind of proof.
    #[error("this kind of subject token is not accepted for a requested purpose")]
    SourceNotAllowed,
    /// The subject fits none of the patterns.
    #[error("this client may not act for this subject")]
    SubjectNotAllowed,
    /// Neither the subject token nor its issuer's settings say what it covers.
    #[error("the subject token does not tell what it covers")]
    ScopeUnknown,
    /// The subject token covers less than is asked for.
    #[error("the subject token does not cover a requested purpose")]
    ScopeExceedsSubjectToken,
    /// A redemption carries everything over: it takes no details and no context.
    #[error("{0} is not supported on a redemption")]
    UnsupportedOnRedemption(&'static str),
    /// The token is not one that this client may redeem.
    #[error("this token may not be redeemed by this client")]
    RedemptionNotAllowed,
    /// `min_age` has not passed.
    #[error("the token may be redeemed from {redeemable_at} on")]
    RedemptionTooEarly {
        /// When it may be redeemed.
        redeemable_at: Timestamp,
    },
    /// `max_age` has passed.
    #[error("the token expired at {expired_at}, too long ago to be redeemed")]
    RedemptionTooOld {
        /// Its `exp`.
        expired_at: Timestamp,
    },
}

/// One rule, as it was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The rule's name: a key of the policy file where there is one.
    pub rule: &'static str,
    /// Whether it let the request pass.
    pub passed: bool,
    /// What was compared.
    pub detail: Cow<'static, str>,
}

/// The rules applied so far, in order; the last one is the one that decided.
#[derive(Debug, Default)]
pub struct Trace(Vec<Step>);

impl Trace {
    /// The rules in the order in which they were applied.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    fn require(
        &mut self,
        rule: &'static str,
        passed: bool,
        detail: impl Into<Cow<'static, str>>,
        denial: Denial,
    ) -> Result<(), Denial> {
        self.0.push(Step { rule, passed, detail: detail.into() });
        if passed { Ok(()) } else { Err(denial) }
    }
}

/// A request whose purposes are all in the client's policy and accept the kind of proof that it brings.
#[derive(Debug)]
pub struct Asked<'a> {
    client: &'a ClientPolicy,
    request: &'a TokenRequest,
}

impl<'a> Asked<'a> {
    /// The client's policy.
    pub fn client(&self) -> &'a ClientPolicy {
        self.client
    }

    /// The request.
    pub fn request(&self) -> &'a TokenRequest {
        self.request
    }

    /// The first rule by which this client may redeem an expired token for a purpose it asks for.
    pub fn redeeming_rule(&self) -> Option<&'a PurposeRule> {
        self.request
            .scope
            .purposes()
            .iter()
            .find_map(|purpose| self.client.rules(purpose).find(|rule| rule.redemption.is_some()))
    }

    /// The rule of each purpose that accepts `source`; `None` if one has no such rule.
    pub fn rules(&self, source: Source) -> Option<Vec<&'a PurposeRule>> {
        let rule = |purpose| self.client.rules(purpose).find(|rule| rule.accept.contains(&source));
        self.request.scope.purposes().iter().map(rule).collect()
    }

    /// Several purposes live as long as the shortest of them.
    fn grant(&self, rules: &[&PurposeRule], kind: GrantKind) -> Grant {
        let lifetime = rules.iter().map(|rule| rule.lifetime).min().unwrap_or_default();
        Grant { client: self.client.client_id.clone(), scope: self.request.scope.clone(), lifetime, kind }
    }
}

/// What can be refused without the subject token, is: each purpose must be in the policy, then accept the source.
///
/// # Errors
/// [`Denial::PurposeNotAllowed`], [`Denial::SourceNotAllowed`].
pub fn admit<'a>(client: &'a ClientPolicy, request: &'a TokenRequest, trace: &mut Trace) -> Result<Asked<'a>, Denial> {
    let purposes = request.scope.purposes();
    for purpose in purposes {
        let known = client.rules(purpose).next().is_some();
        trace.require("scope", known, format!("purpose {purpose}"), Denial::PurposeNotAllowed)?;
    }
    let sources = request.presented.sources();
    for purpose in purposes {
        let accepted = client.rules(purpose).any(|rule| sources.iter().any(|source| rule.accept.contains(source)));
        let names: Vec<_> = sources.iter().map(|source| source.name()).collect();
        let detail = format!("{} for {purpose}", names.join(" or "));
        trace.require("accept", accepted, detail, Denial::SourceNotAllowed)?;
    }
    Ok(Asked { client, request })
}

/// A yes: what the Txn-Token will say. Only [`decide`] makes one.
#[derive(Debug)]
pub struct Grant {
    client: ClientId,
    scope: Scope,
    lifetime: Duration,
    kind: GrantKind,
}

/// What a grant is for.
#[derive(Debug)]
pub enum GrantKind {
    /// A new transaction.
    Issue {
        /// Whom it is for.
        sub: Subject,
        /// The token must not outlive this instant.
        not_after: Option<Timestamp>,
    },
    /// A use of the right to redeem an expired token.
    Redeem {
        /// The expired token.
        original: Box<OwnToken>,
        /// How often its transaction may be redeemed for this purpose.
        max_uses: u32,
        /// Whether it must be on record.
        require_record: bool,
    },
}

impl Grant {
    /// Who asked.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// What for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whom the token will be for.
    pub fn sub(&self) -> &str {
        match &self.kind {
            GrantKind::Issue { sub, .. } => sub.as_str(),
            GrantKind::Redeem { original, .. } => &original.claims.sub,
        }
    }

    /// The Txn-Token whose transaction goes on; `None` where a new one begins.
    pub fn original(&self) -> Option<&OwnToken> {
        match &self.kind {
            GrantKind::Issue { .. } => None,
            GrantKind::Redeem { original, .. } => Some(original),
        }
    }

    /// Issue or redeem.
    pub fn kind(&self) -> &GrantKind {
        &self.kind
    }

    /// Issue or redeem, with what that takes along.
    pub fn into_kind(self) -> GrantKind {
        self.kind
    }

    /// When a token that is issued `now` expires.
    pub fn expiry(&self, now: Timestamp) -> Timestamp {
        let expiry = now + self.lifetime;
        match self.kind {
            GrantKind::Issue { not_after: Some(limit), .. } => expiry.min(limit),
            GrantKind::Issue { not_after: None, .. } | GrantKind::Redeem { .. } => expiry,
        }
    }
}

#[cfg(test)]
impl Grant {
    /// A right to redeem that no policy granted, for tests of what comes of it: for a minute each time.
    pub(crate) fn redeeming(client: &str, original: OwnToken, max_uses: u32, require_record: bool) -> Self {
        let (scope, lifetime) = (original.claims.scope.clone(), Duration::from_secs(60));
        let kind = GrantKind::Redeem { original: Box::new(original), max_uses, require_record };
        Self { client: client.parse().unwrap(), scope, lifetime, kind }
    }

    /// A new transaction that no policy granted.
    pub(crate) fn issuing(client: &str, sub: &str, scope: &str, not_after: Option<Timestamp>) -> Self {
        let kind = GrantKind::Issue { sub: sub.parse().unwrap(), not_after };
        let lifetime = Duration::from_secs(60);
        Self { client: client.parse().unwrap(), scope: scope.parse().unwrap(), lifetime, kind }
    }
}

/// Decides on a verified subject.
///
/// # Errors
/// The first [`Denial`], in the order of the contract: scope, subject, then the rules of redemption.
pub fn decide(asked: &Asked<'_>, subject: VerifiedSubject, now: Timestamp, trace: &mut Trace) -> Result<Grant, Denial> {
    let rules = |source| asked.rules(source).ok_or(Denial::SourceNotAllowed);
    match subject {
        VerifiedSubject::Client => {
            let sub = asked.client.subject.clone();
            Ok(asked.grant(&rules(Source::ClientCredentials)?, GrantKind::Issue { sub, not_after: None }))
        }
        VerifiedSubject::Named(sub) => named(asked, &rules(Source::ClientCredentials)?, sub, trace),
        VerifiedSubject::Outside(token) => outside(asked, &rules(Source::AccessToken)?, &token, trace),
        VerifiedSubject::Own(token) => redeem(asked, token, now, trace),
    }
}

/// The client's own subject needs no pattern; any other must fit one.
fn named(asked: &Asked<'_>, rules: &[&PurposeRule], sub: Subject, trace: &mut Trace) -> Result<Grant, Denial> {
    if sub != asked.client.subject {
        for rule in rules {
            let detail = format!("the requested subject, for {}", rule.purpose);
            trace.require("subjects", rule.names_subject(&sub), detail, Denial::SubjectNotAllowed)?;
        }
    }
    Ok(asked.grant(rules, GrantKind::Issue { sub, not_after: None }))
}

fn outside(
    asked: &Asked<'_>,
    rules: &[&PurposeRule],
    token: &OutsideToken,
    trace: &mut Trace,
) -> Result<Grant, Denial> {
    for rule in rules {
        covered(rule, token.scope(), trace)?;
    }
    for rule in rules {
        fits_subjects(rule, token.sub(), trace)?;
    }
    if rules.iter().all(|rule| rule.outlive) {
        return Ok(asked.grant(rules, GrantKind::Issue { sub: token.sub().clone(), not_after: None }));
    }
    Ok(asked.grant(rules, GrantKind::Issue { sub: token.sub().clone(), not_after: Some(token.usable_until()) }))
}

fn covered(rule: &PurposeRule, scope: Option<&Scope>, trace: &mut Trace) -> Result<(), Denial> {
    let told = format!("the subject token tells its scope, for {}", rule.purpose);
    trace.require("granted_by", scope.is_some(), told, Denial::ScopeUnknown)?;
    let granted = scope.is_some_and(|scope| rule.granted_by.iter().any(|by| scope.contains(by.as_str())));
    let detail = format!("one of its scopes grants {}", rule.purpose);
    trace.require("granted_by", granted, detail, Denial::ScopeExceedsSubjectToken)
}

/// Where patterns are written they bind the subjects of tokens too.
fn fits_subjects(rule: &PurposeRule, sub: &Subject, trace: &mut Trace) -> Result<(), Denial> {
    if rule.subjects.is_none() {
        return Ok(());
    }
    let detail = format!("the subject of the token, for {}", rule.purpose);
    trace.require("subjects", rule.names_subject(sub), detail, Denial::SubjectNotAllowed)
}

/// The order at the end of area DELAY: purpose, originator, age; record and count are the ledger's.
///
/// A live token at a purpose that accepts only expired ones is measured by the same rules: it is too early.
fn redeem(asked: &Asked<'_>, token: Box<OwnToken>, now: Timestamp, trace: &mut Trace) -> Result<Grant, Denial> {
    let request = asked.request;
    let found = asked.redeeming_rule().and_then(|rule| Some((rule, rule.redemption.as_ref()?)));
    let detail = "a requested purpose has a table";
    trace.require("redemption", found.is_some(), detail, Denial::SourceNotAllowed)?;
    let (rule, redemption) = found.ok_or(Denial::SourceNotAllowed)?;
    for (name, sent) in [("request_details", &request.details), ("request_context", &request.context)] {
        let detail = "everything is carried over from the token";
        trace.require(name, sent.is_none(), detail, Denial::UnsupportedOnRedemption(name))?;
    }
    let single = token.claims.scope.single().is_some();
    trace.require("redemption", single, "the token has a single purpose", Denial::RedemptionNotAllowed)?;
    let same = token.claims.scope == request.scope;
    trace.require("scope", same, "the same purpose as the token's", Denial::ScopeExceedsSubjectToken)?;
    let sub = token.claims.sub.parse().map_err(|_| Denial::SubjectNotAllowed)?;
    fits_subjects(rule, &sub, trace)?;
    let named = redemption.issued_to.iter().any(|client| client.as_str() == token.claims.req_wl);
    trace.require("redemption.issued_to", named, "who asked for the token", Denial::RedemptionNotAllowed)?;
    of_age(redemption, Timestamp::from_epoch(token.claims.exp), now, trace)?;
    let (max_uses, require_record) = (redemption.max_uses, redemption.require_record);
    Ok(asked.grant(&[rule], GrantKind::Redeem { original: token, max_uses, require_record }))
}

fn of_age(redemption: &Redemption, exp: Timestamp, now: Timestamp, trace: &mut Trace) -> Result<(), Denial> {
    let redeemable_at = exp + redemption.min_age;
    let early = Denial::RedemptionTooEarly { redeemable_at };
    trace.require("redemption.min_age", now >= redeemable_at, format!("redeemable from {redeemable_at}"), early)?;
    let last = exp + redemption.max_age;
    let old = Denial::RedemptionTooOld { expired_at: exp };
    trace.require("redemption.max_age", now <= last, format!("redeemable until {last}"), old)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use writ_verifier::TxnClaims;

    use super::*;
    use crate::client::{Identity, IdentityKind};
    use crate::policy::Glob;
    use crate::request::Presented;

    const NOW: Timestamp = Timestamp::from_epoch(1_790_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn rule(purpose: &str, accept: &[Source]) -> PurposeRule {
        PurposeRule {
            purpose: purpose.parse().unwrap(),
            line: 1,
            lifetime: Duration::from_secs(60),
            accept: accept.to_vec(),
            subjects: None,
            granted_by: Vec::new(),
            outlive: false,
            redemption: None,
        }
    }

    fn policy(purposes: Vec<PurposeRule>) -> ClientPolicy {
        ClientPolicy {
            client_id: "purge-job".parse().unwrap(),
            description: None,
            identity: Identity::parse(IdentityKind::SanUri, "spiffe://d.example/purge").unwrap(),
            subject: "svc:purge".parse().unwrap(),
            introspect: false,
            subject_token_audience: Vec::new(),
            vouches_for_bound_tokens: false,
            purposes,
        }
    }

    fn request(scope: &str, presented: Presented) -> TokenRequest {
        TokenRequest { scope: scope.parse().unwrap(), presented, details: None, context: None }
    }

    fn decided(policy: &ClientPolicy, request: &TokenRequest, subject: VerifiedSubject) -> Result<Grant, Denial> {
        let mut trace = Trace::default();
        let asked = admit(policy, request, &mut trace)?;
        let outcome = decide(&asked, subject, NOW, &mut trace);
        let last = trace.steps().last().expect("a decision has steps");
        assert_eq!(last.passed, outcome.is_ok(), "the last step is the one that decided: {last:?}");
        outcome
    }

    fn named(name: &str) -> (Presented, VerifiedSubject) {
        let subject: Subject = name.parse().unwrap();
        (Presented::Named(subject.clone()), VerifiedSubject::Named(subject))
    }

    /// R-POL-01, A-079
    #[test]
    fn what_is_not_written_is_not_allowed() {
        let policy = policy(vec![rule("a", &[Source::AccessToken])]);
        let own = || VerifiedSubject::Client;
        let refused = decided(&policy, &request("b", Presented::Client), own()).unwrap_err();
        assert_eq!(refused, Denial::PurposeNotAllowed);
        assert_eq!(decided(&policy, &request("a", Presented::Client), own()).unwrap_err(), Denial::SourceNotAllowed);
    }

    ///
    #[test]
    fn one_purpose_refused_refuses_all() {
        let policy = policy(vec![rule("a", &[Source::ClientCredentials]), rule("b", &[Source::AccessToken])]);
        let subject = VerifiedSubject::Client;
        let refused = decided(&policy, &request("a b", Presented::Client), subject).unwrap_err();
        assert_eq!(refused, Denial::SourceNotAllowed);
    }

    #[test]
    fn several_purposes_live_as_long_as_the_shortest() {
        let brief = PurposeRule { lifetime: Duration::from_secs(5), ..rule("b", &[Source::ClientCredentials]) };
        let policy = policy(vec![rule("a", &[Source::ClientCredentials]), brief]);
        let grant = decided(&policy, &request("a b", Presented::Client), VerifiedSubject::Client).unwrap();
        assert_eq!(grant.expiry(NOW), NOW + Duration::from_secs(5));
    }

    /// R-REQ-19, A-083
    #[test]
    fn a_named_subject_must_fit_a_pattern_unless_it_is_the_clients_own() {
        let open =
            PurposeRule { subjects: Some(vec![Glob::new("*@d.example")]), ..rule("a", &[Source::ClientCredentials]) };
        let closed = rule("b", &[Source::ClientCredentials]);
        let policy = policy(vec![open, closed]);
        let outcome = |scope: &str, name: &str| {
            let (presented, subject) = named(name);
            decided(&policy, &request(scope, presented), subject).map(|grant| match grant.into_kind() {
                GrantKind::Issue { sub, .. } => sub.to_string(),
                GrantKind::Redeem { .. } => "redeemed".to_owned(),
            })
        };
        assert_eq!(outcome("a", "ann@d.example").unwrap(), "ann@d.example");
        assert_eq!(outcome("b", "svc:purge").unwrap(), "svc:purge");
        assert_eq!(outcome("a", "ann@e.example").unwrap_err(), Denial::SubjectNotAllowed);
        assert_eq!(outcome("b", "ann@d.example").unwrap_err(), Denial::SubjectNotAllowed);
        assert_eq!(outcome("a b", "ann@d.example").unwrap_err(), Denial::SubjectNotAllowed);
    }

    fn redeeming() -> ClientPolicy {
        let redemption = Redemption {
            issued_to: vec!["account-service".parse().unwrap()],
            min_age: DAY,
            max_age: 2 * DAY,
            max_uses: 1,
            require_record: true,
        };
        let purge = rule("account.purge", &[Source::ExpiredTxnToken]);
        policy(vec![PurposeRule { redemption: Some(redemption), ..purge }, rule("other", &[Source::TxnToken])])
    }

    fn expired(age: Duration) -> TxnClaims {
        let exp = (NOW - age).epoch();
        serde_json::from_value(serde_json::json!({
            "iat": exp - 60, "exp": exp, "aud": "d.example", "txn": "t", "sub": "u-1",
            "scope": "account.purge", "req_wl": "account-service"
        }))
        .unwrap()
    }

    fn redeem(scope: &str, claims: TxnClaims) -> Result<Grant, Denial> {
        let form = crate::request::Form::parse(
            format!(
                "grant_type={}&requested_token_type={}&audience=d.example&scope={}&subject_token=t&subject_token_type={}",
                crate::request::TOKEN_EXCHANGE,
                crate::request::TXN_TOKEN_TYPE,
                scope.replace(' ', "+"),
                crate::request::TXN_TOKEN_TYPE
            )
            .as_bytes(),
        );
        let request = TokenRequest::parse(&form.unwrap(), &"d.example".parse().unwrap()).unwrap();
        let alive = NOW.epoch() < claims.exp;
        let token = OwnToken { claims, signed_part: [0; 32], kid: "k".into(), key_state: "historical", alive };
        decided(&redeeming(), &request, VerifiedSubject::Own(Box::new(token)))
    }

    /// R-DELAY-11, A-096: both ends of the age window are inside.
    #[test]
    fn a_token_is_redeemed_within_its_age_and_not_outside() {
        assert!(redeem("account.purge", expired(DAY)).is_ok());
        assert!(redeem("account.purge", expired(2 * DAY)).is_ok());
        let second = Duration::from_secs(1);
        let young = redeem("account.purge", expired(DAY.saturating_sub(second))).unwrap_err();
        assert_eq!(young, Denial::RedemptionTooEarly { redeemable_at: NOW + second });
        let old = redeem("account.purge", expired(2 * DAY + second)).unwrap_err();
        assert_eq!(old, Denial::RedemptionTooOld { expired_at: NOW - (2 * DAY + second) });
    }

    #[test]
    fn a_live_token_is_too_early_even_where_no_age_is_asked() {
        let mut claims = expired(DAY);
        claims.exp = NOW.epoch() + 10;
        let redeemable_at = NOW + Duration::from_secs(10) + DAY;
        assert_eq!(redeem("account.purge", claims).unwrap_err(), Denial::RedemptionTooEarly { redeemable_at });
    }

    /// R-DELAY-05, A-094
    #[test]
    fn the_scope_is_the_same_single_purpose_on_every_side() {
        let other = TxnClaims { scope: "other".parse().unwrap(), ..expired(DAY) };
        assert_eq!(redeem("account.purge", other).unwrap_err(), Denial::ScopeExceedsSubjectToken);
        assert_eq!(redeem("account.purge other", expired(DAY)).unwrap_err(), Denial::ScopeExceedsSubjectToken);
        let two = TxnClaims { scope: "account.purge other".parse().unwrap(), ..expired(DAY) };
        assert_eq!(redeem("account.purge", two.clone()).unwrap_err(), Denial::RedemptionNotAllowed);
        assert_eq!(redeem("account.purge other", two).unwrap_err(), Denial::RedemptionNotAllowed);
    }

    ///
    #[test]
    fn a_token_issued_to_anyone_else_is_not_redeemed() {
        let stranger = TxnClaims { req_wl: "gateway".into(), ..expired(DAY) };
        assert_eq!(redeem("account.purge", stranger).unwrap_err(), Denial::RedemptionNotAllowed);
    }

    const PURPOSES: [&str; 3] = ["a", "b", "c"];
    const SOURCES: [Source; 4] =
        [Source::ClientCredentials, Source::AccessToken, Source::TxnToken, Source::ExpiredTxnToken];

    fn any_rule() -> impl Strategy<Value = PurposeRule> {
        let accept = proptest::sample::subsequence(&SOURCES[..], 1..=4);
        let issued_to = proptest::sample::subsequence(&["x", "y"][..], 1..=2);
        let granted_by = proptest::sample::subsequence(&PURPOSES[..], 1..=2);
        let subjects = proptest::option::of(proptest::sample::select(vec!["u-*", "v-*"]));
        let made = (proptest::sample::select(PURPOSES.to_vec()), accept, issued_to, granted_by, subjects, 1..100_u64);
        made.prop_map(|(purpose, accept, issued_to, granted_by, subjects, lifetime)| {
            let redemption = Redemption {
                issued_to: issued_to.iter().map(|client| client.parse().unwrap()).collect(),
                min_age: Duration::from_secs(10),
                max_age: DAY,
                max_uses: 1,
                require_record: true,
            };
            PurposeRule {
                lifetime: Duration::from_secs(lifetime),
                subjects: subjects.map(|pattern| vec![Glob::new(pattern)]),
                granted_by: granted_by.iter().map(|scope| scope.parse().unwrap()).collect(),
                redemption: accept.contains(&Source::ExpiredTxnToken).then_some(redemption),
                ..rule(purpose, &accept)
            }
        })
    }

    /// A source appears in one table of a purpose only, as files are checked.
    fn any_policy() -> impl Strategy<Value = ClientPolicy> {
        proptest::collection::vec(any_rule(), 0..5).prop_map(|rules| {
            let mut kept: Vec<PurposeRule> = Vec::new();
            for rule in rules {
                let clashes = |other: &PurposeRule| {
                    other.purpose == rule.purpose && other.accept.iter().any(|source| rule.accept.contains(source))
                };
                if !kept.iter().any(clashes) {
                    kept.push(rule);
                }
            }
            policy(kept)
        })
    }

    /// What is presented, as it would be verified; with what a form would say of it.
    fn any_subject() -> impl Strategy<Value = (&'static str, VerifiedSubject)> {
        let sub = || proptest::sample::select(vec!["u-1", "v-1", "svc:purge"]);
        let scope = || proptest::sample::select(vec!["a", "b", "a b", "c"]);
        let age = proptest::sample::select(vec![-30_i64, 9, 10, 86_400, 86_401]);
        let own = (scope(), sub(), age, proptest::sample::select(vec!["x", "y", "z"])).prop_map(own_token);
        prop_oneof![
            1 => Just(()).prop_map(|()| ("client", VerifiedSubject::Client)),
            1 => sub().prop_map(|sub| ("client", VerifiedSubject::Named(sub.parse().unwrap()))),
            2 => (sub(), proptest::option::of(scope())).prop_map(|(sub, scope)| {
                let until = NOW + Duration::from_secs(30);
                ("access_token", VerifiedSubject::Outside(OutsideToken::about(sub, scope, until)))
            }),
            3 => own,
        ]
    }

    fn own_token((scope, sub, age, req_wl): (&str, &str, i64, &str)) -> (&'static str, VerifiedSubject) {
        let exp = NOW.epoch().checked_add_signed(-age).unwrap();
        let claims = serde_json::json!({
            "iat": exp - 60, "exp": exp, "aud": "d.example", "txn": "t", "sub": sub, "scope": scope, "req_wl": req_wl
        });
        let alive = NOW.epoch() < exp;
        let claims = serde_json::from_value(claims).unwrap();
        let token = OwnToken { claims, signed_part: [0; 32], kid: "k".into(), key_state: "previous", alive };
        ("txn_token", VerifiedSubject::Own(Box::new(token)))
    }

    fn form(scope: &str, presented: &str) -> TokenRequest {
        use crate::request::{CLIENT_CREDENTIALS, Form, TOKEN_EXCHANGE, TXN_TOKEN_TYPE, TYPE_PREFIX};
        let (grant, token) = match presented {
            "client" => (CLIENT_CREDENTIALS, String::new()),
            kind => (TOKEN_EXCHANGE, format!("&subject_token=t&subject_token_type={TYPE_PREFIX}{kind}")),
        };
        let scope = scope.replace(' ', "+");
        let wanted = format!("requested_token_type={TXN_TOKEN_TYPE}&audience=d.example&scope={scope}");
        let form = Form::parse(format!("grant_type={grant}&{wanted}{token}").as_bytes()).unwrap();
        TokenRequest::parse(&form, &"d.example".parse().unwrap()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// R-POL-01, R-POL-02, R-POL-03: whatever is granted is written, for that very source.
        #[test]
        fn nothing_is_granted_that_is_not_written(
            policy in any_policy(),
            scope in proptest::sample::select(vec!["a", "b", "c", "a b", "b a c"]),
            (presented, subject) in any_subject(),
        ) {
            let request = form(scope, presented);
            let source = subject.source();
            let (told, sub, req_wl, exp) = match &subject {
                VerifiedSubject::Client => (None, policy.subject.clone(), None, None),
                VerifiedSubject::Named(sub) => (None, sub.clone(), None, None),
                VerifiedSubject::Outside(token) => (token.scope().cloned(), token.sub().clone(), None, None),
                VerifiedSubject::Own(token) => {
                    let claims = &token.claims;
                    let sub = claims.sub.parse().unwrap();
                    (Some(claims.scope.clone()), sub, Some(claims.req_wl.clone()), Some(claims.exp))
                }
            };
            let Ok(grant) = decided(&policy, &request, subject) else { return Ok(()) };
            prop_assert_eq!(grant.scope(), &request.scope);
            for purpose in request.scope.purposes() {
                let rule = policy.rules(purpose).find(|rule| rule.accept.contains(&source));
                let rule = rule.expect("a rule for each purpose and this source");
                prop_assert!(grant.expiry(NOW) <= NOW + rule.lifetime);
                prop_assert!(sub == policy.subject || rule.subjects.is_none() || rule.names_subject(&sub));
                match source {
                    Source::ClientCredentials => {
                        prop_assert!(sub == policy.subject || rule.names_subject(&sub));
                    }
                    Source::AccessToken => {
                        let told = told.clone().expect("a token that tells its scope");
                        prop_assert!(rule.granted_by.iter().any(|by| told.contains(by.as_str())));
                        prop_assert!(grant.expiry(NOW) <= NOW + Duration::from_secs(30));
                    }
                    _ => {
                        prop_assert_eq!(source, Source::ExpiredTxnToken, "this version replaces nothing");
                        prop_assert_eq!(told.as_ref(), Some(&request.scope));
                        prop_assert_eq!(request.scope.purposes().len(), 1);
                        let redemption = rule.redemption.as_ref().expect("a table");
                        prop_assert!(redemption.issued_to.iter().any(|id| Some(id.as_str()) == req_wl.as_deref()));
                        let age = NOW.epoch() - exp.unwrap();
                        prop_assert!((10..=86_400).contains(&age));
                    }
                }
            }
        }
    }
}
