//! JWTs and ID tokens of subject issuers (CONTRACT 3.2, 6; A-044 to A-064; R-SUBJ-05, R-SUBJ-12, R-SUBJ-13, R-POL-05).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use toml::Table;

use crate::support::answer::Answer;
use crate::support::issuer::{AUDIENCE, Draft, Issuer};
use crate::support::jose::Key;
use crate::support::now;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

const EXECUTE: &str = "trade.execute";

/// Accepts every type that an issuer signs.
const GATEWAY: &str = r#"
[[purpose]]
scope = "trade.execute"
accept = ["access_token", "jwt", "id_token"]
granted_by = ["trade.stocks"]
"#;

/// An issuer of every type, with the scopes that apply to tokens without one.
fn every_kind(table: &mut Table) {
    table.insert("token_types".into(), vec!["access_token", "jwt", "id_token"].into());
    table.insert("id_token_audience".into(), vec!["web-app", "mobile-app"].into());
    table.insert("scopes".into(), vec!["trade.stocks"].into());
}

fn started(issuer: &Issuer, change: impl FnOnce(&mut Table)) -> Writ {
    let setup = Setup::new().issuer_with(issuer, |table| {
        every_kind(table);
        change(table);
    });
    setup.client("gateway", GATEWAY).start()
}

fn present(writ: &Writ, token: &str, kind: &str) -> Answer {
    let kind = format!("urn:ietf:params:oauth:token-type:{kind}");
    writ.workload("gateway").token(&Form::token_exchange(token, &kind, EXECUTE))
}

/// A valid token of that type, to be changed.
fn good<'a>(issuer: &'a Issuer, kind: &str) -> Draft<'a> {
    if kind == "jwt" { issuer.jwt() } else { issuer.id_token() }
}

const KINDS: [&str; 2] = ["jwt", "id_token"];

/// R-SUBJ-12, R-SUBJ-13
#[test]
fn jwts_and_id_tokens_are_exchanged_and_the_log_names_the_type() {
    let issuer = Issuer::start();
    let writ = started(&issuer, |_| {});
    for kind in KINDS {
        let issued = present(&writ, &good(&issuer, kind).mint(), kind).issued();
        assert_eq!(
            issued.claims,
            json!({
                "iss": crate::support::ISSUER, "iat": issued.iat(), "exp": issued.iat() + 60,
                "aud": "trust-domain.example", "txn": issued.txn(), "sub": "alice", "scope": EXECUTE,
                "req_wl": "gateway",
            })
        );
        let audited = writ.audit_of(&issued.request_id);
        assert_eq!((&audited["source"], &audited["subject_issuer"]), (&kind.into(), &issuer.url().into()));
        let counted = writ.metric("writ_token_requests_total", &[("source", kind), ("outcome", "issued")]);
        assert_eq!(counted, Some(1.0), "{kind}");
        present(&writ, &good(&issuer, kind).without_header("typ").mint(), kind).issued();
    }
}

/// A-079
#[test]
fn a_type_must_be_accepted_by_the_purpose() {
    let issuer = Issuer::start();
    for accepted in ["access_token", "jwt", "id_token"] {
        let policy = GATEWAY.replace("\"access_token\", \"jwt\", \"id_token\"", &format!("\"{accepted}\""));
        let writ = Setup::new().issuer_with(&issuer, every_kind).client("gateway", &policy).start();
        for kind in KINDS {
            let answer = present(&writ, &good(&issuer, kind).mint(), kind);
            if kind == accepted {
                answer.issued();
            } else {
                answer.unauthorized_client("source_not_allowed");
            }
        }
    }
}

/// R-SUBJ-05, CONTRACT 6 (`token_types`)
#[test]
fn an_issuer_is_known_for_the_types_that_it_is_configured_for() {
    let issuer = Issuer::start();
    for (types, unknown) in [(["access_token", "jwt"], "id_token"), (["access_token", "id_token"], "jwt")] {
        let writ = started(&issuer, |table| drop(table.insert("token_types".into(), types.to_vec().into())));
        present(&writ, &good(&issuer, unknown).mint(), unknown).invalid_request("subject_token_issuer_unknown");
        present(&writ, &good(&issuer, types[1]).mint(), types[1]).issued();
    }
    let writ = started(&issuer, |table| drop(table.insert("token_types".into(), vec!["id_token"].into())));
    present(&writ, &issuer.access_token().mint(), "access_token").invalid_request("subject_token_issuer_unknown");
}

