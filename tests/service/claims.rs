//! What a Txn-Token says: header, claims, size (CONTRACT 3.3; A-088; area CLAIM). How details and context become
//! claims is tested in `details`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::scene::Shared;
use crate::support::answer::{Answer, Issued};
use crate::support::issuer::Issuer;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, now};

/// Exchanges access tokens, with the details that its users send.
const GATEWAY: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["access_token"]
granted_by = ["trade.stocks"]
request_details = "any.json"
tctx.copy = ["order", "note"]
rctx.copy = ["req_ip", "authn"]
[[purpose]]
scope = "order.view"
accept = ["access_token"]
granted_by = ["trade.stocks"]
"#;

/// Replaces the tokens of the gateway.
const ORDERS: &str = "[[purpose]]\nscope = \"order.refund\"\naccept = [\"txn_token\"]\n";

/// Names the subject itself.
const AGENT: &str =
    "[[purpose]]\nscope = \"order.view\"\naccept = [\"unsigned_json\", \"client_credentials\"]\nsubjects = [\"*\"]\n";

struct Scene {
    writ: Writ,
    issuer: Issuer,
}

static SCENE: Shared<Scene> = Shared::new();

impl Scene {
    fn shared() -> Arc<Self> {
        SCENE.get(|| Self::of(Setup::new()))
    }

    fn of(setup: Setup) -> Self {
        let issuer = Issuer::start();
        setup.write("policies/any.json", "{}");
        let setup = setup.issuer(&issuer).client("gateway", GATEWAY).client("orders", ORDERS).client("agent", AGENT);
        Self { writ: setup.start(), issuer }
    }

    #[track_caller]
    fn issued(&self, scope: &str) -> Issued {
        self.writ.workload("gateway").token(&Form::exchange(&self.issuer.access_token().mint(), scope)).issued()
    }

    /// Presents `token` with these details and this context.
    fn ask(&self, token: &str, details: &Value, context: &Value) -> Answer {
        let form = Form::exchange(token, "order.refund")
            .set("request_details", &details.to_string())
            .set("request_context", &context.to_string());
        self.writ.workload("gateway").token(&form)
    }
}

fn names(object: &Value) -> BTreeSet<&str> {
    object.as_object().map(Map::keys).unwrap().map(String::as_str).collect()
}

/// R-CLAIM-01
#[test]
fn the_header_has_type_algorithm_and_key_and_nothing_else() {
    let scene = Scene::shared();
    let issued = scene.issued("order.view");
    assert_eq!(names(&issued.header), BTreeSet::from(["alg", "kid", "typ"]));
    assert_eq!((&issued.header["typ"], &issued.header["alg"]), (&json!("txntoken+jwt"), &json!("ES256")));
    assert!(scene.writ.site().jwks().iter().any(|key| key["kid"] == issued.kid()));
    assert_eq!(issued.token.split('.').count(), 3);
}

/// R-CLAIM-02
#[test]
fn times_are_whole_seconds_and_the_audience_is_one_string() {
    let scene = Scene::shared();
    let before = now();
    let issued = scene.issued("order.view");
    let (iat, exp) = (issued.claims["iat"].as_u64().unwrap(), issued.claims["exp"].as_u64().unwrap());
    assert!((before..=now()).contains(&iat) && exp > iat, "{iat} {exp}");
    assert_eq!(issued.claims["aud"], "trust-domain.example");
}

/// R-CLAIM-03: every exchange starts a transaction of its own, even with the same access token.
#[test]
fn every_transaction_has_a_fresh_random_name() {
    let scene = Scene::shared();
    let form = Form::exchange(&scene.issuer.access_token().mint(), "order.view");
    let mut session = scene.writ.workload("gateway").connect();
    let all: Vec<String> = (0..20).map(|_| session.token(&form).issued().txn().to_owned()).collect();
    for txn in &all {
        let id: Vec<&str> = txn.split('-').collect();
        assert!(id.len() == 5 && id[2].starts_with('7') && id[3].starts_with(['8', '9', 'a', 'b']), "{txn}: UUIDv7");
    }
    let random: BTreeSet<&str> = all.iter().map(|txn| &txn[txn.len() - 17..]).collect();
    assert_eq!(random.len(), all.len());
}

