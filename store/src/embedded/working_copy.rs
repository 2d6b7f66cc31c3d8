//! The working copy of sled's files, which sled opens instead of the originals.
//!
//! sled changes its files whenever it opens them, even if it then finds them damaged: it overwrites what looks like a
//! torn end or free space, and leaves a partial snapshot behind if the disk is full. So sled opens a copy. The
//! originals are not changed until the copy's records match the seal and the first change is to be written; then the
//! copy replaces them.
//!
//! An unfinished copy is in the folder `.opening` and has no effect. Renaming that folder to `.opened` commits it; its
//! files are then moved into place, by the next start if this process is interrupted. The file `tally` in it proves to
//! that start that the folder is a copy of this store, and not some other folder of that name.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustix::fs::{Advice, fadvise, statvfs};

use super::seal::{Seal, Tally};
use crate::OpenError;
use crate::folder::{self, io_error};

const UNFINISHED: &str = ".opening";
const FINISHED: &str = ".opened";
/// A file in a finished copy: the tally of its records, and the seal under which they were read.
const TALLY: &str = "tally";
const MAGIC: &[u8; 8] = b"WRITCOPY";

/// More than sled writes while it opens: a segment of its file and a snapshot.
const SPACE_TO_OPEN: u64 = 2 << 20;

/// The files that a copy starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// None: a new database.
    Nothing,
    /// All that sled needs.
    Everything,
    /// All but the snapshot, which only makes sled start faster and may be the damaged file.
    NoSnapshot,
    /// The records alone: without the snapshot, and without `conf`, which sled recreates.
    Records,
}

/// A copy, finished or not. An unfinished one is removed when dropped.
#[derive(Debug)]
pub(super) struct WorkingCopy {
    store: PathBuf,
    is_finished: bool,
}

impl WorkingCopy {
    /// Copies the files; the caller holds the lock and has called [`clean_up`].
    pub(super) fn make(store: &Path, source: Source) -> Result<Self, OpenError> {
        let copy = Self { store: store.to_owned(), is_finished: false };
        copy.fill(source)?;
        Ok(copy)
    }

