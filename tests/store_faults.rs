//! Every system call on the store's folder is cut off or failed once: kill -9, a power cut, a broken and a full disk
//! (A-121, A-123). Afterwards everything acknowledged is there, or the start is refused and all of it is still on disk.
//!
//! `faults.c` is preloaded into a process that uses the store; it counts the calls and hits one of them. Calls are drawn
//! at random where there are too many; the seed is printed, and taken from `WRIT_TEST_SEED` if set. With
//! `WRIT_TEST_EXHAUSTIVE=1` every call is hit.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(dead_code, reason = "the harness serves several test crates")]

#[path = "support/delayed.rs"]
mod delayed;
#[path = "support/faults.rs"]
mod faults;
#[path = "support/random.rs"]
mod random;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};
use writ::service::admin::{self, Reply};
use writ_store::{Settings, Store, testing};

use delayed::{PURGE, token_of};
use faults::shim;
use random::Random;
use support::workload::Form;
use support::writ::Writ;
use support::{eventually, jose, now, wait_until};

/// Tells a child which folder is its store.
const FOLDER: &str = "WRIT_TEST_STORE";
/// How many records a store has from before.
const BEFORE: u32 = 60;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    Torn,
    Eio,
    Full,
    Short,
}

impl Fault {
    const ALL: [Self; 5] = [Self::Kill, Self::Torn, Self::Eio, Self::Full, Self::Short];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Torn => "torn",
            Self::Eio => "eio",
            Self::Full => "full",
            Self::Short => "short",
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A folder whose syncs cost nothing, if there is one.
fn scratch() -> TempDir {
    let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

/// One run of a process on a folder, with a fault.
struct Run {
    scratch: TempDir,
    /// From which nothing is missing if the run did not begin.
    before: Files,
}

/// Names and content of sled's files and the seal.
type Files = BTreeMap<String, Vec<u8>>;

impl Run {
    fn new(template: Option<&Path>) -> Self {
        let scratch = scratch();
        let run = Self { before: Files::new(), scratch };
        match template {
            Some(template) => copy_folder(template, &run.store()),
            None => make_private(&run.store()),
        }
        make_private(&run.image());
        let mut image = Image::default();
        image.add(&run.store());
        image.write(&run.image());
        Self { before: files(&run.store()), scratch: run.scratch }
    }

    fn store(&self) -> PathBuf {
        self.scratch.path().join("store")
    }

    fn image(&self) -> PathBuf {
        self.scratch.path().join("image")
    }

    /// As long as this file exists, the disk is full.
    fn full(&self) -> PathBuf {
        self.scratch.path().join("full")
    }

    fn fill(&self, is_full: bool) {
        if is_full { fs::write(self.full(), b"").unwrap() } else { fs::remove_file(self.full()).unwrap() }
    }

    /// As long as this file exists, the disk hangs when the store is opened.
    fn hang(&self) -> PathBuf {
        self.scratch.path().join("hang")
    }

    /// Adds what the preloaded object is told.
    fn arm(&self, command: &mut Command, fault: Fault, at: usize) {
        command
            .env("LD_PRELOAD", shim())
            .env("WRIT_FAULT_FOLDER", self.store())
            .env("WRIT_FAULT_KIND", fault.name())
            .env("WRIT_FAULT_AT", at.to_string())
            .env("WRIT_FAULT_FULL", self.full())
            .env("WRIT_FAULT_HANG", self.hang())
            .env("WRIT_FAULT_COUNT", self.scratch.path().join("calls"));
        if matches!(fault, Fault::Kill | Fault::Torn) {
            command.env("WRIT_FAULT_IMAGE", self.image());
        }
    }

    /// The call of that number: what it is and on which file.
    fn call(&self, at: usize) -> Option<String> {
        let calls = fs::read_to_string(self.scratch.path().join("calls")).unwrap_or_default();
        let call = calls.lines().find_map(|line| line.strip_prefix(&format!("{at} ")))?;
        // Names that differ from run to run.
        let (call, file) = call.split_once(' ')?;
        let file = file.trim_end_matches(" (deleted)");
        let digits = |part: &str| if part.starts_with("snap.") { "snap".to_owned() } else { part.to_owned() };
        Some(format!("{call} {}", file.split('/').map(digits).collect::<Vec<_>>().join("/")))
    }

    /// How many calls there were.
    fn calls(&self) -> usize {
        fs::read_to_string(self.scratch.path().join("calls")).unwrap_or_default().lines().count()
    }

    /// The folders that a power cut at the end of the run may leave: names and data each as they were last synced, or as
    /// they are, or of each page of the data the one or the other.
    fn after_power_cuts(&self, seed: usize) -> Vec<PathBuf> {
        let synced = Image::read(&self.image());
        let mut current = Image::default();
        current.add(&self.store());
        let root = fs::metadata(self.store()).unwrap().ino();
        let folders = synced.names.keys().chain(current.names.keys()).copied().collect();
        let choices = [(&synced, &synced), (&current, &synced), (&synced, &current)];
        let mixed = synced.mixed_with(&current, seed);
        let choices = choices.into_iter().chain([(&current, &mixed)]);
        let restore = |(number, (names, data)): (usize, (&Image, &Image))| {
            let folder = self.scratch.path().join(format!("cut-{number}"));
            Image { names: names.names.clone(), data: data.data.clone() }.restore(&synced, &folders, root, &folder);
            folder
        };
        choices.enumerate().map(restore).collect()
    }
}

/// Files and folders by their inode.
#[derive(Default)]
struct Image {
    names: BTreeMap<u64, Vec<(String, u64)>>,
    data: BTreeMap<u64, Vec<u8>>,
}

impl Image {
    fn add(&mut self, folder: &Path) {
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            entries.push((entry.file_name().into_string().unwrap(), entry.ino()));
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => self.add(&entry.path()),
                kind if kind.is_file() => drop(self.data.insert(entry.ino(), fs::read(entry.path()).unwrap())),
                _ => {}
            }
        }
        self.names.insert(fs::metadata(folder).unwrap().ino(), entries);
    }

