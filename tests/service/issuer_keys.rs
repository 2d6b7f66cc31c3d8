//! Keys of subject issuers: fetched, cached, refreshed, left out, and what happens while an issuer is away (CONTRACT
//! 3.2, 6, 10; R-SUBJ-04, R-RESP-08).

use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::scene::{self, GATEWAY};
use crate::support::answer::Answer;
use crate::support::eventually;
use crate::support::issuer::{Issuer, Mode};
use crate::support::jose::Key;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

const EXECUTE: &str = "trade.execute";

fn present(writ: &Writ, token: &str) -> Answer {
    writ.workload("gateway").token(&Form::exchange(token, EXECUTE))
}

#[track_caller]
fn unavailable(answer: &Answer) {
    answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
}

/// A-070, R-RESP-08
#[test]
fn an_issuer_that_is_unreachable_at_startup_affects_no_other() {
    let (away, present_one) = (Issuer::start(), Issuer::start());
    away.set_mode(Mode::Down);
    let writ = Setup::new()
        .issuer_with(&away, |table| drop(table.insert("subject_prefix".into(), "away:".into())))
        .issuer(&present_one)
        .client("gateway", GATEWAY)
        .start();
    assert_eq!(writ.site().ops("/readyz").status, 200);
    present(&writ, &present_one.access_token().mint()).issued();
    let answer = present(&writ, &away.access_token().mint());
    answer.refused(503, "temporarily_unavailable", "issuer_unavailable");
    away.set_mode(Mode::Up);
    eventually("the issuer is asked again", || {
        (present(&writ, &away.access_token().mint()).status() == 200).then_some(())
    });
}

/// an outage must not become "your token is invalid". One issuer for each way of being away.
#[test]
fn known_keys_are_used_while_the_issuer_is_unreachable() {
    let unusable = json!({"keys": [{"kty": "EC"}]}).to_string();
    let modes = [
        Mode::Down,
        Mode::Status(500),
        Mode::Status(429),
        Mode::Status(404),
        Mode::Body("<html>".into()),
        Mode::Body("{\"keys\":[".into()),
        Mode::Body(json!({"keys": []}).to_string()),
        Mode::Body(unusable),
    ];
    let issuers = modes.each_ref().map(|_| Issuer::start());
    let mut setup = Setup::new().client("gateway", GATEWAY);
    for (number, issuer) in issuers.iter().enumerate() {
        issuer.set_max_age(1);
        setup =
            setup.issuer_with(issuer, |table| drop(table.insert("subject_prefix".into(), format!("{number}:").into())));
    }
    let writ = setup.start();
    for (issuer, mode) in issuers.iter().zip(modes) {
        present(&writ, &issuer.access_token().mint()).issued();
        issuer.set_mode(mode);
    }
    for issuer in &issuers {
        let labels = [("issuer", issuer.url()), ("outcome", "error".to_owned())];
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        eventually("a fetch fails", || writ.metric("writ_jwks_fetch_total", &labels));
        present(&writ, &issuer.access_token().mint()).issued();
    }
}

///
#[test]
fn a_key_is_not_reported_as_unknown_unless_the_keys_were_fetched() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    issuer.set_mode(Mode::Down);
    let token = issuer.access_token().header("kid", "newer").mint();
    present(&writ, &token).refused(503, "temporarily_unavailable", "issuer_unavailable");
}

/// R-SUBJ-04
#[test]
fn a_key_that_the_issuer_does_not_publish_is_unknown() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().header("kid", "unheard-of").mint())
        .invalid_request("subject_token_key_unknown");
}

///
#[test]
fn a_slow_issuer_does_not_delay_requests_for_known_keys() {
    let issuer = Issuer::start();
    issuer.set_max_age(1);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    issuer.set_mode(Mode::Slow(Duration::from_secs(8)));
    let seen = issuer.jwks_fetches();
    eventually("the keys are being fetched again", || (issuer.jwks_fetches() > seen).then_some(()));
    let before = Instant::now();
    present(&writ, &issuer.access_token().mint()).issued();
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
}

/// A-071, R-SUBJ-04
#[test]
fn a_huge_key_document_is_refused() {
    let issuer = Issuer::start();
    let filler = json!({"keys": [issuer.key.jwk()], "filler": "x".repeat(3 << 20)}).to_string();
    issuer.set_mode(Mode::Body(filler));
    let writ = scene::gateway(&issuer);
    unavailable(&present(&writ, &issuer.access_token().mint()));
}

