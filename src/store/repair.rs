//! What `writ store repair` is made of: see what is left, set it aside, begin anew, or take it as it is.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use chrono::Utc;

use super::database::{self, Database, attempt, damaged};
use super::engine::{Page, Start, count, count_readable};
use super::folder::{self, Lock, io_error};
use super::seal::{Seal, Tally};
use super::{Change, OpenError, Settings, Store, Table};

/// How many records a damaged store still has, and how many it should have.
#[derive(Debug, Clone)]
pub struct Survey {
    readable: Tally,
    sealed: Option<Tally>,
}

impl Survey {
    /// How many records of a table can be read.
    pub fn readable(&self, table: Table) -> u64 {
        self.readable.records(table)
    }

    /// How many records of a table there were when it was last sealed; `None` if the seal itself is lost.
    pub fn sealed(&self, table: Table) -> Option<u64> {
        Some(self.sealed.as_ref()?.records(table))
    }
}

/// Counts what can be read of a store that does not open, and what its seal says.
///
/// # Errors
/// [`OpenError`] if the folder cannot be had at all; damage is no error here.
pub fn survey(settings: &Settings) -> Result<Survey, OpenError> {
    let path = &settings.path;
    let _lock = lock(path)?;
    let readable = match open_found(path) {
        Ok(db) => count_readable(&db).0,
        Err(OpenError::Damaged { .. }) => Tally::default(),
        Err(error) => return Err(error),
    };
    // A seal that cannot be read says nothing.
    let sealed = Seal::open(path).ok().flatten().map(|seal| seal.sealed().clone());
    Ok(Survey { readable, sealed })
}

