//! The store: one process, damage is seen, repair says what is lost (CONTRACT 3.5, 6, 8,
//!

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::scene::{self, ACCOUNTS, batch, delayed, delayed_briefly, expired, fresh, redeem};
use crate::support::answer::Answer;
use crate::support::eventually;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

fn try_redeem(writ: &Writ, original: &crate::support::answer::Issued) -> Answer {
    writ.workload("batch").token(&redeem(original))
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The file that the embedded store keeps its records in.
fn database(writ: &Writ) -> PathBuf {
    let all = files(&writ.setup.path("data"));
    all.into_iter().find(|path| path.file_name().is_some_and(|name| name == "db")).expect("a database file")
}

/// A-124, R-POL-11
#[test]
fn a_second_process_is_refused_and_the_first_goes_on() {
    let writ = scene::mailer();
    let refused = writ.run(&["serve"]).exits(2);
    refused.says(&format!("locked by process {}", writ.pid()));
    writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued();
}

/// without the lock file another process can open the store, so this one counts no use until it has opened it
/// anew.
#[test]
fn without_its_lock_file_nothing_is_counted_until_the_store_has_been_opened_anew() {
    let writ = delayed("").start();
    let original = expired(&writ);
    fs::remove_file(writ.setup.path("data/lock")).unwrap();
    try_redeem(&writ, &original).refused(503, "temporarily_unavailable", "store_unavailable");
    let redeemed = eventually("the lock is held again", || {
        let answer = try_redeem(&writ, &original);
        (answer.status() == 200).then(|| answer.issued())
    });
    assert_eq!(redeemed.use_number(), Some(1));
    writ.run(&["serve"]).exits(2).says(&format!("locked by process {}", writ.pid()));
}

/// whatever the umask.
#[test]
fn only_the_owner_can_read_what_the_service_writes() {
    let writ = delayed("").start();
    let original = expired(&writ);
    try_redeem(&writ, &original).issued();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&writ.setup.path("data")), 0o700);
    for path in files(&writ.setup.path("data")) {
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
}

///
#[test]
fn a_store_that_others_can_enter_stops_the_start() {
    let setup = Setup::new().client("mailer", scene::MAILER);
    let path = setup.path("data");
    fs::create_dir(&path).unwrap();
    for mode in [0o755, 0o777, 0o705] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        setup.run(&["serve"]).exits(2).says("data").says(&format!("{mode:o}"));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    setup.start();
}

///
#[test]
fn the_store_holds_no_token() {
    let mut writ = delayed("").start();
    let original = expired(&writ);
    let redeemed = try_redeem(&writ, &original).issued();
    assert_eq!(writ.terminate(), 0);
    let contains = |bytes: &[u8], needle: &str| bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
    for path in files(&writ.setup.path("data")) {
        let bytes = fs::read(&path).unwrap();
        for token in [&original.token, &redeemed.token] {
            let payload = token.split('.').nth(1).unwrap();
            assert!(!contains(&bytes, &payload[..40]), "{}", path.display());
        }
        assert!(!contains(&bytes, "PRIVATE KEY"), "{}", path.display());
    }
}

/// A stopped service that issued a token which could be redeemed.
fn stopped() -> (Writ, crate::support::answer::Issued) {
    let mut writ = delayed_briefly("").start();
    let original = fresh(&writ);
    assert_eq!(writ.terminate(), 0);
    original.wait_until_expired();
    (writ, original)
}

#[track_caller]
fn damaged(writ: &Writ) {
    writ.run(&["serve"]).exits(2).says("writ store repair");
}

/// an empty ledger would make every token redeemable again.
#[test]
fn a_flipped_byte_stops_the_start() {
    let (writ, _) = stopped();
    let path = database(&writ);
    let mut bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[used / 2] ^= 0x40;
    fs::write(&path, bytes).unwrap();
    damaged(&writ);
}

///
#[test]
fn a_truncated_store_stops_the_start() {
    let (writ, _) = stopped();
    let path = database(&writ);
    let bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    fs::write(&path, &bytes[..used / 2]).unwrap();
    damaged(&writ);
}

