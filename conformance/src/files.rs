//! Files that the command line names.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// 1 MiB, far more than a token or a certificate chain needs.
const MAX_LENGTH: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub(crate) struct FileError {
    path: PathBuf,
    source: io::Error,
}

/// The bytes of a file of at most 1 MiB.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    File::open(path).and_then(read_bounded).map_err(|source| FileError { path: path.to_owned(), source })
}

/// A token or a secret, without the white space around it; `-` reads standard input.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let (name, bytes) = match path.to_str() {
        Some("-") => (Path::new("standard input"), read_bounded(io::stdin().lock())),
        _ => (path, File::open(path).and_then(read_bounded)),
    };
    let failed = |source| FileError { path: name.to_owned(), source };
    let bytes = bytes.map_err(failed)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn read_bounded(input: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    input.take(MAX_LENGTH + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_LENGTH {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "is longer than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, " a.b.c\n").unwrap();
        assert_eq!(read_text(&path).unwrap().as_str(), "a.b.c");
        std::fs::write(&path, [0xff]).unwrap();
        assert!(read_text(&path).is_err());
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("/dev/zero: is longer than 1 MiB"));
    }
}
