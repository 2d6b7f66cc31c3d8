//! The HTTPS client: trusted CAs and client certificate → a client that follows no redirect and uses no proxy.

use std::fmt;
use std::sync::Arc;

use reqwest::{ClientBuilder, redirect};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A client certificate, leaf first, and its private key.
pub(crate) type CertifiedKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The trusted CAs of a client, and the certificate that it presents.
#[derive(Clone)]
pub struct Tls(ClientConfig);

/// Why the certificates or the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA's PEM text has no certificate.
    #[error("no CA certificate in PEM")]
    NoCa,
    /// A CA certificate is damaged, or not X.509 version 3.
    #[error("a CA certificate that TLS cannot use")]
    UnusableCa,
    /// The client's PEM text has no certificate.
    #[error("no certificate in PEM")]
    NoCertificate,
    /// The client certificate is damaged, or not X.509 version 3.
    #[error("a certificate that TLS cannot use")]
    UnusableCertificate,
    /// The client's PEM text has no private key.
    #[error("no private key in PEM")]
    NoKey,
    /// The private key does not match the certificate.
    #[error("not the private key of the certificate")]
    Mismatch,
    /// Another error of the TLS library.
    #[error(transparent)]
    Library(rustls::Error),
}

impl Tls {
    /// Trusts only the CA certificates `ca` (`None`: the system's root certificates) and presents `identity`, a certificate
    /// with its key. All are PEM.
    ///
    /// # Errors
    /// The first [`TlsError`] in the order of its variants.
    pub fn from_pem(ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<Self, TlsError> {
        let roots = ca.map_or_else(|| Ok(system_roots()), trusted_roots)?;
        let identity = identity.map(|(certificate, key)| certified_key(certificate, key)).transpose()?;
        Self::new(roots, identity).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch,
            rustls::Error::InvalidCertificate(_) => TlsError::UnusableCertificate,
            other => TlsError::Library(other),
        })
    }

    /// Trusts only `roots` and presents `identity`.
    pub(crate) fn new(roots: RootCertStore, identity: Option<CertifiedKey>) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        match identity {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).map(Self),
            None => Ok(Self(config.with_no_client_auth())),
        }
    }
}

/// Does not show the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls(…)")
    }
}

/// A client that sends a request only to its address: it follows no redirect and uses no proxy.
pub fn client_builder(tls: Tls) -> ClientBuilder {
    ClientBuilder::new().tls_backend_preconfigured(tls.0).redirect(redirect::Policy::none()).no_proxy().referer(false)
}

/// The system's root certificates; unreadable ones are left out.
pub(crate) fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn trusted_roots(ca: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(ca).ok_or(TlsError::NoCa)? {
        roots.add(root).map_err(|_| TlsError::UnusableCa)?;
    }
    Ok(roots)
}

fn certified_key(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate).ok_or(TlsError::NoCertificate)?;
    Ok((chain, PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::NoKey)?))
}

/// `None` if there is no certificate, or a block that cannot be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    all.ok().filter(|all| !all.is_empty())
}
