//! The HTTPS client: TLS roots and client certificate → a client that follows no redirect and no proxy.

use std::sync::Arc;

use reqwest::{ClientBuilder, redirect};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

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
