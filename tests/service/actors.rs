//! Subject tokens that name an actor for their subject (`act`, RFC 8693 section 4.1): a Txn-Token cannot say so,
//! and must not say that the subject acts alone (CONTRACT 3.2, 7, 10; R-REQ-15).

use serde_json::{Value, json};
use toml::Table;

use crate::support::answer::Answer;
use crate::support::issuer::{Issuer, Reply};
use crate::support::jose::Key;
use crate::support::pki::Credentials;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, now};

const OPAQUE: &str = "2YotnFZFEjr1zCsicMWpAA";

/// Two purposes that refuse actors and two that ignore them.
const POLICY: &str = r#"
[[purpose]]
scope = "strict"
accept = ["access_token", "jwt", "id_token", "self_signed", "unsigned_json"]
granted_by = ["trade.stocks"]
subjects = ["*"]

[[purpose]]
scope = "loose"
accept = ["access_token", "jwt", "id_token", "self_signed", "unsigned_json"]
granted_by = ["trade.stocks"]
subjects = ["*"]
actors = "ignore"

[[purpose]]
scope = "looser"
accept = ["access_token"]
granted_by = ["trade.stocks"]
actors = "ignore"
when = "!has(subject.claims.act) || subject.claims.act.sub == 'agent'"
tctx.subject = { acting = "act" }
"#;

/// A client that presents every type of subject token that has claims.
struct Scene {
    writ: Writ,
    issuer: Issuer,
    credentials: Credentials,
    key: Key,
    always: Issuer,
}

impl Scene {
    fn new() -> Self {
        let (issuer, always) = (Issuer::start(), Issuer::start());
        let setup = Setup::new().issuer_with(&issuer, |table| {
            table.insert("token_types".into(), vec!["access_token", "jwt", "id_token"].into());
            table.insert("id_token_audience".into(), vec!["web-app"].into());
            table.insert("scopes".into(), vec!["trade.stocks"].into());
            introspection(table, &issuer, false);
        });
        let setup = setup.issuer_with(&always, |table| {
            table.insert("subject_prefix".into(), "always:".into());
            introspection(table, &always, true);
        });
        setup.write("certs/login.secret", "secret\n");
        let policy = format!("opaque_tokens_from = \"{}\"\n{POLICY}", issuer.url());
        let writ = setup.client("gateway", &policy).start();
        let credentials = writ.setup.credentials("gateway");
        let key = Key::of(&credentials, "unused");
        Self { writ, issuer, credentials, key, always }
    }

    fn ask(&self, kind: &str, token: &str, scope: &str) -> Answer {
        let kind = format!("urn:ietf:params:oauth:token-type:{kind}");
        self.writ.workload_with(&self.credentials).token(&Form::token_exchange(token, &kind, scope))
    }

