//! The key files: outside the store, each key's public half and life in a small file with a checksum.
//!
//! The history of keys cannot be recreated. If the store is lost or rolled back, the ring is rebuilt from these files;
//! and a file that is newer than the store reveals such a loss.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use writ_verifier::TrustDomain;

use super::public::Kid;
use super::ring::{KeyLife, KeyState};
use writ_platform::digest::sha256;

/// The folder of the files, and the trust domain that they belong to.
#[derive(Debug, Clone)]
pub(super) struct Mirror {
    folder: PathBuf,
    trust_domain: TrustDomain,
}

/// The content of all key files.
#[derive(Debug, Default)]
pub(super) struct KeyFiles {
    /// The lives of keys with intact files.
    pub(super) lives: Vec<KeyLife>,
    pub(super) damaged: Vec<DamagedFile>,
}

/// A key file that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct DamagedFile {
    /// The file.
    pub path: PathBuf,
    /// The problem with the file.
    pub reason: FileError,
}

/// The problem with a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The file system reported an error.
    #[error("the file cannot be read ({0})")]
    Unreadable(io::ErrorKind),
    /// Not a key file.
    #[error("this is not a key record")]
    Form,
    /// Altered or incomplete.
    #[error("the content does not match its checksum")]
    Checksum,
    /// The content belongs to another key.
    #[error("the file is not named after its key")]
    Name,
    /// From another installation.
    #[error("the key belongs to another trust domain")]
    TrustDomain,
}

/// The file: the checksum is over `content` byte for byte.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sha256: String,
    content: Box<RawValue>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    trust_domain: TrustDomain,
    key: KeyLife,
}

/// Why the key files could not be synchronised with the ring.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The file system reported an error.
    #[error("the key files cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// A file describes a key that signed or was revoked, and the store does not have it.
    #[error(
        "the store does not know the key {0}, which was in use: it has lost records or was rolled back; see `writ store repair`"
    )]
    Ahead(Kid),
}

impl Mirror {
    pub(super) fn new(folder: PathBuf, trust_domain: TrustDomain) -> Self {
        Self { folder, trust_domain }
    }

    /// Writes the file of each of these keys, durably. Blocks.
    pub(super) fn write(&self, lives: Vec<KeyLife>) -> Result<(), MirrorError> {
        for key in lives {
            let path = self.path(key.kid());
            let content = Content { trust_domain: self.trust_domain.clone(), key };
            writ_store::write_file(&path, &to_file(&content)?)?;
        }
        Ok(())
    }

    /// Synchronises the files with `lives`: writes missing, damaged and outdated ones. Blocks.
    ///
    /// Removes the file of a key that is not in `lives` and never signed: it was left by a step that was not taken.
    pub(super) fn refresh(&self, lives: Vec<KeyLife>) -> Result<(), MirrorError> {
        let KeyFiles { lives: found, damaged } = self.read()?;
        for file in damaged {
            tracing::warn!(%file, "a key file is unusable; it is rewritten if the key is known");
        }
        refuse_strangers(&found, &lives)?;
        let mut found: BTreeMap<Kid, KeyLife> = found.into_iter().map(|life| (life.kid().clone(), life)).collect();
        let outdated = lives.into_iter().filter(|life| found.remove(life.kid()).as_ref() != Some(life)).collect();
        for kid in found.keys() {
            fs::remove_file(self.path(kid))?;
        }
        self.write(outdated)
    }

    /// Fails if a file describes a used key that is not in `lives`. Changes nothing. Blocks.
    pub(super) fn check(&self, lives: &[KeyLife]) -> Result<(), MirrorError> {
        refuse_strangers(&self.read()?.lives, lives)
    }

    /// Reads every file. Blocks.
    pub(super) fn read(&self) -> Result<KeyFiles, MirrorError> {
        let mut files = KeyFiles::default();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                match self.read_file(&path) {
                    Ok(life) => files.lives.push(life),
                    Err(reason) => files.damaged.push(DamagedFile { path, reason }),
                }
            }
        }
        Ok(files)
    }

    fn read_file(&self, path: &Path) -> Result<KeyLife, FileError> {
        let unreadable = |error: io::Error| FileError::Unreadable(error.kind());
        // Opening a pipe can block forever.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(unreadable(io::ErrorKind::InvalidInput.into()));
        }
        let bytes = fs::read(path).map_err(unreadable)?;
        let Content { trust_domain, key } = from_file(&bytes)?;
        if trust_domain != self.trust_domain {
            Err(FileError::TrustDomain)
        } else if self.path(key.kid()) != path {
            Err(FileError::Name)
        } else {
            Ok(key)
        }
    }

    /// A `kid` is base64url and therefore a safe file name.
    fn path(&self, kid: &Kid) -> PathBuf {
        self.folder.join(format!("{kid}.json"))
    }
}

