//! The folder of policies: read as a whole, checked as a whole, looked at again for changes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::file::{self, Reading, Settings};
use super::{ClientPolicy, PolicySet};
use crate::client::Thumbprint;
use crate::config::{Problem, Severity};

/// A set of policies and the warnings about it, or everything that is wrong, warnings too.
pub type Checked = Result<(PolicySet, Vec<Problem>), Vec<Problem>>;

/// Reads and checks every policy.
pub fn load(settings: &Settings) -> Checked {
    Folder::read(&settings.directory).check(settings)
}

/// Looks for changes of the folder, every second or two.
#[derive(Debug)]
pub struct Watch {
    settings: Settings,
    /// What was checked last, sound or not.
    seen: String,
    /// What the last look found.
    found: String,
}

impl Watch {
    /// Watches for anything but what is in force.
    pub fn new(settings: Settings, in_force: &PolicySet) -> Self {
        let seen = in_force.digest().to_owned();
        Self { settings, found: seen.clone(), seen }
    }

    /// What the folder holds now, if it is something new. Told once, whether it is sound or not, and only when two
    /// looks in a row have found the same, so that a file is not taken while it is being written.
    pub fn look(&mut self) -> Option<Checked> {
        let folder = Folder::read(&self.settings.directory);
        let digest = folder.digest();
        let settled = digest == self.found;
        self.found.clone_from(&digest);
        if !settled || digest == self.seen {
            return None;
        }
        self.seen = digest;
        Some(folder.check(&self.settings))
    }

    /// What the folder holds now, new or not.
    pub fn load(&mut self) -> Checked {
        let folder = Folder::read(&self.settings.directory);
        self.seen = folder.digest();
        self.found.clone_from(&self.seen);
        folder.check(&self.settings)
    }
}

/// The files as they are, sorted by name; in place of one that cannot be read, the reason.
struct Folder {
    files: Vec<(PathBuf, Result<Vec<u8>, String>)>,
}

/// Far more than a policy needs; a device or a log by that name must not fill the memory.
const LONGEST: u64 = 1024 * 1024;

impl Folder {
    fn read(directory: &Path) -> Self {
        let mut files = match policy_files(directory) {
            Ok(files) => files,
            Err(cause) => vec![(directory.to_owned(), Err(cause.to_string()))],
        };
        files.sort_by(|a, b| a.0.cmp(&b.0));
        Self { files }
    }

    /// SHA-256 over names and bytes, each with its length before it; base64url.
    fn digest(&self) -> String {
        let mut context = Context::new(&SHA256);
        let mut add = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        for (path, content) in &self.files {
            add(path.file_name().unwrap_or_default().as_bytes());
            match content {
                Ok(bytes) => add(bytes),
                // Unlike any content: never the digest of a sound set.
                Err(reason) => add(format!("\0{reason}").as_bytes()),
            }
        }
        URL_SAFE_NO_PAD.encode(context.finish())
    }

    fn check(&self, settings: &Settings) -> Checked {
        let readings: Vec<_> = self.files.iter().map(|(path, content)| reading(path, content, settings)).collect();
        let sound: Vec<_> = readings.iter().filter_map(|reading| reading.as_ref().ok()).collect();
        let mut problems = same_identities(&sound);
        problems.extend(strangers(&sound));
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
        if problems.iter().any(Problem::is_error) {
            return Err(problems);
        }
        Ok((PolicySet::new(policies, self.digest()), problems))
    }
}

fn reading(path: &Path, content: &Result<Vec<u8>, String>, settings: &Settings) -> Result<Reading, Problem> {
    let bytes = content.as_ref().map_err(|reason| Problem::of_file(path, reason))?;
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::of_file(path, "is not UTF-8"))?;
    Ok(file::parse(path, text, settings))
}

/// Every `*.toml` directly in the folder whose name does not start with a dot; folders are left alone.
fn policy_files(directory: &Path) -> io::Result<Vec<(PathBuf, Result<Vec<u8>, String>)>> {
    let home = directory.canonicalize()?;
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.as_bytes().starts_with(b".") || !name.as_bytes().ends_with(b".toml") {
            continue;
        }
        let path = directory.join(name);
        if let Some(content) = content(&path, &home).transpose() {
            files.push((path, content));
        }
    }
    Ok(files)
}

/// The bytes of one file; `None` for a folder.
fn content(path: &Path, home: &Path) -> Result<Option<Vec<u8>>, String> {
    // Mounted volumes link each file to another one inside the same folder; that is not the way out.
    let real = path.canonicalize().map_err(|cause| cause.to_string())?;
    if !real.starts_with(home) {
        return Err("is a link to a file outside of the folder".to_owned());
    }
    let metadata = real.metadata().map_err(|cause| cause.to_string())?;
    if metadata.is_dir() {
        return Ok(None);
    }
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err("is not a plain file of at most 1 MiB".to_owned());
    }
    let mut bytes = Vec::new();
    let read = File::open(real).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes));
    read.map(|_| Some(bytes)).map_err(|cause| cause.to_string())
}

/// A certificate that fits two policies would fit neither.
fn same_identities(readings: &[&Reading]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let known: Vec<_> = readings.iter().filter_map(|reading| Some((reading, reading.policy.as_ref()?))).collect();
    for (index, (reading, policy)) in known.iter().enumerate() {
        let (key, file) = (policy.identity.kind().name(), |client: &ClientPolicy| format!("{}.toml", client.client_id));
        for (_, other) in known[..index].iter().filter(|(_, other)| share_certificates(policy, other)) {
            let message = format!("{} and {} have the same identity", file(other), file(policy));
            problems.push(reading.places.problem(Severity::Error, key, message));
        }
    }
    problems
}

fn share_certificates(one: &ClientPolicy, other: &ClientPolicy) -> bool {
    let both: Vec<&Thumbprint> = other.identity.registered_thumbprints().iter().collect();
    let shared = one.identity.registered_thumbprints().iter().any(|thumbprint| both.contains(&thumbprint));
    shared || one.identity == other.identity
}

/// Redeeming tokens of a client that has no policy may be a slip of the pen, or a client that is gone.
fn strangers(readings: &[&Reading]) -> Vec<Problem> {
    let known: BTreeMap<_, _> = readings
        .iter()
        .filter_map(|reading| reading.policy.as_ref())
        .map(|policy| (&policy.client_id, policy))
        .collect();
    let mut problems = Vec::new();
    for reading in readings {
        for (index, rule) in reading.policy.iter().flat_map(|policy| policy.purposes.iter().enumerate()) {
            for client in rule.redemption.iter().flat_map(|redemption| &redemption.issued_to) {
                if !known.contains_key(client) {
                    let key = format!("purpose[{index}].redemption.issued_to");
                    let message = format!("\"{client}\" has no policy");
                    problems.push(reading.places.problem(Severity::Warning, &key, message));
                }
            }
        }
    }
    problems
}
