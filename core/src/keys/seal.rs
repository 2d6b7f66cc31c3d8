//! Encryption of private halves at rest: AES-256-GCM with the sealing key, bound to `kid`, algorithm and store.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::public::PublicKey;

/// 32 random bytes.
pub type SealingKey = Zeroizing<[u8; 32]>;

/// The key that seals, and previous ones that still open.
pub struct SealingKeys {
    current: RandomizedNonceKey,
    previous: Vec<RandomizedNonceKey>,
}

/// A sealed private half: nonce, ciphertext and tag; base64 in JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Sealed(Vec<u8>);

/// A decrypted private half.
pub(super) struct Opened {
    /// PKCS#8.
    pub(super) private: Zeroizing<Vec<u8>>,
    /// Whether it was sealed with a previous sealing key and should be sealed again.
    pub(super) stale: bool,
}

/// The place that a sealed private half is bound to. It does not open in another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    /// The id of the store.
    pub(super) store: &'a str,
    /// The key's public half.
    pub(super) key: &'a PublicKey,
}

/// Why a private half cannot be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The file does not contain a sealing key.
    #[error("a sealing key is 32 random bytes in base64")]
    KeyForm,
    /// The sealing key is wrong, or the sealed bytes were changed or moved.
    #[error(
        "the private keys in the store do not open with this sealing key; use the old key, or list it in \
         keys.previous_sealing_keys"
    )]
    Closed,
    /// The cipher failed.
    #[error("the private key could not be sealed")]
    Failed,
}

/// Parses the content of a sealing key's file: base64 of 32 bytes, with nothing but white space around it.
pub fn parse_sealing_key(file: &[u8]) -> Result<SealingKey, SealError> {
    let bytes = STANDARD.decode(file.trim_ascii()).map(Zeroizing::new).map_err(|_| SealError::KeyForm)?;
    let key: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| SealError::KeyForm)?;
    Ok(Zeroizing::new(*key))
}

impl SealingKeys {
    /// Seals with `current`; opens with `previous` too.
    pub fn new(current: &SealingKey, previous: &[SealingKey]) -> Result<Self, SealError> {
        let cipher =
            |key: &SealingKey| RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| SealError::Failed);
        Ok(Self { current: cipher(current)?, previous: previous.iter().map(cipher).collect::<Result<_, _>>()? })
    }

    pub(super) fn seal(&self, private: &[u8], place: Place<'_>) -> Result<Sealed, SealError> {
        let mut bytes = Zeroizing::new(private.to_vec());
        let failed = |_| SealError::Failed;
        let (nonce, tag) = self.current.seal_in_place_separate_tag(place.aad(), &mut bytes).map_err(failed)?;
        Ok(Sealed([nonce.as_ref().as_slice(), bytes.as_slice(), tag.as_ref()].concat()))
    }

    pub(super) fn open(&self, sealed: &Sealed, place: Place<'_>) -> Result<Opened, SealError> {
        if let Some(private) = open_with(&self.current, sealed, place) {
            return Ok(Opened { private, stale: false });
        }
        let private = self.previous.iter().find_map(|key| open_with(key, sealed, place));
        private.map(|private| Opened { private, stale: true }).ok_or(SealError::Closed)
    }
}

fn open_with(key: &RandomizedNonceKey, sealed: &Sealed, place: Place<'_>) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, ciphertext) = sealed.0.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut bytes = Zeroizing::new(ciphertext.to_vec());
    let len = key.open_in_place(nonce, place.aad(), &mut bytes).ok()?.len();
    bytes.truncate(len);
    Some(bytes)
}

impl Place<'_> {
    fn aad(self) -> Aad<Vec<u8>> {
        // None of the three can contain a line feed.
        Aad::from(format!("{}\n{}\n{}", self.store, self.key.kid(), self.key.algorithm()).into_bytes())
    }
}

impl fmt::Debug for SealingKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKeys(…)")
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(…)")
    }
}

