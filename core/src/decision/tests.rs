use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;
use writ_verifier::{Members, TxnClaims};

use super::*;
use crate::client::{Identity, IdentityKind};
use crate::policy::condition::Condition;
use crate::policy::mapping::{Mapping, Rejection};
use crate::policy::schema::Schema;
use crate::policy::{Actors, ClientPolicy, Glob, PurposeRule, Redemption};
use crate::request::{Presented, Source, Subject, TokenRequest};
use crate::subject::{AnySubject as _, AssertedSubject, OutsideToken, OwnToken, SubjectKind, VerifiedSubject};
use writ_platform::clock::Timestamp;

const NOW: Timestamp = Timestamp::from_epoch(1_790_000_000);
const AT: Circumstances = Circumstances { now: NOW, max_replacements: 4 };
const DAY: Duration = Duration::from_secs(86_400);

fn rule(purpose: &str, accept: &[Source]) -> PurposeRule {
    PurposeRule {
        purpose: purpose.parse().unwrap(),
        line: 1,
        lines: BTreeMap::new(),
        lifetime: Duration::from_secs(60),
        accept: accept.to_vec(),
        subjects: None,
        granted_by: Vec::new(),
        mapping: Mapping::default(),
        when: None,
        outlive: false,
        actors: Actors::Refused,
        pdp: false,
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
        opaque_tokens_from: None,
        keys: None,
        purposes,
    }
}

fn request(scope: &str, presented: Presented) -> TokenRequest {
    TokenRequest { scope: scope.parse().unwrap(), presented, details: None, context: None }
}

fn decided(policy: &ClientPolicy, request: &TokenRequest, subject: VerifiedSubject) -> Result<Grant, Denial> {
    let mut trace = Trace::default();
    let asked = admit(policy, request, &mut trace)?;
    let outcome = decide(&asked, subject, AT, &mut trace);
    let last = trace.applied_rules().last().expect("a decision applies rules");
    assert_eq!(last.passed, outcome.is_ok(), "the last rule is the one that decided: {last:?}");
    outcome
}

fn named(name: &str) -> (Presented, VerifiedSubject) {
    let subject: Subject = name.parse().unwrap();
    (Presented::Named(subject.clone()), VerifiedSubject::named(name))
}

/// R-POL-12: each applied rule has its line and what it compared.
#[test]
fn the_trace_shows_what_was_compared_and_where() {
    let lines = BTreeMap::from([("accept".to_owned(), 5), ("subjects".to_owned(), 6)]);
    let named_only = PurposeRule {
        subjects: Some(vec![Glob::new("u-*"), Glob::new("v-*")]),
        line: 3,
        lines,
        ..rule("a", &[Source::ClientCredentials, Source::TxnToken])
    };
    let policy = policy(vec![named_only]);
    let traced = |scope: &str, (presented, subject): (Presented, VerifiedSubject)| {
        let (mut trace, request) = (Trace::default(), request(scope, presented));
        let outcome = admit(&policy, &request, &mut trace).and_then(|asked| decide(&asked, subject, AT, &mut trace));
        let last = trace.applied_rules().last().unwrap();
        assert_eq!(last.passed, outcome.is_ok());
        (last.rule, last.line, last.detail)
    };
    let told = |rule, line, detail: &str| (rule, line, detail.to_owned());
    assert_eq!(traced("a", named("v-1")), told("subjects", Some(6), "v-1 fits v-*"));
    assert_eq!(traced("a", named("w-1")), told("subjects", Some(6), "w-1 does not fit u-* or v-*"));
    assert_eq!(traced("a", named("svc:purge")), told("subject", None, "svc:purge is the client itself"));
    assert_eq!(traced("b", named("u-1")), told("scope", None, "b is not a purpose of this policy"));
    let signed = (form("a", "self_signed").presented, VerifiedSubject::client());
    let detail = "a accepts client_credentials or txn_token, not self_signed";
    assert_eq!(traced("a", signed), told("accept", Some(5), detail));
}

