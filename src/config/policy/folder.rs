//! The folder of policies: read as a whole, checked as a whole, and checked again for changes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::num::NonZero;
use std::os::unix::ffi::OsStrExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::file::{self, Reading};
use super::reach;
use super::settings::{Compiled, Context, Settings};
use crate::config::problem::{Problem, Severity};
use writ_core::client::Identity;
use writ_core::policy::{ClientPolicy, PolicySet};
use writ_platform::digest::sha256_of_parts;

/// A set of policies with its warnings, or all problems including warnings.
pub type Checked = Result<(PolicySet, Vec<Problem>), Vec<Problem>>;

/// Reads and checks every policy.
///
/// A folder without policies is reported as an error, since every client would be refused; it still makes an empty set,
/// with which a service starts, and policies that are added later take effect.
pub fn load(settings: &Settings) -> Checked {
    Watch::begin(settings.clone()).1
}

const NO_POLICY: &str = "holds no policy, so every client would be refused; write one file for each client, \
    CLIENT_ID.toml, directly in it";

/// A warning for each file or folder beside the policies that is not read but may have been meant to be.
fn overlooked(directory: &Path) -> Vec<Problem> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let unread = |entry: &fs::DirEntry| !(is_policy(&entry.file_name()) && is_plain(entry));
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok().filter(unread)?.path())).collect();
    paths.sort();
    paths.iter().filter_map(|path| Some(warning(path, why_overlooked(path)?))).collect()
}

fn warning(path: &Path, message: &str) -> Problem {
    Problem { severity: Severity::Warning, ..Problem::of_file(path, message) }
}

fn why_overlooked(path: &Path) -> Option<&'static str> {
    let is_policy_name = is_policy(path.file_name()?);
    let name = path.file_name()?.to_string_lossy();
    if name.starts_with('.') || (is_policy_name && path.is_file()) {
        return None;
    }
    if path.is_dir() {
        let holds_policies = || {
            fs::read_dir(path)
                .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_policy(&entry.file_name()))))
        };
        return (name != "tests" && holds_policies())
            .then_some("is a folder: the policies in it are not read; only files directly in the policies folder are");
    }
    if is_policy_name {
        let message = if path.exists() {
            "is not a regular file, as a policy must be"
        } else {
            "is a link to a file that is not there"
        };
        return Some(message);
    }
    let plain = name.trim().to_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| plain.ends_with(ending));
    if ends(&[".yaml", ".yml"]) {
        Some("is not read: policies are TOML files called CLIENT_ID.toml")
    } else if ends(&[".toml", ".toml.txt", ".tml", ".tom"]) {
        Some("is not read: the name of a policy ends in .toml, in lower case and with nothing after it")
    } else {
        None
    }
}

/// Whether a file of that name is a policy.
fn is_policy(name: &OsStr) -> bool {
    !name.as_bytes().starts_with(b".") && name.as_bytes().ends_with(b".toml")
}

/// Whether it is a file itself, and no link to one. Costs nothing, since the folder tells.
fn is_plain(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_file())
}

/// Detects changes of the folder.
#[derive(Debug)]
pub(crate) struct Watch {
    settings: Settings,
    /// The digest of the content that was checked last, valid or not.
    seen: String,
    /// The digest that the last poll found.
    found: String,
    /// Whether the last poll could not read something.
    is_unreadable: bool,
    /// The links in the folder, and the files that policies name, when it was checked last.
    links: Vec<PathBuf>,
    named: Vec<PathBuf>,
}

impl Watch {
    /// Reads and checks every policy, as [`load`] does; changes are those from then on.
    pub(crate) fn begin(settings: Settings) -> (Self, Checked) {
        let nothing = String::new();
        let (links, named) = (Vec::new(), Vec::new());
        let mut watch = Self { settings, seen: nothing.clone(), found: nothing, is_unreadable: false, links, named };
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let folder = Folder::read(&watch.settings.directory, threads);
        let overlooked = overlooked(&watch.settings.directory);
        let checked = match watch.check(&folder, threads) {
            Ok((set, mut warnings)) => {
                let is_empty = set.iter().next().is_none();
                warnings.extend(is_empty.then(|| Problem::of_file(&watch.settings.directory, NO_POLICY)));
                warnings.extend(overlooked);
                Ok((set, warnings))
            }
            Err(mut problems) => {
                problems.extend(overlooked);
                Err(problems)
            }
        };
        (watch, checked)
    }

