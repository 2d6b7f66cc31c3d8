//! Opaque access tokens, and JWTs whose issuer is asked about them: what its answer is worth, and what happens while it
//! does not answer (CONTRACT 3.2, 6, 7; A-051, A-077, A-078; R-SUBJ-11, R-INTRO-01 to R-INTRO-04).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use toml::Table;

use crate::scene::{self, GATEWAY, MAILER};
use crate::support::answer::Answer;
use crate::support::issuer::{AUDIENCE, Issuer, Mode, ReceivedRequest, Reply};
use crate::support::jose::Key;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{eventually, now};

const EXECUTE: &str = "trade.execute";
const OPAQUE: &str = "2YotnFZFEjr1zCsicMWpAA";
const SECRET: &str = "s3cret: p@ss+w\u{f6}rd";

/// Adds an issuer that can be asked, with its table changed.
fn introspecting(setup: Setup, issuer: &Issuer, change: impl FnOnce(&mut Table)) -> Setup {
    setup.write("certs/login.secret", &format!("{SECRET}\n"));
    setup.issuer_with(issuer, |table| {
        let mut introspection = Table::new();
        introspection.insert("endpoint".into(), issuer.introspection_endpoint().into());
        introspection.insert("client_id".into(), "writ one".into());
        introspection.insert("client_secret_file".into(), "certs/login.secret".into());
        table.insert("introspection".into(), introspection.into());
        change(table);
    })
}

fn always(table: &mut Table) {
    table["introspection"].as_table_mut().unwrap().insert("always".into(), true.into());
}

fn setup(issuer: &Issuer) -> Setup {
    introspecting(Setup::new(), issuer, |_| {}).client("gateway", GATEWAY).client("mailer", MAILER)
}

/// A running service whose issuer is asked about every access token.
fn always_asking(issuer: &Issuer) -> Writ {
    introspecting(Setup::new(), issuer, always).client("gateway", GATEWAY).start()
}

fn present(writ: &Writ, token: &str) -> Answer {
    writ.workload("gateway").token(&Form::exchange(token, EXECUTE))
}

/// Fails the test unless this is the answer while the issuer does not say.
#[track_caller]
fn unavailable(answer: &Answer) {
    answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
}

fn active(change: impl FnOnce(&mut Value)) -> Reply {
    let mut reply = Issuer::active();
    change(&mut reply);
    Reply::Json(reply)
}

/// A good reply with this member, or without it where the value is null.
fn active_with(name: &str, value: Value) -> Reply {
    active(|reply| {
        reply[name] = value;
        reply.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    })
}

fn form(asked: &ReceivedRequest) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(asked.body.as_bytes()).into_owned().collect()
}

/// R-INTRO-01, R-SUBJ-11
#[test]
fn an_opaque_token_is_exchanged_if_its_issuer_says_that_it_is_active() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    issuer.set_reply(active_with("email", json!("alice@example.com")));
    let answer = present(&writ, OPAQUE);
    let issued = answer.issued();
    assert_eq!(
        issued.claims,
        json!({
            "iss": crate::support::ISSUER, "iat": issued.iat(), "exp": issued.iat() + 60, "aud": "trust-domain.example",
            "txn": issued.txn(), "sub": "alice", "scope": EXECUTE, "req_wl": "gateway",
        })
    );
    let [asked] = issuer.requests().try_into().expect("asked once");
    assert_eq!(asked.line, "POST /introspect HTTP/1.1");
    assert_eq!(asked.headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(asked.headers["accept"], "application/json");
    assert!(!asked.headers.contains_key("accept-encoding"));
    let expected = [("token", OPAQUE), ("token_type_hint", "access_token")];
    assert_eq!(form(&asked), expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let audited = writ.audit_of(&issued.request_id);
    assert_eq!((&audited["source"], &audited["subject_issuer"]), (&"access_token".into(), &issuer.url().into()));
    assert_eq!(writ.metric("writ_introspection_total", &[("issuer", &issuer.url()), ("outcome", "active")]), Some(1.0));
}

/// R-INTRO-01, RFC 6749 2.3.1
#[test]
fn requests_are_authenticated_with_the_client_secret() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    issuer.set_reply(Reply::Json(Issuer::active()));
    present(&writ, OPAQUE).issued();
    let credentials = issuer.requests()[0].headers["authorization"].clone();
    let pair = STANDARD.decode(credentials.strip_prefix("Basic ").expect("HTTP Basic")).unwrap();
    assert_eq!(String::from_utf8(pair).unwrap(), "writ+one:s3cret%3A+p%40ss%2Bw%C3%B6rd");
}

