//! What the store survives, and what it refuses to open: kill -9, flipped bytes, cut files, a full disk.
//!
//! Some tests start this executable again as a process of its own, to be killed or limited; the `child_…` tests are those
//! processes. Places and instants are drawn at random: the seed is printed, and taken from `WRIT_TEST_SEED` if set.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use writ_store::repair::{reseal, survey};
use writ_store::{OpenError, Settings, Store, StoreError, testing};

#[path = "support/random.rs"]
#[expect(dead_code, reason = "it serves several test crates")]
mod random;

use random::Random;

/// Tells a child which folder is its store.
const FOLDER: &str = "WRIT_TEST_STORE";

type Records = BTreeMap<Vec<u8>, Vec<u8>>;
/// What is done to a store, or an entry of it, with the help of another path.
type Harm = fn(&Path, &Path);

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let mut random = Random::seeded("kill -9");
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut acknowledged = Records::new();
    let mut acknowledgements = 0;
    for _ in 0..30 {
        let mut child = start("child_that_writes_until_it_is_killed", settings.path(), "");
        let mut output = child.stdout.take().unwrap();
        thread::sleep(Duration::from_millis(30 + random.below(150)));
        child.kill().unwrap();
        child.wait().unwrap();
        for (key, value) in acknowledged_in(&mut output) {
            acknowledged.insert(key, value);
            acknowledgements += 1;
        }
        let store = Store::open(&settings).await.unwrap();
        let found = everything(&store).await;
        for (key, value) in &acknowledged {
            assert!(found.get(key).is_some_and(|found| found >= value), "{key:?} lost {value:?}");
        }
        store.close().await;
    }
    println!("{acknowledgements} acknowledged changes in 30 killed processes, none lost");
    assert!(acknowledgements > 0);
}

/// Counts up eight records from what it finds, for as long as it lives; tells each step that was acknowledged.
#[test]
#[ignore = "runs only as a child"]
fn child_that_writes_until_it_is_killed() {
    let Some(settings) = child_settings() else { return };
    run(async {
        let store = Store::open(&settings).await.unwrap();
        let counters = (0..8_u8).map(|counter| tokio::spawn(count_up(store.clone(), counter)));
        for counter in counters.collect::<Vec<_>>() {
            counter.await.unwrap();
        }
    });
}

async fn count_up(store: Store, counter: u8) {
    loop {
        let name = named("uses", &[counter]);
        let seen = testing::read(&store, &name).await.unwrap();
        let last = seen.as_deref().map_or(0, |seen| u64::from_be_bytes(seen.try_into().unwrap()));
        let next = last + 1;
        let records: [(&[u8], Option<&[u8]>); 3] = [
            (&name, Some(&next.to_be_bytes())),
            (&named("tokens", &next.to_be_bytes()), Some(&[counter; 200])),
            (&named("tokens", &next.saturating_sub(500).to_be_bytes()), None),
        ];
        testing::write(&store, &records).await.unwrap();
        // One write of one line: it arrives whole, or not at all.
        let _ = std::io::stdout().write_all(format!("acknowledged {counter} {next}\n").as_bytes());
    }
}

fn acknowledged_in(output: &mut ChildStdout) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let steps = whole.lines().filter_map(|line| line.strip_prefix("acknowledged ")?.split_once(' '));
    steps
        .map(|(counter, step)| {
            (named("uses", &[counter.parse::<u8>().unwrap()]), step.parse::<u64>().unwrap().to_be_bytes().to_vec())
        })
        .collect()
}

