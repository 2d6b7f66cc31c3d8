//! No chain of exchange, replacement and redemption widens anything: random policies, random chains.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use writ_verifier::{Members, Scope, TxnClaims};

use super::{ClaimsDraft, Settings};
use crate::client::{Identity, IdentityKind};
use crate::decision::{Circumstances, GrantKind, Trace, admit, decide};
use crate::ledger::{Spent, Term};
use crate::policy::condition::Condition;
use crate::policy::mapping::Mapping;
use crate::policy::schema::Schema;
use crate::policy::{Actors, ClientPolicy, Glob, PurposeRule, Redemption};
use crate::request::Source;
use crate::request::{CLIENT_CREDENTIALS, Form, TOKEN_EXCHANGE, TXN_TOKEN_TYPE, TYPE_PREFIX, TokenRequest};
use crate::subject::{AnySubject as _, AssertedSubject, OutsideToken, OwnToken, VerifiedSubject};
use writ_platform::clock::Timestamp;

const PURPOSES: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: [&str; 3] = ["x", "y", "z"];
const MEMBERS: [&str; 3] = ["m", "n", "o"];

/// One attempt to get a further token: with another client, purpose or details, some time later.
#[derive(Debug, Clone)]
struct Attempt {
    client: usize,
    scope: &'static str,
    details: Option<String>,
    context: Option<String>,
    wait: u64,
}

fn any_scope() -> impl Strategy<Value = &'static str> {
    select(vec!["a", "b", "c", "d", "a b", "b a", "a b c", "d c b a"])
}

fn any_object() -> impl Strategy<Value = Option<String>> {
    let value = select(vec!["1", "1.0", "2", "100000000000000000001", "\"s\"", "null", "{\"k\":[1]}"]);
    let member = (select(MEMBERS.to_vec()), value);
    proptest::option::of(proptest::collection::btree_map(
        select(MEMBERS.to_vec()),
        member.prop_map(|(_, value)| value),
        0..3,
    ))
    .prop_map(|object| {
        let object = object?;
        let members: Vec<_> = object.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        Some(format!("{{{}}}", members.join(",")))
    })
}

fn any_attempt() -> impl Strategy<Value = Attempt> {
    (0..3_usize, any_scope(), any_object(), any_object(), select(vec![0_u64, 5, 20, 70, 200, 1000]))
        .prop_map(|(client, scope, details, context, wait)| Attempt { client, scope, details, context, wait })
}

fn any_rule() -> impl Strategy<Value = PurposeRule> {
    let accept = subsequence(&Source::ALL[..], 1..=8);
    let fixed = select(vec!["{}", "{\"m\":1}", "{\"n\":\"s\",\"o\":2}"]);
    let mapping = (subsequence(&MEMBERS[..], 0..=3), fixed, subsequence(&MEMBERS[..], 0..=3), any::<bool>());
    let when = proptest::option::weighted(0.2, select(vec!["details == details", "subject.sub != 'u-2'"]));
    (select(PURPOSES.to_vec()), accept, mapping, subsequence(&PURPOSES[..], 1..=3), any::<bool>(), 1..300_u64, when)
        .prop_map(|(purpose, accept, (copy, fixed, rctx, claim), granted_by, outlive, lifetime, when)| PurposeRule {
            purpose: purpose.parse().unwrap(),
            line: 1,
            lines: std::collections::BTreeMap::new(),
            lifetime: Duration::from_secs(lifetime),
            subjects: Some(vec![Glob::new("u-*")]),
            granted_by: granted_by.iter().map(|scope| scope.parse().unwrap()).collect(),
            mapping: Mapping {
                schema: Some(Arc::new(Schema::parse(b"{}").unwrap())),
                tctx_copy: copy.iter().map(|&name| name.to_owned()).collect(),
                tctx_fixed: serde_json::from_str(fixed).unwrap(),
                tctx_subject: claim.then(|| ("o".to_owned(), "level".to_owned())).into_iter().collect(),
                rctx_copy: rctx.iter().map(|&name| name.to_owned()).collect(),
            },
            when: when.map(|when| Arc::new(Condition::compile(when).unwrap())),
            outlive,
            actors: Actors::Refused,
            pdp: false,
            redemption: accept.contains(&Source::ExpiredTxnToken).then(|| Redemption {
                issued_to: CLIENTS.iter().map(|client| client.parse().unwrap()).collect(),
                min_age: Duration::ZERO,
                max_age: Duration::from_secs(100_000),
                max_uses: 3,
                require_record: true,
            }),
            accept,
        })
}