    fn write(&self, to: &Path) {
        for (inode, entries) in &self.names {
            let lines: Vec<_> = entries.iter().map(|(name, inode)| format!("{name} {inode}\n")).collect();
            fs::write(to.join(format!("names.{inode}")), lines.concat()).unwrap();
        }
        for (inode, data) in &self.data {
            fs::write(to.join(format!("data.{inode}")), data).unwrap();
        }
    }

    fn read(from: &Path) -> Self {
        let mut image = Self::default();
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let Some((kind, inode)) = name.split_once('.') else { continue };
            let (inode, bytes) = (inode.parse().unwrap(), fs::read(&path).unwrap());
            if kind == "data" {
                image.data.insert(inode, bytes);
            } else {
                let text = String::from_utf8(bytes).unwrap();
                let entry =
                    |line: &str| line.rsplit_once(' ').map(|(name, inode)| (name.to_owned(), inode.parse().unwrap()));
                image.names.insert(inode, text.lines().filter_map(entry).collect());
            }
        }
        image
    }

    /// Of each page the one or the other, drawn at random.
    fn mixed_with(&self, current: &Self, seed: usize) -> Self {
        let mut random = Random(seed as u64 * 0x9e37_79b9 + 1);
        let mut mixed = Self { names: current.names.clone(), data: BTreeMap::new() };
        for (inode, data) in &current.data {
            let mut data = data.clone();
            let synced = self.data.get(inode).map_or(&[][..], Vec::as_slice);
            for (number, page) in data.chunks_mut(4096).enumerate() {
                if random.below(2) == 0 {
                    let old = synced.get(number * 4096..).unwrap_or_default();
                    let len = old.len().min(page.len());
                    page[..len].copy_from_slice(&old[..len]);
                    page[len..].fill(0);
                }
            }
            mixed.data.insert(*inode, data);
        }
        mixed
    }

    /// What is not known from here is as it was last synced; a file that never was is empty.
    fn restore(&self, synced: &Self, folders: &BTreeSet<u64>, inode: u64, to: &Path) {
        make_private(to);
        for (name, inode) in self.names.get(&inode).into_iter().flatten() {
            let to = to.join(name);
            if folders.contains(inode) {
                self.restore(synced, folders, *inode, &to);
            } else if name != "admin.sock" {
                let bytes = self.data.get(inode).or_else(|| synced.data.get(inode)).cloned().unwrap_or_default();
                fs::write(&to, bytes).unwrap();
                fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
    }
}

fn make_private(folder: &Path) {
    fs::create_dir(folder).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    make_private(to);
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_folder(&source, &target);
        } else if kind.is_file() {
            fs::copy(&source, &target).unwrap();
        }
    }
}

