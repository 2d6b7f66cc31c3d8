//! The trust anchors: the CAs of `tls.client_ca`.

use std::path::{Path, PathBuf};

use rustls::pki_types::{CertificateDer, TrustAnchor};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Version;

use super::ClientCa;
use super::refusal::{self, is_ca, key_id, may};
use writ_platform::clock::Timestamp;

/// The identity of a CA: the name and key that sign certificates and CRLs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CaKey {
    /// DER.
    pub(super) name: Vec<u8>,
    /// `SubjectPublicKeyInfo`, DER.
    pub(super) key: Vec<u8>,
}

impl CaKey {
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Self {
        Self { name: certificate.subject().as_raw().to_vec(), key: certificate.public_key().raw.to_vec() }
    }
}

/// A trusted CA.
#[derive(Debug)]
pub(super) struct Anchor {
    pub(super) trust: TrustAnchor<'static>,
    pub(super) ca: CaKey,
    pub(super) key_id: Option<Vec<u8>>,
    pub(super) signs_crls: bool,
    /// The subject, for messages.
    pub(super) name: String,
    pub(super) file: PathBuf,
    /// The trust domains to whose SPIFFE IDs it is limited; `None`: any name.
    pub(super) trust_domains: Option<Vec<String>>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Why a certificate cannot be a trust anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCa {
    #[error("cannot be read")]
    Unreadable,
    #[error(
        "is an X.509 certificate of version 1, which cannot say that it is a CA; issue it as version 3 with CA:TRUE"
    )]
    Version1,
    #[error("is not a CA (basicConstraints lacks CA:TRUE); as an anchor its key could issue client certificates")]
    NotCa,
    #[error("is a CA that may not sign certificates (keyUsage lacks keyCertSign)")]
    NoCertSign,
}

impl Anchor {
    pub(super) fn new(der: &CertificateDer<'static>, source: &ClientCa) -> Result<Self, NoCa> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| NoCa::Unreadable)?;
        if !rest.is_empty() {
            return Err(NoCa::Unreadable);
        }
        if parsed.version() != X509Version::V3 {
            return Err(NoCa::Version1);
        }
        if !is_ca(&parsed) {
            return Err(NoCa::NotCa);
        }
        if !may(&parsed, x509_parser::extensions::KeyUsage::key_cert_sign) {
            return Err(NoCa::NoCertSign);
        }
        Ok(Self {
            trust: webpki::anchor_from_trusted_cert(der).map_err(|_| NoCa::Unreadable)?.to_owned(),
            ca: CaKey::of(&parsed),
            key_id: key_id(&parsed),
            signs_crls: may(&parsed, x509_parser::extensions::KeyUsage::crl_sign),
            name: refusal::subject(&parsed),
            file: source.file.clone(),
            trust_domains: source.trust_domains.clone(),
            not_before: refusal::not_before(&parsed),
            not_after: refusal::not_after(&parsed),
        })
    }

    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// The end of the validity period, or its beginning if that is in the future.
    pub(super) fn validity_limit(&self, now: Timestamp) -> Timestamp {
        if now < self.not_before { self.not_before } else { self.not_after }
    }

    /// Whether it may vouch for this SPIFFE trust domain, or for a certificate without a SPIFFE ID.
    pub(super) fn vouches_for(&self, trust_domain: Option<&str>) -> bool {
        match (&self.trust_domains, trust_domain) {
            (None, _) => true,
            (Some(domains), Some(domain)) => domains.iter().any(|own| own == domain),
            (Some(_), None) => false,
        }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }
}
