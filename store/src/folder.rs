//! The store's folder: permissions, lock, and files that survive a power failure.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, FileType, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::OpenError;

/// How long opening waits for the lock of a process that was just killed.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// The suffix of a file that is not yet complete.
const DRAFT: &str = ".draft";
const PROBE: &str = ".probe";
const BLOBS: &str = "blobs";

/// Exclusive access to the store's folder, until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    path: PathBuf,
}

/// Replaces a small file atomically and durably, with mode 0600: after a power failure it holds the new content or the
/// old.
///
/// # Errors
/// The file system's error; the old file is then unchanged.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
    let draft = path.with_file_name([OsStr::new("."), name, OsStr::new(DRAFT)].into_iter().collect::<OsString>());
    let written = write_draft(&draft, bytes).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // The first error is the one to report; the next write overwrites a leftover draft.
        let _ = fs::remove_file(&draft);
    }
    written?;
    sync_folder(parent(path))
}

/// As [`write_file`], but a power failure may leave it torn, or lose it.
pub(crate) fn replace_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let written = file.and_then(|mut file| file.write_all(bytes)).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // A full disk needs the space; the first error is the one to report.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn write_draft(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    // A draft left by another process may have any mode.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates the store's folders if they are missing, and checks who has access to them.
pub(crate) fn prepare(path: &Path) -> Result<(), OpenError> {
    make(path).map_err(|source| io_error(path, source))?;
    check_owner_only(path)?;
    let keys = keys(path);
    make(&keys).map_err(|source| io_error(&keys, source))
}

fn make(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // The umask may have cleared the owner's bits.
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    sync_folder(parent(folder))
}

/// Checks an existing folder: only its owner may have access, and this process must.
pub(crate) fn check_access(path: &Path) -> Result<(), OpenError> {
    check_owner_only(path)?;
    fs::read_dir(path).map(drop).map_err(|source| io_error(path, source))
}