#[tokio::test]
async fn damaged_file_does_not_open_with_less_than_there_was() {
    let mut random = Random::seeded("damage");
    let folder = tempfile::tempdir().unwrap();
    let young = settings(folder.path());
    let records = prepare(&young).await;
    // Opened again, sled has a snapshot, and finds some damage by itself; without, it takes what it can read for all.
    let old = Settings::Sled { path: folder.path().join("opened again") };
    copy_folder(young.path(), old.path());
    let store = Store::open(&old).await.unwrap();
    store.keep().await.unwrap();
    store.close().await;
    let cases = [("db", &young, 150), ("db", &old, 100), ("seal", &old, 30), ("conf", &old, 20), ("snap", &old, 20)];
    for (file, whole, places) in cases {
        let mut refused = 0;
        for place in 0..places {
            let copy = tempfile::tempdir().unwrap();
            let settings = settings(copy.path());
            copy_folder(whole.path(), settings.path());
            let damage = harm(&file_named(settings.path(), file), place, &mut random);
            let harmed = files(settings.path());
            match Store::open(&settings).await {
                Err(OpenError::Damaged { what, .. }) => {
                    assert!(!what.is_empty());
                    assert!(files(settings.path()) == harmed, "{damage}: what is refused stays as it is");
                    refused += 1;
                }
                Err(error) => panic!("{damage}: {error}"),
                Ok(store) => {
                    assert!(everything(&store).await == records, "{damage}");
                    store.close().await;
                }
            }
        }
        let age = whole.path().file_name().unwrap().display();
        println!("{file} ({age}): {places} damages, {refused} refused, {} harmless", places - refused);
    }
}

/// Every second damage is a flipped bit, every other a lost tail.
fn harm(file: &Path, place: u64, random: &mut Random) -> String {
    let opened = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let at = random.below(opened.metadata().unwrap().len());
    if place.is_multiple_of(2) {
        let mut byte = [0];
        opened.read_exact_at(&mut byte, at).unwrap();
        opened.write_all_at(&[byte[0] ^ (1 << random.below(8))], at).unwrap();
        format!("{} with a flipped bit at {at}", file.display())
    } else {
        opened.set_len(at).unwrap();
        format!("{} cut off at {at}", file.display())
    }
}

/// What starts, stops and full disks have left behind that means nothing.
#[tokio::test]
async fn leftovers_are_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let whole = settings(folder.path());
    let records = prepare(&whole).await;
    let leftovers: [(&str, &[u8]); 7] = [
        ("snap.00FFFFFFFFFFFFFF.generating", b""),
        ("snap.00FFFFFFFFFFFFFF.generating", b"half of a snapshot"),
        ("snap.FFFFFFFFFFFFFFFF.in___motion", b""),
        (".opening/db", b"half of a copy"),
        (".seal.draft", b"half of a seal"),
        ("keys/.k.json.draft", b"half of a key file"),
        (".probe", &[0; 4096]),
    ];
    for (name, content) in leftovers {
        let copy = tempfile::tempdir().unwrap();
        let settings = settings(copy.path());
        copy_folder(whole.path(), settings.path());
        let leftover = settings.path().join(name);
        fs::create_dir_all(leftover.parent().unwrap()).unwrap();
        fs::write(&leftover, content).unwrap();
        let store = Store::open(&settings).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(everything(&store).await == records, "{name}");
        store.keep().await.unwrap();
        assert!(!leftover.exists(), "{name} is removed");
        store.close().await;
        assert!(everything(&Store::open(&settings).await.unwrap()).await == records, "{name}");
    }
}

/// Its files would take the place of the store's.
#[tokio::test]
async fn finished_copy_that_is_not_of_this_store_is_refused_and_nothing_changed() {
    let folder = tempfile::tempdir().unwrap();
    let [own, other] = ["own", "other"].map(|name| Settings::Sled { path: folder.path().join(name) });
    for settings in [&own, &other] {
        let store = Store::open(settings).await.unwrap();
        put(&store, "meta", b"of", settings.path().to_str().unwrap().as_bytes()).await.unwrap();
        store.close().await;
    }
    let cases: [(&str, Harm); 9] = [
        (".opened", |path, other| std::os::unix::fs::symlink(other, path.join(".opened")).unwrap()),
        (".opened", |path, _| std::os::unix::fs::symlink("nowhere", path.join(".opened")).unwrap()),
        (".opening", |path, other| std::os::unix::fs::symlink(other, path.join(".opening")).unwrap()),
        (".opened", |path, _| fs::write(path.join(".opened"), b"").unwrap()),
        (".opening", |path, _| fs::write(path.join(".opening"), b"").unwrap()),
        (".opened", |path, other| copy_files(other, path, &["db", "conf", "seal"])),
        (".opened", |path, other| copy_files(other, path, &["db", "conf"])),
        (".opened", |path, other| {
            copy_files(other, path, &["db", "conf"]);
            fs::write(path.join(".opened/tally"), b"WRITCOPY and no tally").unwrap();
        }),
        (".opened/keys", |path, other| {
            copy_files(other, path, &["db"]);
            fs::create_dir(path.join(".opened/keys")).unwrap();
        }),
    ];
    for (number, (entry, harm)) in cases.into_iter().enumerate() {
        let copy = tempfile::tempdir().unwrap();
        let settings = settings(copy.path());
        copy_folder(own.path(), settings.path());
        harm(settings.path(), other.path());
        refused_as_foreign(&settings, entry, number).await;
    }
}

