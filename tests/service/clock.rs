//! A wrong system clock (CONTRACT 3.5; A-065, A-108, A-129; R-DELAY-11). It is set by libfaketime, which
//! `tests/tools.sh` fetches into `target/tools`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::reasons::CLOCK_BEHIND;
use crate::scene::{ACCOUNTS, PURGE, READER, delayed};
use crate::support::answer::Answer;
use crate::support::jose::Key;
use crate::support::pki::{self, Credentials};
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ, spiffe_id};
use crate::support::{ISSUER, eventually, now};

/// Presents self-signed tokens.
const VOUCHER: &str = r#"
[[purpose]]
scope = "mailbox.deliver"
accept = ["self_signed"]
subjects = ["*"]
"#;

/// The library, or `None` where it could not be fetched: then these tests are left out, and say so.
fn library() -> Option<PathBuf> {
    let lib = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/faketime/usr/lib");
    let found = std::fs::read_dir(lib).ok().and_then(|folders| {
        folders.flatten().map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
    });
    if found.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "skipped: libfaketime is missing");
        println!("skipped: libfaketime is missing (tests/tools.sh)");
    }
    found
}

/// A service whose clock [`set_clock`] sets.
fn with_clock(setup: Setup, library: &std::path::Path) -> Writ {
    let file = setup.path("clock");
    std::fs::write(&file, "+0").unwrap();
    setup
        .environment("LD_PRELOAD", library.to_str().unwrap())
        .environment("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap())
        .environment("FAKETIME_NO_CACHE", "1")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start()
}

fn set_clock(writ: &Writ, offset: &str) {
    std::fs::write(writ.setup.path("clock"), offset).unwrap();
}

/// R-DELAY-11, A-129: with a clock behind its records the service issues nothing until an operator trusts the clock.
#[test]
pub(crate) fn a_clock_behind_the_last_event_stops_tokens_until_it_is_trusted() {
    let Some(library) = library() else { return };
    let writ = with_clock(delayed(""), &library);
    let accounts = writ.workload("accounts");
    let original = accounts.token(&Form::client_credentials(PURGE)).issued();
    original.wait_until_expired();
    let redemption = Form::redeem(&original.token, PURGE);

    set_clock(&writ, "-20");
    accounts.token(&Form::client_credentials(PURGE)).issued();

    set_clock(&writ, "-60");
    let behind = writ.workload("batch").token(&redemption);
    behind.refused(503, "temporarily_unavailable", CLOCK_BEHIND);
    accounts.token(&Form::client_credentials(PURGE)).refused(503, "temporarily_unavailable", CLOCK_BEHIND);
    assert_eq!(writ.site().ops("/readyz").status, 503);

    writ.expect_event("clock_trusted", || {
        writ.run(&["store", "trust-clock"]).exits(0);
    });
    assert_eq!(writ.site().ops("/readyz").status, 200);
    let later = accounts.token(&Form::client_credentials(PURGE)).issued();
    assert!(later.iat() < original.iat(), "the present time of the service counts");

    set_clock(&writ, "+0");
    assert_eq!(writ.workload("batch").token(&redemption).issued().use_number(), Some(1));
}

/// A-129, R-INTRO-06: by a clock that went back, what has expired would be valid again.
#[test]
fn no_token_is_active_while_the_clock_is_behind() {
    let Some(library) = library() else { return };
    let writ = with_clock(delayed("").client("reader", READER), &library);
    let original = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    original.wait_until_expired();
    let reader = writ.workload("reader");
    reader.introspect(&original.token).inactive();
    set_clock(&writ, "-60");
    reader.introspect(&original.token).refused(503, "temporarily_unavailable", "clock_behind");
}

/// A-108, A-129: while the clock is ahead nothing is deleted that will be needed.
#[test]
fn a_clock_that_jumps_ahead_and_back_loses_no_count() {
    let Some(library) = library() else { return };
    let writ = with_clock(delayed("max_uses = 1"), &library);
    let original = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    original.wait_until_expired();
    let redemption = Form::redeem(&original.token, PURGE);
    let batch = writ.workload("batch");
    let first = batch.token(&redemption).issued();
    set_clock(&writ, "+3600");
    batch.token(&redemption).invalid_request("redemption_exhausted");
    set_clock(&writ, "+0");
    assert_eq!(batch.token(&redemption).issued().claims, first.claims, "the last use, while its token lives");
}

/// Certificates that outlast a jump of days.
fn lasting(params: rcgen::CertificateParams) -> rcgen::CertificateParams {
    let mut params = params;
    params.not_after = (SystemTime::now() + Duration::from_secs(30 * 86_400)).into();
    params
}

fn lasting_server(setup: Setup) -> Setup {
    let server = setup.ca.issue(lasting(pki::server()));
    setup.write("certs/server.pem", &server.certificate_pem);
    setup.write("certs/server.key", &server.key_pem);
    setup
}

fn lasting_client(writ: &Writ, id: &str) -> Credentials {
    let mut params = lasting(pki::client(id));
    params.subject_alt_names = vec![pki::uri(&spiffe_id(id))];
    writ.setup.ca.issue(params)
}

/// A client with self-signed tokens and a certificate that is valid for long.
struct Voucher(Credentials);

impl Voucher {
    fn vouch(&self, jti: &str) -> String {
        let claims = json!({
            "iss": "voucher", "sub": "ann", "aud": ISSUER, "iat": now(), "exp": now() + 590, "jti": jti
        });
        Key::of(&self.0, "unused").token(&json!({"alg": "ES256", "typ": "JWT"}).to_string(), &claims.to_string())
    }

    fn bring(&self, writ: &Writ, token: &str) -> Answer {
        let kind = "urn:ietf:params:oauth:token-type:self_signed";
        writ.workload_with(&self.0).token(&Form::token_exchange(token, kind, "mailbox.deliver"))
    }
}

fn failing(writ: &Writ) -> Value {
    writ.site().ops("/readyz").json()["failing"].clone()
}

/// Sets the clock ahead, waits until the service has noticed, and sets it back.
fn blip(writ: &Writ, offset: &str, meanwhile: impl FnOnce()) {
    let is_about =
        |words: &'static str| move |line: &Value| line["message"].as_str().is_some_and(|m| m.contains(words));
    writ.expect_log("the step", || set_clock(writ, offset), is_about("has stepped ahead"));
    meanwhile();
    writ.expect_log("the return", || set_clock(writ, "+0"), is_about("is back"));
    assert_eq!(writ.site().ops("/readyz").status, 200);
}

/// A-065, A-108, A-129: neither records, nor used single-use tokens, nor blocks.
#[test]
fn a_clock_that_is_wrong_for_a_moment_loses_nothing() {
    let Some(library) = library() else { return };
    let writ = with_clock(lasting_server(delayed("").client("voucher", VOUCHER)), &library);
    let voucher = Voucher(lasting_client(&writ, "voucher"));
    let accounts = writ.workload_with(&lasting_client(&writ, "accounts"));
    let word = voucher.vouch("1");
    voucher.bring(&writ, &word).issued();
    let original = accounts.token(&Form::client_credentials(PURGE)).issued();
    let until = chrono::DateTime::from_timestamp((now() + 1800).cast_signed(), 0).unwrap().to_rfc3339();
    writ.run(&["block", "add", "--sub", "bob", "--until", &until]).exits(0);
    let bob = Form::client_credentials(PURGE).set("requested_subject", "bob");
    let records = |kind| writ.metric("writ_ledger_records", &[("kind", kind)]);
    let before = (records("tokens"), records("single_use"), writ.keys());
    assert_eq!((before.0, before.1), (Some(1.0), Some(1.0)));
    for offset in ["+45", "+1h", "+4d", "+29d"] {
        // A step of days leaves no key that may sign by it.
        let stopped = if offset.ends_with('d') { "store_unavailable" } else { "blocked" };
        blip(&writ, offset, || assert_eq!(accounts.token(&bob).reason(), stopped, "{offset}"));
        assert_eq!((records("tokens"), records("single_use"), writ.keys()), before, "{offset}");
        voucher.bring(&writ, &word).invalid_request("subject_token_replayed");
        accounts.token(&bob).invalid_request("blocked");
    }
    blip(&writ, "+20000d", || {});
    assert_eq!((records("tokens"), records("single_use"), writ.keys()), before);
    let fresh = voucher.bring(&writ, &voucher.vouch("3")).issued();
    assert!(fresh.iat().abs_diff(now()) <= 5);
    assert_eq!(writ.workload("batch").token(&Form::redeem(&original.token, PURGE)).issued().use_number(), Some(1));
}

/// A-129, R-KEYS-08: a key that is deleted cannot be restored.
#[test]
fn a_clock_that_is_wrong_for_a_moment_costs_no_key() {
    let Some(library) = library() else { return };
    let batch = format!(
        "[[purpose]]\nscope = \"{PURGE}\"\naccept = [\"expired_txn_token\"]\nlifetime = \"1s\"\n[purpose.redemption]\nissued_to = [\"accounts\"]\nmax_age = \"5m\"\n"
    );
    let setup = Setup::new().short_keys(3).set("keys.retention", "10m").client("accounts", ACCOUNTS);
    let writ = with_clock(setup.client("batch", &batch), &library);
    let original = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    let state = || writ.key_state(original.kid()).unwrap();
    eventually("its key is history", || (state() == "historical").then_some(()));
    blip(&writ, "+4d", || {
        writ.expect_event("key_rotated", || {});
    });
    assert_eq!(state(), "historical");
    let fresh = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    assert!(fresh.iat().abs_diff(now()) <= 5, "keys go on by the time that is believed");
    writ.workload("batch").token(&Form::redeem(&original.token, PURGE)).issued();
}

/// A-065, A-129: after a start the service cannot know whether its clock is right. It records the time of what it
/// does, so that the clock cannot go back unnoticed, and what it may have deleted cannot be used again.
#[test]
fn what_a_start_with_a_wrong_clock_deleted_cannot_be_used_again() {
    let Some(library) = library() else { return };
    let mut writ = with_clock(lasting_server(delayed("").client("voucher", VOUCHER)), &library);
    let voucher = Voucher(lasting_client(&writ, "voucher"));
    let word = voucher.vouch("1");
    voucher.bring(&writ, &word).issued();
    assert_eq!(writ.terminate(), 0);
    set_clock(&writ, "+4d");
    writ.start();
    let used = || writ.metric("writ_ledger_records", &[("kind", "single_use")]);
    eventually("it is swept", || (used() == Some(0.0)).then_some(()));
    set_clock(&writ, "+0");
    voucher.bring(&writ, &word).refused(503, "temporarily_unavailable", "clock_behind");
    assert_eq!(failing(&writ), json!(["clock"]));
    writ.run(&["store", "trust-clock"]).exits(0);
    voucher.bring(&writ, &word).invalid_request("subject_token_replayed");
    crate::support::wait_until(now() + 1);
    voucher.bring(&writ, &voucher.vouch("2")).issued();
}
