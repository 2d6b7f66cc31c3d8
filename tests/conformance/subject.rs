//! Area SUBJ: subject tokens of every type, what is checked of each before it is used.

use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use toml::{Table, Value as Toml};

use crate::support::answer::{Answer, Issued};
use crate::support::issuer::{AUDIENCE, Draft, Issuer, Mode, Word};
use crate::support::jose::Key;
use crate::support::pki::Credentials;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, eventually, now, wait_until};

const EXECUTE: &str = "trade.execute";

/// What has neither two dots nor a meaning of its own.
const OPAQUE: &str = "2YotnFZFEjr1zCsicMWpAA";

/// The types whose tokens are signed.
const SIGNED: [&str; 5] = ["access_token", "jwt", "id_token", "self_signed", "txn_token"];

/// The types whose tokens a subject issuer signs.
const OUTSIDE: [&str; 3] = ["access_token", "jwt", "id_token"];

/// Takes every type of subject token.
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
    fn new() -> Self {
        Self::of(EVERY, |_| {})
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

/// An issuer that gives every type, and can be asked about opaque ones.
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
    let scene = Scene::new();
    for kind in SIGNED {
        let token = scene.good(kind);
        scene.ask(kind, &altered(&token)).invalid_request("subject_token_signature_invalid");
        scene.ask(kind, &token).issued();
    }
}

/// R-SUBJ-01
#[test]
fn no_setting_skips_the_signature() {
    not_configurable("algorithms", set("algorithms", vec!["none"]));
    not_configurable("algorithms", set("algorithms", Vec::<String>::new()));
    not_configurable("verify_signature", set("verify_signature", false));
    // Nor does the word of the issuer stand for one.
    let scene = Scene::of(EVERY, |table| {
        table["introspection"].as_table_mut().unwrap().insert("always".into(), true.into());
    });
    scene.issuer.introspect(Word::Says(Issuer::reply()));
    let token = scene.good("access_token");
    scene.ask("access_token", &altered(&token)).invalid_request("subject_token_signature_invalid");
    scene.ask("access_token", &token).issued();
}

/// R-SUBJ-01
#[test]
fn whatever_is_wrong_with_a_subject_token_is_an_invalid_request() {
    let scene = Scene::new();
    let draft = || scene.issuer.access_token();
    for (token, reason) in [
        ("a.b.c".to_owned(), "subject_token_malformed"),
        (draft().claim("iss", "https://other.example").mint(), "subject_token_issuer_unknown"),
        (draft().header("kid", "unheard-of").mint(), "subject_token_key_unknown"),
        (altered(&draft().mint()), "subject_token_signature_invalid"),
        (draft().claim("aud", "https://other.example").mint(), "subject_token_audience_mismatch"),
        (draft().without("sub").mint(), "subject_token_claims_invalid"),
        (draft().claim("exp", now() - 60).mint(), "subject_token_expired"),
        (draft().claim("nbf", now() + 60).mint(), "subject_token_not_yet_valid"),
        (OPAQUE.to_owned(), "subject_token_inactive"),
    ] {
        scene.ask("access_token", &token).invalid_request(reason);
    }
}

