//! Where keys are published, and how they are fetched and cached.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

/// Where the keys are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// The `https` URL of the JWK set.
    JwksUri(Url),
    /// The issuer's metadata contains the URL (`jwks_uri`): OIDC Discovery 1.0 §4, then RFC 8414 §3.
    Discovery {
        /// The issuer, an `https` URL without query and fragment. `issuer` in the metadata must be the same text.
        issuer: String,
    },
}

/// A function that receives the outcome of every fetch; it must not block.
pub type Observer = Arc<dyn Fn(FetchOutcome) + Send + Sync>;

/// The outcome of one fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FetchOutcome {
    /// A new key set is in use.
    Ok,
    /// The publisher answered 304: the key set has not changed.
    Unchanged,
    /// The fetch failed; the last key set stays in use until it is stale.
    Error,
}

/// How keys are fetched and how long they are cached.
#[derive(Clone)]
pub struct Settings {
    /// Where the keys are published.
    pub location: Location,
    /// The root certificates for HTTPS, one or more in PEM; `None` uses those of the system.
    pub root_certificates_pem: Option<Vec<u8>>,
    /// Timeout of the connection, including the TLS handshake; default 5 s.
    pub connect_timeout: Duration,
    /// Timeout of one fetch as a whole, including discovery; default 5 s.
    pub timeout: Duration,
    /// Minimum time between two fetches for unknown key IDs, and between a failed fetch and the next one; default 30 s,
    /// limited to 100 ms to 24 h. It also applies after a failure: otherwise each random key ID would cause a fetch.
    pub cool_down: Duration,
    /// Age at which a key set is refreshed if the response has no `Cache-Control: max-age` (RFC 9111 §5.2.2.1);
    /// default 5 min. Either value is limited to 1 s to 24 h, and to half of `max_stale`.
    pub default_max_age: Duration,
    /// How long a key set stays in use after the last successful fetch; default 24 h.
    pub max_stale: Duration,
    /// Receives the outcome of each fetch; default `None`.
    pub observer: Option<Observer>,
}

impl Settings {
    /// The default settings for keys at `location`.
    pub fn new(location: Location) -> Self {
        Self {
            location,
            root_certificates_pem: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(5),
            cool_down: Duration::from_secs(30),
            default_max_age: Duration::from_secs(5 * 60),
            max_stale: Duration::from_secs(24 * 60 * 60),
            observer: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("location", &self.location).finish_non_exhaustive()
    }
}