/// What a refused start must not change.
fn files(store: &Path) -> Files {
    let mut found = Files::new();
    for entry in fs::read_dir(store).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if ["db", "conf", "seal"].contains(&name.as_str()) || name.starts_with("snap.") {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

/// Which calls of a process are hit: all, or some that are drawn.
fn drawn(calls: usize, most: usize, random: &mut Random) -> Vec<usize> {
    // A few more than were counted: sled's own threads make the number differ from run to run.
    let calls = calls + calls / 20;
    if is_exhaustive() || calls <= most {
        return (1..=calls).collect();
    }
    let mut drawn = BTreeSet::new();
    while drawn.len() < most {
        drawn.insert(1 + usize::try_from(random.below(calls as u64)).unwrap());
    }
    drawn.into_iter().collect()
}

fn is_exhaustive() -> bool {
    std::env::var_os("WRIT_TEST_EXHAUSTIVE").is_some_and(|value| value != "0" && !value.is_empty())
}

/// Does `work` for each case, on as many threads as there are processors.
fn for_each<T: Sync>(cases: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(case);
                }
            });
        }
    });
}

/// How often each kind of fault had each outcome.
#[derive(Default)]
struct Tally(Mutex<BTreeMap<(Fault, &'static str), usize>>);

impl Tally {
    fn count(&self, fault: Fault, outcome: &'static str) {
        *self.0.lock().unwrap().entry((fault, outcome)).or_default() += 1;
    }

    fn print(&self, what: &str) {
        for ((fault, outcome), count) in self.0.lock().unwrap().iter() {
            println!("{what}: {:5}: {outcome}: {count}", fault.name());
        }
    }
}

/// A store with records, opened twice, so that sled has a snapshot.
async fn prepared() -> TempDir {
    let folder = scratch();
    let settings = Settings::Sled { path: folder.path().join("store") };
    let store = Store::open(&settings).await.unwrap();
    let before = records_before();
    let before: Vec<_> = before.iter().map(|(name, value)| (name.as_slice(), Some(value.as_slice()))).collect();
    testing::write(&store, &before).await.unwrap();
    store.close().await;
    let store = Store::open(&settings).await.unwrap();
    testing::write(&store, &[(b"uses/before", Some(b"1"))]).await.unwrap();
    store.close().await;
    folder
}

fn records_before() -> Records {
    (0..BEFORE).map(|number| ([b"tokens/".as_slice(), &number.to_be_bytes()].concat(), vec![1; 300])).collect()
}

#[test]
fn no_call_on_a_new_store_can_be_cut_off_or_fail_so_that_something_is_lost() {
    hit_calls(&runtime(), "first open", None, 40);
}

#[test]
fn no_call_on_a_store_can_be_cut_off_or_fail_so_that_something_is_lost() {
    let runtime = runtime();
    let template = runtime.block_on(prepared());
    hit_calls(&runtime, "open, write, close", Some(&template.path().join("store")), 60);
}

/// Hits the calls of [`child_that_uses_a_store`].
fn hit_calls(runtime: &Runtime, what: &str, template: Option<&Path>, most: usize) {
    let mut random = Random::seeded(what);
    let clean = Run::new(template);
    let output = use_store(&clean, Fault::Eio, 0);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let calls = clean.calls();
    let cases: Vec<_> = Fault::ALL
        .into_iter()
        .flat_map(|fault| drawn(calls, most, &mut random).into_iter().map(move |at| (fault, at)))
        .collect();
    println!("{what}: {calls} calls, {} runs", cases.len());
    let tally = Tally::default();
    for_each(&cases, |&(fault, at)| {
        let run = Run::new(template);
        let output = use_store(&run, fault, at);
        let hit = run.call(at).unwrap_or_else(|| "-".to_owned());
        let case = || {
            let text = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
            format!("{what}: {} at {at} ({hit}): {}\n{text}", fault.name(), output.status)
        };
        tally.count(fault, judge(&run, at, &output, template.is_some(), &case, runtime.handle()));
    });
    tally.print(what);
}

fn use_store(run: &Run, fault: Fault, at: usize) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_that_uses_a_store", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER, run.store())
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    run.arm(&mut command, fault, at);
    command.output().unwrap()
}

fn judge(
    run: &Run,
    at: usize,
    output: &Output,
    had_store: bool,
    case: &dyn Fn() -> String,
    runtime: &Handle,
) -> &'static str {
    let text = String::from_utf8_lossy(&output.stdout);
    let acknowledged = acknowledged(&text, had_store);
    let refused = text.lines().any(|line| line.starts_with("refused"));
    if refused && had_store {
        assert!(files(&run.store()) == run.before, "a refused start changed the store\n{}", case());
    }
    let outcome = match output.status.code() {
        _ if refused => "refused, all on disk",
        None if output.status.signal() == Some(9) => "killed, all there; after power cuts too",
        Some(0) if text.contains("unavailable") => "unavailable meanwhile, all there",
        Some(0) => "no effect",
        _ => panic!("{}", case()),
    };
    let check = |folder: &Path| {
        let settings = Settings::Sled { path: folder.to_owned() };
        let found = runtime.block_on(async {
            let store = Store::open(&settings).await.unwrap_or_else(|error| panic!("{error}\n{}", case()));
            let found = testing::dump(&store).await.unwrap();
            // It takes more, too.
            testing::write(&store, &[(b"meta/after", Some(b"1"))]).await.unwrap();
            store.close().await;
            found
        });
        for (key, value) in &acknowledged {
            assert!(found.get(key).is_some_and(|found| found >= value), "{key:?} is lost\n{}", case());
        }
    };
    if output.status.signal() == Some(9) {
        for folder in run.after_power_cuts(at) {
            check(&folder);
        }
    }
    check(&run.store());
    outcome
}