fn refuse_strangers(found: &[KeyLife], known: &[KeyLife]) -> Result<(), MirrorError> {
    let known: BTreeSet<&Kid> = known.iter().map(KeyLife::kid).collect();
    let is_stranger = |life: &&KeyLife| life.state() != KeyState::Next && !known.contains(life.kid());
    match found.iter().find(is_stranger) {
        Some(stranger) => Err(MirrorError::Ahead(stranger.kid().clone())),
        None => Ok(()),
    }
}

fn to_file(content: &Content) -> io::Result<Vec<u8>> {
    let content = serde_json::value::to_raw_value(content)?;
    let mut bytes = serde_json::to_vec(&File { sha256: checksum(&content), content })?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn from_file(bytes: &[u8]) -> Result<Content, FileError> {
    let file: File = serde_json::from_slice(bytes).map_err(|_| FileError::Form)?;
    if checksum(&file.content) != file.sha256 {
        return Err(FileError::Checksum);
    }
    serde_json::from_str(file.content.get()).map_err(|_| FileError::Form)
}

fn checksum(content: &RawValue) -> String {
    URL_SAFE_NO_PAD.encode(sha256(content.get().as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::keys::SigningAlgorithm;
    use crate::keys::public::PublicKey;
    use crate::keys::ring::Span;
    use crate::keys::signing::KeyPair;
    use writ_platform::clock::Timestamp;

    fn public() -> PublicKey {
        KeyPair::generate(SigningAlgorithm::ES256).unwrap().public().clone()
    }

    fn lives() -> Vec<KeyLife> {
        let span = Span::new(Timestamp::from_epoch(10), Timestamp::from_epoch(20));
        vec![
            KeyLife::Next { public: public(), created_at: Timestamp::from_epoch(10) },
            KeyLife::historical(public(), span, Duration::from_secs(30)),
            KeyLife::revoked(public(), Some(span), Timestamp::from_epoch(30)),
            KeyLife::Forgotten { kid: public().kid().clone() },
        ]
    }

    fn mirror(folder: &tempfile::TempDir) -> Mirror {
        Mirror::new(folder.path().to_owned(), "d.example".parse().unwrap())
    }

    fn sorted(mut lives: Vec<KeyLife>) -> Vec<KeyLife> {
        lives.sort_by_key(|life| life.kid().clone());
        lives
    }

    #[test]
    fn every_kind_of_life_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let lives = lives();
        mirror(&folder).write(lives.clone()).unwrap();
        let read = mirror(&folder).read().unwrap();
        assert_eq!((sorted(read.lives), read.damaged), (sorted(lives), Vec::new()));
    }

    #[test]
    fn no_changed_byte_and_no_cut_goes_unnoticed() {
        let folder = tempfile::tempdir().unwrap();
        let life = lives().remove(1);
        let mirror = mirror(&folder);
        mirror.write(vec![life.clone()]).unwrap();
        let path = mirror.path(life.kid());
        let good = fs::read(&path).unwrap();
        for index in 0..good.len() - 1 {
            let mut bad = good.clone();
            bad[index] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(mirror.read_file(&path).is_err(), "byte {index}");
            fs::write(&path, &good[..index]).unwrap();
            assert!(mirror.read_file(&path).is_err(), "{index} bytes");
        }
        fs::write(&path, good).unwrap();
        assert_eq!(mirror.read_file(&path), Ok(life));
    }

    #[test]
    fn a_file_under_another_name_or_of_another_trust_domain_is_unusable() {
        let folder = tempfile::tempdir().unwrap();
        let [life, other] = [lives().remove(0), lives().remove(0)];
        let mirror = mirror(&folder);
        mirror.write(vec![life.clone()]).unwrap();
        fs::rename(mirror.path(life.kid()), mirror.path(other.kid())).unwrap();
        assert_eq!(mirror.read().unwrap().damaged[0].reason, FileError::Name);
        fs::rename(mirror.path(other.kid()), mirror.path(life.kid())).unwrap();
        let elsewhere = Mirror::new(folder.path().to_owned(), "e.example".parse().unwrap());
        assert_eq!(elsewhere.read().unwrap().damaged[0].reason, FileError::TrustDomain);
    }

    #[test]
    fn refreshing_removes_what_was_never_used_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let lives = lives();
        mirror(&folder).write(lives.clone()).unwrap();
        mirror(&folder).refresh(lives[1..].to_vec()).unwrap();
        assert_eq!(sorted(mirror(&folder).read().unwrap().lives), sorted(lives[1..].to_vec()));
        for known in 2..4 {
            let ahead = mirror(&folder).refresh(lives[known..].to_vec());
            assert!(matches!(ahead, Err(MirrorError::Ahead(_))), "{ahead:?}");
        }
        assert_eq!(mirror(&folder).read().unwrap().lives.len(), 3);
    }
}