/// A-077, R-INTRO-02
#[test]
fn only_a_boolean_true_is_active() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    for value in [json!(false), json!("true"), json!(1), json!([true]), json!({}), Value::Null] {
        issuer.set_reply(active_with("active", value));
        present(&writ, OPAQUE).invalid_request("subject_token_inactive");
    }
    issuer.set_reply(active(|reply| reply["active"] = Value::Null));
    present(&writ, OPAQUE).invalid_request("subject_token_inactive");
    assert_eq!(
        writ.metric("writ_introspection_total", &[("issuer", &issuer.url()), ("outcome", "inactive")]),
        Some(7.0)
    );
}

/// R-INTRO-02, A-053, A-071
#[test]
fn a_reply_that_is_not_one_json_object_is_inactive() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    let good = Issuer::active().to_string();
    let again = |member: &str| format!("{{{member},{}", good.strip_prefix('{').unwrap());
    for body in [
        String::new(),
        "active".to_owned(),
        "<html>active</html>".to_owned(),
        "[true]".to_owned(),
        "true".to_owned(),
        format!("[{good}]"),
        format!("{good}{good}"),
        good[..good.len() - 1].to_owned(),
        format!("\u{feff}{good}"),
        again("\"active\":false"),
        again("\"s\\u0075b\":\"mallory\""),
        again("\"x\":{\"y\":1,\"y\":2}"),
        again(&format!("\"x\":{}{}", "[".repeat(5_000), "]".repeat(5_000))),
        again(&format!("\"x\":[{}0]", "0,".repeat(20_000))),
    ] {
        issuer.set_reply(Reply::Status(200, body));
        present(&writ, OPAQUE).invalid_request("subject_token_inactive");
    }
    // what is compressed is not unpacked
    let gzip = "200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\nConnection: close\r\n\r\n\u{1f}zip";
    issuer.set_reply(Reply::Raw(gzip.to_owned()));
    present(&writ, OPAQUE).invalid_request("subject_token_inactive");
    issuer.set_reply(Reply::Json(Issuer::active()));
    present(&writ, OPAQUE).issued();
}