fn acknowledged(text: &str, had_store: bool) -> Records {
    let mut records = Records::new();
    if had_store {
        records.extend(records_before());
        records.insert(b"uses/before".to_vec(), b"1".to_vec());
    }
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for step in whole.lines().filter_map(|line| line.split_once("acknowledged ")) {
        records.insert(b"uses/step".to_vec(), step.1.as_bytes().to_vec());
    }
    records
}

/// Opens its store, counts a record up a few times, and closes it; tells what was acknowledged.
#[test]
#[ignore = "runs only as a child"]
fn child_that_uses_a_store() {
    let Some(path) = std::env::var_os(FOLDER) else { return };
    let tell = |line: String| {
        let _ = std::io::stdout().write_all(format!("\n{line}\n").as_bytes());
    };
    let work = async {
        let store = match Store::open(&Settings::Sled { path: path.into() }).await {
            Ok(store) => store,
            Err(error) => return tell(format!("refused: {error}")),
        };
        for step in 1..=4_u8 {
            let (step_text, token) = (step.to_string(), [step; 2000]);
            let records: [(&[u8], Option<&[u8]>); 2] = [
                (b"uses/step", Some(step_text.as_bytes())),
                (&[b"tokens/".as_slice(), &[9, step]].concat(), Some(&token)),
            ];
            match testing::write(&store, &records).await {
                Ok(()) => tell(format!("acknowledged {step}")),
                Err(error) => tell(format!("unavailable: {error}")),
            }
        }
        store.close().await;
    };
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work);
}

/// A service with a past: a token that was redeemed, a block, two rotations.
struct Scene {
    writ: Writ,
    original: String,
    template: PathBuf,
    promised: Promised,
}

/// What clients and operators were told.
#[derive(Debug, Clone, Default)]
struct Promised {
    /// SHA-256 of what was signed of each token on record.
    records: Vec<Vec<u8>>,
    /// The claims that each use was granted with.
    uses: BTreeMap<u64, String>,
    blocks: Vec<String>,
    keys: BTreeSet<String>,
}