    /// A subject token of each type with this claim, and the type that it is presented as.
    fn every_kind_with(&self, name: &str, value: &str) -> Vec<(&'static str, String)> {
        let own = json!({"iss": "gateway", "sub": "ann", "aud": ISSUER, "iat": now(), "exp": now() + 300});
        let jti = format!("{name}-{value}-{}", now());
        let mut own = own.to_string();
        own.truncate(own.len() - 1);
        let own = format!("{own},\"jti\":{},\"{name}\":{value}}}", json!(jti));
        let mut reply = Issuer::active().to_string();
        reply.truncate(reply.len() - 1);
        self.issuer.set_reply(Reply::Status(200, format!("{reply},\"{name}\":{value}}}")));
        vec![
            ("access_token", self.issuer.access_token().mint_raw(name, value)),
            ("access_token", OPAQUE.to_owned()),
            ("jwt", self.issuer.jwt().mint_raw(name, value)),
            ("id_token", self.issuer.id_token().mint_raw(name, value)),
            ("self_signed", self.key.token(r#"{"alg":"ES256"}"#, &own)),
            ("unsigned_json", format!("{{\"sub\":\"ann\",\"{name}\":{value}}}")),
        ]
    }
}

fn introspection(table: &mut Table, issuer: &Issuer, always: bool) {
    let mut settings = Table::new();
    settings.insert("endpoint".into(), issuer.introspection_endpoint().into());
    settings.insert("client_id".into(), "writ".into());
    settings.insert("client_secret_file".into(), "certs/login.secret".into());
    settings.insert("always".into(), always.into());
    table.insert("introspection".into(), settings.into());
}

/// Whatever the claim looks like: one that cannot be understood may name an actor.
const ACTS: [&str; 8] = [
    r#"{"sub":"agent"}"#,
    r#"{"sub":"agent","act":{"sub":"other"}}"#,
    "{}",
    "null",
    "\"agent\"",
    r#"[{"sub":"agent"}]"#,
    "false",
    "0",
];

/// R-REQ-15
#[test]
fn a_token_that_names_an_actor_is_refused_whatever_its_kind() {
    let scene = Scene::new();
    for act in ACTS {
        for (kind, token) in scene.every_kind_with("act", act) {
            let refused = scene.ask(kind, &token, "strict").invalid_request("subject_token_claims_invalid");
            let text = refused.answer["error_description"].as_str().unwrap();
            assert!(text.contains("`act`") && text.contains("actors = 'ignore'"), "{kind} {act}: {text}");
            let line = scene.writ.audit_of(&refused.request_id);
            assert_eq!((&line["cause"], line.get("actors")), (&json!(text), None), "{kind} {act}");
        }
    }
}

/// R-REQ-15
#[test]
fn a_purpose_may_ignore_actors_and_the_log_says_so() {
    let scene = Scene::new();
    for act in ACTS {
        for (kind, token) in scene.every_kind_with("act", act) {
            let issued = scene.ask(kind, &token, "loose").issued();
            assert!(!issued.claims.to_string().contains("agent"), "{kind} {act}: {}", issued.claims);
            assert_eq!(scene.writ.audit_of(&issued.request_id)["actors"], "ignored", "{kind} {act}");
        }
    }
    for (kind, token) in scene.every_kind_with("other", "1") {
        let issued = scene.ask(kind, &token, "loose").issued();
        assert_eq!(scene.writ.audit_of(&issued.request_id).get("actors"), None, "{kind}");
    }
}

/// Contract 7: each requested purpose must say so; a claim of another name, or deeper down, names no actor.
#[test]
fn every_requested_purpose_must_ignore_actors() {
    let scene = Scene::new();
    let token = scene.issuer.access_token().claim("act", json!({"sub": "agent"})).mint();
    for scope in ["loose strict", "strict loose"] {
        scene.ask("access_token", &token, scope).invalid_request("subject_token_claims_invalid");
    }
    let issued = scene.ask("access_token", &token, "loose looser").issued();
    assert_eq!(issued.claims["tctx"], json!({"acting": {"sub": "agent"}}), "a policy may still tell of it");
    let escaped = scene.issuer.access_token().mint_raw("\\u0061ct", "{}");
    scene.ask("access_token", &escaped, "strict").invalid_request("subject_token_claims_invalid");
    for (name, value) in [
        ("may_act", json!({"sub": "agent"})),
        ("Act", json!({"sub": "agent"})),
        ("ctx", json!({"act": {"sub": "agent"}})),
    ] {
        scene.ask("access_token", &scene.issuer.access_token().claim(name, value).mint(), "strict").issued();
    }
}

/// The introspection response about a JWT can name an actor too.
#[test]
fn an_actor_that_only_introspection_names_counts() {
    let scene = Scene::new();
    let token = scene.always.access_token().mint();
    let says = |act: Option<Value>| {
        let mut reply = json!({"active": true, "sub": "alice"});
        reply.as_object_mut().unwrap().extend(act.map(|act| ("act".to_owned(), act)));
        scene.always.set_reply(Reply::Json(reply));
    };
    says(Some(json!({"sub": "agent"})));
    scene.ask("access_token", &token, "strict").invalid_request("subject_token_claims_invalid");
    let issued = scene.ask("access_token", &token, "loose").issued();
    assert_eq!(scene.writ.audit_of(&issued.request_id)["actors"], "ignored");
    says(None);
    scene.ask("access_token", &token, "strict").issued();
    let signed = scene.always.access_token().claim("act", json!({"sub": "agent"})).mint();
    for silent in [None, Some(Value::Null)] {
        says(silent);
        scene.ask("access_token", &signed, "strict").invalid_request("subject_token_claims_invalid");
    }
}

/// `writ policy explain` and `test` decide on it as the service does, and say what would have to change.
#[test]
fn the_policy_tools_decide_on_actors_as_the_service_does() {
    let setup = Setup::new().issuer(&Issuer::start()).client(
        "gateway",
        r#"
            [[purpose]]
            scope = "strict"
            accept = ["access_token"]
            granted_by = ["g"]

            [[purpose]]
            scope = "loose"
            accept = ["access_token"]
            granted_by = ["g"]
            actors = "ignore"
        "#,
    );
    let explain = |scope: &str| {
        setup.run(&[
            "policy",
            "explain",
            "--client",
            "gateway",
            "--source",
            "access_token",
            "--scope",
            scope,
            "--subject-scope",
            "g",
            "--presented",
            r#"{"act":{"sub":"agent"}}"#,
        ])
    };
    let refused = explain("strict").exits(1).stdout;
    for words in ["NO  actors", "subject_token_claims_invalid", "add actors = \"ignore\""] {
        assert!(refused.contains(words), "{words}: {refused}");
    }
    assert!(explain("loose").exits(0).stdout.contains("ok  actors"));
    setup.write(
        "policies/tests/actors.toml",
        r#"
            [[test]]
            name = "alone"
            client = "gateway"
            source = "access_token"
            scope = "strict"
            subject_scope = "g"
            presented = { act = { sub = "agent" } }
            expect = "subject_token_claims_invalid"
        "#,
    );
    setup.run(&["policy", "test"]).exits(0);
    let line = r#"{"event":"token_issued","client":"gateway","source":"access_token","scope":"loose","sub":"ann","actors":"ignored"}"#;
    setup.run(&["policy", "explain", "--from-audit", line]).exits(0);
    let line = line.replace("loose", "strict");
    setup.run(&["policy", "explain", "--from-audit", &line]).exits(1);
}
