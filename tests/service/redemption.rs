//! An expired Txn-Token is redeemed for a fresh one (CONTRACT 3.5; area DELAY; A-091 to A-109, A-112).

use std::collections::BTreeSet;

use serde_json::json;

use crate::scene::{self, ACCOUNTS, PURGE, batch, batch_living, delayed, delayed_briefly, expired, fresh, redeem};
use crate::support::answer::{Answer, Issued};
use crate::support::issuer::Issuer;
use crate::support::jose::{self, Key};
use crate::support::workload::{FORM, Form};
use crate::support::writ::{Setup, Writ, client_policy};
use crate::support::{ISSUER, eventually, now, wait_until};

const DAY: u64 = 24 * 3600;

/// Presents the token as `batch`.
fn try_redeem(writ: &Writ, original: &Issued) -> Answer {
    writ.workload("batch").token(&redeem(original))
}

/// `exp` of the original in a refusal that names it.
fn instant(refusal: &crate::support::answer::Refused, name: &str) -> u64 {
    refusal.answer[name].as_u64().unwrap_or_else(|| panic!("{name} is missing: {}", refusal.answer))
}

/// R-DELAY-15, R-DELAY-16, R-DELAY-17
#[test]
fn the_redeemed_token_carries_the_transaction_on() {
    let writ = delayed("").start();
    let form = Form::client_credentials(PURGE).set("requested_subject", "alice@trust-domain.example");
    let original = writ.workload("accounts").token(&form).issued();
    original.wait_until_expired();
    let redeemed = try_redeem(&writ, &original).issued();
    assert_eq!(
        redeemed.claims,
        json!({
            "iss": ISSUER, "iat": redeemed.iat(), "exp": redeemed.iat() + 60, "aud": "trust-domain.example",
            "txn": original.txn(), "sub": "alice@trust-domain.example", "scope": PURGE,
            "req_wl": "batch", "req_wl_chain": ["accounts", "batch"],
            "rctx": {"delayed": {"iat": original.iat(), "exp": original.exp(), "use": 1}},
        })
    );
    assert!(redeemed.iat() >= original.exp());
}

/// R-DELAY-15: the client's access token is long gone; what it started goes on.
#[test]
fn a_transaction_that_began_with_an_access_token_is_redeemed() {
    let issuer = Issuer::start();
    let accounts = format!(
        "[[purpose]]\nscope = \"{PURGE}\"\naccept = [\"access_token\"]\ngranted_by = [\"cancel\"]\nlifetime = \"1s\"\n"
    );
    let writ = Setup::new().issuer(&issuer).client("accounts", &accounts).client("batch", &batch("")).start();
    let token = issuer.access_token().claim("scope", "cancel").mint();
    let original = writ.workload("accounts").token(&Form::exchange(&token, PURGE)).issued();
    original.wait_until_expired();
    let redeemed = try_redeem(&writ, &original).issued();
    assert_eq!((redeemed.claims["sub"].as_str(), redeemed.txn()), (Some("alice"), original.txn()));
}

/// CONTRACT 3.3
#[test]
fn the_original_says_until_when_it_can_be_redeemed() {
    let writ = delayed("").start();
    let original = expired(&writ);
    assert_eq!(original.answer["redeemable_until"], original.exp() + 90 * DAY);
    assert_eq!(try_redeem(&writ, &original).issued().answer.get("redeemable_until"), None);
}

/// CONTRACT 3.3: the largest `max_age` of all who may.
#[test]
fn the_longest_right_to_redeem_counts() {
    let later = batch("").replace("90d", "100d");
    let writ = delayed("").client("later", &later).start();
    let original = fresh(&writ);
    assert_eq!(original.answer["redeemable_until"], original.exp() + 100 * DAY);
}

/// CONTRACT 3.5: only a single purpose, and only the one that the table is for.
#[test]
fn a_token_for_other_purposes_cannot_be_redeemed() {
    let writ = delayed("").start();
    let ask = |scope: &str| writ.workload("accounts").token(&Form::client_credentials(scope)).issued();
    for scope in ["account.rename", "account.purge account.rename"] {
        assert_eq!(ask(scope).answer.get("redeemable_until"), None, "{scope}");
    }
}

