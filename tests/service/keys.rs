//! Signing keys: published, promoted, retired, revoked, sealed (CONTRACT 5, 6, 8; area KEYS).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::scene::{self, MAILER};
use crate::support::answer::Issued;
use crate::support::http::Connection;
use crate::support::workload::{Form, tls_config};
use crate::support::writ::{Setup, Writ, get, sealing_key};
use crate::support::{eventually, now, wait_until};

fn issue(writ: &Writ) -> Issued {
    writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued()
}

fn kids(writ: &Writ) -> Vec<String> {
    writ.site().jwks().iter().map(|jwk| jwk["kid"].as_str().unwrap().to_owned()).collect()
}

/// Keys that are rotated by hand only, and may be every other second.
fn by_hand() -> Writ {
    Setup::new().client("mailer", MAILER).short_keys(3600).start()
}

/// `kid` of the key in that state.
fn in_state(writ: &Writ, state: &str) -> String {
    let key = writ.keys().into_iter().find(|key| key["state"] == state);
    key.unwrap_or_else(|| panic!("no {state} key"))["kid"].as_str().unwrap().to_owned()
}

/// R-KEYS-03, R-KEYS-06
#[test]
fn the_key_set_holds_public_keys_only() {
    let writ = scene::mailer();
    let response = writ.site().discover("/.well-known/jwks.json", &[]);
    assert_eq!(response.header("content-type"), Some("application/jwk-set+json"));
    assert_eq!(response.json().as_object().unwrap().len(), 1);
    let keys = writ.site().jwks();
    assert_eq!(keys.len(), 2, "current and next");
    for key in keys {
        let mut names: Vec<&str> = key.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"]);
        assert_eq!((&key["use"], &key["alg"]), (&json!("sig"), &json!("ES256")));
    }
}

/// R-KEYS-05
#[test]
fn a_kid_is_the_thumbprint_of_its_key() {
    let writ = scene::mailer();
    for key in writ.site().jwks() {
        let text = format!("{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":{},\"y\":{}}}", key["x"], key["y"]);
        let thumbprint = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()));
        assert_eq!(key["kid"], thumbprint);
    }
}

/// R-KEYS-06, CONTRACT 5
#[test]
fn the_key_set_is_cacheable_and_conditional() {
    let writ = Setup::new().client("mailer", MAILER).set("tokens.jwks_max_age", "7m").start();
    let path = "/.well-known/jwks.json";
    let first = writ.site().discover(path, &[]);
    assert_eq!(first.header("cache-control"), Some("public, max-age=420"));
    assert_eq!(first.header("pragma"), None);
    let etag = first.header("etag").unwrap();
    assert!(etag.trim_start_matches("W/").starts_with('"'), "{etag}");
    for value in [etag, &format!("\"other\", {etag}"), "*"] {
        let again = writ.site().discover(path, &[("If-None-Match", value)]);
        assert_eq!((again.status, again.header("etag")), (304, Some(etag)), "{value}");
    }
    assert_eq!(writ.site().discover(path, &[("If-None-Match", "\"other\"")]).status, 200);
}

/// CONTRACT 2
#[test]
fn discovery_answers_head_and_refuses_other_methods() {
    let writ = scene::mailer();
    let connect = || {
        let address = writ.site().endpoints().discovery.unwrap();
        Connection::tls(address, &tls_config(&writ.site().ca, None)).unwrap()
    };
    for path in ["/.well-known/jwks.json", "/.well-known/oauth-authorization-server"] {
        let head = get(&mut connect(), "HEAD", path, &[]);
        assert_eq!((head.status, head.body.len()), (200, 0));
        let post = get(&mut connect(), "DELETE", path, &[]);
        assert_eq!((post.status, post.json()["reason"].as_str()), (405, Some("method_not_allowed")));
        assert!(post.header("allow").unwrap().contains("GET"));
    }
    let token = get(&mut connect(), "GET", "/token", &[]);
    assert_eq!((token.status, token.json()["reason"].as_str()), (404, Some("not_found")));
    assert_eq!(token.header("cache-control"), Some("no-store"));
}

