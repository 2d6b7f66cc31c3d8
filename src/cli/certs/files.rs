//! The files in a folder of certificates, written once: everyone can read certificates, only the owner can read keys.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::CertsError;
use super::authority::Pair;

pub(super) fn paths(dir: &Path, (certificate, key): (&str, &str)) -> [PathBuf; 2] {
    [dir.join(certificate), dir.join(key)]
}

/// Whether both files of the pair exist; if only one does, an error.
pub(super) fn has_pair(dir: &Path, pair: (&str, &str)) -> Result<bool, CertsError> {
    let [certificate, key] = paths(dir, pair);
    match (certificate.exists(), key.exists()) {
        (true, false) => Err(CertsError::HalfPair { present: certificate, missing: key }),
        (false, true) => Err(CertsError::HalfPair { present: key, missing: certificate }),
        (both, _) => Ok(both),
    }
}

pub(super) fn write_pair(dir: &Path, files: (&str, &str), pair: &Pair) -> Result<[PathBuf; 2], CertsError> {
    let [certificate, key] = paths(dir, files);
    let key = create(&key, &pair.key)?;
    Ok([create_public(&certificate, &pair.certificate)?, key])
}

/// Creates a file that only its owner can read.
pub(in crate::cli) fn create(path: &Path, text: &str) -> Result<PathBuf, CertsError> {
    create_with(path, text, 0o600)
}

/// Creates a file that contains no secret.
pub(in crate::cli) fn create_public(path: &Path, text: &str) -> Result<PathBuf, CertsError> {
    create_with(path, text, 0o644)
}

fn create_with(path: &Path, text: &str, mode: u32) -> Result<PathBuf, CertsError> {
    let file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(CertsError::Exists(path.to_owned())),
        opened => opened.map_err(io_error(path))?,
    };
    // The umask of the process denies others any access.
    let written = file.set_permissions(Permissions::from_mode(mode)).and_then(|()| write_through(file, path, text));
    written.map_err(|source| {
        // The next run would keep an incomplete file.
        let _ = fs::remove_file(path);
        io_error(path)(source)
    })?;
    Ok(path.to_owned())
}

/// Syncs file and directory entry: without its sealing key everything that it sealed is lost.
fn write_through(mut file: File, path: &Path, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

pub(in crate::cli) fn read(path: &Path) -> Result<Zeroizing<String>, CertsError> {
    fs::read_to_string(path).map(Zeroizing::new).map_err(io_error(path))
}

pub(in crate::cli) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CertsError + '_ {
    move |source| CertsError::Io { path: path.to_owned(), source }
}