/// A-077, R-INTRO-03
#[test]
fn the_claims_of_an_active_token_are_checked() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    let over = now() - 11;
    for (name, value, reason) in [
        ("exp", json!(over), "subject_token_expired"),
        ("nbf", json!(now() + 3600), "subject_token_not_yet_valid"),
        ("iat", json!(now() + 3600), "subject_token_not_yet_valid"),
        ("exp", json!("soon"), "subject_token_claims_invalid"),
        ("iss", json!("https://other.example"), "subject_token_claims_invalid"),
        ("iss", json!(format!("{}/", issuer.url())), "subject_token_claims_invalid"),
        ("sub", Value::Null, "subject_token_claims_invalid"),
        ("sub", json!(""), "subject_token_claims_invalid"),
        ("sub", json!(7), "subject_token_claims_invalid"),
        ("sub", json!("gateway"), "subject_token_claims_invalid"),
        ("aud", json!("https://other.example"), "subject_token_audience_mismatch"),
        ("aud", json!([]), "subject_token_audience_mismatch"),
        // without an audience it may have been meant for another service
        ("aud", Value::Null, "subject_token_claims_invalid"),
        ("token_type", json!("refresh_token"), "subject_token_claims_invalid"),
        ("token_use", json!("refresh_token"), "subject_token_claims_invalid"),
        ("cnf", json!({"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}), "subject_token_claims_invalid"),
        ("scope", json!(["trade.stocks x"]), "subject_token_claims_invalid"),
        ("aud", json!(vec![AUDIENCE; 257]), "subject_token_claims_invalid"),
    ] {
        issuer.set_reply(active_with(name, value));
        let refused = present(&writ, OPAQUE).invalid_request(reason);
        if reason == "subject_token_expired" {
            assert_eq!(refused.answer["expired_at"], over);
        }
    }
    for scope in [json!(["other", "trade.stocks"]), json!("other trade.stocks")] {
        issuer.set_reply(active_with("scope", scope));
        present(&writ, OPAQUE).issued();
    }
    for (scope, reason) in [
        (Value::Null, "scope_unknown"),
        (json!([]), "scope_unknown"),
        (json!("other"), "scope_exceeds_subject_token"),
        (json!(["other"]), "scope_exceeds_subject_token"),
    ] {
        issuer.set_reply(active_with("scope", scope));
        present(&writ, OPAQUE).invalid_scope(reason);
    }
    issuer.set_reply(active_with("iss", json!(issuer.url())));
    present(&writ, OPAQUE).issued();
}

/// CONTRACT 6, R-SUBJ-09, R-SUBJ-10
#[test]
fn the_settings_of_issuer_and_client_hold_for_opaque_tokens_too() {
    let issuer = Issuer::start();
    let own = "subject_token_audience = [\"https://gateway.example\"]\nvouches_for_bound_tokens = true\n";
    let setup = introspecting(Setup::new(), &issuer, |table| {
        table.insert("subject_prefix".into(), "staff:".into());
        table.insert("scopes".into(), vec!["trade.stocks"].into());
    });
    let writ = setup.client("gateway", &format!("{own}{GATEWAY}")).start();
    issuer.set_reply(Reply::Json(Issuer::active()));
    present(&writ, OPAQUE).invalid_request("subject_token_audience_mismatch");
    issuer.set_reply(active(|reply| {
        reply["aud"] = json!([AUDIENCE, "https://gateway.example"]);
        reply["cnf"] = json!({"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"});
        reply["scope"] = json!("");
    }));
    assert_eq!(present(&writ, OPAQUE).issued().claims["sub"], "staff:alice");
}

/// CONTRACT 3.3: a Txn-Token ends with its subject token; without an expiry the response counts for a minute.
#[test]
fn a_txn_token_does_not_outlive_an_opaque_token() {
    let issuer = Issuer::start();
    let long = format!("{GATEWAY}lifetime = \"5m\"\n");
    let writ = introspecting(Setup::new(), &issuer, |_| {})
        .client("gateway", &long)
        .client("free", &format!("{long}outlive = true\n"))
        .start();
    let exp = now() + 20;
    issuer.set_reply(active_with("exp", json!(exp)));
    assert_eq!(present(&writ, OPAQUE).issued().exp(), exp + 10);
    issuer.set_reply(active_with("exp", Value::Null));
    let issued = present(&writ, OPAQUE).issued();
    assert_eq!(issued.exp(), issued.iat() + 60);
    let free = writ.workload("free").token(&Form::exchange(OPAQUE, EXECUTE)).issued();
    assert_eq!(free.exp(), free.iat() + 300);
}

/// R-INTRO-04: a token that its issuer revoked is refused at once.
#[test]
fn answers_are_not_cached() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    issuer.set_reply(Reply::Json(Issuer::active()));
    present(&writ, OPAQUE).issued();
    issuer.set_reply(Reply::Json(json!({"active": false})));
    present(&writ, OPAQUE).invalid_request("subject_token_inactive");
    issuer.set_reply(Reply::Json(Issuer::active()));
    present(&writ, OPAQUE).issued();
    assert_eq!(issuer.requests().len(), 3);
    let count = |outcome| writ.metric("writ_introspection_total", &[("issuer", &issuer.url()), ("outcome", outcome)]);
    assert_eq!((count("active"), count("inactive")), (Some(2.0), Some(1.0)));
}

/// A-078, R-INTRO-02: an error says nothing about the token, whatever its body is.
#[test]
fn an_answer_without_a_verdict_means_unavailable() {
    let (issuer, bait) = (Issuer::start(), Issuer::start());
    let writ = setup(&issuer).start();
    let redirect = |status: &str| {
        let location = bait.introspection_endpoint();
        Reply::Raw(format!("{status} X\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
    };
    let good = Issuer::active().to_string();
    let mut words: Vec<Reply> = [400, 401, 403, 404, 405, 429, 500, 501, 502, 503, 504]
        .map(|status| Reply::Status(status, good.clone()))
        .into();
    words.extend([
        Reply::Raw("204 No Content\r\nConnection: close\r\n\r\n".to_owned()),
        redirect("302"),
        redirect("307"),
        redirect("308"),
        Reply::Closed,
        Reply::Raw("nonsense\r\n\r\n".to_owned()),
        Reply::Raw("200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{\"active\":true".to_owned()),
        Reply::Endless,
    ]);
    for word in words {
        issuer.set_reply(word);
        unavailable(&present(&writ, OPAQUE));
        // the token was not at fault, and what is the matter with one answer is soon forgotten
        issuer.set_reply(Reply::Json(Issuer::active()));
        present(&writ, OPAQUE).issued();
    }
    assert!(bait.requests().is_empty() && bait.other_fetches() == 0, "a redirect is not followed");
}

/// A-078, R-INTRO-01: neither silence nor single bytes are waited for.
#[test]
fn a_slow_issuer_is_unavailable_within_the_time_of_the_request() {
    let judge = |timeout: &str| {
        let issuer = Issuer::start();
        let writ = setup(&issuer).set("limits.request_timeout", timeout).start();
        for slow in [Reply::Silence, Reply::Trickle(Issuer::active().to_string())] {
            issuer.set_reply(slow);
            let before = issuer.requests().len();
            unavailable(&present(&writ, OPAQUE));
            assert!((1..=2).contains(&(issuer.requests().len() - before)));
        }
        // two slow answers are not enough to leave it alone
        issuer.set_reply(Reply::Json(Issuer::active()));
        present(&writ, OPAQUE).issued();
    };
    std::thread::scope(|scope| {
        for timeout in ["10s", "1s"] {
            scope.spawn(move || judge(timeout));
        }
    });
}

/// A-078
#[test]
fn an_issuer_that_cannot_be_reached_is_unavailable() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    issuer.set_mode(Mode::Down);
    unavailable(&present(&writ, OPAQUE));
    issuer.set_mode(Mode::Up);
    issuer.set_reply(Reply::Json(Issuer::active()));
    present(&writ, OPAQUE).issued();
}

/// A-078: a server whose certificate is of another authority is not the issuer, and gets neither token nor secret.
#[test]
fn an_issuer_is_authenticated_by_its_certificate() {
    let (issuer, stranger) = (Issuer::start(), Issuer::start());
    let writ = introspecting(Setup::new(), &issuer, |table| {
        table["introspection"]
            .as_table_mut()
            .unwrap()
            .insert("endpoint".into(), stranger.introspection_endpoint().into());
    })
    .client("gateway", GATEWAY)
    .start();
    stranger.set_reply(Reply::Json(Issuer::active()));
    unavailable(&present(&writ, OPAQUE));
    assert!(stranger.requests().is_empty() && issuer.requests().is_empty());
}

/// A-078, R-INTRO-01
#[test]
fn a_failed_request_is_retried_once() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    for (word, times) in [
        (Reply::Closed, 2),
        (Reply::Status(503, String::new()), 2),
        (Reply::Status(401, String::new()), 1),
        (Reply::Status(200, String::new()), 1),
    ] {
        issuer.set_reply(word);
        let before = issuer.requests().len();
        assert_ne!(present(&writ, OPAQUE).status(), 200);
        assert_eq!(issuer.requests().len() - before, times);
    }
}

/// R-INTRO-04: after a pause it is asked again.
#[test]
fn an_issuer_that_keeps_failing_is_not_asked_for_a_while() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    issuer.set_reply(Reply::Closed);
    for _ in 0..5 {
        unavailable(&present(&writ, OPAQUE));
    }
    let asked = issuer.requests().len();
    unavailable(&present(&writ, OPAQUE));
    assert_eq!(issuer.requests().len(), asked, "nobody asks while it rests");
    let outcome = |outcome| writ.metric("writ_introspection_total", &[("issuer", &issuer.url()), ("outcome", outcome)]);
    assert_eq!((outcome("error"), outcome("not_asked")), (Some(5.0), Some(1.0)));
    issuer.set_reply(Reply::Json(Issuer::active()));
    eventually("it is asked again", || (present(&writ, OPAQUE).status() == 200).then_some(()));
}

