//! `writ store copy`: the store moves between the engines, and what counts survives it: unused tokens, used ones, blocks,
//! keys. It is killed on the way, and the two stores are never both served.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "support/postgres.rs"]
mod database;
#[path = "support/faults.rs"]
mod faults;
#[path = "support/random.rs"]
mod random;
mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use database::Postgres;
use futures_util::future::try_join_all;
use random::Random;
use rustix::process::Signal;
use serde_json::Value;
use support::answer::{Answer, Issued};
use support::cli::Output;
use support::eventually;
use support::workload::Form;
use support::writ::{Setup, Writ};
use writ_platform::clock::Timestamp;
use writ_store::ledger::{Entry, RecordOutcome, Redeemable, Redemption, SingleUse};
use writ_store::{LedgerStore, Settings, Store, StoreError};

const PURGE: &str = "account.purge";
const REPORT: &str = "account.report";

/// A client that starts jobs, and one that finishes them: the tokens of one kind of job expire at once, those of the other
/// in two minutes.
fn setup() -> Setup {
    let begin =
        |scope| format!("[[purpose]]\nscope = \"{scope}\"\naccept = [\"client_credentials\"]\nlifetime = \"1s\"\n");
    let finish = |scope, lifetime| {
        format!(
            "[[purpose]]\nscope = \"{scope}\"\naccept = [\"expired_txn_token\"]\nlifetime = \"{lifetime}\"\n\
             [purpose.redemption]\nissued_to = [\"accounts\"]\nmax_age = \"1d\"\nmax_uses = 1\n"
        )
    };
    Setup::new()
        .set("tokens.jwks_max_age", "1s")
        .client("accounts", &format!("{}{}", begin(PURGE), begin(REPORT)))
        .client("batch", &format!("{}{}", finish(PURGE, "2m"), finish(REPORT, "1s")))
        .client("renames", &begin("account.rename"))
}

/// A configuration of the same service with another store.
fn beside(setup: &Setup) -> Setup {
    let other = self::setup();
    other.write("certs/sealing.key", &fs::read_to_string(setup.path("certs/sealing.key")).unwrap());
    other
}

/// The same over a database, whose tables are in a schema of that name.
fn over(servers: &Postgres, setup: &Setup, schema: &str) -> Setup {
    let other = beside(setup)
        .set("store.kind", "postgres")
        .set("store.url", servers.url("writ"))
        .set("store.password_file", servers.password_file("writ").display().to_string())
        .set("store.ca", servers.ca().display().to_string())
        .set("store.schema", schema)
        .set("store.replication", "none");
    let owner = servers.password_file("writ_owner").display().to_string();
    let migrate = || other.run(&["store", "migrate", "--password-file", &owner]);
    eventually("the tables are made", || (migrate().code == 0).then_some(()));
    other
}

fn command(from: &Setup, to: &Setup) -> Command {
    let [source, target] = [from, to].map(|setup| setup.path("writ.toml").display().to_string());
    drop(to.command(&[]));
    from.command(&["store", "copy", "--from", &source, "--to", &target])
}

fn copy(from: &Setup, to: &Setup) -> Output {
    output(command(from, to))
}

fn output(mut command: Command) -> Output {
    let done = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let [stdout, stderr] = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
    Output { code: done.status.code().unwrap_or(-1), stdout, stderr }
}

fn settings(setup: &Setup) -> Settings {
    Settings::Sled { path: setup.path("data") }
}

/// Does something with a store that is not in use.
fn with_store<T>(settings: &Settings, work: impl AsyncFnOnce(&Store) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(settings).await.unwrap();
        let done = work(&store).await;
        store.close().await;
        done
    })
}

fn started(writ: &Writ, scope: &str) -> Issued {
    let issued = writ.workload("accounts").token(&Form::client_credentials(scope)).issued();
    issued.wait_until_expired();
    issued
}

