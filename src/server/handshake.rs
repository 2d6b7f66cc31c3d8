//! TLS handshakes.
//!
//! In: an accepted socket. Out: a TLS stream with the verified peer, or nothing. Each outcome is counted, and each failure
//! logged.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_http::Protocol;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible, PeerMisbehaved, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::connection::LINGER;
use super::peer::Peer;
use super::tls::{Trust, VERDICT, Verdict};

/// The longest handshake, unless `limits.request_timeout` is shorter.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes that are read and discarded so that a refused peer receives its alert.
const LAST_BYTES: u64 = 64 * 1024;

/// Performs the handshakes of one listener.
#[derive(Clone)]
pub(super) struct Handshake {
    pub(super) config: Arc<ServerConfig>,
    /// Present where a client certificate is required.
    pub(super) trust: Option<Arc<Trust>>,
    pub(super) timeout: Duration,
}

/// The result of a successful handshake.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) protocol: Protocol,
    pub(super) peer: Option<Peer>,
}

impl Handshake {
    /// The handshake with one socket; `None` if it failed.
    pub(super) async fn accept(&self, socket: TcpStream) -> Option<Secured> {
        let address = socket.peer_addr().ok();
        let verdict = Arc::new(OnceLock::new());
        let accept = TlsAcceptor::from(Arc::clone(&self.config)).accept(socket).into_fallible();
        let accept = VERDICT.scope(Arc::clone(&verdict), accept);
        let failure = match timeout(self.timeout, accept).await {
            Ok(Ok(stream)) => match self.secured(stream, verdict.get()) {
                Some(secured) => {
                    count("ok");
                    return Some(secured);
                }
                None => Failure::UNREADABLE,
            },
            Ok(Err((error, socket))) => {
                linger(socket).await;
                Failure::of(&error)
            }
            Err(_) => Failure::TIMEOUT,
        };
        count(failure.alert);
        failure.log(address, verdict.get());
        None
    }

    fn secured(&self, stream: TlsStream<TcpStream>, verdict: Option<&Verdict>) -> Option<Secured> {
        let session = stream.get_ref().1;
        let protocol = if session.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
        let peer = match (&self.trust, verdict) {
            (None, _) => None,
            (Some(trust), Some(Verdict::Accepted(accepted))) => {
                let chain = session.peer_certificates()?.iter().map(|certificate| certificate.clone().into_owned());
                Some(Peer::new(chain.collect(), Arc::clone(trust), accepted.clone()))
            }
            (Some(_), _) => return None,
        };
        Some(Secured { stream, protocol, peer })
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("writ_tls_handshakes_total", "outcome" => outcome).increment(1);
}

/// Why a handshake failed, for the log and the metrics.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    /// The alert that ended it, or `timeout` or `closed`.
    alert: &'static str,
    /// `writ` or `peer`.
    refused_by: &'static str,
    cause: Cow<'static, str>,
}

impl Failure {
    const TIMEOUT: Self = Self {
        alert: "timeout",
        refused_by: "writ",
        cause: Cow::Borrowed("the client did not complete the handshake in time"),
    };
    const UNREADABLE: Self = Self {
        alert: "bad_certificate",
        refused_by: "writ",
        cause: Cow::Borrowed("the client's certificate cannot be read"),
    };

    fn of(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let Some((error, alert)) = tls.and_then(|error| Some((error, alert_for(error)?))) else {
            let cause = "the client closed the connection before the handshake was complete".into();
            return Self { alert: "closed", refused_by: "peer", cause };
        };
        let refused_by = if matches!(error, Error::AlertReceived(_)) { "peer" } else { "writ" };
        Self { alert: name_of(alert), refused_by, cause: describe(error).into() }
    }

