//! The data folder of the previous version opens unchanged: its keys, records, uses and blocks count on.
//!
//! How the folder was made is in `tests/fixtures/previous_version/README.md`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "support/delayed.rs"]
mod delayed;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use delayed::PURGE;
use support::jose;
use support::workload::Form;
use support::writ::Writ;

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/previous_version").join(file)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy_folder(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}

/// A service on a copy of the folder, with the settings that it was made with.
fn started() -> Writ {
    let setup = delayed::setup("1s", "15000d", 2).short_keys(3600).set("keys.retention", "20000d");
    setup.write("certs/sealing.key", &fs::read_to_string(fixture("test-only-sealing-key.txt")).unwrap());
    copy_folder(&fixture("data"), &setup.path("data"));
    setup.start()
}

#[test]
fn a_data_folder_of_the_previous_version_opens_and_goes_on() {
    let tokens: Value = serde_json::from_str(&fs::read_to_string(fixture("tokens.json")).unwrap()).unwrap();
    let token = |name: &str| tokens[name].as_str().unwrap().to_owned();
    let [unused, used_once, used_up] = ["unused", "used_once", "used_up"].map(token);
    let mut writ = started();
    for token in [&unused, &used_once, &used_up] {
        let (header, _) = jose::decode(token);
        assert_eq!(writ.key_state(header["kid"].as_str().unwrap()).as_deref(), Some("historical"));
    }
    writ.run(&["keys", "verify"]).exits(0);
    writ.run(&["block", "list"]).exits(0).says("stopped");
    let redeem = |writ: &Writ, token: &str| writ.workload("batch").token(&Form::redeem(token, PURGE));
    redeem(&writ, &used_up).invalid_request("redemption_exhausted");
    assert_eq!(redeem(&writ, &unused).issued().use_number(), Some(1));
    let last = redeem(&writ, &used_once).issued();
    assert_eq!(last.use_number(), Some(2));
    last.wait_until_expired();
    redeem(&writ, &used_once).invalid_request("redemption_exhausted");
    // What was added is in one folder with what was there.
    writ.restart();
    redeem(&writ, &used_up).invalid_request("redemption_exhausted");
    redeem(&writ, &used_once).invalid_request("redemption_exhausted");
    assert_eq!(redeem(&writ, &unused).issued().use_number(), Some(2));
}
