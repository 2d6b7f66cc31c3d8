//! The folder of a quickstart: certificates, policies, configuration and the toy issuer's key, created if missing.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::issuer::{self, Issuer, IssuerError};
use super::ports::{self, Ports};
use crate::cli::certs::{self, CertsError, San};
use writ_core::client::{ClientId, ClientIdError};
use writ_platform::clock::Timestamp;

/// The shipped policies, by client.
const POLICIES: [(&str, &str); 4] = [
    ("gateway", include_str!("../../../policies/gateway.toml")),
    ("mail-delivery-agent", include_str!("../../../policies/mail-delivery-agent.toml")),
    ("account-service", include_str!("../../../policies/account-service.toml")),
    ("purge-job", include_str!("../../../policies/purge-job.toml")),
];
/// The schema that a policy names.
const SCHEMA: (&str, &str) = ("schemas/trade.schema.json", include_str!("../../../policies/schemas/trade.schema.json"));
/// The tests of the policies, by client.
const EXPECTATIONS: [(&str, &str); 4] = [
    ("gateway", include_str!("../../../policies/tests/gateway.toml")),
    ("mail-delivery-agent", include_str!("../../../policies/tests/mail-delivery-agent.toml")),
    ("account-service", include_str!("../../../policies/tests/account-service.toml")),
    ("purge-job", include_str!("../../../policies/tests/purge-job.toml")),
];
const TEMPLATE: &str = include_str!("writ.toml");
/// Marks a folder as created by quickstart, and excludes it from git.
const MARK: (&str, &str) = (".gitignore", "# Made by `writ quickstart`: keys and tokens, nothing for git.\n*\n");
/// The store of the story, if an earlier run left one in `data`.
pub(super) const STAGE: &str = "story-data";
/// Ann's access token.
pub(super) const ACCESS_TOKEN: &str = "access-token.jwt";
/// The Txn-Token that the story leaves for the reader to redeem.
pub(super) const STORED_TOKEN: &str = "stored-token.jwt";
/// The Txn-Token that is redeemed in the story.
pub(super) const STORY_TOKEN: &str = "story-token.jwt";
const CONFIG: &str = "writ.toml";
const LOG: &str = "writ.log";

/// Why the folder is not ready.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} contains other files already; choose an empty folder with --dir", .0.display())]
    Foreign(PathBuf),
    #[error("{} is in use by another quickstart or service; stop that first, or choose another folder with --dir", .0.display())]
    InUse(PathBuf),
    #[error("{} is not as quickstart created it; correct it, or move it away to have it created again", .0.display())]
    Config(PathBuf),
    #[error("there are no free ports near 8443, 8444, 8445 and 9464")]
    Ports,
    #[error(transparent)]
    Certs(#[from] CertsError),
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    #[error("the policy of {0} does not register a SPIFFE ID")]
    Policy(&'static str),
    #[error(transparent)]
    Client(#[from] ClientIdError),
}

/// A prepared folder, locked by this process.
pub(super) struct Folder {
    /// Absolute.
    root: PathBuf,
    pub(super) ports: Ports,
    pub(super) issuer: Issuer,
    /// One line for each part: created, kept or changed.
    pub(super) report: Vec<String>,
    /// An earlier run left a store. The story then uses another one, because it needs a new key ring: a key that signed for
    /// a day stays published for minutes.
    pub(super) has_store: bool,
    log: File,
}

impl Folder {
    /// Creates the missing files in `dir`, and keeps the others.
    pub(super) fn prepare(dir: &Path, now: Timestamp) -> Result<Self, FolderError> {
        let root = open_folder(dir)?;
        let log = lock(&root)?;
        let mut report = vec![
            created_or_kept(
                certificates(&root.join("certs"), now)?,
                "certs/",
                "a development CA, the service, four clients",
            ),
            created_or_kept(
                policies(&root.join("policies"))?,
                "policies/",
                "what each of the four clients can get, one file each, with tests",
            ),
        ];
        let (issuer, made) = toy_issuer(&root)?;
        report.push(created_or_kept(
            made,
            "issuer/",
            "the key of a toy authorization server, which signs access tokens",
        ));
        let (ports, config_report) = configuration(&root.join(CONFIG))?;
        report.push(config_report);
        let has_store = earlier_store(&root)?;
        if has_store {
            report.push(line("kept", "data/", "the store; the story uses another one, with new keys"));
        }
        Ok(Self { root, ports, issuer, report, has_store, log })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(super) fn config(&self) -> PathBuf {
        self.root.join(CONFIG)
    }

    /// Removes the store of the story, if it has one of its own.
    pub(super) fn clear_stage(&self) -> Result<(), FolderError> {
        let stage = self.root.join(STAGE);
        match fs::remove_dir_all(&stage) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&stage)(error)),
            _ => Ok(()),
        }
    }

    /// The log file, opened for appending.
    pub(super) fn log(&self) -> Result<File, FolderError> {
        self.log.try_clone().map_err(io_error(&self.root.join(LOG)))
    }

    /// A PEM file in certs/.
    pub(super) fn pem(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, FolderError> {
        let path = self.root.join("certs").join(name);
        fs::read(&path).map(Zeroizing::new).map_err(io_error(&path))
    }

    pub(super) fn token(&self, name: &str) -> Result<Zeroizing<String>, FolderError> {
        let path = self.root.join(name);
        fs::read_to_string(&path).map(Zeroizing::new).map_err(io_error(&path))
    }

    /// Stores a token without a line end, so that `curl` can send the file unchanged.
    pub(super) fn store_token(&self, name: &str, token: &str) -> Result<(), FolderError> {
        let path = self.root.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path)(error)),
            _ => create(&path, token).map(drop),
        }
    }
}

