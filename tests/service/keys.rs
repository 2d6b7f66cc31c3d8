//! Signing keys: published, promoted, retired, revoked, sealed, kept for the history (CONTRACT 5, 6, 8; A-113 to A-120;
//! area KEYS). The documents that publish them are tested in `discovery`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::scene::{self, ACCOUNTS, MAILER, PURGE, batch, expired};
use crate::support::answer::Issued;
use crate::support::http::Connection;
use crate::support::workload::{Form, tls_config};
use crate::support::writ::{Setup, Writ, sealing_key};
use crate::support::{eventually, wait_until};

fn issue(writ: &Writ) -> Issued {
    writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued()
}

fn kids(writ: &Writ) -> Vec<String> {
    writ.site().jwks().iter().map(|jwk| jwk["kid"].as_str().unwrap().to_owned()).collect()
}

fn setup() -> Setup {
    Setup::new().client("mailer", MAILER)
}

/// Keys that are rotated by hand only, and may be every other second.
fn by_hand() -> Writ {
    setup().shortest_keys(3600).start()
}

fn kid(key: &Value) -> String {
    key["kid"].as_str().unwrap().to_owned()
}

/// The only key in that state, as `keys list` shows it.
#[track_caller]
fn only(writ: &Writ, state: &str) -> Value {
    let keys: Vec<Value> = writ.keys().into_iter().filter(|key| key["state"] == state).collect();
    let [key] = keys.try_into().unwrap_or_else(|keys| panic!("one {state} key: {keys:?}"));
    key
}

/// `kid` of the only key in that state.
#[track_caller]
fn in_state(writ: &Writ, state: &str) -> String {
    kid(&only(writ, state))
}

fn published(writ: &Writ) -> BTreeSet<String> {
    kids(writ).into_iter().collect()
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
    let response = writ.site().discover("/.well-known/jwks.json", &[("If-None-Match", &before)]);
    assert_eq!(response.status, 200, "other keys");
}

/// CONTRACT 8, R-KEYS-04: a next key signs only after it was published for `jwks_max_age`, 10 minutes by default.
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
    eventually("two rotations", || {
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
        (signers.len() == 3).then_some(())
    });
    eventually("the first key is gone", || (!kids(&writ).contains(&first)).then_some(()));
}

/// R-KEYS-08, CONTRACT 10
#[test]
fn keys_rotate_by_themselves_and_rotations_are_logged_and_measured() {
    let writ = Setup::new().client("mailer", MAILER).shortest_keys(2).start();
    let first = issue(&writ).kid().to_owned();
    writ.expect_event("key_rotated", || ());
    assert_ne!(issue(&writ).kid(), first);
    writ.expect_event("key_rotated", || ());
    let keys = |state: &str| writ.metric("writ_keys", &[("state", state)]).unwrap_or(0.0);
    for (state, at_least) in [("next", 1.0), ("current", 1.0), ("previous", 1.0), ("historical", 1.0)] {
        eventually(&format!("{state} keys are counted"), || (keys(state) >= at_least).then_some(()));
    }
    assert!(writ.metric("writ_signing_key_age_seconds", &[]).unwrap() <= 10.0);
    assert!(writ.log_text().contains("key_created"));
}

/// R-KEYS-10: keys that signed elsewhere are history here, in a store that the import creates.
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

/// A-116
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