/// A-072, R-SUBJ-04
#[test]
fn a_redirect_is_not_followed() {
    let (issuer, bait) = (Issuer::start(), Issuer::start());
    issuer.set_mode(Mode::Redirect(bait.jwks_uri()));
    let writ = scene::gateway(&issuer);
    unavailable(&present(&writ, &issuer.access_token().mint()));
    assert_eq!((bait.jwks_fetches(), bait.other_fetches()), (0, 0));
}

fn discovered(issuer: &Issuer) -> Writ {
    Setup::new().issuer_with(issuer, |table| drop(table.remove("jwks_uri"))).client("gateway", GATEWAY).start()
}

/// CONTRACT 6
#[test]
fn keys_are_discovered_from_the_issuer() {
    let issuer = Issuer::start();
    let writ = discovered(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    assert!(issuer.other_fetches() > 0);
}

///
#[test]
fn metadata_of_another_issuer_or_with_plain_http_are_refused() {
    let issuer = Issuer::start();
    let jwks_uri = issuer.jwks_uri();
    for metadata in [
        json!({"issuer": format!("{}/", issuer.url()), "jwks_uri": jwks_uri}),
        json!({"issuer": "https://other.example", "jwks_uri": jwks_uri}),
        json!({"jwks_uri": jwks_uri}),
        json!({"issuer": issuer.url(), "jwks_uri": jwks_uri.replace("https", "http")}),
        json!({"issuer": issuer.url()}),
    ] {
        issuer.set_metadata(metadata);
        let writ = discovered(&issuer);
        unavailable(&present(&writ, &issuer.access_token().mint()));
    }
    assert_eq!(issuer.jwks_fetches(), 0);
}

/// CONTRACT 6
#[test]
fn keys_may_come_from_a_file() {
    let issuer = Issuer::start();
    let setup = Setup::new().client("gateway", GATEWAY).issuer_with(&issuer, |table| {
        table.remove("jwks_uri");
        table.remove("ca");
        table.insert("jwks_file".into(), "issuer.jwks.json".into());
    });
    setup.write("issuer.jwks.json", &json!({"keys": [issuer.key.jwk()]}).to_string());
    let writ = setup.start();
    present(&writ, &issuer.access_token().mint()).issued();
    assert_eq!((issuer.jwks_fetches(), issuer.other_fetches()), (0, 0));
    let newer = Key::es256("newer");
    writ.setup.write("issuer.jwks.json", &json!({"keys": [newer.jwk()]}).to_string());
    writ.hup();
    let draft = || issuer.access_token().header("kid", "newer").signed_by(&newer).mint();
    eventually("the changed file is read", || (present(&writ, &draft()).status() == 200).then_some(()));
    present(&writ, &issuer.access_token().mint()).invalid_request("subject_token_key_unknown");

    // The file is checked every second; the log reports its fault once.
    let complaints = || writ.log_text().matches("were not reloaded").count();
    writ.setup.write("issuer.jwks.json", "{");
    eventually("the fault is in the log", || (complaints() > 0).then_some(()));
    thread::sleep(Duration::from_secs(2));
    assert_eq!((present(&writ, &draft()).status(), complaints()), (200, 1));
}

/// the valid key beside them is used.
#[test]
fn unusable_keys_are_left_out() {
    let issuer = Issuer::start();
    let mut keys = vec![issuer.key.jwk()];
    let changed = |name: &str, value: Value| {
        let mut jwk = Key::es256(name).jwk();
        jwk[name] = value;
        jwk
    };
    keys.extend([
        json!({"kty": "oct", "kid": "secret", "k": "AAAA", "alg": "HS256"}),
        json!({"kty": "AKP", "kid": "modern", "alg": "ML-DSA-44", "pub": "AAAA"}),
        json!({"kty": "EC", "crv": "P-256", "kid": "off-curve", "x": URL_SAFE_NO_PAD.encode([1; 32]), "y": URL_SAFE_NO_PAD.encode([1; 32])}),
        json!({"kty": "RSA", "kid": "short", "n": URL_SAFE_NO_PAD.encode([255; 64]), "e": "AQAB"}),
        json!({"kty": "RSA", "kid": "one", "n": URL_SAFE_NO_PAD.encode([255; 256]), "e": "AQ"}),
        changed("use", json!("enc")),
        changed("key_ops", json!(["encrypt"])),
        changed("d", json!(URL_SAFE_NO_PAD.encode([1; 32]))),
        json!("no key"),
    ]);
    issuer.publish(&keys);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    let mac = issuer.access_token().header("alg", "HS256").header("kid", "secret").mac(&[0, 0, 0]);
    let expected = ["subject_token_malformed", "subject_token_signature_invalid", "subject_token_key_unknown"];
    let answer = present(&writ, &mac);
    assert!(expected.contains(&answer.reason().as_str()), "{}", answer.reason());
    answer.invalid_request(&answer.reason());
}

///
#[test]
fn a_key_for_another_use_does_not_verify() {
    let issuer = Issuer::start();
    let good = Key::es256("good");
    for (name, value) in [("use", json!("enc")), ("key_ops", json!(["encrypt"]))] {
        let mut jwk = issuer.key.jwk();
        jwk[name] = value;
        issuer.publish(&[jwk, good.jwk()]);
        let writ = scene::gateway(&issuer);
        present(&writ, &issuer.access_token().mint()).invalid_request("subject_token_key_unknown");
    }
}

/// keys that share a `kid` are told apart by their type, else tried one after the other; other keys are not
/// affected.
#[test]
fn several_keys_may_share_a_kid() {
    let issuer = Issuer::start();
    let (rsa, second, lone) = (Key::rsa("issuer-1"), Key::es256("issuer-1"), Key::es256("lone"));
    issuer.publish(&[rsa.jwk(), issuer.key.jwk(), second.jwk(), lone.jwk(), issuer.key.jwk()]);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    present(&writ, &issuer.access_token().signed_by(&second).mint()).issued();
    present(&writ, &issuer.access_token().signed_by(&lone).header("kid", "lone").mint()).issued();
    present(&writ, &issuer.access_token().signed_by(&rsa).header("alg", "RS256").mint()).issued();
    for stranger in [&lone, &Key::es256("issuer-1")] {
        let token = issuer.access_token().signed_by(stranger).mint();
        present(&writ, &token).invalid_request("subject_token_signature_invalid");
    }
}

/// the log says which key is left out and why, once for each change of the set.
#[test]
fn the_log_says_once_which_keys_are_left_out() {
    let issuer = Issuer::start();
    issuer.set_max_age(1);
    let padded = {
        let mut jwk = Key::es256("padded").jwk();
        jwk["x"] = json!(format!("{}=", jwk["x"].as_str().unwrap()));
        jwk
    };
    issuer.publish(&[json!({"kty": "EC", "kid": "a\nb"}), issuer.key.jwk(), padded]);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    let told = || writ.log_text().lines().filter(|line| line.contains("the others remain in use")).count();
    let line = writ.wait_for_log("the keys that are left out", |line| line["left_out"].is_string());
    let expected = "keys[0] (kid a\\nb): crv is missing; \
                    keys[2] (kid padded): x is not base64url without padding (RFC 7518 section 2)";
    assert_eq!(line["left_out"], expected, "{line}");
    let seen = issuer.jwks_fetches();
    eventually("it is fetched again", || (issuer.jwks_fetches() >= seen + 2).then_some(()));
    assert_eq!(told(), 1);
    issuer.publish(&[issuer.key.jwk(), json!({"kty": "oct", "kid": "s", "k": "AAAA"})]);
    writ.wait_for_log("the change", |line| line["left_out"] == "keys[1] (kid s): it is not public: it has kty oct");
    assert_eq!(told(), 2);
}

/// SPIFFE bundles: keys for JWT-SVIDs are used, those for X.509-SVIDs are left out without a warning.
#[test]
fn the_keys_of_a_spiffe_bundle_are_used() {
    let issuer = Issuer::start();
    let with_use = |mut jwk: Value, name: &str| {
        jwk["use"] = json!(name);
        jwk
    };
    let certificate = with_use(Key::es256("x").jwk(), "x509-svid");
    issuer.publish(&[certificate, with_use(issuer.key.jwk(), "jwt-svid")]);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    assert!(!writ.log_text().contains("left_out"));
}

///
#[test]
fn a_key_that_the_issuer_withdraws_stops_being_accepted() {
    let issuer = Issuer::start();
    issuer.set_max_age(1);
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    issuer.publish(&[Key::es256("newer").jwk()]);
    eventually("the key is gone", || {
        let answer = present(&writ, &issuer.access_token().mint());
        (answer.status() != 200).then(|| answer.invalid_request("subject_token_key_unknown"))
    });
}

/// CONTRACT 10
#[test]
fn fetches_of_keys_are_counted() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    assert!(writ.metric("writ_jwks_fetch_total", &[("issuer", &issuer.url()), ("outcome", "ok")]).unwrap() >= 1.0);
}