///
#[test]
fn a_store_whose_beginning_is_lost_stops_the_start() {
    let (writ, _) = stopped();
    let path = database(&writ);
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len().min(4096);
    bytes[..end].fill(0);
    fs::write(&path, bytes).unwrap();
    damaged(&writ);
}

///
#[test]
fn a_missing_database_stops_the_start() {
    let (writ, _) = stopped();
    fs::remove_file(database(&writ)).unwrap();
    damaged(&writ);
}

/// CONTRACT 6: a repair restores the key history and refuses tokens that only the lost ledger knew.
#[test]
fn a_repaired_store_has_its_key_history_and_no_old_records() {
    let (mut writ, original) = stopped();
    fs::remove_file(database(&writ)).unwrap();
    damaged(&writ);
    writ.run(&["store", "repair"]).exits(0).says("ledger");
    writ.start();
    // the key is known, the record is not
    try_redeem(&writ, &original).invalid_request("redemption_not_on_record");
    let later = expired(&writ);
    assert_eq!(try_redeem(&writ, &later).issued().use_number(), Some(1));
}

/// CONTRACT 6: `require_record = false` included.
#[test]
fn after_a_repair_old_tokens_are_refused_even_without_records() {
    let mut writ = Setup::new().client("accounts", ACCOUNTS).client("batch", &batch("require_record = false")).start();
    let original = fresh(&writ);
    assert_eq!(writ.terminate(), 0);
    original.wait_until_expired();
    fs::remove_file(database(&writ)).unwrap();
    writ.run(&["store", "repair"]).exits(0);
    writ.start();
    try_redeem(&writ, &original).invalid_request("redemption_not_on_record");
}

/// CONTRACT 6: free retries too.
#[test]
fn after_a_repair_free_retries_are_refused() {
    let mut writ = delayed("").start();
    let original = expired(&writ);
    try_redeem(&writ, &original).issued();
    assert_eq!(writ.terminate(), 0);
    fs::remove_file(database(&writ)).unwrap();
    writ.run(&["store", "repair"]).exits(0);
    writ.start();
    try_redeem(&writ, &original).invalid_request("redemption_not_on_record");
}

/// Puts a record past the seal into a table of a stopped service.
fn harm(writ: &Writ, table: u8) {
    sled::open(writ.setup.path("data")).unwrap().insert([table, 0], b"?").unwrap();
}

/// CONTRACT 6: what the seal proves to be complete is kept, and goes on as if nothing had happened.
#[test]
fn a_repair_keeps_counts_records_blocks_and_keys_that_are_complete() {
    let tokens = 4;
    let mut writ = delayed_briefly("max_uses = 2").start();
    let originals = [fresh(&writ), fresh(&writ)];
    originals.iter().for_each(crate::support::answer::Issued::wait_until_expired);
    let first = try_redeem(&writ, &originals[0]).issued();
    writ.run(&["block", "add", "--sub", "ann"]).exits(0);
    let keys = writ.keys();
    assert_eq!(writ.terminate(), 0);
    harm(&writ, tokens);
    damaged(&writ);
    let told = writ.run(&["store", "repair"]).exits(0);
    let told =
        told.says("of tokens 3 records were found and 2 sealed").says("the key ring and its history are unchanged");
    let told = told.says("counts of uses: all 1 kept").says("tokens on record for redemption: 2 of 2 kept");
    told.says("blocks: 1 of 1 kept").says("redemption continues as before");
    writ.start();
    assert_eq!(writ.keys(), keys);
    first.wait_until_expired();
    let second = try_redeem(&writ, &originals[0]).issued();
    assert_eq!(second.use_number(), Some(2));
    second.wait_until_expired();
    try_redeem(&writ, &originals[0]).invalid_request("redemption_exhausted");
    assert_eq!(try_redeem(&writ, &originals[1]).issued().use_number(), Some(1));
    writ.run(&["block", "list"]).exits(0).says("ann");
}