/// A-078: a request that needs no introspection does not wait for it.
#[test]
fn a_silent_issuer_delays_no_other_request() {
    let (silent, other) = (Issuer::start(), Issuer::start());
    let setup = introspecting(setup(&silent), &other, |table| drop(table.insert("subject_prefix".into(), "b:".into())));
    let named = |issuer: &Issuer| format!("opaque_tokens_from = \"{}\"\n{GATEWAY}", issuer.url());
    let writ = setup.client("gateway", &named(&silent)).client("elsewhere", &named(&other)).start();
    silent.set_reply(Reply::Silence);
    other.set_reply(Reply::Json(Issuer::active()));
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..20).map(|_| scope.spawn(|| present(&writ, OPAQUE))).collect();
        eventually("the silent issuer is asked", || (silent.requests().len() >= 5).then_some(()));
        writ.workload("mailer").token(&Form::client_credentials("mailbox.report")).issued();
        writ.workload("gateway").token(&Form::exchange(&silent.access_token().mint(), EXECUTE)).issued();
        writ.workload("elsewhere").token(&Form::exchange(OPAQUE, EXECUTE)).issued();
        assert_eq!(writ.site().ops("/readyz").status, 200);
        for waiting in waiting {
            unavailable(&waiting.join().unwrap());
        }
    });
}