/// R-SUBJ-02
#[test]
fn an_expired_subject_token_of_any_type_yields_nothing() {
    let scene = Scene::of(&format!("{EVERY}lifetime = \"1s\"\n"), |_| {});
    let past = now() - 11;
    let own = scene.ask("jwt", &scene.good("jwt")).issued();
    let vouched = with(with(vouching(), "iat", json!(past - 60)), "exp", json!(past));
    scene.issuer.introspect(Word::Says(with(Issuer::reply(), "exp", json!(past))));
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

/// R-SUBJ-02: the skew is 10 s, as the contract has it.
#[test]
fn an_expiry_within_the_skew_has_not_passed() {
    let scene = Scene::new();
    let exp = now() - 1;
    for kind in OUTSIDE {
        let issued = scene.ask(kind, &scene.draft(kind).claim("exp", exp).mint()).issued();
        assert_eq!(issued.exp(), exp + 10, "{kind}");
    }
}

/// R-SUBJ-02
#[test]
fn only_a_redemption_takes_an_expired_token() {
    let brief = "[[purpose]]\nscope = \"account.purge\"\naccept = [\"client_credentials\"]\nlifetime = \"1s\"\n";
    let job = "[[purpose]]\nscope = \"account.purge\"\naccept = [\"expired_txn_token\"]\n\
               [purpose.redemption]\nissued_to = [\"accounts\"]\nmax_age = \"1d\"\n";
    let plain = "[[purpose]]\nscope = \"account.purge\"\naccept = [\"txn_token\"]\n";
    let writ = Setup::new().client("accounts", brief).client("job", job).client("plain", plain).start();
    let token = writ.workload("accounts").token(&Form::client_credentials("account.purge")).issued();
    token.wait_until_expired();
    let form = Form::redeem(&token.token, "account.purge");
    writ.workload("plain").token(&form).invalid_request("subject_token_expired");
    writ.workload("job").token(&form).issued();
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

/// R-SUBJ-03
#[test]
fn an_algorithm_must_fit_the_type_of_the_key() {
    let scene = Scene::new();
    for kind in OUTSIDE {
        for alg in ["RS256", "ES384"] {
            let token = scene.draft(kind).header("alg", alg).mint();
            scene.ask(kind, &token).invalid_request("subject_token_signature_invalid");
        }
    }
}

/// R-SUBJ-03
#[test]
fn neither_none_nor_a_mac_is_ever_accepted() {
    let scene = Scene::new();
    for kind in OUTSIDE {
        let none = scene.draft(kind).header("alg", "none");
        scene.ask(kind, &none.mint_signed_with(b"")).invalid_request("subject_token_signature_invalid");
        for secret in [scene.issuer.key.public_bytes(), scene.issuer.key.jwk().to_string().into_bytes()] {
            let mac = scene.draft(kind).header("alg", "HS256").mac(&secret);
            scene.ask(kind, &mac).invalid_request("subject_token_signature_invalid");
        }
    }
    for algorithm in ["none", "HS256", "HS384", "HS512"] {
        not_configurable("algorithms", set("algorithms", vec!["ES256", algorithm]));
    }
}

/// R-SUBJ-03
#[test]
fn keys_that_a_token_brings_along_are_neither_fetched_nor_trusted() {
    let (scene, bait, own) = (Scene::new(), Issuer::start(), Key::es256("issuer-1"));
    for kind in OUTSIDE {
        for (name, value) in [
            ("jwk", own.jwk()),
            ("jku", json!(bait.jwks_uri())),
            ("x5u", json!(format!("{}/certificate", bait.url()))),
            ("x5c", json!(["AAAA"])),
        ] {
            blames_the_token(&scene.ask(kind, &scene.draft(kind).header(name, value).signed_by(&own).mint()));
        }
    }
    assert_eq!((bait.jwks_fetches(), bait.other_fetches()), (0, 0));
}

/// R-SUBJ-03: only its issuer could read a token of five parts, and here it does not vouch for it.
#[test]
fn unknown_crit_unencoded_payloads_and_encrypted_tokens_are_refused() {
    let scene = Scene::new();
    let jwe = format!("{}.AA.AA.AA.AA", URL_SAFE_NO_PAD.encode(r#"{"alg":"RSA-OAEP","enc":"A128GCM"}"#));
    for kind in OUTSIDE {
        for (name, value) in [("crit", json!(["x"])), ("b64", json!(false))] {
            let token = scene.draft(kind).header(name, value).mint();
            scene.ask(kind, &token).invalid_request("subject_token_malformed");
        }
        blames_the_token(&scene.ask(kind, &jwe));
    }
}

/// R-SUBJ-04
#[test]
fn keys_are_fetched_over_https_only() {
    not_configurable("jwks_uri", set("jwks_uri", "http://login.example/jwks"));
    not_configurable("issuer", |table| {
        table.remove("jwks_uri");
        table.insert("issuer".into(), "http://login.example".into());
    });
}

/// R-SUBJ-04
#[test]
fn keys_are_fetched_once_and_kept_however_many_ask() {
    let issuer = Issuer::start();
    issuer.be(Mode::Slow(Duration::from_millis(300)));
    let scene = Scene::start(every_kind(Setup::new(), &issuer, |_| {}).client("gateway", EVERY), issuer);
    let token = scene.good("access_token");
    for _ in 0..2 {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| scene.ask("access_token", &token).issued());
            }
        });
    }
    assert_eq!(scene.issuer.jwks_fetches(), 1);
}

/// R-SUBJ-04
#[test]
fn keys_are_refreshed_in_the_background() {
    let issuer = Issuer::start();
    issuer.cache_for(1);
    let scene = Scene::start(every_kind(Setup::new(), &issuer, |_| {}).client("gateway", EVERY), issuer);
    eventually("keys are fetched again, though nobody asks", || (scene.issuer.jwks_fetches() > 2).then_some(()));
    scene.ask("access_token", &scene.good("access_token")).issued();
}

/// R-SUBJ-04
#[test]
fn an_unknown_kid_has_the_keys_fetched_and_many_do_so_once() {
    let scene = Scene::new();
    scene.ask("access_token", &scene.good("access_token")).issued();
    let newer = Key::es256("newer");
    scene.issuer.publish(&[scene.issuer.key.jwk(), newer.jwk()]);
    let fetched = scene.issuer.jwks_fetches();
    let token = scene.draft("access_token").header("kid", "newer").signed_by(&newer).mint();
    scene.ask("access_token", &token).issued();
    for index in 0..20 {
        let token = scene.draft("access_token").header("kid", format!("random-{index}")).mint();
        scene.ask("access_token", &token).refused(503, "temporarily_unavailable", "issuer_unavailable");
    }
    assert_eq!(scene.issuer.jwks_fetches(), fetched + 1);
}

/// R-SUBJ-04: a key that is published while forced fetches cool down is never called unknown, and serves right after.
#[test]
fn a_genuine_new_key_in_a_cool_down_is_taken_as_soon_as_it_can_be_fetched() {
    let scene = Scene::new();
    let bogus = |kid: &str| scene.draft("access_token").header("kid", kid).mint();
    scene.ask("access_token", &bogus("newer")).invalid_request("subject_token_key_unknown");
    let fetched = scene.issuer.jwks_fetches();
    let newer = Key::es256("newer");
    scene.issuer.publish(&[scene.issuer.key.jwk(), newer.jwk()]);
    let token = scene.draft("access_token").header("kid", "newer").signed_by(&newer).mint();
    let mut waited = 0;
    let issued = loop {
        let answer = scene.ask("access_token", &token);
        if answer.status() == 200 {
            break answer.issued();
        }
        answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
        let seconds: u64 = answer.response.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&seconds), "{seconds}");
        // Others ask for keys that do not exist all the time, and get nothing fetched for it.
        scene.ask("access_token", &bogus(&format!("random-{seconds}"))).refused(
            503,
            "temporarily_unavailable",
            "issuer_unavailable",
        );
        scene.ask("access_token", &scene.good("access_token")).issued();
        assert_eq!(scene.issuer.jwks_fetches(), fetched);
        waited += seconds;
        assert!(waited <= 35, "Retry-After was not the truth");
        thread::sleep(Duration::from_secs(seconds));
    };
    assert_eq!(issued.claims["sub"], "alice");
    assert_eq!(scene.issuer.jwks_fetches(), fetched + 1);
}

