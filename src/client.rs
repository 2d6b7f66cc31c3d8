//! Which client is asking: a certificate becomes an identity right where TLS ends (RFC 8705).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a client: `client_id`, `req_wl`, and the name of its policy file.
///
/// 1 to 128 of `[A-Za-z0-9._-]`, not starting with a dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ClientId(String);

/// The text is no [`ClientId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a client_id is 1 to 128 of A-Z a-z 0-9 . _ - and does not start with a dot")]
pub struct ClientIdError;

impl ClientId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClientId {
    type Err = ClientIdError;

    fn from_str(text: &str) -> Result<Self, ClientIdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(allowed) && !text.starts_with('.');
        fits.then(|| Self(text.to_owned())).ok_or(ClientIdError)
    }
}

impl TryFrom<String> for ClientId {
    type Error = ClientIdError;

    fn try_from(text: String) -> Result<Self, ClientIdError> {
        text.parse()
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client's certificate must hold: one of the names of RFC 8705 §2.1.2, or its own thumbprint (§2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A URI in the subject alternative name; a SPIFFE ID for instance.
    SanUri(String),
}