/// A-116
#[test]
fn revoking_twice_or_an_unknown_key_exits_1() {
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

/// A revocation survives a crash.
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

/// R-KEYS-05, R-KEYS-08, R-POL-11
#[test]
fn keys_survive_a_restart() {
    let mut writ = scene::mailer();
    let (before, signer) = (writ.site().jwks(), issue(&writ).kid().to_owned());
    writ.restart();
    assert_eq!(writ.site().jwks(), before);
    assert_eq!(issue(&writ).kid(), signer);
    writ.kill();
    writ.start();
    assert_eq!(writ.site().jwks(), before);
    assert_eq!(issue(&writ).kid(), signer);
}

/// A-115: one promotion, and the old key's span ends where it was planned to.
#[test]
fn a_server_that_was_down_across_rotations_catches_up() {
    let mut writ = Setup::new().client("mailer", MAILER).shortest_keys(2).start();
    assert_eq!(writ.terminate(), 0);
    let before = writ.keys();
    let planned = before.iter().find(|key| key["state"] == "current").unwrap().clone();
    let next = before.iter().find(|key| key["state"] == "next").unwrap()["kid"].clone();
    let from = chrono::DateTime::parse_from_rfc3339(planned["signs_from"].as_str().unwrap()).unwrap();
    let until = from + Duration::from_secs(2);
    wait_until(u64::try_from(until.timestamp()).unwrap() + 3);
    writ.start();
    assert_eq!(issue(&writ).kid(), next, "the next key was published all the time");
    let after = writ.keys().into_iter().find(|key| key["kid"] == planned["kid"]).unwrap();
    let ended = chrono::DateTime::parse_from_rfc3339(after["signs_until"].as_str().unwrap()).unwrap();
    assert!((ended - until).num_seconds().abs() <= 1, "{after}");
    assert!(after["state"] == "previous" || after["state"] == "historical", "{after}");
}

/// A-117: nothing is changed.
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

/// A-137
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

/// A-120
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

/// CONTRACT 6, 8: the history cannot be recreated, so the public half of each key is in a file and in the export.
#[test]
fn each_key_has_a_file_of_its_own_and_is_exported_without_secrets() {
    let writ = by_hand();
    writ.rotate();
    let export = writ.run(&["keys", "export"]).exits(0).json();
    let exported = export["keys"].as_array().unwrap();
    assert_eq!(exported.len(), 3);
    for key in exported {
        assert!(key["x"].is_string() && key["state"].is_string(), "{key}");
        assert_eq!(key.get("d"), None);
    }
    for key in writ.keys() {
        let path = writ.setup.path(&format!("data/keys/{}.json", kid(&key)));
        let text = fs::read_to_string(&path).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        assert!(file.is_object() && !text.contains("\"d\""), "public halves only");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

/// A time of a key, in seconds since 1970.
fn time(key: &Value, name: &str) -> i64 {
    let text = key[name].as_str().unwrap_or_else(|| panic!("{name} is missing: {key}"));
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp()
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// R-KEYS-01
#[test]
fn tokens_are_signed_with_es256_unless_another_asymmetric_algorithm_is_configured() {
    for algorithm in [None, Some("ES256"), Some("ES384"), Some("PS256"), Some("RS256"), Some("EdDSA")] {
        let configured = match algorithm {
            Some(algorithm) => setup().set("keys.algorithm", algorithm),
            None => setup(),
        };
        let (writ, algorithm) = (configured.start(), algorithm.unwrap_or("ES256"));
        assert_eq!(issue(&writ).header["alg"], algorithm, "a verifier accepts it with the published keys");
        for key in writ.site().jwks() {
            assert_eq!(key["alg"], algorithm);
            assert!(["d", "p", "q", "dp", "dq", "qi", "k"].iter().all(|name| key.get(name).is_none()), "{key}");
            let modulus = key["n"].as_str().map(|n| URL_SAFE_NO_PAD.decode(n).unwrap());
            assert!(modulus.is_none_or(|n| n.len() >= 256 && n[0] >= 0x80), "2048 bits at least");
        }
        let metadata = writ.site().discover("/.well-known/oauth-authorization-server", &[]).json();
        assert_eq!(metadata["txn_token_signing_alg_values_supported"], json!([algorithm]));
    }
}

/// R-KEYS-01
#[test]
fn tokens_cannot_be_signed_with_a_secret_or_not_at_all() {
    for algorithm in ["HS256", "none", ""] {
        setup().set("keys.algorithm", algorithm).run(&["check"]).exits(2).says("algorithm");
    }
}

/// R-KEYS-02, R-KEYS-03, R-KEYS-04, R-KEYS-08: the key set holds next, current and previous, and nothing else.
#[test]
fn a_key_goes_from_next_to_current_to_previous_to_historical_and_signs_only_as_current() {
    let writ = by_hand();
    let key = in_state(&writ, "next");
    for (state, all_published, signs) in [
        ("next", &["next", "current"][..], false),
        ("current", &["next", "current", "previous"], true),
        ("previous", &["next", "current", "previous"], false),
        ("historical", &["next", "current", "previous"], false),
    ] {
        assert_eq!(writ.key_state(&key).as_deref(), Some(state));
        let listed: BTreeSet<String> = all_published.iter().map(|state| in_state(&writ, state)).collect();
        assert_eq!(published(&writ), listed, "{state}");
        assert_eq!(published(&writ).contains(&key), state != "historical");
        assert_eq!(issue(&writ).kid() == key, signs, "{state}");
        let current = only(&writ, "current");
        if state == "current" {
            assert!(
                time(&current, "signs_from") > time(&current, "created_at"),
                "published before it signs: {current}"
            );
        }
        if state != "historical" {
            writ.rotate();
        }
    }
    let previous = in_state(&writ, "previous");
    writ.run(&["keys", "revoke", &previous]).exits(0);
    assert!(!published(&writ).contains(&previous), "a compromised key");
}

/// R-KEYS-02, R-KEYS-10
#[test]
fn a_historical_key_is_erased_when_its_retention_ends() {
    let writ = setup().shortest_keys(2).set("keys.retention", "3s").start();
    let key = issue(&writ).kid().to_owned();
    let file = writ.setup.path(&format!("data/keys/{key}.json"));
    let exported = || writ.run(&["keys", "export"]).exits(0).stdout.contains(&key);
    assert!(exported());
    let x = writ.site().jwks().iter().find(|jwk| jwk["kid"] == key.as_str()).unwrap()["x"].as_str().unwrap().to_owned();
    assert!(fs::read_to_string(&file).unwrap().contains(&x));
    eventually("it is erased", || (!exported()).then_some(()));
    eventually("its file tells no key", || {
        fs::read_to_string(&file).map_or(true, |text| !text.contains(&x)).then_some(())
    });
}

/// R-KEYS-04
#[test]
fn a_previous_key_stays_published_until_its_tokens_are_gone_everywhere() {
    let writ = setup().set("tokens.max_lifetime", "60s").set("tokens.jwks_max_age", "1s").start();
    // no `--wait` on the second promotion: it would have to wait for the first key's tokens
    writ.rotate();
    writ.run(&["keys", "rotate"]).exits(1);
    let previous = only(&writ, "previous");
    assert!(published(&writ).contains(&kid(&previous)));
    assert!(time(&previous, "published_until") > time(&previous, "signs_until") + 60, "{previous}");
}

/// R-KEYS-05
#[test]
fn a_kid_is_the_thumbprint_of_its_key() {
    for key in setup().start().site().jwks() {
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, key["x"], key["y"]);
        assert_eq!(key["kid"], URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes())));
    }
}

/// R-KEYS-05
#[test]
fn no_kid_is_used_twice() {
    let writ = by_hand();
    let mut seen: Vec<String> = published(&writ).into_iter().collect();
    for _ in 0..2 {
        writ.rotate();
        seen.push(kid(&only(&writ, "next")));
        writ.run(&["keys", "revoke", seen.last().unwrap()]).exits(0);
        seen.push(kid(&only(&writ, "next")));
    }
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 6, "{seen:?}");
    assert_eq!(writ.keys().len(), 6, "each is remembered");
}

