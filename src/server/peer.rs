//! The client at the other end of a connection: accepted in the handshake, checked again with each request.
//!
//! In: the chain that passed the handshake. Out: the client's certificate, as long as it would still pass one.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use actix_web::HttpRequest;
use rustls::pki_types::CertificateDer;

use super::request::of_connection;
use super::response::HttpRefusal;
use super::tls::{Accepted, Refusal, Trust};
use writ_core::client::{CertificateError, PeerCertificate};
use writ_platform::clock::Timestamp;

/// The chain of a client that passed the handshake, and the result of its verification.
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

    /// The certificate as last accepted; it may have expired or been revoked since.
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
                // Parsed again: the reloaded trust may allow other names.
                let certificate = read_leaf(&self.chain, accepted).map_err(|_| Refusal::Unreadable)?;
                self.certificate.replace(Arc::new(certificate));
            }
            self.accepted.set(accepted);
        }
        Ok(self.certificate())
    }
}

/// The client's certificate, if it would pass a handshake now; a request without one is refused.
pub(super) fn admitted(request: &HttpRequest) -> Result<Arc<PeerCertificate>, HttpRefusal> {
    let peer = of_connection::<Peer>(request).ok_or(HttpRefusal::CertificateRefused)?;
    peer.admit(Timestamp::now()).map_err(|refusal| {
        tracing::info!(cause = %refusal, "the certificate of an open connection is no longer accepted");
        HttpRefusal::CertificateRefused
    })
}

/// The client's certificate with the names that its CA may vouch for.
fn read_leaf(chain: &[CertificateDer<'_>], accepted: Accepted) -> Result<PeerCertificate, CertificateError> {
    let leaf = chain.first().ok_or(CertificateError)?;
    Ok(PeerCertificate::parse(leaf)?.held_to_spiffe(accepted.spiffe_only))
}