/// CONTRACT 6: a count that may be too low grants nothing.
#[test]
fn a_repair_that_may_have_lost_counts_refuses_what_was_issued_before() {
    let uses = 5;
    let (mut writ, original) = stopped();
    harm(&writ, uses);
    let told = writ.run(&["store", "repair"]).exits(0);
    told.says("counts of uses may be lost")
        .says("redemption_not_on_record")
        .says("tokens on record for redemption: 0 of");
    writ.start();
    try_redeem(&writ, &original).invalid_request("redemption_not_on_record");
    let later = expired(&writ);
    assert_eq!(try_redeem(&writ, &later).issued().use_number(), Some(1));
}

/// A half-written snapshot is what an earlier version left at a start on a full disk.
#[test]
fn leftovers_of_a_start_on_a_full_disk_are_no_damage() {
    let (mut writ, original) = stopped();
    fs::write(writ.setup.path("data/snap.00FFFFFFFFFFFFFF.generating"), b"").unwrap();
    for repair in [&["store", "repair"][..], &["store", "repair", "--trust-ledger"]] {
        writ.run(repair).exits(0).says("there is nothing to repair");
    }
    writ.start();
    try_redeem(&writ, &original).issued();
}

/// The operator can vouch for the ledger where the seal is missing, and where only a snapshot is damaged.
#[test]
fn the_ledger_can_be_trusted_without_seal_and_snapshot() {
    let harms: [(&str, Option<&[u8]>); 3] =
        [("seal", None), ("seal", Some(b"garbled")), ("snap.00FFFFFFFFFFFFFF", Some(b"garbled"))];
    for (file, content) in harms {
        let (mut writ, original) = stopped();
        let path = writ.setup.path("data").join(file);
        match content {
            None => fs::remove_file(path).unwrap(),
            Some(content) => fs::write(path, content).unwrap(),
        }
        damaged(&writ);
        writ.run(&["store", "repair", "--trust-ledger"]).exits(0).says("the ledger is accepted as it is");
        writ.start();
        try_redeem(&writ, &original).issued();
    }
}

/// What cannot be read cannot be trusted either; the other repair keeps what it can.
#[test]
fn a_ledger_that_cannot_be_read_is_not_trusted() {
    let (writ, _) = stopped();
    fs::remove_file(database(&writ)).unwrap();
    let refused = writ.run(&["store", "repair", "--trust-ledger"]).exits(2);
    refused.says("some of them cannot be read").says("without --trust-ledger");
    writ.run(&["store", "repair"]).exits(0);
}

/// Whatever the reason: a store that is refused stays as it is, byte for byte.
#[test]
fn a_refused_start_changes_nothing() {
    let harms: [fn(&Writ); 3] = [
        |writ| harm(writ, 4),
        |writ| fs::write(writ.setup.path("certs/sealing.key"), crate::support::writ::sealing_key()).unwrap(),
        |writ| fs::rename(writ.setup.path("data/seal"), writ.setup.path("seal")).unwrap(),
    ];
    for harm in harms {
        let (writ, _) = stopped();
        harm(&writ);
        let content = || {
            let all = files(&writ.setup.path("data")).into_iter().filter(|path| !path.ends_with("lock"));
            all.map(|path| (path.clone(), fs::read(path).unwrap())).collect::<std::collections::BTreeMap<_, _>>()
        };
        let before = content();
        writ.run(&["serve"]).exits(2);
        assert!(content() == before);
    }
}

/// Repair is audited, and the log says so at the latest with the next start.
#[test]
fn a_repair_is_audited() {
    let (mut writ, _) = stopped();
    fs::remove_file(database(&writ)).unwrap();
    let output = writ.run(&["store", "repair"]).exits(0);
    writ.start();
    let text = format!("{}{}{}", output.stdout, output.stderr, writ.log_text());
    assert!(text.contains("store_repaired"), "{text}");
}