/// R-KEYS-02, R-KEYS-03
#[test]
fn a_rotation_moves_every_key_one_state_on() {
    let writ = by_hand();
    let (current, next) = (in_state(&writ, "current"), in_state(&writ, "next"));
    assert_eq!(issue(&writ).kid(), current);
    writ.rotate();
    assert_eq!(in_state(&writ, "current"), next);
    assert_eq!(in_state(&writ, "previous"), current);
    assert_eq!(issue(&writ).kid(), next);
    assert_eq!(kids(&writ).len(), 3);
    assert!(kids(&writ).contains(&current));
    writ.rotate();
    assert_eq!(in_state(&writ, "historical"), current);
    assert_eq!(kids(&writ).len(), 3);
    assert!(!kids(&writ).contains(&current), "a historical key is never published");
}

/// R-KEYS-06
#[test]
fn a_rotation_changes_the_etag() {
    let writ = by_hand();
    let etag = |writ: &Writ| writ.site().discover("/.well-known/jwks.json", &[]).header("etag").unwrap().to_owned();
    let before = etag(&writ);
    assert_eq!(etag(&writ), before);
    writ.rotate();
    assert_ne!(etag(&writ), before);
}

/// CONTRACT 8
#[test]
fn a_rotation_that_comes_too_early_says_when() {
    let writ = scene::mailer();
    let told = writ.run(&["keys", "rotate", "--json"]).exits(1).json();
    assert_eq!(told["ok"], false);
    let refused = writ.run(&["keys", "rotate"]).exits(1);
    let year = chrono::Utc::now().format("%Y-").to_string();
    assert!(format!("{}{}", refused.stdout, refused.stderr).contains(&year), "{refused:?}");
    assert_eq!(kids(&writ).len(), 2);
}

/// R-KEYS-04: no token is signed by a key that was not published `jwks_max_age` before.
#[test]
fn a_key_is_published_before_it_signs() {
    let writ = Setup::new().client("mailer", MAILER).short_keys(3).start();
    let first = issue(&writ).kid().to_owned();
    let mut published: BTreeMap<String, Instant> = BTreeMap::new();
    let mut signers = vec![first.clone()];
    eventually("three rotations", || {
        for kid in kids(&writ) {
            published.entry(kid).or_insert_with(Instant::now);
        }
        let issued = issue(&writ);
        let kid = issued.kid().to_owned();
        if kid != *signers.last().unwrap() {
            // whole seconds: the span may begin late in the second that it is said to begin in
            assert!(published[&kid].elapsed() >= Duration::from_millis(900), "{kid}: {:?}", published[&kid].elapsed());
            assert!(!signers.contains(&kid), "a key that stopped signing signs again");
            signers.push(kid);
        }
        (signers.len() == 4).then_some(())
    });
    assert!(!kids(&writ).contains(&first));
}

/// R-KEYS-08, CONTRACT 10
#[test]
fn rotations_are_logged_and_measured() {
    let writ = Setup::new().client("mailer", MAILER).short_keys(3).start();
    writ.expect_event("key_rotated", || ());
    writ.expect_event("key_rotated", || ());
    let keys = |state: &str| writ.metric("writ_keys", &[("state", state)]).unwrap_or(0.0);
    for (state, at_least) in [("next", 1.0), ("current", 1.0), ("previous", 1.0), ("historical", 1.0)] {
        eventually(&format!("{state} keys are counted"), || (keys(state) >= at_least).then_some(()));
    }
    assert!(writ.metric("writ_signing_key_age_seconds", &[]).unwrap() <= 10.0);
    assert!(writ.log_text().contains("key_created"));
}