    /// The copy's folder, until its files are moved into place.
    pub(super) fn folder(&self) -> PathBuf {
        self.store.join(UNFINISHED)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    fn fill(&self, source: Source) -> Result<(), OpenError> {
        let folder = self.folder();
        let created = DirBuilder::new().mode(0o700).create(&folder);
        created.map_err(|error| space_error(&self.store, &folder, error))?;
        for file in sources(&self.store, source).map_err(|error| io_error(&self.store, error))? {
            let target = folder.join(file_name(&file));
            copy(&file, &target).map_err(|error| space_error(&self.store, &file, error))?;
        }
        Ok(())
    }

    /// Replaces the store's files, durably, by all files in the copy's folder.
    ///
    /// `records` is the copy's tally. After an error either the originals or the copy are in force; the next opening
    /// finds out which.
    pub(super) fn finish(&mut self, records: &Tally) -> io::Result<()> {
        commit(&self.store, &self.folder(), records)?;
        self.is_finished = true;
        settle(&self.store)
    }
}

/// Replaces the store's files, durably, by those in `folder`, a complete database with these records and its seal.
///
/// After an error either the old files or the new ones are in force; the next [`clean_up`] finds out which.
pub(super) fn put_in_place(store: &Path, folder: &Path, records: &Tally) -> io::Result<()> {
    commit(store, folder, records)?;
    settle(store)
}

/// The moment from which the files in `folder` are the store's.
fn commit(store: &Path, folder: &Path, records: &Tally) -> io::Result<()> {
    folder::write_file(&folder.join(TALLY), &marker(records, store)?)?;
    sync_all_below(folder)?;
    fs::rename(folder, store.join(FINISHED))
}

fn settle(store: &Path) -> io::Result<()> {
    folder::sync_folder(store)?;
    move_into_place(store)
}

impl Drop for WorkingCopy {
    fn drop(&mut self) {
        if !self.is_finished {
            // The next opening removes what is left.
            let _ = remove_if_there(&self.folder());
        }
    }
}

/// Completes or discards the copy of an interrupted opening. The caller holds the lock.
///
/// # Errors
/// [`OpenError::Foreign`] if an entry cannot have been left by an opening; then nothing is changed.
pub(super) fn clean_up(store: &Path) -> Result<(), OpenError> {
    folder::check_files(store)?;
    let (unfinished, finished) = (store.join(UNFINISHED), store.join(FINISHED));
    folder::require_folder(&unfinished)?;
    folder::require_folder(&finished)?;
    if finished.try_exists().map_err(|source| io_error(&finished, source))? {
        check_finished(store, &finished)?;
        move_into_place(store).map_err(|source| io_error(&finished, source))?;
    }
    remove_if_there(&unfinished).map_err(|source| io_error(&unfinished, source))?;
    folder::remove_drafts(store)
}

/// Refuses a folder that has the name of a finished copy but is not a copy of this store: its files would replace the
/// store's.
fn check_finished(store: &Path, finished: &Path) -> Result<(), OpenError> {
    let at_finished = |source| io_error(finished, source);
    folder::check_files(finished)?;
    folder::require_file(&finished.join(TALLY))?;
    let names = folder::names(finished).map_err(at_finished)?;
    let is_own = |name: &OsStr| folder::is_engine_file(name) || name == "seal" || name == TALLY;
    if let Some(foreign) = names.iter().find(|name| !is_own(name)) {
        let path = finished.join(foreign);
        return Err(OpenError::Foreign { path, what: "does not belong to a copy that Writ made".to_owned() });
    }
    // The tally is removed last.
    if names.is_empty() || belongs_to(store, finished).map_err(at_finished)? {
        return Ok(());
    }
    let what = "is not a copy of this store that Writ finished: its file `tally` is missing or does not fit the seal";
    Err(OpenError::Foreign { path: finished.to_owned(), what: what.to_owned() })
}

/// Whether the copy's records match the store's seal; or whether the copy contains a seal of its own, made by a repair
/// for the seal that the store still has.
fn belongs_to(store: &Path, finished: &Path) -> io::Result<bool> {
    let bytes = match fs::read(finished.join(TALLY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        bytes => bytes?,
    };
    let mut rest = bytes.strip_prefix(MAGIC).unwrap_or_default();
    let Some(records) = Tally::read_from(&mut rest) else { return Ok(false) };
    let brought = Seal::content(finished)?;
    // Both folders may have the seal after a power cut: the copy's was moved, but its folder still lists it.
    if brought.is_some() && bytes != marker(&records, store)? && brought != Seal::content(store)? {
        return Ok(false);
    }
    let knows = |folder: &Path| match Seal::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(false),
        seal => Ok::<_, io::Error>(seal?.is_some_and(|seal| seal.matches(&records))),
    };
    if brought.is_some() { knows(finished) } else { knows(store) }
}

fn marker(records: &Tally, store: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = MAGIC.to_vec();
    records.write_to(&mut bytes);
    match Seal::content(store)? {
        Some(seal) => bytes.extend(digest(&SHA256, &seal).as_ref()),
        None => bytes.extend([0; SHA256_OUTPUT_LEN]),
    }
    let checksum = digest(&SHA256, &bytes);
    bytes.extend(checksum.as_ref());
    Ok(bytes)
}

fn copy(file: &Path, target: &Path) -> io::Result<()> {
    // Sync before concluding anything from the content: after a failed write, the system may still show data that never
    // reached the disk.
    let opened = File::open(file)?;
    opened.sync_all()?;
    if opened.metadata()?.is_dir() {
        DirBuilder::new().mode(0o700).create(target)?;
        for blob in folder::names(file)? {
            fs::copy(file.join(&blob), target.join(&blob))?;
        }
    } else {
        fadvise(&opened, 0, None, Advice::DontNeed)?;
        fs::copy(file, target)?;
    }
    Ok(())
}

/// Checks, before anything is changed, that the disk has space for a copy and accepts writes.
pub(super) fn probe(store: &Path) -> Result<(), OpenError> {
    probe_for(store, space_needed(store).map_err(|source| io_error(store, source))?)
}

/// Checks that the disk has the space that sled needs to open files which are not copied.
pub(super) fn probe_to_open(store: &Path) -> Result<(), OpenError> {
    probe_for(store, SPACE_TO_OPEN)
}

fn probe_for(store: &Path, needed: u64) -> Result<(), OpenError> {
    let space = || {
        let disk = statvfs(store)?;
        Ok::<_, io::Error>(disk.f_bavail.saturating_mul(disk.f_frsize))
    };
    if space().map_err(|source| io_error(store, source))? < needed {
        return Err(OpenError::NoSpace { path: store.to_owned(), needed });
    }
    folder::probe(store).map_err(|error| space_error(store, store, error))
}

fn space_needed(store: &Path) -> io::Result<u64> {
    let mut needed = SPACE_TO_OPEN;
    for file in sources(store, Source::Everything)? {
        needed += fs::metadata(file)?.len();
    }
    Ok(needed)
}

fn space_error(store: &Path, at: &Path, error: io::Error) -> OpenError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let needed = space_needed(store).unwrap_or(SPACE_TO_OPEN);
            OpenError::NoSpace { path: store.to_owned(), needed }
        }
        _ => io_error(at, error),
    }
}

/// The files that sled reads. Of the snapshots only the newest counts; older and unfinished ones are leftovers.
fn sources(store: &Path, source: Source) -> io::Result<Vec<PathBuf>> {
    if source == Source::Nothing {
        return Ok(Vec::new());
    }
    let mut files = folder::engine_files(store)?;
    let newest = files.iter().filter(|file| is_snapshot(file)).max().cloned();
    files.retain(|file| !file_name(file).as_encoded_bytes().starts_with(b"snap."));
    match source {
        Source::Everything => files.extend(newest),
        Source::Records => files.retain(|file| file_name(file) != "conf"),
        Source::NoSnapshot | Source::Nothing => {}
    }
    Ok(files)
}

