//! Introspection, asked of issuers and offered to clients (area INTRO).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use toml::Table;

use crate::support::answer::{Answer, Issued};
use crate::support::issuer::{Asked, Issuer, Word};
use crate::support::jose::Key;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, eventually, now};

const OPAQUE: &str = "2YotnFZFEjr1zCsicMWpAA";
const EXECUTE: &str = "trade.execute";
const DELIVER: &str = "mailbox.deliver";
const PURGE: &str = "account.purge";

const GATEWAY: &str = r#"
[[purpose]]
scope = "trade.execute"
accept = ["access_token"]
granted_by = ["trade.stocks"]
"#;

const MAILER: &str = r#"
[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials"]
subjects = ["*"]
request_details = "any.json"
tctx.copy = ["size"]
rctx.copy = ["req_ip"]
"#;

/// An issuer of opaque tokens, with its table changed.
fn asking_with(issuer: &Issuer, change: impl FnOnce(&mut Table)) -> Setup {
    let setup = Setup::new();
    setup.write("certs/login.secret", "s3cret");
    let setup = setup.issuer_with(issuer, |table| {
        let mut introspection = Table::new();
        introspection.insert("endpoint".into(), issuer.introspection_endpoint().into());
        introspection.insert("client_id".into(), "writ".into());
        introspection.insert("client_secret_file".into(), "certs/login.secret".into());
        table.insert("introspection".into(), introspection.into());
        change(table);
    });
    setup.client("gateway", GATEWAY)
}

fn asking(issuer: &Issuer) -> Writ {
    asking_with(issuer, |_| {}).start()
}

fn present(writ: &Writ) -> Answer {
    writ.workload("gateway").token(&Form::exchange(OPAQUE, EXECUTE))
}

#[track_caller]
fn cannot_tell(answer: &Answer) {
    answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
}

/// A good reply with this member, or without it where the value is null.
fn reply_with(name: &str, value: Value) -> Word {
    let mut reply = Issuer::reply();
    reply[name] = value;
    reply.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    Word::Says(reply)
}

fn form(asked: &Asked) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(asked.body.as_bytes()).into_owned().collect()
}