/// CONTRACT 8
#[test]
fn keys_are_listed_with_their_times() {
    let writ = by_hand();
    writ.rotate();
    let keys = writ.keys();
    assert_eq!(keys.len(), 3);
    for key in &keys {
        for name in
            ["kid", "alg", "state", "created_at", "signs_from", "signs_until", "published_until", "retained_until"]
        {
            assert!(key.get(name).is_some(), "{name} is missing: {key}");
        }
        assert!(key["created_at"].as_str().unwrap().ends_with('Z'));
    }
    let people = writ.run(&["keys", "list"]).exits(0);
    assert!(keys.iter().all(|key| people.stdout.contains(key["kid"].as_str().unwrap())));
}

/// CONTRACT 8: public halves only.
#[test]
fn an_export_holds_nothing_secret() {
    let writ = by_hand();
    writ.rotate();
    let export = writ.run(&["keys", "export"]).exits(0).json();
    let keys = export["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 3);
    for key in keys {
        assert!(key["x"].is_string() && key["state"].is_string(), "{key}");
        assert_eq!(key.get("d"), None);
    }
}

/// Keys that signed elsewhere are history here, in a store that the import makes too.
#[test]
fn exported_keys_are_imported_into_a_new_store() {
    let writ = by_hand();
    writ.rotate();
    let export = writ.run(&["keys", "export"]).exits(0).stdout;
    let other = Setup::new();
    other.write("export.json", &export);
    let file = other.path("export.json");
    assert_eq!(other.run(&["keys", "import", "--json", file.to_str().unwrap()]).exits(0).json()["imported"], 2);
    let keys = other.run(&["keys", "list", "--json"]).exits(0).json();
    let state = |kid: &str| {
        keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == kid).map(|key| key["state"].clone())
    };
    for kid in [in_state(&writ, "current"), in_state(&writ, "previous")] {
        assert_eq!(state(&kid), Some("historical".into()));
    }
    other.run(&["keys", "import", "/no/such/file"]).exits(2).says("/no/such/file");
}

/// A-116, R-KEYS-09
#[test]
fn a_revoked_current_key_is_replaced_at_once() {
    let writ = by_hand();
    let (current, next) = (in_state(&writ, "current"), in_state(&writ, "next"));
    assert_eq!(issue(&writ).kid(), current);
    writ.run(&["keys", "revoke", &current]).exits(0);
    assert!(!kids(&writ).contains(&current));
    assert_eq!(issue(&writ).kid(), next);
    assert_eq!(kids(&writ).len(), 2, "a new next beside the new current");
    assert_eq!(writ.key_state(&current).as_deref(), Some("revoked"));
    writ.wait_for_log("the revocation", |line| line["event"] == "key_revoked");
}

///
#[test]
fn previous_and_next_keys_can_be_revoked() {
    let writ = by_hand();
    writ.rotate();
    for state in ["previous", "next"] {
        let kid = in_state(&writ, state);
        writ.run(&["keys", "revoke", &kid]).exits(0);
        assert!(!kids(&writ).contains(&kid), "{state}");
        issue(&writ);
    }
    assert_eq!(in_state(&writ, "next").len(), 43, "a next key is there again");
}

///
#[test]
fn revoking_twice_or_what_was_never_ours_is_a_negative_answer() {
    let writ = by_hand();
    let current = in_state(&writ, "current");
    writ.run(&["keys", "revoke", &current]).exits(0);
    writ.run(&["keys", "revoke", &current]).exits(1);
    writ.run(&["keys", "revoke", "never-ours"]).exits(1);
    assert_eq!(kids(&writ).len(), 2);
}

/// A thumbprint is base64url: one in sixty-four begins with a hyphen, and must not be taken for an option.
#[test]
fn a_kid_that_begins_with_a_hyphen_is_a_kid() {
    let writ = by_hand();
    for kid in ["-KgL6uH1yqjjVF5EULvRyURFpejSY0_kbXr6CBOcEXE", "--L6uH1yqjjVF5EULvRyURFpejSY0_kbXr6CBOcEXEx"] {
        writ.run(&["keys", "revoke", kid]).exits(1);
    }
}