/// A-128, R-DELAY-13: an older ledger would open uses again.
#[test]
fn a_rolled_back_store_stops_the_start_until_an_operator_trusts_it() {
    let mut writ = delayed_briefly("").start();
    let originals: Vec<_> = (0..4).map(|_| fresh(&writ)).collect();
    originals.iter().for_each(crate::support::answer::Issued::wait_until_expired);
    assert_eq!(writ.terminate(), 0);
    let path = database(&writ);
    let backup = fs::read(&path).unwrap();
    writ.start();
    for original in &originals {
        try_redeem(&writ, original).issued();
    }
    assert_eq!(writ.terminate(), 0);
    fs::write(&path, backup).unwrap();
    damaged(&writ);
    writ.run(&["store", "repair", "--trust-ledger"]).exits(0);
    writ.start();
    try_redeem(&writ, &originals[0]).issued();
}

/// a store of another installation.
#[test]
fn a_foreign_store_stops_the_start() {
    let (writ, _) = stopped();
    let other =
        Setup::new().client("mailer", scene::MAILER).set("store.path", writ.setup.path("data").to_str().unwrap());
    other.run(&["serve"]).exits(2);
    let before = fs::read(database(&writ)).unwrap();
    let mut writ = writ;
    assert_eq!(fs::read(database(&writ)).unwrap(), before);
    writ.start();
}

/// what was acknowledged is durable.
#[test]
fn a_killed_server_starts_again() {
    let mut writ = delayed("").start();
    for _ in 0..3 {
        let original = fresh(&writ);
        writ.kill();
        writ.start();
        original.wait_until_expired();
        try_redeem(&writ, &original).issued();
    }
}

/// R-RESP-08, R-DELAY-13: what needs the store is refused for a while, all else goes on, and it recovers
/// without a restart.
#[test]
fn a_full_disk_stops_what_must_be_recorded_and_nothing_else() {
    let mut writ = delayed("").client("mailer", scene::MAILER).start();
    let original = expired(&writ);
    assert_eq!(writ.terminate(), 0);
    writ.start();
    let deliver = || writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver"));
    let start = || writ.workload("accounts").token(&Form::client_credentials(scene::PURGE));
    writ.fill_disk(true);
    try_redeem(&writ, &original).refused(503, "temporarily_unavailable", "store_unavailable");
    let refused = start().refused(503, "temporarily_unavailable", "store_unavailable");
    assert!(refused.answer.get("access_token").is_none());
    deliver().issued();
    let failing = eventually("readiness tells", || {
        let ready = writ.site().ops("/readyz");
        (ready.status == 503).then(|| ready.json())
    });
    assert_eq!((&failing["status"], &failing["failing"]), (&json!("unavailable"), &json!(["store"])));
    assert_eq!(writ.site().ops("/livez").status, 200);
    writ.fill_disk(false);
    let redeemed = eventually("the store is back", || {
        let answer = try_redeem(&writ, &original);
        (answer.status() == 200).then(|| answer.issued())
    });
    assert_eq!(redeemed.use_number(), Some(1));
    eventually("the service is ready again", || (writ.site().ops("/readyz").status == 200).then_some(()));
    start().issued();
    let text = writ.metrics();
    assert!(text.lines().any(|line| line.starts_with("writ_store_errors_total{")), "{text}");
}

/// CONTRACT 8
#[test]
fn the_clock_can_be_trusted_while_the_service_runs_and_while_it_does_not() {
    let mut writ = scene::mailer();
    writ.expect_event("clock_trusted", || drop(writ.run(&["store", "trust-clock"]).exits(0)));
    assert_eq!(writ.terminate(), 0);
    writ.run(&["store", "trust-clock"]).exits(0);
}

/// R-POL-11
#[test]
fn the_keys_of_one_trust_domain_sign_for_no_other() {
    let mut writ = scene::mailer();
    assert_eq!(writ.terminate(), 0);
    writ.setup.change("trust_domain", "other.example");
    writ.run(&["serve"]).exits(2).says("the store belongs to the trust domain");
}