/// CONTRACT 3.2, A-051, A-052: what does not have the form of a token is sent to no issuer.
#[test]
fn an_opaque_token_has_plain_characters_and_a_sensible_length() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    let flattened = json!({"payload": "e30", "protected": "e30", "signature": "AA"}).to_string();
    for token in [
        " 2YotnFZF",
        "2YotnFZF ",
        "2Yot nFZF",
        "2YotnFZF\n",
        "Bearer 2YotnFZF",
        "2Yotn=FZF",
        "=",
        "2YotnF\u{e9}",
        "2Yotn,FZF",
        "\"2YotnFZF\"",
        &flattened,
        &"x".repeat(4_097),
        &".".repeat(12_000),
    ] {
        present(&writ, token).invalid_request("subject_token_malformed");
    }
    assert!(issuer.requests().is_empty());
    let jwe = format!("{}.AA.AA.AA.AA", URL_SAFE_NO_PAD.encode(r#"{"alg":"RSA-OAEP","enc":"A128GCM"}"#));
    let longest = "x".repeat(4_096);
    let tokens = ["x", "a.b", "a.b.c.d", "-._~+/", "2YotnFZF==", &jwe, &longest];
    for token in tokens {
        present(&writ, token).invalid_request("subject_token_inactive");
    }
    let seen: Vec<_> = issuer.requests().iter().map(|asked| form(asked)["token"].clone()).collect();
    assert_eq!(seen, tokens, "each as it was presented, and once");
}

/// R-SUBJ-11, A-078
#[test]
fn a_token_is_sent_to_one_issuer_and_to_no_other() {
    let (one, other, dumb) = (Issuer::start(), Issuer::start(), Issuer::start());
    let setup = introspecting(Setup::new(), &one, |_| {});
    let setup = introspecting(setup, &other, |table| drop(table.insert("subject_prefix".into(), "other:".into())))
        .issuer_with(&dumb, |table| drop(table.insert("subject_prefix".into(), "dumb:".into())));
    let named = |issuer: &Issuer| format!("opaque_tokens_from = \"{}\"\n{GATEWAY}", issuer.url());
    let writ = setup.client("gateway", GATEWAY).client("one", &named(&one)).client("other", &named(&other)).start();
    let counts = || (one.requests().len(), other.requests().len(), dumb.requests().len());
    let ask = |client: &str| writ.workload(client).token(&Form::exchange(OPAQUE, EXECUTE));

    ask("gateway").invalid_request("subject_token_malformed");
    assert_eq!(counts(), (0, 0, 0), "which of the two is not said");
    other.set_reply(Reply::Json(Issuer::active()));
    ask("one").invalid_request("subject_token_inactive");
    assert_eq!(counts(), (1, 0, 0), "a no is not taken elsewhere");
    one.set_mode(Mode::Down);
    unavailable(&ask("one"));
    assert_eq!(counts(), (1, 0, 0), "nor is silence");
    assert_eq!(ask("other").issued().claims["sub"], "other:alice");
    assert_eq!(counts(), (1, 1, 0));
}

/// R-SUBJ-05
#[test]
fn only_access_tokens_are_opaque() {
    let issuer = Issuer::start();
    let all = format!(
        "{GATEWAY}\n[[purpose]]\nscope = \"trade.execute\"\naccept = [\"jwt\", \"id_token\"]\ngranted_by = [\"trade.stocks\"]\n"
    );
    let setup = introspecting(Setup::new(), &issuer, |table| {
        table.insert("token_types".into(), vec!["access_token", "jwt", "id_token"].into());
        table.insert("id_token_audience".into(), vec!["web-app"].into());
        table.insert("scopes".into(), vec!["trade.stocks"].into());
        always(table);
    });
    let writ = setup.client("gateway", &all).start();
    issuer.set_reply(Reply::Json(Issuer::active()));
    let ask = |token: &str, kind: &str| {
        let form = Form::token_exchange(token, &format!("urn:ietf:params:oauth:token-type:{kind}"), EXECUTE);
        writ.workload("gateway").token(&form)
    };
    for kind in ["jwt", "id_token"] {
        ask(OPAQUE, kind).invalid_request("subject_token_malformed");
    }
    ask(&issuer.jwt().mint(), "jwt").issued();
    ask(&issuer.id_token().mint(), "id_token").issued();
    assert!(issuer.requests().is_empty(), "it is asked about access tokens");
    ask(&issuer.access_token().mint(), "access_token").issued();
    assert_eq!(issuer.requests().len(), 1);
}

/// R-SUBJ-11
#[test]
fn an_issuer_may_be_asked_about_its_jwts_too() {
    let issuer = Issuer::start();
    let writ = always_asking(&issuer);
    let token = issuer.access_token().mint();
    issuer.set_reply(Reply::Json(json!({"active": true})));
    assert_eq!(present(&writ, &token).issued().claims["sub"], "alice");
    assert_eq!(form(&issuer.requests()[0])["token"], token);
    issuer.set_reply(Reply::Json(json!({"active": false})));
    present(&writ, &token).invalid_request("subject_token_inactive");
    issuer.set_reply(Reply::Status(500, String::new()));
    unavailable(&present(&writ, &token));
    // what it says now counts, in what it takes back as in what it denies
    let exp = now() + 20;
    issuer.set_reply(active_with("exp", json!(exp)));
    assert_eq!(present(&writ, &token).issued().exp(), exp + 10);
    issuer.set_reply(active_with("scope", json!("other")));
    present(&writ, &token).invalid_scope("scope_exceeds_subject_token");
    issuer.set_reply(active_with("sub", json!("bob")));
    present(&writ, &token).invalid_request("subject_token_claims_invalid");
}

/// R-SUBJ-11: a JWT is verified before it is introspected.
#[test]
fn a_jwt_that_is_not_valid_is_not_sent_to_the_issuer() {
    let issuer = Issuer::start();
    let writ = always_asking(&issuer);
    issuer.set_reply(Reply::Json(Issuer::active()));
    let foreign = Key::es256("issuer-1");
    let draft = || issuer.access_token();
    for (token, reason) in [
        (draft().signed_by(&foreign).mint(), "subject_token_signature_invalid"),
        (draft().claim("iss", "https://other.example").mint(), "subject_token_issuer_unknown"),
        (draft().header("kid", "unheard-of").mint(), "subject_token_key_unknown"),
        (draft().claim("aud", "https://other.example").mint(), "subject_token_audience_mismatch"),
        (draft().claim("exp", now() - 60).mint(), "subject_token_expired"),
        (draft().header("typ", "JWT").mint(), "subject_token_malformed"),
    ] {
        present(&writ, &token).invalid_request(reason);
    }
    assert!(issuer.requests().is_empty());
}

/// Without `always` a signature is enough.
#[test]
fn a_jwt_is_not_introspected_unless_configured() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    present(&writ, &issuer.access_token().mint()).issued();
    assert!(issuer.requests().is_empty());
}