impl Scene {
    fn new(runtime: &Handle) -> Self {
        let mut writ = delayed::setup("1s", "1d", 1000).short_keys(3600).start();
        let template = writ.setup.path("data");
        let mut promised = Promised::default();
        let original = promised.issue(&writ).expect("a token");
        let (_, claims) = jose::decode(&original);
        wait_until(claims["exp"].as_u64().unwrap());
        assert!(promised.redeem(&writ, &original) && promised.block(runtime, &template, "before"));
        writ.rotate();
        promised.keys = kids(&writ);
        // From now on the next rotation may be asked for at once.
        let rotated = now();
        assert_eq!(writ.terminate(), 0);
        wait_until(rotated + 4);
        Self { writ, original, template, promised }
    }

    /// Starts, uses and stops the service on a copy of its folder while one call is hit; then on what is left without.
    fn run(&mut self, fault: Fault, at: usize, runtime: &Handle) -> &'static str {
        let run = Run::new(Some(&self.template));
        let store = run.store();
        self.writ.setup.change("store.path", store.to_str().unwrap());
        let mut promised = self.promised.clone();
        let mut code = self.writ.try_start(|command| run.arm(command, fault, at)).err();
        let mut is_refusing = false;
        if code.is_none() {
            is_refusing |= promised.issue(&self.writ).is_none();
            is_refusing |= !promised.redeem(&self.writ, &self.original);
            is_refusing |= !promised.block(runtime, &store, "later");
            is_refusing |= !rotate(runtime, &store);
            code = Some(self.writ.terminate());
        }
        let case = format!("{} at {at} ({:?}): {code:?}", fault.name(), run.call(at));
        let outcome = match code {
            Some(-1) => "killed, all there; after power cuts too",
            Some(0) if is_refusing => "refused meanwhile, all there",
            Some(0) => "no effect",
            Some(2) => "not started or ended with 2, all there",
            _ => panic!("{case}"),
        };
        if code == Some(-1) {
            for folder in run.after_power_cuts(at) {
                promised.check(&folder, runtime, &case);
            }
        }
        promised.check(&store, runtime, &case);
        self.writ.try_start(|_| {}).unwrap_or_else(|code| panic!("{case}; then {code}"));
        let mut next = promised.clone();
        assert!(next.redeem(&self.writ, &self.original), "{case}");
        let keys = self.writ.keys();
        let in_state = |state: &str| keys.iter().filter(|key| key["state"] == state).count();
        assert_eq!((in_state("current"), in_state("next")), (1, 1), "{case}: {keys:?}");
        assert!(promised.keys.is_subset(&kids(&self.writ)), "a key is lost: {case}");
        self.writ.kill();
        outcome
    }
}

impl Promised {
    fn issue(&mut self, writ: &Writ) -> Option<String> {
        let answer = writ.workload("accounts").try_token(&Form::client_credentials(PURGE)).ok()?;
        let token = token_of(&answer)?;
        let (signed, _) = token.rsplit_once('.').unwrap();
        self.records.push(digest(&SHA256, signed.as_bytes()).as_ref().to_vec());
        Some(token)
    }

    fn redeem(&mut self, writ: &Writ, original: &str) -> bool {
        let Ok(answer) = writ.workload("batch").try_token(&Form::redeem(original, PURGE)) else { return false };
        let Some(token) = token_of(&answer) else { return false };
        let (_, claims) = jose::decode(&token);
        let number = claims["rctx"]["delayed"]["use"].as_u64().unwrap();
        let granted = self.uses.entry(number).or_insert_with(|| claims.to_string());
        assert_eq!(*granted, claims.to_string(), "use {number} is granted twice");
        true
    }

    fn block(&mut self, runtime: &Handle, store: &Path, sub: &str) -> bool {
        let added = ask(runtime, store, &json!({"command": "block_add", "block": {"sub": sub}, "until": null}));
        if added {
            self.blocks.push(sub.to_owned());
        }
        added
    }

    /// All of it is in the store of that folder.
    fn check(&self, folder: &Path, runtime: &Handle, case: &str) {
        runtime.block_on(async {
            let settings = Settings::Sled { path: folder.to_owned() };
            let store = Store::open(&settings).await.unwrap_or_else(|error| panic!("{error}: {case}"));
            let found = testing::dump(&store).await.unwrap();
            let values = |table: &'static [u8]| {
                let records = found.iter().filter(move |(name, _)| name.starts_with(table));
                records.map(|(_, value)| serde_json::from_slice::<Value>(value).unwrap())
            };
            for record in &self.records {
                let name = [b"tokens/", record.as_slice()].concat();
                assert!(found.contains_key(&name), "a record is lost: {case}");
            }
            let count = values(b"uses/").map(|uses| uses["count"].as_u64().unwrap()).max().unwrap_or(0);
            assert!(self.uses.keys().all(|number| *number <= count), "uses are lost: {case}");
            for sub in &self.blocks {
                assert!(values(b"blocks/").any(|block| block["block"]["sub"] == **sub), "{sub}: {case}");
            }
            store.close().await;
        });
    }
}

