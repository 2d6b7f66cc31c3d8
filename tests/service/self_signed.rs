//! A client vouches for a subject with its own signature, once (CONTRACT 3.2; R-SUBJ-14 to R-SUBJ-16; A-065, A-066).

use std::thread;

use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::jose::Key;
use crate::support::pki::Credentials;
use crate::support::workload::{FORM, Form};
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, now};

const SELF_SIGNED: &str = "urn:ietf:params:oauth:token-type:self_signed";
const DELIVER: &str = "mailbox.deliver";

const POLICY: &str = r#"
[[purpose]]
scope = "mailbox.deliver"
accept = ["self_signed"]
subjects = ["*@trust-domain.example"]
tctx.subject = { folder = "folder" }

[[purpose]]
scope = "mailbox.report"
accept = ["self_signed"]
lifetime = "5m"
"#;

/// `mailer` with one certificate, whose key signs.
struct Scene {
    writ: Writ,
    credentials: Credentials,
    key: Key,
}

impl Scene {
    fn new() -> Self {
        Self::of(Setup::new().client("mailer", POLICY).client("other", POLICY))
    }

    fn of(setup: Setup) -> Self {
        let writ = setup.start();
        let credentials = writ.setup.credentials("mailer");
        let key = Key::of(&credentials, "unused");
        Self { writ, credentials, key }
    }

    fn ask(&self, token: &str) -> Answer {
        self.ask_for(token, DELIVER)
    }

    fn ask_for(&self, token: &str, scope: &str) -> Answer {
        self.writ.workload_with(&self.credentials).token(&form(token, scope))
    }
}

fn form(token: &str, scope: &str) -> Form {
    Form::token_exchange(token, SELF_SIGNED, scope)
}

fn claims(jti: &str) -> Value {
    json!({
        "iss": "mailer", "sub": "ann@trust-domain.example", "aud": ISSUER, "iat": now(), "exp": now() + 300, "jti": jti,
        "folder": "inbox"
    })
}