/// R-KEYS-07: the private half is destroyed (a unit test looks into the store); this is what is left.
#[test]
fn only_the_public_half_remains_of_a_key_that_has_stopped_signing() {
    let mut writ = by_hand();
    writ.rotate();
    writ.rotate();
    for state in ["previous", "historical"] {
        let key = kid(&only(&writ, state));
        let file = fs::read_to_string(writ.setup.path(&format!("data/keys/{key}.json"))).unwrap();
        let export = writ.run(&["keys", "export"]).exits(0).json();
        let exported = export["keys"].as_array().unwrap().iter().find(|one| one["kid"] == key.as_str()).unwrap();
        assert!(exported["x"].is_string() && exported.get("d").is_none(), "{exported}");
        assert!(file.contains(exported["x"].as_str().unwrap()) && !file.contains("sealed"), "{file}");
    }
    let stopped: BTreeSet<String> = ["previous", "historical"].iter().map(|state| kid(&only(&writ, state))).collect();
    writ.restart();
    assert!(!stopped.contains(issue(&writ).kid()), "it signs no more");
}

/// R-KEYS-08: `rotation_period` may not be shorter than `max_lifetime`, 5 minutes, and `jwks_max_age` together.
#[test]
fn keys_rotate_daily_unless_configured_otherwise() {
    let caching = |seconds: u32| setup().set("tokens.jwks_max_age", format!("{seconds}s"));
    caching(24 * 3600 - 300).run(&["check"]).exits(0);
    caching(24 * 3600 - 299).run(&["check"]).exits(2).says("rotation_period");
}