/// R-POL-01, A-079
#[test]
fn what_is_not_written_is_not_allowed() {
    let policy = policy(vec![rule("a", &[Source::AccessToken])]);
    let own = || VerifiedSubject::client();
    let refused = decided(&policy, &request("b", Presented::Client), own()).unwrap_err();
    assert_eq!(refused, Denial::PurposeNotAllowed);
    assert_eq!(decided(&policy, &request("a", Presented::Client), own()).unwrap_err(), Denial::SourceNotAllowed);
}

/// A-081
#[test]
fn one_purpose_refused_refuses_all() {
    let policy = policy(vec![rule("a", &[Source::ClientCredentials]), rule("b", &[Source::AccessToken])]);
    let subject = VerifiedSubject::client();
    let refused = decided(&policy, &request("a b", Presented::Client), subject).unwrap_err();
    assert_eq!(refused, Denial::SourceNotAllowed);
}

#[test]
fn several_purposes_live_as_long_as_the_shortest() {
    let brief = PurposeRule { lifetime: Duration::from_secs(5), ..rule("b", &[Source::ClientCredentials]) };
    let policy = policy(vec![rule("a", &[Source::ClientCredentials]), brief]);
    let grant = decided(&policy, &request("a b", Presented::Client), VerifiedSubject::client()).unwrap();
    assert_eq!(grant.expiry(NOW), NOW + Duration::from_secs(5));
}

