//! `writ policy explain`, `writ policy test` and what `writ check` says of policies (CONTRACT 7, 8; R-POL-12, A-139).

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::scene::{self, ACCOUNTS, GATEWAY, MAILER, batch};
use crate::support::cli::{self, Output};
use crate::support::issuer::Issuer;
use crate::support::workload::Form;
use crate::support::writ::{Setup, client_policy};

const MANUAL: &str = include_str!("../../docs/how-to/write-and-test-policies.md");

/// A shell line at the root of the project, where `writ.toml` and the policies lie as they are shipped.
fn shell(line: &str) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("sh");
    let writ = Path::new(env!("CARGO_BIN_EXE_writ")).parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap();
    command.args(["-c", line]).env("PATH", format!("{writ}:{path}")).env_remove("WRIT_CONFIG");
    command.current_dir(root).stdin(Stdio::null());
    cli::run(command)
}

/// A text with every time and every transaction replaced.
fn timeless(text: &str) -> String {
    let digits = |c: char| c.is_ascii_digit();
    let is_time = |word: &str| word.len() == 20 && word.ends_with('Z') && word.contains('T');
    let is_txn = |word: &str| word.len() == 36 && word.split('-').count() == 5;
    let is_epoch = |word: &str| word.len() == 10 && word.chars().all(digits);
    let foreign = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == ':');
    let mut timeless = text.to_owned();
    for word in text.split(foreign).flat_map(|word| [word, word.rsplit(':').next().unwrap()]) {
        if is_time(word) || is_txn(word) || is_epoch(word) {
            timeless = timeless.replace(word, "…");
        }
    }
    timeless
}

/// The commands of the manual, each with what it prints.
fn examples() -> Vec<(String, String)> {
    let blocks = MANUAL.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let example = |block: &str| {
        let block = block.strip_prefix("$ ").expect("a block begins with a command");
        let lines = block.lines().take_while(|line| line.ends_with('\\')).count() + 1;
        let at = block.match_indices('\n').nth(lines - 1).unwrap().0;
        (block[..at].to_owned(), block[at + 1..].to_owned())
    };
    blocks.map(example).collect()
}

#[test]
fn the_manual_shows_what_the_commands_print() {
    let examples = examples();
    assert!(examples.len() >= 8);
    for (command, expected) in &examples {
        let output = shell(command);
        assert_eq!(timeless(&output.stdout), timeless(expected), "{command}: {}", output.stderr);
        assert_eq!(output.code, i32::from(expected.contains("\nrefused: ")), "{command}");
    }
    for client in ["gateway", "mail-delivery-agent", "account-service", "purge-job"] {
        let outcomes = examples.iter().filter(|(command, _)| command.contains(&format!("--client {client} ")));
        let outcomes: Vec<_> = outcomes.map(|(_, text)| text.contains("\nallowed: ")).collect();
        assert!(outcomes.contains(&true) && outcomes.contains(&false), "{client}: {outcomes:?}");
    }
}

#[test]
fn the_expectations_in_the_manual_are_met() {
    let block = MANUAL.split("```toml\n").map(|rest| rest.split("```").next().unwrap());
    let block = block.into_iter().find(|block| block.starts_with("[[test]]")).expect("a block of expectations");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("manual.toml");
    fs::write(&file, block).unwrap();
    shell(&format!("writ policy test {}", file.display())).exits(0).says("2 passed, 0 failed");
}

#[test]
fn the_shipped_policies_do_what_is_expected_of_them() {
    let output = shell("writ policy test --json").exits(0).json();
    assert_eq!(output["failed"], 0, "{output}");
    let tests = output["tests"].as_array().unwrap();
    for client in ["gateway", "mail-delivery-agent", "account-service", "purge-job"] {
        let file = format!("policies/tests/{client}.toml");
        let expected: Vec<_> =
            tests.iter().filter(|test| test["file"] == *file).map(|test| &test["expected"]).collect();
        assert!(expected.iter().any(|&expected| expected == "allow"), "{client}");
        assert!(expected.iter().any(|&expected| expected != "allow"), "{client}");
    }
}