/// CONTRACT 8: the commands work while no service runs, too.
#[test]
fn keys_can_be_managed_while_the_service_is_down() {
    let mut writ = by_hand();
    let current = in_state(&writ, "current");
    assert_eq!(writ.terminate(), 0);
    assert_eq!(in_state(&writ, "current"), current);
    writ.run(&["keys", "revoke", &current]).exits(0);
    writ.start();
    assert!(!kids(&writ).contains(&current));
    assert_ne!(issue(&writ).kid(), current);
}

/// A revocation survives.
#[test]
fn a_revoked_key_stays_revoked() {
    let mut writ = by_hand();
    let current = in_state(&writ, "current");
    writ.run(&["keys", "revoke", &current]).exits(0);
    writ.kill();
    writ.start();
    assert_eq!(writ.key_state(&current).as_deref(), Some("revoked"));
    assert!(!kids(&writ).contains(&current));
}

/// R-KEYS-08
#[test]
fn keys_survive_a_restart() {
    let mut writ = scene::mailer();
    let (before, signer) = (kids(&writ), issue(&writ).kid().to_owned());
    writ.restart();
    assert_eq!(kids(&writ), before);
    assert_eq!(issue(&writ).kid(), signer);
    writ.kill();
    writ.start();
    assert_eq!(kids(&writ), before);
    assert_eq!(issue(&writ).kid(), signer);
}

/// one promotion, and the old key's span ends where it was planned to.
#[test]
fn a_server_that_was_down_across_rotations_catches_up() {
    let mut writ = Setup::new().client("mailer", MAILER).short_keys(3).start();
    assert_eq!(writ.terminate(), 0);
    let before = writ.keys();
    let planned = before.iter().find(|key| key["state"] == "current").unwrap().clone();
    let next = before.iter().find(|key| key["state"] == "next").unwrap()["kid"].clone();
    let from = chrono::DateTime::parse_from_rfc3339(planned["signs_from"].as_str().unwrap()).unwrap();
    let until = from + Duration::from_secs(3);
    wait_until(u64::try_from(until.timestamp()).unwrap() + 4);
    writ.start();
    assert_eq!(issue(&writ).kid(), next, "the next key was published all the time");
    let after = writ.keys().into_iter().find(|key| key["kid"] == planned["kid"]).unwrap();
    let ended = chrono::DateTime::parse_from_rfc3339(after["signs_until"].as_str().unwrap()).unwrap();
    assert!((ended - until).num_seconds().abs() <= 1, "{after}");
    assert!(after["state"] == "previous" || after["state"] == "historical", "{after}");
}

/// nothing is changed.
#[test]
fn a_wrong_sealing_key_stops_the_start() {
    let mut writ = scene::mailer();
    let before = kids(&writ);
    assert_eq!(writ.terminate(), 0);
    let right = fs::read_to_string(writ.setup.path("certs/sealing.key")).unwrap();
    for wrong in [sealing_key().as_str(), "", "c2hvcnQ=", "not base64 at all!"] {
        writ.setup.write("certs/sealing.key", wrong);
        writ.run(&["serve"]).exits(2).says("sealing");
    }
    fs::remove_file(writ.setup.path("certs/sealing.key")).unwrap();
    writ.run(&["serve"]).exits(2).says("sealing.key");
    writ.setup.write("certs/sealing.key", &right);
    writ.start();
    assert_eq!(kids(&writ), before);
}

/// CONTRACT 6: how a sealing key is changed.
#[test]
fn a_sealing_key_can_be_changed() {
    let mut writ = scene::mailer();
    let before = kids(&writ);
    assert_eq!(writ.terminate(), 0);
    let old = fs::read_to_string(writ.setup.path("certs/sealing.key")).unwrap();
    writ.setup.write("certs/old-sealing.key", &old);
    writ.setup.write("certs/sealing.key", &sealing_key());
    writ.setup.change("keys.previous_sealing_keys", vec!["certs/old-sealing.key"]);
    writ.start();
    assert_eq!(kids(&writ), before);
    issue(&writ);
    assert_eq!(writ.terminate(), 0);
    writ.setup.change("keys.previous_sealing_keys", Vec::<String>::new());
    writ.start();
    issue(&writ);
}

