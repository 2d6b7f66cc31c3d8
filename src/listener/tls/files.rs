//! The files as read, and what is made of them when they are complete and fit together.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{self, SHA256};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::Settings;
use super::crl::{CrlMark, timestamp};
use super::verifier::Verifier;
use crate::clock::Timestamp;

/// A file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct TlsError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a TLS file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is no PEM, or ends in the middle of a block.
    #[error("is not well-formed PEM")]
    NotPem,
    /// It holds no certificate.
    #[error("holds no certificate")]
    NoCertificate,
    /// It holds no private key that can be used.
    #[error("holds no private key that can be used")]
    NoPrivateKey,
    /// It holds no CRL; taken as it is, that would switch revocation off.
    #[error("holds no CRL")]
    NoCrl,
    /// A certificate in it cannot be read.
    #[error("holds a certificate that cannot be read")]
    BadCertificate,
    /// A CRL in it cannot be read or is of a kind that is not supported.
    #[error("holds a CRL that cannot be used")]
    BadCrl,
    /// The certificate belongs to another private key.
    #[error("is a certificate for another private key")]
    KeyMismatch,
    /// The certificate has expired.
    #[error("expired at {0}")]
    Expired(Timestamp),
    /// The certificate is not valid yet.
    #[error("is not valid before {0}")]
    NotYetValid(Timestamp),
    /// The CRL in force is newer.
    #[error("holds a CRL that is older than the one in force")]
    OlderCrl,
}

impl Problem {
    fn at(self, file: &Path) -> TlsError {
        TlsError { file: file.to_owned(), problem: self }
    }
}

/// The crypto of every listener.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The server's two files, as read.
pub(super) struct PairFiles {
    certificate: Vec<u8>,
    private_key: Zeroizing<Vec<u8>>,
}

pub(super) fn read_pair(settings: &Settings) -> Result<PairFiles, TlsError> {
    Ok(PairFiles {
        certificate: read(&settings.certificate)?,
        private_key: Zeroizing::new(read(&settings.private_key)?),
    })
}

impl PairFiles {
    pub(super) fn digest(&self) -> [u8; 32] {
        digest_of([self.certificate.as_slice(), &self.private_key])
    }
}

/// The server's certificate with its key.
pub(super) struct ServerPair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) expires_at: Timestamp,
    pub(super) digest: [u8; 32],
}

impl ServerPair {
    /// A pair that belongs together and is valid at `now`.
    pub(super) fn parse(settings: &Settings, files: &PairFiles, now: Timestamp) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate, &settings.certificate)?;
        let private_key = PrivateKeyDer::from_pem_slice(&files.private_key)
            .map_err(|_| Problem::NoPrivateKey.at(&settings.private_key))?;
        let (not_before, not_after) =
            validity(&chain[0]).ok_or_else(|| Problem::BadCertificate.at(&settings.certificate))?;
        if now > not_after {
            return Err(Problem::Expired(not_after).at(&settings.certificate));
        }
        if now < not_before {
            return Err(Problem::NotYetValid(not_before).at(&settings.certificate));
        }
        let key = CertifiedKey::from_der(chain, private_key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Problem::KeyMismatch.at(&settings.certificate),
            rustls::Error::InvalidCertificate(_) => Problem::BadCertificate.at(&settings.certificate),
            _ => Problem::NoPrivateKey.at(&settings.private_key),
        })?;
        Ok(Self { key: Arc::new(key), expires_at: not_after, digest: files.digest() })
    }
}

/// The client CAs and their CRLs, as read.
pub(super) struct ClientFiles {
    ca: Vec<u8>,
    crls: Vec<Vec<u8>>,
    read_at: Timestamp,
}

pub(super) fn read_clients(settings: &Settings, now: Timestamp) -> Result<ClientFiles, TlsError> {
    let crls = settings.client_crls.iter().map(|file| read(file)).collect::<Result<_, _>>()?;
    Ok(ClientFiles { ca: read(&settings.client_ca)?, crls, read_at: now })
}

impl ClientFiles {
    /// Names what the files say at the time of reading: the end of a CA changes it too.
    pub(super) fn digest(&self) -> [u8; 32] {
        let live = certificates_in(&self.ca).filter_map(Result::ok).filter(|ca| is_live(ca, self.read_at)).count();
        let parts = [self.ca.as_slice()].into_iter().chain(self.crls.iter().map(Vec::as_slice));
        digest_of(parts.chain([live.to_be_bytes().as_slice()]))
    }
}