/// A-116, R-KEYS-09
#[test]
fn a_revoked_key_ends_everywhere_at_once_and_a_published_one_signs() {
    let redeemer = format!("introspect = true\n{}", batch("max_uses = 9"));
    let writ = setup()
        .client("accounts", ACCOUNTS)
        .client("batch", &redeemer)
        .client("relay", "[[purpose]]\nscope = \"mailbox.deliver\"\naccept = [\"txn_token\"]\n")
        .start();
    let (live, old) = (issue(&writ), expired(&writ));
    let (batch, relay) = (writ.workload("batch"), writ.workload("relay"));
    batch.introspect(&live.token).active();
    relay.token(&Form::redeem(&live.token, "mailbox.deliver")).issued();
    batch.token(&Form::redeem(&old.token, PURGE)).issued();

    let next = kid(&only(&writ, "next"));
    writ.run(&["keys", "revoke", live.kid()]).exits(0);
    assert!(!published(&writ).contains(live.kid()));
    batch.introspect(&live.token).inactive();
    relay.token(&Form::redeem(&live.token, "mailbox.deliver")).invalid_request("subject_token_key_unknown");
    batch.token(&Form::redeem(&old.token, PURGE)).invalid_request("redemption_key_gone");
    assert_eq!(issue(&writ).kid(), next, "without its lead of ten minutes");
    assert_eq!(kids(&writ).len(), 2, "a new next beside the new current");
    assert_eq!(writ.key_state(live.kid()).as_deref(), Some("revoked"));
    writ.wait_for_log("the revocation", |line| line["event"] == "key_revoked");
}

/// R-KEYS-10, CONTRACT 8
#[test]
fn keys_are_listed_and_exported_with_their_times_and_states() {
    let writ = by_hand();
    writ.rotate();
    for key in writ.keys() {
        for name in
            ["kid", "alg", "state", "created_at", "signs_from", "signs_until", "published_until", "retained_until"]
        {
            assert!(key.get(name).is_some(), "{name} is missing: {key}");
        }
        assert!(key["created_at"].as_str().unwrap().ends_with('Z'));
    }
    let people = writ.run(&["keys", "list"]).exits(0);
    assert!(writ.keys().iter().all(|key| people.stdout.contains(key["kid"].as_str().unwrap())));
    let revoked = kid(&only(&writ, "previous"));
    writ.rotate();
    writ.run(&["keys", "revoke", &revoked]).exits(0);
    writ.rotate();
    let key = only(&writ, "historical");
    assert!(time(&key, "signs_from") < time(&key, "signs_until"));
    assert_eq!(time(&key, "retained_until"), time(&key, "signs_until") + 400 * 24 * 3600);
    let export = writ.run(&["keys", "export"]).exits(0).json();
    let exported = |kid: &Value| {
        let keys = export["keys"].as_array().unwrap();
        keys.iter().find(|key| key["kid"] == *kid).unwrap_or_else(|| panic!("{kid} in {export}")).clone()
    };
    let of_key = exported(&key["kid"]);
    assert_eq!(
        (&of_key["kty"], &of_key["alg"], &of_key["state"]),
        (&json!("EC"), &json!("ES256"), &json!("historical"))
    );
    assert_eq!(exported(&json!(revoked))["state"], "revoked");
    let file = fs::read_to_string(writ.setup.path(&format!("data/keys/{}.json", kid(&key)))).unwrap();
    assert!(file.contains("trust-domain.example"), "{file}");
}