/// R-DELAY-12: once by default.
#[test]
fn a_token_is_redeemed_once_by_default() {
    let writ = delayed_briefly("").start();
    let original = expired(&writ);
    try_redeem(&writ, &original).issued().wait_until_expired();
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// R-DELAY-12
#[test]
fn a_token_is_redeemed_as_often_as_the_policy_says() {
    let writ = delayed_briefly("max_uses = 3").start();
    let original = expired(&writ);
    for use_number in 1..=3 {
        let redeemed = try_redeem(&writ, &original).issued();
        assert_eq!(redeemed.use_number(), Some(use_number));
        assert_eq!(redeemed.txn(), original.txn());
        redeemed.wait_until_expired();
    }
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// R-DELAY-13, A-101: a lost answer costs nothing.
#[test]
fn a_repeated_request_gets_the_very_same_claims() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    for _ in 0..3 {
        let again = try_redeem(&writ, &original).issued();
        assert_eq!((&again.claims, again.answer.get("expires_at")), (&first.claims, first.answer.get("expires_at")));
    }
}

/// CONTRACT 3.5: `expires_in` is what remains.
#[test]
fn a_repeated_request_tells_what_remains() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    wait_until(first.iat() + 2);
    let remains = try_redeem(&writ, &original).issued().answer["expires_in"].as_u64().unwrap();
    assert!(remains <= 58, "{remains}");
}

