//! Signing keys: published, rotated, revoked, kept for the history (area KEYS).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::answer::Issued;
use crate::support::http::Connection;
use crate::support::workload::{Form, tls_config};
use crate::support::writ::{Setup, Writ};
use crate::support::{eventually, now, wait_until};

const JWKS: &str = "/.well-known/jwks.json";

const MAILER: &str = r#"
[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials"]
"#;

/// Its tokens live for a second, and `batch` redeems them.
const ACCOUNTS: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["client_credentials"]
lifetime = "1s"
"#;

const BATCH: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["expired_txn_token"]
[purpose.redemption]
issued_to = ["accounts"]
max_age = "1d"
max_uses = 9
"#;

fn setup() -> Setup {
    Setup::new().client("mailer", MAILER)
}

/// Keys that are rotated by hand only, and may be every few seconds.
fn by_hand() -> Writ {
    setup().short_keys(3600).start()
}

fn issue(writ: &Writ) -> Issued {
    writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued()
}

/// A token of `accounts` that has expired.
fn expired(writ: &Writ) -> Issued {
    let issued = writ.workload("accounts").token(&Form::client_credentials("account.purge")).issued();
    issued.wait_until_expired();
    issued
}

fn published(writ: &Writ) -> BTreeSet<String> {
    writ.site().jwks().iter().map(kid).collect()
}

fn kid(key: &Value) -> String {
    key["kid"].as_str().unwrap().to_owned()
}

/// What `keys list` tells of the keys in that state.
fn in_state(writ: &Writ, state: &str) -> Vec<Value> {
    writ.keys().into_iter().filter(|key| key["state"] == state).collect()
}

/// The same where there is one.
#[track_caller]
fn only(writ: &Writ, state: &str) -> Value {
    let [key] = in_state(writ, state).try_into().unwrap_or_else(|keys| panic!("one {state} key: {keys:?}"));
    key
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
fn tokens_are_signed_with_es256_unless_another_asymmetric_algorithm_is_chosen() {
    assert_eq!(issue(&setup().start()).header["alg"], "ES256");
    for algorithm in ["ES256", "ES384", "PS256", "RS256", "EdDSA"] {
        let writ = setup().set("keys.algorithm", algorithm).start();
        assert_eq!(issue(&writ).header["alg"], algorithm, "a verifier takes it with the published keys");
        for key in writ.site().jwks() {
            let modulus = key["n"].as_str().map(|n| URL_SAFE_NO_PAD.decode(n).unwrap());
            assert!(modulus.is_none_or(|n| n.len() >= 256 && n[0] >= 0x80), "2048 bits at least");
        }
    }
}

/// R-KEYS-01
#[test]
fn tokens_cannot_be_signed_with_a_secret_or_not_at_all() {
    for algorithm in ["HS256", "none", ""] {
        setup().set("keys.algorithm", algorithm).run(&["check"]).exits(2).says("algorithm");
    }
}

/// R-KEYS-02, R-KEYS-03
#[test]
fn a_key_goes_from_next_to_current_to_previous_to_historical_and_signs_only_as_current() {
    let writ = by_hand();
    let key = kid(&only(&writ, "next"));
    for (state, is_published, signs) in
        [("next", true, false), ("current", true, true), ("previous", true, false), ("historical", false, false)]
    {
        assert_eq!(writ.key_state(&key).as_deref(), Some(state));
        assert_eq!(published(&writ).contains(&key), is_published, "{state}");
        assert_eq!(issue(&writ).kid() == key, signs, "{state}");
        only(&writ, "current");
        if state != "historical" {
            writ.rotate();
        }
    }
}

/// R-KEYS-02, R-KEYS-10: the end of its life.
#[test]
fn a_historical_key_is_erased_when_its_retention_ends() {
    let writ = setup().short_keys(3).set("keys.retention", "4s").start();
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

/// R-KEYS-03
#[test]
fn the_key_set_holds_next_current_and_previous_and_nothing_else() {
    let writ = by_hand();
    let listed =
        |states: &[&str]| -> BTreeSet<String> { states.iter().map(|state| kid(&only(&writ, state))).collect() };
    assert_eq!(published(&writ), listed(&["next", "current"]), "no previous before the first rotation");
    writ.rotate();
    assert_eq!(published(&writ), listed(&["next", "current", "previous"]));
    writ.rotate();
    assert_eq!(published(&writ), listed(&["next", "current", "previous"]));
    assert!(!published(&writ).contains(&kid(&only(&writ, "historical"))));
    let previous = kid(&only(&writ, "previous"));
    writ.run(&["keys", "revoke", &previous]).exits(0);
    assert!(!published(&writ).contains(&previous), "a compromised key");
}

/// R-KEYS-04
#[test]
fn a_next_key_signs_only_when_it_was_published_for_max_age() {
    let writ = setup().start();
    writ.run(&["keys", "rotate"]).exits(1); // `jwks_max_age` is 10 minutes
    assert!(in_state(&writ, "previous").is_empty());
    let writ = by_hand(); // 1 second
    let next = kid(&only(&writ, "next"));
    assert!(published(&writ).contains(&next));
    writ.rotate();
    let current = only(&writ, "current");
    assert_eq!(kid(&current), next);
    assert!(time(&current, "signs_from") > time(&current, "created_at"), "{current}");
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

/// R-KEYS-04
#[test]
fn periods_that_cannot_hold_stop_the_start() {
    let rotating = |period: &str| {
        let tokens = setup().set("tokens.lifetime", "1s").set("tokens.max_lifetime", "2s");
        tokens.set("tokens.jwks_max_age", "2s").set("keys.rotation_period", period)
    };
    rotating("4s").run(&["check"]).exits(0);
    for command in ["check", "serve"] {
        rotating("3s").run(&[command]).exits(2).says("rotation_period");
    }
}

/// R-KEYS-05
#[test]
fn a_kid_is_the_thumbprint_of_its_key_and_stays_with_it() {
    let mut writ = setup().start();
    for key in writ.site().jwks() {
        let text = format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, key["x"], key["y"]);
        assert_eq!(key["kid"], URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes())));
    }
    let before = writ.site().jwks();
    writ.restart();
    assert_eq!(writ.site().jwks(), before);
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

/// R-KEYS-06
#[test]
fn the_key_set_is_a_jwk_set_of_public_members() {
    let writ = setup().start();
    let response = writ.site().discover(JWKS, &[]); // TLS without a client certificate
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/jwk-set+json")));
    let document = response.json();
    assert_eq!(document.as_object().unwrap().keys().collect::<Vec<_>>(), ["keys"]);
    for key in document["keys"].as_array().unwrap() {
        let names: BTreeSet<&str> = key.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["alg", "crv", "kid", "kty", "use", "x", "y"].into());
        assert_eq!((&key["kty"], &key["use"], &key["alg"]), (&json!("EC"), &json!("sig"), &json!("ES256")));
    }
}

/// R-KEYS-06
#[test]
fn the_key_set_is_cacheable_and_asked_for_conditionally() {
    let writ = by_hand();
    let first = writ.site().discover(JWKS, &[]);
    assert_eq!(first.header("cache-control"), Some("public, max-age=1"));
    let etag = first.header("etag").unwrap();
    let again = writ.site().discover(JWKS, &[("If-None-Match", etag)]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    writ.rotate();
    assert_eq!(writ.site().discover(JWKS, &[("If-None-Match", etag)]).status, 200, "other keys");
}

/// R-KEYS-06
#[test]
fn the_key_set_is_not_served_without_tls() {
    let writ = setup().start();
    let mut plain = Connection::plain(writ.site().endpoints().discovery.unwrap()).unwrap();
    let request = format!("GET {JWKS} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(plain.send(request.as_bytes()).and_then(|()| plain.receive()).is_err());
}

/// R-KEYS-07: the private half is destroyed (a unit test looks into the store); this is what is left.
#[test]
fn of_a_key_that_has_stopped_signing_the_public_half_survives() {
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
fn keys_rotate_daily_unless_told_otherwise() {
    let caching = |seconds: u32| setup().set("tokens.jwks_max_age", format!("{seconds}s"));
    caching(24 * 3600 - 300).run(&["check"]).exits(0);
    caching(24 * 3600 - 299).run(&["check"]).exits(2).says("rotation_period");
}

/// R-KEYS-08
#[test]
fn keys_rotate_by_themselves() {
    let writ = setup().short_keys(3).start();
    let first = issue(&writ).kid().to_owned();
    writ.expect_event("key_rotated", || ());
    assert_ne!(issue(&writ).kid(), first);
}

/// R-KEYS-08
#[test]
fn keys_rotate_on_command() {
    let writ = by_hand();
    let next = kid(&only(&writ, "next"));
    writ.rotate();
    assert_eq!(issue(&writ).kid(), next);
}

/// R-KEYS-08: `tests/crash.rs` does it a hundred times, at random instants.
#[test]
fn after_a_crash_there_is_exactly_one_current_key_and_it_signs() {
    let mut writ = setup().short_keys(3).start();
    for _ in 0..2 {
        writ.expect_event("key_rotated", || ());
        writ.kill();
        only(&writ, "current");
        writ.start();
        let signer = issue(&writ).kid().to_owned();
        let state = writ.key_state(&signer);
        assert!(matches!(state.as_deref(), Some("current" | "previous")), "{state:?}: it may have been replaced since");
        only(&writ, "current");
    }
}

/// R-KEYS-09
#[test]
fn a_revoked_key_ends_everywhere_at_once_and_a_published_one_signs() {
    let redeemer = format!("introspect = true\n{BATCH}");
    let writ = setup()
        .client("accounts", ACCOUNTS)
        .client("batch", &redeemer)
        .client("relay", "[[purpose]]\nscope = \"mailbox.deliver\"\naccept = [\"txn_token\"]\n")
        .start();
    let (live, old) = (issue(&writ), expired(&writ));
    let (batch, relay) = (writ.workload("batch"), writ.workload("relay"));
    batch.introspect(&live.token).active();
    relay.token(&Form::redeem(&live.token, "mailbox.deliver")).issued();
    batch.token(&Form::redeem(&old.token, "account.purge")).issued();

    let next = kid(&only(&writ, "next"));
    writ.run(&["keys", "revoke", live.kid()]).exits(0);
    assert!(!published(&writ).contains(live.kid()));
    batch.introspect(&live.token).inactive();
    relay.token(&Form::redeem(&live.token, "mailbox.deliver")).invalid_request("subject_token_key_unknown");
    batch.token(&Form::redeem(&old.token, "account.purge")).invalid_request("redemption_key_gone");
    assert_eq!(issue(&writ).kid(), next, "without its lead of ten minutes");
}

/// R-KEYS-10
#[test]
fn the_history_tells_each_key_with_its_times_and_its_state() {
    let writ = by_hand();
    writ.rotate();
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
fn the_history_survives_what_happens_to_the_service() {
    let mut writ = setup().short_keys(3600).client("accounts", ACCOUNTS).start();
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
fn the_history_moves_to_another_installation() {
    let writ = by_hand();
    let issued = issue(&writ);
    let export = writ.run(&["keys", "export"]).exits(0).stdout;
    let there = Setup::new();
    there.write("export.json", &export);
    there.run(&["keys", "import", there.path("export.json").to_str().unwrap()]).exits(0);
    let keys = there.run(&["keys", "list", "--json"]).exits(0).json();
    let state =
        keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == issued.kid()).unwrap()["state"].clone();
    assert_eq!(state, "historical");
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
fn private_keys_lie_sealed_in_files_of_their_owner() {
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
    writ.setup.write("certs/sealing.key", &crate::support::writ::sealing_key());
    writ.run(&["serve"]).exits(2).says("sealing");
}

/// R-KEYS-12: nor does anything that the service says, with everything logged that can be.
#[test]
fn private_keys_are_never_logged() {
    let writ = setup().short_keys(3).environment("WRIT_LOG", "trace").start();
    wait_until(now() + 1);
    writ.expect_event("key_rotated", || ());
    let log = writ.log_text();
    assert!(log.contains("\"TRACE\""), "everything is logged");
    for secret in ["PRIVATE KEY", "MIGHAgEAMBMGByqGSM49", "\"d\":"] {
        assert!(!log.contains(secret), "{secret}");
    }
    let sealing_key = fs::read_to_string(writ.setup.path("certs/sealing.key")).unwrap();
    assert!(!log.contains(sealing_key.trim()));
}
