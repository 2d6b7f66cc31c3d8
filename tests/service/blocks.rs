//! The kill switch: whatever an operator blocks gets no token, at once and across restarts (CONTRACT 3.6, 8;
//! R-DELAY-19).

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::scene::{self, ACCOUNTS, MAILER, PURGE, batch, delayed, expired, fresh, redeem};
use crate::support::answer::{Answer, Issued};
use crate::support::cli::Output;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{eventually, now, wait_until};

/// `writ block <verb>` with these arguments.
fn run(writ: &Writ, verb: &str, arguments: &[&str]) -> Output {
    writ.run(&[&["block", verb], arguments].concat())
}

#[track_caller]
fn add(writ: &Writ, selectors: &[&str]) {
    run(writ, "add", selectors).exits(0);
}

#[track_caller]
fn remove(writ: &Writ, selectors: &[&str]) {
    run(writ, "remove", selectors).exits(0);
}

#[track_caller]
fn list(writ: &Writ) -> Vec<Value> {
    run(writ, "list", &["--json"]).exits(0).json()["blocks"].as_array().expect("blocks").clone()
}

fn mailbox(name: &str) -> Form {
    Form::client_credentials("mailbox.deliver").set("requested_subject", &format!("{name}@trust-domain.example"))
}

/// `mailer` asks for a token for this mailbox.
fn deliver(writ: &Writ, name: &str) -> Answer {
    writ.workload("mailer").token(&mailbox(name))
}

/// `mailer` asks for a token of its own.
fn report(writ: &Writ) -> Answer {
    writ.workload("mailer").token(&Form::client_credentials("mailbox.report"))
}

/// `batch` presents the token.
fn try_redeem(writ: &Writ, original: &Issued) -> Answer {
    writ.workload("batch").token(&redeem(original))
}

/// The whole refusal.
#[track_caller]
fn blocked(answer: &Answer) {
    let refused = answer.invalid_request("blocked");
    assert_eq!(
        refused.answer,
        json!({
            "error": "invalid_request", "reason": "blocked",
            "error_description": "an operator has stopped this; that can pass, so keep the token and try again later",
        })
    );
}

const ANN: &[&str] = &["--sub", "ann@trust-domain.example"];

/// R-DELAY-19: as soon as the command has ended, under load, without a restart, and after a crash.
#[test]
fn a_blocked_subject_gets_no_token_and_others_do() {
    let mut writ = scene::mailer();
    let stop = AtomicBool::new(false);
    // When each request began, and the reason of its answer.
    let ask = |name: &str| {
        let mut heard = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let began = Instant::now();
            heard.push((began, deliver(&writ, name).reason()));
        }
        heard
    };
    let (added, anns, bobs) = std::thread::scope(|scope| {
        let anns = scope.spawn(|| ask("ann"));
        let bobs = scope.spawn(|| ask("bob"));
        eventually("requests run", || (writ.audit().len() > 10).then_some(()));
        writ.expect_event("block_added", || add(&writ, ANN));
        let (added, so_far) = (Instant::now(), writ.audit().len());
        eventually("they run on", || (writ.audit().len() > so_far + 10).then_some(()));
        stop.store(true, Ordering::SeqCst);
        (added, anns.join().unwrap(), bobs.join().unwrap())
    });
    assert!(bobs.iter().all(|(_, reason)| reason == "-"), "{bobs:?}");
    assert!(anns.first().is_some_and(|(_, reason)| reason == "-"));
    let after: Vec<_> = anns.iter().filter(|(began, _)| *began >= added).collect();
    assert!(!after.is_empty() && after.iter().all(|(_, reason)| reason == "blocked"), "{after:?}");
    writ.kill();
    writ.start();
    blocked(&deliver(&writ, "ann"));
    deliver(&writ, "bob").issued();
    writ.expect_event("block_removed", || remove(&writ, ANN));
    deliver(&writ, "ann").issued();
    writ.kill();
    writ.start();
    deliver(&writ, "ann").issued();
}

