//! Which client is asking: a certificate becomes an identity right where TLS ends (RFC 8705).

mod certificate;
mod identity;
mod name;

pub use certificate::{CertificateError, PeerCertificate};
pub use identity::{Identity, IdentityError, IdentityKind, Thumbprint};
pub use name::NameError;

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

/// Why no client could be told from a certificate. The first is all that a stranger learns, whichever client it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No policy names this certificate.
    #[error("no client is registered with this certificate")]
    Unknown,
    /// Several do, and the request does not say which.
    #[error("the certificate belongs to several clients; client_id must name one")]
    Ambiguous,
    /// The client that the request names is none of them.
    #[error("the certificate does not belong to the client that client_id names")]
    IdMismatch,
}

/// The clients that a certificate belongs to; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates<'a>(Vec<&'a ClientId>);

/// Finds the clients that `certificate` belongs to among all that are registered.
///
/// Where its thumbprint is registered, only that counts: such a certificate may have no CA behind the names in it.
pub fn candidates<'a>(
    certificate: &PeerCertificate,
    registered: impl IntoIterator<Item = (&'a ClientId, &'a Identity)>,
) -> Result<Candidates<'a>, ClientError> {
    let matching: Vec<_> = registered.into_iter().filter(|(_, identity)| certificate.matches(identity)).collect();
    let by_thumbprint = |identity: &Identity| identity.kind() == IdentityKind::Thumbprints;
    let pinned = matching.iter().any(|(_, identity)| by_thumbprint(identity));
    let found: Vec<_> = matching
        .into_iter()
        .filter(|(_, identity)| !pinned || by_thumbprint(identity))
        .map(|(client, _)| client)
        .collect();
    if found.is_empty() { Err(ClientError::Unknown) } else { Ok(Candidates(found)) }
}

impl<'a> Candidates<'a> {
    /// The client that asks: the one that `client_id` names, or the only one.
    pub fn choose(&self, client_id: Option<&str>) -> Result<&'a ClientId, ClientError> {
        match (client_id, self.0.as_slice()) {
            (Some(id), all) => all.iter().find(|client| client.as_str() == id).copied().ok_or(ClientError::IdMismatch),
            (None, [only]) => Ok(only),
            (None, _) => Err(ClientError::Ambiguous),
        }
    }
}
