//! The files of `[tls]` → certificate and trust, if they are complete and fit together.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use writ_verifier::pem::{self, PemError};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::anchor::{Anchor, NoCa};
use super::crl::{BadCrl, CrlMemory, List, Notice, Revocations, first_to_expire};
use super::refusal::{not_after, not_before};
use super::verifier::Verifier;
use super::{ClientCa, Settings};
use writ_platform::clock::Timestamp;
use writ_platform::digest::sha256_of_parts;

/// A file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub(crate) struct TlsError {
    pub(crate) file: PathBuf,
    #[source]
    pub(crate) problem: Problem,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// A PEM block is not of the expected kind, or there is none.
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("is not PEM but DER; convert it with openssl x509 -inform DER")]
    Der,
    #[error("contains no usable private key")]
    NoPrivateKey,
    #[error("block {0} (CERTIFICATE) cannot be read")]
    BadCertificate(usize),
    /// A certificate in it cannot be a trust anchor.
    #[error("block {block} {why}")]
    NoCa {
        /// The number of its PEM block.
        block: usize,
        why: NoCa,
    },
    /// A CRL in it cannot be read or is of a kind that is not supported.
    #[error("block {block} {why}")]
    BadCrl {
        /// The number of its PEM block; 1 for DER.
        block: usize,
        why: BadCrl,
    },
    #[error("is a certificate for another private key")]
    KeyMismatch,
    #[error("expired at {0}")]
    Expired(Timestamp),
    #[error("is not valid before {0}")]
    NotYetValid(Timestamp),
}

impl Problem {
    fn at(self, file: &Path) -> TlsError {
        TlsError { file: file.to_owned(), problem: self }
    }
}

/// The cryptography of every listener.
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
        sha256_of_parts([self.certificate.as_slice(), &self.private_key])
    }
}

/// The server's certificate with its key.
pub(super) struct ServerPair {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) expires_at: Timestamp,
    pub(super) digest: [u8; 32],
}

impl ServerPair {
    /// Certificate and key, if they match and the certificate is valid at `now`.
    pub(super) fn parse(settings: &Settings, files: &PairFiles, now: Timestamp) -> Result<Self, TlsError> {
        // One file may contain certificate and key.
        let chain: Vec<_> = certificates(&files.certificate, &settings.certificate, pem::is_of_key)?
            .into_iter()
            .map(|(_, certificate)| certificate)
            .collect();
        let private_key = PrivateKeyDer::from_pem_slice(&files.private_key)
            .map_err(|_| Problem::NoPrivateKey.at(&settings.private_key))?;
        let (not_before, not_after) =
            validity(&chain[0]).ok_or_else(|| Problem::BadCertificate(1).at(&settings.certificate))?;
        if now > not_after {
            return Err(Problem::Expired(not_after).at(&settings.certificate));
        }
        if now < not_before {
            return Err(Problem::NotYetValid(not_before).at(&settings.certificate));
        }
        let key = CertifiedKey::from_der(chain, private_key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Problem::KeyMismatch.at(&settings.certificate),
            rustls::Error::InvalidCertificate(_) => Problem::BadCertificate(1).at(&settings.certificate),
            _ => Problem::NoPrivateKey.at(&settings.private_key),
        })?;
        Ok(Self { key: Arc::new(key), expires_at: not_after, digest: files.digest() })
    }
}

/// The client CAs and their CRLs, as read.
pub(super) struct ClientFiles {
    cas: Vec<Vec<u8>>,
    crls: Vec<Vec<u8>>,
    read_at: Timestamp,
}

pub(super) fn read_clients(settings: &Settings, now: Timestamp) -> Result<ClientFiles, TlsError> {
    let cas = settings.client_ca.iter().map(|ca| read(&ca.file)).collect::<Result<_, _>>()?;
    let crls = settings.client_crls.iter().map(|file| read(file)).collect::<Result<_, _>>()?;
    Ok(ClientFiles { cas, crls, read_at: now })
}

impl ClientFiles {
    pub(super) fn digest(&self) -> [u8; 32] {
        sha256_of_parts(self.cas.iter().chain(&self.crls).map(Vec::as_slice))
    }
}

/// The trusted client CAs with their revocations.
pub(super) struct ClientTrust {
    pub(super) verifier: Verifier,
    /// When the first CRL in force expires.
    pub(super) crl_expires_at: Option<Timestamp>,
    pub(super) digest: [u8; 32],
    /// When a CRL that is dated in the future comes into force.
    due_at: Option<Timestamp>,
    /// Notices for the operator, by file.
    pub(super) notices: Vec<(PathBuf, Notice)>,
}