/// A-078, A-135: with everything logged that can be.
#[test]
fn neither_secret_nor_token_are_ever_logged() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).environment("WRIT_LOG", "trace").start();
    let words = [
        Reply::Json(Issuer::active()),
        Reply::Json(json!({"active": false, "why": "marker-of-the-reply"})),
        Reply::Status(401, "marker-of-the-reply".to_owned()),
        Reply::Closed,
    ];
    for word in words {
        issuer.set_reply(word);
        let answer = present(&writ, OPAQUE);
        assert!(!answer.response.text().contains("marker-of-the-reply"));
    }
    let log = writ.log_text();
    let credentials = issuer.requests()[0].headers["authorization"].clone();
    let encoded = credentials.strip_prefix("Basic ").unwrap();
    for secret in [SECRET, "s3cret", encoded, OPAQUE, "marker-of-the-reply"] {
        assert!(!log.contains(secret), "{secret:?} is in the log");
    }
    assert!(log.contains("introspection failed"), "the cause is for the operator");
    assert!(log.contains("\"TRACE\""), "everything is logged");
}

/// CONTRACT 6: files are watched.
#[test]
fn a_new_secret_is_used_without_a_restart() {
    let issuer = Issuer::start();
    let writ = setup(&issuer).start();
    issuer.set_reply(Reply::Json(Issuer::active()));
    present(&writ, OPAQUE).issued();
    let old = issuer.requests()[0].headers["authorization"].clone();
    writ.setup.write("certs/login.secret", "");
    writ.expect_log(
        "the fault is told",
        || writ.hup(),
        |line| line["level"] == "ERROR" && line["message"].as_str().is_some_and(|text| text.contains("introspection")),
    );
    present(&writ, OPAQUE).issued();
    assert_eq!(issuer.requests()[1].headers["authorization"], old, "the last good one stays");
    writ.setup.write("certs/login.secret", "fresh");
    writ.hup();
    let fresh = format!("Basic {}", STANDARD.encode("writ+one:fresh"));
    eventually("the new secret is sent", || {
        present(&writ, OPAQUE).issued();
        (issuer.requests().last().unwrap().headers["authorization"] == fresh).then_some(())
    });
}

