//! Why a call to a service of the command line fails.

use super::printable;
use writ_outbound::https::TlsError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Not an https URL of a server.
    #[error("--url takes the issuer alone, like https://localhost:8443 (without /token)")]
    Url,
    /// No certificate or key in a file, or one that does not fit the other.
    #[error("{0}")]
    Credentials(&'static str),
    /// The TLS library refused.
    #[error("the certificates and the key cannot be used: {0}")]
    Tls(#[from] TlsError),
    /// The request did not get through: network, TLS, or the server's own end of it.
    #[error("no answer from the service: {0}")]
    Unreachable(String),
    /// The metadata are those of another issuer (RFC 8414 §3.3): whoever wrote them may not speak for this one.
    #[error("the service at {expected} calls itself {}: use --url {}", printable(found), printable(found))]
    Issuer {
        /// Whom the metadata name.
        found: String,
        /// Who was asked for.
        expected: String,
    },
    /// Something answered that is no TTS.
    #[error("the answer is not one of a Transaction Token Service (HTTP status {0})")]
    Answer(u16),
}
