//! Reads files up to a limit, so that a device or a log configured by mistake cannot exhaust memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The limit; configurations, tokens and key sets are far smaller.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads a whole file.
///
/// # Errors
/// [`io::Error`]; of kind [`io::ErrorKind::FileTooLarge`] if the file is longer than 1 MiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_from(File::open(path)?)
}

/// Reads everything from an open file or stream.
///
/// # Errors
/// As [`read`].
pub fn read_from(input: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "is longer than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_1_mib_is_refused() {
        assert_eq!(read_from(io::repeat(7).take(MAX_BYTES)).unwrap().len(), 1 << 20);
        assert_eq!(read_from(io::repeat(7).take(MAX_BYTES + 1)).unwrap_err().to_string(), "is longer than 1 MiB");
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().to_string(), "is longer than 1 MiB");
    }
}