/// R-KEYS-10: rotation, restart, and the loss of the store.
#[test]
fn the_history_survives_rotation_restart_and_loss_of_the_store() {
    let mut writ = setup().shortest_keys(3600).client("accounts", ACCOUNTS).start();
    let issued = issue(&writ);
    writ.rotate();
    writ.rotate();
    writ.restart();
    assert_eq!(writ.key_state(issued.kid()).as_deref(), Some("historical"));
    assert_eq!(writ.terminate(), 0);
    for path in files(&writ.setup.path("data")).iter().filter(|path| path.file_name().is_some_and(|name| name == "db"))
    {
        fs::write(path, "lost").unwrap();
    }
    writ.run(&["serve"]).exits(2).says("writ store repair");
    writ.run(&["store", "repair"]).exits(0);
    writ.start();
    assert_eq!(writ.key_state(issued.kid()).as_deref(), Some("historical"));
}

/// R-KEYS-10
#[test]
fn a_changed_record_of_a_key_is_found() {
    let writ = by_hand();
    writ.rotate();
    writ.run(&["keys", "verify"]).exits(0);
    let path = writ.setup.path(&format!("data/keys/{}.json", kid(&only(&writ, "previous"))));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"x\":\"", "\"x\":\"A", 1)).unwrap();
    writ.run(&["keys", "verify"]).exits(1).says(&kid(&only(&writ, "previous")));
}

/// R-KEYS-11
#[test]
fn the_key_of_tls_signs_no_tokens() {
    let writ = setup().start();
    let connection = Connection::tls(writ.site().endpoints().exchange, &tls_config(&writ.site().ca, None)).unwrap();
    let certificate = connection.handshake.unwrap().certificate;
    for key in writ.site().jwks() {
        let x = URL_SAFE_NO_PAD.decode(key["x"].as_str().unwrap()).unwrap();
        assert!(!certificate.windows(x.len()).any(|bytes| bytes == x));
    }
}

/// R-KEYS-12: sealed at rest and for their owner alone. Zeroizing and the self-test are for unit tests.
#[test]
fn private_keys_are_sealed_in_files_that_only_their_owner_can_read() {
    /// How PKCS#8 begins for a key on P-256, as bytes and in base64.
    const PKCS8: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let mut writ = by_hand();
    writ.rotate();
    assert_eq!(writ.terminate(), 0);
    let mut files = files(&writ.setup.path("data"));
    assert!(files.len() > 3, "{files:?}");
    files.push(writ.setup.path("certs/sealing.key"));
    for path in files {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
        let bytes = fs::read(&path).unwrap();
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!holds(PKCS8) && !holds(b"MIGHAgEAMBMGByqGSM49") && !holds(b"PRIVATE KEY"), "{}", path.display());
    }
}

/// R-KEYS-12: not even with the most detailed log.
#[test]
fn private_keys_are_never_logged() {
    let writ = setup().shortest_keys(3600).environment("WRIT_LOG", "trace").start();
    writ.expect_event("key_rotated", || writ.rotate());
    let log = writ.log_text();
    assert!(log.contains("\"TRACE\""), "everything is logged");
    for secret in ["PRIVATE KEY", "MIGHAgEAMBMGByqGSM49", "\"d\":"] {
        assert!(!log.contains(secret), "{secret}");
    }
    let sealing_key = fs::read_to_string(writ.setup.path("certs/sealing.key")).unwrap();
    assert!(!log.contains(sealing_key.trim()));
}

/// R-KEYS-04, CONTRACT 6
#[test]
fn periods_that_contradict_each_other_stop_the_start() {
    let rotating = |period: &str| {
        let tokens = setup().set("tokens.lifetime", "1s").set("tokens.max_lifetime", "2s");
        tokens.set("tokens.jwks_max_age", "2s").set("keys.rotation_period", period)
    };
    rotating("4s").run(&["check"]).exits(0);
    for command in ["check", "serve"] {
        rotating("3s").run(&[command]).exits(2).says("rotation_period");
    }
}
