//! An expired Txn-Token is redeemed for a later job (area DELAY).

use std::path::Path;

use serde_json::{Value, json};

use crate::support::answer::{Answer, Issued};
use crate::support::jose::{self, Key};
use crate::support::pdp::{Mode, Pdp};
use crate::support::pki::{self, Credentials};
use crate::support::workload::{FORM, Form};
use crate::support::writ::{Setup, Writ};
use crate::support::{eventually, wait_until};

const PURGE: &str = "account.purge";

/// Starts transactions: its tokens live for a second and carry details.
const ACCOUNTS: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["client_credentials"]
subjects = ["*"]
lifetime = "1s"
request_details = "any.json"
tctx.copy = ["contract", "amount"]
rctx.copy = ["req_ip"]

[[purpose]]
scope = "account.close"
accept = ["client_credentials"]
lifetime = "1s"
"#;

/// Takes Txn-Tokens, and has no right to redeem.
const READER: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["txn_token"]
"#;

/// A job that may redeem: what else its purpose says, and its right.
fn job(purpose: &str, redemption: &str) -> String {
    format!(
        r#"
[[purpose]]
scope = "{PURGE}"
accept = ["expired_txn_token"]
{purpose}
[purpose.redemption]
issued_to = ["accounts"]
max_age = "90d"
{redemption}
"#
    )
}

/// The same where redeemed tokens live for a second.
fn brief(redemption: &str) -> String {
    job("lifetime = \"1s\"", redemption)
}

/// `accounts` that starts and `batch` that may redeem.
fn setup(batch: &str) -> Setup {
    let setup = Setup::new();
    setup.write("policies/any.json", "{}");
    setup.client("accounts", ACCOUNTS).client("batch", batch)
}

/// The same where keys rotate by hand, every few seconds if need be.
fn short_keys(batch: &str) -> Writ {
    setup(batch).short_keys(3600).start()
}