/// R-SUBJ-04
#[test]
fn keys_that_are_too_large_or_elsewhere_are_not_taken() {
    let (issuer, bait) = (Issuer::start(), Issuer::start());
    let huge = json!({"keys": [issuer.key.jwk()], "filler": "x".repeat(3 << 20)}).to_string();
    for mode in [Mode::Body(huge), Mode::Redirect(bait.jwks_uri())] {
        issuer.be(mode);
        let setup = Setup::new().issuer(&issuer).client("gateway", &EVERY.replace("\"jwt\", \"id_token\", ", ""));
        let form = form(EXECUTE, "access_token", &issuer.access_token().mint());
        let writ = setup.start();
        writ.workload("gateway").token(&form).refused(503, "temporarily_unavailable", "issuer_unavailable");
    }
    assert_eq!((bait.jwks_fetches(), bait.other_fetches()), (0, 0));
}

/// R-SUBJ-04
#[test]
fn known_keys_serve_while_the_issuer_is_away_until_they_are_stale() {
    let issuer = Issuer::start();
    issuer.cache_for(1);
    let setup = every_kind(Setup::new(), &issuer, set("jwks_stale", "8s")).client("gateway", EVERY);
    let scene = Scene::start(setup, issuer);
    let token = scene.good("access_token");
    scene.ask("access_token", &token).issued();
    scene.issuer.be(Mode::Down);
    let labels = [("issuer", scene.issuer.url()), ("outcome", "error".to_owned())];
    let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
    eventually("a fetch fails", || scene.writ.metric("writ_jwks_fetch_total", &labels));
    scene.ask("access_token", &token).issued();
    let stale = eventually("the keys are stale", || {
        let answer = scene.ask("access_token", &token);
        (answer.status() != 200).then_some(answer)
    });
    stale.refused(503, "temporarily_unavailable", "issuer_unavailable");
}

/// R-SUBJ-05
#[test]
fn no_subject_token_passes_as_one_of_another_type() {
    let scene = Scene::new();
    let kinds = ["txn_token", "access_token", "jwt", "id_token", "self_signed", "unsigned_json"];
    for made in kinds {
        let token = scene.good(made);
        for declared in kinds {
            let answer = scene.ask(declared, &token);
            if declared == made {
                answer.issued();
            } else {
                blames_the_token(&answer);
            }
        }
    }
}

/// R-SUBJ-05
#[test]
fn what_an_issuer_marks_as_txn_token_passes_as_nothing() {
    let scene = Scene::new();
    for kind in OUTSIDE {
        let token = scene.draft(kind).header("typ", "txntoken+jwt").mint();
        scene.ask(kind, &token).invalid_request("subject_token_malformed");
    }
    let token = scene.draft("access_token").header("typ", "txntoken+jwt").mint();
    scene.ask("txn_token", &token).invalid_request("subject_token_key_unknown");
}

/// R-SUBJ-05
#[test]
fn an_issuer_is_known_for_the_types_that_it_is_configured_for() {
    let scene = Scene::of(EVERY, set("token_types", vec!["access_token", "jwt"]));
    scene.ask("id_token", &scene.good("id_token")).invalid_request("subject_token_issuer_unknown");
    scene.ask("jwt", &scene.good("jwt")).issued();
    // What nothing would tell apart cannot be configured.
    not_configurable("token_types", set("jwt_access_tokens", "legacy"));
    not_configurable("id_token_audience", set("id_token_audience", vec![AUDIENCE]));
}

/// R-SUBJ-06
#[test]
fn times_are_whole_seconds_or_fractions() {
    let scene = Scene::new();
    for kind in OUTSIDE {
        for (name, value) in [("exp", now() + 60), ("nbf", now()), ("iat", now())] {
            scene.ask(kind, &scene.draft(kind).mint_raw(name, &value.to_string())).issued();
            scene.ask(kind, &scene.draft(kind).mint_raw(name, &format!("{value}.25"))).issued();
        }
    }
}

/// R-SUBJ-06
#[test]
fn a_time_that_is_none_is_invalid() {
    let scene = Scene::new();
    for name in ["exp", "nbf", "iat"] {
        for value in [&format!("\"{}\"", now() + 1), "-1", "1e400", "99999999999999", "null", "true", "[]"] {
            let token = scene.draft("access_token").mint_raw(name, value);
            let answer = scene.ask("access_token", &token);
            assert_eq!(answer.reason(), "subject_token_claims_invalid", "{name}: {value}");
            answer.invalid_request("subject_token_claims_invalid");
        }
    }
}

