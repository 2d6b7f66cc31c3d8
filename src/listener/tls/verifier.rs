//! Who may finish a handshake: webpki decides; a self-signed certificate passes if a policy names its thumbprint.

use std::collections::HashSet;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Trust;
use super::files::{provider, validity};
use crate::client::{PeerCertificate, Thumbprint};
use crate::clock::Timestamp;

/// One set of CAs and CRLs.
pub(super) struct Verifier {
    /// The CAs that are valid themselves; `None` if not one is.
    live: Option<Arc<dyn ClientCertVerifier>>,
    /// Every CA of the file: tells a certificate of an expired CA from one of a stranger.
    all: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    /// With CRLs, each certificate of a chain needs one of its issuer, in date.
    pub(super) fn new(
        live: RootCertStore,
        all: RootCertStore,
        crls: &[CertificateRevocationListDer<'static>],
    ) -> Result<Self, VerifierBuilderError> {
        let build = |roots: RootCertStore| {
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .with_crls(crls.iter().cloned())
                .enforce_revocation_expiration()
                .build()
        };
        let live = if live.is_empty() { None } else { Some(build(live)?) };
        Ok(Self { live, all: build(all)? })
    }

    /// Whether this chain, leaf first, is believed at `now`.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        registered: &HashSet<Thumbprint>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let [leaf, intermediates @ ..] = chain else { return Err(Error::NoCertificatesPresented) };
        if registered.contains(&Thumbprint::of(leaf)) && is_self_issued(leaf) {
            return verify_self_signed(leaf, now);
        }
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.epoch()));
        let outcome = match &self.live {
            Some(live) => live.verify_client_cert(leaf, intermediates, time).map(drop),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        match outcome {
            // webpki never looks at the validity of a CA itself.
            Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                match self.all.verify_client_cert(leaf, intermediates, time) {
                    Ok(_) => Err(CertificateError::Expired.into()),
                    Err(error) => Err(error),
                }
            }
            outcome => outcome,
        }
    }
}

fn is_self_issued(leaf: &CertificateDer<'_>) -> bool {
    PeerCertificate::parse(leaf).is_ok_and(|certificate| certificate.is_self_issued())
}

/// RFC 8705 §2.2: the thumbprint is the trust; what remains is the time and the purpose. The handshake's
/// signature is verified like any other.
fn verify_self_signed(leaf: &CertificateDer<'_>, now: Timestamp) -> Result<(), Error> {
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let (not_before, not_after) = validity(leaf).ok_or(CertificateError::BadEncoding)?;
    if now > not_after {
        return Err(CertificateError::Expired.into());
    }
    if now < not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    match parsed.extended_key_usage() {
        Ok(usage) if usage.as_ref().is_none_or(|usage| usage.value.client_auth) => Ok(()),
        Ok(_) => Err(CertificateError::InvalidPurpose.into()),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

/// The first end of a certificate in the chain; `None` if one cannot be read.
pub(in crate::listener) fn chain_expiry(chain: &[CertificateDer<'_>]) -> Option<Timestamp> {
    let ends: Option<Vec<_>> = chain.iter().map(|certificate| Some(validity(certificate)?.1)).collect();
    ends?.into_iter().min()
}

/// Asks the [`Trust`] of the moment in every handshake.
#[derive(Debug)]
pub(super) struct SwapVerifier(pub(super) Arc<Trust>);

impl ClientCertVerifier for SwapVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// No hints: self-signed certificates have no CA to be named, and a borrowed list cannot be swapped.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        self.0.verify(&chain, Timestamp::from_epoch(now.as_secs()))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.clients.load().verifier.all.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.clients.load().verifier.all.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clients.load().verifier.all.supported_verify_schemes()
    }
}
