//! Files of which no more is read than they can sensibly hold: a device by such a name must not fill the memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Far more than a configuration, a token or a set of keys needs.
const LONGEST: u64 = 1024 * 1024;

/// The bytes of a file.
///
/// # Errors
/// The system's own, and one for a file that is longer than 1 MiB.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_from(File::open(path)?)
}

/// The same for what is open already.
///
/// # Errors
/// As [`read`].
pub fn read_from(input: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "is longer than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_read_to_it() {
        assert_eq!(read_from(io::repeat(7).take(LONGEST)).unwrap().len(), 1 << 20);
        assert_eq!(read_from(io::repeat(7).take(LONGEST + 1)).unwrap_err().to_string(), "is longer than 1 MiB");
        assert_eq!(read(Path::new("/dev/zero")).unwrap_err().to_string(), "is longer than 1 MiB");
    }
}