/// R-INTRO-01
#[test]
fn an_issuer_is_asked_as_rfc_7662_has_it() {
    let issuer = Issuer::start();
    let writ = asking(&issuer);
    issuer.introspect(Word::Says(Issuer::reply()));
    present(&writ).issued();
    let [asked] = issuer.asked().try_into().unwrap();
    assert!(asked.line.starts_with("POST /introspect "), "{}", asked.line);
    assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(asked.headers["accept"], "application/json");
    assert_eq!(asked.headers["authorization"], format!("Basic {}", STANDARD.encode("writ:s3cret")));
    let expected = [("token", OPAQUE), ("token_type_hint", "access_token")];
    assert_eq!(form(&asked), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
}

/// R-INTRO-01
#[test]
fn an_issuer_is_asked_over_https_only() {
    let issuer = Issuer::start();
    let setup = asking_with(&issuer, |table| {
        let endpoint = issuer.introspection_endpoint().replace("https:", "http:");
        table["introspection"].as_table_mut().unwrap().insert("endpoint".into(), endpoint.into());
    });
    setup.run(&["check"]).exits(2).says("endpoint");
}

/// R-INTRO-01: the two seconds are the service's own, and the request has ten.
#[test]
fn an_issuer_is_waited_for_in_vain_only_so_long_and_asked_at_most_twice() {
    let issuer = Issuer::start();
    let writ = asking(&issuer);
    for (word, times) in [(Word::Silence, 1..=2), (Word::HangsUp, 2..=2), (Word::Answers(503, String::new()), 2..=2)] {
        issuer.introspect(word);
        let before = issuer.asked().len();
        cannot_tell(&present(&writ));
        assert!(times.contains(&(issuer.asked().len() - before)));
    }
}

/// R-INTRO-02
#[test]
fn only_a_boolean_true_is_active() {
    let issuer = Issuer::start();
    let writ = asking(&issuer);
    for value in [json!(false), Value::Null, json!("true"), json!(1)] {
        issuer.introspect(reply_with("active", value));
        present(&writ).invalid_request("subject_token_inactive");
    }
    for body in ["", "active", "{\"active\":true", "[true]"] {
        issuer.introspect(Word::Answers(200, body.to_owned()));
        present(&writ).invalid_request("subject_token_inactive");
    }
}

/// R-INTRO-02
#[test]
fn an_issuer_that_does_not_say_is_no_verdict() {
    let issuer = Issuer::start();
    let writ = asking(&issuer);
    for status in [401, 403, 500, 503] {
        issuer.introspect(Word::Answers(status, Issuer::reply().to_string()));
        cannot_tell(&present(&writ));
    }
}

/// R-INTRO-03
#[test]
fn what_an_issuer_says_is_checked_here() {
    let issuer = Issuer::start();
    let writ = asking(&issuer);
    for (name, value, reason) in [
        ("exp", json!(now() - 60), "subject_token_expired"),
        ("nbf", json!(now() + 600), "subject_token_not_yet_valid"),
        ("iss", json!("https://other.example"), "subject_token_claims_invalid"),
        ("aud", json!("https://other.example"), "subject_token_audience_mismatch"),
        ("token_type", json!("refresh_token"), "subject_token_claims_invalid"),
        ("sub", Value::Null, "subject_token_claims_invalid"),
    ] {
        issuer.introspect(reply_with(name, value));
        present(&writ).invalid_request(reason);
    }
}

/// R-INTRO-03: absent, the issuer's `scopes` speak; there are none here.
#[test]
fn the_scope_is_the_one_that_the_issuer_says() {
    let issuer = Issuer::start();
    let writ = asking(&issuer);
    for (scope, reason) in [(json!("other"), "scope_exceeds_subject_token"), (Value::Null, "scope_unknown")] {
        issuer.introspect(reply_with("scope", scope));
        present(&writ).invalid_scope(reason);
    }
    issuer.introspect(reply_with("scope", json!("other trade.stocks")));
    present(&writ).issued();
}

/// R-INTRO-04: by default nothing is kept, neither a yes nor a no.
#[test]
fn an_issuer_is_asked_anew_for_each_exchange() {
    let issuer = Issuer::start();
    let writ = asking(&issuer);
    issuer.introspect(Word::Says(Issuer::reply()));
    present(&writ).issued();
    issuer.introspect(reply_with("active", json!(false)));
    present(&writ).invalid_request("subject_token_inactive");
    issuer.introspect(Word::Says(Issuer::reply()));
    present(&writ).issued();
    let count = |outcome| writ.metric("writ_introspection_total", &[("issuer", &issuer.url()), ("outcome", outcome)]);
    assert_eq!((count("active"), count("inactive")), (Some(2.0), Some(1.0)));
}

/// R-INTRO-04
#[test]
fn an_issuer_that_keeps_failing_is_left_alone_for_a_while() {
    let issuer = Issuer::start();
    let writ = asking(&issuer);
    issuer.introspect(Word::HangsUp);
    (0..5).for_each(|_| cannot_tell(&present(&writ)));
    let asked = issuer.asked().len();
    cannot_tell(&present(&writ));
    assert_eq!(issuer.asked().len(), asked);
    issuer.introspect(Word::Says(Issuer::reply()));
    eventually("it is asked again", || (present(&writ).status() == 200).then_some(()));
}

/// `mailer`, whose tokens `reader` may ask about.
fn offering() -> Writ {
    let setup = Setup::new();
    setup.write("policies/any.json", "{}");
    setup.client("mailer", MAILER).client("reader", "introspect = true\n").start()
}

fn issue(writ: &Writ) -> Issued {
    let form = Form::client_credentials(DELIVER)
        .set("requested_subject", "ann")
        .set("request_details", r#"{"size":7}"#)
        .set("request_context", r#"{"req_ip":"192.0.2.1"}"#);
    writ.workload("mailer").token(&form).issued()
}

/// R-INTRO-05
#[test]
fn only_a_client_with_permission_may_ask() {
    let writ = offering();
    let issued = issue(&writ);
    writ.workload("reader").introspect(&issued.token).active();
    let mailer = writ.workload("mailer").introspect(&issued.token);
    // CONTRACT 3.6 where R-INTRO-06 has `{"active":false}`: a client learns that its policy lacks the permission.
    mailer.refused(403, "unauthorized_client", "introspection_not_allowed");
}

/// R-INTRO-05, R-INTRO-06
#[test]
fn who_asks_is_authenticated_as_at_the_token_endpoint() {
    let writ = offering();
    let issued = issue(&writ);
    writ.workload("nobody").introspect(&issued.token).invalid_client("client_unknown");
    assert!(writ.stranger().try_connect().and_then(|mut session| session.connection.receive()).is_err());
}

/// R-INTRO-06
#[test]
fn what_is_not_valid_now_is_inactive_and_nothing_else_is_told() {
    let (writ, other, login) = (offering(), offering(), Issuer::start());
    let issued = issue(&writ);
    let (signed, _) = issued.token.rsplit_once('.').unwrap();
    let forger = Key::es256(issued.kid());
    let reader = writ.workload("reader");
    for token in [
        format!("{signed}.{}", "A".repeat(86)),
        forger.token(&issued.header.to_string(), &issued.claims.to_string()),
        issue(&other).token,
        login.access_token().mint(),
        OPAQUE.to_owned(),
    ] {
        reader.introspect(&token).inactive();
    }
    writ.run(&["keys", "revoke", issued.kid()]).exits(0);
    reader.introspect(&issued.token).inactive();
}

/// R-INTRO-06
#[test]
fn an_expired_token_is_inactive_for_whoever_could_redeem_it_too() {
    let accounts = format!("[[purpose]]\nscope = \"{PURGE}\"\naccept = [\"client_credentials\"]\nlifetime = \"1s\"\n");
    let batch = format!(
        "introspect = true\n[[purpose]]\nscope = \"{PURGE}\"\naccept = [\"expired_txn_token\"]\n\
         [purpose.redemption]\nissued_to = [\"accounts\"]\nmax_age = \"1d\"\n"
    );
    let writ = Setup::new().client("accounts", &accounts).client("batch", &batch).start();
    let original = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    original.wait_until_expired();
    writ.workload("batch").introspect(&original.token).inactive();
    writ.workload("batch").token(&Form::redeem(&original.token, PURGE)).issued();
}

/// R-INTRO-06
#[test]
fn a_request_without_a_token_is_refused() {
    let writ = offering();
    for form in [Form::default(), Form::default().set("token", "")] {
        writ.workload("reader").connect().introspect(&form).invalid_request("parameter_missing");
    }
}

/// R-INTRO-07: by CONTRACT 4 all claims are told, `tctx` and `rctx` too: the permission covers them.
#[test]
fn an_active_token_is_told_with_its_claims() {
    let writ = offering();
    let issued = issue(&writ);
    let answer = writ.workload("reader").introspect(&issued.token);
    let expected = json!({
        "active": true, "token_type": "N_A", "iss": ISSUER, "aud": "trust-domain.example", "sub": "ann",
        "scope": DELIVER, "req_wl": "mailer", "txn": issued.txn(), "iat": issued.iat(), "exp": issued.exp(),
        "tctx": {"size": 7}, "rctx": {"req_ip": "192.0.2.1"},
    });
    assert_eq!(answer.response.json(), expected);
    assert_eq!(answer.active(), issued.claims);
}
