//! The external decision point: after local policy has said yes (CONTRACT 3.6, 6, 7; R-RESP-08, R-DELAY-18).

use serde_json::Value;

use crate::scene::{ACCOUNTS, MAILER, PURGE, batch, expired, redeem};
use crate::support::answer::{Answer, Refused};
use crate::support::eventually;
use crate::support::issuer::Issuer;
use crate::support::pdp::{self, Mode, Pdp, ReceivedRequest};
use crate::support::pki::{self, Ca};
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

/// Purposes that ask the decision point, and one that does not.
const TRADER: &str = r#"
[[purpose]]
scope = "trade.execute"
accept = ["client_credentials"]
subjects = ["*@trust-domain.example"]
pdp = true

[[purpose]]
scope = "trade.settle"
accept = ["client_credentials"]
pdp = true

[[purpose]]
scope = "trade.list"
accept = ["client_credentials"]
"#;

fn setup(pdp: &Pdp) -> Setup {
    pdp.configure(Setup::new()).client("trader", TRADER).client("mailer", MAILER)
}

fn ask(writ: &Writ, scope: &str) -> Answer {
    writ.workload("trader").token(&Form::client_credentials(scope))
}

#[track_caller]
fn unavailable(answer: &Answer) -> Refused {
    answer.refused(503, "temporarily_unavailable", "pdp_unavailable")
}

/// The decision in the audit line of a request.
fn audited(writ: &Writ, request_id: &str) -> Value {
    writ.audit_of(request_id)["pdp"].clone()
}

/// How many requests to the decision point ended like that.
fn count(writ: &Writ, outcome: &str) -> Option<f64> {
    writ.metric("writ_pdp_requests_total", &[("outcome", outcome)])
}