/// R-SUBJ-06: the default is the contract's, 10 s; the most that can be configured is 120 s.
#[test]
fn clocks_may_differ_by_the_skew_and_no_more() {
    let scene = Scene::new();
    let at = |name: &str, time: u64| scene.ask("jwt", &scene.draft("jwt").claim(name, time).mint());
    for name in ["nbf", "iat"] {
        at(name, now() + 8).issued();
        at(name, now() + 60).invalid_request("subject_token_not_yet_valid");
    }
    at("exp", now() - 1).issued();
    at("exp", now() - 11).invalid_request("subject_token_expired");
    let check = |skew: &str| Setup::new().client("gateway", "").set("tokens.clock_skew", skew).run(&["check"]);
    check("120s").exits(0);
    check("121s").exits(2).says("clock_skew");
}

/// R-SUBJ-07
#[test]
fn subjects_of_two_issuers_are_kept_apart_by_a_prefix() {
    let (issuer, partner) = (Issuer::start(), Issuer::start());
    let setup = every_kind(Setup::new(), &issuer, |_| {}).issuer_with(&partner, set("subject_prefix", "partner:"));
    let scene = Scene::start(setup.client("gateway", EVERY), issuer);
    let ask = |draft: &Draft<'_>| scene.ask("access_token", &draft.mint());
    assert_eq!(ask(&scene.issuer.access_token()).issued().claims["sub"], "alice");
    assert_eq!(ask(&partner.access_token()).issued().claims["sub"], "partner:alice");
    // Neither one issuer's subjects nor a client can be named by another issuer.
    for sub in ["partner:alice", "gateway"] {
        ask(&scene.issuer.access_token().claim("sub", sub)).invalid_request("subject_token_claims_invalid");
    }
}

/// R-SUBJ-07
#[test]
fn a_service_whose_issuers_could_collide_does_not_start() {
    let (one, other) = (Issuer::start(), Issuer::start());
    let setup = Setup::new().issuer(&one).issuer(&other).client("gateway", EVERY);
    setup.run(&["serve"]).exits(2).says("subject_prefix");
}

/// R-SUBJ-08
#[test]
fn a_jwt_access_token_says_so_in_its_typ() {
    let scene = Scene::new();
    for typ in ["at+jwt", "application/at+jwt"] {
        scene.ask("access_token", &scene.draft("access_token").header("typ", typ).mint()).issued();
    }
    for draft in [scene.issuer.access_token().header("typ", "JWT"), scene.issuer.access_token().without_header("typ")] {
        scene.ask("access_token", &draft.mint()).invalid_request("subject_token_malformed");
    }
}

/// R-SUBJ-08
#[test]
fn an_operator_may_admit_legacy_access_tokens_of_an_issuer() {
    let scene = Scene::of(EVERY, |table| {
        table.insert("token_types".into(), vec!["access_token"].into());
        table.insert("jwt_access_tokens".into(), "legacy".into());
    });
    scene.ask("access_token", &scene.draft("access_token").header("typ", "JWT").mint()).issued();
}

/// R-SUBJ-08
#[test]
fn every_claim_that_rfc_9068_requires_must_be_there() {
    let scene = Scene::new();
    for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        blames_the_token(&scene.ask("access_token", &scene.draft("access_token").without(name).mint()));
    }
}

/// R-SUBJ-08
#[test]
fn an_access_token_is_of_a_configured_issuer_for_a_configured_audience() {
    let scene = Scene::new();
    let ask =
        |name: &str, value: Value| scene.ask("access_token", &scene.draft("access_token").claim(name, value).mint());
    ask("aud", json!(["https://other.example", AUDIENCE])).issued();
    for aud in ["https://other.example", "https://api.example/", "https://API.example"] {
        ask("aud", json!(aud)).invalid_request("subject_token_audience_mismatch");
    }
    for iss in [format!("{}/", scene.issuer.url()), scene.issuer.url().to_uppercase()] {
        ask("iss", json!(iss)).invalid_request("subject_token_issuer_unknown");
    }
    ask("exp", json!(now() - 60)).invalid_request("subject_token_expired");
}

/// R-SUBJ-09
#[test]
fn a_client_exchanges_only_tokens_that_were_meant_for_it() {
    let scene = Scene::of(&format!("subject_token_audience = [\"https://gateway.example\"]\n{EVERY}"), |_| {});
    let ask = |aud: Value| scene.ask("access_token", &scene.draft("access_token").claim("aud", aud).mint());
    ask(json!(AUDIENCE)).invalid_request("subject_token_audience_mismatch");
    ask(json!([AUDIENCE, "https://gateway.example"])).issued();
}

/// R-SUBJ-10
#[test]
fn sender_constrained_tokens_are_taken_only_from_clients_that_vouch() {
    let issuer = Issuer::start();
    let vouching = format!("vouches_for_bound_tokens = true\n{EVERY}");
    let setup = every_kind(Setup::new(), &issuer, |_| {}).client("gateway", EVERY).client("vouching", &vouching);
    let scene = Scene::start(setup, issuer);
    for cnf in [json!({"jkt": "0ZcOCORZNYy"}), json!({"x5t#S256": "bwcK0esc3ACC"})] {
        let token = scene.draft("access_token").claim("cnf", cnf.clone()).mint();
        scene.issuer.introspect(Word::Says(with(Issuer::reply(), "cnf", cnf)));
        for token in [token.as_str(), OPAQUE] {
            scene.ask("access_token", token).invalid_request("subject_token_claims_invalid");
            let issued = scene.writ.workload("vouching").token(&form(EXECUTE, "access_token", token)).issued();
            assert_eq!(issued.claims.get("cnf"), None);
        }
    }
    let copying = format!("{EVERY}tctx.subject = {{ binding = \"cnf\" }}\n");
    Setup::new().client("copying", &copying).run(&["check"]).exits(2).says("tctx.subject: must not name \"cnf\"");
}