fn copy_files(from: &Path, store: &Path, names: &[&str]) {
    fs::create_dir(store.join(".opened")).unwrap();
    for name in names {
        fs::copy(from.join(name), store.join(".opened").join(name)).unwrap();
    }
}

/// To open a pipe takes for ever, and a link leads out of the store.
#[tokio::test]
async fn what_bears_the_name_of_a_file_and_is_none_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let whole = settings(folder.path());
    prepare(&whole).await;
    let put: [Harm; 4] = [
        |entry, _| mknodat(CWD, entry, FileType::Fifo, Mode::RWXU, 0).unwrap(),
        |entry, hidden| std::os::unix::fs::symlink(hidden, entry).unwrap(),
        |entry, _| drop(std::os::unix::net::UnixListener::bind(entry).unwrap()),
        |entry, _| fs::create_dir(entry).unwrap(),
    ];
    let names = ["db", "conf", "seal", "lock", "snap.00FFFFFFFFFFFFFF", "snap.00FFFFFFFFFFFFFF.generating", "blobs"];
    for name in names {
        for (number, put) in put.into_iter().enumerate().filter(|(number, _)| name != "blobs" || *number < 3) {
            let copy = tempfile::tempdir().unwrap();
            let settings = settings(copy.path());
            copy_folder(whole.path(), settings.path());
            let (entry, hidden) = (settings.path().join(name), copy.path().join("hidden"));
            if entry.exists() {
                fs::rename(&entry, &hidden).unwrap();
            }
            put(&entry, &hidden);
            refused_as_foreign(&settings, name, number).await;
        }
    }
}

/// By whatever opens the store, in words that name the entry; nothing is changed.
async fn refused_as_foreign(settings: &Settings, entry: &str, number: usize) {
    let before = files(settings.path());
    let outcomes = [Store::open(settings).await.map(drop), survey(settings).map(drop), reseal(settings).map(drop)];
    for refused in outcomes.map(|outcome| outcome.expect_err(&format!("{entry} {number}"))) {
        assert!(
            matches!(&refused, OpenError::Foreign { path, .. } if *path == settings.path().join(entry)),
            "{refused}"
        );
        assert!(refused.to_string().contains("nothing was changed"), "{refused}");
    }
    assert!(files(settings.path()) == before, "{entry} {number}: what is refused stays as it is");
}

#[tokio::test]
async fn older_records_under_a_newer_seal_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    prepare(&settings).await;
    let backup = folder.path().join("backup");
    copy_folder(settings.path(), &backup);
    let store = Store::open(&settings).await.unwrap();
    for use_ in 0..3_u8 {
        put(&store, "uses", &[255, use_], b"spent").await.unwrap();
    }
    store.close().await;
    fs::copy(settings.path().join("seal"), backup.join("seal")).unwrap();
    let before = files(&backup);
    let refused = Store::open(&Settings::Sled { path: backup.clone() }).await.unwrap_err();
    assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
    assert!(files(&backup) == before, "what is refused stays as it is");
}

#[tokio::test]
async fn second_process_is_told_who_holds_the_store_and_the_first_is_unharmed() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let mut holder = start("child_that_holds_the_store", settings.path(), "");
    let mut told = BufReader::new(holder.stdout.take().unwrap()).lines();
    while !told.next().unwrap().unwrap().starts_with("open") {}
    let refused = Store::open(&settings).await.unwrap_err();
    assert!(matches!(refused, OpenError::Locked { pid: Some(pid), .. } if pid == holder.id()), "{refused}");
    // Told to go on, it writes once more.
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    let store = Store::open(&settings).await.unwrap();
    assert_eq!(testing::read(&store, b"meta/after").await.unwrap(), Some(b"unharmed".to_vec()));
}

#[test]
#[ignore = "runs only as a child"]
fn child_that_holds_the_store() {
    let Some(settings) = child_settings() else { return };
    run(async {
        let store = Store::open(&settings).await.unwrap();
        println!("open");
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        put(&store, "meta", b"after", b"unharmed").await.unwrap();
        store.close().await;
    });
}

