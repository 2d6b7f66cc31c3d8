//! An expired Txn-Token is redeemed for a fresh one (CONTRACT 3.5; A-091 to A-109, A-112; area DELAY). How blocks
//! stop it is tested in `blocks`, what a policy may say of it in `policies`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::scene::{self, ACCOUNTS, PURGE, batch, batch_living, delayed, delayed_briefly, expired, fresh, redeem};
use crate::support::answer::{Answer, Issued};
use crate::support::issuer::Issuer;
use crate::support::jose::{self, Key};
use crate::support::pki::{self, Credentials};
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

/// R-DELAY-15: the access token that started it is not needed any more.
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

/// R-DELAY-13, A-101: a lost answer costs nothing.
#[test]
fn a_repeated_request_gets_the_very_same_claims() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    for _ in 0..3 {
        let again = try_redeem(&writ, &original).issued();
        assert_eq!((&again.claims, again.answer.get("expires_at")), (&first.claims, first.answer.get("expires_at")));
        let line = writ.audit_of(&again.request_id);
        assert_eq!((&line["retry"], line["use"].as_u64()), (&json!(true), Some(1)));
    }
}

/// CONTRACT 3.5: `expires_in` is what remains.
#[test]
fn a_repeated_request_returns_the_remaining_lifetime() {
    let writ = delayed("").start();
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    wait_until(first.iat() + 1);
    let remains = try_redeem(&writ, &original).issued().answer["expires_in"].as_u64().unwrap();
    assert!(remains <= 59, "{remains}");
}

/// R-DELAY-13: free retries are not counted.
#[test]
fn repeated_requests_spend_no_use() {
    let other = batch("max_uses = 2");
    let writ = delayed_briefly("max_uses = 2").client("other-batch", &other).start();
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
    by(&writ, "other-batch", &original.token).invalid_request("redemption_exhausted");
}

fn two_jobs(redemption: &str) -> Writ {
    delayed(redemption).client("other-batch", &batch(redemption)).start()
}

fn reader() -> String {
    format!("[[purpose]]\nscope = \"{PURGE}\"\naccept = [\"txn_token\"]\n")
}

fn with_short_keys(redemption: &str) -> Setup {
    Setup::new().client("accounts", ACCOUNTS).client("batch", &batch_living("1s", redemption)).shortest_keys(3600)
}

/// A-093
#[test]
fn a_client_without_a_policy_redeems_nothing() {
    let writ = delayed("").start();
    let original = expired(&writ);
    writ.workload("nobody").token(&redeem(&original)).invalid_client("client_unknown");
}

/// A-095, R-DELAY-15: whatever the details and the context say (CONTRACT 3.5).
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

/// A-096, A-098, R-DELAY-14: that is checked before any time.
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
        if state != "historical" {
            redeemed.wait_until_expired();
            writ.rotate();
        }
    }
}