/// The absolute path of a new folder, or of one that quickstart created before.
fn open_folder(dir: &Path) -> Result<PathBuf, FolderError> {
    create_folder(dir)?;
    let root = dir.canonicalize().map_err(io_error(dir))?;
    let mark = root.join(MARK.0);
    let is_empty = fs::read_dir(&root).map_err(io_error(&root))?.next().is_none();
    if is_empty {
        create(&mark, MARK.1)?;
    } else if fs::read_to_string(&mark).ok().as_deref() != Some(MARK.1) {
        return Err(FolderError::Foreign(root));
    }
    Ok(root)
}

/// Locks the log, so that only one quickstart works in this folder.
fn lock(root: &Path) -> Result<File, FolderError> {
    let path = root.join(LOG);
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(io_error(&path))?;
    try_lock(&log, root, &path)?;
    Ok(log)
}

fn try_lock(file: &File, root: &Path, path: &Path) -> Result<(), FolderError> {
    file.try_lock().map_err(|refused| match refused {
        TryLockError::WouldBlock => FolderError::InUse(root.to_owned()),
        TryLockError::Error(source) => io_error(path)(source),
    })
}

fn certificates(dir: &Path, now: Timestamp) -> Result<bool, FolderError> {
    let mut made = !certs::init(dir, &[], now)?.created.is_empty();
    for (client, policy) in POLICIES {
        if !dir.join(format!("{client}.pem")).exists() {
            let name = San::Uri(spiffe_id(policy).ok_or(FolderError::Policy(client))?);
            certs::issue(dir, &client.parse::<ClientId>()?, &[name], certs::MAX_DAYS, now)?;
            made = true;
        }
    }
    Ok(made)
}

/// The SPIFFE ID that a shipped policy registers.
fn spiffe_id(policy: &str) -> Option<String> {
    let line = policy.lines().find_map(|line| line.strip_prefix("tls_client_auth_san_uri"))?;
    line.split('"').nth(1).map(str::to_owned)
}

fn policies(dir: &Path) -> Result<bool, FolderError> {
    create_folder(dir)?;
    create_folder(&dir.join("tests"))?;
    let mut made = false;
    for (client, policy) in POLICIES {
        made |= create(&dir.join(format!("{client}.toml")), policy)?;
    }
    for (client, expectations) in EXPECTATIONS {
        made |= create(&dir.join("tests").join(format!("{client}.toml")), expectations)?;
    }
    let (schema, text) = SCHEMA;
    let schema = dir.join(schema);
    create_folder(schema.parent().unwrap_or(dir))?;
    made |= create(&schema, text)?;
    Ok(made)
}

fn toy_issuer(root: &Path) -> Result<(Issuer, bool), FolderError> {
    let path = root.join(issuer::key_file());
    create_folder(path.parent().unwrap_or(root))?;
    let made = !path.exists() && create(&path, &Issuer::new_key()?)?;
    let key = fs::read_to_string(&path).map(Zeroizing::new).map_err(io_error(&path))?;
    Ok((Issuer::from_pem(&key)?, made))
}

