//! Files that only their owner, or its group, may read: private keys and sealing keys.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The limit; keys are far smaller.
const MAX_BYTES: u64 = 1024 * 1024;

/// Why a secret file is refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct SecretFileError {
    path: PathBuf,
    reason: Reason,
}

#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("{0}")]
    Unreadable(io::Error),
    #[error("is not a regular file of at most 1 MiB")]
    NotRegular,
    #[error("has mode {0:04o}: others can read it, or someone besides its owner can write it; use 0600, or 0640")]
    Exposed(u32),
}

impl SecretFileError {
    /// The reason without the path.
    pub fn reason(&self) -> String {
        self.reason.to_string()
    }
}

/// Reads a secret file whose mode denies others access. Its group may read it, as is common for secrets mounted into
/// containers; use [`group_can_read`] to warn of that.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    open_and_read(path).map_err(|reason| SecretFileError { path: path.to_owned(), reason })
}

/// Whether every member of the file's group can read the secret.
pub fn group_can_read(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o040 != 0)
}

fn open_and_read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Reason> {
    let file = File::open(path).map_err(Reason::Unreadable)?;
    // Of the open file, so that the file checked is the file read.
    let metadata = file.metadata().map_err(Reason::Unreadable)?;
    check(&metadata)?;
    // Large enough from the start: growing would leave copies of the secret in freed memory.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.take(MAX_BYTES).read_to_end(&mut content).map_err(Reason::Unreadable)?;
    Ok(content)
}

fn check(metadata: &Metadata) -> Result<(), Reason> {
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(Reason::NotRegular);
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o026 == 0 { Ok(()) } else { Err(Reason::Exposed(mode)) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file_of_mode(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.key");
        fs::write(&path, "secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    ///
    #[test]
    fn a_file_that_others_can_read_or_change_is_refused_with_its_mode() {
        for mode in [0o644, 0o604, 0o620, 0o602, 0o666, 0o660] {
            let (_folder, path) = file_of_mode(mode);
            let text = read(&path).unwrap_err().to_string();
            assert!(text.contains(&format!("{mode:04o}")) && text.contains("secret.key"), "{text}");
        }
    }

    ///
    #[test]
    fn a_file_that_its_group_can_read_is_accepted_and_reported() {
        let (_folder, path) = file_of_mode(0o640);
        assert_eq!(*read(&path).unwrap(), b"secret");
        assert!(group_can_read(&path));
        let (_folder, path) = file_of_mode(0o400);
        assert!(read(&path).is_ok() && !group_can_read(&path));
    }

    #[test]
    fn a_folder_and_a_missing_file_are_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap_err().reason().contains("regular file"));
        let missing = folder.path().join("missing.key");
        assert!(read(&missing).unwrap_err().to_string().contains("missing.key"));
    }
}