/// A gateway with details and a condition, a mailer, and two that meet later; no certificates, no store.
fn policies() -> Setup {
    let gateway = "[[purpose]]\nscope = \"trade.execute\"\naccept = [\"access_token\", \"txn_token\"]\n\
        granted_by = [\"trade.stocks\"]\nsubjects = [\"u-*\"]\nrequest_details = \"trade.json\"\n\
        tctx.copy = [\"quantity\"]\ntctx.subject = { level = \"level\" }\nwhen = 'details.quantity <= 1000'\n";
    let accounts = "[[purpose]]\nscope = \"account.purge\"\naccept = [\"unsigned_json\"]\nsubjects = [\"*\"]\n";
    let setup = Setup::new().set("tokens.clock_skew", "0s");
    setup.write("policies/trade.json", r#"{"properties":{"quantity":{"type":"number"}},"required":["quantity"]}"#);
    let setup = setup.client("gateway", gateway).client("mailer", MAILER).client("accounts", accounts);
    let setup = setup.client("batch", &batch("min_age = \"1h\""));
    fs::remove_dir_all(setup.path("certs")).unwrap();
    setup
}

fn explain(setup: &Setup, line: &str) -> Output {
    let words = ["policy", "explain"].into_iter().chain(line.split_whitespace());
    setup.run(&words.collect::<Vec<_>>())
}

const TRADE: &str =
    "--client gateway --source access_token --scope trade.execute --subject u-1 --subject-scope trade.stocks";

const LATER: &str = "--client batch --source expired_txn_token --scope account.purge";

/// R-POL-12: a program gets every rule, the outcome and the claims.
#[test]
fn explain_prints_outcome_rules_and_claims_as_json() {
    let setup = policies();
    let line = format!(r#"{TRADE} --details {{"quantity":10.50}} --presented {{"level":"gold"}} --json"#);
    let output = explain(&setup, &line).exits(0);
    assert!(output.stdout.contains(r#""tctx":{"quantity":10.50,"level":"gold"}"#), "{output:?}");
    let answer = output.json();
    let members: Vec<_> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["allowed", "claims", "error", "reason", "rules"]);
    assert_eq!((&answer["allowed"], &answer["error"], &answer["reason"]), (&json!(true), &json!(null), &json!(null)));
    for rule in answer["rules"].as_array().unwrap() {
        assert_eq!(rule["passed"], true);
        assert!(rule["rule"].is_string() && rule["detail"].is_string() && rule.as_object().unwrap().len() == 3);
    }
    let named: Vec<_> = answer["rules"].as_array().unwrap().iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
    assert_eq!(named, ["client", "scope", "accept", "granted_by", "subjects", "request_details", "tctx, rctx", "when"]);
    assert_eq!((&answer["claims"]["sub"], &answer["claims"]["req_wl"]), (&json!("u-1"), &json!("gateway")));

    let refused = explain(&setup, &format!("{TRADE} --json")).exits(1).json();
    assert_eq!((&refused["allowed"], &refused["error"]), (&json!(false), &json!("invalid_scope")));
    assert_eq!((&refused["reason"], &refused["claims"]), (&json!("details_rejected"), &json!(null)));
    let last = refused["rules"].as_array().unwrap().last().unwrap().clone();
    assert_eq!((&last["rule"], &last["passed"]), (&json!("request_details"), &json!(false)));
}

/// Fails the test unless the request is refused for this reason, and its last line has both texts.
#[track_caller]
fn hints(setup: &Setup, line: &str, reason: &str, place: &str, hint: &str) {
    let output = explain(setup, line).exits(1);
    assert!(output.stdout.contains(&format!(", {reason} (")), "{line}: {output:#?}");
    let last = output.stdout.lines().last().unwrap();
    assert!(last.starts_with("To change that: "), "{last}");
    assert!(last.contains(place) && last.contains(hint), "{line}: {last}");
}

/// A refusal says what to change, and where it is written.
#[test]
fn a_refusal_ends_with_what_to_change_and_where() {
    let setup = policies();
    let gateway = |line: usize| format!("/policies/gateway.toml, line {line}: ");
    let file = |name: &str| format!("/policies/{name}.toml: ");
    let trade = |more: &str| format!("{TRADE} {more}");
    for (line, reason, place, hint) in [
        (
            "--client nobody --source jwt --scope s --subject u".to_owned(),
            "client_unknown",
            "write ".into(),
            "/policies/nobody.toml",
        ),
        (
            "--client mailer --source client_credentials --scope a".into(),
            "purpose_not_allowed",
            file("mailer"),
            "add a [[purpose]] table with scope = \"a\"; it has mailbox.deliver, mailbox.report",
        ),
        (
            "--client gateway --source jwt --scope trade.execute --subject u-1".into(),
            "source_not_allowed",
            gateway(5),
            "add \"jwt\" to accept",
        ),
        (
            "--client mailer --source unsigned_json --scope mailbox.report --subject u".into(),
            "source_not_allowed",
            "/policies/mailer.toml, line 11: ".into(),
            "add \"unsigned_json\" to accept, and subjects",
        ),
        (
            "--client batch --source client_credentials --scope account.purge".into(),
            "source_not_allowed",
            "/policies/batch.toml, line 6: ".into(),
            "a client that can redeem a purpose must not get it without a token",
        ),
        (
            trade("").replace("trade.stocks", "read"),
            "scope_exceeds_subject_token",
            gateway(6),
            "add the scope of the token (read) to granted_by",
        ),
        (
            trade("").replace(" --subject-scope trade.stocks", ""),
            "scope_unknown",
            "give the scope of the token".into(),
            "--subject-scope",
        ),
        (
            trade("").replace("u-1", "v-1"),
            "subject_not_allowed",
            gateway(7),
            "add a pattern to subjects that matches v-1",
        ),
        (
            "--client mailer --source client_credentials --scope mailbox.report --subject v".into(),
            "subject_not_allowed",
            "/policies/mailer.toml, line 9: ".into(),
            "add subjects = [\"v\"]",
        ),
        (trade(r#"--details {"quantity":"1"}"#), "details_rejected", gateway(8), "send details that fit the schema"),
        (
            trade(r#"--details {"quantity":1}"#),
            "subject_token_claims_invalid",
            gateway(10),
            "remove the member from tctx.subject",
        ),
        (
            trade(r#"--details {"quantity":1e3} --presented {"level":"eyJhbGciOiJub25lIn0.e30.x"}"#),
            "details_rejected",
            "/policies/gateway.toml: ".into(),
            "level contains a token",
        ),
        (
            trade(r#"--details {"quantity":5000} --presented {"level":1}"#),
            "condition_failed",
            gateway(11),
            "here details.quantity is 5000",
        ),
        (
            trade(r#"--details {"quantity":100000000000000000001} --presented {"level":1}"#),
            "condition_failed",
            gateway(11),
            "here details.quantity is 100000000000000000001",
        ),
        (trade("--age 1s"), "subject_token_expired", "a fresh token".into(), "no policy"),
        (
            trade(r#"--presented {"cnf":{}}"#),
            "subject_token_claims_invalid",
            file("gateway"),
            "vouches_for_bound_tokens",
        ),
        (trade("--details []"), "parameter_malformed", "request_details must be".into(), "one JSON object"),
    ] {
        hints(&setup, &line, reason, &place, hint);
    }
}

/// The same where a token of ours is presented.
#[test]
fn a_refused_redemption_ends_with_what_to_change_and_where() {
    let setup = policies();
    let later = |presented: &str, more: &str| format!("{LATER} --presented {presented} {more}");
    let stored = r#"{"sub":"u","scope":"account.purge","req_wl":"accounts"}"#;
    for (line, reason, place, hint) in [
        (later(stored, "--age 1m"), "redemption_too_early", "/policies/batch.toml, line 11: ", "shorten min_age"),
        (later(stored, "--age 91d"), "redemption_too_old", "/policies/batch.toml, line 10: ", "a longer max_age"),
        (
            later(&stored.replace("accounts", "other"), "--age 2h"),
            "redemption_not_allowed",
            "/policies/batch.toml, line 9: ",
            "add \"other\" to issued_to",
        ),
        (later(stored, "--age 2h --details {}"), "parameter_unsupported", "leave out request_details", "keeps its own"),
        (
            later(&stored.replace("accounts", "accounts\",\"rctx\":{\"delayed\":1},\"x\":\""), ""),
            "redemption_not_allowed",
            "a redeemed token",
            "cannot be exchanged",
        ),
        (
            later(stored, "--age 2h")
                .replace("batch", "gateway")
                .replace("--scope account.purge", "--scope trade.execute"),
            "subject_token_expired",
            "/policies/gateway.toml: ",
            "[purpose.redemption]",
        ),
    ] {
        hints(&setup, &line, reason, place, hint);
    }
}

#[test]
fn explain_names_what_is_decided_elsewhere() {
    let setup = policies();
    let stored = r#"{"sub":"u","scope":"account.purge","req_wl":"accounts"}"#;
    let output = explain(&setup, &format!("{LATER} --presented {stored} --age 2h")).exits(0);
    for line in ["must be on record", "at most 1 use of this transaction", "`writ block`"] {
        assert!(output.stdout.contains(line), "{line}: {output:#?}");
    }
    let begun = "--client accounts --source unsigned_json --scope account.purge --subject u";
    explain(&setup, begun).exits(0).says("would go on record, to be redeemed until");
    let asking = client_policy(
        "asking",
        "[[purpose]]\nscope = \"a\"\naccept = [\"self_signed\"]\nsubjects = [\"u\"]\npdp = true\n",
    );
    setup.write("policies/asking.toml", &asking);
    let setup = setup.set("pdp", toml::Table::from_iter([("endpoint".to_owned(), "https://pdp.example/".into())]));
    let output = explain(&setup, "--client asking --source self_signed --scope a --subject u").exits(0);
    assert!(output.stdout.contains("the decision point would be asked about a"), "{output:#?}");
    assert!(output.stdout.contains("its jti must not have been used before"), "{output:#?}");
}

/// CONTRACT 8
#[test]
fn explain_assumes_a_subject_where_none_is_named() {
    let setup = policies();
    let open = "[[purpose]]\nscope = \"a\"\naccept = [\"jwt\"]\ngranted_by = [\"g\"]\n";
    setup.write("policies/open.toml", &client_policy("open", open));
    let token = "--client open --source jwt --scope a --subject-scope g --json";
    assert_eq!(explain(&setup, token).exits(0).json()["claims"]["sub"], "someone");
    let word = "--client accounts --source unsigned_json --scope account.purge --json";
    assert_eq!(explain(&setup, word).exits(0).json()["claims"]["sub"], "accounts");
    let stored =
        explain(&setup, "--client batch --source expired_txn_token --scope account.purge --json").exits(1).json();
    assert_eq!(stored["reason"], "redemption_not_allowed", "someone is not one whose tokens it may redeem");
    // Of a client that is not there, nothing else need be known.
    assert_eq!(
        explain(&setup, "--client nobody --source txn_token --scope a --json").exits(1).json()["reason"],
        "client_unknown"
    );
}

/// CONTRACT 8: exit code 2.
#[test]
fn a_request_that_makes_no_sense_is_wrong_usage() {
    let setup = policies();
    for (line, expected) in [
        ("--client gateway --source access_token", "--scope"),
        ("--client gateway --source magic --scope a", "must be one of access_token"),
        ("--client gateway --source jwt --scope a --subject u --age soon", "must be a duration"),
        ("--client gateway --source jwt --scope a --subject u --presented [1]", "must be one JSON object"),
        ("--client gateway --source jwt --scope a --presented {\"a\":1,\"a\":1}", "must be one JSON object"),
        (
            "--client mailer --source client_credentials --scope a --age 1s",
            "--age: does not apply to a request by client_credentials",
        ),
        (
            "--client mailer --source unsigned_json --scope a --subject u --subject-scope a",
            "--subject-scope: does not apply",
        ),
        (
            "--client batch --source txn_token --scope a --presented {\"sub\":\"u\",\"scope\":\"a\",\"req_wl\":1}",
            "--presented: are not the claims of a Txn-Token",
        ),
        ("--from-audit nonsense", "is not an audit line"),
        (
            "--from-audit {\"event\":\"token_refused\",\"reason\":\"client_unknown\"}",
            "names no client: the request ended with client_unknown",
        ),
    ] {
        let output = explain(&setup, line).exits(2);
        assert!(output.stderr.contains(expected), "{line}: {output:#?}");
    }
    setup.write("policies/broken.toml", "x = 1\n");
    explain(&setup, TRADE).exits(2).says("policies/broken.toml:1: x: unknown key");
    setup.run(&["policy", "test"]).exits(2).says("policies/broken.toml:1: x: unknown key");
}

/// The service decides as `explain` predicted, and its tokens have the predicted claims.
#[test]
fn the_explanation_is_what_the_service_does() {
    let issuer = Issuer::start();
    let setup = scene::delayed("").issuer(&issuer).client("mailer", MAILER).client("gateway", GATEWAY);
    let writ = setup.start();
    let mail = |subject: &str| Form::client_credentials("mailbox.deliver").set("requested_subject", subject);
    let access_token = |scope: &str| issuer.access_token().claim("scope", scope).claim("sub", "u-1").mint();
    for (client, form, line) in [
        (
            "mailer",
            mail("bob@trust-domain.example"),
            "--source client_credentials --scope mailbox.deliver --subject bob@trust-domain.example",
        ),
        (
            "mailer",
            mail("bob@elsewhere.example"),
            "--source client_credentials --scope mailbox.deliver --subject bob@elsewhere.example",
        ),
        (
            "mailer",
            Form::client_credentials("mailbox.deliver mailbox.report"),
            "--source client_credentials --scope mailbox.deliver,mailbox.report",
        ),
        ("mailer", Form::client_credentials("trade.execute"), "--source client_credentials --scope trade.execute"),
        ("gateway", Form::client_credentials("trade.execute"), "--source client_credentials --scope trade.execute"),
        (
            "gateway",
            Form::exchange(&access_token("trade.stocks"), "trade.execute"),
            "--source access_token --scope trade.execute --subject u-1 --subject-scope trade.stocks",
        ),
        (
            "gateway",
            Form::exchange(&access_token("read"), "trade.execute"),
            "--source access_token --scope trade.execute --subject u-1 --subject-scope read",
        ),
        (
            "gateway",
            Form::exchange(&issuer.access_token().claim("scope", "").mint(), "trade.execute"),
            "--source access_token --scope trade.execute --subject u-1",
        ),
        (
            "batch",
            Form::redeem(&scene::expired(&writ).token, scene::PURGE),
            "--source expired_txn_token --scope account.purge --age 1s --presented {\"sub\":\"accounts\",\"scope\":\"account.purge\",\"req_wl\":\"accounts\"}",
        ),
    ] {
        let line = format!("--client {client} {line}");
        let words =
            line.split(' ').map(|word| if word.contains('{') { word.to_owned() } else { word.replace(',', " ") });
        let words: Vec<_> = ["policy", "explain", "--json"].map(str::to_owned).into_iter().chain(words).collect();
        let foretold = writ.run(&words.iter().map(String::as_str).collect::<Vec<_>>()).json();
        let answer = writ.workload(client).token(&form);
        if answer.status() != 200 {
            assert_eq!(foretold["reason"], answer.reason(), "{line}: {foretold}");
            continue;
        }
        let issued = answer.issued();
        let (mut said, mut expected) = (issued.claims.clone(), foretold["claims"].clone());
        for claims in [&mut said, &mut expected] {
            for varying in ["iat", "exp", "txn"] {
                assert!(claims.as_object_mut().unwrap().remove(varying).is_some(), "{varying} in {claims}");
            }
            if let Some(delayed) = claims.pointer_mut("/rctx/delayed") {
                assert_eq!(delayed.as_object().unwrap().len(), 3);
                *delayed = delayed["use"].take();
            }
        }
        assert_eq!(said, expected, "{line}");
        let life = |claims: &Value| claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
        assert_eq!(life(&issued.claims), life(&foretold["claims"]), "{line}");
    }
}

/// A past decision is explained from its audit line.
#[test]
fn a_request_is_explained_from_its_line_in_the_audit_log() {
    let issuer = Issuer::start();
    let writ = scene::delayed("").issuer(&issuer).client("mailer", MAILER).client("gateway", GATEWAY).start();
    let line_of = |client: &str, form: &Form| {
        let answer = writ.workload(client).token(form);
        writ.audit_of(&answer.request_id()).to_string()
    };
    let explain = |line: &str, more: &[&str]| writ.run(&[&["policy", "explain", "--from-audit", line], more].concat());
    let mail = Form::client_credentials("mailbox.deliver").set("requested_subject", "bob@elsewhere.example");
    let refused = line_of("mailer", &mail);
    let output = explain(&refused, &[]).exits(1);
    output
        .says("Then: refused, subject_not_allowed.")
        .says("bob@elsewhere.example does not fit *@trust-domain.example");

    let traded =
        line_of("gateway", &Form::exchange(&issuer.access_token().claim("scope", "read").mint(), "trade.execute"));
    let output = explain(&traded, &[]).exits(0);
    let output = output.says("Then: refused, scope_exceeds_subject_token.");
    output.says("the subject token covers trade.stocks (--subject-scope)").says("no request_details");
    let told = explain(&traded, &["--subject-scope", "read", "--json"]).exits(1).json();
    assert_eq!(told["reason"], "scope_exceeds_subject_token");

    let expired = scene::expired(&writ);
    let redeemed = line_of("batch", &scene::redeem(&expired));
    let output = explain(&redeemed, &[]).exits(0);
    let output = output.says("Then: a token was issued.").says("accounts requested it (--presented)");
    assert!(output.stdout.contains(expired.txn()), "{output:#?}");
    let presented = r#"{"req_wl":"other"}"#;
    explain(&redeemed, &["--presented", presented]).exits(1).says("redemption_not_allowed");
    assert!(!explain(&redeemed, &[]).stdout.contains("others than these"));
    writ.setup.write("policies/new.toml", &client_policy("new", ""));
    explain(&redeemed, &[]).exits(0).says("the policies in force then were different from these");

    writ.setup.write("line", &format!("{refused}\n"));
    let mut command = writ.setup.command(&["policy", "explain", "--from-audit", "-", "--json"]);
    command.stdin(File::open(writ.setup.path("line")).unwrap());
    assert_eq!(cli::run(command).exits(1).json()["reason"], "subject_not_allowed");
}

const EXPECTED: &str = r#"
[[test]]
name = "a mailbox of ours"
client = "mailer"
source = "client_credentials"
scope = "mailbox.deliver"
subject = "bob@trust-domain.example"
expect = "allow"
claims = { sub = "bob@trust-domain.example", scope = "mailbox.deliver" }

[[test]]
name = "a trade"
client = "gateway"
source = "access_token"
scope = "trade.execute"
subject = "u-1"
subject_scope = "trade.stocks"
details = { quantity = 10 }
presented = { level = "gold" }
expect = "allow"
claims.tctx = { quantity = 10, level = "gold" }

[[test]]
name = "a large trade"
client = "gateway"
source = "access_token"
scope = "trade.execute"
subject = "u-1"
subject_scope = "trade.stocks"
details = { quantity = 10000 }
presented = { level = "gold" }
expect = "condition_failed"
"#;

#[test]
fn expectations_that_are_met_are_counted() {
    let setup = policies();
    setup.write("policies/tests/all.toml", EXPECTED);
    setup.write("policies/tests/notes.md", "no test");
    assert_eq!(setup.run(&["policy", "test"]).exits(0).stdout, "3 passed, 0 failed\n");
    let answer = setup.run(&["policy", "test", "--json"]).exits(0).json();
    assert_eq!((&answer["passed"], &answer["failed"]), (&json!(3), &json!(0)));
    let first = answer["tests"][0].as_object().unwrap();
    assert_eq!(first.keys().collect::<Vec<_>>(), ["actual", "expected", "file", "name", "passed"]);
    assert!(first["file"].as_str().unwrap().ends_with("/policies/tests/all.toml"));
    assert_eq!((&first["name"], &first["passed"]), (&json!("a mailbox of ours"), &json!(true)));
    assert_eq!((&first["expected"], &first["actual"]), (&json!("allow"), &json!("allow")));
}

#[test]
fn an_expectation_that_is_not_met_shows_what_differs() {
    let setup = policies();
    let wrong = EXPECTED
        .replace("sub = \"bob@trust", "sub = \"carol@trust")
        .replace("claims.tctx = { quantity = 10,", "claims.tctx = { quantity = 11, desk = \"x\",")
        .replace("\"condition_failed\"", "\"details_rejected\"");
    setup.write("policies/tests/all.toml", &wrong);
    let output = setup.run(&["policy", "test"]).exits(1);
    for expected in [
        "all.toml:2: a mailbox of ours\n  sub\n    expected  \"carol@trust-domain.example\"\n    actual    \"bob@trust-domain.example\"\n",
        "all.toml:11: a trade\n  tctx.desk\n    expected  \"x\"\n    actual    not there\n  tctx.quantity\n    expected  11\n    actual    10\n",
        "all.toml:23: a large trade\n  expected  details_rejected\n  actual    condition_failed\n            when: trade.execute: details.quantity <= 1000\n",
        "0 passed, 3 failed\n",
    ] {
        assert!(output.stdout.contains(expected), "{expected}\n{}", output.stdout);
    }
    let answer = setup.run(&["policy", "test", "--json"]).exits(1).json();
    assert_eq!((&answer["passed"], &answer["failed"]), (&json!(0), &json!(3)));
    assert_eq!(answer["tests"][1]["expected"], "allow with tctx.desk = \"x\", tctx.quantity = 11");
    assert_eq!(answer["tests"][1]["actual"], "allow with tctx.desk = nothing, tctx.quantity = 10");
    assert_eq!(answer["tests"][2]["actual"], "condition_failed");
}

/// CONTRACT 8: exit code 2, every mistake in one run, and no test is run.
#[test]
fn mistakes_in_expectations_are_named_with_file_and_line() {
    let setup = policies();
    let file = "[[test]]\nname = \"a\"\nclient = \"mailer\"\nsource = \"magic\"\nscope = \"s\"\nexpect = \"deny\"\n\
        clams = {}\n[[test]]\nname = \"b\"\nclient = \"batch\"\nsource = \"expired_txn_token\"\nscope = \"s\"\n\
        expect = \"blocked\"\nclaims = {}\nage = \"-1x\"\npresented = { at = 1979-05-27 }\n[[test]]\nname = \"c\"\n\
        client = \"gateway\"\nsource = \"txn_token\"\nscope = \"s\"\nexpect = \"allow\"\n\
        presented = { req_wl = 1 }\n[[tests]]\n";
    setup.write("policies/tests/wrong.toml", file);
    setup.write("policies/tests/right.toml", EXPECTED);
    let output = setup.run(&["policy", "test"]).exits(2);
    assert_eq!(output.stdout, "");
    for expected in [
        "wrong.toml:4: test[0].source: must be one of access_token",
        "wrong.toml:6: test[0].expect: must be \"allow\" or the reason of a refusal",
        "wrong.toml:7: test[0].clams: unknown key `test[0].clams`: did you mean `claims`?",
        "wrong.toml:14: test[1].claims: does not apply",
        "wrong.toml:15: test[1].age: must be a duration",
        "wrong.toml:16: test[1].presented: 1979-05-27 is not a value in JSON",
        "wrong.toml:17: test[2].presented: are not the claims of a Txn-Token",
        "wrong.toml:24: tests: unknown key `tests`",
    ] {
        assert!(output.stderr.contains(expected), "{expected}\n{}", output.stderr);
    }
    setup.run(&["policy", "test", "gone.toml"]).exits(2).says("gone.toml: No such file");
    fs::remove_dir_all(setup.path("policies/tests")).unwrap();
    setup.run(&["policy", "test"]).exits(2).says("policies/tests: No such file");
    setup.write("empty.toml", "");
    setup.run(&["policy", "test", "empty.toml"]).exits(2).says("empty.toml:1: test: is missing");
}

/// CONTRACT 7: what `writ check` refuses, at the line where it stands.
#[test]
fn check_refuses_what_the_contract_lists() {
    let purpose = |accept: &str, more: &str| format!("[[purpose]]\nscope = \"s\"\naccept = [{accept}]\n{more}\n");
    let redeem = |accept: &str, more: &str| {
        let table = format!("redemption = {{ issued_to = [\"a\"], max_age = \"1d\" }}\n{more}");
        purpose(&format!("\"expired_txn_token\"{accept}"), &table)
    };
    let job = "redemption = { issued_to = [\"a\"], max_age = \"1d\" }";
    for (policy, expected) in [
        (redeem(", \"client_credentials\"", ""), ":5: purpose[0].accept: \"client_credentials\" needs no token"),
        (redeem(", \"unsigned_json\"", ""), ":5: purpose[0].accept: \"unsigned_json\" needs no token"),
        (redeem("", "") + &purpose("\"self_signed\"", ""), ":10: purpose[1].accept: \"self_signed\" needs no token"),
        (redeem("", "tctx.copy = [\"a\"]"), ":7: purpose[0].tctx: does not apply"),
        (redeem("", "rctx.copy = [\"a\"]"), ":7: purpose[0].rctx: does not apply"),
        (redeem("", "request_details = \"x\""), ":7: purpose[0].request_details: does not apply"),
        (purpose("\"access_token\"", ""), ":3: purpose[0].granted_by: must name the scopes"),
        (purpose("\"jwt\"", ""), ":3: purpose[0].granted_by: must name the scopes"),
        (purpose("\"id_token\", \"txn_token\"", ""), ":3: purpose[0].granted_by: must name the scopes"),
        (redeem("", "").replace("\"1d\"", "\"1d\", max_uses = 0"), ":6: purpose[0].redemption.max_uses: must be"),
        (redeem("", "").replace("[\"a\"]", "[]"), ":6: purpose[0].redemption.issued_to: must name"),
        (redeem("", "").replace("\"1d\"", "\"400d\""), ":6: purpose[0].redemption.max_age: is too long"),
        (purpose("\"txn_token\"", "lifetime = \"6m\""), ":6: purpose[0].lifetime: must be at most tokens.max_lifetime"),
        (purpose("\"txn_token\"", job), ":6: purpose[0].redemption: does not apply"),
        (purpose("\"expired_txn_token\"", ""), ":3: purpose[0].redemption: is missing"),
        (
            purpose("\"txn_token\"", "") + &purpose("\"txn_token\"", ""),
            ":9: purpose[1].accept: \"txn_token\" is accepted",
        ),
        (purpose("\"txn_token\"", "when = 'scope.all(p, true)'"), ":6: purpose[0].when: must not loop"),
    ] {
        let output = Setup::new().client("a", &policy).run(&["check"]).exits(2);
        assert!(output.stdout.contains(&format!("/policies/a.toml{expected}")), "{policy}\n{}", output.stdout);
    }
}

/// A-139: one run, ten mistakes, each with its file and line.
#[test]
fn a_policy_with_ten_mistakes_has_all_of_them_named_at_once() {
    let text = "\
client_id = \"tan\"
introspect = \"yes\"
tls_client_auth_san_uri = \"no URI\"
[[purpose]]
scope = \"a b\"
accept = [\"txn_token\"]
[[purpose]]
scope = \"c\"
accept = [\"access_token\", \"magic\"]
granted_by = [\"g\"]
lifetime = \"forever\"
when = 'detials.n < 1'
[[purpose]]
scope = \"d\"
accept = [\"expired_txn_token\"]
outlives = true
[purpose.redemption]
issued_to = []
max_age = \"4000d\"
";
    let setup = Setup::new().policy("ten.toml", text);
    let output = setup.run(&["check", "--json"]).exits(2).json();
    let problems = output["problems"].as_array().unwrap();
    let errors: Vec<_> = problems.iter().filter(|problem| problem["severity"] == "error").collect();
    let places: Vec<_> =
        errors.iter().map(|problem| (problem["line"].as_u64().unwrap(), problem["key"].as_str().unwrap())).collect();
    let expected = [
        (1, "client_id"),
        (2, "introspect"),
        (3, "tls_client_auth_san_uri"),
        (5, "purpose[0].scope"),
        (9, "purpose[1].accept"),
        (11, "purpose[1].lifetime"),
        (12, "purpose[1].when"),
        (16, "purpose[2].outlives"),
        (18, "purpose[2].redemption.issued_to"),
        (19, "purpose[2].redemption.max_age"),
    ];
    assert_eq!(places, expected, "{output:#}");
    assert!(errors.iter().all(|problem| problem["file"].as_str().unwrap().ends_with("/policies/ten.toml")));
    let text = setup.run(&["check"]).exits(2).stdout;
    assert!(text.contains("/policies/ten.toml:12: purpose[1].when: has an unknown name `detials`"), "{text}");
}

/// What is valid but may be unintended is a warning.
#[test]
fn check_warns_of_what_is_out_of_reach_or_within_reach_of_two() {
    let long = ACCOUNTS.replacen("\"1s\"", "\"2m\"", 1);
    let stray = "[[purpose]]\nscope = \"x\"\naccept = [\"txn_token\"]\n\
        [[purpose]]\nscope = \"y\"\naccept = [\"jwt\"]\ngranted_by = [\"g\"]\n";
    let setup = Setup::new().client("accounts", &long).client("batch", &batch("")).client("stray", stray);
    let later = batch("").replace("[\"accounts\"]", "[\"accounts\", \"stray\", \"gone\"]");
    let setup = setup.client("second", &later);
    let text = setup.run(&["check"]).exits(0).stdout;
    for expected in [
        "/accounts.toml:8: purpose[0].lifetime: warning: \"batch\" redeems tokens for \"account.purge\"",
        "/second.toml:8: purpose[0].redemption: warning: \"batch\" can also redeem \"account.purge\"",
        "/second.toml:9: purpose[0].redemption.issued_to: warning: \"stray\" can never get a token",
        "/second.toml:9: purpose[0].redemption.issued_to: warning: \"gone\" has no policy",
        "/stray.toml:5: purpose[0].accept: warning: accepts only Txn-Tokens for \"x\"",
        "/stray.toml:8: purpose[1].accept: warning: accepts \"jwt\", which no [[subject_issuer]] has in token_types: no client",
        "ok, 6 warnings",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    let clean = scene::delayed("").run(&["check"]).exits(0);
    assert_eq!(clean.stdout, "ok\n");
}