/// R-CLAIM-03
#[test]
fn no_request_and_no_subject_token_names_the_transaction() {
    let scene = Scene::shared();
    let token = scene.issuer.access_token().claim("txn", "mine").mint();
    let form = Form::exchange(&token, "order.refund").set("txn", "mine").set("request_details", r#"{"txn":"mine"}"#);
    let issued = scene.writ.workload("gateway").token(&form.set("request_context", r#"{"txn":"mine"}"#)).issued();
    assert!(!issued.claims.to_string().contains("mine"), "{}", issued.claims);
}

/// R-CLAIM-06
#[test]
fn the_requester_is_the_client_that_asked_whoever_the_subject_is() {
    let scene = Scene::shared();
    let token = scene.issuer.access_token().claim("client_id", "agent").claim("may_act", json!({"sub": "agent"}));
    let issued = scene.ask(&token.mint(), &json!({"req_wl": "agent"}), &json!({"req_wl": "agent"})).issued();
    assert_eq!(issued.claims["req_wl"], "gateway");
}

/// R-CLAIM-07
#[test]
fn context_and_details_are_objects_that_travel_unchanged() {
    let scene = Scene::shared();
    let (details, context) = (json!({"order": {"id": "A-1"}}), json!({"req_ip": "192.0.2.1", "authn": "mfa"}));
    let first = scene.ask(&scene.issuer.access_token().mint(), &details, &context).issued();
    let form = Form::redeem(&first.token, "order.refund");
    let second = scene.writ.workload("orders").token(&form).issued();
    for issued in [first, second] {
        assert_eq!((&issued.claims["tctx"], &issued.claims["rctx"]), (&details, &context));
    }
}

/// R-CLAIM-07
#[test]
fn empty_context_and_details_are_left_out() {
    let scene = Scene::shared();
    let issued = scene.ask(&scene.issuer.access_token().mint(), &json!({"x": 1}), &json!({})).issued();
    assert_eq!((issued.claims.get("tctx"), issued.claims.get("rctx")), (None, None));
}

/// R-CLAIM-08, R-META-02, CONTRACT 6 (`include_iss`)
#[test]
fn the_issuer_is_named_as_in_the_metadata_unless_switched_off() {
    let scene = Scene::shared();
    let metadata = scene.writ.site().discover("/.well-known/oauth-authorization-server", &[]).json();
    let issued = scene.issued("order.view");
    assert_eq!((&issued.claims["iss"], &metadata["issuer"]), (&json!(ISSUER), &json!(ISSUER)));
    let silent = Scene::of(Setup::new().set("tokens.include_iss", false));
    assert_eq!(silent.issued("order.view").claims.get("iss"), None);
}

/// R-CLAIM-09
#[test]
fn no_credential_becomes_a_subject() {
    let scene = Scene::shared();
    let token = scene.issuer.key.token(r#"{"alg":"ES256"}"#, r#"{"sub":"a"}"#);
    let ask = |form: &Form| scene.writ.workload("agent").token(form);
    let form = |sub: &str| {
        let kind = "urn:ietf:params:oauth:token-type:unsigned_json";
        Form::token_exchange(&json!({"sub": sub}).to_string(), kind, "order.view")
    };
    ask(&form("alice")).issued();
    ask(&form(&token)).invalid_request("subject_token_claims_invalid");
    let named = Form::client_credentials("order.view").set("requested_subject", &token);
    ask(&named).invalid_request("parameter_malformed");
    let outside = scene.issuer.access_token().claim("sub", token).mint();
    scene.ask(&outside, &json!({}), &json!({})).invalid_request("subject_token_claims_invalid");
}

/// R-CLAIM-09
#[test]
fn what_was_sent_cannot_make_or_override_a_claim() {
    let scene = Scene::shared();
    let claims = json!({
        "iss": "x", "sub": "mallory", "aud": "x", "exp": 9_999_999_999_u64, "scope": "admin", "req_wl": "x", "cnf": {},
        "tctx": {"order": 1}, "rctx": {"authn": 1}, "order": "A-1",
    });
    let issued = scene.ask(&scene.issuer.access_token().mint(), &claims, &claims).issued();
    let expected = ["iss", "iat", "exp", "aud", "txn", "sub", "scope", "req_wl", "tctx"];
    assert_eq!(names(&issued.claims), BTreeSet::from(expected));
    assert_eq!((&issued.claims["sub"], &issued.claims["scope"]), (&json!("alice"), &json!("order.refund")));
    assert_eq!((&issued.claims["tctx"], issued.exp()), (&json!({"order": "A-1"}), issued.iat() + 60));
}

/// A-088, R-CLAIM-11: the limit is 4096 bytes unless it is configured otherwise.
#[test]
fn a_token_that_is_too_large_is_refused() {
    let note = |scene: &Scene, size: usize| {
        let details = json!({"note": "x".repeat(size)});
        scene.ask(&scene.issuer.access_token().mint(), &details, &json!({}))
    };
    let scene = Scene::shared();
    let issued = note(&scene, 2_000).issued();
    let room = (4096 - issued.token.len()) * 3 / 4;
    assert!(note(&scene, 2_000 + room - 3).issued().token.len() <= 4096);
    note(&scene, 2_000 + room + 3).invalid_request("token_too_large");
    let small = Scene::of(Setup::new().set("tokens.max_size", 1024));
    note(&small, 1_000).invalid_request("token_too_large");
}
