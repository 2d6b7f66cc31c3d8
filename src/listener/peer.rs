//! Who is at the other end of a connection, then and now.

use std::cell::Cell;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::tls::{Trust, chain_expiry};
use crate::client::{CertificateError, PeerCertificate};
use crate::clock::Timestamp;

/// The client at the other end: its certificate as it passed the handshake, and whether it would pass it now.
pub(super) struct Peer {
    certificate: Arc<PeerCertificate>,
    chain: Vec<CertificateDer<'static>>,
    trust: Arc<Trust>,
    /// The generation that last accepted the chain.
    accepted: Cell<u64>,
    chain_expires_at: Timestamp,
}

impl Peer {
    /// The peer whose chain, leaf first, was accepted under `generation`.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        trust: Arc<Trust>,
        generation: u64,
    ) -> Result<Self, CertificateError> {
        let leaf = chain.first().ok_or(CertificateError)?;
        Ok(Self {
            certificate: Arc::new(PeerCertificate::parse(leaf)?),
            chain_expires_at: chain_expiry(&chain).ok_or(CertificateError)?,
            chain,
            trust,
            accepted: Cell::new(generation),
        })
    }

    /// The certificate as it passed the handshake.
    pub(super) fn certificate(&self) -> &PeerCertificate {
        &self.certificate
    }

    /// The certificate if it is still accepted at `now`: in time, not revoked, its CA or thumbprint still trusted
    ///
    pub(super) fn admit(&self, now: Timestamp) -> Result<&Arc<PeerCertificate>, rustls::Error> {
        let generation = self.trust.generation();
        let ends = self.trust.crl_expires_at().map_or(self.chain_expires_at, |crl| crl.min(self.chain_expires_at));
        if self.accepted.get() != generation || now >= ends {
            self.trust.verify(&self.chain, now)?;
            self.accepted.set(generation);
        }
        Ok(&self.certificate)
    }
}
