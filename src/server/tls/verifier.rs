//! The verification of client certificates.
//!
//! In: the chain that a client presents. Out: whether it is accepted, and until when. webpki decides on each path to a CA in
//! force; then the CRLs, and the names to which the CA is limited. A self-signed certificate is accepted if a policy
//! registers its thumbprint.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::anchor::{Anchor, CaKey};
use super::crl::Revocations;
use super::path::{Path, Search};
use super::refusal::{self, Described, Refusal, may, not_after, not_before};
use super::signature::ALGORITHMS;
use super::{Accepted, Trust};
use writ_core::client::{PeerCertificate, Thumbprint};
use writ_platform::clock::Timestamp;

/// A chain that is accepted.
#[derive(Debug)]
pub(super) struct AcceptedChain {
    /// Until then it remains accepted, unless CAs, CRLs or policies change.
    pub(super) until: Timestamp,
    /// The client's own certificate, with the names that its CA may vouch for.
    pub(super) certificate: PeerCertificate,
}

/// One set of CAs and CRLs.
pub(super) struct Verifier {
    pub(super) anchors: Vec<Anchor>,
    pub(super) revocations: Revocations,
}

impl Verifier {
    /// Whether this chain, leaf first, is accepted at `now`.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        registered: &HashSet<Thumbprint>,
        now: Timestamp,
    ) -> Result<AcceptedChain, Refusal> {
        let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
        let is_registered = registered.contains(&Thumbprint::of(leaf));
        if is_registered
            && let Ok(certificate) = PeerCertificate::parse(leaf)
            && certificate.is_self_issued()
        {
            return Ok(AcceptedChain { until: verify_self_signed(leaf, now)?, certificate });
        }
        let mut search = Search::new(chain, &self.anchors)?;
        let mut outcome = Err(Refusal::TooComplex);
        for (index, path) in search.paths()?.into_iter().enumerate() {
            match self.verify_path(&search, &path, is_registered, now) {
                Ok(accepted) if !accepted.certificate.is_held_to_spiffe() => return Ok(accepted),
                Ok(accepted) => outcome = Ok(accepted),
                Err(refusal) if index == 0 => outcome = Err(refusal),
                Err(_) => {}
            }
        }
        outcome
    }

    fn verify_path(
        &self,
        search: &Search<'_>,
        path: &Path,
        is_registered: bool,
        now: Timestamp,
    ) -> Result<AcceptedChain, Refusal> {
        let anchor = &self.anchors[path.anchor];
        let links: Vec<_> = path.links.iter().map(|&index| &search.links[index]).collect();
        let chain: Vec<_> = links.iter().map(|link| &link.parsed).collect();
        let intermediates: Vec<_> = links[1..].iter().map(|link| CertificateDer::from(link.der.as_ref())).collect();
        EndEntityCert::try_from(links[0].der)
            .and_then(|leaf| {
                let time = UnixTime::since_unix_epoch(Duration::from_secs(now.epoch()));
                let (anchors, usage) = (std::slice::from_ref(&anchor.trust), KeyUsage::client_auth());
                leaf.verify_for_usage(ALGORITHMS.all, anchors, &intermediates, time, usage, None, None).map(drop)
            })
            .map_err(|error| Refusal::of_webpki(error, &chain, now))?;
        // webpki does not check the validity of a trust anchor.
        if !anchor.is_live(now) {
            let (ca, file) = (anchor.name.clone(), anchor.file.clone());
            return Err(Refusal::CaNotLive { ca, file, at: anchor.validity_limit(now) });
        }
        let certificate = PeerCertificate::of(&links[0].parsed, links[0].der).map_err(|_| Refusal::Unreadable)?;
        if !is_registered {
            check_vouching(anchor, &certificate)?;
        }
        let ends = chain.iter().map(|certificate| not_after(certificate)).chain([anchor.validity_limit(now)]);
        // The second after the last in which all are valid.
        let ends = ends.min().unwrap_or(now) + Duration::from_secs(1);
        let until = self.check_revocation(&chain, anchor, now)?.map_or(ends, |crl| crl.min(ends));
        Ok(AcceptedChain { until, certificate: certificate.held_to_spiffe(anchor.trust_domains.is_some()) })
    }

    /// No certificate of the path is revoked; returns when the first of the CRLs that say so expires.
    fn check_revocation(
        &self,
        chain: &[&X509Certificate<'_>],
        anchor: &Anchor,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Refusal> {
        if !self.revocations.is_enabled() {
            return Ok(None);
        }
        let issuers = chain[1..]
            .iter()
            .map(|issuer| (CaKey::of(issuer), may(issuer, x509_parser::extensions::KeyUsage::crl_sign)));
        let issuers = issuers.chain([(anchor.ca.clone(), anchor.signs_crls)]);
        let mut first = None::<Timestamp>;
        for (depth, (certificate, (ca, signs_crls))) in chain.iter().zip(issuers).enumerate() {
            let until = self.revocations.check(certificate, depth == 0, (&ca, signs_crls), now)?;
            first = Some(first.map_or(until, |first| first.min(until)));
        }
        Ok(first)
    }
}

/// An X.509-SVID is accepted only from a CA that may vouch for its trust domain; from a CA that is limited to trust domains,
/// no other kind of name is (R-AUTHN-07).
fn check_vouching(anchor: &Anchor, certificate: &PeerCertificate) -> Result<(), Refusal> {
    if anchor.vouches_for(certificate.spiffe_trust_domain()) {
        return Ok(());
    }
    Err(Refusal::NotVouchedFor {
        ca: anchor.name.clone(),
        file: anchor.file().to_owned(),
        domains: anchor.trust_domains.as_deref().unwrap_or_default().join(", "),
    })
}

/// RFC 8705 §2.2: the registered thumbprint is the trust, so only validity and usage remain to be checked. The
/// handshake's signature is verified like any other.
fn verify_self_signed(leaf: &CertificateDer<'_>, now: Timestamp) -> Result<Timestamp, Refusal> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| Refusal::Unreadable)?;
    let subject = || refusal::subject(&parsed);
    if now > not_after(&parsed) {
        return Err(Refusal::Expired { subject: subject(), at: not_after(&parsed) });
    }
    if now < not_before(&parsed) {
        return Err(Refusal::NotYetValid { subject: subject(), at: not_before(&parsed) });
    }
    match parsed.extended_key_usage() {
        Ok(usage) if usage.as_ref().is_none_or(|usage| usage.value.client_auth) => {
            Ok(not_after(&parsed) + Duration::from_secs(1))
        }
        Ok(_) => Err(Refusal::Usage { subject: subject() }),
        Err(_) => Err(Refusal::Unreadable),
    }
}

/// The outcome of the verification in a handshake.
#[derive(Debug)]
pub(in crate::server) enum Verdict {
    Accepted(Accepted),
    Refused(Refusal, Option<Box<Described>>),
}

tokio::task_local! {
    /// Passes the verdict to the task of the handshake: rustls passes on only an alert.
    pub(in crate::server) static VERDICT: Arc<std::sync::OnceLock<Verdict>>;
}

/// Verifies by the [`Trust`] in force during the handshake.
#[derive(Debug)]
pub(super) struct CurrentVerifier(pub(super) Arc<Trust>);

impl ClientCertVerifier for CurrentVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// No hints: self-signed certificates have no CA to name, and a borrowed list cannot be replaced.
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
        let outcome = self.0.verify(&chain, Timestamp::from_epoch(now.as_secs()));
        let (verdict, result) = match outcome {
            Ok(accepted) => (Verdict::Accepted(accepted), Ok(ClientCertVerified::assertion())),
            Err(refusal) => {
                let parsed = X509Certificate::from_der(leaf).ok();
                let described = parsed.map(|(_, certificate)| Box::new(Described::of(&certificate)));
                let error = refusal.to_rustls();
                (Verdict::Refused(refusal, described), Err(error))
            }
        };
        // Set only within a handshake of the listener.
        let _ = VERDICT.try_with(|slot| slot.set(verdict));
        result
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, leaf, signed, &ALGORITHMS)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, leaf, signed, &ALGORITHMS)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