/// The ports in use, and a report on `writ.toml`.
fn configuration(path: &Path) -> Result<(Ports, String), FolderError> {
    let (text, exists) = match fs::read_to_string(path) {
        Ok(text) => (text, true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (TEMPLATE.to_owned(), false),
        Err(error) => return Err(io_error(path)(error)),
    };
    let wanted = Ports::read(&text).ok_or_else(|| FolderError::Config(path.to_owned()))?;
    let ports = wanted.free(ports::is_free).ok_or(FolderError::Ports)?;
    if !exists {
        create(path, &wanted.replace(&text, ports))?;
    } else if ports != wanted {
        fs::write(path, wanted.replace(&text, ports)).map_err(io_error(path))?;
        return Ok((ports, line("changed", CONFIG, "ports in use by others were replaced")));
    }
    Ok((ports, created_or_kept(!exists, CONFIG, "the configuration of the service, every key explained")))
}

/// Whether an earlier run left a store and the stored token that belongs to it; an error if the store is in use.
fn earlier_store(root: &Path) -> Result<bool, FolderError> {
    let store = root.join("data");
    let lock = store.join("lock");
    if let Ok(file) = File::open(&lock) {
        try_lock(&file, root, &lock)?;
    }
    Ok(store.exists() && root.join(STORED_TOKEN).exists())
}

fn created_or_kept(created: bool, name: &str, what: &str) -> String {
    line(if created { "made" } else { "kept" }, name, what)
}

fn line(verb: &str, name: &str, what: &str) -> String {
    format!("{verb:<8} {name:<11} {what}")
}

fn create_folder(dir: &Path) -> Result<(), FolderError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))
}

/// Creates a file that only its owner can read; false if it exists.
fn create(path: &Path, content: &str) -> Result<bool, FolderError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => file.write_all(content.as_bytes()).map(|()| true).map_err(io_error(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(io_error(path)(error)),
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> FolderError + '_ {
    move |source| FolderError::Io { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const NOW: Timestamp = Timestamp::from_epoch(1_793_000_000);

    #[test]
    fn a_folder_is_created_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("quickstart");
        let first = Folder::prepare(&root, NOW).unwrap();
        assert!(first.report.iter().all(|line| line.starts_with("made")), "{:?}", first.report);
        for name in ["certs/ca.pem", "certs/purge-job.key", "policies/gateway.toml", "issuer/key.pem", "writ.toml"] {
            let mode = fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o777;
            let expected = if name == "certs/ca.pem" { 0o644 } else { 0o600 };
            assert_eq!(mode, expected, "{name}");
        }
        assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(Folder::prepare(&root, NOW), Err(FolderError::InUse(_))));
        let certificate = first.pem("gateway.pem").unwrap();
        drop(first);

        fs::write(root.join("policies/gateway.toml"), "# mine").unwrap();
        let again = Folder::prepare(&root, NOW).unwrap();
        assert!(again.report.iter().all(|line| line.starts_with("kept") || line.starts_with("changed")));
        assert_eq!(again.pem("gateway.pem").unwrap(), certificate);
        assert_eq!(fs::read_to_string(root.join("policies/gateway.toml")).unwrap(), "# mine");
    }

    #[test]
    fn a_folder_with_other_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letter.txt"), "dear").unwrap();
        assert!(matches!(Folder::prepare(dir.path(), NOW), Err(FolderError::Foreign(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_earlier_store_is_kept_and_one_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Folder::prepare(dir.path(), NOW).unwrap());
        let store = dir.path().join("data");
        fs::create_dir(&store).unwrap();
        fs::write(dir.path().join(STORED_TOKEN), "t").unwrap();
        let lock = File::create(store.join("lock")).unwrap();
        lock.lock().unwrap();
        assert!(matches!(Folder::prepare(dir.path(), NOW), Err(FolderError::InUse(_))));
        drop(lock);
        let folder = Folder::prepare(dir.path(), NOW).unwrap();
        assert!(folder.has_store && folder.report.last().unwrap().starts_with("kept"), "{:?}", folder.report);
        assert!(store.join("lock").exists());
    }

    #[test]
    fn a_configuration_of_another_form_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        drop(Folder::prepare(dir.path(), NOW).unwrap());
        fs::write(dir.path().join(CONFIG), "trust_domain = 1").unwrap();
        assert!(matches!(Folder::prepare(dir.path(), NOW), Err(FolderError::Config(_))));
        assert_eq!(fs::read_to_string(dir.path().join(CONFIG)).unwrap(), "trust_domain = 1");
    }

    #[test]
    fn a_stored_token_has_no_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::prepare(dir.path(), NOW).unwrap();
        folder.store_token("t.jwt", "a.b.c").unwrap();
        folder.store_token("t.jwt", "d.e.f").unwrap();
        assert_eq!(fs::read(dir.path().join("t.jwt")).unwrap(), b"d.e.f");
        assert_eq!(*folder.token("t.jwt").unwrap(), "d.e.f");
    }

    #[test]
    fn each_shipped_policy_registers_a_spiffe_id() {
        for (client, policy) in POLICIES {
            assert!(spiffe_id(policy).is_some_and(|id| id.starts_with("spiffe://trust-domain.example/")), "{client}");
        }
    }
}