    /// Logs who refused the handshake, and why.
    fn log(&self, address: Option<SocketAddr>, verdict: Option<&Verdict>) {
        let peer = address.map(tracing::field::display);
        let (alert, refused_by) = (self.alert, self.refused_by);
        let Some(Verdict::Refused(refusal, certificate)) = verdict else {
            tracing::info!(alert, refused_by, cause = &*self.cause, peer, "TLS handshake failed");
            return;
        };
        let certificate = certificate.as_deref();
        tracing::info!(
            alert,
            refused_by = "writ",
            cause = %refusal,
            subject = certificate.map(|certificate| certificate.subject.as_str()),
            issuer = certificate.map(|certificate| certificate.issuer.as_str()),
            names = certificate.map(|certificate| certificate.names.as_str()),
            serial = certificate.map(|certificate| certificate.serial.as_str()),
            peer,
            "TLS handshake failed"
        );
    }
}

/// Describes a rustls error. Problems of the certificate are described by the verdict.
fn describe(error: &Error) -> String {
    let fixed = match error {
        Error::AlertReceived(alert) => return describe_alert(*alert),
        Error::NoCertificatesPresented => "the client presented no certificate",
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls13RequiredForQuic,
        ) => "the client offers no version of TLS that tls.min_version allows",
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            "the client offers no cipher suite that Writ allows"
        }
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => {
            "the client offers no key exchange group that Writ allows"
        }
        Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon) => {
            "the client offers no signature scheme that fits the key of Writ's certificate"
        }
        Error::PeerIncompatible(_) => "the client and Writ have no TLS parameters in common",
        Error::NoApplicationProtocol => "the client offers no application protocol (ALPN) that Writ supports",
        Error::InvalidMessage(_) => "the client sent malformed TLS, or no TLS at all (perhaps plain HTTP)",
        Error::InvalidCertificate(CertificateError::BadSignature) | Error::DecryptError => {
            "the client did not prove possession of the private key of its certificate, or sent a message that cannot be decrypted"
        }
        Error::InvalidCertificate(_) => "the client's certificate is not accepted",
        Error::PeerSentOversizedRecord => "the client sent a record that is too large",
        _ => "the client violated the TLS protocol",
    };
    fixed.to_owned()
}

fn describe_alert(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    let cause = match alert {
        Alert::UnknownCA => "the client does not trust the CA of Writ's certificate",
        Alert::CertificateExpired => "the client considers Writ's certificate expired",
        Alert::CertificateRevoked => "the client considers Writ's certificate revoked",
        Alert::BadCertificate | Alert::CertificateUnknown | Alert::UnsupportedCertificate => {
            "the client does not accept Writ's certificate"
        }
        Alert::ProtocolVersion => "the client does not support the TLS version that Writ chose",
        _ => "the client ended the handshake",
    };
    format!("{cause} (it sent the alert {})", name_of(alert))
}

/// Waits until the alert can arrive: closing a socket with unread bytes would reset the connection and lose the alert.
async fn linger(mut socket: TcpStream) {
    let drained = async {
        socket.shutdown().await?;
        tokio::io::copy(&mut socket.take(LAST_BYTES), &mut tokio::io::sink()).await
    };
    // The socket is closed either way.
    let _ = timeout(LINGER, drained).await;
}

/// The alert that rustls sends for this error, or that the peer sent; `None` if the peer closed the connection.
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
    use rustls::InvalidMessage;

    use super::*;

    fn outcome(error: Error) -> &'static str {
        Failure::of(&io::Error::new(io::ErrorKind::InvalidData, error)).alert
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
        assert_eq!(Failure::of(&io::ErrorKind::UnexpectedEof.into()).alert, "closed");
    }

    #[test]
    fn a_failure_says_who_refused_and_why() {
        let failure = |error: Error| Failure::of(&io::Error::new(io::ErrorKind::InvalidData, error));
        let failed = failure(Error::AlertReceived(AlertDescription::UnknownCA));
        assert_eq!(failed.refused_by, "peer");
        assert_eq!(
            failed.cause,
            "the client does not trust the CA of Writ's certificate (it sent the alert unknown_ca)"
        );
        let failed = failure(Error::InvalidMessage(InvalidMessage::InvalidContentType));
        assert_eq!((failed.refused_by, failed.cause.contains("plain HTTP")), ("writ", true));
    }
}