/// R-SUBJ-11
#[test]
fn an_opaque_token_is_shown_to_the_clients_issuer_and_to_no_other() {
    let (one, other) = (Issuer::start(), Issuer::start());
    let setup = every_kind(Setup::new(), &one, |_| {});
    let setup = every_kind(setup, &other, set("subject_prefix", "other:"));
    let of = |issuer: &Issuer| format!("opaque_tokens_from = \"{}\"\n{EVERY}", issuer.url());
    let writ = setup.client("one", &of(&one)).client("other", &of(&other)).start();
    let ask = |client: &str| writ.workload(client).token(&form(EXECUTE, "access_token", OPAQUE));
    other.introspect(Word::Says(Issuer::reply()));
    ask("one").invalid_request("subject_token_inactive");
    assert_eq!((one.asked().len(), other.asked().len()), (1, 0), "a no is not taken elsewhere");
    assert_eq!(ask("other").issued().claims["sub"], "other:alice");
    assert_eq!((one.asked().len(), other.asked().len()), (1, 1));
}

/// R-SUBJ-11
#[test]
fn an_issuer_can_be_asked_about_its_jwts_too() {
    let scene = Scene::of(EVERY, |table| {
        table["introspection"].as_table_mut().unwrap().insert("always".into(), true.into());
    });
    let token = scene.good("access_token");
    scene.issuer.introspect(Word::Says(Issuer::reply()));
    scene.ask("access_token", &token).issued();
    scene.issuer.introspect(Word::Says(json!({"active": false})));
    scene.ask("access_token", &token).invalid_request("subject_token_inactive");
}

/// R-SUBJ-12
#[test]
fn an_id_token_is_for_a_client_id_that_its_presenter_may_bring() {
    let policy = format!("subject_token_audience = [\"web-app\"]\n{EVERY}");
    let scene = Scene::of(&policy, set("id_token_audience", vec!["web-app", "mobile-app"]));
    let ask = |draft: Draft<'_>| scene.ask("id_token", &draft.mint());
    let draft = || scene.issuer.id_token();
    ask(draft()).issued();
    ask(draft().claim("aud", json!(["other", "web-app"])).claim("azp", "web-app")).issued();
    for aud in ["mobile-app", "other", AUDIENCE] {
        ask(draft().claim("aud", aud)).invalid_request("subject_token_audience_mismatch");
    }
    // `azp` counts where it is there, and must be there where `aud` names several.
    ask(draft().claim("azp", "other")).invalid_request("subject_token_audience_mismatch");
    ask(draft().claim("aud", json!(["other", "web-app"]))).invalid_request("subject_token_claims_invalid");
}

/// R-SUBJ-12
#[test]
fn an_id_token_has_the_issuer_the_times_and_the_form_of_one() {
    let scene = Scene::new();
    let ask = |draft: Draft<'_>| scene.ask("id_token", &draft.mint());
    let draft = || scene.issuer.id_token();
    ask(draft().header("typ", "JWT")).issued();
    ask(draft().without_header("typ")).issued();
    ask(draft().header("typ", "at+jwt")).invalid_request("subject_token_malformed");
    ask(draft().claim("iss", "https://other.example")).invalid_request("subject_token_issuer_unknown");
    ask(draft().claim("exp", now() - 60)).invalid_request("subject_token_expired");
    ask(draft().header("alg", "ES384")).invalid_request("subject_token_signature_invalid");
    for name in ["exp", "iat"] {
        ask(draft().without(name)).invalid_request("subject_token_claims_invalid");
    }
}

/// R-SUBJ-12, R-POL-05
#[test]
fn an_id_token_carries_no_scope() {
    let scene = Scene::of(EVERY, |table| drop(table.remove("scopes")));
    let token = scene.draft("id_token").claim("scope", "trade.stocks").mint();
    scene.ask("id_token", &token).invalid_scope("scope_unknown");
}

/// R-SUBJ-13
#[test]
fn a_jwt_is_read_by_the_profile_of_its_issuer_and_no_other_is_taken() {
    let scene = Scene::of(EVERY, |table| {
        table.insert("subject_claim".into(), "employee".into());
        table.insert("scope_claim".into(), "rights".into());
    });
    let ask = |draft: Draft<'_>| scene.ask("jwt", &draft.mint());
    let draft = || scene.issuer.jwt().claim("employee", "e-7").claim("rights", "trade.stocks");
    assert_eq!(ask(draft()).issued().claims["sub"], "e-7");
    ask(draft().without("employee")).invalid_request("subject_token_claims_invalid");
    ask(draft().claim("rights", "other")).invalid_scope("scope_exceeds_subject_token");
    ask(draft().header("typ", "at+jwt")).invalid_request("subject_token_malformed");
    ask(draft().claim("aud", "https://other.example")).invalid_request("subject_token_audience_mismatch");
    let stranger = Issuer::start();
    ask(stranger.jwt()).invalid_request("subject_token_issuer_unknown");
}