fn redeem(writ: &Writ, original: &Issued, scope: &str) -> Answer {
    writ.workload("batch").token(&Form::redeem(&original.token, scope))
}

fn once(id: u8) -> Entry<'static> {
    let now = Timestamp::now();
    Entry { token: None, single_use: Some(SingleUse { id: [id; 32], made: now, keep_until: now + DAY }) }
}

const DAY: Duration = Duration::from_secs(86_400);

/// What was there before a move, and must be afterwards.
struct Scene {
    unused: Issued,
    used: Issued,
    /// The answer to the use of `used`, which can be repeated for two minutes.
    answer: Issued,
    exhausted: Issued,
    keys: Vec<Value>,
}

impl Scene {
    fn of(writ: &mut Writ) -> Self {
        let [unused, used, exhausted] = [PURGE, PURGE, REPORT].map(|scope| started(writ, scope));
        let answer = redeem(writ, &used, PURGE).issued();
        redeem(writ, &exhausted, REPORT).issued().wait_until_expired();
        writ.rotate();
        writ.run(&["block", "add", "--client", "renames"]).exits(0);
        let keys = writ.keys();
        assert_eq!(writ.terminate(), 0);
        let recorded =
            with_store(&settings(&writ.setup), async |store| store.ledger().record(once(7), Timestamp::now()).await);
        assert_eq!(recorded.unwrap(), RecordOutcome::Recorded);
        Self { unused, used, answer, exhausted, keys }
    }

    fn holds_on(&self, writ: &Writ) {
        assert_eq!(writ.keys(), self.keys);
        assert_eq!(redeem(writ, &self.used, PURGE).issued().claims, self.answer.claims, "a repetition is free");
        assert_eq!(redeem(writ, &self.exhausted, REPORT).reason(), "redemption_exhausted");
        let blocked = writ.workload("renames").token(&Form::client_credentials("account.rename"));
        assert_eq!(blocked.reason(), "blocked");
        writ.run(&["keys", "verify"]).exits(0);
    }
}

#[test]
fn a_store_moves_to_postgresql_and_back_with_everything_that_counts() {
    let Some(servers) = Postgres::single() else { return };
    let setup = self::setup();
    let (there, back) = (over(&servers, &setup, "writ"), beside(&setup));
    let mut writ = setup.start();
    let scene = Scene::of(&mut writ);
    let told = copy(&writ.setup, &there).exits(0);
    told.says("3 tokens on record, 2 counts of uses, 1 used single-use tokens").says("1 blocks").says("store_moved");
    let moved = "by `writ store copy`: serve that one";
    for arguments in [&["serve"][..], &["keys", "list"], &["block", "add", "--all"], &["store", "repair"]] {
        writ.run(arguments).exits(2).says("was moved to the schema writ of postgresql://writ@").says(moved);
    }
    copy(&writ.setup, &there).exits(0).says("were moved to").says("before; nothing was changed");

    let mut there = there.start();
    scene.holds_on(&there);
    let redeemed = redeem(&there, &scene.unused, PURGE).issued();
    let later = started(&there, PURGE);
    copy(&there.setup, &back).exits(2).says("is in use by process");
    copy(&over(&servers, &writ.setup, "writ"), &back).exits(2).says("is in use by instances with a lease");
    assert_eq!(there.terminate(), 0);
    copy(&there.setup, &back).exits(0).says("4 tokens on record, 3 counts of uses, 1 used single-use tokens");
    there.run(&["serve"]).exits(2).says("its records were moved to the store").says(moved);
    // Not even the owner's command lets the service write there again.
    let owner = servers.password_file("writ_owner").display().to_string();
    there.run(&["store", "migrate", "--password-file", &owner]).exits(0);
    assert_eq!(servers.sql("SELECT has_table_privilege('writ', 'writ.redemptions', 'INSERT')"), "f");

    let mut back = back.start();
    scene.holds_on(&back);
    assert_eq!(redeem(&back, &scene.unused, PURGE).issued().claims, redeemed.claims);
    assert_eq!(redeem(&back, &later, PURGE).issued().use_number(), Some(1));
    assert_eq!(back.terminate(), 0);
    let replayed = with_store(&settings(&back.setup), async |store| {
        let ledger = store.ledger();
        (ledger.record(once(7), Timestamp::now()).await, ledger.record(once(8), Timestamp::now()).await)
    });
    assert_eq!((replayed.0.unwrap(), replayed.1.unwrap()), (RecordOutcome::Replayed, RecordOutcome::Recorded));
    // The same database can have it again, in other tables, and the instance's folder knows the old ones.
    there.setup.change("store.schema", "again");
    there.run(&["store", "migrate", "--password-file", &owner]).exits(0);
    copy(&back.setup, &there.setup).exits(0);
    there.start();
    scene.holds_on(&there);
}