/// R-DELAY-13: free retries are not counted.
#[test]
fn repeated_requests_spend_no_use() {
    let writ = delayed_briefly("max_uses = 2").start();
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    let mut last = first.clone();
    while now() < first.exp() {
        if let Ok(answer) = writ.workload("batch").try_token(&redeem(&original)) {
            last = answer.issued();
        }
    }
    first.wait_until_expired();
    let second = if last.use_number() == Some(2) { last } else { try_redeem(&writ, &original).issued() };
    assert_eq!(second.use_number(), Some(2));
    second.wait_until_expired();
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

fn two_jobs(redemption: &str) -> Writ {
    delayed(redemption).client("other-batch", &batch(redemption)).start()
}

/// CONTRACT 3.5: uses are counted over all clients.
#[test]
fn a_second_client_opens_no_new_uses() {
    let writ = two_jobs("");
    let original = expired(&writ);
    try_redeem(&writ, &original).issued();
    writ.workload("other-batch").token(&redeem(&original)).invalid_request("redemption_exhausted");
}

/// CONTRACT 3.5: a use by another client ends the free retry.
#[test]
fn a_use_by_another_client_ends_the_free_retry() {
    let writ = two_jobs("max_uses = 2");
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    let second = writ.workload("other-batch").token(&redeem(&original)).issued();
    assert_eq!((first.use_number(), second.use_number()), (Some(1), Some(2)));
    assert_eq!(second.claims["req_wl_chain"], json!(["accounts", "other-batch"]));
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
    let again = writ.workload("other-batch").token(&redeem(&original)).issued();
    assert_eq!(again.claims, second.claims);
}

/// CONTRACT 3.5: below the asking client's own `max_uses`.
#[test]
fn each_client_is_held_to_its_own_number_of_uses() {
    let writ = delayed("").client("other-batch", &batch("max_uses = 2")).start();
    let original = expired(&writ);
    assert_eq!(writ.workload("other-batch").token(&redeem(&original)).issued().use_number(), Some(1));
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// Transactions are counted apart.
#[test]
fn uses_of_one_transaction_are_not_those_of_another() {
    let writ = delayed("").start();
    let (one, other) = (fresh(&writ), expired(&writ));
    one.wait_until_expired();
    assert_eq!(try_redeem(&writ, &one).issued().use_number(), Some(1));
    assert_eq!(try_redeem(&writ, &other).issued().use_number(), Some(1));
}

/// R-DELAY-11
#[test]
fn a_live_token_is_too_early() {
    let accounts = ACCOUNTS.replace("lifetime = \"1s\"", "lifetime = \"60s\"");
    let writ = Setup::new().client("accounts", &accounts).client("batch", &batch("")).start();
    let original = fresh(&writ);
    let refused = try_redeem(&writ, &original).invalid_request("redemption_too_early");
    assert_eq!(instant(&refused, "redeemable_at"), original.exp());
}

/// R-DELAY-11
#[test]
fn a_token_can_have_to_wait() {
    let writ = delayed("min_age = \"3s\"").start();
    let original = expired(&writ);
    let refused = try_redeem(&writ, &original).invalid_request("redemption_too_early");
    assert_eq!(instant(&refused, "redeemable_at"), original.exp() + 3);
    wait_until(original.exp() + 3);
    try_redeem(&writ, &original).issued();
}

/// A-096
#[test]
fn a_token_can_become_too_old() {
    let writ = Setup::new().client("accounts", ACCOUNTS).client("batch", &batch("").replace("90d", "2s")).start();
    let original = fresh(&writ);
    assert_eq!(original.answer["redeemable_until"], original.exp() + 2);
    wait_until(original.exp() + 2);
    let at_the_limit = try_redeem(&writ, &original);
    if now() == original.exp() + 2 {
        at_the_limit.issued();
    }
    wait_until(original.exp() + 3);
    let refused = try_redeem(&writ, &original).invalid_request("redemption_too_old");
    assert_eq!(instant(&refused, "expired_at"), original.exp());
}

/// A-092, R-DELAY-02
#[test]
fn a_client_that_takes_no_txn_tokens_is_told_so() {
    let writ = delayed("").client("mailer", scene::MAILER).start();
    let original = expired(&writ);
    writ.workload("accounts").token(&redeem(&original)).unauthorized_client("source_not_allowed");
    writ.workload("mailer").token(&redeem(&original)).invalid_scope("purpose_not_allowed");
}

fn reader() -> String {
    format!("[[purpose]]\nscope = \"{PURGE}\"\naccept = [\"txn_token\"]\n")
}

/// A-092, R-DELAY-02: without a redemption table Writ is strict.
#[test]
fn an_expired_token_is_expired_for_everybody_else() {
    let writ = delayed("").client("reader", &reader()).start();
    let original = expired(&writ);
    let refused = writ.workload("reader").token(&redeem(&original)).invalid_request("subject_token_expired");
    assert_eq!(instant(&refused, "expired_at"), original.exp());
}

fn with_short_keys(redemption: &str) -> Setup {
    Setup::new().client("accounts", ACCOUNTS).client("batch", &batch_living("1s", redemption)).short_keys(3600)
}

/// A-092, R-DELAY-02: neither the feature nor the archive can be probed.
#[test]
fn a_retired_key_is_unknown_to_everybody_else() {
    let writ = with_short_keys("").client("reader", &reader()).start();
    let original = expired(&writ);
    writ.rotate();
    writ.workload("reader").token(&redeem(&original)).invalid_request("subject_token_expired");
    writ.rotate();
    let retired = writ.workload("reader").token(&redeem(&original)).invalid_request("subject_token_key_unknown");
    let foreign = Key::es256("never-ours");
    let (header, claims) =
        (json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "never-ours"}), original.claims.to_string());
    let form = Form::redeem(&foreign.token(&header.to_string(), &claims), PURGE);
    let unknown = writ.workload("reader").token(&form).invalid_request("subject_token_key_unknown");
    assert_eq!(retired.answer, unknown.answer);
}

/// A-093
#[test]
fn a_token_of_another_client_is_not_redeemed() {
    let writ = delayed("").client("intruder", ACCOUNTS).start();
    let issued = writ.workload("intruder").token(&Form::client_credentials(PURGE)).issued();
    assert_eq!(issued.answer.get("redeemable_until"), None);
    issued.wait_until_expired();
    try_redeem(&writ, &issued).unauthorized_client("redemption_not_allowed");
}