/// A-074, R-SUBJ-04: however many need a key that is still being fetched, there is one fetch, and all get their answer.
#[test]
fn many_requests_wait_for_one_fetch_and_all_are_answered() {
    let issuer = Issuer::start();
    issuer.set_mode(Mode::Slow(Duration::from_secs(1)));
    let writ = scene::gateway(&issuer);
    let ask_at_once = |token: &str| {
        thread::scope(|scope| {
            let asking: Vec<_> = (0..150).map(|_| scope.spawn(|| present(&writ, token).status())).collect();
            asking.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
        })
    };
    assert_eq!(ask_at_once(&issuer.access_token().mint()), [200; 150], "the first fetch");
    assert_eq!(issuer.jwks_fetches(), 1);
    let new = Key::es256("issuer-2");
    issuer.publish(&[issuer.key.jwk(), new.jwk()]);
    let token = issuer.access_token().header("kid", "issuer-2").signed_by(&new).mint();
    assert_eq!(ask_at_once(&token), [200; 150], "a fetch for a key that is not known yet");
    assert_eq!(issuer.jwks_fetches(), 2);
}

/// R-SUBJ-04
#[test]
fn keys_are_refreshed_in_the_background() {
    let issuer = Issuer::start();
    issuer.set_max_age(1);
    let writ = scene::gateway(&issuer);
    eventually("keys are fetched again without a request", || (issuer.jwks_fetches() > 2).then_some(()));
    present(&writ, &issuer.access_token().mint()).issued();
}