/// Removes the snapshots that sled has not finished, for example on a full disk: it takes them for damage.
pub(super) fn remove_unfinished_snapshots(folder: &Path) -> io::Result<()> {
    let is_unfinished = |file: &PathBuf| file_name(file).as_encoded_bytes().starts_with(b"snap.") && !is_snapshot(file);
    folder::engine_files(folder)?.into_iter().filter(is_unfinished).try_for_each(fs::remove_file)
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
/// Can be interrupted at any point and repeated. A snapshot belongs to one database file: the old ones are removed
/// before the new file arrives, and the new one is moved after it.
fn move_into_place(store: &Path) -> io::Result<()> {
    let from = store.join(FINISHED);
    if folder::database(&from).try_exists()? {
        for file in folder::engine_files(store)? {
            if file_name(&file).as_encoded_bytes().starts_with(b"snap.") {
                fs::remove_file(file)?;
            }
        }
        for name in folder::names(&from)? {
            if name != "db" && name != TALLY && !name.as_encoded_bytes().starts_with(b"snap.") {
                replace(&from.join(&name), &store.join(&name))?;
            }
        }
        folder::sync_folder(store)?;
        replace(&folder::database(&from), &folder::database(store))?;
        folder::sync_folder(store)?;
        folder::sync_folder(&from)?;
    }
    for name in folder::names(&from)? {
        if name != TALLY {
            replace(&from.join(&name), &store.join(&name))?;
        }
    }
    folder::sync_folder(store)?;
    folder::sync_folder(&from)?;
    // Only an otherwise empty folder may be without the tally.
    remove_file_if_there(&from.join(TALLY))?;
    fs::remove_dir(&from)?;
    folder::sync_folder(store)
}

/// Renames; also replaces a non-empty folder.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_dir() {
        remove_if_there(to)?;
    }
    fs::rename(from, to)?;
    // A rename does nothing if both are names of one file, which a power cut can leave.
    remove_file_if_there(from)
}

fn remove_if_there(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn remove_file_if_there(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Syncs everything, and removes permissions of group and others: sled creates files by the umask.
pub(super) fn sync_all_below(folder: &Path) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(record: &[u8]) -> Tally {
        let mut tally = Tally::default();
        assert!(tally.add(record, b"1"));
        tally
    }

    /// A store with nothing but the seal, and a copy as left by a process that ended while moving it.
    fn interrupted(store: &Path, held: &Tally, copied: &Tally, brings_seal: bool) {
        folder::prepare(store).unwrap();
        Seal::create(store, held).unwrap();
        let finished = store.join(FINISHED);
        DirBuilder::new().create(&finished).unwrap();
        fs::write(folder::database(&finished), b"records").unwrap();
        if brings_seal {
            Seal::create(&finished, copied).unwrap();
        }
        fs::write(finished.join(TALLY), marker(copied, store).unwrap()).unwrap();
    }

    fn store() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        (folder, store)
    }

    #[test]
    fn finished_copy_is_moved_into_place_wherever_that_was_interrupted() {
        let (old, new) = (tally(b"\x01a"), tally(b"\x01b"));
        for (copied, brings_seal, is_still_listed) in
            [(&old, false, false), (&old, false, true), (&new, true, false), (&new, true, true)]
        {
            for moved in 0..=3 {
                let (_folder, store) = store();
                interrupted(&store, &old, copied, brings_seal);
                let names = if brings_seal { ["seal", "db", TALLY] } else { ["db", TALLY, ""] };
                for name in names.into_iter().filter(|name| !name.is_empty()).take(moved) {
                    let (file, target) = (store.join(FINISHED).join(name), store.join(name));
                    if name != TALLY {
                        remove_file_if_there(&target).unwrap();
                        fs::hard_link(&file, &target).unwrap();
                    }
                    // The last file that is moved may be in both folders after a power cut; the tally goes after them all.
                    let is_last = name == names[moved - 1];
                    if name == TALLY || !(is_still_listed && is_last) {
                        fs::remove_file(&file).unwrap();
                    }
                }
                clean_up(&store).unwrap();
                assert!(!store.join(FINISHED).exists() && !store.join(TALLY).exists());
                assert_eq!(fs::read(folder::database(&store)).unwrap(), b"records");
                assert!(Seal::open(&store).unwrap().unwrap().matches(copied));
            }
        }
    }

    #[test]
    fn finished_copy_of_another_store_is_foreign() {
        let (own, other) = (tally(b"\x01a"), tally(b"\x01b"));
        for (copied, brings_seal) in [(&other, false), (&own, true), (&other, true)] {
            let (_folder, store) = store();
            interrupted(&store, &other, copied, brings_seal);
            fs::remove_file(folder::seal(&store)).unwrap();
            Seal::create(&store, &own).unwrap().announce(&own, &own).unwrap();
            let refused = clean_up(&store).unwrap_err();
            assert!(matches!(&refused, OpenError::Foreign { path, .. } if *path == store.join(FINISHED)), "{refused}");
            assert!(folder::database(&store.join(FINISHED)).exists() && !folder::database(&store).exists());
        }
    }
}