/// A-105: `redemption_key_gone`, which is not the reason of a key that was never known.
#[test]
fn tokens_of_a_key_past_retention_are_not_redeemed() {
    let writ = Setup::new()
        .client("accounts", ACCOUNTS)
        .client("batch", &batch_living("1s", "").replace("90d", "1s"))
        .shortest_keys(2)
        .set("keys.retention", "3s")
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

/// The distinct sets of claims among these answers; all other answers are `redemption_exhausted`.
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

/// A-099, R-DELAY-13: clients that compete share the uses.
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

/// A-108
#[test]
fn lowering_the_uses_takes_effect_at_once() {
    let writ = two_jobs("max_uses = 3");
    let original = expired(&writ);
    assert_eq!(try_redeem(&writ, &original).issued().use_number(), Some(1));
    assert_eq!(by(&writ, "other-batch", &original.token).issued().use_number(), Some(2));
    writ.change_client("batch", &batch("max_uses = 2"));
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// A-108, CONTRACT 3.5: each client is held to its own number of uses, of all clients together.
#[test]
fn raising_the_uses_counts_the_old_ones() {
    let writ = two_jobs("");
    let original = expired(&writ);
    try_redeem(&writ, &original).issued();
    by(&writ, "other-batch", &original.token).invalid_request("redemption_exhausted");
    writ.change_client("other-batch", &batch("max_uses = 2"));
    assert_eq!(by(&writ, "other-batch", &original.token).issued().use_number(), Some(2));
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
    writ.change_client("batch", &batch("max_uses = 2"));
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// A-091: the current policy applies.
#[test]
fn a_right_that_is_removed_is_gone_at_once() {
    let writ = delayed("max_uses = 9").start();
    let original = expired(&writ);
    writ.change_client("batch", "");
    try_redeem(&writ, &original).invalid_scope("purpose_not_allowed");
    writ.change_policy("batch.toml", None);
    try_redeem(&writ, &original).invalid_client("client_unknown");
    writ.change_client("batch", &batch(""));
    try_redeem(&writ, &original).issued();
}

/// A-091: to a free retry too.
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

/// A-103, CONTRACT 7: `subjects` restricts Txn-Tokens too.
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

/// CONTRACT 3.5: the presented token is checked against the settings that were in force when it was signed.
#[test]
fn an_old_token_is_judged_by_the_settings_of_its_time() {
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

/// CONTRACT 3.5: a shorter `max_lifetime` does not make older tokens invalid.
#[test]
fn a_token_of_a_longer_lifetime_than_today_is_redeemed() {
    let accounts = ACCOUNTS.replace("1s", "3s");
    let mut writ = Setup::new().client("accounts", &accounts).client("batch", &batch_living("2s", "")).start();
    let original = fresh(&writ);
    writ.setup.write("policies/accounts.toml", &client_policy("accounts", ACCOUNTS));
    writ.setup.change("tokens.max_lifetime", "2s");
    writ.setup.change("tokens.lifetime", "2s");
    writ.restart();
    original.wait_until_expired();
    try_redeem(&writ, &original).issued();
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

/// Takes Txn-Tokens for the purpose, and has no right to redeem; beside that the same as `delayed`.
fn with_reader(redemption: &str) -> Setup {
    delayed(redemption).client("reader", &reader())
}

/// `client` presents the token.
fn by(writ: &Writ, client: &str, token: &str) -> Answer {
    writ.workload(client).token(&Form::redeem(token, PURGE))
}

/// A-092, R-DELAY-01
#[test]
fn redemption_is_off_until_a_policy_turns_it_on_and_the_start_says_so() {
    let mut writ = Setup::new().client("accounts", ACCOUNTS).client("batch", &reader()).start();
    try_redeem(&writ, &expired(&writ)).invalid_request("subject_token_expired");
    assert!(!writ.log_text().contains("redemption"));
    writ.setup.write("policies/batch.toml", &client_policy("batch", &batch("")));
    writ.restart();
    writ.wait_for_log("the deviation", |line| {
        let text = line.to_string();
        line["level"] == "WARN" && text.contains("\"batch\"") && text.contains("TT 6, 13.15")
    });
    try_redeem(&writ, &expired(&writ)).issued();
}

/// A-092, R-DELAY-02: neither the feature nor the archive can be probed.
#[test]
fn a_client_without_the_right_finds_neither_the_feature_nor_the_archive() {
    let writ = with_short_keys("").client("reader", &reader()).start();
    let original = expired(&writ);
    writ.rotate();
    let refused = by(&writ, "reader", &original.token).invalid_request("subject_token_expired");
    assert_eq!(instant(&refused, "expired_at"), original.exp());
    writ.rotate();
    let archived = by(&writ, "reader", &original.token).invalid_request("subject_token_key_unknown");
    let never_ours = json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "never-ours"});
    let foreign = Key::es256("never-ours").token(&never_ours.to_string(), &original.claims.to_string());
    assert_eq!(by(&writ, "reader", &foreign).invalid_request("subject_token_key_unknown").answer, archived.answer);
    try_redeem(&writ, &original).issued();
}

/// A-092, A-093, R-DELAY-02, R-DELAY-03
#[test]
fn a_redemption_names_clients_and_its_purpose_exactly() {
    let writ = delayed("").client("accounts-2", ACCOUNTS).client("mailer", scene::MAILER).start();
    let theirs = writ.workload("accounts-2").token(&Form::client_credentials(PURGE)).issued();
    assert_eq!(theirs.answer.get("redeemable_until"), None);
    let original = expired(&writ);
    theirs.wait_until_expired();
    try_redeem(&writ, &theirs).unauthorized_client("redemption_not_allowed");
    by(&writ, "accounts", &original.token).unauthorized_client("source_not_allowed");
    by(&writ, "mailer", &original.token).invalid_scope("purpose_not_allowed");
    writ.change_client("batch", &batch("").replace(PURGE, "account.*"));
    try_redeem(&writ, &original).invalid_scope("purpose_not_allowed");
}

/// A-094, R-DELAY-05; CONTRACT 3.5: a token for several purposes is never redeemed.
#[test]
fn another_scope_than_the_tokens_is_refused_and_counts_nothing() {
    let two = format!("{}{}", batch(""), batch("").replace(PURGE, "account.rename"));
    let writ = Setup::new().client("accounts", ACCOUNTS).client("batch", &two).start();
    let several = writ.workload("accounts").token(&Form::client_credentials("account.purge account.rename")).issued();
    let original = expired(&writ);
    let ask = |token: &Issued, scope: &str| writ.workload("batch").token(&Form::redeem(&token.token, scope));
    ask(&original, "account.rename").invalid_scope("scope_exceeds_subject_token");
    ask(&original, "account.purge account.rename").invalid_scope("scope_exceeds_subject_token");
    ask(&original, "account.close").invalid_scope("purpose_not_allowed");
    ask(&original, "account").invalid_scope("purpose_not_allowed");
    several.wait_until_expired();
    ask(&several, PURGE).unauthorized_client("redemption_not_allowed");
    assert_eq!(ask(&original, PURGE).issued().use_number(), Some(1));
}

/// A-052, A-064, A-097, A-112, R-DELAY-07: unit tests cover what only a key of this service could sign.
#[test]
fn everything_but_the_expiry_is_checked() {
    let issuer = Issuer::start();
    let (writ, other) = (delayed("").issuer(&issuer).start(), delayed("").start());
    let (foreign, original) = (fresh(&other), expired(&writ));
    let (signed, _) = original.token.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let forger = Key::es256(original.kid());
    let sign = |header: &Value, claims: &Value| forger.token(&header.to_string(), &claims.to_string());
    let mut later = original.claims.clone();
    later["exp"] = json!(original.exp() + 1);
    let mut stranger = original.claims.clone();
    stranger["sub"] = json!("mallory");
    let mut retyped = original.header.clone();
    retyped["typ"] = json!("JWT");
    let forged = sign(&original.header, &stranger);
    foreign.wait_until_expired();
    for (token, reason) in [
        (format!("{signed}.{}", "A".repeat(86)), "subject_token_signature_invalid"),
        (sign(&original.header, &original.claims), "subject_token_signature_invalid"),
        (sign(&original.header, &later), "subject_token_signature_invalid"),
        (format!("{header}.{}", forged.split_once('.').unwrap().1), "subject_token_signature_invalid"),
        (forged, "subject_token_signature_invalid"),
        (sign(&retyped, &original.claims), "subject_token_malformed"),
        (format!("{}=", original.token), "subject_token_malformed"),
        (format!("{} ", original.token), "subject_token_malformed"),
        (format!("{}.x", original.token), "subject_token_malformed"),
        (foreign.token, "subject_token_key_unknown"),
        (issuer.access_token().mint(), "subject_token_malformed"),
        (issuer.access_token().header("typ", "txntoken+jwt").mint(), "subject_token_key_unknown"),
    ] {
        by(&writ, "batch", &token).invalid_request(reason);
    }
    let elsewhere = redeem(&original).set("audience", "other.example");
    writ.workload("batch").token(&elsewhere).refused(400, "invalid_target", "audience_unknown");
    assert_eq!(try_redeem(&writ, &original).issued().use_number(), Some(1));
}

/// A-105, A-116, R-DELAY-08: that a revoked key which signs redeems nothing is tested in `keys`.
#[test]
fn a_compromised_key_redeems_nothing_though_it_is_archived() {
    let writ = with_short_keys("max_uses = 9").start();
    let original = expired(&writ);
    try_redeem(&writ, &original).issued().wait_until_expired();
    writ.rotate();
    writ.rotate();
    writ.run(&["keys", "revoke", original.kid()]).exits(0);
    try_redeem(&writ, &original).invalid_request("redemption_key_gone");
    let newer = expired(&writ);
    assert_ne!(newer.kid(), original.kid());
    try_redeem(&writ, &newer).issued();
}

/// R-DELAY-10: what was issued before anybody could redeem it is not on record.
#[test]
fn a_token_that_is_not_on_record_is_refused_by_default() {
    let writ = Setup::new().client("accounts", ACCOUNTS).client("batch", &reader()).start();
    let unrecorded = fresh(&writ);
    assert_eq!(unrecorded.answer.get("redeemable_until"), None);
    writ.change_client("batch", &batch(""));
    let recorded = expired(&writ);
    unrecorded.wait_until_expired();
    try_redeem(&writ, &unrecorded).invalid_request("redemption_not_on_record");
    try_redeem(&writ, &recorded).issued();
    writ.change_client("batch", &batch("require_record = false"));
    assert_eq!(try_redeem(&writ, &unrecorded).issued().use_number(), Some(1));
    // The record is of the signed part: an ECDSA signature has a second valid form.
    let twin = jose::malleate(&recorded.token);
    assert_ne!(twin, recorded.token);
    by(&writ, "batch", &twin).issued();
}

/// R-DELAY-10
#[test]
fn doing_without_records_is_warned_about() {
    let setup = delayed("require_record = false");
    let problems = setup.run(&["check", "--json"]).exits(0).json();
    let [problem] = &problems["problems"].as_array().unwrap()[..] else { panic!("{problems}") };
    assert_eq!(problem["severity"], "warning");
    assert!(problem["key"].as_str().unwrap().ends_with("require_record"), "{problem}");
    assert!(problem.to_string().contains("batch"), "{problem}");
    setup
        .start()
        .wait_for_log("the warning", |line| line["level"] == "WARN" && line.to_string().contains("require_record"));
}

/// A-096, R-DELAY-11: and the answer says from when, or since when.
#[test]
fn a_token_is_redeemed_from_min_age_to_max_age() {
    let writ = delayed("min_age = \"1d\"").start();
    let original = expired(&writ);
    let refused = try_redeem(&writ, &original).invalid_request("redemption_too_early");
    assert_eq!(instant(&refused, "redeemable_at"), original.exp() + DAY);
    writ.change_client("batch", &batch("min_age = \"1s\""));
    wait_until(original.exp() + 1);
    try_redeem(&writ, &original).issued();
    writ.change_client("batch", &batch("").replace("90d", "2s"));
    let young = fresh(&writ);
    assert_eq!(young.answer["redeemable_until"], young.exp() + 2);
    let at_the_limit = try_redeem(&writ, &original);
    if now() <= original.exp() + 2 {
        at_the_limit.issued();
    }
    wait_until(original.exp() + 3);
    let refused = try_redeem(&writ, &original).invalid_request("redemption_too_old");
    assert_eq!(instant(&refused, "expired_at"), original.exp());
}

/// R-DELAY-11: a live token is for replacement.
#[test]
fn a_live_token_is_too_early() {
    let live = ACCOUNTS.replace("lifetime = \"1s\"", "lifetime = \"60s\"");
    let writ = with_reader("").client("accounts", &live).start();
    let original = fresh(&writ);
    let refused = try_redeem(&writ, &original).invalid_request("redemption_too_early");
    assert_eq!(instant(&refused, "redeemable_at"), original.exp());
    let replaced = by(&writ, "reader", &original.token).issued();
    assert!(replaced.claims.get("rctx").is_none_or(|context| context.get("delayed").is_none()));
}

/// R-DELAY-12, R-DELAY-13: after a restart too.
#[test]
fn a_token_is_redeemed_once_unless_the_policy_says_more() {
    let mut writ = delayed_briefly("").client("often", &batch_living("1s", "max_uses = 3")).start();
    let (once, thrice) = (fresh(&writ), expired(&writ));
    once.wait_until_expired();
    let first = try_redeem(&writ, &once).issued();
    assert_eq!(first.use_number(), Some(1));
    for number in 1..=3 {
        let redeemed = by(&writ, "often", &thrice.token).issued();
        assert_eq!((redeemed.use_number(), redeemed.txn()), (Some(number), thrice.txn()));
        redeemed.wait_until_expired();
    }
    let exhausted = |writ: &Writ| {
        try_redeem(writ, &once).invalid_request("redemption_exhausted");
        by(writ, "often", &thrice.token).invalid_request("redemption_exhausted");
    };
    exhausted(&writ);
    writ.restart();
    exhausted(&writ);
}

/// R-DELAY-12: siblings of one transaction, and all clients, share their uses; other transactions do not.
#[test]
fn uses_are_counted_by_transaction_and_purpose_over_all_clients() {
    let live = ACCOUNTS.replace("lifetime = \"1s\"", "lifetime = \"3s\"");
    let batch = batch_living("1s", "").replace("[\"accounts\"]", "[\"accounts\", \"reader\"]");
    let setup = Setup::new().client("accounts", &live).client("batch", &batch).client("second", &batch);
    let writ = setup.client("reader", &reader()).start();
    let first = fresh(&writ);
    let sibling = by(&writ, "reader", &first.token).issued();
    assert_eq!(sibling.txn(), first.txn());
    let another = fresh(&writ);
    for token in [&first, &sibling, &another] {
        token.wait_until_expired();
    }
    try_redeem(&writ, &first).issued();
    try_redeem(&writ, &sibling).invalid_request("redemption_exhausted");
    by(&writ, "second", &first.token).invalid_request("redemption_exhausted");
    assert_eq!(try_redeem(&writ, &another).issued().use_number(), Some(1));
}

/// A-100, R-DELAY-13: what was counted stays counted, and a retry of the same client with the same token is free until
/// another client uses the token.
#[test]
fn a_count_survives_a_crash_and_a_lost_answer_costs_nothing() {
    let mut writ = two_jobs("max_uses = 2");
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    assert_eq!(first.use_number(), Some(1));
    writ.kill();
    writ.start();
    assert_eq!(try_redeem(&writ, &original).issued().claims, first.claims, "the same client, the same token");
    let second = by(&writ, "other-batch", &original.token).issued();
    assert_eq!(second.use_number(), Some(2), "no free retry for others");
    assert_eq!(second.claims["req_wl_chain"], json!(["accounts", "other-batch"]));
    try_redeem(&writ, &original).invalid_request("redemption_exhausted");
    assert_eq!(by(&writ, "other-batch", &original.token).issued().claims, second.claims);
}

/// R-DELAY-15, R-DELAY-16, R-DELAY-17
#[test]
fn a_redeemed_token_carries_the_transaction_on_for_a_minute() {
    let setup = Setup::new().client("accounts", DETAILED).client("batch", &batch(""));
    setup.write("policies/any.json", "{}");
    let writ = setup.set("tokens.jwks_max_age", "1s").set("tokens.max_lifetime", "60s").start();
    let original = writ.workload("accounts").token(&detailed()).issued();
    original.wait_until_expired();
    eventually("the first promotion", || (writ.run(&["keys", "rotate"]).code == 0).then_some(()));
    let redeemed = try_redeem(&writ, &original).issued();
    let delayed = json!({"iat": original.iat(), "exp": original.exp(), "use": 1});
    let mut expected = json!({
        "iss": ISSUER, "iat": redeemed.iat(), "exp": redeemed.iat() + 60, "aud": "trust-domain.example",
        "txn": original.txn(), "sub": "alice@trust-domain.example", "scope": PURGE,
        "req_wl": "batch", "req_wl_chain": ["accounts", "batch"],
        "rctx": {"req_ip": "192.0.2.1", "delayed": delayed},
    });
    expected["tctx"] = original.claims["tctx"].clone();
    assert_eq!(redeemed.claims, expected);
    for (name, value) in [("contract", "\"C-1\""), ("amount", "100000000000000000001.50")] {
        assert_eq!(redeemed.typed.tctx.raw(name), Some(value), "byte for byte");
    }
    assert!(redeemed.iat() >= original.exp());
    assert_ne!(redeemed.kid(), original.kid());
}

/// Starts transactions with details.
const DETAILED: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["client_credentials"]
subjects = ["*"]
lifetime = "1s"
request_details = "any.json"
tctx.copy = ["contract", "amount"]
rctx.copy = ["req_ip"]
"#;

fn detailed() -> Form {
    Form::client_credentials(PURGE)
        .set("requested_subject", "alice@trust-domain.example")
        .set("request_details", r#"{"contract":"C-1","amount":100000000000000000001.50}"#)
        .set("request_context", r#"{"req_ip":"192.0.2.1"}"#)
}

/// R-DELAY-16
#[test]
fn no_request_and_no_policy_can_supply_the_mark_of_a_redemption() {
    let setup = || {
        let setup = Setup::new().client("accounts", DETAILED).client("batch", &batch(""));
        setup.write("policies/any.json", "{}");
        setup
    };
    let marked = r#"{"req_ip":"192.0.2.1","delayed":{"iat":1,"exp":2,"use":1}}"#;
    let issued = setup().start().workload("accounts").token(&detailed().set("request_context", marked)).issued();
    assert_eq!(issued.claims["rctx"], json!({"req_ip": "192.0.2.1"}));
    for policy in [
        DETAILED.replace("\"req_ip\"", "\"delayed\""),
        DETAILED.replace("rctx.copy = [\"req_ip\"]", "rctx.fixed = { delayed = 1 }"),
    ] {
        setup().client("accounts", &policy).run(&["check"]).exits(2).says("rctx");
    }
}

/// R-DELAY-06
#[test]
fn a_purpose_that_other_clients_can_get_too_is_warned_about() {
    let warnings = |setup: &Setup| setup.run(&["check", "--json"]).exits(0).json()["problems"].to_string();
    let dedicated = delayed("");
    assert_eq!(warnings(&dedicated), "[]", "it is asked for at the original issue, and by nobody else");
    let shared = warnings(&dedicated.client("web-shop", ACCOUNTS));
    assert!(shared.contains("warning") && shared.contains("web-shop") && shared.contains(PURGE), "{shared}");
}

/// R-DELAY-17
#[test]
fn a_redeemed_token_never_lives_longer_than_five_minutes() {
    let living = |lifetime: &str| {
        let setup = Setup::new().client("accounts", ACCOUNTS).client("batch", &batch_living(lifetime, ""));
        setup.set("tokens.max_lifetime", "15m").run(&["check"])
    };
    living("300s").exits(0);
    living("301s").exits(2).says("lifetime");
}

/// R-DELAY-08
#[test]
fn keys_must_be_kept_for_as_long_as_any_token_can_be_redeemed() {
    let keeping = |retention: &str| delayed("").set("keys.retention", retention);
    keeping("91d").run(&["check"]).exits(0);
    keeping("90d").run(&["check"]).exits(2).says("max_age"); // and not `max_lifetime` more
    keeping("90d").run(&["serve"]).exits(2).says("max_age");
}

/// R-DELAY-09: that `iat` lies in the span of the key is for a unit test.
#[test]
fn keys_are_not_tried_one_after_the_other() {
    let writ = with_short_keys("").start();
    let original = expired(&writ);
    writ.rotate();
    let present = |kid: Value| {
        let mut header = original.header.clone();
        header["kid"] = kid;
        header.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let token = jose::seal(&header.to_string(), &original.claims.to_string(), |_| vec![7; 64]);
        by(&writ, "batch", &token)
    };
    present(Value::Null).invalid_request("subject_token_key_unknown");
    present(json!("never-ours")).invalid_request("subject_token_key_unknown");
    present(fresh(&writ).header["kid"].clone()).invalid_request("subject_token_signature_invalid");
    try_redeem(&writ, &original).issued();
}

/// R-DELAY-04
#[test]
fn a_job_authenticates_with_its_certificate_and_asks_as_for_any_exchange() {
    let pinned = Credentials::self_signed(&pki::client("pinned"));
    let identity = format!("self_signed_tls_client_auth_x5t_s256 = [\"{}\"]", pinned.thumbprint());
    let policy = format!("client_id = \"pinned\"\n{identity}\n{}", batch("max_uses = 2"));
    let writ = delayed("max_uses = 2").policy("pinned.toml", &policy).start();
    let form = redeem(&expired(&writ));
    assert_eq!(
        form.names(),
        ["grant_type", "requested_token_type", "audience", "scope", "subject_token", "subject_token_type"]
    );
    writ.workload("batch").token(&form).issued();
    writ.workload_with(&pinned).token(&form).issued();
    for secret in ["client_secret", "client_assertion"] {
        writ.workload("batch").token(&form.clone().set(secret, "x")).invalid_request("parameter_unsupported");
    }
    let headers = [("Content-Type", FORM), ("Authorization", "Basic YmF0Y2g6eA==")];
    writ.workload("batch").post(&headers, form.encode().as_bytes()).invalid_request("parameter_unsupported");
}

/// R-DELAY-21, CONTRACT 10
#[test]
fn every_attempt_is_audited_and_counted() {
    let writ = delayed_briefly("").start();
    let original = expired(&writ);
    let redeemed = try_redeem(&writ, &original).issued();
    let line = writ.audit_of(&redeemed.request_id);
    for (name, value) in [
        ("event", json!("token_issued")),
        ("client", json!("batch")),
        ("source", json!("expired_txn_token")),
        ("scope", json!(PURGE)),
        ("txn", json!(original.txn())),
        ("use", json!(1)),
        ("delayed_by", json!(redeemed.iat() - original.exp())),
        ("key_state", json!("current")),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert!(line.get("retry").is_none_or(|retry| retry == false), "{line}");
    redeemed.wait_until_expired();
    let refused = try_redeem(&writ, &original).invalid_request("redemption_exhausted");
    let line = writ.audit_of(&refused.request_id);
    for (name, value) in [
        ("event", json!("token_refused")),
        ("reason", json!("redemption_exhausted")),
        ("source", json!("expired_txn_token")),
        ("txn", json!(original.txn())),
        ("key_state", json!("current")),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert!(line["delayed_by"].is_u64(), "{line}");
    writ.wait_for_log("an alert", |line| line["level"] == "WARN" && line["request_id"] == refused.request_id.as_str());
    let count = |outcome, reason| {
        let labels = [("client", "batch"), ("source", "expired_txn_token"), ("outcome", outcome), ("reason", reason)];
        writ.metric("writ_token_requests_total", &labels)
    };
    assert_eq!((count("issued", "-"), count("refused", "redemption_exhausted")), (Some(1.0), Some(1.0)));
}
