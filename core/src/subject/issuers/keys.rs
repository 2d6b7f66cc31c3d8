//! The keys of one issuer: in a file that is reloaded when it changes, or fetched and cached.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use writ_verifier::jwks::{Candidates, KeySet};
use writ_verifier::remote::{self, FetchOutcome, KeyError, Location, RemoteKeys};

use super::IssuersError;
use crate::client::ClientId;
use crate::limits::MAX_WAITING_FOR_KEYS;
use crate::subject::settings::{IssuerSettings, KeySource};
use writ_platform::bounded;
use writ_platform::digest::sha256;
use writ_platform::shares::Shares;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) enum IssuerKeys {
    File(KeyFile),
    Remote {
        keys: RemoteKeys,
        /// The clients that wait for a fetch.
        waiting: Arc<Shares<ClientId>>,
    },
}

impl IssuerKeys {
    /// Reads the file, or prepares fetching; nothing is fetched yet.
    pub(super) fn new(settings: &IssuerSettings) -> Result<Self, IssuersError> {
        let location = match location(settings) {
            Ok(location) => location,
            Err(path) => return KeyFile::open(&settings.issuer, path).map(Self::File),
        };
        let observer = Some(count_fetches(settings.issuer.clone()));
        let keys = RemoteKeys::new(&remote::Settings { observer, ..remote_settings(settings, location)? });
        let keys = keys.map_err(|source| IssuersError::Remote { issuer: settings.issuer.clone(), source })?;
        Ok(Self::Remote { keys, waiting: Shares::new(MAX_WAITING_FOR_KEYS) })
    }

    /// Starts fetching in the background. Needs a Tokio runtime.
    pub(super) fn warm(&self) {
        if let Self::Remote { keys, .. } = self {
            keys.warm();
        }
    }

    /// Whether its keys can be used as they are published.
    pub(super) fn reload_file(&self) -> bool {
        match self {
            Self::File(file) => file.reload(),
            Self::Remote { .. } => true,
        }
    }

    /// The keys that may have signed a token with this `kid` and `alg`; `client` may have to wait for a fetch.
    pub(super) async fn find(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        client: &ClientId,
    ) -> Result<Candidates, KeyError> {
        match self {
            Self::File(file) => Ok(file.content.load().keys.find(kid, algorithm)?),
            Self::Remote { keys, waiting } => {
                keys.key_if_admitted(kid, algorithm, || waiting.take(client.clone()).ok()).await
            }
        }
    }
}

/// A JWK set in a file.
#[derive(Debug)]
pub(super) struct KeyFile {
    issuer: String,
    path: PathBuf,
    content: ArcSwap<Content>,
    /// The last reload failed, and this was logged.
    broken: AtomicBool,
}

/// The last valid content of a file.
#[derive(Debug)]
struct Content {
    keys: KeySet,
    /// SHA-256 of the file. If it has not changed, the parsed keys stay the same, and tokens that they verified are not
    /// verified again.
    sha256: [u8; 32],
}

impl KeyFile {
    fn open(issuer: &str, path: &Path) -> Result<Self, IssuersError> {
        let content = Content::parse(&read(path)?, path)?;
        warn_of_unusable_keys(issuer, &content.keys);
        let (issuer, path) = (issuer.to_owned(), path.to_owned());
        Ok(Self { issuer, path, content: ArcSwap::from_pointee(content), broken: AtomicBool::new(false) })
    }

    /// Reads the file again. If it cannot be used, the last valid keys stay in use. This is logged once, however often it
    /// is called.
    fn reload(&self) -> bool {
        let last = self.content.load();
        let changed = read(&self.path).and_then(|document| {
            let is_same = sha256(&document) == last.sha256;
            if is_same { Ok(None) } else { Content::parse(&document, &self.path).map(Some) }
        });
        let is_usable = changed.is_ok();
        let was_broken = self.broken.swap(!is_usable, Ordering::Relaxed);
        match changed {
            Ok(changed) => {
                if let Some(content) = &changed
                    && content.keys.left_out() != last.keys.left_out()
                {
                    warn_of_unusable_keys(&self.issuer, &content.keys);
                }
                if was_broken {
                    tracing::info!(
                        issuer = self.issuer,
                        "the keys of a subject issuer can be read again and are in use"
                    );
                }
                if let Some(content) = changed {
                    self.content.store(Arc::new(content));
                }
            }
            Err(_) if was_broken => {}
            Err(error) => tracing::error!(
                issuer = self.issuer,
                error = &error as &dyn std::error::Error,
                "the keys of a subject issuer were not reloaded; the last valid ones stay in use"
            ),
        }
        is_usable
    }
}

fn warn_of_unusable_keys(issuer: &str, keys: &KeySet) {
    if let Some(left_out) = keys.left_out() {
        tracing::warn!(issuer, left_out, "keys of a subject issuer cannot be used; the others remain in use");
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IssuersError> {
    bounded::read(path).map_err(|source| IssuersError::File { path: path.to_owned(), source })
}

impl Content {
    fn parse(document: &[u8], path: &Path) -> Result<Self, IssuersError> {
        let keys = KeySet::parse(document).map_err(|source| IssuersError::KeyFile { path: path.to_owned(), source })?;
        Ok(Self { keys, sha256: sha256(document) })
    }
}

/// The location to fetch keys from, or else the file that contains them.
fn location(settings: &IssuerSettings) -> Result<Location, &Path> {
    match &settings.keys {
        KeySource::File(path) => Err(path),
        KeySource::Uri(uri) => Ok(Location::JwksUri(uri.clone())),
        KeySource::Discovery => Ok(Location::Discovery { issuer: settings.issuer.clone() }),
    }
}

fn remote_settings(settings: &IssuerSettings, location: Location) -> Result<remote::Settings, IssuersError> {
    let root_certificates_pem = settings.ca.as_deref().map(read).transpose()?;
    Ok(remote::Settings { root_certificates_pem, max_stale: settings.jwks_stale, ..remote::Settings::new(location) })
}

/// Fetches the keys of an issuer once, as the service would; `None` if they are in a file.
///
/// # Errors
/// The error of the fetch; its sources are the causes.
pub async fn fetch_keys(settings: &IssuerSettings) -> Result<Option<KeySet>, Box<dyn std::error::Error + Send + Sync>> {
    let Ok(location) = location(settings) else { return Ok(None) };
    remote::fetch_once(&remote_settings(settings, location)?).await.map(Some)
}

pub(super) fn count_fetches(issuer: String) -> remote::Observer {
    for outcome in ["ok", "unchanged", "error"] {
        metrics::counter!("writ_jwks_fetch_total", "issuer" => issuer.clone(), "outcome" => outcome).absolute(0);
    }
    Arc::new(move |outcome| {
        let outcome = match outcome {
            FetchOutcome::Ok => "ok",
            FetchOutcome::Unchanged => "unchanged",
            FetchOutcome::Error => "error",
        };
        metrics::counter!("writ_jwks_fetch_total", "issuer" => issuer.clone(), "outcome" => outcome).increment(1);
    })
}
