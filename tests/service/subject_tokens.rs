//! What holds for subject tokens of every type, each presented beside the others (CONTRACT 3.2; A-047, A-057, A-058,
//! A-064; area SUBJ). What is particular to a type is tested in a module of its own.

use std::sync::Arc;

use serde_json::{Value, json};
use toml::{Table, Value as Toml};

use crate::scene::Shared;
use crate::support::answer::Answer;
use crate::support::issuer::{Draft, Issuer, Reply};
use crate::support::jose::Key;
use crate::support::pki::Credentials;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, now};

const EXECUTE: &str = "trade.execute";

/// An opaque token.
const OPAQUE: &str = "2YotnFZFEjr1zCsicMWpAA";

/// The types whose tokens are signed.
const SIGNED: [&str; 5] = ["access_token", "jwt", "id_token", "self_signed", "txn_token"];

/// The types whose tokens a subject issuer signs.
const OUTSIDE: [&str; 3] = ["access_token", "jwt", "id_token"];

/// Accepts every type of subject token.
const EVERY: &str = r#"
[[purpose]]
scope = "trade.execute"
accept = ["access_token", "jwt", "id_token", "self_signed", "unsigned_json", "txn_token"]
granted_by = ["trade.stocks"]
subjects = ["*"]
"#;

/// A client, a subject issuer and the service between them.
struct Scene {
    writ: Writ,
    issuer: Issuer,
    credentials: Credentials,
    key: Key,
}

impl Scene {
    fn shared() -> Arc<Self> {
        static SCENE: Shared<Scene> = Shared::new();
        SCENE.get(|| Self::of(EVERY, |_| {}))
    }

    /// With this policy of the client, and the table of the issuer changed.
    fn of(policy: &str, change: impl FnOnce(&mut Table)) -> Self {
        let issuer = Issuer::start();
        let setup = every_kind(Setup::new(), &issuer, change).client("gateway", policy);
        Self::start(setup, issuer)
    }

    fn start(setup: Setup, issuer: Issuer) -> Self {
        let writ = setup.start();
        let credentials = writ.setup.credentials("gateway");
        let key = Key::of(&credentials, "unused");
        Self { writ, issuer, credentials, key }
    }

    fn ask(&self, kind: &str, token: &str) -> Answer {
        self.ask_for(EXECUTE, kind, token)
    }

    fn ask_for(&self, scope: &str, kind: &str, token: &str) -> Answer {
        self.writ.workload_with(&self.credentials).token(&form(scope, kind, token))
    }

    /// A good token of that type.
    fn good(&self, kind: &str) -> String {
        match kind {
            "self_signed" => self.vouch(&vouching()),
            "unsigned_json" => json!({"sub": "alice"}).to_string(),
            "txn_token" => self.ask("unsigned_json", &self.good("unsigned_json")).issued().token,
            outside => self.draft(outside).mint(),
        }
    }

    /// A good token of the issuer, to be changed.
    fn draft(&self, kind: &str) -> Draft<'_> {
        match kind {
            "access_token" => self.issuer.access_token(),
            "jwt" => self.issuer.jwt(),
            _ => self.issuer.id_token(),
        }
    }

    /// What the client signs with the key of its certificate.
    fn vouch(&self, claims: &Value) -> String {
        self.key.token(&json!({"typ": "JWT", "alg": "ES256"}).to_string(), &claims.to_string())
    }
}

/// An issuer of every type, which can introspect opaque tokens.
fn every_kind(setup: Setup, issuer: &Issuer, change: impl FnOnce(&mut Table)) -> Setup {
    setup.write("certs/login.secret", "secret");
    setup.issuer_with(issuer, |table| {
        table.insert("token_types".into(), OUTSIDE.to_vec().into());
        table.insert("id_token_audience".into(), vec!["web-app"].into());
        table.insert("scopes".into(), vec!["trade.stocks"].into());
        let mut introspection = Table::new();
        introspection.insert("endpoint".into(), issuer.introspection_endpoint().into());
        introspection.insert("client_id".into(), "writ".into());
        introspection.insert("client_secret_file".into(), "certs/login.secret".into());
        table.insert("introspection".into(), introspection.into());
        change(table);
    })
}

fn set(key: &'static str, value: impl Into<Toml>) -> impl FnOnce(&mut Table) {
    move |table| drop(table.insert(key.into(), value.into()))
}

fn form(scope: &str, kind: &str, token: &str) -> Form {
    Form::token_exchange(token, &format!("urn:ietf:params:oauth:token-type:{kind}"), scope)
}