/// A-073, R-SUBJ-04: a new key is fetched when it is first seen; names of keys that do not exist fetch nothing more.
#[test]
fn an_unknown_kid_makes_the_keys_be_fetched_once() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    present(&writ, &issuer.access_token().mint()).issued();
    let newer = Key::es256("newer");
    issuer.publish(&[issuer.key.jwk(), newer.jwk()]);
    let fetched = issuer.jwks_fetches();
    present(&writ, &issuer.access_token().header("kid", "newer").signed_by(&newer).mint()).issued();
    let mut session = writ.workload("gateway").connect();
    for index in 0..100 {
        let token = issuer.access_token().header("kid", format!("random-{index}")).mint();
        unavailable(&session.token(&Form::exchange(&token, EXECUTE)));
    }
    assert_eq!(issuer.jwks_fetches(), fetched + 1);
    session.token(&Form::exchange(&issuer.access_token().mint(), EXECUTE)).issued();
}

/// R-SUBJ-04: a key that is published while forced fetches cool down is not reported as unknown, and is accepted once
/// it was fetched: here because the keys expire. That it is fetched right after the cool-down of 30 s is tested in
/// the verifier.
#[test]
fn a_new_key_during_the_cool_down_is_accepted_once_it_was_fetched() {
    let issuer = Issuer::start();
    issuer.set_max_age(5);
    let writ = scene::gateway(&issuer);
    let bogus = |kid: &str| issuer.access_token().header("kid", kid).mint();
    present(&writ, &bogus("newer")).invalid_request("subject_token_key_unknown");
    let fetched = issuer.jwks_fetches();
    let newer = Key::es256("newer");
    issuer.publish(&[issuer.key.jwk(), newer.jwk()]);
    let token = issuer.access_token().header("kid", "newer").signed_by(&newer).mint();
    let mut waits = Vec::new();
    let issued = eventually("the keys are fetched again", || {
        let answer = present(&writ, &token);
        if answer.status() == 200 {
            return Some(answer.issued());
        }
        unavailable(&answer);
        waits.push(answer.response.header("retry-after").unwrap().parse::<u64>().unwrap());
        // Others ask for keys that do not exist all the time, and get nothing fetched for it.
        unavailable(&present(&writ, &bogus(&format!("random-{}", waits.len()))));
        present(&writ, &issuer.access_token().mint()).issued();
        std::thread::sleep(Duration::from_millis(200));
        None
    });
    assert_eq!(issued.claims["sub"], "alice");
    assert!(waits.iter().all(|seconds| (1..=30).contains(seconds)) && waits.is_sorted_by(|a, b| a >= b), "{waits:?}");
    assert_eq!(issuer.jwks_fetches(), fetched + 1);
}

/// R-SUBJ-04, CONTRACT 6 (`jwks_stale`)
#[test]
fn keys_that_cannot_be_refreshed_are_used_until_they_are_stale() {
    let issuer = Issuer::start();
    issuer.set_max_age(1);
    let stale = |table: &mut toml::Table| drop(table.insert("jwks_stale".into(), "5s".into()));
    let writ = Setup::new().issuer_with(&issuer, stale).client("gateway", GATEWAY).start();
    let token = issuer.access_token().mint();
    present(&writ, &token).issued();
    issuer.set_mode(Mode::Down);
    let labels = [("issuer", issuer.url()), ("outcome", "error".to_owned())];
    let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
    eventually("a fetch fails", || writ.metric("writ_jwks_fetch_total", &labels));
    present(&writ, &token).issued();
    unavailable(&eventually("the keys are stale", || {
        let answer = present(&writ, &token);
        (answer.status() != 200).then_some(answer)
    }));
}