fn form() -> Form {
    Form::client_credentials(PURGE)
        .set("requested_subject", "u-77")
        .set("request_details", r#"{"contract":"C-1","amount":100000000000000000001.50}"#)
        .set("request_context", r#"{"req_ip":"192.0.2.1"}"#)
}

fn fresh(writ: &Writ) -> Issued {
    writ.workload("accounts").token(&form()).issued()
}

/// A token of `accounts` that has expired.
fn expired(writ: &Writ) -> Issued {
    let issued = fresh(writ);
    issued.wait_until_expired();
    issued
}

/// `client` presents the token.
fn by(writ: &Writ, client: &str, token: &str) -> Answer {
    writ.workload(client).token(&Form::redeem(token, PURGE))
}

fn redeem(writ: &Writ, original: &Issued) -> Answer {
    by(writ, "batch", &original.token)
}

/// `writ check` refuses `batch` with this policy, naming the key.
#[track_caller]
fn refused_by_check(batch: &str, key: &str) {
    setup(batch).run(&["check"]).exits(2).says(key);
}

/// R-DELAY-01
#[test]
fn redemption_is_off_until_a_policy_turns_it_on_and_the_start_says_so() {
    let writ = setup(READER).start();
    redeem(&writ, &expired(&writ)).invalid_request("subject_token_expired");
    assert!(!writ.log_text().contains("redemption"));
    let writ = setup(&job("", "")).start();
    writ.wait_for_log("the deviation", |line| {
        let text = line.to_string();
        line["level"] == "WARN" && text.contains("\"batch\"") && text.contains("TT 6, 13.15")
    });
    redeem(&writ, &expired(&writ)).issued();
    assert!(include_str!("../../docs/explanation/delayed-work.md").contains("## Deviation from the draft"));
}

/// R-DELAY-02
#[test]
fn a_client_without_the_right_finds_neither_the_feature_nor_the_archive() {
    let batch = brief("");
    let writ = setup(&batch).client("reader", READER).short_keys(3600).start();
    let original = expired(&writ);
    writ.rotate();
    by(&writ, "reader", &original.token).invalid_request("subject_token_expired");
    writ.rotate();
    let archived = by(&writ, "reader", &original.token).invalid_request("subject_token_key_unknown");
    let never_ours = json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": "never-ours"});
    let foreign = Key::es256("never-ours").token(&never_ours.to_string(), &original.claims.to_string());
    assert_eq!(by(&writ, "reader", &foreign).invalid_request("subject_token_key_unknown").answer, archived.answer);
    redeem(&writ, &original).issued();
}

/// R-DELAY-03
#[test]
fn a_rule_names_clients_and_its_purpose_exactly() {
    let writ = setup(&job("", "")).client("accounts-2", ACCOUNTS).start();
    let theirs = writ.workload("accounts-2").token(&form()).issued();
    theirs.wait_until_expired();
    redeem(&writ, &theirs).unauthorized_client("redemption_not_allowed");
    by(&writ, "accounts", &expired(&writ).token).unauthorized_client("source_not_allowed");
    refused_by_check(&job("", "").replace("\"accounts\"", "\"acc*\""), "issued_to");
    writ.change_client("batch", &job("", "").replace(PURGE, "account.*"));
    redeem(&writ, &expired(&writ)).invalid_scope("purpose_not_allowed");
}

/// R-DELAY-03: what a rule must say.
#[test]
fn a_rule_without_originators_uses_or_a_greatest_age_is_no_rule() {
    for (written, wrong, key) in [
        ("issued_to = [\"accounts\"]", "issued_to = []", "issued_to"),
        ("issued_to = [\"accounts\"]", "", "issued_to"),
        ("max_uses = 1", "max_uses = 0", "max_uses"),
        ("max_age = \"90d\"", "", "max_age"),
        ("max_age = \"90d\"", "max_age = \"1s\"\nmin_age = \"2s\"", "min_age"),
    ] {
        refused_by_check(&job("", "max_uses = 1").replace(written, wrong), key);
    }
}

/// R-DELAY-04
#[test]
fn a_job_authenticates_with_its_certificate_and_asks_as_for_any_exchange() {
    let pinned = Credentials::self_signed(&pki::client("pinned"));
    let identity = format!("self_signed_tls_client_auth_x5t_s256 = [\"{}\"]", pinned.thumbprint());
    let policy = format!("client_id = \"pinned\"\n{identity}\n{}", job("", "max_uses = 2"));
    let writ = setup(&job("", "max_uses = 2")).policy("pinned.toml", &policy).start();
    let original = expired(&writ);
    let form = Form::redeem(&original.token, PURGE);
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

/// R-DELAY-05
#[test]
fn the_requested_scope_is_the_one_of_the_token_and_of_the_rule() {
    let both = job("", "") + &job("", "").replace(PURGE, "account.close");
    let writ = setup(&both).start();
    let original = expired(&writ);
    let ask = |token: &Issued, scope: &str| writ.workload("batch").token(&Form::redeem(&token.token, scope));
    ask(&original, "account.close").invalid_scope("scope_exceeds_subject_token");
    ask(&original, "account.purge account.close").invalid_scope("scope_exceeds_subject_token");
    ask(&original, "account").invalid_scope("purpose_not_allowed");
    let several = writ.workload("accounts").token(&Form::client_credentials("account.purge account.close")).issued();
    several.wait_until_expired();
    ask(&several, PURGE).unauthorized_client("redemption_not_allowed");
    assert_eq!(ask(&original, PURGE).issued().use_number(), Some(1));
}

/// R-DELAY-06
#[test]
fn a_purpose_that_other_clients_can_get_too_is_warned_about() {
    let warnings = |setup: &Setup| setup.run(&["check", "--json"]).exits(0).json()["problems"].to_string();
    let dedicated = setup(&job("", ""));
    assert_eq!(warnings(&dedicated), "[]", "it is asked for at the original issue, and by nobody else");
    let shared = warnings(&dedicated.client("web-shop", ACCOUNTS));
    assert!(shared.contains("warning") && shared.contains("web-shop") && shared.contains(PURGE), "{shared}");
}

/// R-DELAY-07: unit tests know what only a key of ours could sign.
#[test]
fn everything_but_the_expiry_is_checked() {
    let (writ, other) = (setup(&job("", "")).start(), setup(&job("", "")).start());
    let original = expired(&writ);
    let (signed, _) = original.token.rsplit_once('.').unwrap();
    let forger = Key::es256(original.kid());
    let sign = |header: &Value, claims: &Value| forger.token(&header.to_string(), &claims.to_string());
    let mut later = original.claims.clone();
    later["exp"] = json!(original.exp() + 1);
    let mut retyped = original.header.clone();
    retyped["typ"] = json!("JWT");
    for (token, reason) in [
        (format!("{signed}.{}", "A".repeat(86)), "subject_token_signature_invalid"),
        (sign(&original.header, &original.claims), "subject_token_signature_invalid"),
        (sign(&original.header, &later), "subject_token_signature_invalid"),
        (sign(&retyped, &original.claims), "subject_token_malformed"),
        (expired(&other).token, "subject_token_key_unknown"),
    ] {
        by(&writ, "batch", &token).invalid_request(reason);
    }
    let elsewhere = Form::redeem(&original.token, PURGE).set("audience", "other.example");
    writ.workload("batch").token(&elsewhere).refused(400, "invalid_target", "audience_unknown");
    assert_eq!(redeem(&writ, &original).issued().use_number(), Some(1));
}

/// R-DELAY-08
#[test]
fn tokens_of_published_and_of_archived_keys_are_redeemed() {
    let writ = short_keys(&brief("max_uses = 3"));
    let original = expired(&writ);
    for state in ["current", "previous", "historical"] {
        assert_eq!(writ.key_state(original.kid()).as_deref(), Some(state));
        redeem(&writ, &original).issued().wait_until_expired();
        writ.rotate();
    }
}

/// R-DELAY-08
#[test]
fn a_compromised_key_redeems_nothing_archived_or_not() {
    let writ = short_keys(&brief("max_uses = 9"));
    let original = expired(&writ);
    redeem(&writ, &original).issued().wait_until_expired();
    writ.rotate();
    writ.rotate();
    writ.run(&["keys", "revoke", original.kid()]).exits(0);
    redeem(&writ, &original).invalid_request("redemption_key_gone");
}

/// R-DELAY-08
#[test]
fn the_archive_must_reach_as_far_as_any_rule() {
    let keeping = |retention: &str| setup(&job("", "")).set("keys.retention", retention);
    keeping("91d").run(&["check"]).exits(0);
    keeping("90d").run(&["check"]).exits(2).says("max_age"); // and not `max_lifetime` more
    keeping("90d").run(&["serve"]).exits(2).says("max_age");
}

/// R-DELAY-09: that `iat` lies in the span of the key is for a unit test.
#[test]
fn keys_are_not_tried_one_after_the_other() {
    let writ = short_keys(&brief(""));
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
    redeem(&writ, &original).issued();
}

/// R-DELAY-10
#[test]
fn a_token_that_is_not_on_record_is_refused_by_default() {
    let writ = setup(READER).start();
    let unrecorded = fresh(&writ); // nobody could redeem it
    writ.change_client("batch", &job("", ""));
    let recorded = expired(&writ);
    redeem(&writ, &unrecorded).invalid_request("redemption_not_on_record");
    redeem(&writ, &recorded).issued();
    writ.change_client("batch", &job("", "require_record = false"));
    redeem(&writ, &unrecorded).issued();
    // The record is of the signed part: an ECDSA signature has a second valid form.
    let twin = jose::malleate(&recorded.token);
    assert_ne!(twin, recorded.token);
    by(&writ, "batch", &twin).issued();
}

/// R-DELAY-10
#[test]
fn doing_without_records_is_warned_about() {
    let problems = setup(&job("", "require_record = false")).run(&["check", "--json"]).exits(0).json();
    let [problem] = &problems["problems"].as_array().unwrap()[..] else { panic!("{problems}") };
    assert_eq!(problem["severity"], "warning");
    assert!(problem["key"].as_str().unwrap().ends_with("require_record"), "{problem}");
}

/// R-DELAY-11
#[test]
fn a_token_is_redeemed_from_min_age_to_max_age() {
    let writ = setup(&job("", "min_age = \"1d\"")).start();
    let original = expired(&writ);
    let refused = redeem(&writ, &original).invalid_request("redemption_too_early");
    assert_eq!(refused.answer["redeemable_at"], original.exp() + 24 * 3600);
    writ.change_client("batch", &job("", "min_age = \"1s\""));
    wait_until(original.exp() + 1);
    redeem(&writ, &original).issued();
    writ.change_client("batch", &job("", "").replace("90d", "1s"));
    wait_until(original.exp() + 2);
    let refused = redeem(&writ, &original).invalid_request("redemption_too_old");
    assert_eq!(refused.answer["expired_at"], original.exp());
}

/// R-DELAY-11
#[test]
fn a_live_token_is_for_replacement() {
    let live = ACCOUNTS.replace("lifetime = \"1s\"", "lifetime = \"60s\"");
    let writ = setup(&job("", "")).client("accounts", &live).client("reader", READER).start();
    let original = fresh(&writ);
    redeem(&writ, &original).invalid_request("redemption_too_early");
    let replaced = by(&writ, "reader", &original.token).issued();
    assert_eq!(replaced.claims["rctx"].get("delayed"), None);
}

/// R-DELAY-12
#[test]
fn a_token_is_redeemed_once_unless_the_rule_says_more() {
    for (redemption, uses) in [("", 1), ("max_uses = 2", 2)] {
        let writ = setup(&brief(redemption)).start();
        let original = expired(&writ);
        for number in 1..=uses {
            let redeemed = redeem(&writ, &original).issued();
            assert_eq!(redeemed.use_number(), Some(number));
            redeemed.wait_until_expired();
        }
        redeem(&writ, &original).invalid_request("redemption_exhausted");
    }
}

/// R-DELAY-12: siblings of one transaction, and all clients, share their uses.
#[test]
fn uses_are_counted_by_transaction_and_purpose_over_all_clients() {
    let live = ACCOUNTS.replace("lifetime = \"1s\"", "lifetime = \"5s\"");
    let batch = brief("").replace("[\"accounts\"]", "[\"accounts\", \"reader\"]");
    let writ = setup(&batch).client("accounts", &live).client("second", &batch).client("reader", READER).start();
    let first = fresh(&writ);
    let sibling = by(&writ, "reader", &first.token).issued();
    assert_eq!(sibling.txn(), first.txn());
    first.wait_until_expired();
    sibling.wait_until_expired();
    redeem(&writ, &first).issued();
    by(&writ, "batch", &sibling.token).invalid_request("redemption_exhausted");
    by(&writ, "second", &first.token).invalid_request("redemption_exhausted");
    let another = fresh(&writ);
    another.wait_until_expired();
    redeem(&writ, &another).issued();
}

/// R-DELAY-13
#[test]
fn a_count_survives_a_crash_and_a_lost_answer_costs_nothing() {
    let mut writ = setup(&job("", "max_uses = 2")).client("second", &job("", "max_uses = 2")).start();
    let original = expired(&writ);
    let first = redeem(&writ, &original).issued();
    writ.kill();
    writ.start();
    assert_eq!(redeem(&writ, &original).issued().claims, first.claims, "the same client, the same token");
    assert_eq!(by(&writ, "second", &original.token).issued().use_number(), Some(2), "no free retry for others");
    redeem(&writ, &original).invalid_request("redemption_exhausted");
}

/// R-DELAY-13
#[test]
fn requests_at_once_get_no_more_than_there_are_uses() {
    let writ = setup(&job("", "")).client("second", &job("", "")).start();
    let original = expired(&writ);
    let answers: Vec<(&str, Answer)> = std::thread::scope(|scope| {
        let (writ, token) = (&writ, &original.token);
        let waiting: Vec<_> = ["batch", "second"]
            .repeat(8)
            .into_iter()
            .map(|client| scope.spawn(move || (client, by(writ, client, token))))
            .collect();
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let (granted, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(_, answer)| answer.status() == 200);
    let first = granted.first().expect("one is granted").1.issued();
    assert!(granted.iter().all(|(_, answer)| answer.issued().claims == first.claims));
    for (_, answer) in refused {
        answer.invalid_request("redemption_exhausted");
    }
}

/// R-DELAY-13
#[test]
fn nothing_is_redeemed_while_the_count_cannot_be_written() {
    let mut writ = setup(&job("", "")).start();
    let original = expired(&writ);
    assert_eq!(writ.terminate(), 0);
    writ.start();
    writ.fill_disk(true);
    redeem(&writ, &original).refused(503, "temporarily_unavailable", "store_unavailable");
    writ.fill_disk(false);
    let redeemed = eventually("the store is back", || {
        let answer = redeem(&writ, &original);
        (answer.status() == 200).then(|| answer.issued())
    });
    assert_eq!(redeemed.use_number(), Some(1));
}

/// R-DELAY-14
#[test]
fn a_redeemed_token_is_neither_redeemed_nor_replaced() {
    let again = brief("max_uses = 9").replace("\"accounts\"", "\"accounts\", \"batch\"");
    let writ = setup(&again).client("reader", READER).start();
    let redeemed = redeem(&writ, &expired(&writ)).issued();
    by(&writ, "reader", &redeemed.token).unauthorized_client("redemption_not_allowed");
    redeemed.wait_until_expired();
    by(&writ, "batch", &redeemed.token).unauthorized_client("redemption_not_allowed");
}

/// R-DELAY-15, R-DELAY-16, R-DELAY-17
#[test]
fn a_redeemed_token_carries_the_transaction_on_for_a_minute() {
    let writ = setup(&job("", "")).set("tokens.jwks_max_age", "1s").set("tokens.max_lifetime", "60s").start();
    let original = expired(&writ);
    eventually("the first promotion", || (writ.run(&["keys", "rotate"]).code == 0).then_some(()));
    let redeemed = redeem(&writ, &original).issued();
    for name in ["iss", "txn", "sub", "aud", "scope"] {
        assert_eq!(redeemed.claims[name], original.claims[name], "{name}");
    }
    for (name, value) in [("contract", "\"C-1\""), ("amount", "100000000000000000001.50")] {
        assert_eq!(redeemed.typed.tctx.raw(name), Some(value), "byte for byte");
    }
    let delayed = json!({"iat": original.iat(), "exp": original.exp(), "use": 1});
    assert_eq!(redeemed.claims["rctx"], json!({"req_ip": "192.0.2.1", "delayed": delayed}));
    assert_eq!(redeemed.claims["req_wl"], "batch");
    assert_eq!(redeemed.claims["req_wl_chain"], json!(["accounts", "batch"]));
    assert!(redeemed.iat() >= original.exp() && redeemed.exp() == redeemed.iat() + 60);
    assert_ne!(redeemed.kid(), original.kid());
}

/// R-DELAY-15: by CONTRACT 3.5 whatever they say.
#[test]
fn details_and_context_are_refused_on_a_redemption() {
    let writ = setup(&job("", "")).start();
    let original = expired(&writ);
    for (name, value) in [("request_details", r#"{"contract":"C-2"}"#), ("request_context", r#"{"req_ip":"::1"}"#)] {
        let form = Form::redeem(&original.token, PURGE).set(name, value);
        writ.workload("batch").token(&form).invalid_request("parameter_unsupported");
    }
    assert_eq!(redeem(&writ, &original).issued().use_number(), Some(1));
}

/// R-DELAY-16
#[test]
fn nobody_can_supply_the_mark_of_a_redemption() {
    let writ = setup(&job("", "")).start();
    let marked = form().set("request_context", r#"{"req_ip":"192.0.2.1","delayed":{"iat":1,"exp":2,"use":1}}"#);
    let issued = writ.workload("accounts").token(&marked).issued();
    assert_eq!(issued.claims["rctx"], json!({"req_ip": "192.0.2.1"}));
    for policy in [
        ACCOUNTS.replace("\"req_ip\"", "\"delayed\""),
        ACCOUNTS.replace("rctx.copy = [\"req_ip\"]", "rctx.fixed = { delayed = 1 }"),
    ] {
        setup(&job("", "")).client("accounts", &policy).run(&["check"]).exits(2).says("rctx");
    }
}

/// R-DELAY-17
#[test]
fn a_redeemed_token_never_lives_longer_than_five_minutes() {
    let living = |lifetime: &str| {
        setup(&job(&format!("lifetime = \"{lifetime}\""), "")).set("tokens.max_lifetime", "15m").run(&["check"])
    };
    living("300s").exits(0);
    living("301s").exits(2).says("lifetime");
}

/// R-DELAY-18
#[test]
fn a_decision_point_can_say_that_the_facts_have_changed() {
    let pdp = Pdp::start();
    let writ = pdp.known_to(setup(&job("pdp = true", ""))).start();
    let original = expired(&writ);
    pdp.be(Mode::No);
    redeem(&writ, &original).unauthorized_client("pdp_denied");
    pdp.be(Mode::Broken);
    redeem(&writ, &original).refused(503, "temporarily_unavailable", "pdp_unavailable");
    pdp.be(Mode::Yes);
    assert_eq!(redeem(&writ, &original).issued().use_number(), Some(1));
    let asked = pdp.asked();
    let about: Value = serde_json::from_str(&asked.last().unwrap().body).unwrap();
    assert_eq!((&about["subject"]["id"], &about["context"]["txn"]), (&json!("u-77"), &json!(original.txn())));
}

/// R-DELAY-19: by rule, client, transaction, subject, key, and all at once, free retries included.
#[test]
fn redemption_is_stopped_at_once_by_any_kill_switch() {
    let writ = setup(&job("", "max_uses = 9")).start();
    let original = expired(&writ);
    redeem(&writ, &original).issued();
    for block in [
        &["--client", "batch", "--purpose", PURGE][..],
        &["--client", "batch"],
        &["--client", "accounts"],
        &["--txn", original.txn()],
        &["--sub", "u-77"],
        &["--purpose", PURGE],
        &["--all"],
    ] {
        writ.run(&[&["block", "add"], block].concat()).exits(0);
        redeem(&writ, &original).invalid_request("blocked");
        writ.run(&[&["block", "remove"], block].concat()).exits(0);
        redeem(&writ, &original).issued();
    }
    writ.run(&["keys", "revoke", original.kid()]).exits(0);
    redeem(&writ, &original).invalid_request("redemption_key_gone");
}

/// R-DELAY-20
#[test]
fn a_job_cannot_make_itself_what_it_may_redeem() {
    for source in ["client_credentials", "unsigned_json", "self_signed"] {
        let own = format!("[[purpose]]\nscope = \"{PURGE}\"\naccept = [\"{source}\"]\nsubjects = [\"*\"]\n");
        let batch = format!("{}{own}", job("", ""));
        refused_by_check(&batch, "accept");
        setup(&batch).run(&["serve"]).exits(2).says("accept");
    }
}

/// R-DELAY-21
#[test]
fn every_attempt_is_on_record_and_counted() {
    let writ = setup(&brief("")).start();
    let original = expired(&writ);
    let redeemed = redeem(&writ, &original).issued();
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
    redeemed.wait_until_expired();
    let refused = redeem(&writ, &original).invalid_request("redemption_exhausted");
    let line = writ.audit_of(&refused.request_id);
    assert_eq!((&line["event"], &line["reason"]), (&json!("token_refused"), &json!("redemption_exhausted")));
    assert_eq!((&line["txn"], &line["key_state"]), (&json!(original.txn()), &json!("current")), "{line}");
    assert!(line["delayed_by"].is_u64(), "{line}");
    writ.wait_for_log("an alert", |line| line["level"] == "WARN" && line["request_id"] == refused.request_id.as_str());
    let count = |outcome, reason| {
        let labels = [("client", "batch"), ("source", "expired_txn_token"), ("outcome", outcome), ("reason", reason)];
        writ.metric("writ_token_requests_total", &labels)
    };
    assert_eq!((count("issued", "-"), count("refused", "redemption_exhausted")), (Some(1.0), Some(1.0)));
}

/// What the documentation says about a topic, without its line breaks.
fn documented(page: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    std::fs::read_to_string(path).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// R-DELAY-22
#[test]
fn the_documentation_names_the_alternatives() {
    let text = documented("explanation/delayed-work.md");
    for alternative in ["replace a token before it expires", "`unsigned_json`", "`self_signed`", "`requested_subject`"]
    {
        assert!(text.contains(alternative), "{alternative}");
    }
}

/// R-DELAY-23: that verifiers never take an expired token is R-VERIFY-05.
#[test]
fn the_documentation_says_how_to_store_tokens_for_later() {
    let text = documented("how-to/redeem-delayed-work.md");
    assert!(
        text.contains(
            "one for each work item, encrypted, readable by the job alone, deleted after success, never logged"
        )
    );
}
