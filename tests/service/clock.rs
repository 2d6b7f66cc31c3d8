//! A clock that goes wrong. It is set by libfaketime, which `tests/tools.sh` fetches into `target/tools`.

use std::path::PathBuf;

use crate::scene::{PURGE, READER, delayed};
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

/// The library, or `None` where it could not be fetched: then these tests are left out, and say so.
fn library() -> Option<PathBuf> {
    let lib = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/faketime/usr/lib");
    let found = std::fs::read_dir(lib).ok().and_then(|folders| {
        folders.flatten().map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
    });
    if found.is_none() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "left out: libfaketime is missing");
        println!("left out: libfaketime is missing (tests/tools.sh)");
    }
    found
}

/// A service whose clock is so many seconds off, until told otherwise.
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

/// R-DELAY-11, A-129: behind its records the service issues nothing until an operator has looked.
#[test]
fn a_clock_behind_the_last_event_stops_tokens_until_it_is_trusted() {
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
    behind.refused(503, "temporarily_unavailable", "clock_behind");
    accounts.token(&Form::client_credentials(PURGE)).refused(503, "temporarily_unavailable", "clock_behind");
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
fn by_a_clock_that_went_back_no_token_is_active() {
    let Some(library) = library() else { return };
    let writ = with_clock(delayed("").client("reader", READER), &library);
    let original = writ.workload("accounts").token(&Form::client_credentials(PURGE)).issued();
    original.wait_until_expired();
    let reader = writ.workload("reader");
    reader.introspect(&original.token).inactive();
    set_clock(&writ, "-60");
    reader.introspect(&original.token).refused(503, "temporarily_unavailable", "clock_behind");
}

/// a clock that jumped ahead drops nothing that will be needed.
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
