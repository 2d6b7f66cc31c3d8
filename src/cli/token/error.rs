//! Why a service gives no answer.

use crate::cli::printable;
use writ_outbound::https::CredentialsError;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("--url takes the issuer alone, like https://localhost:8443 (without /token)")]
    Url,
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
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
    #[error("the answer is not one of a Transaction Token Service (HTTP status {0})")]
    Answer(u16),
}
