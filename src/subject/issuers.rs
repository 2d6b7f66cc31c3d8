//! Subject issuers: who may sign what is exchanged; their keys, fetched and kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use url::Url;
use writ_verifier::jwks::{JwksError, KeySet, VerificationKey};
use writ_verifier::remote::{self, FetchOutcome, KeyError, Location, RemoteKeys};
use writ_verifier::{Purpose, Scope};

use super::SubjectError;
use super::issued_jwt::{self, Measure, OutsideToken, Presented};
use crate::clock::Timestamp;
use crate::policy::{ClientPolicy, PolicySet, Source};

/// One `[[subject_issuer]]`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `iss` of its tokens, byte for byte.
    pub issuer: String,
    /// Where its keys come from.
    pub keys: KeySource,
    /// One of these must be in `aud` of access tokens and JWTs.
    pub audience: Vec<String>,
    /// What it signs with; asymmetric only.
    pub algorithms: Vec<Algorithm>,
    /// The sources that its tokens may be: access token, JWT, ID token.
    pub token_types: Vec<Source>,
    /// How its JWT access tokens look.
    pub access_token_profile: AccessTokenProfile,
    /// One of these client ids must be in `aud` of ID tokens.
    pub id_token_audience: Vec<String>,
    /// The claim that names the subject.
    pub subject_claim: String,
    /// The claim that tells the scope.
    pub scope_claim: String,
    /// Put before the subject.
    pub subject_prefix: String,
    /// What a token covers that tells no scope itself; empty: refused.
    pub scopes: Vec<Purpose>,
    /// How long the last good keys serve while the issuer is away.
    pub jwks_stale: Duration,
    /// Trusted for HTTPS to this issuer instead of the system's roots, PEM.
    pub ca: Option<PathBuf>,
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a JWK set.
    File(PathBuf),
    /// An HTTPS address of a JWK set.
    Uri(Url),
    /// The issuer's metadata names the address.
    Discovery,
}

/// How JWT access tokens of an issuer look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTokenProfile {
    /// RFC 9068: `typ` is `at+jwt`, and all its claims are there.
    Rfc9068,
    /// `typ` may be `JWT` or absent; only `iss`, `sub`, `aud` and `exp` are needed.
    Legacy,
}

/// Why the subject issuers cannot be set up. That one does not answer is none of it.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// Two sections for one `iss`.
    #[error("the subject issuer {0} is configured twice")]
    Repeated(String),
    /// Two issuers put the same text before their subjects, so that one could name the other's.
    #[error("the subject issuers {0} and {1} have the same subject_prefix")]
    SharedPrefix(String, String),
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A `jwks_file` gives no keys.
    #[error("{} cannot be used", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: JwksError,
    },
    /// Nothing can ever be fetched from this issuer with these settings.
    #[error("the keys of the subject issuer {issuer} cannot be fetched")]
    Remote {
        /// Its `iss`.
        issuer: String,
        /// Why not.
        source: remote::SetupError,
    },
}

/// The configured subject issuers and their keys.
#[derive(Debug)]
pub struct Issuers {
    by_iss: BTreeMap<String, Issuer>,
    prefixes: Vec<String>,
    clock_skew: Duration,
}

#[derive(Debug)]
struct Issuer {
    settings: Settings,
    default_scope: Option<Scope>,
    keys: Keys,
}

/// The keys of one issuer; a key of another is never looked at.
#[derive(Debug)]
enum Keys {
    File { path: PathBuf, set: ArcSwap<KeySet> },
    Remote(RemoteKeys),
}

impl Issuers {
    /// Sets up the issuers: key files are read, nothing is fetched yet.
    ///
    /// # Errors
    /// [`IssuersError`] names the file or the issuer at fault.
    pub fn new(settings: Vec<Settings>, clock_skew: Duration) -> Result<Self, IssuersError> {
        let mut by_iss = BTreeMap::new();
        let mut prefixes = BTreeMap::new();
        for settings in settings {
            let iss = settings.issuer.clone();
            if let Some(other) = prefixes.insert(settings.subject_prefix.clone(), iss.clone()) {
                let same = other == iss;
                return Err(if same { IssuersError::Repeated(iss) } else { IssuersError::SharedPrefix(other, iss) });
            }
            if by_iss.insert(iss.clone(), Issuer::new(settings)?).is_some() {
                return Err(IssuersError::Repeated(iss));
            }
        }
        Ok(Self { by_iss, prefixes: prefixes.into_keys().collect(), clock_skew })
    }

    /// Starts fetching the keys in the background, so that the first token need not wait. Needs a Tokio runtime.
    pub fn warm(&self) {
        for issuer in self.by_iss.values() {
            if let Keys::Remote(keys) = &issuer.keys {
                keys.warm();
            }
        }
    }