impl From<Sealed> for String {
    fn from(sealed: Sealed) -> Self {
        STANDARD.encode(sealed.0)
    }
}

impl TryFrom<String> for Sealed {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, base64::DecodeError> {
        STANDARD.decode(text).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SigningAlgorithm;
    use crate::keys::signing::KeyPair;

    fn keys(current: u8, previous: &[u8]) -> SealingKeys {
        let previous: Vec<_> = previous.iter().map(|&byte| Zeroizing::new([byte; 32])).collect();
        SealingKeys::new(&Zeroizing::new([current; 32]), &previous).unwrap()
    }

    fn public() -> PublicKey {
        KeyPair::generate(SigningAlgorithm::EdDSA).unwrap().public().clone()
    }

    #[test]
    fn what_was_sealed_opens_again() {
        let key = public();
        let place = Place { store: "s", key: &key };
        let sealed = keys(1, &[]).seal(b"private", place).unwrap();
        let read: Sealed = serde_json::from_str(&serde_json::to_string(&sealed).unwrap()).unwrap();
        let opened = keys(1, &[]).open(&read, place).unwrap();
        assert_eq!((opened.private.as_slice(), opened.stale), (b"private".as_slice(), false));
    }

    /// R-KEYS-12: by their types.
    #[test]
    fn private_bytes_outside_of_their_seal_are_wiped_after_use() {
        fn wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let pair = KeyPair::generate(SigningAlgorithm::EdDSA).unwrap();
        let (pkcs8, place) = (pair.pkcs8().unwrap(), Place { store: "s", key: pair.public() });
        let opened = keys(1, &[]).open(&keys(1, &[]).seal(&pkcs8, place).unwrap(), place).unwrap();
        wiped(&pkcs8);
        wiped(&opened.private);
        wiped(&parse_sealing_key(STANDARD.encode([1; 32]).as_bytes()).unwrap());
    }

    #[test]
    fn a_previous_sealing_key_still_opens_and_says_so() {
        let key = public();
        let place = Place { store: "s", key: &key };
        let sealed = keys(1, &[]).seal(b"private", place).unwrap();
        assert!(keys(2, &[3, 1]).open(&sealed, place).unwrap().stale);
        assert_eq!(keys(2, &[3]).open(&sealed, place).err(), Some(SealError::Closed));
    }

    #[test]
    fn in_another_place_it_does_not_open() {
        let (key, other) = (public(), public());
        let sealed = keys(1, &[]).seal(b"private", Place { store: "s", key: &key }).unwrap();
        for place in [Place { store: "t", key: &key }, Place { store: "s", key: &other }] {
            assert_eq!(keys(1, &[]).open(&sealed, place).err(), Some(SealError::Closed));
        }
    }

    #[test]
    fn no_changed_bit_and_no_cut_goes_unnoticed() {
        let key = public();
        let place = Place { store: "s", key: &key };
        let Sealed(good) = keys(1, &[]).seal(b"private", place).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(keys(1, &[]).open(&Sealed(bad), place).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(keys(1, &[]).open(&Sealed(good[..len].to_vec()), place).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn sealing_the_same_twice_looks_different() {
        let key = public();
        let place = Place { store: "s", key: &key };
        let keys = keys(1, &[]);
        assert_ne!(keys.seal(b"private", place).unwrap(), keys.seal(b"private", place).unwrap());
    }

    #[test]
    fn a_sealing_key_file_holds_32_bytes_in_base64() {
        let good = STANDARD.encode([7; 32]);
        assert_eq!(*parse_sealing_key(format!("{good}\n").as_bytes()).unwrap(), [7; 32]);
        for bad in
            [String::new(), good.replace('=', ""), STANDARD.encode([7; 31]), STANDARD.encode([7; 33]), "é".into()]
        {
            assert_eq!(parse_sealing_key(bad.as_bytes()), Err(SealError::KeyForm), "{bad}");
        }
    }
}