/// A-064: neither by its `typ` nor by its claims.
#[test]
fn tokens_of_other_types_are_refused() {
    let issuer = Issuer::start();
    let writ = started(&issuer, |_| {});
    for kind in KINDS {
        for typ in ["at+jwt", "txntoken+jwt", "logout+jwt", "secevent+jwt", "dpop+jwt", "rt+jwt", "id_token+jwt", ""] {
            let token = good(&issuer, kind).header("typ", typ).mint();
            present(&writ, &token, kind).invalid_request("subject_token_malformed");
        }
        let logout = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
        for (name, value) in [("events", logout), ("htm", json!("POST")), ("htu", json!("https://api.example/x"))] {
            let token = good(&issuer, kind).claim(name, value).mint();
            present(&writ, &token, kind).invalid_request("subject_token_malformed");
        }
        for typ in ["jwt", "JWT", "application/jwt"] {
            present(&writ, &good(&issuer, kind).header("typ", typ).mint(), kind).issued();
        }
    }
    for name in ["nonce", "at_hash", "c_hash", "s_hash"] {
        let token = issuer.jwt().claim(name, "x").mint();
        present(&writ, &token, "jwt").invalid_request("subject_token_malformed");
    }
}

/// R-SUBJ-05: without a `typ` of its own an access token is distinguished from an ID token by its audience.
#[test]
fn a_legacy_access_token_is_no_id_token_and_no_id_token_is_one() {
    let issuer = Issuer::start();
    let writ = started(&issuer, |table| {
        table.insert("token_types".into(), vec!["access_token", "id_token"].into());
        table.insert("jwt_access_tokens".into(), "legacy".into());
    });
    let plain = |aud: Value| issuer.jwt().claim("aud", aud).claim("azp", "web-app").mint();
    present(&writ, &plain(json!(AUDIENCE)), "access_token").issued();
    present(&writ, &plain(json!(AUDIENCE)), "id_token").invalid_request("subject_token_audience_mismatch");
    present(&writ, &plain(json!("web-app")), "id_token").issued();
    present(&writ, &plain(json!("web-app")), "access_token").invalid_request("subject_token_audience_mismatch");
    let both = plain(json!([AUDIENCE, "web-app"]));
    present(&writ, &both, "access_token").invalid_request("subject_token_audience_mismatch");
    present(&writ, &both, "id_token").issued();
    present(&writ, &issuer.id_token().claim("aud", AUDIENCE).mint(), "access_token")
        .invalid_request("subject_token_malformed");
}

/// R-SUBJ-05: what could not be distinguished cannot be configured.
#[test]
fn legacy_access_tokens_and_other_jwts_of_one_issuer_are_not_configured_together() {
    let issuer = Issuer::start();
    let legacy = |table: &mut Table| {
        every_kind(table);
        table.insert("jwt_access_tokens".into(), "legacy".into());
    };
    let setup = Setup::new().issuer_with(&issuer, legacy);
    setup.run(&["check"]).exits(2).says("cannot have \"jwt\" beside \"access_token\"");
    let same = |table: &mut Table| {
        every_kind(table);
        table.insert("id_token_audience".into(), vec!["web-app", AUDIENCE].into());
    };
    let setup = Setup::new().issuer_with(&issuer, same);
    setup.run(&["check"]).exits(2).says("ID tokens could not be told apart from other tokens");
}

/// R-SUBJ-12
#[test]
fn an_id_token_names_a_configured_client() {
    let issuer = Issuer::start();
    let writ = started(&issuer, |_| {});
    let ask = |aud: Value, azp: Value| {
        let draft = issuer.id_token().claim("aud", aud);
        let draft = if azp.is_null() { draft } else { draft.claim("azp", azp) };
        present(&writ, &draft.mint(), "id_token")
    };
    for (aud, azp) in [
        (json!("web-app"), Value::Null),
        (json!(["mobile-app"]), Value::Null),
        (json!("web-app"), json!("web-app")),
        (json!("web-app"), json!("mobile-app")),
        (json!(["other", "web-app"]), json!("web-app")),
    ] {
        ask(aud, azp).issued();
    }
    for (aud, azp) in [
        (json!(AUDIENCE), Value::Null),
        (json!("WEB-APP"), Value::Null),
        (json!("web-app2"), Value::Null),
        (json!([]), Value::Null),
        (json!("web-app"), json!("other")),
        (json!("other"), json!("web-app")),
        (json!(["other", "web-app"]), json!("other")),
        (json!("web-app"), json!("")),
    ] {
        ask(aud, azp).invalid_request("subject_token_audience_mismatch");
    }
    for (aud, azp) in [
        (json!(["other", "web-app"]), Value::Null),
        (json!("web-app"), json!(["web-app"])),
        (json!(1), Value::Null),
        (json!(["web-app", 1]), Value::Null),
    ] {
        ask(aud, azp).invalid_request("subject_token_claims_invalid");
    }
    for name in ["aud", "sub", "iat", "exp"] {
        let token = issuer.id_token().without(name).mint();
        present(&writ, &token, "id_token").invalid_request("subject_token_claims_invalid");
    }
}

