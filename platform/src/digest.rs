//! SHA-256 (FIPS 180-4).

use aws_lc_rs::digest::{Context, SHA256, digest};

/// The length of a SHA-256 value in bytes.
pub const SHA256_LEN: usize = 32;

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; SHA256_LEN] {
    to_array(digest(&SHA256, bytes).as_ref())
}

/// SHA-256 of all `parts`, each preceded by its length (eight bytes, big-endian), so that moving bytes from one part to
/// the next changes the value.
pub fn sha256_of_parts(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> [u8; SHA256_LEN] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        let part = part.as_ref();
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    to_array(context.finish().as_ref())
}

fn to_array(value: &[u8]) -> [u8; SHA256_LEN] {
    value.try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4, the example of one block.
    #[test]
    fn abc_has_its_published_value() {
        let expected = [
            0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03,
            0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad,
        ];
        assert_eq!(sha256(b"abc"), expected);
    }

    #[test]
    fn parts_are_separate() {
        assert_eq!(sha256_of_parts(["a"]), sha256(b"\0\0\0\0\0\0\0\x01a"));
        assert_ne!(sha256_of_parts(["ab", "c"]), sha256_of_parts(["a", "bc"]));
        assert_ne!(sha256_of_parts(["a"]), sha256_of_parts(["a", ""]));
    }
}