#[test]
fn what_is_in_use_or_holds_something_else_is_neither_copied_nor_overwritten() {
    let Some(servers) = Postgres::single() else { return };
    let setup = self::setup();
    let (empty, database) = (beside(&setup), over(&servers, &setup, "writ"));
    copy(&setup, &empty).exits(2).says("holds no key ring, so there is nothing to copy");
    let mut writ = setup.start();
    copy(&writ.setup, &empty).exits(2).says("is in use by process").says("stop it and run the command again");
    assert_eq!(writ.terminate(), 0);
    copy(&writ.setup, &writ.setup).exits(2).says("in both configurations");

    let mut other = database.start();
    assert_eq!(other.terminate(), 0);
    copy(&writ.setup, &other.setup).exits(2).says("is not empty: it holds a key ring").says("nothing was changed");
    let mut full = beside(&writ.setup).start();
    copy(&writ.setup, &full.setup).exits(2).says("is in use by process");
    assert_eq!(full.terminate(), 0);
    copy(&writ.setup, &full.setup).exits(2).says("is not empty: it holds records");

    let wrong = self::setup();
    copy(&writ.setup, &wrong).exits(2).says("sealing.key");
    let foreign = beside(&writ.setup).set("trust_domain", "other.example");
    copy(&writ.setup, &foreign).exits(2).says("the trust domain is trust-domain.example in");
    // Nothing of all this has changed the source, or a target.
    copy(&writ.setup, &empty).exits(0);
    full.start();
    other.start();
}

/// Fills the ledger of a stopped service.
fn fill(setup: &Setup, records: u64) {
    with_store(&settings(setup), async |store| {
        let (ledger, now) = (store.ledger(), Timestamp::now());
        for first in (0..records).step_by(256) {
            let several = (first..records.min(first + 256)).map(|number| record(&ledger, number, now));
            try_join_all(several).await.unwrap();
        }
    });
}

/// Of ten records six are tokens, three counts of uses and one is a used identifier.
async fn record(ledger: &LedgerStore, number: u64, now: Timestamp) -> Result<(), StoreError> {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let txn = format!("{:08x}-0000-7000-8000-{number:012x}", now.epoch());
    match number % 10 {
        0..6 => {
            let token = Redeemable { signed_part: id, txn: &txn, iat: now, keep_until: now + DAY };
            ledger.record(Entry { token: Some(token), single_use: None }, now).await.map(|_| ())
        }
        6..9 => {
            let redemption = Redemption {
                txn: &txn,
                purpose: PURGE,
                client: "batch",
                presented: id,
                original_iat: now,
                began: None,
                exp: now + DAY,
                max_uses: 1,
                require_record: false,
            };
            ledger.spend(redemption, now).await.map(|_| ())
        }
        _ => {
            let single_use = SingleUse { id, made: now, keep_until: now + DAY };
            ledger.record(Entry { token: None, single_use: Some(single_use) }, now).await.map(|_| ())
        }
    }
}

fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Starts a copy, and kills it once it has noted to have received something, and not all.
fn interrupted(from: &Setup, to: &Setup, received: impl Fn() -> Option<u64>) -> u64 {
    let child = spawn(command(from, to));
    let received = eventually("something is received", || received().filter(|records| *records > 0));
    kill(child);
    received
}

/// The identifier of a copy, and how many records of it were received, as its mark has them.
fn progress(mark: &str) -> Option<(String, u64)> {
    let mark: Value = serde_json::from_str(mark).ok()?;
    Some((mark["copy"].as_str()?.to_owned(), mark["progress"]["records"].as_u64()?))
}

#[test]
fn an_interrupted_copy_goes_on_where_it_stopped_unless_the_source_has_changed() {
    const RECORDS: u64 = 20_000;
    let Some(servers) = Postgres::single() else { return };
    let setup = self::setup();
    let (there, back) = (over(&servers, &setup, "writ"), beside(&setup));
    let mut writ = setup.start();
    assert_eq!(writ.terminate(), 0);
    fill(&writ.setup, RECORDS);

    let in_database = || progress(&servers.sql("SELECT incoming FROM writ.copy"));
    let identifier = || in_database().unwrap().0;
    let first = interrupted(&writ.setup, &there, || Some(in_database()?.1));
    assert!(first < RECORDS, "killed too late");
    there.run(&["serve"]).exits(2).says("are an unfinished copy of the store").says("run `writ store copy` again");
    let old = identifier();
    // It can be served as before, and then the copy begins anew.
    writ.run(&["block", "add", "--client", "renames"]).exits(0);
    let second =
        interrupted(&writ.setup, &there, || in_database().filter(|(copy, _)| *copy != old).map(|(_, records)| records));
    let anew = identifier();
    copy(&writ.setup, &there).exits(0).says("12000 tokens on record, 6000 counts of uses").says("1 blocks");
    assert_eq!(identifier(), anew, "it went on");
    println!("killed at {first} and {second} of {RECORDS} records");
    there.run(&["block", "list"]).exits(0).says("renames");

    let note = back.path("data/copy.json");
    let in_file = || {
        let note: Value = serde_json::from_slice(&fs::read(&note).ok()?).ok()?;
        progress(&note["incoming"].to_string()).map(|(_, records)| records)
    };
    let received = interrupted(&there, &back, in_file);
    assert!(received < RECORDS, "killed too late");
    back.run(&["serve"]).exits(2).says("is an unfinished copy of the schema writ").says("run `writ store copy` again");
    // The database keeps the session of a killed client for a moment.
    eventually("the copy goes on", || {
        let told = copy(&there, &back);
        if told.code == 0 {
            return Some(());
        }
        told.says("is in use by another session");
        None
    });
    back.run(&["block", "list"]).exits(0).says("renames");
    let mut back = back.start();
    assert_eq!(back.terminate(), 0);
}

/// Whether the store opens.
fn opens(setup: &Setup) -> bool {
    setup.run(&["block", "list"]).code == 0
}