/// R-SUBJ-13
#[test]
fn saml_is_not_supported_and_the_answer_says_so() {
    let scene = Scene::new();
    for kind in ["saml1", "saml2"] {
        let refused = scene.ask(kind, "PHNhbWw+").invalid_request("subject_token_type_unsupported");
        let text = refused.answer["error_description"].as_str().unwrap();
        assert!(text.contains("subject_token_type is not supported"), "{text}");
    }
}

/// R-SUBJ-14
#[test]
fn a_self_signed_token_names_signer_subject_audience_and_times() {
    let scene = Scene::new();
    let issued = scene.ask("self_signed", &scene.vouch(&vouching())).issued();
    assert_eq!((&issued.claims["sub"], &issued.claims["req_wl"]), (&json!("alice"), &json!("gateway")));
    for name in ["iss", "sub", "aud", "iat", "exp"] {
        blames_the_token(&scene.ask("self_signed", &scene.vouch(&with(vouching(), name, Value::Null))));
    }
}

/// R-SUBJ-14
#[test]
fn a_client_vouches_only_for_subjects_of_its_policy() {
    let scene = Scene::of(&EVERY.replace("[\"*\"]", "[\"*@trust-domain.example\"]"), |_| {});
    let ask = |sub: &str| scene.ask("self_signed", &scene.vouch(&with(vouching(), "sub", json!(sub))));
    ask("alice@trust-domain.example").issued();
    ask("alice").unauthorized_client("subject_not_allowed");
}

/// R-SUBJ-15
#[test]
fn a_self_signed_token_verifies_by_keys_of_its_client_only() {
    let (issuer, registered) = (Issuer::start(), Key::es256("m-1"));
    let setup = every_kind(Setup::new(), &issuer, |_| {});
    setup.write("policies/gateway.jwks.json", &json!({"keys": [registered.jwk()]}).to_string());
    let policy = format!("jwks_file = \"gateway.jwks.json\"\n{EVERY}");
    let scene = Scene::start(setup.client("gateway", &policy), issuer);
    let ask =
        |key: &Key, header: Value| scene.ask("self_signed", &key.token(&header.to_string(), &vouching().to_string()));
    ask(&scene.key, json!({"alg": "ES256"})).issued();
    ask(&registered, json!({"alg": "ES256", "kid": "m-1"})).issued();
    let stranger = Key::es256("x");
    ask(&stranger, json!({"alg": "ES256"})).invalid_request("subject_token_signature_invalid");
    ask(&stranger, json!({"alg": "ES256", "kid": "m-1"})).invalid_request("subject_token_signature_invalid");
    ask(&stranger, json!({"alg": "ES256", "kid": "x"})).invalid_request("subject_token_key_unknown");
    ask(&scene.key, json!({"alg": "none"})).invalid_request("subject_token_signature_invalid");
}

/// R-SUBJ-15
#[test]
fn one_client_cannot_submit_the_self_signed_token_of_another() {
    let issuer = Issuer::start();
    let setup = every_kind(Setup::new(), &issuer, |_| {}).client("gateway", EVERY).client("other", EVERY);
    let scene = Scene::start(setup, issuer);
    let form = form(EXECUTE, "self_signed", &scene.vouch(&vouching()));
    scene.writ.workload("other").token(&form).invalid_request("subject_token_issuer_unknown");
    let claims = with(vouching(), "iss", json!("other"));
    scene.ask("self_signed", &scene.vouch(&claims)).invalid_request("subject_token_issuer_unknown");
}

/// R-SUBJ-16: `jti` is always required, as the contract has it.
#[test]
fn a_self_signed_token_is_for_this_service_young_and_used_once() {
    let scene = Scene::new();
    let ask = |name: &str, value: Value| scene.ask("self_signed", &scene.vouch(&with(vouching(), name, value)));
    ask("aud", json!([ISSUER, "https://other.example"])).issued();
    ask("aud", json!(format!("{ISSUER}/token"))).invalid_request("subject_token_audience_mismatch");
    ask("iat", json!(now() + 60)).invalid_request("subject_token_not_yet_valid");
    ask("iat", json!(now() - 601)).invalid_request("subject_token_claims_invalid");
    ask("exp", json!(now() + 700)).invalid_request("subject_token_claims_invalid");
    ask("jti", Value::Null).invalid_request("subject_token_claims_invalid");
    let token = scene.vouch(&vouching());
    scene.ask("self_signed", &token).issued();
    scene.ask("self_signed", &token).invalid_request("subject_token_replayed");
}