/// Refuses a folder that others can enter or read, or that its group can write.
fn check_owner_only(path: &Path) -> Result<(), OpenError> {
    let mode = fs::metadata(path).map_err(|source| io_error(path, source))?.permissions().mode() & 0o7777;
    if mode & 0o027 != 0 {
        return Err(OpenError::Permissions { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Removes drafts left by a process that ended while writing a small file.
pub(crate) fn remove_drafts(path: &Path) -> Result<(), OpenError> {
    for folder in [path, &keys(path)] {
        for name in names(folder).map_err(|source| io_error(folder, source))? {
            let bytes = name.as_encoded_bytes();
            if bytes == PROBE.as_bytes() || (bytes.starts_with(b".") && bytes.ends_with(DRAFT.as_bytes())) {
                let draft = folder.join(&name);
                fs::remove_file(&draft).map_err(|source| io_error(&draft, source))?;
            }
        }
    }
    Ok(())
}

pub(crate) fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// Refuses anything but a regular file: a symbolic link leads out of the store, and opening a pipe or device can block.
pub(crate) fn require_file(path: &Path) -> Result<(), OpenError> {
    require(path, FileType::is_file, "file")
}

/// Refuses anything but a folder, symbolic links to one included.
pub(crate) fn require_folder(path: &Path) -> Result<(), OpenError> {
    require(path, FileType::is_dir, "folder")
}

/// A missing entry is accepted.
fn require(path: &Path, is_right: fn(&FileType) -> bool, wanted: &str) -> Result<(), OpenError> {
    match fs::symlink_metadata(path) {
        Ok(found) if is_right(&found.file_type()) => Ok(()),
        Ok(found) => {
            let what = format!("is {}, not a {wanted}", kind(found.file_type()));
            Err(OpenError::Foreign { path: path.to_owned(), what })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error(path, source)),
    }
}

fn kind(found: FileType) -> &'static str {
    if found.is_symlink() {
        "a symbolic link"
    } else if found.is_dir() {
        "a folder"
    } else if found.is_fifo() {
        "a named pipe"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_file() {
        "a file"
    } else {
        "a device"
    }
}

/// Refuses an entry that has the name of one of the store's files but another type.
pub(crate) fn check_files(path: &Path) -> Result<(), OpenError> {
    require_file(&seal(path))?;
    let start = start(path);
    require_folder(&start)?;
    if start.is_dir() {
        for name in names(&start).map_err(|source| io_error(&start, source))? {
            require_file(&start.join(name))?;
        }
    }
    for file in engine_files(path).map_err(|source| io_error(path, source))? {
        if file.file_name().is_some_and(|name| name == BLOBS) {
            require_folder(&file)?;
            for blob in names(&file).map_err(|source| io_error(&file, source))? {
                require_file(&file.join(blob))?;
            }
        } else {
            require_file(&file)?;
        }
    }
    Ok(())
}

/// The files of sled: `db`, `conf`, the folder `blobs`, `snap.*`.
pub(crate) fn engine_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let names = names(path)?.into_iter().filter(|name| is_engine_file(name));
    Ok(names.map(|name| path.join(name)).collect())
}

pub(crate) fn is_engine_file(name: &OsStr) -> bool {
    ["db", "conf", BLOBS].iter().any(|own| name == *own) || name.as_encoded_bytes().starts_with(b"snap.")
}

pub(crate) fn database(path: &Path) -> PathBuf {
    path.join("db")
}

pub(crate) fn seal(path: &Path) -> PathBuf {
    path.join("seal")
}

/// The folder of the copies from which a service starts.
pub(crate) fn start(path: &Path) -> PathBuf {
    path.join("start")
}

pub(crate) fn keys(path: &Path) -> PathBuf {
    path.join("keys")
}

/// The path without symbolic links and `..`; it need not exist.
pub(crate) fn resolve(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut resolved = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(resolved.pop()),
            component => resolved.push(component),
        }
        resolved = fs::canonicalize(&resolved).unwrap_or(resolved);
    }
    resolved
}

/// Whether key files exist, which means that this store once had records.
pub(crate) fn has_key_files(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(keys(path))? {
        if Path::new(&entry?.file_name()).extension().is_some_and(|extension| extension == "json") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Checks that the file system accepts writes again, before the open database is closed for it.
pub(crate) fn probe(path: &Path) -> io::Result<()> {
    let file_path = path.join(PROBE);
    let probed =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file_path).and_then(|mut file| {
            // sled extends its file by this much at a time; plus half of it for the snapshot.
            file.write_all(&vec![0; 768 * 1024])?;
            file.sync_all()
        });
    // Whether or not the write succeeded, the probe must not occupy space.
    let removed = fs::remove_file(&file_path);
    probed.and(removed)
}

impl Lock {
    /// Takes the lock and writes this process's id into it.
    pub(crate) fn acquire(path: &Path) -> Result<Self, OpenError> {
        let file_path = path.join("lock");
        require_file(&file_path)?;
        let at_lock = |source| io_error(&file_path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file_path)
            .map_err(at_lock)?;
        wait_for(&file).map_err(|refused| match refused {
            TryLockError::WouldBlock => OpenError::Locked { path: path.to_owned(), pid: holder(&file) },
            TryLockError::Error(source) => at_lock(source),
        })?;
        note_holder(&mut file).map_err(at_lock)?;
        Ok(Self { file, path: file_path })
    }

    /// Whether the locked file is still the one in the folder. If it was removed, or the folder was moved, another
    /// process can lock and open the store at the same time.
    pub(crate) fn is_in_place(&self) -> bool {
        let identity = |metadata: io::Result<Metadata>| metadata.map(|file| (file.dev(), file.ino())).ok();
        let locked = identity(self.file.metadata());
        locked.is_some() && locked == identity(fs::metadata(&self.path))
    }
}

fn wait_for(file: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            outcome => return outcome,
        }
    }
}

/// The process id has a fixed width, so that the file never grows: a full disk must not prevent opening.
fn note_holder(file: &mut File) -> io::Result<()> {
    file.write_all(format!("{:<10}\n", std::process::id()).as_bytes())
}

fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { path: path.to_owned(), source }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn written_file_is_whole_private_and_leaves_no_draft() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.json");
        write_file(&path, b"old, and longer").unwrap();
        write_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn file_that_cannot_be_written_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        write_file(&path, b"new").unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn folders_are_made_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/store");
        prepare(&path).unwrap();
        assert_eq!((mode(&path), mode(&keys(&path))), (0o700, 0o700));
    }

    #[test]
    fn folder_that_others_can_get_at_is_refused_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        for open in [0o755, 0o704, 0o701, 0o770] {
            fs::set_permissions(folder.path(), Permissions::from_mode(open)).unwrap();
            let refused = prepare(folder.path()).unwrap_err();
            assert!(matches!(refused, OpenError::Permissions { mode, .. } if mode == open), "{open:o}: {refused}");
        }
        fs::set_permissions(folder.path(), Permissions::from_mode(0o750)).unwrap();
        prepare(folder.path()).unwrap();
    }
}
