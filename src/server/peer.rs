//! Who is at the other end of a connection, then and now.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::tls::{Accepted, Refusal, Trust};
use writ_core::client::{CertificateError, PeerCertificate};
use writ_platform::clock::Timestamp;

/// The client at the other end: its certificate as it passed the handshake, and whether it would pass it now.
pub(super) struct Peer {
    certificate: RefCell<Arc<PeerCertificate>>,
    chain: Vec<CertificateDer<'static>>,
    trust: Arc<Trust>,
    accepted: Cell<Accepted>,
}

impl Peer {
    /// The peer whose chain, leaf first, was accepted.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        trust: Arc<Trust>,
        accepted: Accepted,
    ) -> Result<Self, CertificateError> {
        let certificate = read_leaf(&chain, accepted)?;
        Ok(Self { certificate: RefCell::new(Arc::new(certificate)), chain, trust, accepted: Cell::new(accepted) })
    }

    /// The certificate as it was last accepted.
    pub(super) fn certificate(&self) -> Arc<PeerCertificate> {
        Arc::clone(&self.certificate.borrow())
    }

    /// The certificate if it is still accepted at `now`: in time, not revoked, its CA or thumbprint still trusted
    ///
    pub(super) fn admit(&self, now: Timestamp) -> Result<Arc<PeerCertificate>, Refusal> {
        let before = self.accepted.get();
        if !self.trust.still_holds(before, now) {
            let accepted = self.trust.verify(&self.chain, now)?;
            if accepted.spiffe_only != before.spiffe_only {
                // From the chain again: names that did not count before may count now.
                let certificate = read_leaf(&self.chain, accepted).map_err(|_| Refusal::Unreadable)?;
                self.certificate.replace(Arc::new(certificate));
            }
            self.accepted.set(accepted);
        }
        Ok(self.certificate())
    }
}

/// The client's certificate with the names that its CA may vouch for.
fn read_leaf(chain: &[CertificateDer<'_>], accepted: Accepted) -> Result<PeerCertificate, CertificateError> {
    let leaf = chain.first().ok_or(CertificateError)?;
    Ok(PeerCertificate::parse(leaf)?.held_to_spiffe(accepted.spiffe_only))
}