fn with(jti: &str, name: &str, value: Value) -> Value {
    let mut claims = claims(jti);
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

fn signed(key: &Key, header: &Value, claims: &Value) -> String {
    key.token(&header.to_string(), &claims.to_string())
}

fn mint(key: &Key, claims: &Value) -> String {
    signed(key, &json!({"typ": "JWT", "alg": key.alg()}), claims)
}

/// R-SUBJ-14
#[test]
fn a_client_vouches_for_a_subject_with_the_key_of_its_certificate() {
    let scene = Scene::new();
    let issued = scene.ask(&mint(&scene.key, &claims("1"))).issued();
    assert_eq!(
        (&issued.claims["sub"], &issued.claims["req_wl"]),
        (&json!("ann@trust-domain.example"), &json!("mailer"))
    );
    assert_eq!(issued.claims["tctx"], json!({"folder": "inbox"}));
    let named = json!({"alg": "ES256", "kid": scene.key.thumbprint()});
    scene.ask(&signed(&scene.key, &named, &claims("2"))).issued();
    let audit = scene.writ.audit_of(&issued.request_id);
    assert_eq!((&audit["source"], &audit["sub"]), (&json!("self_signed"), &json!("ann@trust-domain.example")));
}

/// R-SUBJ-15, CONTRACT 7 (`jwks_file`): read again when it changes.
#[test]
fn a_client_vouches_with_the_keys_of_its_policy() {
    let (first, second) = (Key::ed25519("m-1"), Key::rsa("m-2"));
    let keys = |keys: &[&Key]| json!({"keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()}).to_string();
    let setup = Setup::new();
    setup.write("policies/mailer.jwks.json", &keys(&[&first]));
    let scene = Scene::of(setup.client("mailer", &format!("jwks_file = \"mailer.jwks.json\"\n{POLICY}")));
    let token = |key: &Key, jti: &str| signed(key, &json!({"alg": key.alg(), "kid": key.kid}), &claims(jti));
    scene.ask(&token(&first, "1")).issued();
    scene.ask(&mint(&scene.key, &claims("2"))).issued();
    scene.ask(&token(&second, "3")).invalid_request("subject_token_key_unknown");
    let impostor = signed(&Key::ed25519("x"), &json!({"alg": "EdDSA", "kid": "m-1"}), &claims("3"));
    scene.ask(&impostor).invalid_request("subject_token_signature_invalid");
    scene.writ.expect_event("policies_reloaded", || {
        scene.writ.setup.write("policies/mailer.jwks.json", &keys(&[&second]));
    });
    scene.ask(&token(&second, "3")).issued();
    scene.ask(&token(&first, "4")).invalid_request("subject_token_key_unknown");
}

/// A-065, R-SUBJ-15: never tried against the keys of another client.
#[test]
fn a_token_of_another_client_or_key_is_refused() {
    let scene = Scene::new();
    let other = scene.writ.setup.credentials("other");
    let others = mint(&Key::of(&other, "unused"), &with("1", "iss", json!("other")));
    scene.ask(&others).invalid_request("subject_token_issuer_unknown");
    scene.writ.workload_with(&other).token(&form(&others, DELIVER)).issued();
    let forged = mint(&Key::of(&other, "unused"), &claims("1"));
    scene.ask(&forged).invalid_request("subject_token_signature_invalid");
    let stranger = signed(&Key::es256("x"), &json!({"alg": "ES256", "kid": "x"}), &claims("1"));
    scene.ask(&stranger).invalid_request("subject_token_key_unknown");
    // A new certificate of the same client has another key.
    let renewed = scene.writ.setup.credentials("mailer");
    let mine = mint(&scene.key, &claims("1"));
    scene.writ.workload_with(&renewed).token(&form(&mine, DELIVER)).invalid_request("subject_token_signature_invalid");
    scene.ask(&mine).issued();
}

/// R-SUBJ-14, R-SUBJ-16
#[test]
fn every_claim_of_a_self_signed_token_is_checked() {
    let scene = Scene::new();
    for (name, value, reason) in [
        ("iss", json!(null), "subject_token_issuer_unknown"),
        ("iss", json!("Mailer"), "subject_token_issuer_unknown"),
        ("iss", json!("other"), "subject_token_issuer_unknown"),
        ("iss", json!("spiffe://trust-domain.example/mailer"), "subject_token_issuer_unknown"),
        ("aud", json!(null), "subject_token_claims_invalid"),
        ("aud", json!("https://localhost:8443/token"), "subject_token_audience_mismatch"),
        ("aud", json!(["a", "b"]), "subject_token_audience_mismatch"),
        ("sub", json!(null), "subject_token_claims_invalid"),
        ("sub", json!(""), "subject_token_claims_invalid"),
        ("jti", json!(null), "subject_token_claims_invalid"),
        ("jti", json!(""), "subject_token_claims_invalid"),
        ("jti", json!(7), "subject_token_claims_invalid"),
        ("jti", json!("x".repeat(256)), "subject_token_claims_invalid"),
        ("iat", json!(null), "subject_token_claims_invalid"),
        ("exp", json!(null), "subject_token_claims_invalid"),
        ("exp", json!("soon"), "subject_token_claims_invalid"),
        ("exp", json!(now() + 1000), "subject_token_claims_invalid"),
        ("iat", json!(now() - 500), "subject_token_claims_invalid"),
        ("iat", json!(now() + 60), "subject_token_not_yet_valid"),
        ("nbf", json!(now() + 60), "subject_token_not_yet_valid"),
        ("folder", json!(null), "subject_token_claims_invalid"),
        ("folder", json!("eyJhbGciOiJFUzI1NiJ9.e30.c2ln"), "details_rejected"),
    ] {
        let answer = scene.ask(&mint(&scene.key, &with("rule", name, value.clone())));
        assert_eq!((answer.status(), answer.reason().as_str()), (400, reason), "{name} {value}");
    }
    let mut old = claims("rule");
    (old["iat"], old["exp"]) = (json!(now() - 60), json!(now() - 30));
    let refused = scene.ask(&mint(&scene.key, &old)).invalid_request("subject_token_expired");
    assert_eq!(refused.answer["expired_at"], old["exp"]);
    // A token that was refused for another reason has not been used.
    scene.ask(&mint(&scene.key, &claims("rule"))).issued();
    scene.ask(&mint(&scene.key, &with("audiences", "aud", json!([ISSUER, "https://other.example"])))).issued();
}

/// A-044, A-045, A-064
#[test]
fn only_a_jwt_of_the_right_type_and_form_is_accepted() {
    let scene = Scene::new();
    for header in [
        json!({"typ": "at+jwt", "alg": "ES256"}),
        json!({"typ": "txntoken+jwt", "alg": "ES256"}),
        json!({"typ": "client-authentication+jwt", "alg": "ES256"}),
        json!({"typ": "JWT", "alg": "ES256", "crit": ["exp"]}),
        json!({"typ": "JWT", "alg": "ES256", "jwk": scene.key.jwk()}),
    ] {
        scene.ask(&signed(&scene.key, &header, &claims("1"))).invalid_request("subject_token_malformed");
    }
    for header in [json!({"alg": "none"}), json!({"alg": "HS256"}), json!({"alg": "ES384"}), json!({"alg": "RS256"})] {
        scene.ask(&signed(&scene.key, &header, &claims("1"))).invalid_request("subject_token_signature_invalid");
    }
    scene.ask("{\"sub\":\"ann@trust-domain.example\"}").invalid_request("subject_token_malformed");
}

/// R-SUBJ-14, CONTRACT 7: `subjects` applies to this source too.
#[test]
fn a_client_vouches_only_for_subjects_that_its_policy_names() {
    let scene = Scene::new();
    let stranger = mint(&scene.key, &with("1", "sub", json!("ann@elsewhere.example")));
    scene.ask(&stranger).unauthorized_client("subject_not_allowed");
    let anyone = mint(&scene.key, &claims("2"));
    scene.ask_for(&anyone, "mailbox.report").unauthorized_client("subject_not_allowed");
    let itself = mint(&scene.key, &with("3", "sub", json!("mailer")));
    scene.ask_for(&itself, "mailbox.report").issued();
}

/// CONTRACT 3.3: no longer than the subject token, with the tolerance for its signer's clock.
#[test]
fn the_txn_token_does_not_outlive_the_self_signed_one() {
    let scene = Scene::new();
    let claims = with("1", "sub", json!("mailer"));
    let mut brief = claims;
    brief["exp"] = json!(now() + 20);
    let issued = scene.ask_for(&mint(&scene.key, &brief), "mailbox.report").issued();
    assert_eq!(issued.exp(), brief["exp"].as_u64().unwrap() + 10);
}

/// A-066, R-SUBJ-16, R-POL-11: at once, in parallel, after a kill and a restart: one Txn-Token.
#[test]
fn a_token_is_used_once_whatever_happens() {
    let mut scene = Scene::new();
    let token = mint(&scene.key, &claims("only"));
    let workload = scene.writ.workload_with(&scene.credentials);
    let outcomes: Vec<String> = thread::scope(|scope| {
        let ask = || workload.token(&form(&token, DELIVER)).reason();
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|reason| *reason == "-").count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().all(|reason| reason == "-" || reason == "subject_token_replayed"), "{outcomes:?}");
    // On one connection too.
    let mut session = workload.connect();
    let body = form(&token, DELIVER).encode();
    session.post("/token", &[("Content-Type", FORM)], body.as_bytes()).invalid_request("subject_token_replayed");
    for _ in 0..2 {
        scene.writ.kill();
        scene.writ.start();
        scene.ask(&token).invalid_request("subject_token_replayed");
    }
    assert_eq!(scene.writ.metric("writ_ledger_records", &[("kind", "single_use")]), Some(1.0));
    // The same jti of another client is another one; so is another jti.
    let other = scene.writ.setup.credentials("other");
    let theirs = mint(&Key::of(&other, "unused"), &with("only", "iss", json!("other")));
    scene.writ.workload_with(&other).token(&form(&theirs, DELIVER)).issued();
    scene.ask(&mint(&scene.key, &claims("next"))).issued();
}

/// A-066: killed among parallel requests, the service has issued at most one token, and issues no other.
#[test]
fn a_kill_among_parallel_uses_leaves_one_token_at_most() {
    let mut scene = Scene::new();
    for round in 0..5 {
        let token = mint(&scene.key, &claims(&format!("round-{round}")));
        let workload = scene.writ.workload_with(&scene.credentials);
        let askers: Vec<_> = (0..8)
            .map(|_| {
                let (workload, token) = (workload.clone(), token.clone());
                thread::spawn(move || {
                    workload.try_token(&form(&token, DELIVER)).map_or(String::new(), |answer| answer.reason())
                })
            })
            .collect();
        scene.writ.kill();
        let outcomes: Vec<String> = askers.into_iter().map(|asker| asker.join().unwrap()).collect();
        scene.writ.start();
        let again = (0..2).map(|_| scene.ask(&token).reason());
        let issued = outcomes.into_iter().chain(again).filter(|reason| reason == "-").count();
        assert!(issued <= 1, "{issued} tokens in round {round}");
    }
}