/// The records of one table, keys and values, as far as they can be read in a store that does not open.
///
/// They may be old, altered, or not all: what can be made of them is for the room to judge that wrote them.
///
/// # Errors
/// [`OpenError`] if the folder cannot be had at all; damage is no error here.
pub fn salvage(settings: &Settings, table: Table) -> Result<Page, OpenError> {
    let path = &settings.path;
    let _lock = lock(path)?;
    let db = match open_found(path) {
        Ok(db) => db,
        Err(OpenError::Damaged { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Page::new();
    let read = attempt(|| {
        for record in db.scan_prefix(table.record(&[])) {
            let (name, value) = record?;
            found.push((name[1..].to_vec(), value.to_vec()));
        }
        Ok(())
    });
    // Why not further is the damage that is being repaired.
    drop(read);
    Ok(found)
}

/// Moves the records and their seal to `<path>/damaged-<time>`; what is kept beside them stays.
///
/// Returns where they are now; `None` if there were none.
///
/// # Errors
/// [`OpenError`] if the store is in use or the file system refuses.
pub fn set_aside(settings: &Settings) -> Result<Option<PathBuf>, OpenError> {
    let path = &settings.path;
    let _lock = lock(path)?;
    let mut files = folder::engine_files(path).map_err(|source| io_error(path, source))?;
    // Last: as long as it is there, nobody takes the rest for a new store.
    files.extend(Some(folder::seal(path)).filter(|seal| seal.exists()));
    if files.is_empty() {
        return Ok(None);
    }
    let aside = path.join(format!("damaged-{}", Utc::now().format("%Y%m%dT%H%M%S%.3fZ")));
    DirBuilder::new().mode(0o700).create(&aside).map_err(|source| io_error(&aside, source))?;
    for file in files {
        let name = file.file_name().unwrap_or_default();
        fs::rename(&file, aside.join(name)).map_err(|source| io_error(&file, source))?;
    }
    for folder in [&aside, path] {
        folder::sync_folder(folder).map_err(|source| io_error(folder, source))?;
    }
    Ok(Some(aside))
}

/// Makes a new store with these records, although key files tell that there once was another; opens it.
///
/// All of the records are there, or the store does not open. The change's conditions are not looked at, and it may be
/// larger than [`Change::MAX_RECORDS`].
///
/// # Errors
/// [`OpenError`], also if the old records have not been [set aside](set_aside).
pub async fn create_after_repair(settings: &Settings, records: Change) -> Result<Store, OpenError> {
    Store::start(settings, Start::AfterRepair(records)).await
}

/// Takes the records as they are found for those that should be there.
///
/// # Errors
/// [`OpenError`] if there are none, not all of them can be read, or they are of another version.
pub fn reseal(settings: &Settings) -> Result<(), OpenError> {
    let path = &settings.path;
    let _lock = lock(path)?;
    let db = open_found(path)?;
    let found = count(path, &db)?;
    if found.is_empty() {
        return Err(damaged(path, "there are no records"));
    }
    let sealed = Seal::create(path).and_then(|mut seal| seal.settle(&found));
    sealed.map_err(|source| io_error(&folder::seal(path), source))
}

fn lock(path: &Path) -> Result<Lock, OpenError> {
    folder::prepare(path)?;
    Lock::acquire(path)
}

/// sled's database, but never a new one.
fn open_found(path: &Path) -> Result<Database, OpenError> {
    if folder::database(path).exists() { database::open(path) } else { Err(damaged(path, "there are no records")) }
}

#[cfg(test)]
mod tests {
    use super::super::Swapped;
    use super::*;

    fn settings(folder: &tempfile::TempDir) -> Settings {
        Settings { path: folder.path().join("store") }
    }

    async fn filled(settings: &Settings) {
        let store = Store::open(settings).await.unwrap();
        let change = Change::new().put(Table::Keys, b"k", "key").put(Table::Uses, b"u", "1");
        assert_eq!(store.swap(change).await.unwrap(), Swapped::Done);
        folder::write_file(&store.key_folder().join("k.json"), b"{}").unwrap();
        store.close().await;
    }

    async fn damage(settings: &Settings) -> String {
        match Store::open(settings).await {
            Err(OpenError::Damaged { what, .. }) => what,
            opened => panic!("{opened:?}"),
        }
    }

    #[tokio::test]
    async fn every_part_that_is_missing_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        let hidden = folder.path().join("hidden");
        for (part, complaint) in [("db", "its records are missing"), ("seal", "its seal is missing")] {
            fs::rename(settings.path.join(part), &hidden).unwrap();
            assert_eq!(damage(&settings).await, complaint);
            fs::rename(&hidden, settings.path.join(part)).unwrap();
        }
        Store::open(&settings).await.unwrap().close().await;
        set_aside(&settings).unwrap().unwrap();
        assert_eq!(damage(&settings).await, "there are key files, but no records");
    }

    #[tokio::test]
    async fn survey_tells_what_is_lost_and_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        let whole = survey(&settings).unwrap();
        assert_eq!((whole.readable(Table::Uses), whole.sealed(Table::Uses)), (1, Some(1)));
        fs::rename(settings.path.join("db"), folder.path().join("hidden")).unwrap();
        let lost = survey(&settings).unwrap();
        assert_eq!((lost.readable(Table::Uses), lost.sealed(Table::Uses)), (0, Some(1)));
        assert!(!settings.path.join("db").exists());
        fs::write(settings.path.join("seal"), b"").unwrap();
        assert_eq!(survey(&settings).unwrap().sealed(Table::Uses), None);
    }

    #[tokio::test]
    async fn salvage_takes_one_table_out_of_a_store_that_does_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        fs::remove_file(settings.path.join("seal")).unwrap();
        damage(&settings).await;
        assert_eq!(salvage(&settings, Table::Uses).unwrap(), [(b"u".to_vec(), b"1".to_vec())]);
        assert_eq!(salvage(&settings, Table::Blocks).unwrap(), []);
        fs::remove_file(settings.path.join("db")).unwrap();
        assert_eq!(salvage(&settings, Table::Uses).unwrap(), []);
        assert!(!settings.path.join("db").exists());
    }

    #[tokio::test]
    async fn repaired_store_begins_with_what_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        let before = create_after_repair(&settings, Change::new()).await.unwrap_err();
        assert!(matches!(before, OpenError::Damaged { .. }), "{before}");
        let aside = set_aside(&settings).unwrap().unwrap();
        assert!(aside.join("db").exists() && aside.join("seal").exists());
        assert!(set_aside(&settings).unwrap().is_none());
        // More than one change may hold, and than one segment of sled's file.
        let records = (0..4000_u16)
            .fold(Change::new(), |change, number| change.put(Table::History, &number.to_be_bytes(), vec![7; 400]));
        create_after_repair(&settings, records).await.unwrap().close().await;
        let store = Store::open(&settings).await.unwrap();
        assert_eq!(store.scan(Table::History).await.unwrap().len(), 4000);
        assert_eq!(store.scan(Table::Uses).await.unwrap(), vec![]);
    }

    #[tokio::test]
    async fn resealed_store_is_taken_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        filled(&settings).await;
        fs::remove_file(settings.path.join("seal")).unwrap();
        damage(&settings).await;
        reseal(&settings).unwrap();
        let store = Store::open(&settings).await.unwrap();
        assert_eq!(store.read(Table::Uses, b"u").await.unwrap(), Some(b"1".to_vec()));
        assert!(matches!(reseal(&settings), Err(OpenError::Locked { .. })));
    }

    #[test]
    fn nothing_is_not_resealed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(reseal(&settings(&folder)), Err(OpenError::Damaged { .. })));
        assert!(set_aside(&settings(&folder)).unwrap().is_none());
    }
}