fn kids(writ: &Writ) -> BTreeSet<String> {
    writ.keys().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

fn rotate(runtime: &Handle, store: &Path) -> bool {
    ask(runtime, store, &json!({"command": "keys_rotate"}))
}

/// Has the service that runs perform a command; never this process in its place.
fn ask(runtime: &Handle, store: &Path, command: &Value) -> bool {
    let command: admin::Command = serde_json::from_value(command.clone()).unwrap();
    matches!(runtime.block_on(admin::send(store, &command)), Ok(Some(Reply::Done(_))))
}

/// A-113, A-121, A-123: start, record, redemption, block, rotation and stop of the real service.
#[test]
fn no_call_of_the_service_can_be_cut_off_or_fail_so_that_something_is_lost() {
    let mut random = Random::seeded("service");
    let runtime = runtime();
    let scenes: Vec<_> = (0..2).map(|_| Mutex::new(Scene::new(runtime.handle()))).collect();
    // How many calls there are: those of a run in which none is hit are counted too.
    let probe = Run::new(Some(&scenes[0].lock().unwrap().template));
    let calls = {
        let scene = &mut *scenes[0].lock().unwrap();
        scene.writ.setup.change("store.path", probe.store().to_str().unwrap());
        scene.writ.try_start(|command| probe.arm(command, Fault::Eio, 0)).unwrap();
        let mut promised = scene.promised.clone();
        assert!(promised.issue(&scene.writ).is_some() && promised.redeem(&scene.writ, &scene.original));
        assert!(promised.block(runtime.handle(), &probe.store(), "later"));
        assert!(rotate(runtime.handle(), &probe.store()));
        assert_eq!(scene.writ.terminate(), 0);
        probe.calls()
    };
    let cases: Vec<_> = Fault::ALL
        .into_iter()
        .flat_map(|fault| drawn(calls, 5, &mut random).into_iter().map(move |at| (fault, at)))
        .collect();
    println!("service: {calls} calls, {} runs", cases.len());
    let (tally, next) = (Tally::default(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for scene in &scenes {
            scope.spawn(|| {
                let scene = &mut *scene.lock().unwrap();
                while let Some(&(fault, at)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = scene.run(fault, at, runtime.handle());
                    tally.count(fault, outcome);
                }
            });
        }
    });
    tally.print("service");
}

/// CONTRACT 6: a repair replaces the store as a whole or not at all; one that was cut off is done again.
#[test]
fn no_call_of_a_repair_can_be_cut_off_or_fail_so_that_something_is_lost() {
    let mut random = Random::seeded("repair");
    let runtime = runtime();
    let mut scene = Scene::new(runtime.handle());
    let promised = scene.promised.clone();
    let damaged = scratch();
    let template = damaged.path().join("store");
    copy_folder(&scene.template, &template);
    let tokens = 4;
    sled::open(&template).unwrap().insert([tokens, 0], b"?").unwrap();
    let mut repair = |run: &Run, folder: &Path, fault: Option<(Fault, usize)>| {
        scene.writ.setup.change("store.path", folder.to_str().unwrap());
        let mut command = scene.writ.setup.command(&["store", "repair"]);
        if let Some((fault, at)) = fault {
            run.arm(&mut command, fault, at);
        }
        support::cli::run(command)
    };
    let clean = Run::new(Some(&template));
    repair(&clean, &clean.store(), Some((Fault::Eio, 0))).exits(0).says("redemption continues as before");
    let calls = clean.calls();
    let cases: Vec<_> = Fault::ALL
        .into_iter()
        .flat_map(|fault| drawn(calls, 3, &mut random).into_iter().map(move |at| (fault, at)))
        .collect();
    println!("repair: {calls} calls, {} runs", cases.len());
    let tally = Tally::default();
    for (fault, at) in cases {
        let run = Run::new(Some(&template));
        let output = repair(&run, &run.store(), Some((fault, at)));
        let case = format!("repair: {} at {at} ({:?}): {output:#?}", fault.name(), run.call(at));
        let outcome = match output.code {
            -1 => "killed, all there; after power cuts too",
            0 => "done, all there",
            2 => "refused, all there",
            _ => panic!("{case}"),
        };
        tally.count(fault, outcome);
        let cuts = if output.code == -1 { run.after_power_cuts(at) } else { Vec::new() };
        for folder in cuts.into_iter().chain([run.store()]) {
            let again = repair(&run, &folder, None);
            assert_eq!(again.code, 0, "{again:#?}\n{case}");
            promised.check(&folder, runtime.handle(), &case);
        }
    }
    tally.print("repair");
}

/// A full disk at the start, in a rotation and at the stop; each time the service goes on once there is space.
#[test]
fn a_full_disk_costs_nothing_that_was_promised() {
    let runtime = runtime();
    let mut scene = Scene::new(runtime.handle());
    let run = Run::new(Some(&scene.template));
    let store = run.store();
    let mut promised = scene.promised.clone();
    scene.writ.setup.change("store.path", store.to_str().unwrap());

    run.fill(true);
    let mut serve = scene.writ.setup.command(&["serve"]);
    run.arm(&mut serve, Fault::Eio, 0);
    support::cli::run(serve).exits(2).says("the disk is full").says("nothing was changed");
    assert!(files(&store) == run.before);
    run.fill(false);
    scene.writ.try_start(|command| run.arm(command, Fault::Eio, 0)).unwrap();

    run.fill(true);
    assert!(!rotate(runtime.handle(), &store), "a rotation needs the disk");
    // What fits into the space that the database has already is still recorded.
    let _ = (promised.issue(&scene.writ), promised.redeem(&scene.writ, &scene.original));
    run.fill(false);
    eventually("the disk takes data again", || rotate(runtime.handle(), &store).then_some(()));
    assert!(promised.issue(&scene.writ).is_some() && promised.redeem(&scene.writ, &scene.original));
    promised.keys.extend(kids(&scene.writ));

    run.fill(true);
    assert_eq!(scene.writ.terminate(), 0);
    let stopped = files(&store);
    assert_eq!(scene.writ.try_start(|command| run.arm(command, Fault::Eio, 0)), Err(2));
    assert!(files(&store) == stopped);
    run.fill(false);
    promised.check(&store, runtime.handle(), "after a full disk");
    scene.writ.try_start(|command| run.arm(command, Fault::Eio, 0)).unwrap();
    assert!(promised.redeem(&scene.writ, &scene.original));
    assert!(promised.keys.is_subset(&kids(&scene.writ)));
}

/// kill -9 at a random instant of a start, again and again on the same folder; each is followed by a whole start.
#[test]
fn starts_that_are_cut_short_lose_nothing() {
    let mut random = Random::seeded("starts");
    let runtime = runtime();
    let mut scene = Scene::new(runtime.handle());
    let started = Instant::now();
    scene.writ.start();
    let longest = started.elapsed();
    scene.writ.kill();
    let rounds = if is_exhaustive() { 200 } else { 25 };
    let mut promised = scene.promised.clone();
    for round in 0..rounds {
        let mut child =
            scene.writ.setup.command(&["serve"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(random.duration_below(longest));
        child.kill().unwrap();
        child.wait().unwrap();
        promised.check(&scene.template, runtime.handle(), &format!("start {round}"));
        scene.writ.start();
        assert!(promised.redeem(&scene.writ, &scene.original) && promised.issue(&scene.writ).is_some());
        assert!(promised.keys.is_subset(&kids(&scene.writ)));
        scene.writ.kill();
    }
    println!("killed {rounds} times while starting, within {longest:?}; nothing lost");
}

/// A stopped service with a large ledger, a token that was issued and can be redeemed twice, and its folder.
fn with_a_large_ledger(runtime: &Runtime) -> (Writ, String, Run) {
    let mailer = "[[purpose]]\nscope = \"mailbox.deliver\"\naccept = [\"client_credentials\"]\n";
    let mut writ = delayed::setup("1s", "1d", 2).client("mailer", mailer).start();
    let original = Promised::default().issue(&writ).expect("a token");
    let (_, claims) = jose::decode(&original);
    wait_until(claims["exp"].as_u64().unwrap());
    assert_eq!(writ.terminate(), 0);
    let run = Run::new(Some(&writ.setup.path("data")));
    writ.setup.change("store.path", run.store().to_str().unwrap());
    runtime.block_on(async {
        let store = Store::open(&Settings::Sled { path: run.store() }).await.unwrap();
        let value = format!(r#"{{"txn":"t","keep_until":{}}}"#, now() + 1_000_000);
        for hundred in 0..120_u8 {
            let names: Vec<_> = (0..100_u8).map(|number| [&b"tokens/"[..], &[hundred, number]].concat()).collect();
            let records: Vec<_> = names.iter().map(|name| (name.as_slice(), Some(value.as_bytes()))).collect();
            testing::write(&store, &records).await.unwrap();
        }
        store.close().await;
    });
    fs::write(run.hang(), b"").unwrap();
    (writ, original, run)
}

/// What needs no ledger is granted, and everything else is refused, as long as the ledger is not proven.
fn grants_only_what_needs_no_ledger(writ: &Writ, original: &str) {
    writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued();
    let redemption = writ.workload("batch").token(&Form::redeem(original, PURGE));
    let recorded = writ.workload("accounts").token(&Form::client_credentials(PURGE));
    for answer in [redemption, recorded] {
        assert!(answer.response.header("retry-after").is_some());
        answer.refused(503, "temporarily_unavailable", "store_unavailable");
    }
    let ready = writ.site().ops("/readyz");
    assert_eq!((ready.status, ready.json()), (200, json!({"status": "ok", "pending": ["ledger"]})));
    assert_eq!(writ.metric("writ_ledger_ready", &[]), Some(0.0));
}

/// A disk that hangs while a large store is opened, after a clean stop and after kill -9.
#[test]
fn while_a_large_ledger_is_opened_only_what_needs_it_is_refused() {
    let runtime = runtime();
    let (mut writ, original, run) = with_a_large_ledger(&runtime);
    for use_number in 1..=2 {
        writ.try_start(|command| run.arm(command, Fault::Eio, 0)).unwrap();
        grants_only_what_needs_no_ledger(&writ, &original);
        assert_eq!(writ.terminate(), 0, "although the disk hangs");
        writ.try_start(|command| run.arm(command, Fault::Eio, 0)).unwrap();
        grants_only_what_needs_no_ledger(&writ, &original);
        fs::remove_file(run.hang()).unwrap();
        eventually("the ledger is proven", || {
            (writ.site().ops("/readyz").json() == json!({"status": "ok"})).then_some(())
        });
        assert_eq!(writ.metric("writ_ledger_ready", &[]), Some(1.0));
        let redeemed = writ.workload("batch").token(&Form::redeem(&original, PURGE)).issued();
        assert_eq!(redeemed.use_number(), Some(use_number));
        redeemed.wait_until_expired();
        writ.kill();
        fs::write(run.hang(), b"").unwrap();
    }
    fs::remove_file(run.hang()).unwrap();
    writ.start();
    let spent = || writ.workload("batch").token(&Form::redeem(&original, PURGE));
    eventually("the ledger is proven", || (spent().status() != 503).then_some(()));
    spent().invalid_request("redemption_exhausted");
}

/// A-122: keys and blocks are proven by their copies, but the ledger is not what it was.
#[test]
fn damage_that_is_found_after_the_start_ends_the_service_and_changes_nothing() {
    let runtime = runtime();
    let (mut writ, original, run) = with_a_large_ledger(&runtime);
    let database = run.store().join("db");
    let bytes = fs::read(&database).unwrap();
    fs::write(&database, &bytes[..bytes.len() / 2]).unwrap();
    let before = files(&run.store());
    writ.try_start(|command| run.arm(command, Fault::Eio, 0)).unwrap();
    grants_only_what_needs_no_ledger(&writ, &original);
    fs::remove_file(run.hang()).unwrap();
    assert_eq!(writ.wait_for_exit(), 2);
    assert!(files(&run.store()) == before);
    writ.run(&["serve"]).exits(2).says("writ store repair");
}