/// A-093
#[test]
fn a_client_without_a_policy_redeems_nothing() {
    let writ = delayed("").start();
    let original = expired(&writ);
    writ.workload("nobody").token(&redeem(&original)).invalid_client("client_unknown");
}

/// CONTRACT 3.5
#[test]
fn a_token_with_several_purposes_is_not_redeemed() {
    let writ = delayed("").start();
    let form = Form::client_credentials("account.purge account.rename");
    let original = writ.workload("accounts").token(&form).issued();
    original.wait_until_expired();
    try_redeem(&writ, &original).unauthorized_client("redemption_not_allowed");
}

/// A-094, R-DELAY-05
#[test]
fn another_scope_than_the_tokens_is_refused_and_counts_nothing() {
    let two = format!("{}{}", batch(""), batch("").replace(PURGE, "account.rename"));
    let writ = Setup::new().client("accounts", ACCOUNTS).client("batch", &two).start();
    let original = expired(&writ);
    let ask = |scope: &str| writ.workload("batch").token(&Form::redeem(&original.token, scope));
    ask("account.rename").invalid_scope("scope_exceeds_subject_token");
    ask("account.purge account.rename").invalid_scope("scope_exceeds_subject_token");
    ask("account.close").invalid_scope("purpose_not_allowed");
    ask("account").invalid_scope("purpose_not_allowed");
    assert_eq!(ask(PURGE).issued().use_number(), Some(1));
}

/// A-095
#[test]
fn what_would_change_the_transaction_is_refused_and_counts_nothing() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let ask = |name: &str, value: &str| writ.workload("batch").token(&redeem(&original).set(name, value));
    ask("request_details", "{}").invalid_request("parameter_unsupported");
    ask("request_context", r#"{"delayed":{"use":9}}"#).invalid_request("parameter_unsupported");
    ask("requested_subject", "mallory").invalid_request("parameter_unsupported");
    ask("actor_token", "x").invalid_request("parameter_unsupported");
    ask("audience", "other.example").refused(400, "invalid_target", "audience_unknown");
    ask("resource", "https://other.example").refused(400, "invalid_target", "resource_unsupported");
    assert_eq!(try_redeem(&writ, &original).issued().use_number(), Some(1));
}

/// A-096, A-098, R-DELAY-14: looked at before any time.
#[test]
fn a_redeemed_token_is_never_redeemed() {
    let writ =
        delayed_briefly("max_uses = 3\n").client("chain", &batch("").replace("\"accounts\"", "\"batch\"")).start();
    let redeemed = try_redeem(&writ, &expired(&writ)).issued();
    for client in ["batch", "chain"] {
        writ.workload(client).token(&redeem(&redeemed)).unauthorized_client("redemption_not_allowed");
    }
    redeemed.wait_until_expired();
    for client in ["batch", "chain"] {
        writ.workload(client).token(&redeem(&redeemed)).unauthorized_client("redemption_not_allowed");
    }
}

/// A-097: an ECDSA signature has a second valid form; it is the same token.
#[test]
fn a_changed_signature_opens_no_new_use() {
    let writ = delayed_briefly("").start();
    let original = expired(&writ);
    let mut twin = original.clone();
    twin.token = jose::malleate(&original.token);
    assert_ne!(twin.token, original.token);
    let first = try_redeem(&writ, &original).issued();
    let answer = try_redeem(&writ, &twin);
    if now() < first.exp() {
        assert_eq!(answer.issued().claims, first.claims);
    }
    first.wait_until_expired();
    try_redeem(&writ, &twin).invalid_request("redemption_exhausted");
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// A-052, A-097
#[test]
fn another_spelling_of_the_token_is_refused() {
    let writ = delayed("").start();
    let original = expired(&writ);
    for token in [format!("{}=", original.token), format!("{} ", original.token), format!("{}.x", original.token)] {
        writ.workload("batch").token(&Form::redeem(&token, PURGE)).invalid_request("subject_token_malformed");
    }
    try_redeem(&writ, &original).issued();
}

/// R-DELAY-07
#[test]
fn a_forged_token_is_refused() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let forger = Key::es256(original.kid());
    let forge = |claims: &serde_json::Value| forger.token(&original.header.to_string(), &claims.to_string());
    let mut other = original.claims.clone();
    other["sub"] = json!("mallory");
    let (signed_part, _) = original.token.rsplit_once('.').unwrap();
    let (header, _) = signed_part.split_once('.').unwrap();
    let own = forge(&other);
    let mixed = format!("{header}.{}", own.split_once('.').unwrap().1);
    for token in [own.as_str(), &forge(&original.claims), &mixed, &format!("{signed_part}.{}", "A".repeat(86))] {
        let answer = writ.workload("batch").token(&Form::redeem(token, PURGE));
        answer.invalid_request("subject_token_signature_invalid");
    }
}