    /// Checks the content of the folder if it is new: once, and only after two polls in a row have found the same, so that
    /// a file is not read while it is being written.
    pub(crate) fn poll(&mut self) -> Option<Checked> {
        let folder = Folder::read(&self.settings.directory, 1);
        // Other files can only be named now if a policy has changed too.
        let named: Named = self.named.iter().map(|path| (path.clone(), plain_file(path))).collect();
        let digest = folder.digest(&named);
        let settled = digest == self.found;
        self.found.clone_from(&digest);
        self.is_unreadable = folder.is_unreadable(&named);
        // While requests are answered, one processor must do.
        (settled && digest != self.seen).then(|| self.check(&folder, 1))
    }

    /// Whether the last poll has found what the one before it had found.
    pub(crate) fn is_settled(&self) -> bool {
        self.found == self.seen
    }

    /// Whether the last poll could not read something, so that it may be different without a change of the folder.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.is_unreadable
    }

    /// Checks the content of the folder, new or not.
    pub(crate) fn load(&mut self) -> Checked {
        let folder = Folder::read(&self.settings.directory, 1);
        self.check(&folder, 1)
    }

    /// The folder, in which each change counts.
    pub(crate) fn directory(&self) -> &Path {
        &self.settings.directory
    }

    /// The files on which the policies depend, and which may be elsewhere.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.links.iter().chain(&self.named).map(PathBuf::as_path)
    }

    fn check(&mut self, folder: &Folder, threads: usize) -> Checked {
        let named = Mutex::default();
        let checked = folder.check(&self.settings, &named, threads);
        let named = named.into_inner().unwrap_or_else(PoisonError::into_inner);
        let digest = folder.digest(&named);
        self.is_unreadable = folder.is_unreadable(&named);
        self.seen.clone_from(&digest);
        self.found.clone_from(&digest);
        self.links.clone_from(&folder.links);
        self.named = named.into_keys().collect();
        checked.map(|(policies, problems)| (PolicySet::new(policies, digest), problems))
    }
}

/// The bytes of all policies.
struct Folder {
    /// In the order of their names.
    files: Vec<(PathBuf, Content)>,
    /// The policies that are links.
    links: Vec<PathBuf>,
}

/// The files that policies name, wherever they are: keys and schemas.
type Named = BTreeMap<PathBuf, Content>;

/// Policies with their warnings, or all problems including warnings.
type CheckedPolicies = Result<(Vec<ClientPolicy>, Vec<Problem>), Vec<Problem>>;

/// The bytes of a file, or why it cannot be read.
type Content = Result<Vec<u8>, String>;

/// In bytes, far more than a policy needs; a device or a log under that name must not fill the memory.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// The number of files for which another thread is worthwhile.
const MIN_SHARE: usize = 256;

impl Folder {
    fn read(directory: &Path, threads: usize) -> Self {
        policy_files(directory, threads).unwrap_or_else(|cause| Self {
            files: vec![(directory.to_owned(), Err(cause.to_string()))],
            links: Vec::new(),
        })
    }

    fn is_unreadable(&self, named: &Named) -> bool {
        self.files.iter().map(|(_, content)| content).chain(named.values()).any(Result::is_err)
    }

    /// SHA-256 over names and bytes, each with its length before it; base64url.
    fn digest(&self, named: &Named) -> String {
        let files = self.files.iter().map(|(path, content)| (path.file_name().unwrap_or_default(), content));
        let named = named.iter().map(|(path, content)| (path.as_os_str(), content));
        let parts = files.chain(named).flat_map(|(name, content)| {
            let content = match content {
                Ok(bytes) => Cow::Borrowed(bytes.as_slice()),
                // Unlike any content: never the digest of a valid set.
                Err(reason) => Cow::Owned(format!("\0{reason}").into_bytes()),
            };
            [Cow::Borrowed(name.as_bytes()), content]
        });
        URL_SAFE_NO_PAD.encode(sha256_of_parts(parts))
    }

    /// Checks all policies on so many threads; `named` gets the files that they name.
    fn check(&self, settings: &Settings, named: &Mutex<Named>, threads: usize) -> CheckedPolicies {
        let read = |path: &Path| {
            let mut named = named.lock().unwrap_or_else(PoisonError::into_inner);
            named.entry(path.to_owned()).or_insert_with_key(|path| plain_file(path)).clone()
        };
        let readings = self.readings(Context { settings, read: &read, compiled: &Compiled::default() }, threads);
        let valid: Vec<_> = readings.iter().filter_map(|reading| reading.as_ref().ok()).collect();
        let mut problems = same_identities(&valid);
        // Warnings about reach need valid policies.
        if valid.len() == readings.len() && !valid.iter().any(|reading| reading.has_errors()) {
            problems.extend(reach::problems(&valid, settings));
        }
        let mut policies = Vec::new();
        for reading in readings {
            match reading {
                Ok(reading) => {
                    problems.extend(reading.problems);
                    policies.extend(reading.policy);
                }
                Err(problem) => problems.push(problem),
            }
        }
        problems.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        if problems.iter().any(Problem::is_error) { Err(problems) } else { Ok((policies, problems)) }
    }