/// A-137, CONTRACT 6, 7; R-INTRO-01: an issuer is asked over https only.
#[test]
fn what_cannot_work_is_found_by_check_and_stops_the_start() {
    let issuer = Issuer::start();
    let setup = setup(&issuer);
    setup.run(&["check"]).exits(0).says("ok");

    setup.write("policies/gateway.toml", &policy_naming("https://elsewhere.example"));
    let place = "gateway.toml:3: opaque_tokens_from: must be the issuer of a [[subject_issuer]] that has introspection";
    setup.run(&["check"]).exits(2).says(place);
    setup.run(&["serve"]).exits(2);
    setup.write("policies/gateway.toml", &policy_naming(&issuer.url()));
    setup.run(&["check"]).exits(0);

    setup.write("certs/login.secret", "two\nlines\n");
    setup.run(&["check"]).exits(2).says("login.secret: does not contain a client secret: one line of text");
    setup.run(&["serve"]).exits(2).says("login.secret");
    let plain = introspecting(Setup::new(), &issuer, |table| {
        let endpoint = issuer.introspection_endpoint().replace("https:", "http:");
        table["introspection"].as_table_mut().unwrap().insert("endpoint".into(), endpoint.into());
    });
    plain.client("gateway", GATEWAY).run(&["check"]).exits(2).says("endpoint");
}

fn policy_naming(issuer: &str) -> String {
    crate::support::writ::client_policy("gateway", &format!("opaque_tokens_from = \"{issuer}\"\n{GATEWAY}"))
}

/// CONTRACT 7: a policy that names an issuer which cannot be asked changes nothing.
#[test]
fn a_policy_that_names_an_issuer_without_introspection_is_rejected() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    let rejected = writ.expect_event("policies_rejected", || {
        writ.setup.write("policies/gateway.toml", &policy_naming(&issuer.url()));
        writ.hup();
    });
    assert!(rejected.to_string().contains("opaque_tokens_from"), "{rejected}");
    present(&writ, &issuer.access_token().mint()).issued();
}