/// A-112
#[test]
fn a_token_of_another_installation_is_refused() {
    let (writ, twin) = (delayed("").start(), delayed("").start());
    let foreign = expired(&twin);
    try_redeem(&writ, &foreign).invalid_request("subject_token_key_unknown");
}

/// A-064
#[test]
fn an_access_token_is_no_txn_token() {
    let issuer = Issuer::start();
    let writ = delayed("").issuer(&issuer).start();
    let retyped = issuer.access_token().header("typ", "txntoken+jwt").mint();
    for token in [issuer.access_token().mint(), retyped] {
        let answer = writ.workload("batch").token(&Form::redeem(&token, PURGE));
        let reason = answer.reason();
        assert!(["subject_token_malformed", "subject_token_key_unknown"].contains(&reason.as_str()), "{reason}");
        answer.invalid_request(&reason);
    }
}

/// A-105, R-DELAY-08
#[test]
fn tokens_of_current_previous_and_historical_keys_are_redeemed() {
    let writ = with_short_keys("max_uses = 3").start();
    let original = expired(&writ);
    for (state, listed) in [("current", true), ("previous", true), ("historical", false)] {
        assert_eq!(writ.key_state(original.kid()).as_deref(), Some(state));
        let redeemed = try_redeem(&writ, &original).issued();
        let audit = writ.audit_of(&redeemed.request_id);
        assert_eq!(audit["key_state"], state);
        let is_listed = writ.site().jwks().iter().any(|jwk| jwk["kid"] == original.kid());
        assert_eq!(is_listed, listed, "A-107: {state}");
        redeemed.wait_until_expired();
        writ.rotate();
    }
}

/// A-105, A-116, R-DELAY-08
#[test]
fn tokens_of_a_revoked_key_are_not_redeemed() {
    let writ = with_short_keys("max_uses = 9").start();
    let original = expired(&writ);
    try_redeem(&writ, &original).issued();
    writ.run(&["keys", "revoke", original.kid()]).exits(0);
    eventually("the revocation is in force", || {
        let answer = try_redeem(&writ, &original);
        (answer.status() != 200).then(|| answer.invalid_request("redemption_key_gone"))
    });
    let newer = expired(&writ);
    assert_ne!(newer.kid(), original.kid());
    try_redeem(&writ, &newer).issued();
}

/// A-105: gone, which is another thing than never ours.
#[test]
fn tokens_of_a_key_past_retention_are_not_redeemed() {
    let writ = Setup::new()
        .client("accounts", ACCOUNTS)
        .client("batch", &batch_living("1s", "").replace("90d", "1s"))
        .short_keys(3)
        .set("keys.retention", "4s")
        .start();
    let original = expired(&writ);
    eventually("the key leaves the history", || {
        let answer = try_redeem(&writ, &original);
        let reason = answer.reason();
        assert!(
            ["-", "redemption_exhausted", "redemption_too_old", "redemption_key_gone"].contains(&reason.as_str()),
            "{reason}"
        );
        (reason == "redemption_key_gone").then(|| answer.invalid_request("redemption_key_gone"))
    });
}