/// Whose client certificates are believed, and which of them no more.
pub(super) struct ClientTrust {
    pub(super) verifier: Verifier,
    pub(super) crls: Vec<CrlMark>,
    pub(super) crl_expires_at: Option<Timestamp>,
    pub(super) digest: [u8; 32],
    cas: Vec<CertificateDer<'static>>,
    /// Where each of `crls` stands.
    crl_files: Vec<PathBuf>,
}

impl ClientTrust {
    /// What is made of the files; `in_force` are the CRLs that none of the new ones may fall behind.
    pub(super) fn parse(
        settings: &Settings,
        files: &ClientFiles,
        in_force: Option<&[CrlMark]>,
    ) -> Result<Self, TlsError> {
        let cas = certificates(&files.ca, &settings.client_ca)?;
        let digest = files.digest();
        let mut lists = Vec::new();
        let (mut crls, mut crl_files) = (Vec::new(), Vec::new());
        for (file, pem) in settings.client_crls.iter().zip(&files.crls) {
            for list in crls_in(pem, file)? {
                let mark = CrlMark::of(&list).ok_or_else(|| Problem::BadCrl.at(file))?;
                if in_force.unwrap_or_default().iter().any(|current| mark.is_older_than(current)) {
                    return Err(Problem::OlderCrl.at(file));
                }
                lists.push(list);
                crls.push(mark);
                crl_files.push(file.clone());
            }
        }
        let live = cas.iter().filter(|ca| is_live(ca, files.read_at)).cloned().collect();
        let verifier = Verifier::new(
            roots(live).ok_or_else(|| Problem::BadCertificate.at(&settings.client_ca))?,
            roots(cas.clone()).ok_or_else(|| Problem::BadCertificate.at(&settings.client_ca))?,
            &lists,
        )
        .map_err(|_| Problem::BadCrl.at(settings.client_crls.first().unwrap_or(&settings.client_ca)))?;
        let crl_expires_at = crls.iter().filter_map(|mark: &CrlMark| mark.next_update).min();
        Ok(Self { verifier, crls, crl_expires_at, digest, cas, crl_files })
    }

    /// A CA without CRL while others have one, and what has expired.
    pub(super) fn warnings(&self, settings: &Settings, now: Timestamp) -> Vec<String> {
        let mut warnings = Vec::new();
        for ca in &self.cas {
            let Ok((_, parsed)) = X509Certificate::from_der(ca) else { continue };
            let (file, name) = (settings.client_ca.display(), parsed.subject());
            if !is_live(ca, now) {
                warnings.push(format!("{file}: the CA {name} is not valid now; all of its certificates are refused"));
            }
            if !self.crls.is_empty() && !self.crls.iter().any(|mark| mark.is_by(name.as_raw())) {
                warnings.push(format!("{file}: the CA {name} has no CRL; all of its certificates are refused"));
            }
        }
        for (file, mark) in self.crl_files.iter().zip(&self.crls) {
            if let Some(at) = mark.next_update.filter(|at| *at <= now) {
                let file = file.display();
                warnings.push(format!("{file}: a CRL expired at {at}; all certificates of its CA are refused"));
            }
        }
        warnings
    }
}

fn roots(cas: Vec<CertificateDer<'static>>) -> Option<RootCertStore> {
    let mut store = RootCertStore::empty();
    for ca in cas {
        store.add(ca).ok()?;
    }
    Some(store)
}

fn is_live(certificate: &CertificateDer<'_>, now: Timestamp) -> bool {
    validity(certificate).is_some_and(|(not_before, not_after)| not_before <= now && now <= not_after)
}

/// The first and the last second in which a certificate is valid.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    Some((timestamp(validity.not_before.timestamp()), timestamp(validity.not_after.timestamp())))
}

fn certificates_in(pem: &[u8]) -> impl Iterator<Item = Result<CertificateDer<'static>, PemError>> {
    CertificateDer::pem_slice_iter(pem)
}

fn certificates(pem: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = certificates_in(pem).collect::<Result<Vec<_>, _>>().map_err(|_| Problem::NotPem.at(file))?;
    if found.is_empty() { Err(Problem::NoCertificate.at(file)) } else { Ok(found) }
}

fn crls_in(pem: &[u8], file: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let found = CertificateRevocationListDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Problem::NotPem.at(file))?;
    if found.is_empty() { Err(Problem::NoCrl.at(file)) } else { Ok(found) }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|error| Problem::Unreadable(error).at(file))
}

/// SHA-256 over the parts, each with its length, so that no byte can move from one to the next unseen.
fn digest_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = digest::Context::new(&SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}
