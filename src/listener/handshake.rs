//! From an accepted socket to a connection: one handshake, one outcome, counted and, if it failed, logged.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix_http::Protocol;
use rustls::{AlertDescription, Error, PeerIncompatible, PeerMisbehaved, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::LINGER;
use super::peer::Peer;
use super::tls::Trust;

/// The longest handshake; a shorter `limits.request_timeout` wins.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// What is read and thrown away so that a refused peer receives its alert.
const LAST_BYTES: u64 = 64 * 1024;

/// Makes TLS connections of sockets.
#[derive(Clone)]
pub(super) struct Handshake {
    pub(super) config: Arc<ServerConfig>,
    /// Present where a client certificate is required.
    pub(super) trust: Option<Arc<Trust>>,
    pub(super) timeout: Duration,
}

/// A handshake that succeeded.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) protocol: Protocol,
    pub(super) peer: Option<Peer>,
}

impl Handshake {
    /// The handshake with one socket; `None` if it failed.
    pub(super) async fn accept(&self, socket: TcpStream) -> Option<Secured> {
        // Read first: a change during the handshake must not count as seen.
        let generation = self.trust.as_ref().map(|trust| trust.generation());
        let address = socket.peer_addr().ok();
        let accept = TlsAcceptor::from(Arc::clone(&self.config)).accept(socket).into_fallible();
        let outcome = match timeout(self.timeout, accept).await {
            Err(_) => Err("timeout"),
            Ok(Err((error, socket))) => {
                linger(socket).await;
                Err(outcome_of(&error))
            }
            Ok(Ok(stream)) => self.secured(stream, generation).ok_or("bad_certificate"),
        };
        let name = outcome.as_ref().err().copied().unwrap_or("ok");
        metrics::counter!("writ_tls_handshakes_total", "outcome" => name).increment(1);
        if outcome.is_err() {
            let peer = address.map(tracing::field::display);
            tracing::info!(alert = name, peer, "TLS handshake failed");
        }
        outcome.ok()
    }

    fn secured(&self, stream: TlsStream<TcpStream>, generation: Option<u64>) -> Option<Secured> {
        let session = stream.get_ref().1;
        let protocol = if session.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
        let peer = match (&self.trust, generation) {
            (Some(trust), Some(generation)) => {
                let chain = session.peer_certificates()?.iter().map(|certificate| certificate.clone().into_owned());
                Some(Peer::new(chain.collect(), Arc::clone(trust), generation).ok()?)
            }
            _ => None,
        };
        Some(Secured { stream, protocol, peer })
    }
}

/// Lets the alert arrive: closing a socket with unread bytes would reset it, and the peer would see only that.
async fn linger(mut socket: TcpStream) {
    let drained = async {
        socket.shutdown().await?;
        tokio::io::copy(&mut socket.take(LAST_BYTES), &mut tokio::io::sink()).await
    };
    // Whatever comes of it, the socket is closed.
    let _ = timeout(LINGER, drained).await;
}

fn outcome_of(error: &io::Error) -> &'static str {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    tls.and_then(alert_for).map_or("closed", name_of)
}

/// The alert that rustls sends for its error, or that the peer sent; `None` if the peer just went away.
fn alert_for(error: &Error) -> Option<AlertDescription> {
    use AlertDescription as Alert;
    Some(match error {
        Error::InvalidCertificate(cause) => Alert::from(cause.clone()),
        Error::NoCertificatesPresented => Alert::CertificateRequired,
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => Alert::ProtocolVersion,
        Error::PeerIncompatible(
            PeerIncompatible::KeyShareExtensionRequired
            | PeerIncompatible::NamedGroupsExtensionRequired
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        ) => Alert::MissingExtension,
        Error::PeerIncompatible(_) | Error::InvalidCertRevocationList(_) => Alert::HandshakeFailure,
        Error::NoApplicationProtocol => Alert::NoApplicationProtocol,
        Error::InvalidMessage(cause) => Alert::from(*cause),
        Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerMisbehaved(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec) => Alert::UnexpectedMessage,
        Error::DecryptError => Alert::BadRecordMac,
        Error::PeerSentOversizedRecord => Alert::RecordOverflow,
        Error::PeerMisbehaved(_) => Alert::IllegalParameter,
        Error::AlertReceived(alert) => *alert,
        _ => return None,
    })
}

/// The alert's name in RFC 8446 §6 and RFC 5246 §7.2: a bounded set, since it becomes a label.
fn name_of(alert: AlertDescription) -> &'static str {
    use AlertDescription as Alert;
    match alert {
        Alert::CloseNotify => "close_notify",
        Alert::UnexpectedMessage => "unexpected_message",
        Alert::BadRecordMac => "bad_record_mac",
        Alert::RecordOverflow => "record_overflow",
        Alert::HandshakeFailure => "handshake_failure",
        Alert::BadCertificate => "bad_certificate",
        Alert::UnsupportedCertificate => "unsupported_certificate",
        Alert::CertificateRevoked => "certificate_revoked",
        Alert::CertificateExpired => "certificate_expired",
        Alert::CertificateUnknown => "certificate_unknown",
        Alert::IllegalParameter => "illegal_parameter",
        Alert::UnknownCA => "unknown_ca",
        Alert::AccessDenied => "access_denied",
        Alert::DecodeError => "decode_error",
        Alert::DecryptError => "decrypt_error",
        Alert::ProtocolVersion => "protocol_version",
        Alert::InsufficientSecurity => "insufficient_security",
        Alert::InternalError => "internal_error",
        Alert::InappropriateFallback => "inappropriate_fallback",
        Alert::UserCanceled => "user_canceled",
        Alert::NoRenegotiation => "no_renegotiation",
        Alert::MissingExtension => "missing_extension",
        Alert::UnsupportedExtension => "unsupported_extension",
        Alert::UnrecognisedName => "unrecognized_name",
        Alert::CertificateRequired => "certificate_required",
        Alert::NoApplicationProtocol => "no_application_protocol",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, InvalidMessage};

    use super::*;

    fn outcome(error: Error) -> &'static str {
        outcome_of(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn an_outcome_is_the_name_of_the_alert() {
        for (error, name) in [
            (Error::NoCertificatesPresented, "certificate_required"),
            (CertificateError::Expired.into(), "certificate_expired"),
            (CertificateError::UnknownIssuer.into(), "unknown_ca"),
            (CertificateError::UnknownRevocationStatus.into(), "unknown_ca"),
            (CertificateError::Revoked.into(), "certificate_revoked"),
            (CertificateError::InvalidPurpose.into(), "unsupported_certificate"),
            (CertificateError::BadSignature.into(), "decrypt_error"),
            (PeerIncompatible::Tls12NotOfferedOrEnabled.into(), "protocol_version"),
            (PeerIncompatible::NoCipherSuitesInCommon.into(), "handshake_failure"),
            (Error::InvalidMessage(InvalidMessage::InvalidContentType), "decode_error"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "unknown_ca"),
        ] {
            assert_eq!(outcome(error.clone()), name, "{error}");
        }
        assert_eq!(outcome_of(&io::ErrorKind::UnexpectedEof.into()), "closed");
    }
}