/// What many clients at once got: distinct sets of claims, and nothing but these refusals.
fn distinct(answers: Vec<Answer>) -> BTreeSet<String> {
    let mut sets = BTreeSet::new();
    for answer in answers {
        if answer.status() == 200 {
            sets.insert(answer.issued().claims.to_string());
        } else {
            answer.invalid_request("redemption_exhausted");
        }
    }
    sets
}

fn at_once(writ: &Writ, clients: &[&str], original: &Issued, count: usize) -> Vec<Answer> {
    let form = redeem(original);
    let clients: Vec<_> = clients.iter().map(|client| writ.workload(client)).collect();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..count)
            .map(|index| {
                scope.spawn({
                    let (client, form) = (&clients[index % clients.len()], &form);
                    move || client.token(form)
                })
            })
            .collect();
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A-099
#[test]
fn sixty_four_at_once_get_one_set_of_claims() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let answers = at_once(&writ, &["batch"], &original, 64);
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!(distinct(answers).len(), 1);
}

/// A-099
#[test]
fn parallel_requests_over_time_get_as_many_sets_as_there_are_uses() {
    let writ = delayed_briefly("max_uses = 3").start();
    let original = expired(&writ);
    let mut sets = BTreeSet::new();
    eventually("all uses are spent", || {
        let round = distinct(at_once(&writ, &["batch"], &original, 16));
        let is_spent = round.is_empty();
        sets.extend(round);
        is_spent.then_some(())
    });
    assert_eq!(sets.len(), 3, "{sets:?}");
}

/// A-099: clients that compete share the uses.
#[test]
fn competing_clients_never_get_more_sets_than_there_are_uses() {
    let writ = two_jobs("max_uses = 3");
    let original = expired(&writ);
    let mut sets = BTreeSet::new();
    for _ in 0..4 {
        sets.extend(distinct(at_once(&writ, &["batch", "other-batch"], &original, 32)));
    }
    assert_eq!(sets.len(), 3, "{sets:?}");
}

/// A-099: several on one connection.
#[test]
fn requests_on_one_connection_are_no_different() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let mut session = writ.workload("batch").connect();
    let answers = (0..8).map(|_| session.token(&redeem(&original))).collect();
    assert_eq!(distinct(answers).len(), 1);
}

/// R-DELAY-13
#[test]
fn a_restart_forgets_no_use() {
    let mut writ = delayed_briefly("").start();
    let original = expired(&writ);
    try_redeem(&writ, &original).issued().wait_until_expired();
    writ.restart();
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// A-100: what was counted stays counted, and what was promised is kept.
#[test]
fn a_killed_server_forgets_no_use_and_repeats_the_very_same_claims() {
    let mut writ = delayed("").start();
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    writ.kill();
    writ.start();
    assert_eq!(try_redeem(&writ, &original).issued().claims, first.claims);
}

/// A-100: a record is durable before the token leaves.
#[test]
fn a_killed_server_forgets_no_record() {
    let mut writ = delayed("").start();
    let original = fresh(&writ);
    writ.kill();
    original.wait_until_expired();
    writ.start();
    try_redeem(&writ, &original).issued();
}

/// A-038: a client that goes away leaves nothing half done.
#[test]
fn a_client_that_goes_away_loses_no_use() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let body = redeem(&original).encode();
    let request = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for length in [request.len(), request.len() - 1, request.len(), request.len() / 2] {
        let mut session = writ.workload("batch").connect();
        session.connection.send(&request.as_bytes()[..length]).unwrap();
    }
    let redeemed = try_redeem(&writ, &original).issued();
    assert_eq!(redeemed.use_number(), Some(1));
    let told = |line: &serde_json::Value| line["event"] == "token_issued" && line["use"] == 1;
    assert!(writ.audit().iter().any(told));
}

/// R-DELAY-10: what was issued before anybody could redeem it is not on record.
#[test]
fn a_token_without_a_record_is_refused() {
    let writ = Setup::new().client("accounts", ACCOUNTS).start();
    let original = fresh(&writ);
    assert_eq!(original.answer.get("redeemable_until"), None);
    writ.change_client("batch", &batch("max_uses = 9"));
    original.wait_until_expired();
    try_redeem(&writ, &original).invalid_request("redemption_not_on_record");
    let later = expired(&writ);
    try_redeem(&writ, &later).issued();
}

