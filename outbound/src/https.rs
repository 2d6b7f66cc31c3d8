//! The HTTPS client: TLS roots and client certificate → a client that follows no redirect and no proxy.

use std::sync::Arc;

use reqwest::{ClientBuilder, redirect};
pub use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A client certificate, leaf first, and its private key.
pub type CertifiedKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The certificates that the system trusts; those that cannot be read are left out.
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// Trusts `roots` alone and presents `identity` to servers that ask for a client certificate.
///
/// # Errors
/// [`rustls::Error`]: the private key cannot be used, or is not that of the certificate.
pub fn tls_config(roots: RootCertStore, identity: Option<CertifiedKey>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match identity {
        Some((chain, key)) => config.with_client_auth_cert(chain, key),
        None => Ok(config.with_no_client_auth()),
    }
}

/// A client that sends a request to the address it was given and to no other.
pub fn client_builder(tls: ClientConfig) -> ClientBuilder {
    ClientBuilder::new().tls_backend_preconfigured(tls).redirect(redirect::Policy::none()).no_proxy().referer(false)
}

/// Why PEM files cannot be used for a client.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No certificate among the CAs.
    #[error("the file of the CA contains no certificate in PEM")]
    NoRoot,
    /// For instance a certificate of version 1.
    #[error("the file of the CA contains a certificate that TLS cannot use: not X.509 version 3, or damaged")]
    UnusableRoot,
    /// No client certificate.
    #[error("the file of the certificate contains no certificate in PEM")]
    NoCertificate,
    /// For instance a certificate of version 1.
    #[error("the file of the certificate contains one that TLS cannot use: not X.509 version 3, or damaged")]
    UnusableCertificate,
    /// No private key.
    #[error("the file of the key contains no private key in PEM")]
    NoKey,
    /// A key protected by a passphrase.
    #[error("the file of the key contains an encrypted key; decrypt it: openssl pkey -in KEY -out KEY.plain")]
    EncryptedKey,
    /// The key of another certificate.
    #[error("the key in the file does not belong to the certificate")]
    OtherKey,
    /// Refused by the TLS library.
    #[error("the certificates and the key cannot be used: {0}")]
    Tls(rustls::Error),
}

/// As [`tls_config`], from the content of PEM files: trusts the CAs in `ca` (`None`: those of the system), and presents the
/// certificate chain and key of `identity`.
///
/// # Errors
/// [`CredentialsError`].
pub fn tls_config_from_pem(
    ca: Option<&[u8]>,
    identity: Option<(&[u8], &[u8])>,
) -> Result<ClientConfig, CredentialsError> {
    let roots = ca.map_or_else(|| Ok(system_roots()), trusted_roots)?;
    let identity = identity.map(|(certificate, key)| certified_key(certificate, key)).transpose()?;
    tls_config(roots, identity).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => CredentialsError::OtherKey,
        rustls::Error::InvalidCertificate(_) => CredentialsError::UnusableCertificate,
        other => CredentialsError::Tls(other),
    })
}

fn trusted_roots(ca: &[u8]) -> Result<RootCertStore, CredentialsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(ca).ok_or(CredentialsError::NoRoot)? {
        roots.add(root).map_err(|_| CredentialsError::UnusableRoot)?;
    }
    Ok(roots)
}

fn certified_key(certificate: &[u8], key: &[u8]) -> Result<CertifiedKey, CredentialsError> {
    let chain = certificates(certificate).ok_or(CredentialsError::NoCertificate)?;
    if is_encrypted(key) {
        return Err(CredentialsError::EncryptedKey);
    }
    Ok((chain, PrivateKeyDer::from_pem_slice(key).map_err(|_| CredentialsError::NoKey)?))
}

/// `None` if there is none, or a malformed one.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    all.ok().filter(|all| !all.is_empty())
}

/// PKCS #8 names the encryption in the label of its block, older formats in a header.
fn is_encrypted(pem: &[u8]) -> bool {
    let text = String::from_utf8_lossy(pem);
    text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED")
}