/// R-SUBJ-17
#[test]
fn unsigned_json_is_the_text_of_one_object_with_a_subject() {
    let scene = Scene::new();
    let ask = |text: &str| scene.ask("unsigned_json", text);
    assert_eq!(ask(r#" {"sub":"alice"} "#).issued().claims["sub"], "alice");
    for text in ["alice", "[]", "null", r#"{"sub":"a"} {}"#, r#"{"sub":"a","sub":"b"}"#, "eyJzdWIiOiJhbGljZSJ9"] {
        ask(text).invalid_request("subject_token_malformed");
    }
    for text in ["{}", r#"{"sub":""}"#, r#"{"sub":1}"#, r#"{"sub":null}"#] {
        ask(text).invalid_request("subject_token_claims_invalid");
    }
}

/// R-SUBJ-17
#[test]
fn an_expiry_in_unsigned_json_is_honoured() {
    let scene = Scene::new();
    let until = |exp: u64| scene.ask("unsigned_json", &json!({"sub": "alice", "exp": exp}).to_string());
    until(now() + 60).issued();
    until(now() - 60).invalid_request("subject_token_expired");
}

/// R-SUBJ-18
#[test]
fn unsigned_json_is_enabled_for_a_client_a_purpose_and_its_subjects() {
    let policy = r#"
[[purpose]]
scope = "mailbox.deliver"
accept = ["unsigned_json"]
subjects = ["*@trust-domain.example"]
[[purpose]]
scope = "mailbox.sort"
accept = ["unsigned_json"]
[[purpose]]
scope = "mailbox.report"
accept = ["client_credentials"]
"#;
    let scene = Scene::of(policy, |_| {});
    let (alice, stranger) = (r#"{"sub":"alice@trust-domain.example"}"#, r#"{"sub":"alice@other.example"}"#);
    scene.ask_for("mailbox.deliver", "unsigned_json", alice).issued();
    scene.ask_for("mailbox.deliver", "unsigned_json", stranger).unauthorized_client("subject_not_allowed");
    scene.ask_for("mailbox.sort", "unsigned_json", alice).unauthorized_client("subject_not_allowed");
    scene.ask_for("mailbox.report", "unsigned_json", alice).unauthorized_client("source_not_allowed");
    let elsewhere = form("mailbox.deliver", "unsigned_json", alice).set("audience", "other.example");
    scene.writ.workload("gateway").token(&elsewhere).refused(400, "invalid_target", "audience_unknown");
}

/// R-SUBJ-18
#[test]
fn members_of_unsigned_json_count_only_where_the_policy_names_them() {
    let scene = Scene::of(&format!("{EVERY}tctx.subject = {{ folder = \"box\" }}\n"), |_| {});
    let text = json!({"sub": "alice", "box": "inbox", "other": 1, "txn": "t-1", "scope": "x", "tctx": {"a": 1}});
    let issued = scene.ask("unsigned_json", &text.to_string()).issued();
    assert_eq!(issued.claims["tctx"], json!({"folder": "inbox"}));
    assert_eq!((&issued.claims["scope"], issued.claims.get("rctx")), (&json!(EXECUTE), None));
    assert_ne!(issued.txn(), "t-1");
}

/// Asks first for what others replace.
const EDGE: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["client_credentials"]
subjects = ["*"]
request_details = "any.json"
tctx.copy = ["order", "amount"]
rctx.copy = ["req_ip"]
[[purpose]]
scope = "order.view"
accept = ["client_credentials"]
subjects = ["*"]
"#;

const ORDERS: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["txn_token"]
request_details = "any.json"
tctx.copy = ["order", "amount", "note"]
rctx.copy = ["req_ip", "host"]
[[purpose]]
scope = "order.view"
accept = ["txn_token"]
lifetime = "15m"
outlive = true
[[purpose]]
scope = "order.delete"
accept = ["txn_token"]
"#;

fn orders() -> Setup {
    let setup = Setup::new().set("tokens.max_lifetime", "15m");
    setup.write("policies/any.json", "{}");
    setup.client("edge", EDGE).client("orders", ORDERS).client("ledger", ORDERS)
}

/// A token that `orders` and `ledger` may replace.
#[track_caller]
fn begin(writ: &Writ, scope: &str) -> Issued {
    let form = Form::client_credentials(scope)
        .set("requested_subject", "ann")
        .set("request_details", r#"{"order":"A-1","amount":10}"#)
        .set("request_context", r#"{"req_ip":"192.0.2.1"}"#);
    writ.workload("edge").token(&form).issued()
}

fn replace(writ: &Writ, client: &str, token: &Issued, scope: &str) -> Answer {
    writ.workload(client).token(&Form::redeem(&token.token, scope))
}

/// R-SUBJ-19
#[test]
fn replacement_is_off_unless_a_purpose_accepts_it() {
    let writ = orders().start();
    let first = begin(&writ, "order.refund");
    replace(&writ, "edge", &first, "order.refund").unauthorized_client("source_not_allowed");
    replace(&writ, "orders", &first, "order.refund").issued();
}

/// R-SUBJ-19
#[test]
fn only_a_valid_txn_token_of_this_service_is_replaced() {
    let (writ, elsewhere, issuer) = (orders().start(), orders().start(), Issuer::start());
    let ask = |token: &str| writ.workload("orders").token(&Form::redeem(token, "order.refund"));
    let first = begin(&writ, "order.refund");
    ask(&begin(&elsewhere, "order.refund").token).invalid_request("subject_token_key_unknown");
    ask(&altered(&first.token)).invalid_request("subject_token_signature_invalid");
    ask(&issuer.access_token().mint()).invalid_request("subject_token_malformed");
    let form = Form::redeem(&first.token, "order.refund").set("audience", "other.example");
    writ.workload("orders").token(&form).refused(400, "invalid_target", "audience_unknown");
}

/// R-SUBJ-20
#[test]
fn nothing_in_a_request_changes_transaction_subject_or_audience() {
    let writ = orders().start();
    let first = begin(&writ, "order.refund");
    let members = r#"{"txn":"t-1","sub":"mallory","aud":"other.example"}"#;
    let form = Form::redeem(&first.token, "order.refund")
        .set("request_details", members)
        .set("request_context", members)
        .set("txn", "t-1")
        .set("sub", "mallory");
    let second = writ.workload("orders").token(&form).issued();
    for name in ["txn", "sub", "aud"] {
        assert_eq!(second.claims[name], first.claims[name], "{name}");
    }
    let form = form.set("requested_subject", "mallory");
    writ.workload("orders").token(&form).invalid_request("parameter_unsupported");
}

/// R-SUBJ-21
#[test]
fn the_purposes_stay_or_shrink_and_never_grow() {
    let writ = orders().start();
    let both = begin(&writ, "order.refund order.view");
    replace(&writ, "orders", &both, "order.view order.refund").issued();
    let less = replace(&writ, "orders", &both, "order.view").issued();
    assert_eq!(less.claims["scope"], "order.view");
    replace(&writ, "orders", &less, "order.view order.refund").invalid_scope("scope_exceeds_subject_token");
    replace(&writ, "orders", &both, "order.delete").invalid_scope("scope_exceeds_subject_token");
}

/// R-SUBJ-22: another value is `invalid_scope` with `details_rejected`, as the contract has it.
#[test]
fn members_are_added_or_repeated_and_never_changed() {
    let writ = orders().start();
    let first = begin(&writ, "order.refund");
    let ask = |details: &str, context: &str| {
        let form = Form::redeem(&first.token, "order.refund");
        writ.workload("orders").token(&form.set("request_details", details).set("request_context", context))
    };
    let second = ask(r#"{"amount":10,"note":"n","other":1}"#, r#"{"host":"h"}"#).issued();
    assert_eq!(second.claims["tctx"], json!({"order": "A-1", "amount": 10, "note": "n"}));
    assert_eq!(second.claims["rctx"], json!({"req_ip": "192.0.2.1", "host": "h"}));
    for (details, context) in [(r#"{"amount":9}"#, "{}"), ("{}", r#"{"req_ip":"192.0.2.2"}"#)] {
        ask(details, context).invalid_scope("details_rejected");
    }
}

/// R-SUBJ-23
#[test]
fn an_expired_txn_token_is_not_replaced() {
    let brief = EDGE.replacen("subjects", "lifetime = \"1s\"\nsubjects", 1);
    let writ = orders().client("edge", &brief).start();
    let first = begin(&writ, "order.refund");
    first.wait_until_expired();
    replace(&writ, "orders", &first, "order.refund").invalid_request("subject_token_expired");
}

/// R-SUBJ-24: `req_wl_chain` is there from the first replacement on, as the contract has it.
#[test]
fn the_chain_of_requesters_grows_at_its_end_and_comes_from_nobodys_request() {
    let writ = orders().start();
    let first = begin(&writ, "order.refund");
    assert_eq!((&first.claims["req_wl"], first.claims.get("req_wl_chain")), (&json!("edge"), None));
    let second = replace(&writ, "orders", &first, "order.refund").issued();
    let form = Form::redeem(&second.token, "order.refund")
        .set("req_wl_chain", r#"["mallory"]"#)
        .set("request_context", r#"{"req_wl_chain":["mallory"]}"#);
    let third = writ.workload("ledger").token(&form).issued();
    assert_eq!(third.claims["req_wl"], "ledger");
    assert_eq!(third.claims["req_wl_chain"], json!(["edge", "orders", "ledger"]));
}

/// R-SUBJ-24, R-SUBJ-25: at most 4 replacements, as the contract has it, so that no chain is longer than 5.
#[test]
fn the_number_of_replacements_is_limited() {
    let writ = orders().start();
    let mut token = begin(&writ, "order.refund");
    for client in ["orders", "ledger", "orders", "ledger"] {
        token = replace(&writ, client, &token, "order.refund").issued();
    }
    replace(&writ, "orders", &token, "order.refund").invalid_request("replacement_limit");
}

/// R-SUBJ-24
#[test]
fn no_chain_has_more_than_32_clients() {
    let writ = orders().set("tokens.max_replacements", 100).start();
    let mut token = begin(&writ, "order.view");
    for _ in 1..32 {
        token = replace(&writ, "orders", &token, "order.view").issued();
    }
    assert_eq!(token.claims["req_wl_chain"].as_array().map(Vec::len), Some(32));
    replace(&writ, "orders", &token, "order.view").invalid_request("replacement_limit");
}

/// R-SUBJ-25: the setting is `outlive`, and the 15 minutes count from the time in `txn`.
#[test]
fn a_replacement_outlives_its_predecessor_only_by_policy_and_up_to_a_cap() {
    let writ = orders().start();
    let first = begin(&writ, "order.refund order.view");
    assert_eq!(replace(&writ, "orders", &first, "order.refund").issued().exp(), first.exp());
    let milliseconds = u64::from_str_radix(&first.txn().replace('-', "")[..12], 16).unwrap();
    wait_until(milliseconds / 1000 + 2);
    let longer = replace(&writ, "orders", &first, "order.view").issued();
    assert_eq!(longer.exp(), milliseconds / 1000 + 900);
    assert!(longer.exp() < longer.iat() + 900);
}

/// R-SUBJ-25
#[test]
fn the_log_leads_from_the_old_token_to_the_new_one() {
    let writ = orders().start();
    let first = begin(&writ, "order.refund");
    let second = replace(&writ, "orders", &first, "order.refund").issued();
    let (old, new) = (writ.audit_of(&first.request_id), writ.audit_of(&second.request_id));
    assert!(old["token_sha256"].is_string());
    assert_eq!((&new["subject_token_sha256"], &new["txn"]), (&old["token_sha256"], &old["txn"]));
    assert_ne!(new["token_sha256"], old["token_sha256"]);
}
