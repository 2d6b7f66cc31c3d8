//! The copy of sled's files that sled opens in their place.
//!
//! sled changes its files whenever it opens them, even those that it then finds damaged: it overwrites what it takes for
//! a torn end or for free space, and leaves a half-written snapshot behind if the disk is full. So sled opens a copy. The
//! files themselves stay as they are until the records in the copy are known to be those that were sealed and the first
//! change is to be written; then the copy takes their place.
//!
//! A copy that is not finished is in the folder `.opening` and means nothing. Renaming that folder to `.opened` is what
//! makes it count; from then on its files are moved into place, by the next start if this process does not get so far.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise, statvfs};

use super::OpenError;
use super::folder::{self, io_error};

const UNFINISHED: &str = ".opening";
const FINISHED: &str = ".opened";

/// What sled writes at most while it opens: a part of its file, its snapshot, and some more.
const SPACE_TO_OPEN: u64 = 2 << 20;

/// Which files a copy begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// None: a new database.
    Nothing,
    /// All that sled needs.
    Everything,
    /// All but the snapshot, from which sled starts faster. It may be what is damaged.
    NoSnapshot,
}

/// A copy that has not taken the place of the files yet, or that has. It removes itself if it never does.
#[derive(Debug)]
pub(super) struct WorkingCopy {
    store: PathBuf,
    is_finished: bool,
}

impl WorkingCopy {
    /// Copies the files; the caller holds the lock and has called [`clean_up`].
    pub(super) fn make(store: &Path, source: Source) -> Result<Self, OpenError> {
        let copy = Self { store: store.to_owned(), is_finished: false };
        copy.fill(source).map_err(|error| space_error(store, error))?;
        Ok(copy)
    }

    /// Where it is until it takes the place of the files.
    pub(super) fn folder(&self) -> PathBuf {
        self.store.join(UNFINISHED)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    fn fill(&self, source: Source) -> io::Result<()> {
        let folder = self.folder();
        DirBuilder::new().mode(0o700).create(&folder)?;
        for file in sources(&self.store, source)? {
            // What has not reached the disk must, before anything is concluded from it; and after a failed write the
            // system may still show what never will.
            let opened = File::open(&file)?;
            opened.sync_all()?;
            let target = folder.join(file.file_name().unwrap_or_default());
            if opened.metadata()?.is_dir() {
                DirBuilder::new().mode(0o700).create(&target)?;
                for blob in fs::read_dir(&file)? {
                    let blob = blob?;
                    fs::copy(blob.path(), target.join(blob.file_name()))?;
                }
            } else {
                fadvise(&opened, 0, None, Advice::DontNeed)?;
                fs::copy(&file, &target)?;
            }
        }
        Ok(())
    }

    /// Puts the copy, and whatever else is in its folder, in the place of the files, durably.
    ///
    /// After an error the one or the other is in force, which the next opening finds out.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let folder = self.folder();
        sync_all_below(&folder)?;
        fs::rename(&folder, self.store.join(FINISHED))?;
        self.is_finished = true;
        folder::sync_folder(&self.store)?;
        move_into_place(&self.store)
    }
}

impl Drop for WorkingCopy {
    fn drop(&mut self) {
        if !self.is_finished {
            // What is left is removed by the next opening.
            let _ = remove_if_there(&self.folder());
        }
    }
}

/// Ends what an opening that was cut off had begun. The caller holds the lock.
pub(super) fn clean_up(store: &Path) -> Result<(), OpenError> {
    let at_store = |source| io_error(store, source);
    if store.join(FINISHED).try_exists().map_err(at_store)? {
        move_into_place(store).map_err(at_store)?;
    }
    remove_if_there(&store.join(UNFINISHED)).map_err(at_store)?;
    folder::remove_drafts(store).map_err(at_store)
}

/// Finds out whether the disk has room for a copy and takes data, before anything is begun.
pub(super) fn probe(store: &Path) -> Result<(), OpenError> {
    let space = || {
        let disk = statvfs(store)?;
        Ok::<_, io::Error>(disk.f_bavail.saturating_mul(disk.f_frsize))
    };
    let needed = space_needed(store).map_err(|source| io_error(store, source))?;
    if space().map_err(|source| io_error(store, source))? < needed {
        return Err(OpenError::NoSpace { path: store.to_owned(), needed });
    }
    folder::probe(store).map_err(|error| space_error(store, error))
}

fn space_needed(store: &Path) -> io::Result<u64> {
    let mut needed = SPACE_TO_OPEN;
    for file in sources(store, Source::Everything)? {
        needed += fs::metadata(file)?.len();
    }
    Ok(needed)
}

fn space_error(store: &Path, error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let needed = space_needed(store).unwrap_or(SPACE_TO_OPEN);
            OpenError::NoSpace { path: store.to_owned(), needed }
        }
        _ => io_error(store, error),
    }
}

/// The files that sled reads. Of its snapshots that is the newest; others, and unfinished ones, are left over.
fn sources(store: &Path, source: Source) -> io::Result<Vec<PathBuf>> {
    if source == Source::Nothing {
        return Ok(Vec::new());
    }
    let mut files = folder::engine_files(store)?;
    let newest = files.iter().filter(|file| is_snapshot(file)).max().cloned();
    files.retain(|file| !file_name(file).as_encoded_bytes().starts_with(b"snap."));
    if source == Source::Everything {
        files.extend(newest);
    }
    Ok(files)
}

/// A finished snapshot: `snap.` and sixteen hexadecimal digits.
fn is_snapshot(file: &Path) -> bool {
    let digits = file_name(file).to_str().and_then(|name| name.strip_prefix("snap."));
    digits.is_some_and(|digits| digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn file_name(file: &Path) -> &OsStr {
    file.file_name().unwrap_or_default()
}

/// Moves the files of a finished copy to where they belong.
///
/// Can be cut off anywhere and done again. A snapshot belongs to one database file: the old ones go before the new file
/// comes, and the new one comes after it.
fn move_into_place(store: &Path) -> io::Result<()> {
    let from = store.join(FINISHED);
    if folder::database(&from).try_exists()? {
        for file in folder::engine_files(store)? {
            if file_name(&file).as_encoded_bytes().starts_with(b"snap.") {
                fs::remove_file(file)?;
            }
        }
        for name in names(&from)? {
            if name != "db" && !name.as_encoded_bytes().starts_with(b"snap.") {
                replace(&from.join(&name), &store.join(&name))?;
            }
        }
        folder::sync_folder(store)?;
        fs::rename(folder::database(&from), folder::database(store))?;
        folder::sync_folder(store)?;
        folder::sync_folder(&from)?;
    }
    for name in names(&from)? {
        replace(&from.join(&name), &store.join(&name))?;
    }
    folder::sync_folder(store)?;
    fs::remove_dir(&from)?;
    folder::sync_folder(store)
}

fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// A rename that also replaces a folder.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        remove_if_there(to)?;
    }
    fs::rename(from, to)
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Makes all of it last, and takes from group and others what sled, which follows the umask, may have given them.
fn sync_all_below(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            fs::set_permissions(&path, Permissions::from_mode(0o700))?;
            sync_all_below(&path)?;
        } else {
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            File::open(&path)?.sync_all()?;
        }
    }
    folder::sync_folder(folder)
}