    /// Reads the key files again. Of one that cannot be used the last good set stays, and the log says so.
    pub fn reload_files(&self) {
        for (iss, issuer) in &self.by_iss {
            let Keys::File { path, set } = &issuer.keys else { continue };
            match read_keys(path) {
                Ok(keys) => set.store(Arc::new(keys)),
                Err(error) => tracing::error!(
                    issuer = iss,
                    error = &error as &dyn std::error::Error,
                    "the keys of a subject issuer were not reloaded; the last good ones stay in force"
                ),
            }
        }
    }

    /// Verifies `text` as an access token that `client` presents, at the instant `now`.
    ///
    /// # Errors
    /// [`SubjectError`], the first in the order of contract 3.6: form, issuer and key, signature, audience and other
    /// claims, times.
    pub async fn access_token(
        &self,
        text: &str,
        client: &ClientPolicy,
        policies: &PolicySet,
        now: Timestamp,
    ) -> Result<OutsideToken, SubjectError> {
        let presented = Presented::parse(text)?;
        let issuer = self.issuing(Source::AccessToken, presented.issuer()).ok_or(SubjectError::IssuerUnknown)?;
        let key = issuer.key_of(&presented).await?;
        let token = presented.signed_with(&key)?;
        let measure = Measure {
            issuer: &issuer.settings,
            default_scope: issuer.default_scope.as_ref(),
            prefixes: &self.prefixes,
            client,
            policies,
            clock_skew: self.clock_skew,
            now,
        };
        issued_jwt::access_token(token, measure)
    }

    /// The issuer of that name, byte for byte, if it issues tokens of this kind.
    fn issuing(&self, kind: Source, iss: &str) -> Option<&Issuer> {
        self.by_iss.get(iss).filter(|issuer| issuer.settings.token_types.contains(&kind))
    }
}

impl Issuer {
    fn new(settings: Settings) -> Result<Self, IssuersError> {
        let keys = match &settings.keys {
            KeySource::File(path) => Keys::File { path: path.clone(), set: ArcSwap::from_pointee(read_keys(path)?) },
            KeySource::Uri(uri) => Keys::Remote(remote_keys(&settings, Location::JwksUri(uri.clone()))?),
            KeySource::Discovery => {
                let location = Location::Discovery { issuer: settings.issuer.clone() };
                Keys::Remote(remote_keys(&settings, location)?)
            }
        };
        let words: Vec<_> = settings.scopes.iter().map(Purpose::as_str).collect();
        Ok(Self { default_scope: words.join(" ").parse().ok(), settings, keys })
    }

    /// The key that `token` names. An algorithm that this issuer does not use ends it before any key is asked for.
    async fn key_of(&self, token: &Presented<'_>) -> Result<Arc<VerificationKey>, SubjectError> {
        let algorithm = token.algorithm();
        if !self.settings.algorithms.contains(&algorithm) {
            return Err(SubjectError::SignatureInvalid);
        }
        let key = match &self.keys {
            Keys::File { set, .. } => set.load().find(token.kid(), algorithm).cloned().map_err(KeyError::from),
            Keys::Remote(keys) => keys.key(token.kid(), algorithm).await,
        };
        key.map_err(|error| match error {
            KeyError::Unknown => SubjectError::KeyUnknown,
            KeyError::Unfit => SubjectError::SignatureInvalid,
            KeyError::Unavailable => SubjectError::IssuerUnavailable,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IssuersError> {
    fs::read(path).map_err(|source| IssuersError::File { path: path.to_owned(), source })
}

fn read_keys(path: &Path) -> Result<KeySet, IssuersError> {
    KeySet::parse(&read(path)?).map_err(|source| IssuersError::KeyFile { path: path.to_owned(), source })
}

fn remote_keys(settings: &Settings, location: Location) -> Result<RemoteKeys, IssuersError> {
    let root_certificates_pem = settings.ca.as_deref().map(read).transpose()?;
    let settings_of_keys = remote::Settings {
        root_certificates_pem,
        max_stale: settings.jwks_stale,
        observer: Some(count_fetches(settings.issuer.clone())),
        ..remote::Settings::new(location)
    };
    RemoteKeys::new(&settings_of_keys).map_err(|source| IssuersError::Remote { issuer: settings.issuer.clone(), source })
}

fn count_fetches(issuer: String) -> remote::Observer {
    Arc::new(move |outcome| {
        let outcome = match outcome {
            FetchOutcome::Ok => "ok",
            FetchOutcome::Unchanged => "unchanged",
            FetchOutcome::Error => "error",
        };
        metrics::counter!("writ_jwks_fetch_total", "issuer" => issuer.clone(), "outcome" => outcome).increment(1);
    })
}
