//! Why a service gives no answer.

use writ_outbound::https::TlsError;

use crate::cli::printable;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("--url must be the issuer alone, like https://localhost:8443 (without /token)")]
    Url,
    /// A file without a certificate or key, or a key that does not belong to the certificate.
    #[error("{0}")]
    Credentials(&'static str),
    #[error("the certificates and the key cannot be used: {0}")]
    Tls(TlsError),
    /// No response: network, TLS, or the service ended the connection.
    #[error("no answer from the service: {0}")]
    Unreachable(String),
    /// The metadata name another issuer (RFC 8414 §3.3), so they do not apply to this one.
    #[error("the service at {expected} calls itself {}: use --url {}", printable(found), printable(found))]
    Issuer {
        /// The issuer in the metadata.
        found: String,
        /// The issuer in `--url`.
        expected: String,
    },
    /// The response is not that of a TTS; its HTTP status.
    #[error("the answer is not from a Transaction Token Service (HTTP status {0})")]
    Answer(u16),
}