/// A policy as files produce it: no source is in two tables of one purpose.
fn any_policies() -> impl Strategy<Value = Vec<ClientPolicy>> {
    let purposes = proptest::collection::vec(any_rule(), 2..8);
    proptest::collection::vec(purposes, 3).prop_map(|all| {
        let clients = CLIENTS.iter().zip(all);
        clients
            .map(|(client, rules)| {
                let mut purposes: Vec<PurposeRule> = Vec::new();
                for mut rule in rules {
                    let others: Vec<_> = purposes.iter().filter(|other| other.purpose == rule.purpose).collect();
                    rule.accept.retain(|source| !others.iter().any(|other| other.accept.contains(source)));
                    if !rule.accept.is_empty() {
                        purposes.push(rule);
                    }
                }
                ClientPolicy {
                    client_id: client.parse().unwrap(),
                    description: None,
                    identity: Identity::parse(IdentityKind::SanUri, &format!("spiffe://d.example/{client}")).unwrap(),
                    subject: format!("svc:{client}").parse().unwrap(),
                    introspect: false,
                    subject_token_audience: Vec::new(),
                    vouches_for_bound_tokens: false,
                    opaque_tokens_from: None,
                    keys: None,
                    purposes,
                }
            })
            .collect()
    })
}

/// The start of a transaction: the scopes of a subject token, or the client's own assertion.
fn any_beginning() -> impl Strategy<Value = (Source, Option<&'static str>)> {
    prop_oneof![
        proptest::option::weighted(0.9, any_scope()).prop_map(|scope| (Source::AccessToken, scope)),
        select(vec![Source::SelfSigned, Source::UnsignedJson, Source::ClientCredentials])
            .prop_map(|source| (source, None)),
    ]
}

fn request(attempt: &Attempt, source: Source) -> TokenRequest {
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let grant = match source {
        Source::ClientCredentials => format!("grant_type={CLIENT_CREDENTIALS}&requested_subject=u-1"),
        other => {
            let kind = if other == Source::ExpiredTxnToken { Source::TxnToken } else { other }.name();
            format!("grant_type={TOKEN_EXCHANGE}&subject_token=0paque&subject_token_type={TYPE_PREFIX}{kind}")
        }
    };
    let scope = encoded(attempt.scope);
    let mut form = format!("{grant}&requested_token_type={TXN_TOKEN_TYPE}&audience=d.example&scope={scope}");
    for (name, value) in [("request_details", &attempt.details), ("request_context", &attempt.context)] {
        form.extend(value.iter().map(|value| format!("&{name}={}", encoded(value))));
    }
    TokenRequest::parse(&Form::parse(form.as_bytes()).unwrap(), &"d.example".parse().unwrap()).unwrap()
}

fn try_for(
    policies: &[ClientPolicy],
    attempt: &Attempt,
    subject: VerifiedSubject,
    now: Timestamp,
) -> Option<(TxnClaims, Source)> {
    let (policy, source) = (&policies[attempt.client], subject.source());
    let request = request(attempt, source);
    let mut trace = Trace::default();
    let asked = admit(policy, &request, &mut trace).ok()?;
    let at = Circumstances { now, max_replacements: 4 };
    let grant = decide(&asked, subject, at, &mut trace).ok()?;
    let redeems = matches!(grant.kind(), GrantKind::Redeem { .. });
    let spent = redeems.then_some(Spent { use_number: 1, retry: false });
    let term = Term::for_tests(now, grant.expiry(now), spent);
    let settings = Settings {
        trust_domain: "d.example".parse().unwrap(),
        issuer: "https://tts.d.example".into(),
        include_iss: true,
        max_size: 4096,
        max_replacements: 4,
    };
    let claims = ClaimsDraft::new(grant.into(), now, &settings).and_then(|draft| draft.complete(term));
    let claims = claims.expect("readable claims");
    Some((TxnClaims::parse(claims.payload()).expect("claims of a Txn-Token"), source))
}

/// The purposes that a start allows at most: those that its scopes map to in the policy of the presenting client.
fn allowed(policy: &ClientPolicy, source: Source, covered: Option<&str>) -> Vec<String> {
    let covered: Option<Scope> = covered.map(|scope| scope.parse().unwrap());
    let grants = |rule: &&PurposeRule| match source {
        Source::AccessToken => {
            covered.as_ref().is_some_and(|covered| rule.granted_by.iter().any(|by| covered.contains(by.as_str())))
        }
        _ => true,
    };
    let rules = policy.purposes.iter().filter(|rule| rule.accept.contains(&source)).filter(grants);
    rules.map(|rule| rule.purpose.to_string()).collect()
}