#[test]
fn the_decision_point_is_asked_about_the_purposes_that_want_it() {
    let wanting = |purpose| PurposeRule { pdp: true, ..rule(purpose, &[Source::ClientCredentials]) };
    let policy = policy(vec![wanting("a"), rule("b", &[Source::ClientCredentials]), wanting("c")]);
    let asks = |scope: &str| {
        let grant = decided(&policy, &request(scope, Presented::Client), VerifiedSubject::client()).unwrap();
        grant.asks_pdp().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(asks("c b a"), ["c", "a"]);
    assert!(asks("b").is_empty());
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
        decided(&policy, &request(scope, presented), subject).map(|grant| grant.sub().to_owned())
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
    redeem_by(&redeeming(), scope, claims)
}

fn redeem_by(policy: &ClientPolicy, scope: &str, claims: TxnClaims) -> Result<Grant, Denial> {
    let request = form(scope, "txn_token");
    let alive = NOW.epoch() < claims.exp;
    let token = OwnToken::unverified(claims, alive);
    decided(policy, &request, token.into())
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

/// A-093
#[test]
fn a_token_issued_to_anyone_else_is_not_redeemed() {
    let stranger = TxnClaims { req_wl: "gateway".into(), ..expired(DAY) };
    assert_eq!(redeem("account.purge", stranger).unwrap_err(), Denial::RedemptionNotAllowed);
}

fn live(scope: &str, chain: &[&str]) -> OwnToken {
    let began = NOW.epoch() - 30;
    let claims = serde_json::json!({
        "iat": began, "exp": NOW.epoch() + 30, "aud": "d.example", "txn": txn(began), "sub": "u-1", "scope": scope,
        "req_wl": "gateway", "req_wl_chain": chain, "rctx": {"req_ip": "192.0.2.1"}
    });
    let mut claims: TxnClaims = serde_json::from_value(claims).unwrap();
    claims.tctx = serde_json::from_str(r#"{"amount":0.10}"#).unwrap();
    OwnToken::unverified(claims, true)
}

fn replaced(rule: PurposeRule, request: &TokenRequest, token: OwnToken) -> Result<Grant, Denial> {
    decided(&policy(vec![rule]), request, token.into())
}

fn asking(scope: &str) -> TokenRequest {
    form(scope, "txn_token")
}

/// R-SUBJ-20, R-SUBJ-21
#[test]
fn a_replacement_asks_for_no_more_than_the_token_has() {
    let rule = || rule("a", &[Source::TxnToken]);
    let grant = replaced(rule(), &asking("a"), live("b a", &[])).unwrap();
    assert_eq!((grant.scope().to_string().as_str(), grant.sub()), ("a", "u-1"));
    let refused = replaced(rule(), &asking("a"), live("b", &[])).unwrap_err();
    assert_eq!(refused, Denial::ScopeExceedsSubjectToken);
    let bound = PurposeRule { subjects: Some(vec![Glob::new("v-*")]), ..rule() };
    assert_eq!(replaced(bound, &asking("a"), live("a", &[])).unwrap_err(), Denial::SubjectNotAllowed);
}

/// R-SUBJ-25, A-110
#[test]
fn a_replacement_ends_with_the_token_or_with_its_transaction() {
    let long = |outlive| PurposeRule { lifetime: Duration::from_secs(870), outlive, ..rule("a", &[Source::TxnToken]) };
    let ends = |outlive| replaced(long(outlive), &asking("a"), live("a", &[])).unwrap().expiry(NOW).since(NOW);
    assert_eq!(ends(false), Duration::from_secs(30));
    assert_eq!(ends(true), Duration::from_secs(870), "fifteen minutes after it began");
    let mut old = live("a", &[]);
    old.claims_mut().txn = txn(NOW.epoch() - 900);
    assert_eq!(replaced(long(true), &asking("a"), old).unwrap_err(), Denial::ReplacementLimit);
    let mut strange = live("a", &[]);
    strange.claims_mut().txn = "t-1".to_owned();
    assert_eq!(replaced(long(true), &asking("a"), strange).unwrap_err(), Denial::ReplacementLimit);
}

/// R-SUBJ-24, R-SUBJ-25, A-110
#[test]
fn the_fifth_replacement_is_one_too_many() {
    let outcome = |chain: &[&str]| replaced(rule("a", &[Source::TxnToken]), &asking("a"), live("a", chain)).map(drop);
    assert_eq!(outcome(&["a", "b", "c", "gateway"]), Ok(()));
    assert_eq!(outcome(&["a", "b", "c", "d", "gateway"]), Err(Denial::ReplacementLimit));
}

fn details(request: TokenRequest, text: &str) -> TokenRequest {
    let details = Members::parse(text, writ_verifier::json::Limits::DEFAULT).unwrap();
    TokenRequest { details: Some(details), ..request }
}

/// R-SUBJ-22, A-110
#[test]
fn a_replacement_may_add_members_and_change_none() {
    let schema = Schema::parse(b"{\"required\":[\"amount\"]}").unwrap();
    let copying = |fixed: &str| {
        let mapping = Mapping {
            schema: Some(Arc::new(Schema::parse(b"{}").unwrap())),
            tctx_copy: vec!["amount".into(), "note".into()],
            tctx_fixed: serde_json::from_str(fixed).unwrap(),
            tctx_subject: vec![("level".into(), "level".into())],
            ..Mapping::default()
        };
        PurposeRule { mapping, ..rule("a", &[Source::TxnToken]) }
    };
    let tctx = |rule, request: &TokenRequest| -> Result<String, Denial> {
        let carried = replaced(rule, request, live("a", &[]))?.carried().clone();
        Ok(serde_json::to_string(&carried.tctx).unwrap())
    };
    let added = tctx(copying("{}"), &details(asking("a"), r#"{"amount":0.1,"note":"n"}"#)).unwrap();
    assert_eq!(added, r#"{"amount":0.10,"note":"n"}"#, "no claim is copied from a Txn-Token");
    let changed = tctx(copying("{}"), &details(asking("a"), r#"{"amount":0.2}"#)).unwrap_err();
    assert_eq!(changed, Denial::DetailsRejected(Rejection::TwoValues("amount".into())));
    let fixed = tctx(copying(r#"{"amount":1}"#), &asking("a")).unwrap_err();
    assert_eq!(fixed, Denial::DetailsRejected(Rejection::TwoValues("amount".into())));
    // A transaction that has its details does not need them again.
    let mut strict = copying("{}");
    strict.mapping.schema = Some(Arc::new(schema));
    assert!(tctx(strict.clone(), &asking("a")).is_ok());
    assert!(tctx(strict, &details(asking("a"), "{}")).is_err());
}

fn with_condition(rule: PurposeRule, when: &str) -> PurposeRule {
    PurposeRule { when: Some(Arc::new(Condition::compile(when).unwrap())), ..rule }
}

/// CONTRACT 7: what a condition sees on each path.
#[test]
fn a_condition_sees_the_request_and_on_a_redemption_what_is_carried() {
    let issue = |when: &str| {
        let mapping = Mapping { schema: Some(Arc::new(Schema::parse(b"{}").unwrap())), ..Mapping::default() };
        let rule = with_condition(PurposeRule { mapping, ..rule("a", &[Source::ClientCredentials]) }, when);
        let request = details(request("a", Presented::Client), r#"{"n":1}"#);
        decided(&policy(vec![rule]), &request, VerifiedSubject::client()).map(drop)
    };
    assert_eq!(issue("details.n == 1 && client == 'purge-job' && subject.sub == 'svc:purge'"), Ok(()));
    assert_eq!(issue("details.n == 2"), Err(Denial::ConditionFailed));
    assert_eq!(issue("has(subject.claims.iss)"), Err(Denial::ConditionFailed));
    let replace = |when: &str| {
        replaced(with_condition(rule("a", &[Source::TxnToken]), when), &asking("a"), live("a", &[])).map(drop)
    };
    assert_eq!(replace("details == {} && subject.claims.tctx.amount == 0.1 && 'a' in scope"), Ok(()));
    let redeem = |when: &str| {
        let mut policy = redeeming();
        policy.purposes = policy.purposes.into_iter().map(|rule| with_condition(rule, when)).collect();
        let claims = TxnClaims { tctx: serde_json::from_str(r#"{"n":7}"#).unwrap(), ..expired(DAY) };
        redeem_by(&policy, "account.purge", claims).map(drop)
    };
    assert_eq!(redeem("details.n == 7 && subject.claims.req_wl == 'account-service'"), Ok(()));
    assert_eq!(redeem("details.n == 8"), Err(Denial::ConditionFailed));
}

/// CONTRACT 7: one member, two values.
#[test]
fn purposes_of_one_request_must_agree_on_each_member() {
    let fixed = |purpose: &str, members: &str| {
        let mapping = Mapping { tctx_fixed: serde_json::from_str(members).unwrap(), ..Mapping::default() };
        PurposeRule { mapping, ..rule(purpose, &[Source::ClientCredentials]) }
    };
    let outcome = |one: &str, other: &str| -> Result<String, Denial> {
        let policy = policy(vec![fixed("a", one), fixed("b", other)]);
        let grant = decided(&policy, &request("a b", Presented::Client), VerifiedSubject::client())?;
        Ok(serde_json::to_string(&grant.carried().tctx).unwrap())
    };
    assert_eq!(outcome(r#"{"x":1}"#, r#"{"y":2,"x":1.0}"#).unwrap(), r#"{"x":1,"y":2}"#);
    let refused = Denial::DetailsRejected(Rejection::TwoValues("x".into()));
    assert_eq!(outcome(r#"{"x":1}"#, r#"{"x":2}"#), Err(refused));
}

const PURPOSES: [&str; 3] = ["a", "b", "c"];
const SOURCES: [Source; 6] = [
    Source::ClientCredentials,
    Source::SelfSigned,
    Source::UnsignedJson,
    Source::AccessToken,
    Source::TxnToken,
    Source::ExpiredTxnToken,
];

fn any_rule() -> impl Strategy<Value = PurposeRule> {
    let accept = proptest::sample::subsequence(&SOURCES[..], 1..=6);
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
        1 => Just(()).prop_map(|()| ("client", VerifiedSubject::client())),
        1 => sub().prop_map(|sub| ("client", VerifiedSubject::named(sub))),
        2 => (sub(), proptest::option::of(scope())).prop_map(|(sub, scope)| {
            let until = NOW + Duration::from_secs(30);
            ("access_token", OutsideToken::about(sub, scope, until).into())
        }),
        2 => (sub(), any::<bool>(), any::<bool>()).prop_map(|(sub, signs, ends)| {
            let source = if signs { Source::SelfSigned } else { Source::UnsignedJson };
            let until = (signs || ends).then(|| NOW + Duration::from_secs(30));
            (source.name(), AssertedSubject::about(source, sub, until).into())
        }),
        4 => own,
    ]
}

fn own_token((scope, sub, age, req_wl): (&str, &str, i64, &str)) -> (&'static str, VerifiedSubject) {
    let exp = NOW.epoch().checked_add_signed(-age).unwrap();
    let claims = serde_json::json!({
        "iat": exp - 60, "exp": exp, "aud": "d.example", "txn": txn(exp - 60), "sub": sub, "scope": scope,
        "req_wl": req_wl
    });
    let alive = NOW.epoch() < exp;
    let claims = serde_json::from_value(claims).unwrap();
    let token = OwnToken::unverified(claims, alive);
    ("txn_token", token.into())
}

/// A transaction that began then.
fn txn(began: u64) -> String {
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, began, 0)).to_string()
}

fn form(scope: &str, presented: &str) -> TokenRequest {
    use crate::request::{CLIENT_CREDENTIALS, Form, TOKEN_EXCHANGE, TXN_TOKEN_TYPE, TYPE_PREFIX};
    let (grant, token) = match presented {
        "client" => (CLIENT_CREDENTIALS, String::new()),
        kind => (TOKEN_EXCHANGE, format!("&subject_token=0paque&subject_token_type={TYPE_PREFIX}{kind}")),
    };
    let scope = scope.replace(' ', "+");
    let wanted = format!("requested_token_type={TXN_TOKEN_TYPE}&audience=d.example&scope={scope}");
    let form = Form::parse(format!("grant_type={grant}&{wanted}{token}").as_bytes()).unwrap();
    TokenRequest::parse(&form, &"d.example".parse().unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// R-POL-01, R-POL-02, R-POL-03: every grant is written in the policy, for that source.
    #[test]
    fn nothing_is_granted_that_is_not_written(
        policy in any_policy(),
        scope in proptest::sample::select(vec!["a", "b", "c", "a b", "b a c"]),
        (presented, subject) in any_subject(),
    ) {
        let request = form(scope, presented);
        let source = subject.source();
        let (told, sub, req_wl, exp) = match subject.kind() {
            SubjectKind::Client => (None, policy.subject.clone(), None, None),
            SubjectKind::Named(sub) => (None, sub.clone(), None, None),
            SubjectKind::Asserted(asserted) => (None, asserted.sub().clone(), None, asserted.usable_until().map(Timestamp::epoch)),
            SubjectKind::Outside(token) => (token.scope().cloned(), token.sub().clone(), None, None),
            SubjectKind::Own(token) => {
                let claims = token.claims();
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
            prop_assert!(sub == policy.subject || rule.subjects.is_none() || rule.matching_pattern(&sub).is_some());
            match source {
                Source::ClientCredentials | Source::UnsignedJson | Source::SelfSigned => {
                    prop_assert!(sub == policy.subject || rule.matching_pattern(&sub).is_some());
                    prop_assert!(exp.is_none_or(|exp| grant.expiry(NOW).epoch() <= exp));
                }
                Source::AccessToken => {
                    let told = told.clone().expect("a token that tells its scope");
                    prop_assert!(rule.granted_by.iter().any(|by| told.contains(by.as_str())));
                    prop_assert!(grant.expiry(NOW) <= NOW + Duration::from_secs(30));
                }
                Source::TxnToken => {
                    prop_assert!(told.as_ref().is_some_and(|told| told.contains(purpose.as_str())));
                    prop_assert!(exp.is_some_and(|exp| grant.expiry(NOW).epoch() <= exp));
                }
                _ => {
                    prop_assert_eq!(source, Source::ExpiredTxnToken);
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