/// `AuthZEN` 1.0: every member, in every digit that the client sent.
#[test]
fn a_request_says_who_wants_what_for_whom() {
    let (pdp, issuer) = (Pdp::start(), Issuer::start());
    let gateway = "[[purpose]]\nscope = \"trade.execute\"\naccept = [\"access_token\"]\ngranted_by = [\"trade.stocks\"]\npdp = true\n";
    let writ = pdp.configure(Setup::new()).issuer(&issuer).client("gateway", gateway).start();
    let form = Form::exchange(&issuer.access_token().mint(), "trade.execute")
        .set("request_details", r#"{"quantity":100000000000000000001,"price":0.10,"ticker":"ACME"}"#)
        .set("request_context", r#"{"req_ip":"2001:db8::1"}"#);
    let issued = writ.workload("gateway").token(&form).issued();
    let [asked] = &pdp.requests()[..] else { panic!("asked once") };
    let expected = format!(
        concat!(
            r#"{{"subject":{{"type":"subject","id":"alice","properties":{{"issuer":"{}"}}}},"#,
            r#""action":{{"name":"trade.execute"}},"resource":{{"type":"trust_domain","id":"trust-domain.example"}},"#,
            r#""context":{{"client":"gateway","source":"access_token","#,
            r#""details":{{"quantity":100000000000000000001,"price":0.10,"ticker":"ACME"}},"#,
            r#""context":{{"req_ip":"2001:db8::1"}}}}}}"#
        ),
        issuer.url()
    );
    assert_eq!(asked.body, expected);
    assert_eq!(asked.header("x-request-id"), Some(issued.request_id.as_str()));
    assert_eq!(asked.header("content-type"), Some("application/json"));
    assert_eq!(asked.header("authorization"), None);
    assert_eq!(audited(&writ, &issued.request_id), "allowed");
    assert_eq!(count(&writ, "allowed"), Some(1.0));
}

#[test]
fn a_denial_gives_no_token() {
    let pdp = Pdp::start();
    let writ = setup(&pdp).start();
    pdp.set_mode(Mode::No);
    let refused = ask(&writ, "trade.settle").unauthorized_client("pdp_denied");
    let line = writ.audit_of(&refused.request_id);
    assert_eq!(
        (&line["event"], &line["reason"], &line["pdp"]),
        (&"token_refused".into(), &"pdp_denied".into(), &"denied".into())
    );
    assert_eq!(count(&writ, "denied"), Some(1.0));
    pdp.set_mode(Mode::Yes);
    ask(&writ, "trade.settle").issued();
}

#[test]
fn it_is_asked_about_each_purpose_that_wants_it_and_no_other() {
    let pdp = Pdp::start();
    let writ = setup(&pdp).start();
    let purposes = || pdp.requests().iter().map(ReceivedRequest::purpose).collect::<Vec<_>>();
    let issued = ask(&writ, "trade.list trade.settle trade.execute").issued();
    assert_eq!(purposes(), ["trade.settle", "trade.execute"]);
    assert_eq!(audited(&writ, &issued.request_id), "allowed");
    pdp.set_mode(Mode::Only("trade.settle"));
    ask(&writ, "trade.settle trade.execute").unauthorized_client("pdp_denied");
    assert_eq!(purposes(), ["trade.settle", "trade.execute"]);
    let issued = ask(&writ, "trade.list").issued();
    assert!(purposes().is_empty());
    assert_eq!(audited(&writ, &issued.request_id), Value::Null);
}

/// R-POL-01: it can only restrict.
#[test]
fn what_local_policy_refuses_is_never_asked() {
    let pdp = Pdp::start();
    let writ = setup(&pdp).start();
    let stranger = Form::client_credentials("trade.execute").set("requested_subject", "eve@evil.example");
    writ.workload("trader").token(&stranger).unauthorized_client("subject_not_allowed");
    ask(&writ, "trade.settle trade.other").invalid_scope("purpose_not_allowed");
    assert!(pdp.requests().is_empty());
    let known = Form::client_credentials("trade.execute").set("requested_subject", "eve@trust-domain.example");
    writ.workload("trader").token(&known).issued();
    assert!(
        pdp.requests()[0]
            .body
            .starts_with(r#"{"subject":{"type":"subject","id":"eve@trust-domain.example","properties":{}},"#)
    );
}

/// R-RESP-08: only `"decision": true` in a 200 allows.
#[test]
fn an_answer_that_is_no_decision_gives_no_token() {
    let pdp = Pdp::start();
    let writ = setup(&pdp).start();
    let mut modes: Vec<Mode> = [
        "",
        "yes",
        "true",
        "{}",
        r#"{"decision":"true"}"#,
        r#"{"decision":null}"#,
        r#"{"decision":true,"decision":true}"#,
        r#"{"decision":true}{"decision":true}"#,
        r#"{"evaluations":[{"decision":true}]}"#,
    ]
    .map(|body| Mode::Body(body.to_owned()))
    .into();
    modes.push(Mode::Body(format!("{{\"decision\":true,\"context\":\"{}\"}}", "x".repeat(64 * 1024))));
    modes.extend([201, 202, 400, 401, 403, 404, 429].map(Mode::Status));
    modes.push(Mode::Redirect);
    for mode in modes {
        pdp.set_mode(mode);
        let refused = unavailable(&ask(&writ, "trade.settle"));
        assert_eq!(pdp.requests().len(), 1, "such an answer is not asked for twice");
        assert_eq!(audited(&writ, &refused.request_id), "unavailable");
    }
    pdp.set_mode(Mode::Yes);
    ask(&writ, "trade.settle").issued();
}

/// R-RESP-08
#[test]
fn a_fault_is_tried_once_more_and_then_gives_no_token() {
    let pdp = Pdp::start();
    let writ = setup(&pdp).start();
    for mode in [Mode::Status(500), Mode::Status(503), Mode::Broken] {
        pdp.set_mode(mode);
        let refused = unavailable(&ask(&writ, "trade.settle"));
        assert_eq!(pdp.requests().len(), 2);
        assert_eq!(audited(&writ, &refused.request_id), "unavailable");
        let cause = |line: &Value| line["message"] == "a request failed" && line["request_id"] == *refused.request_id;
        writ.wait_for_log("the cause", cause);
    }
    assert_eq!(count(&writ, "unavailable"), Some(3.0));
    pdp.set_mode(Mode::Yes);
    ask(&writ, "trade.settle").issued();
}

/// R-RESP-08
#[test]
fn no_answer_in_time_gives_no_token() {
    let pdp = Pdp::start();
    let writ = setup(&pdp).set("pdp.timeout", "1s").start();
    pdp.set_mode(Mode::Silent);
    unavailable(&ask(&writ, "trade.settle"));
    assert_eq!(pdp.requests().len(), 1);
    pdp.set_mode(Mode::Yes);
    ask(&writ, "trade.settle").issued();
}

/// `pdp.timeout` does not extend `limits.request_timeout`.
#[test]
fn it_is_not_waited_for_beyond_the_end_of_the_request() {
    let pdp = Pdp::start();
    let writ = setup(&pdp).set("limits.request_timeout", "2s").set("pdp.timeout", "2s").start();
    pdp.set_mode(Mode::Silent);
    let refused = unavailable(&ask(&writ, "trade.settle"));
    assert_eq!(audited(&writ, &refused.request_id), "unavailable");
}

#[test]
fn while_it_is_silent_other_clients_are_served() {
    let pdp = Pdp::start();
    let writ = setup(&pdp).set("limits.request_timeout", "60s").set("pdp.timeout", "50s").start();
    pdp.set_mode(Mode::Silent);
    let waiting = writ.workload("trader");
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let trader = waiting.clone();
            std::thread::spawn(move || trader.token(&Form::client_credentials("trade.settle")))
        })
        .collect();
    pdp.wait_for_request();
    for _ in 0..8 {
        writ.workload("mailer").token(&Form::client_credentials("mailbox.report")).issued();
    }
    ask(&writ, "trade.list").issued();
    pdp.set_mode(Mode::Yes);
    for answer in waiting {
        answer.join().unwrap().issued();
    }
}

/// After five failures in a row it is not asked for a while, so that requests do not wait in vain.
#[test]
fn a_decision_point_that_keeps_failing_is_not_asked_for_a_while() {
    let pdp = Pdp::start();
    let writ = setup(&pdp).start();
    pdp.set_mode(Mode::Status(503));
    for _ in 0..5 {
        unavailable(&ask(&writ, "trade.settle"));
    }
    assert_eq!(pdp.requests().len(), 10);
    pdp.set_mode(Mode::Yes);
    unavailable(&ask(&writ, "trade.settle"));
    assert!(pdp.requests().is_empty());
    eventually("it is asked again", || (ask(&writ, "trade.settle").status() == 200).then_some(()));
    assert_eq!(pdp.requests().len(), 1);
}

/// Mutual TLS.
#[test]
fn both_sides_must_show_a_certificate_that_the_other_trusts() {
    let pdp = Pdp::start();
    let mut nameless = setup(&pdp);
    nameless.unset("pdp.certificate");
    nameless.unset("pdp.private_key");
    let stranger = setup(&pdp);
    pdp::write_identity(&stranger, &Ca::root("strangers").issue(pki::client("writ")));
    let impostor = setup(&pdp);
    impostor.write("certs/pdp-ca.pem", &Ca::root("others").pem());
    for setup in [nameless, stranger, impostor] {
        let writ = setup.start();
        unavailable(&ask(&writ, "trade.settle"));
        ask(&writ, "trade.list").issued();
    }
    assert!(pdp.requests().is_empty());
}

/// CONTRACT 6: these files are watched too; the last good set is kept.
#[test]
fn its_certificates_are_renewed_without_a_restart() {
    let pdp = Pdp::start();
    let setup = setup(&pdp);
    pdp::write_identity(&setup, &Ca::root("strangers").issue(pki::client("writ")));
    let writ = setup.start();
    unavailable(&ask(&writ, "trade.settle"));
    writ.expect_event("certificates_reloaded", || pdp::write_identity(&writ.setup, &pdp.credentials()));
    ask(&writ, "trade.settle").issued();
    let broken = || {
        writ.setup.write("certs/pdp-client.pem", "no certificate");
        writ.hup();
    };
    let told = |line: &Value| line["message"].as_str().is_some_and(|text| text.contains("[pdp] are refused"));
    writ.expect_log("what is wrong", broken, told);
    ask(&writ, "trade.settle").issued();
}

/// R-DELAY-18: what is refused late counts nothing.
#[test]
fn a_redemption_that_it_denies_spends_no_use() {
    let pdp = Pdp::start();
    let batch = batch("").replace("accept = [\"expired_txn_token\"]", "accept = [\"expired_txn_token\"]\npdp = true");
    let writ = pdp.configure(Setup::new()).client("accounts", ACCOUNTS).client("batch", &batch).start();
    let original = expired(&writ);
    assert!(pdp.requests().is_empty());
    let job = writ.workload("batch");
    pdp.set_mode(Mode::No);
    job.token(&redeem(&original)).unauthorized_client("pdp_denied");
    pdp.set_mode(Mode::Status(403));
    unavailable(&job.token(&redeem(&original)));
    let [first, _] = &pdp.requests()[..] else { panic!("asked twice") };
    let expected = format!(
        concat!(
            r#"{{"subject":{{"type":"subject","id":"accounts","properties":{{}}}},"action":{{"name":"{}"}},"#,
            r#""resource":{{"type":"trust_domain","id":"trust-domain.example"}},"context":{{"client":"batch","#,
            r#""source":"expired_txn_token","details":{{}},"context":{{}},"txn":"{}"}}}}"#
        ),
        PURGE,
        original.txn()
    );
    assert_eq!(first.body, expected);
    pdp.set_mode(Mode::Yes);
    let redeemed = job.token(&redeem(&original)).issued();
    assert_eq!(redeemed.use_number(), Some(1));
    // A free retry is decided anew.
    pdp.set_mode(Mode::No);
    job.token(&redeem(&original)).unauthorized_client("pdp_denied");
    pdp.set_mode(Mode::Yes);
    assert_eq!(job.token(&redeem(&original)).issued().claims, redeemed.claims);
}

/// A-139
#[test]
fn a_policy_that_asks_a_decision_point_needs_one() {
    let without = Setup::new().client("trader", TRADER);
    without.run(&["check"]).exits(2).says("purpose[0].pdp: needs an external decision point");
    without.run(&["serve"]).exits(2).says("purpose[0].pdp");
    setup(&Pdp::start()).run(&["check"]).exits(0);
}

/// A-137, A-139
#[test]
fn files_of_the_section_are_checked_before_they_are_used() {
    let pdp = Pdp::start();
    let with = |file: &str, content: &str| {
        let setup = setup(&pdp);
        setup.write(file, content);
        setup
    };
    let other = pdp.credentials();
    for (setup, key) in [
        (with("certs/pdp-ca.pem", "no certificate"), "pdp.ca"),
        (with("certs/pdp-client.pem", "no certificate"), "pdp.certificate"),
        (with("certs/pdp-client.key", "no key"), "pdp.private_key"),
        (with("certs/pdp-client.key", &other.key_pem), "pdp.certificate"),
        (setup(&pdp).set("pdp.ca", "certs/missing.pem"), "pdp.ca"),
    ] {
        setup.run(&["check"]).exits(2).says(key);
        setup.run(&["serve"]).exits(2).says(key);
    }
}