impl ClientTrust {
    /// The trust of these files; a CRL that is older than one in `memory` is not used.
    pub(super) fn parse(settings: &Settings, files: &ClientFiles, memory: &Arc<CrlMemory>) -> Result<Self, TlsError> {
        let now = files.read_at;
        let mut anchors = Vec::new();
        for (source, content) in settings.client_ca.iter().zip(&files.cas) {
            anchors.extend(anchors_in(content, source)?);
        }
        let (mut lists, mut notices) = (Vec::new(), Vec::new());
        let mut due_at: Option<Timestamp> = None;
        for (file, content) in settings.client_crls.iter().zip(&files.crls) {
            for list in lists_in(content, file)? {
                if list.counts_from() > now {
                    due_at = due_at.into_iter().chain([list.counts_from()]).min();
                    let text = format!("CRL {list} of {} is from the future, and ignored until then", list.issuer_name);
                    notices.push((list.file.clone(), Notice::warning(text)));
                } else {
                    lists.push(Arc::new(list));
                }
            }
        }
        let cas: Vec<_> = anchors.iter().filter(|anchor| anchor.signs_crls).map(|anchor| &anchor.ca).collect();
        let revocations = Revocations::new(!settings.client_crls.is_empty(), lists, &cas, Arc::clone(memory));
        let mut verifier = Verifier { anchors, revocations };
        let crl_expires_at = notice(&mut verifier, &mut notices, now);
        Ok(Self { verifier, crl_expires_at, digest: files.digest(), due_at, notices })
    }

    /// Whether the same files have another meaning by now.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.due_at.is_some_and(|at| at <= now)
    }
}

/// Adds the notices on CAs and CRLs; returns when the first CRL in force expires.
fn notice(verifier: &mut Verifier, notices: &mut Vec<(PathBuf, Notice)>, now: Timestamp) -> Option<Timestamp> {
    let revocations = &verifier.revocations;
    let mut first_expiry: Option<Timestamp> = None;
    let mut seen_cas = Vec::new();
    for anchor in &verifier.anchors {
        let (file, name) = (anchor.file(), &anchor.name);
        if !anchor.is_live(now) {
            let text = format!("the CA {name} is not valid now; all of its certificates are refused");
            notices.push((file.to_owned(), Notice::warning(text)));
        }
        if !revocations.is_enabled() || seen_cas.contains(&&anchor.ca) {
            continue;
        }
        seen_cas.push(&anchor.ca);
        let of_ca = revocations.notices_on(&anchor.ca, name, anchor.signs_crls, now);
        notices.extend(of_ca.into_iter().map(|notice| (file.to_owned(), notice)));
        let in_force = revocations.in_force(&anchor.ca, anchor.signs_crls);
        let ends = first_to_expire(&in_force.iter().collect::<Vec<_>>()).map(|list| list.next_update);
        first_expiry = first_expiry.into_iter().chain(ends).min();
    }
    let others = revocations.notices_on_other_issuers(&seen_cas);
    notices.extend(others.into_iter().map(|(list, notice)| (list.file.clone(), notice)));
    first_expiry
}

/// The CAs of one file.
pub(super) fn anchors_in(content: &[u8], source: &ClientCa) -> Result<Vec<Anchor>, TlsError> {
    let found = certificates(content, &source.file, |_| false)?;
    let anchor = |(block, der): &(usize, CertificateDer<'static>)| {
        Anchor::new(der, source).map_err(|why| Problem::NoCa { block: *block, why }.at(&source.file))
    };
    found.iter().map(anchor).collect()
}

/// The CRLs of one file.
pub(super) fn lists_in(content: &[u8], file: &Path) -> Result<Vec<List>, TlsError> {
    let blocks = crl_blocks(content).map_err(|error| Problem::Pem(error).at(file))?;
    let list = |block: &pem::Block| {
        List::read(&block.der, file).map_err(|why| Problem::BadCrl { block: block.number, why }.at(file))
    };
    blocks.iter().map(list).collect()
}

/// CAs publish their lists as DER, so that is accepted too. A file without a list is an error: it would switch revocation off
///
fn crl_blocks(content: &[u8]) -> Result<Vec<pem::Block>, PemError> {
    if is_der(content) {
        return Ok(vec![pem::Block { number: 1, der: content.to_vec() }]);
    }
    pem::blocks(content, pem::CRL, |_| false)
}

/// Whether this begins like a long ASN.1 sequence, as no text does.
fn is_der(content: &[u8]) -> bool {
    matches!(content, [0x30, 0x80..=0x8f, ..])
}

/// The first and the last second of a certificate's validity.
fn validity(certificate: &CertificateDer<'_>) -> Option<(Timestamp, Timestamp)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some((not_before(&parsed), not_after(&parsed)))
}

/// The certificates of a file, each with the number of its block.
fn certificates(
    content: &[u8],
    file: &Path,
    skip: impl Fn(&str) -> bool,
) -> Result<Vec<(usize, CertificateDer<'static>)>, TlsError> {
    if is_der(content) {
        return Err(Problem::Der.at(file));
    }
    let blocks = pem::blocks(content, pem::CERTIFICATE, skip).map_err(|error| Problem::Pem(error).at(file))?;
    let certificate = |block: pem::Block| match X509Certificate::from_der(&block.der) {
        Ok(([], _)) => Ok((block.number, CertificateDer::from(block.der))),
        _ => Err(Problem::BadCertificate(block.number).at(file)),
    };
    blocks.into_iter().map(certificate).collect()
}

pub(super) fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|error| Problem::Unreadable(error).at(file))
}