/// CONTRACT 8, R-AUTHN-09
#[test]
fn a_blocked_client_gets_no_token_and_others_do() {
    let writ = Setup::new().client("mailer", MAILER).client("accounts", ACCOUNTS).start();
    add(&writ, &["--client", "mailer"]);
    blocked(&report(&writ));
    blocked(&deliver(&writ, "ann"));
    fresh(&writ);
    remove(&writ, &["--client", "mailer"]);
    report(&writ).issued();
}

/// CONTRACT 8
#[test]
fn a_blocked_purpose_is_refused_among_others_too() {
    let writ = scene::mailer();
    add(&writ, &["--purpose", "mailbox.report"]);
    blocked(&report(&writ));
    blocked(&writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver mailbox.report")));
    deliver(&writ, "ann").issued();
}

/// CONTRACT 8
#[test]
fn everything_can_be_blocked() {
    let writ = delayed("").client("mailer", MAILER).start();
    let original = expired(&writ);
    add(&writ, &["--all"]);
    blocked(&report(&writ));
    blocked(&try_redeem(&writ, &original));
    blocked(&writ.workload("accounts").token(&Form::client_credentials(PURGE)));
    writ.workload("nobody").token(&Form::client_credentials(PURGE)).invalid_client("client_unknown");
    remove(&writ, &["--all"]);
    report(&writ).issued();
    assert_eq!(try_redeem(&writ, &original).issued().use_number(), Some(1));
}

/// CONTRACT 8: one call is one entry.
#[test]
fn all_selectors_of_an_entry_must_match() {
    let writ = scene::mailer();
    let ann_reports = [ANN, &["--purpose", "mailbox.report"]].concat();
    add(&writ, &ann_reports);
    deliver(&writ, "ann").issued();
    report(&writ).issued();
    let ann_gets_mail = [ANN, &["--purpose", "mailbox.deliver", "--client", "mailer"]].concat();
    add(&writ, &ann_gets_mail);
    blocked(&deliver(&writ, "ann"));
    deliver(&writ, "bob").issued();
    run(&writ, "remove", ANN).exits(1);
    run(&writ, "remove", &["--client", "mailer"]).exits(1);
    blocked(&deliver(&writ, "ann"));
    remove(&writ, &ann_gets_mail);
    deliver(&writ, "ann").issued();
}

/// CONTRACT 8: the asking client or any in the chain.
#[test]
fn a_blocked_client_blocks_the_redemption_of_its_tokens() {
    let writ = delayed("").start();
    let original = expired(&writ);
    add(&writ, &["--client", "accounts"]);
    blocked(&try_redeem(&writ, &original));
    remove(&writ, &["--client", "accounts"]);
    add(&writ, &["--client", "batch"]);
    blocked(&try_redeem(&writ, &original));
    fresh(&writ);
    remove(&writ, &["--client", "batch"]);
    assert_eq!(try_redeem(&writ, &original).issued().use_number(), Some(1), "nothing was counted");
}

/// CONTRACT 8
#[test]
fn a_blocked_transaction_is_not_redeemed_and_counts_no_use() {
    let writ = delayed("").start();
    let (other, original) = (fresh(&writ), expired(&writ));
    add(&writ, &["--txn", original.txn()]);
    for _ in 0..3 {
        blocked(&try_redeem(&writ, &original));
    }
    let line = writ.audit_of(&try_redeem(&writ, &original).invalid_request("blocked").request_id);
    assert_eq!(
        (&line["txn"], &line["sub"], &line["client"]),
        (&json!(original.txn()), &json!("accounts"), &json!("batch"))
    );
    assert!(line.get("use").is_none() && line["event"] == "token_refused", "{line}");
    assert_eq!(try_redeem(&writ, &other).issued().use_number(), Some(1));
    fresh(&writ);
    remove(&writ, &["--txn", original.txn()]);
    assert_eq!(try_redeem(&writ, &original).issued().use_number(), Some(1));
}

/// CONTRACT 3.6
#[test]
fn a_block_is_reported_in_the_order_of_the_contract() {
    let writ = Setup::new().client("accounts", ACCOUNTS).client("batch", &batch("min_age = \"1h\"")).start();
    let original = expired(&writ);
    let ask = |form: &Form| writ.workload("batch").token(form);
    add(&writ, &["--sub", "accounts"]);
    try_redeem(&writ, &original).invalid_request("redemption_too_early");
    ask(&Form::redeem("a.b.c", PURGE)).invalid_request("subject_token_malformed");
    add(&writ, &["--client", "batch"]);
    blocked(&ask(&Form::redeem("a.b.c", PURGE)));
    blocked(&ask(&Form::redeem("a.b.c", "account.unheard-of")));
    ask(&Form::redeem("a.b.c", "two  spaces")).invalid_scope("scope_malformed");
}

/// CONTRACT 8
#[test]
fn a_block_ends_by_itself() {
    let mut writ = scene::mailer();
    let until = now() + 2;
    let time = chrono::DateTime::from_timestamp(i64::try_from(until).unwrap(), 0).unwrap();
    let text = time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    add(&writ, &[ANN, &["--until", &time.with_timezone(&chrono::Local).to_rfc3339()]].concat());
    let early = deliver(&writ, "ann");
    if now() < until {
        blocked(&early);
    }
    wait_until(until);
    deliver(&writ, "ann").issued();
    assert_eq!(list(&writ)[0]["until"], json!(text), "kept until it is swept");
    run(&writ, "list", &[]).exits(0).says(&format!("{text} (passed)"));
    writ.restart();
    deliver(&writ, "ann").issued();
    add(&writ, ANN);
    blocked(&deliver(&writ, "ann"));
    assert_eq!(list(&writ).len(), 1);
}

/// CONTRACT 8
#[test]
fn adding_a_block_again_replaces_its_end() {
    let writ = scene::mailer();
    let until = |time: &'static str| [ANN, &["--until", time]].concat();
    let listed = || {
        let blocks = list(&writ);
        assert_eq!(blocks.len(), 1);
        blocks[0]["until"].clone()
    };
    add(&writ, &until("2190-01-01T00:00:00Z"));
    assert_eq!(listed(), "2190-01-01T00:00:00Z");
    add(&writ, &until("2191-01-01T00:00:00+01:00"));
    assert_eq!(listed(), "2190-12-31T23:00:00Z");
    add(&writ, ANN);
    assert_eq!(listed(), Value::Null);
    remove(&writ, ANN);
    assert_eq!(list(&writ), Vec::<Value>::new());
}

/// CONTRACT 8
#[test]
fn blocks_are_listed_for_programs_and_for_people() {
    let writ = scene::mailer();
    run(&writ, "list", &[]).exits(0).says("nothing is stopped");
    assert_eq!(run(&writ, "list", &["--json"]).exits(0).json(), json!({"blocks": []}));
    add(&writ, &["--txn", "t-1", "--sub", "ann", "--client", "mailer", "--purpose", "mailbox.report"]);
    add(&writ, &["--all", "--until", "2190-01-01T00:00:00Z"]);
    let mut blocks = list(&writ);
    for block in &mut blocks {
        let added_at = block["added_at"].take();
        let added_at = chrono::DateTime::parse_from_rfc3339(added_at.as_str().unwrap()).unwrap();
        assert!(added_at.timestamp().abs_diff(i64::try_from(now()).unwrap()) < 60);
    }
    assert_eq!(
        blocks,
        [
            json!({
                "txn": "t-1", "sub": "ann", "client": "mailer", "purpose": "mailbox.report", "added_at": null,
                "until": null
            }),
            json!({
                "txn": null, "sub": null, "client": null, "purpose": null, "added_at": null,
                "until": "2190-01-01T00:00:00Z"
            }),
        ]
    );
    let people = run(&writ, "list", &[]).exits(0);
    people.says("txn t-1, sub ann, client mailer, purpose mailbox.report").says("everything").says("no end");
    let removed = run(&writ, "remove", &["--all", "--json"]).exits(0).json();
    assert_eq!(removed["removed"]["until"], "2190-01-01T00:00:00Z");
    run(&writ, "add", ANN).exits(0).says("stopped: sub ann@trust-domain.example, until removed");
    run(&writ, "remove", ANN).exits(0).says("no longer stopped: sub ann@trust-domain.example");
}

/// CONTRACT 8: a mistyped command must block neither everything nor nothing.
#[test]
fn an_invalid_block_is_refused() {
    let writ = scene::mailer();
    let long = "u".repeat(256);
    for (arguments, complaint) in [
        (&[][..], "<--txn <TXN>|--sub <SUB>|--client <CLIENT>|--purpose <PURPOSE>|--all>"),
        (&["--until", "2190-01-01T00:00:00Z"], "required arguments"),
        (&["--all", "--sub", "ann"], "cannot be used with"),
        (&["--sub", "ann", "--until", "2020-01-01T00:00:00Z"], "has passed"),
        (&["--sub", "ann", "--until", "tomorrow"], "RFC 3339"),
        (&["--sub", ""], "1 to 255"),
        (&["--sub", &long], "1 to 255"),
        (&["--sub", "a\nb"], "control"),
        (&["--txn", ""], "1 to 255"),
        (&["--client", "../accounts"], "client_id"),
        (&["--purpose", "two words"], "purpose"),
        (&["--sub", "ann", "--sub", "bob"], "--sub"),
        (&["--kid", "k"], "--kid"),
    ] {
        run(&writ, "add", arguments).exits(2).says(complaint);
    }
    run(&writ, "remove", &[]).exits(2).says("required arguments");
    assert_eq!(list(&writ), Vec::<Value>::new());
    let none = run(&writ, "remove", &["--sub", "ann", "--json"]).exits(1);
    assert_eq!(none.json(), json!({"ok": false, "problems": ["there is no such block"]}));
    deliver(&writ, "ann").issued();
}

/// CONTRACT 10
#[test]
fn blocks_are_audited() {
    let writ = scene::mailer();
    let selectors = ["--sub", "ann", "--client", "mailer"];
    let told = |event: &str, act: &dyn Fn()| {
        let mut line = writ.expect_event(event, act);
        let members = line.as_object_mut().unwrap();
        for name in ["timestamp", "level"] {
            members.remove(name).unwrap();
        }
        line
    };
    let until = [&selectors[..], &["--until", "2190-01-01T00:00:00Z"]].concat();
    let members = |event: &str| json!({"target": "audit", "event": event, "sub": "ann", "client": "mailer"});
    assert_eq!(told("block_added", &|| add(&writ, &selectors)), members("block_added"));
    let mut limited = members("block_added");
    limited["until"] = 6_942_585_600_u64.into();
    assert_eq!(told("block_added", &|| add(&writ, &until)), limited);
    limited["event"] = "block_removed".into();
    assert_eq!(told("block_removed", &|| remove(&writ, &selectors)), limited);
    let all = json!({"target": "audit", "event": "block_added", "all": true});
    assert_eq!(told("block_added", &|| add(&writ, &["--all"])), all);
    blocked(&report(&writ));
    let counted = writ.metric("writ_token_requests_total", &[("outcome", "refused"), ("reason", "blocked")]);
    assert_eq!(counted, Some(1.0));
}

/// CONTRACT 8
#[test]
fn blocks_can_be_set_while_the_service_is_down() {
    let mut writ = scene::mailer();
    assert_eq!(writ.terminate(), 0);
    run(&writ, "add", ANN).exits(0).says("\"event\":\"block_added\"");
    assert_eq!(list(&writ)[0]["sub"], "ann@trust-domain.example");
    writ.start();
    blocked(&deliver(&writ, "ann"));
    deliver(&writ, "bob").issued();
    assert_eq!(writ.terminate(), 0);
    run(&writ, "remove", ANN).exits(0).says("\"event\":\"block_removed\"");
    run(&writ, "remove", ANN).exits(1);
    writ.start();
    deliver(&writ, "ann").issued();
    Setup::new().run(&["block", "add", "--all"]).exits(2).says("no store exists");
}

/// a block that cannot be stored is in force all the same, and the command reports it.
#[test]
fn a_block_is_enforced_though_the_disk_is_full() {
    let mut writ = scene::mailer();
    assert_eq!(writ.terminate(), 0);
    writ.start();
    writ.fill_disk(true);
    run(&writ, "add", ANN).exits(2).says("it is not on record").says("a running service still enforces it");
    blocked(&deliver(&writ, "ann"));
    deliver(&writ, "bob").issued();
    writ.wait_for_log("the block", |line| line["event"] == "block_added");
    writ.fill_disk(false);
    eventually("it can be kept", || (run(&writ, "add", ANN).code == 0).then_some(()));
    writ.kill();
    writ.start();
    blocked(&deliver(&writ, "ann"));
}

fn database(writ: &Writ) -> PathBuf {
    writ.setup.path("data/db")
}

/// A repair keeps the blocks that can be read, and reports which may be missing.
#[test]
fn a_repaired_store_has_its_blocks() {
    let mut writ = scene::mailer();
    add(&writ, ANN);
    assert_eq!(writ.terminate(), 0);
    fs::remove_file(writ.setup.path("data/seal")).unwrap();
    writ.run(&["serve"]).exits(2).says("writ store repair");
    let told = writ.run(&["store", "repair"]).exits(0);
    told.says("blocks: 1 kept (the original number is unknown)").says("writ block list");
    writ.start();
    blocked(&deliver(&writ, "ann"));
    deliver(&writ, "bob").issued();
}

/// Where no block can be read, what was blocked is allowed again: the operator must be told.
#[test]
fn a_repair_reports_lost_blocks() {
    let mut writ = scene::mailer();
    add(&writ, ANN);
    assert_eq!(writ.terminate(), 0);
    fs::remove_file(database(&writ)).unwrap();
    let told = writ.run(&["store", "repair"]).exits(0);
    told.says("blocks: 0 of 1 kept").says("add the missing ones again").says("\"blocks\":0");
    writ.start();
    assert_eq!(list(&writ), Vec::<Value>::new());
}

///
#[test]
fn a_rolled_back_store_has_the_blocks_of_its_time() {
    for repair in [&["store", "repair"][..], &["store", "repair", "--trust-ledger"]] {
        let mut writ = scene::mailer();
        add(&writ, ANN);
        assert_eq!(writ.terminate(), 0);
        let backup = fs::read(database(&writ)).unwrap();
        writ.start();
        add(&writ, &["--sub", "bob@trust-domain.example"]);
        assert_eq!(writ.terminate(), 0);
        fs::write(database(&writ), backup).unwrap();
        writ.run(&["serve"]).exits(2).says("writ store repair");
        writ.run(repair).exits(0).says("blocks: 1 of 2 kept").says("add the missing ones again");
        writ.start();
        blocked(&deliver(&writ, "ann"));
        deliver(&writ, "bob").issued();
    }
}

/// CONTRACT 8, R-DELAY-19: by purpose and client, client, originator, transaction, subject, purpose, all at once, and
/// by the key; free retries included.
#[test]
fn redemption_is_blocked_at_once_by_every_selector() {
    let writ = delayed("max_uses = 9").start();
    let original = expired(&writ);
    let first = try_redeem(&writ, &original).issued();
    for selectors in [
        &["--client", "batch", "--purpose", PURGE][..],
        &["--client", "batch"],
        &["--client", "accounts"],
        &["--txn", original.txn()],
        &["--sub", "accounts"],
        &["--purpose", PURGE],
        &["--all"],
    ] {
        add(&writ, selectors);
        blocked(&try_redeem(&writ, &original));
        remove(&writ, selectors);
        assert_eq!(try_redeem(&writ, &original).issued().claims, first.claims);
    }
    writ.run(&["keys", "revoke", original.kid()]).exits(0);
    try_redeem(&writ, &original).invalid_request("redemption_key_gone");
}