///
#[test]
fn a_sealing_key_that_others_can_read_stops_the_start() {
    let setup = Setup::new().client("mailer", MAILER);
    let path = setup.path("certs/sealing.key");
    for mode in [0o604, 0o644, 0o620, 0o602] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        setup.run(&["serve"]).exits(2).says("sealing.key").says(&format!("{mode:o}"));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    setup
        .start()
        .wait_for_log("the warning", |line| line["level"] == "WARN" && line.to_string().contains("sealing.key"));
}

#[track_caller]
fn signs_with(algorithm: &str) {
    let writ = Setup::new().client("mailer", MAILER).set("keys.algorithm", algorithm).start();
    let issued = issue(&writ);
    assert_eq!(issued.header["alg"], algorithm);
    for key in writ.site().jwks() {
        assert_eq!(key["alg"], algorithm);
        assert!(["d", "p", "q", "dp", "dq", "qi", "k"].iter().all(|name| key.get(name).is_none()), "{key}");
    }
    let metadata = writ.site().discover("/.well-known/oauth-authorization-server", &[]).json();
    assert_eq!(metadata["txn_token_signing_alg_values_supported"], json!([algorithm]));
}

/// R-KEYS-01
#[test]
fn tokens_are_signed_with_es256() {
    signs_with("ES256");
}

/// R-KEYS-01
#[test]
fn tokens_are_signed_with_es384() {
    signs_with("ES384");
}

/// R-KEYS-01
#[test]
fn tokens_are_signed_with_eddsa() {
    signs_with("EdDSA");
}

/// R-KEYS-01
#[test]
fn tokens_are_signed_with_rs256() {
    signs_with("RS256");
}

/// R-KEYS-01
#[test]
fn tokens_are_signed_with_ps256() {
    signs_with("PS256");
}

///
#[test]
fn an_algorithm_can_be_changed() {
    let mut writ = by_hand();
    let old = issue(&writ);
    writ.setup.change("keys.algorithm", "EdDSA");
    writ.restart();
    let algorithms = |writ: &Writ| {
        let mut all: Vec<String> =
            writ.site().jwks().iter().map(|key| key["alg"].as_str().unwrap().to_owned()).collect();
        all.sort();
        all
    };
    eventually("a key of the new algorithm signs", || {
        writ.rotate();
        (issue(&writ).header["alg"] == "EdDSA").then_some(())
    });
    assert!(algorithms(&writ).contains(&"ES256".to_owned()), "{:?}", algorithms(&writ));
    assert!(writ.keys().iter().any(|key| key["kid"] == old.kid()), "the old key is still known");
}

/// CONTRACT 6: times that cannot hold are refused.
#[test]
fn times_that_cannot_hold_are_refused() {
    let with = |rotation: &str| {
        Setup::new()
            .set("tokens.max_lifetime", "2s")
            .set("tokens.lifetime", "1s")
            .set("tokens.jwks_max_age", "2s")
            .set("keys.rotation_period", rotation)
            .client("mailer", MAILER)
    };
    with("4s").run(&["check"]).exits(0);
    with("3s").run(&["check"]).exits(2).says("rotation_period");
    with("3s").run(&["serve"]).exits(2).says("rotation_period");
}

/// CONTRACT 6: history cannot be made again.
#[test]
fn each_key_has_a_file_of_its_own() {
    let writ = by_hand();
    writ.rotate();
    for key in writ.keys() {
        let path = writ.setup.path(&format!("data/keys/{}.json", key["kid"].as_str().unwrap()));
        let text = fs::read_to_string(&path).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        assert!(file.is_object() && !text.contains("\"d\""), "public halves only");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

/// The clock of the harness agrees with the one of the service.
#[test]
fn tokens_are_issued_now() {
    let writ = scene::mailer();
    let before = now();
    let issued = issue(&writ);
    assert!((before..=now()).contains(&issued.iat()));
}