/// R-SUBJ-13, R-SUBJ-07
#[test]
fn a_jwt_is_read_by_the_settings_of_its_issuer() {
    let issuer = Issuer::start();
    let writ = started(&issuer, |table| {
        table.insert("subject_claim".into(), "employee".into());
        table.insert("scope_claim".into(), "rights".into());
        table.insert("subject_prefix".into(), "staff:".into());
    });
    let few = || issuer.jwt().without("sub").without("iat").claim("employee", "e-7").claim("rights", "trade.stocks");
    assert_eq!(present(&writ, &few().mint(), "jwt").issued().claims["sub"], "staff:e-7");
    present(&writ, &few().claim("rights", "other").claim("scope", "trade.stocks").mint(), "jwt")
        .invalid_scope("scope_exceeds_subject_token");
    for name in ["employee", "aud", "exp"] {
        present(&writ, &few().without(name).mint(), "jwt").invalid_request("subject_token_claims_invalid");
    }
    let elsewhere = few().claim("aud", "https://other.example").mint();
    present(&writ, &elsewhere, "jwt").invalid_request("subject_token_audience_mismatch");
}

/// R-SUBJ-12, R-POL-05: an ID token identifies a user; what it covers is the issuer's setting alone.
#[test]
fn an_id_token_has_no_scope() {
    let issuer = Issuer::start();
    let silent = |table: &mut Table| drop(table.remove("scopes"));
    let writ = started(&issuer, silent);
    let boastful = issuer.id_token().claim("scope", "trade.stocks").mint();
    present(&writ, &boastful, "id_token").invalid_scope("scope_unknown");
    present(&writ, &issuer.jwt().without("scope").mint(), "jwt").invalid_scope("scope_unknown");
    let writ = started(&issuer, |table| drop(table.insert("scopes".into(), vec!["other"].into())));
    present(&writ, &boastful, "id_token").invalid_scope("scope_exceeds_subject_token");
}

/// R-SUBJ-09, R-SUBJ-10
#[test]
fn subject_token_audience_and_cnf_are_checked_for_every_type() {
    let issuer = Issuer::start();
    let own = format!("subject_token_audience = [\"https://gateway.example\", \"mobile-app\"]\n{GATEWAY}");
    let writ = Setup::new().issuer_with(&issuer, every_kind).client("gateway", &own).start();
    for kind in KINDS {
        present(&writ, &good(&issuer, kind).mint(), kind).invalid_request("subject_token_audience_mismatch");
    }
    let aud = json!([AUDIENCE, "https://gateway.example"]);
    present(&writ, &issuer.jwt().claim("aud", aud.clone()).mint(), "jwt").issued();
    present(&writ, &issuer.id_token().claim("aud", "mobile-app").mint(), "id_token").issued();
    let bound = issuer.jwt().claim("aud", aud).claim("cnf", json!({"jkt": "x"})).mint();
    present(&writ, &bound, "jwt").invalid_request("subject_token_claims_invalid");
}