#[tokio::test]
async fn full_disk_is_unavailable_and_recovers_without_restart() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    // A limit on the length of files stands for a disk with no space left; its signal is to be an error, as that is.
    let child = start("child_with_a_full_disk", settings.path(), "trap '' XFSZ;").wait_with_output().unwrap();
    println!("{}", String::from_utf8_lossy(&child.stdout));
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    Store::open(&settings).await.unwrap().close().await;
}

#[test]
#[ignore = "runs only as a child"]
fn child_with_a_full_disk() {
    let Some(settings) = child_settings() else { return };
    run(async {
        let store = Store::open(&settings).await.unwrap();
        let mut acknowledged = fill(&store, 0, 20).await.0;
        for round in 1..=3 {
            let taken = fs::metadata(settings.path().join("db")).unwrap().len();
            limit_files(Some(taken + round * 10_000));
            let (more, refusal) = fill(&store, round * 10_000, 10_000).await;
            println!("{} changes fitted, then: {}", more.len(), refusal.expect("the disk is full"));
            acknowledged.extend(more);
            limit_files(None);
            while put(&store, "meta", b"probe", &[1]).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            for (key, value) in &acknowledged {
                assert_eq!(testing::read(&store, key).await.unwrap().as_ref(), Some(value));
            }
        }
        store.close().await;
    });
}

/// Writes records until there are enough or one is refused; returns those that were acknowledged.
async fn fill(store: &Store, first: u64, count: u64) -> (Records, Option<StoreError>) {
    let mut written = Records::new();
    for number in first..first + count {
        let (key, value) = (number.to_be_bytes(), vec![3; 300]);
        let name = named("tokens", &key);
        if let Err(error) = put(store, "tokens", &key, &value).await {
            if let Ok(found) = testing::read(store, &name).await {
                assert_eq!(found, None, "what failed is not seen");
            }
            return (written, Some(error));
        }
        written.insert(name, value);
    }
    (written, None)
}

fn limit_files(len: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: len.or(maximum), maximum }).unwrap();
}

/// A store with a history: several thousand records, half of them changed or removed since.
async fn prepare(settings: &Settings) -> Records {
    let store = Store::open(settings).await.unwrap();
    for round in 0..3_u8 {
        for group in 0..40_u8 {
            let value = vec![round; 100];
            let names: Vec<_> = (0..40_u8).map(|number| (number, named("uses", &[group, number]))).collect();
            let change = names.iter().filter_map(|(number, name)| match (number + round) % 3 {
                0 if round > 0 => Some((name.as_slice(), None)),
                1 | 2 if round > 0 && *number > 20 => None,
                _ => Some((name.as_slice(), Some(value.as_slice()))),
            });
            testing::write(&store, &change.collect::<Vec<_>>()).await.unwrap();
        }
    }
    let records = everything(&store).await;
    assert!(records.len() > 500);
    store.close().await;
    records
}

async fn everything(store: &Store) -> Records {
    testing::dump(store).await.unwrap()
}

async fn put(store: &Store, table: &str, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    testing::write(store, &[(&named(table, key), Some(value))]).await
}

/// The full name of a record.
fn named(table: &str, key: &[u8]) -> Vec<u8> {
    [table.as_bytes(), b"/", key].concat()
}

fn settings(folder: &Path) -> Settings {
    Settings::Sled { path: folder.join("store") }
}

fn file_named(folder: &Path, start: &str) -> PathBuf {
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|file| file.file_name().unwrap().to_str().unwrap().starts_with(start)).unwrap()
}

/// Every file below a folder but the lock, which names its last holder, and its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with("lock") {
            // A pipe, or a link to nowhere, has none.
            let content = if path.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            found.insert(path, content);
        }
    }
    found
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() { copy_folder(&entry, &target) } else { fs::copy(&entry, &target).map(drop).unwrap() }
    }
}

/// Starts this executable for one of the `child_…` tests, by a shell that first does `setting`.
fn start(test: &str, folder: &Path, setting: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{setting} exec \"$0\" --exact {test} --ignored --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, folder)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn child_settings() -> Option<Settings> {
    Some(Settings::Sled { path: std::env::var_os(FOLDER)?.into() })
}

fn run(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work);
}