/// Every member of `before` is in `after`, digit for digit.
fn kept(before: &Members, after: &Members) -> bool {
    before.iter().all(|(name, value)| after.raw(name) == Some(value))
}

fn subject(source: Source, covered: Option<&str>, now: Timestamp) -> VerifiedSubject {
    let until = now + Duration::from_secs(400);
    match source {
        Source::ClientCredentials => VerifiedSubject::named("u-1"),
        Source::AccessToken => OutsideToken::about("u-1", covered, until).into(),
        other => AssertedSubject::about(other, "u-1", Some(until)).into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// R-SUBJ-20, R-SUBJ-21, R-SUBJ-22, R-DELAY-14, R-DELAY-15, A-098, A-110: no later token of a transaction has what its
    /// first subject token did not allow; its subject and its context never change.
    #[test]
    fn no_chain_widens_a_transaction(
        policies in any_policies(),
        (source, covered) in any_beginning(),
        first in any_attempt(),
        attempts in proptest::collection::vec(any_attempt(), 1..12),
    ) {
        let mut now = Timestamp::now(); // the `txn` of a new transaction contains its time
        let Some((beginning, _)) = try_for(&policies, &first, subject(source, covered, now), now) else { return Ok(()) };
        let allowed = allowed(&policies[first.client], source, covered);
        prop_assert!(beginning.scope.purposes().iter().all(|purpose| allowed.contains(&purpose.to_string())));
        let began = beginning.iat;
        let mut tokens = vec![beginning];
        for attempt in &attempts {
            now = now + Duration::from_secs(attempt.wait);
            // The latest token or any earlier one: a client that stores tokens can choose.
            let before = tokens[attempt.details.as_ref().map_or(tokens.len() - 1, |text| text.len() % tokens.len())].clone();
            let alive = now.epoch() < before.exp;
            // A redeemed token never gets this far: verification refuses it.
            if before.delayed() != Ok(None) {
                continue;
            }
            let own = OwnToken::unverified(before.clone(), alive);
            let Some((after, _)) = try_for(&policies, attempt, own.into(), now) else { continue };
            prop_assert!(after.scope.purposes().iter().all(|purpose| before.scope.contains(purpose.as_str())));
            prop_assert!(after.scope.purposes().iter().all(|purpose| allowed.contains(&purpose.to_string())));
            prop_assert_eq!(
                (&after.txn, &after.sub, &after.aud),
                (&before.txn, &before.sub, &before.aud)
            );
            prop_assert!(kept(&before.tctx, &after.tctx) && kept(&before.rctx, &after.rctx));
            let mut chain = if before.req_wl_chain.is_empty() { vec![before.req_wl.clone()] } else { before.req_wl_chain };
            chain.push(CLIENTS[attempt.client].to_owned());
            prop_assert_eq!(&after.req_wl_chain, &chain);
            prop_assert_eq!(Some(&after.req_wl), chain.last());
            prop_assert!(chain.len() <= 6, "four replacements and a redemption at most");
            if alive {
                prop_assert!(after.delayed() == Ok(None) && after.exp <= began + 901);
            } else {
                prop_assert_eq!(&after.scope, &before.scope);
                prop_assert_eq!(&after.tctx, &before.tctx);
                prop_assert!(after.delayed().is_ok_and(|delayed| delayed.is_some()));
            }
            tokens.push(after);
        }
    }
}

/// The property above would hold of policies that grant nothing, too.
#[test]
fn many_chains_go_on() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (any_policies(), any_beginning(), any_attempt(), any_attempt());
    let (replaced, redeemed) = (Cell::new(0), Cell::new(0));
    runner
        .run(&strategy, |(policies, (source, covered), first, second)| {
            let now = Timestamp::now();
            let Some((claims, _)) = try_for(&policies, &first, subject(source, covered, now), now) else {
                return Ok(());
            };
            let later = now + Duration::from_secs(second.wait);
            let alive = later.epoch() < claims.exp;
            let own = OwnToken::unverified(claims, alive);
            let second = Attempt { scope: first.scope, details: None, context: None, ..second };
            if try_for(&policies, &second, own.into(), later).is_some() {
                let count = if alive { &replaced } else { &redeemed };
                count.set(count.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(replaced.get() > 0 && redeemed.get() > 0, "{replaced:?} replaced, {redeemed:?} redeemed");
}