    fn readings(&self, context: Context<'_>, threads: usize) -> Vec<Result<Reading, Problem>> {
        on_threads(threads, &self.files, |(path, content)| reading(path, content, context))
    }
}

/// The results of `work`, in the order of the items.
fn on_threads<T: Sync, R: Send>(threads: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(threads).max(MIN_SHARE);
    if items.len() <= share {
        return items.iter().map(work).collect();
    }
    let work = |share: &[T]| share.iter().map(&work).collect::<Vec<_>>();
    thread::scope(|scope| {
        let shares: Vec<_> = items.chunks(share).map(|share| scope.spawn(move || work(share))).collect();
        shares.into_iter().flat_map(|share| share.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

fn reading(path: &Path, bytes: &Content, context: Context<'_>) -> Result<Reading, Problem> {
    let bytes = bytes.as_ref().map_err(|reason| Problem::of_file(path, reason))?;
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::of_file(path, "is not UTF-8"))?;
    Ok(file::parse(path, text, context))
}

/// Every `*.toml` directly in the folder whose name does not start with a dot; folders are ignored.
fn policy_files(directory: &Path, threads: usize) -> io::Result<Folder> {
    let home = directory.canonicalize()?;
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_policy(&name) {
            names.push((name, is_plain(&entry)));
        }
    }
    names.sort_unstable();
    let contents = on_threads(threads, &names, |(name, is_plain)| {
        let path = directory.join(name);
        let content = if *is_plain { open(&path).map(Some) } else { linked(&path, &home) };
        (path, content.transpose())
    });
    let mut folder = Folder { files: Vec::new(), links: Vec::new() };
    for ((path, content), (_, is_plain)) in contents.into_iter().zip(names) {
        folder.links.extend((!is_plain).then(|| path.clone()));
        folder.files.extend(content.map(|content| (path, content)));
    }
    Ok(folder)
}

/// The bytes of the file that a link leads to; `None` for a folder.
fn linked(path: &Path, home: &Path) -> Result<Option<Vec<u8>>, String> {
    // Mounted volumes link each file to another one inside the same folder, which is allowed.
    let real = path.canonicalize().map_err(|cause| cause.to_string())?;
    if !real.starts_with(home) {
        return Err("is a link to a file outside of the folder".to_owned());
    }
    if real.is_dir() {
        return Ok(None);
    }
    plain_file(&real).map(Some)
}

/// The bytes of a file, of a sensible size.
fn plain_file(path: &Path) -> Content {
    // Not opened before it is known to be a file: to open a device or a pipe may wait, or do something.
    let metadata = path.metadata().map_err(|cause| cause.to_string())?;
    if !metadata.is_file() {
        return Err(NOT_PLAIN.to_owned());
    }
    open(path)
}

const NOT_PLAIN: &str = "is not a plain file of at most 1 MiB";

fn open(path: &Path) -> Content {
    let file = File::open(path).map_err(|cause| cause.to_string())?;
    let metadata = file.metadata().map_err(|cause| cause.to_string())?;
    let size = usize::try_from(metadata.len()).ok().filter(|_| metadata.is_file() && metadata.len() <= MAX_FILE_SIZE);
    // One more byte, so that the buffer does not grow before the end is found.
    let mut bytes = Vec::with_capacity(size.ok_or(NOT_PLAIN)? + 1);
    let length = file.take(MAX_FILE_SIZE).read_to_end(&mut bytes);
    length.map(|_| bytes).map_err(|cause| cause.to_string())
}

/// A certificate that matches two policies would be refused.
fn same_identities(readings: &[&Reading]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut known: HashMap<Identity, Vec<&ClientPolicy>> = HashMap::new();
    for reading in readings {
        let Some(policy) = &reading.policy else { continue };
        let keys = policy.identity.keys();
        let mut others: Vec<_> = keys.iter().filter_map(|key| known.get(key)).flatten().copied().collect();
        others.sort_unstable_by_key(|other| &other.client_id);
        others.dedup_by_key(|other| &other.client_id);
        for other in others {
            let message = format!("{}.toml and {}.toml have the same identity", other.client_id, policy.client_id);
            problems.push(reading.places.problem(Severity::Error, policy.identity.kind().name(), message));
        }
        for key in keys {
            known.entry(key).or_default().push(policy);
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;

    fn settings(directory: &Path) -> Settings {
        Settings {
            directory: directory.to_owned(),
            default_lifetime: Duration::from_secs(60),
            max_lifetime: Duration::from_secs(300),
            retention: Duration::from_secs(400 * 86_400),
            outside_sources: Vec::new(),
            introspecting_issuers: Vec::new(),
            pdp: false,
        }
    }

    fn policy(client: &str) -> String {
        format!("client_id = \"{client}\"\ntls_client_auth_san_uri = \"spiffe://d.example/{client}\"\n")
    }

    fn folder(clients: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for client in clients {
            fs::write(folder.path().join(format!("{client}.toml")), policy(client)).unwrap();
        }
        folder
    }

    fn clients(directory: &Path) -> Vec<String> {
        let (set, warnings) = load(&settings(directory)).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        set.iter().map(|policy| policy.client_id.to_string()).collect()
    }

    fn refusal(directory: &Path) -> String {
        let problems = load(&settings(directory)).unwrap_err();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_folder_without_policies_is_an_error_and_what_looks_like_one_is_named() {
        let folder = folder(&[]);
        let path = folder.path();
        for name in ["a.yaml", "b.yml", "c.toml.txt", "d.TOML", "e.toml ", "F.YAML", ".g.yaml", "README.md", "h.json"] {
            fs::write(path.join(name), "no policy").unwrap();
        }
        for name in ["prod", "tests", "schemas"] {
            fs::create_dir(path.join(name)).unwrap();
            fs::write(path.join(name).join(if name == "schemas" { "a.json" } else { "x.toml" }), "").unwrap();
        }
        let (empty, problems) = load(&settings(path)).unwrap();
        assert!(empty.len() == 0 && problems[0].message.contains("holds no policy"), "{}", problems[0]);
        let named: Vec<_> =
            problems[1..].iter().map(|problem| problem.file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(named, ["F.YAML", "a.yaml", "b.yml", "c.toml.txt", "d.TOML", "e.toml ", "prod"]);
        assert!(problems[0].is_error() && problems[1..].iter().all(|problem| !problem.is_error()));
        fs::write(path.join("a.toml"), policy("a")).unwrap();
        let (set, warnings) = load(&settings(path)).unwrap();
        assert_eq!((set.len(), warnings.len()), (1, 7));

        symlink("nowhere", path.join("gw.toml")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path.join("hw.toml")).unwrap();
        let refusal = refusal(path);
        for (name, expected) in [("gw", "is a link to a file that is not there"), ("hw", "is not a regular file")] {
            assert!(refusal.contains(&format!("{name}.toml: warning: {expected}")), "{refusal}");
        }
        assert!(!refusal.contains("gw.toml: warning: is not read"), "{refusal}");
    }

    #[test]
    fn only_toml_files_directly_in_the_folder_are_policies() {
        let folder = folder(&["a", "b"]);
        let path = folder.path();
        for name in [".hidden.toml", "README.md", "c.toml.bak", "c.toml~"] {
            fs::write(path.join(name), "no policy").unwrap();
        }
        fs::create_dir(path.join("tests")).unwrap();
        fs::write(path.join("tests/x.toml"), "no policy").unwrap();
        fs::create_dir(path.join("d.toml")).unwrap();
        assert_eq!(clients(path), ["a", "b"]);
    }

    ///
    #[test]
    fn a_link_may_stay_in_the_folder_but_not_leave_it() {
        let mounted = folder(&[]);
        let path = mounted.path();
        fs::create_dir(path.join("..2026_01_01")).unwrap();
        fs::write(path.join("..2026_01_01/a.toml"), policy("a")).unwrap();
        symlink("..2026_01_01", path.join("..data")).unwrap();
        symlink("..data/a.toml", path.join("a.toml")).unwrap();
        assert_eq!(clients(path), ["a"]);

        let elsewhere = folder(&["b"]);
        symlink(elsewhere.path().join("b.toml"), path.join("b.toml")).unwrap();
        symlink("nowhere", path.join("c.toml")).unwrap();
        let refusal = refusal(path);
        assert!(refusal.contains("b.toml: is a link to a file outside of the folder"), "{refusal}");
        assert!(refusal.contains("c.toml: No such file"), "{refusal}");
    }

    ///
    #[test]
    fn two_policies_with_one_identity_are_both_named() {
        let folder = folder(&["a", "b"]);
        let path = folder.path();
        fs::write(path.join("b.toml"), policy("a").replace("\"a\"", "\"b\"")).unwrap();
        assert!(refusal(path).ends_with("b.toml:2: tls_client_auth_san_uri: a.toml and b.toml have the same identity"));
        // One of two thumbprints is enough: that certificate would belong to both.
        let pinned = |client: &str, thumbprints: &str| {
            let text = format!("client_id = \"{client}\"\nself_signed_tls_client_auth_x5t_s256 = [{thumbprints}]\n");
            fs::write(path.join(format!("{client}.toml")), text).unwrap();
        };
        let [x, y, z] = ["A", "E", "I"].map(|last| format!("\"{}{last}\"", "A".repeat(42)));
        pinned("a", &format!("{x}, {y}"));
        pinned("b", &format!("{y}, {z}"));
        assert!(refusal(path).contains("a.toml and b.toml have the same identity"));
        pinned("b", &z);
        assert_eq!(clients(path), ["a", "b"]);
    }

    #[test]
    fn mistakes_in_several_files_are_named_in_one_run() {
        let folder = folder(&["a", "b", "c"]);
        let path = folder.path();
        fs::write(path.join("a.toml"), "x = 1\n").unwrap();
        fs::write(path.join("b.toml"), b"\xff").unwrap();
        fs::write(path.join("not a client.toml"), policy("d")).unwrap();
        let refusal = refusal(path);
        for expected in
            ["a.toml:1: x: unknown", "b.toml: is not UTF-8", "not a client.toml:1: client_id: is not the name"]
        {
            assert!(refusal.contains(expected), "{expected}: {refusal}");
        }
    }

    #[test]
    fn the_digest_tells_names_and_bytes_apart() {
        let digest = |files: &[(&str, &str)]| {
            let files = files.iter().map(|(name, text)| (name.into(), Ok(text.as_bytes().to_vec()))).collect();
            Folder { files, links: Vec::new() }.digest(&Named::new())
        };
        let all = [
            digest(&[]),
            digest(&[("a.toml", "b")]),
            digest(&[("a.toml", "b"), ("c.toml", "")]),
            digest(&[("a.tom", "lb")]),
            digest(&[("a.toml", "bc.toml")]),
        ];
        assert!(all.iter().all(|one| one.len() == 43 && all.iter().filter(|other| *other == one).count() == 1));
    }

    /// A schema or a key that changes is a change of the policies that name it.
    #[test]
    fn files_that_policies_name_are_watched_too() {
        let folder = folder(&["a", "b"]);
        let path = folder.path();
        let more =
            "[[purpose]]\nscope = \"s\"\naccept = [\"client_credentials\"]\nrequest_details = \"schemas/s.json\"\n";
        fs::write(path.join("a.toml"), policy("a") + more).unwrap();
        assert!(refusal(path).contains("a.toml:6: purpose[0].request_details: "));
        fs::create_dir(path.join("schemas")).unwrap();
        fs::write(path.join("schemas/s.json"), "{}").unwrap();
        let (mut watch, checked) = Watch::begin(settings(path));
        let (set, _) = checked.unwrap();
        assert!(watch.poll().is_none());
        fs::write(path.join("schemas/s.json"), "{\"type\":\"object\"}").unwrap();
        assert!(watch.poll().is_none());
        let (changed, _) = watch.poll().unwrap().unwrap();
        assert_ne!(changed.digest(), set.digest());
        fs::write(path.join("schemas/s.json"), "{").unwrap();
        assert!(watch.poll().is_none());
        assert!(watch.poll().unwrap().is_err());
    }

    ///
    #[test]
    fn a_change_is_reported_once_after_it_has_settled() {
        let folder = folder(&["a", "b"]);
        let path = folder.path();
        let (mut watch, checked) = Watch::begin(settings(path));
        assert!(checked.is_ok());
        assert!(watch.poll().is_none() && watch.poll().is_none());

        fs::write(path.join("b.toml"), "broken").unwrap();
        assert!(watch.poll().is_none(), "it may still be being written");
        assert!(watch.poll().unwrap().is_err());
        assert!(watch.poll().is_none(), "reported already");
        assert!(watch.load().is_err(), "an explicit load reports it again");

        fs::remove_file(path.join("b.toml")).unwrap();
        assert!(watch.poll().is_none());
        let (set, _) = watch.poll().unwrap().unwrap();
        assert_eq!(set.iter().count(), 1);
        assert!(watch.poll().is_none());

        fs::remove_dir_all(path).unwrap();
        assert!(watch.poll().is_none());
        assert!(watch.poll().unwrap().is_err(), "a folder that is gone is a broken change");
        fs::create_dir(path).unwrap();
        assert!(watch.poll().is_none());
        assert_eq!(watch.poll().unwrap().unwrap().0.iter().count(), 0);
    }
}