/// CONTRACT 3.5
#[test]
fn a_purpose_may_do_without_records() {
    let writ = Setup::new().client("accounts", ACCOUNTS).start();
    let original = fresh(&writ);
    writ.change_client("batch", &batch("require_record = false"));
    original.wait_until_expired();
    assert_eq!(try_redeem(&writ, &original).issued().use_number(), Some(1));
}

/// CONTRACT 3.5
#[test]
fn doing_without_records_is_warned_about() {
    let setup = delayed("require_record = false");
    let problems = setup.run(&["check", "--json"]).exits(0).json();
    let warning = problems["problems"].as_array().unwrap().iter().find(|problem| problem["severity"] == "warning");
    assert!(warning.unwrap().to_string().contains("batch"), "{problems}");
    setup
        .start()
        .wait_for_log("the warning", |line| line["level"] == "WARN" && line.to_string().contains("require_record"));
}

/// A-108
#[test]
fn lowering_the_uses_takes_effect_at_once() {
    let writ = delayed_briefly("max_uses = 3").start();
    let original = expired(&writ);
    for _ in 0..2 {
        try_redeem(&writ, &original).issued().wait_until_expired();
    }
    writ.change_client("batch", &batch_living("1s", "max_uses = 2"));
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// A-108
#[test]
fn raising_the_uses_counts_the_old_ones() {
    let writ = delayed_briefly("").start();
    let original = expired(&writ);
    try_redeem(&writ, &original).issued().wait_until_expired();
    writ.change_client("batch", &batch_living("1s", "max_uses = 2"));
    let second = try_redeem(&writ, &original).issued();
    assert_eq!(second.use_number(), Some(2));
    second.wait_until_expired();
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// A-091: every path runs today's policy.
#[test]
fn a_right_that_is_taken_away_is_gone() {
    let writ = delayed("max_uses = 9").start();
    let original = expired(&writ);
    writ.change_client("batch", "");
    try_redeem(&writ, &original).invalid_scope("purpose_not_allowed");
    writ.change_policy("batch.toml", None);
    try_redeem(&writ, &original).invalid_client("client_unknown");
    writ.change_client("batch", &batch(""));
    try_redeem(&writ, &original).issued();
}

/// A-091: the free retry too.
#[test]
fn a_free_retry_obeys_todays_policy() {
    let writ = delayed("").start();
    let original = expired(&writ);
    try_redeem(&writ, &original).issued();
    writ.change_client("batch", &batch("").replace("accounts", "somebody-else"));
    try_redeem(&writ, &original).unauthorized_client("redemption_not_allowed");
}

/// A-103, A-104: an attacker burns no uses.
#[test]
fn refused_attempts_of_others_count_nothing() {
    let thief = batch("").replace("\"accounts\"", "\"elsewhere\"");
    let writ = delayed("").client("thief", &thief).client("reader", &reader()).start();
    let original = expired(&writ);
    for client in ["thief", "reader", "accounts", "nobody"] {
        for _ in 0..5 {
            assert_ne!(writ.workload(client).token(&redeem(&original)).status(), 200, "{client}");
        }
    }
    assert_eq!(try_redeem(&writ, &original).issued().use_number(), Some(1));
}

/// A-103, CONTRACT 7: globs bind Txn-Tokens too.
#[test]
fn a_subject_outside_the_patterns_is_refused_and_counts_nothing() {
    let narrow =
        batch("").replace("[purpose.redemption]", "subjects = [\"*@trust-domain.example\"]\n[purpose.redemption]");
    let writ = Setup::new().client("accounts", ACCOUNTS).client("batch", &narrow).start();
    let original = expired(&writ);
    try_redeem(&writ, &original).unauthorized_client("subject_not_allowed");
    writ.change_client("batch", &batch(""));
    assert_eq!(try_redeem(&writ, &original).issued().use_number(), Some(1));
}

/// CONTRACT 3.5: the presented token is measured by what was in force when it was signed.
#[test]
fn an_old_token_is_measured_by_what_was_in_force() {
    let mut writ = delayed("").start();
    let form = Form::client_credentials(PURGE).set("requested_subject", &"a".repeat(200));
    let original = writ.workload("accounts").token(&form).issued();
    let size = i64::try_from(original.token.len()).unwrap();
    writ.setup.change("issuer", "https://tts.elsewhere.example");
    writ.setup.change("tokens.max_size", size);
    writ.restart();
    original.wait_until_expired();
    let redeemed = try_redeem(&writ, &original).issued();
    assert_eq!(redeemed.claims["iss"], "https://tts.elsewhere.example");
    assert!(redeemed.token.len() > original.token.len(), "max_size is not applied to a redeemed token");
}

/// CONTRACT 3.5: lifetimes that shrank since do not make old tokens too long.
#[test]
fn a_token_of_a_longer_lifetime_than_today_is_redeemed() {
    let accounts = ACCOUNTS.replace("1s", "4s");
    let mut writ = Setup::new().client("accounts", &accounts).client("batch", &batch_living("2s", "")).start();
    let original = fresh(&writ);
    writ.setup.write("policies/accounts.toml", &client_policy("accounts", ACCOUNTS));
    writ.setup.change("tokens.max_lifetime", "2s");
    writ.setup.change("tokens.lifetime", "2s");
    writ.restart();
    original.wait_until_expired();
    try_redeem(&writ, &original).issued();
}

/// R-DELAY-21, CONTRACT 10
#[test]
fn a_redemption_is_audited() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let redeemed = try_redeem(&writ, &original).issued();
    let line = writ.audit_of(&redeemed.request_id);
    assert_eq!(line["event"], "token_issued");
    assert_eq!(
        (line["client"].as_str(), line["source"].as_str(), line["scope"].as_str()),
        (Some("batch"), Some("expired_txn_token"), Some(PURGE))
    );
    assert_eq!((line["txn"].as_str(), line["use"].as_u64()), (Some(original.txn()), Some(1)));
    assert_eq!(line["delayed_by"], redeemed.iat() - original.exp());
    assert_eq!(line["key_state"], "current");
    assert!(line.get("retry").is_none_or(|retry| retry == false), "{line}");
    let again = try_redeem(&writ, &original).issued();
    let line = writ.audit_of(&again.request_id);
    assert_eq!((&line["retry"], line["use"].as_u64()), (&json!(true), Some(1)));
}

/// R-DELAY-21
#[test]
fn a_refused_redemption_is_audited_and_counted() {
    let writ = delayed("min_age = \"1d\"").start();
    let original = expired(&writ);
    let refused = try_redeem(&writ, &original).invalid_request("redemption_too_early");
    let line = writ.audit_of(&refused.request_id);
    assert_eq!(
        (line["event"].as_str(), line["reason"].as_str(), line["source"].as_str()),
        (Some("token_refused"), Some("redemption_too_early"), Some("expired_txn_token"))
    );
    let labels = [
        ("client", "batch"),
        ("source", "expired_txn_token"),
        ("outcome", "refused"),
        ("reason", "redemption_too_early"),
    ];
    assert_eq!(writ.metric("writ_token_requests_total", &labels), Some(1.0));
}

/// R-DELAY-13: the retry is signed by the key that is current then.
#[test]
fn a_free_retry_survives_a_rotation() {
    let writ = Setup::new()
        .client("accounts", ACCOUNTS)
        .client("batch", &batch_living("60s", ""))
        .set("tokens.jwks_max_age", "1s")
        .set("tokens.max_lifetime", "60s")
        .start();
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    // no `--wait`: the second promotion would have to wait for the first key's tokens
    eventually("the first promotion", || (writ.run(&["keys", "rotate"]).code == 0).then_some(()));
    let again = try_redeem(&writ, &original).issued();
    assert_eq!(again.claims, first.claims);
    assert_ne!(again.kid(), first.kid());
}