/// A-044 to A-055, R-SUBJ-03
#[test]
fn a_token_without_a_valid_signature_is_refused_for_every_type() {
    let issuer = Issuer::start();
    let writ = started(&issuer, |_| {});
    let (own, secret) = (Key::es256("issuer-1"), issuer.key.jwk().to_string());
    let jwe = URL_SAFE_NO_PAD.encode(r#"{"alg":"RSA-OAEP","enc":"A128GCM"}"#);
    for kind in KINDS {
        let draft = || good(&issuer, kind);
        let token = draft().mint();
        let (header, claims) = (draft().header.to_string(), draft().claims.to_string());
        let twice = format!("{{\"sub\":\"mallory\",{}", claims.strip_prefix('{').unwrap());
        for (bad, reason) in [
            (draft().header("alg", "none").mint_signed_with(b""), "subject_token_signature_invalid"),
            (draft().header("alg", "HS256").mac(secret.as_bytes()), "subject_token_signature_invalid"),
            (draft().header("alg", "HS256").mac(&issuer.key.public_bytes()), "subject_token_signature_invalid"),
            (draft().header("alg", "ES384").mint(), "subject_token_signature_invalid"),
            (draft().header("alg", "RS256").mint(), "subject_token_signature_invalid"),
            (draft().signed_by(&own).mint(), "subject_token_signature_invalid"),
            (draft().mint_signed_with(&[0; 64]), "subject_token_signature_invalid"),
            (draft().header("kid", "unheard-of").mint(), "subject_token_key_unknown"),
            (draft().header("jwk", own.jwk()).signed_by(&own).mint(), "subject_token_malformed"),
            (draft().header("crit", json!(["exp"])).mint(), "subject_token_malformed"),
            (draft().header("crit", json!(["x"])).mint(), "subject_token_malformed"),
            (format!("{jwe}.AA.AA.AA.AA"), "subject_token_malformed"),
            (draft().header("cty", "JWT").mint(), "subject_token_malformed"),
            (draft().header("b64", false).mint(), "subject_token_malformed"),
            (issuer.key.token(&header, &twice), "subject_token_malformed"),
            (issuer.key.token(&header, "[]"), "subject_token_malformed"),
            (issuer.key.token(&header, &format!("{claims}{claims}")), "subject_token_malformed"),
            (draft().mint_raw("deep", &format!("{}{}", "[".repeat(200), "]".repeat(200))), "subject_token_malformed"),
            (format!("{token}="), "subject_token_malformed"),
            (format!("{token}.AA"), "subject_token_malformed"),
            (format!(" {token}"), "subject_token_malformed"),
            (URL_SAFE_NO_PAD.encode(&token), "subject_token_malformed"),
        ] {
            let answer = present(&writ, &bad, kind);
            // The second unknown `kid` comes too soon after the first for another fetch.
            let soon = reason == "subject_token_key_unknown" && kind != KINDS[0];
            let expected = if soon { (503, "issuer_unavailable") } else { (400, reason) };
            assert_eq!((answer.status(), answer.reason().as_str()), expected, "{kind}");
        }
        present(&writ, &token, kind).issued();
    }
}

/// A-056 to A-062
#[test]
fn claims_are_checked_alike_for_every_type() {
    let issuer = Issuer::start();
    let writ = started(&issuer, |_| {});
    for kind in KINDS {
        let draft = || good(&issuer, kind);
        for (bad, reason) in [
            (draft().claim("exp", now() - 11).mint(), "subject_token_expired"),
            (draft().claim("nbf", now() + 3600).mint(), "subject_token_not_yet_valid"),
            (draft().claim("iat", now() + 3600).mint(), "subject_token_not_yet_valid"),
            (draft().claim("exp", "soon").mint(), "subject_token_claims_invalid"),
            (draft().mint_raw("exp", "1e400"), "subject_token_claims_invalid"),
            (draft().mint_raw("exp", "18446744073709551616"), "subject_token_claims_invalid"),
            (draft().claim("exp", now() * 1000).mint(), "subject_token_claims_invalid"),
            (draft().claim("iat", "1").mint(), "subject_token_claims_invalid"),
            (draft().claim("sub", "").mint(), "subject_token_claims_invalid"),
            (draft().claim("sub", 7).mint(), "subject_token_claims_invalid"),
            (draft().claim("sub", "a\nb").mint(), "subject_token_claims_invalid"),
            (draft().claim("sub", "gateway").mint(), "subject_token_claims_invalid"),
            (draft().claim("iss", format!("{}/", issuer.url())).mint(), "subject_token_issuer_unknown"),
            (draft().without("iss").mint(), "subject_token_issuer_unknown"),
        ] {
            let answer = present(&writ, &bad, kind);
            assert_eq!((answer.status(), answer.reason().as_str()), (400, reason), "{kind}");
        }
        let exp = now() + 20;
        assert_eq!(present(&writ, &draft().claim("exp", exp).mint(), kind).issued().exp(), exp + 10);
    }
}