fn copy_folder(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn killed_at_any_moment_at_most_one_of_the_two_stores_opens_and_the_next_run_finishes_it() {
    let mut random = Random::seeded("copies");
    let mut writ = setup().start();
    let unused = started(&writ, PURGE);
    assert_eq!(writ.terminate(), 0);
    fill(&writ.setup, 3_000);
    let whole = writ.setup.path("whole");
    copy_folder(&writ.setup.path("data"), &whole);
    let began = Instant::now();
    let mut target = beside(&writ.setup);
    copy(&writ.setup, &target).exits(0);
    let takes = began.elapsed();
    let mut found = [0; 3];
    let moved = writ.setup.path("data/moved.json");
    for round in 0..30 {
        fs::remove_dir_all(writ.setup.path("data")).unwrap();
        copy_folder(&whole, &writ.setup.path("data"));
        target = beside(&writ.setup);
        let mut child = spawn(command(&writ.setup, &target));
        if round % 2 == 0 {
            std::thread::sleep(random.duration_below(takes * 2));
        } else {
            // In the last steps: from the first mark on.
            while !moved.exists() && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(random.duration_below(Duration::from_millis(20)));
        }
        kill(child);
        // An untouched target opens too: it would be a new store, with other keys.
        let was_begun = target.path("data/copy.json").exists();
        let state = (opens(&writ.setup), was_begun && opens(&target));
        assert_ne!(state, (true, true));
        found[usize::from(!state.0) + usize::from(state.1)] += 1;
        copy(&writ.setup, &target).exits(0);
        assert_eq!((opens(&writ.setup), opens(&target)), (false, true));
    }
    let [before, between, after] = found;
    println!(
        "killed before the move {before} times, between the marks {between}, after it {after}; a copy takes {takes:?}"
    );
    let last = target.start();
    last.run(&["keys", "verify"]).exits(0);
    assert_eq!(redeem(&last, &unused, PURGE).issued().use_number(), Some(1));
}

/// Takes the target of a finished move back to the moment before it took its place.
fn take_back(target: &Setup) {
    let data = target.path("data");
    fs::create_dir(data.join("copying")).unwrap();
    for entry in fs::read_dir(&data).unwrap() {
        let name = entry.unwrap().file_name();
        let text = name.to_str().unwrap();
        if ["db", "conf", "blobs"].contains(&text) || text.starts_with("snap.") {
            fs::rename(data.join(&name), data.join("copying").join(&name)).unwrap();
        }
    }
    fs::remove_file(data.join("seal")).unwrap();
    let mark = fs::read_to_string(data.join("copy.json")).unwrap();
    let earlier = mark.replace(r#""is_receiving":false"#, r#""is_receiving":true"#);
    assert_ne!(mark, earlier);
    fs::write(data.join("copy.json"), earlier).unwrap();
}

/// A source that was marked as moved, and the target that can be served.
fn moved(records: u64) -> (Writ, Setup) {
    let mut writ = setup().start();
    assert_eq!(writ.terminate(), 0);
    fill(&writ.setup, records);
    let target = beside(&writ.setup);
    copy(&writ.setup, &target).exits(0).says("store_moved");
    (writ, target)
}

#[test]
fn whatever_is_left_of_the_unfinished_target_of_a_moved_store_the_next_run_finishes_it() {
    let (writ, target) = moved(300);
    let copying = target.path("data/copying");
    let database = copying.join("db");
    let cut = |share: u64| {
        let file = fs::File::options().write(true).open(&database).unwrap();
        file.set_len(file.metadata().unwrap().len() * share / 4).unwrap();
    };
    let snapshot = copying.join("snap.00FFFFFFFFFFFFFF.generating");
    let harms: [(&str, &dyn Fn()); 8] = [
        ("nothing", &|| {}),
        ("a snapshot that a full disk cut off", &|| fs::write(&snapshot, b"").unwrap()),
        ("no folder", &|| fs::remove_dir_all(&copying).unwrap()),
        ("an empty folder", &|| {
            fs::remove_dir_all(&copying).unwrap();
            fs::create_dir(&copying).unwrap();
        }),
        ("no database", &|| fs::remove_file(&database).unwrap()),
        ("an empty database", &|| cut(0)),
        ("half a database", &|| cut(2)),
        ("a garbled database", &|| fs::write(&database, vec![0xa5; 1 << 20]).unwrap()),
    ];
    for (what, harm) in harms {
        take_back(&target);
        fs::remove_dir_all(target.path("data/keys")).unwrap();
        harm();
        println!("{what}");
        assert_eq!((opens(&writ.setup), opens(&target)), (false, false), "{what}");
        let told = copy(&writ.setup, &target).exits(0).says("store_moved");
        told.says("180 tokens on record, 90 counts of uses, 30 used single-use tokens");
        assert!(opens(&target), "{what}");
        target.run(&["keys", "verify"]).exits(0);
    }
    target.start().run(&["keys", "verify"]).exits(0);
}

#[test]
fn a_target_on_a_full_disk_stays_as_it_was_and_goes_on_once_there_is_space() {
    let (writ, target) = moved(300);
    take_back(&target);
    let database = || fs::read(target.path("data/copying/db")).unwrap();
    let (before, full) = (database(), target.path("full"));
    fs::write(&full, b"").unwrap();
    let mut copy = command(&writ.setup, &target);
    copy.env("LD_PRELOAD", faults::shim()).env("WRIT_FAULT_FOLDER", target.path("data")).env("WRIT_FAULT_FULL", full);
    output(copy).exits(2).says("the disk is full; opening needs 2 MiB of free space");
    assert!(database() == before, "it was opened");
    self::copy(&writ.setup, &target).exits(0);
    assert!(opens(&target));
}

/// A power cut loses files and entries of folders that were not synced.
#[test]
fn the_target_is_on_the_disk_before_the_source_is_marked_as_moved() {
    let mut writ = setup().start();
    assert_eq!(writ.terminate(), 0);
    let path = writ.setup.path("target");
    let target = beside(&writ.setup).set("store.path", path.display().to_string());
    let counted = target.path("calls");
    let mut copy = command(&writ.setup, &target);
    copy.env("LD_PRELOAD", faults::shim()).env("WRIT_FAULT_COUNT", &counted);
    copy.env("WRIT_FAULT_FOLDER", path.parent().unwrap());
    output(copy).exits(0);
    let text = fs::read_to_string(&counted).unwrap();
    let calls: Vec<(&str, &str)> =
        text.lines().map(|line| line.split_once(' ').unwrap().1.split_once(' ').unwrap()).collect();
    let marked = calls.iter().position(|(call, path)| call.starts_with("rename") && path.contains("moved.json"));
    let before = &calls[..marked.unwrap()];
    for synced in ["/target/copying/db", "/target/copying/conf", "/target/copying", "/target"] {
        let last =
            before.iter().rposition(|call| *call == ("fsync", synced)).unwrap_or_else(|| panic!("{synced}: {text}"));
        let later =
            before[last..].iter().find(|(call, path)| call.contains("write") && path.starts_with("/target/copying"));
        assert_eq!(later, None, "{synced}");
    }
}

#[test]
fn a_move_is_complete_only_once_it_is_in_the_audit_log() {
    let (writ, target) = moved(10);
    take_back(&target);
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let mut unlogged = command(&writ.setup, &target);
    assert_eq!(unlogged.stderr(full()).stdout(Stdio::null()).status().unwrap().code(), Some(2));
    assert!(!opens(&target));
    // What was done is done and logged, even if the answer cannot be written.
    let mut unanswered = command(&writ.setup, &target);
    let done = unanswered.stdout(full()).stderr(Stdio::piped()).output().unwrap();
    let logged = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{logged}");
    assert!(logged.contains("store_moved") && logged.contains("writ: standard output:"), "{logged}");
    copy(&writ.setup, &target).exits(0).says("before; nothing was changed");
    for arguments in [&["store", "repair"][..], &["store", "trust-clock"]] {
        let done = target.command(arguments).stdout(full()).output().unwrap();
        let told = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains("writ: standard output:"), "{arguments:?}: {told}");
    }
}

#[test]
fn a_folder_that_no_copy_has_made_is_not_removed() {
    let mut writ = setup().set("store.path", "outer/copying").start();
    assert_eq!(writ.terminate(), 0);
    let at = |path: &Path| beside(&writ.setup).set("store.path", path.display().to_string());
    let outer = writ.setup.path("outer");
    std::os::unix::fs::symlink(&outer, writ.setup.path("link")).unwrap();
    for path in
        [outer, writ.setup.path("link"), writ.setup.path("outer/copying/new"), writ.setup.path("link/x/../copying/y")]
    {
        copy(&writ.setup, &at(&path)).exits(2).says("each store needs a folder of its own");
        assert!(!path.join("lock").exists(), "{} was touched", path.display());
    }
    let target = beside(&writ.setup);
    fs::create_dir_all(target.path("data/copying")).unwrap();
    fs::write(target.path("data/copying/own"), "kept").unwrap();
    assert!(Command::new("chmod").arg("700").arg(target.path("data")).status().unwrap().success());
    copy(&writ.setup, &target).exits(2).says("is not empty: it holds a folder `copying` that no copy has made");
    assert_eq!(fs::read_to_string(target.path("data/copying/own")).unwrap(), "kept");
    writ.start();
}

#[test]
fn a_mark_of_any_length_is_not_read() {
    let (writ, target) = moved(10);
    let mark = target.path("data/copy.json");
    let long = [fs::read(&mark).unwrap(), vec![b' '; 2 << 20]].concat();
    fs::write(&mark, long).unwrap();
    copy(&writ.setup, &target).exits(2).says("copy.json: is longer than 1 MiB");
    target.run(&["block", "list"]).exits(2).says("copy.json: is longer than 1 MiB");
}

#[test]
fn an_instance_that_slept_through_the_move_ends_when_it_wakes() {
    let Some(servers) = Postgres::single() else { return };
    let mut there = over(&servers, &setup(), "writ").start();
    let back = beside(&there.setup);
    there.signal(Signal::STOP);
    // It holds the lock of its own folder.
    let other = over(&servers, &there.setup, "writ");
    eventually("its lease is over", || (copy(&other, &back).code == 0).then_some(()));
    there.signal(Signal::CONT);
    assert_eq!(there.wait_for_exit(), 2);
    assert!(there.log_text().contains("its records were moved to the store"), "{}", there.log_text());
}

/// Runs a copy; how long it took, and the most memory that it had at a time, in KiB.
fn measured(from: &Setup, to: &Setup) -> (Duration, u64) {
    let began = Instant::now();
    let mut child = command(from, to).stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut memory = 0;
    let code = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        memory = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(memory);
        match child.try_wait().unwrap() {
            Some(code) => break code,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
    };
    assert!(code.success());
    (began.elapsed(), memory)
}

#[test]
#[ignore = "takes minutes: run it with --release --ignored"]
fn a_million_records_move_both_ways() {
    const RECORDS: u64 = 1_000_000;
    let Some(servers) = Postgres::single() else { return };
    let setup = self::setup();
    let (there, back) = (over(&servers, &setup, "writ"), beside(&setup));
    let mut writ = setup.start();
    let scene = Scene::of(&mut writ);
    let began = Instant::now();
    fill(&writ.setup, RECORDS);
    println!("filled in {:?}", began.elapsed());
    let (took, memory) = measured(&writ.setup, &there);
    println!("to PostgreSQL: {took:?}, {memory} KiB");
    assert_eq!(servers.sql("SELECT count(*) FROM writ.tokens"), "600003");
    let mut there = there.start();
    assert_eq!(redeem(&there, &scene.exhausted, REPORT).reason(), "redemption_exhausted");
    assert_eq!(there.terminate(), 0);
    let (took, memory) = measured(&there.setup, &back);
    println!("back: {took:?}, {memory} KiB");
    let back = back.start();
    eventually("the ledger is proven", || (back.metric("writ_ledger_ready", &[]) == Some(1.0)).then_some(()));
    assert_eq!(back.keys(), scene.keys);
    assert_eq!(redeem(&back, &scene.exhausted, REPORT).reason(), "redemption_exhausted");
    assert_eq!(redeem(&back, &scene.unused, PURGE).issued().use_number(), Some(1));
}