/// The claims of a good self-signed token.
fn vouching() -> Value {
    let mut jti = [0; 8];
    aws_lc_rs::rand::fill(&mut jti).unwrap();
    let jti = u64::from_be_bytes(jti).to_string();
    json!({"iss": "gateway", "sub": "alice", "aud": ISSUER, "iat": now(), "exp": now() + 300, "jti": jti})
}

/// `object` with this member, or without it where the value is null.
fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    object
}

/// The token with another signature of the same length.
fn altered(token: &str) -> String {
    let (signed_part, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{signed_part}.{first}{}", &signature[1..])
}

/// Fails the test unless the answer is an `invalid_request` that blames the subject token.
#[track_caller]
fn blames_the_token(answer: &Answer) {
    let reason = answer.reason();
    assert!(reason.starts_with("subject_token_"), "{reason}");
    answer.invalid_request(&reason);
}

/// Fails the test unless `writ check` refuses this issuer, naming `key`.
#[track_caller]
fn not_configurable(key: &str, change: impl FnOnce(&mut Table)) {
    let issuer = Issuer::start();
    let setup = every_kind(Setup::new(), &issuer, change).client("gateway", EVERY);
    setup.run(&["check"]).exits(2).says(key);
}

/// R-SUBJ-01
#[test]
fn the_signature_of_every_signed_subject_token_is_verified() {
    let scene = Scene::shared();
    for kind in SIGNED {
        let token = scene.good(kind);
        scene.ask(kind, &altered(&token)).invalid_request("subject_token_signature_invalid");
        scene.ask(kind, &token).issued();
    }
}

/// R-SUBJ-01
#[test]
fn no_setting_skips_the_signature() {
    not_configurable("verify_signature", set("verify_signature", false));
    // Introspection does not replace the signature either.
    let scene = Scene::of(EVERY, |table| {
        table["introspection"].as_table_mut().unwrap().insert("always".into(), true.into());
    });
    scene.issuer.set_reply(Reply::Json(Issuer::active()));
    let token = scene.good("access_token");
    scene.ask("access_token", &altered(&token)).invalid_request("subject_token_signature_invalid");
    scene.ask("access_token", &token).issued();
}

/// A-058, R-SUBJ-02: and the answer says when it expired.
#[test]
fn an_expired_subject_token_of_any_type_yields_nothing() {
    let scene = Scene::of(&format!("{EVERY}lifetime = \"1s\"\n"), |_| {});
    let past = now() - 11;
    let own = scene.ask("jwt", &scene.good("jwt")).issued();
    let vouched = with(with(vouching(), "iat", json!(past - 60)), "exp", json!(past));
    scene.issuer.set_reply(Reply::Json(with(Issuer::active(), "exp", json!(past))));
    own.wait_until_expired();
    for (kind, token, exp) in [
        ("access_token", scene.draft("access_token").claim("exp", past).mint(), past),
        ("access_token", OPAQUE.to_owned(), past),
        ("jwt", scene.draft("jwt").claim("exp", past).mint(), past),
        ("id_token", scene.draft("id_token").claim("exp", past).mint(), past),
        ("self_signed", scene.vouch(&vouched), past),
        ("unsigned_json", json!({"sub": "alice", "exp": past}).to_string(), past),
        ("txn_token", own.token.clone(), own.exp()),
    ] {
        let refused = scene.ask(kind, &token).invalid_request("subject_token_expired");
        assert_eq!(refused.answer["expired_at"], exp, "{kind}");
    }
}

/// A-058, R-SUBJ-02, CONTRACT 3.3: the skew is 10 s, and the Txn-Token lives for what remains of it.
#[test]
fn an_expiry_within_the_skew_has_not_passed() {
    let scene = Scene::shared();
    let exp = now() - 1;
    for kind in OUTSIDE {
        let issued = scene.ask(kind, &scene.draft(kind).claim("exp", exp).mint()).issued();
        assert_eq!(issued.exp(), exp + 10, "{kind}");
    }
}

/// R-SUBJ-03
#[test]
fn each_issuer_has_algorithms_of_its_own() {
    let (issuer, strict) = (Issuer::start(), Issuer::start());
    let setup = every_kind(Setup::new(), &issuer, |_| {}).issuer_with(&strict, |table| {
        table.insert("algorithms".into(), vec!["RS256"].into());
        table.insert("subject_prefix".into(), "strict:".into());
    });
    let scene = Scene::start(setup.client("gateway", EVERY), issuer);
    scene.ask("access_token", &scene.good("access_token")).issued();
    let token = strict.access_token().mint();
    scene.ask("access_token", &token).invalid_request("subject_token_signature_invalid");
}

/// A-047, R-SUBJ-03: not even where the issuer signed such a header.
#[test]
fn keys_in_the_header_are_neither_fetched_nor_trusted() {
    let (scene, bait, own) = (Scene::shared(), Issuer::start(), Key::es256("issuer-1"));
    for kind in OUTSIDE {
        for (name, value) in [
            ("jwk", own.jwk()),
            ("jku", json!(bait.jwks_uri())),
            ("x5u", json!(format!("{}/certificate", bait.url()))),
            ("x5c", json!(["AAAA"])),
        ] {
            let forged = scene.draft(kind).header(name, value.clone()).signed_by(&own).mint();
            blames_the_token(&scene.ask(kind, &forged));
            let signed = scene.draft(kind).header(name, value).mint();
            scene.ask(kind, &signed).invalid_request("subject_token_malformed");
        }
    }
    assert_eq!((bait.jwks_fetches(), bait.other_fetches()), (0, 0));
}

/// A-064, R-SUBJ-05
#[test]
fn no_subject_token_passes_as_one_of_another_type() {
    let scene = Scene::shared();
    let kinds = ["txn_token", "access_token", "jwt", "id_token", "self_signed", "unsigned_json"];
    for made in kinds {
        let token = scene.good(made);
        for declared in kinds {
            let answer = scene.ask(declared, &token);
            if declared == made {
                answer.issued();
            } else if (made, declared) == ("jwt", "id_token") {
                answer.invalid_request("subject_token_audience_mismatch");
            } else if OUTSIDE.contains(&declared) && made != "self_signed" && made != "unsigned_json" {
                answer.invalid_request("subject_token_malformed");
            } else {
                blames_the_token(&answer);
            }
        }
    }
}

/// A-056, R-SUBJ-06
#[test]
fn times_are_whole_seconds_or_fractions() {
    let scene = Scene::shared();
    for kind in OUTSIDE {
        for (name, value) in [("exp", now() + 60), ("nbf", now()), ("iat", now())] {
            scene.ask(kind, &scene.draft(kind).mint_raw(name, &value.to_string())).issued();
            scene.ask(kind, &scene.draft(kind).mint_raw(name, &format!("{value}.25"))).issued();
        }
    }
    let issued = scene.ask("jwt", &scene.draft("jwt").mint_raw("exp", &format!("{}.75", now() + 30))).issued();
    assert!(issued.exp() <= now() + 30 + 10 + 1, "rounded down, with the tolerated skew");
}

/// A-057, R-SUBJ-06: the default is 10 s, the most that can be configured 120 s.
#[test]
fn clocks_may_differ_by_the_skew_and_no_more() {
    let scene = Scene::shared();
    let at = |name: &str, time: u64| scene.ask("jwt", &scene.draft("jwt").claim(name, time).mint());
    for name in ["nbf", "iat"] {
        at(name, now() + 8).issued();
        for ahead in [60, 3600] {
            at(name, now() + ahead).invalid_request("subject_token_not_yet_valid");
        }
    }
    scene.ask("jwt", &scene.draft("jwt").claim("nbf", now() + 5).claim("iat", now() + 5).mint()).issued();
    at("exp", now() - 1).issued();
    at("exp", now() - 11).invalid_request("subject_token_expired");
    let check = |skew: &str| Setup::new().client("gateway", "").set("tokens.clock_skew", skew).run(&["check"]);
    check("120s").exits(0);
    check("121s").exits(2).says("clock_skew");
}

/// R-SUBJ-10
#[test]
fn sender_constrained_tokens_are_accepted_only_from_clients_that_vouch() {
    let issuer = Issuer::start();
    let vouching = format!("vouches_for_bound_tokens = true\n{EVERY}");
    let setup = every_kind(Setup::new(), &issuer, |_| {}).client("gateway", EVERY).client("vouching", &vouching);
    let scene = Scene::start(setup, issuer);
    for cnf in [json!({"jkt": "0ZcOCORZNYy"}), json!({"x5t#S256": "bwcK0esc3ACC"})] {
        let token = scene.draft("access_token").claim("cnf", cnf.clone()).mint();
        scene.issuer.set_reply(Reply::Json(with(Issuer::active(), "cnf", cnf)));
        for token in [token.as_str(), OPAQUE] {
            scene.ask("access_token", token).invalid_request("subject_token_claims_invalid");
            let issued = scene.writ.workload("vouching").token(&form(EXECUTE, "access_token", token)).issued();
            assert_eq!(issued.claims.get("cnf"), None);
        }
    }
    let copying = format!("{EVERY}tctx.subject = {{ binding = \"cnf\" }}\n");
    Setup::new().client("copying", &copying).run(&["check"]).exits(2).says("tctx.subject: must not name \"cnf\"");
}
