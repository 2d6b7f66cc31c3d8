//! The verifier: which tokens are good, and with whose keys.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use url::Url;

use crate::claims::{NameError, TYP, TrustDomain, TxnClaims};
use crate::error::VerifyError;
use crate::jwks::{Candidates, JwksError, KeySet};
use crate::jws::Jws;
use crate::remote::{self, Location, RemoteKeys, SetupError};
use crate::single_use::{Memory, SingleUse};
use crate::token::TxnToken;

/// The longest header value that is looked at, in bytes. What a service issues is far shorter (4 KiB by default), and
/// few HTTP servers take more.
pub const TOKEN_MAX: usize = 16 * 1024;

/// How far clocks may differ: `iat` and `nbf` may lie this far ahead, and no leeway may be longer.
pub const LEEWAY_MAX: Duration = Duration::from_secs(30);

/// Why a verifier cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The trust domain has the wrong form.
    #[error(transparent)]
    TrustDomain(#[from] NameError),
    /// The keys' address is no URL.
    #[error("the address of the keys is not a URL")]
    Address(#[from] url::ParseError),
    /// Nothing can be fetched with these settings.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The file with the keys cannot be read.
    #[error("the file with the keys cannot be read")]
    File(#[from] std::io::Error),
    /// The given key set cannot be used.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// No source of keys was given, or more than one.
    #[error("a verifier has exactly one source of keys")]
    Source,
    /// More than [`LEEWAY_MAX`].
    #[error("the leeway is longer than 30 seconds")]
    Leeway,
}

/// Verifies Txn-Tokens of one trust domain. Make one and share it: it keeps the keys.
#[derive(Debug)]
pub struct Verifier {
    rules: Rules,
    keys: Keys,
    memory: Option<Memory>,
}

#[derive(Debug)]
enum Keys {
    Fixed(KeySet),
    Remote(RemoteKeys),
}

/// What a good token looks like, its signature apart.
#[derive(Debug)]
struct Rules {
    trust_domain: TrustDomain,
    issuer: Option<String>,
    issuer_required: bool,
    /// How long after `exp` a token is still taken.
    late: Duration,
    /// How far ahead `iat` and `nbf` may lie.
    ahead: Duration,
}

impl Verifier {
    /// Begins a verifier that takes tokens of this trust domain only.
    pub fn builder(trust_domain: impl Into<String>) -> Builder {
        Builder {
            trust_domain: trust_domain.into(),
            sources: Vec::new(),
            root_certificates_pem: None,
            issuer: None,
            issuer_required: false,
            leeway: None,
            max_stale: None,
            observer: None,
            single_use: None,
        }
    }

    /// Verifies the value of one `Txn-Token` header.
    ///
    /// The value must be one token and nothing else; spaces and tabs around it are ignored. A request with several such
    /// headers is to be refused by whoever reads the headers, and no other header (`Authorization`) is to be read.
    ///
    /// Waits for a fetch only if the keys in memory cannot tell; must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// [`VerifyError`]
    pub async fn verify(&self, header_value: impl AsRef<str>) -> Result<TxnToken, VerifyError> {
        let presented = Presented::read(header_value.as_ref())?;
        let token = match &self.keys {
            Keys::Fixed(keys) => self.rules.verify(&presented, &presented.keys_in(keys)?, SystemTime::now())?,
            Keys::Remote(keys) => {
                let keys = keys.key(presented.jws.kid.as_deref(), presented.jws.algorithm).await?;
                self.rules.verify(&presented, &keys, SystemTime::now())?
            }
        };
        self.must_be_first_use(&token)?;
        Ok(token)
    }

    /// Verifies as [`Verifier::verify`] does, with these keys and at this instant: for tests, and for tokens that were
    /// kept. Nothing is fetched, and a single-use check is not made.
    ///
    /// # Errors
    /// [`VerifyError`]
    pub fn verify_at(&self, header_value: &str, keys: &KeySet, now: SystemTime) -> Result<TxnToken, VerifyError> {
        let presented = Presented::read(header_value)?;
        self.rules.verify(&presented, &presented.keys_in(keys)?, now)
    }

    /// Begins to fetch the keys, so that the first token need not wait for them.
    pub fn warm(&self) {
        if let Keys::Remote(keys) = &self.keys {
            keys.warm();
        }
    }

    fn must_be_first_use(&self, token: &TxnToken) -> Result<(), VerifyError> {
        let Some(memory) = &self.memory else { return Ok(()) };
        let forget_at = token.expires_at().saturating_add(self.rules.late.as_secs() + 1);
        let first = memory.first_use(token, forget_at, since_epoch(SystemTime::now()).as_secs());
        if first { Ok(()) } else { Err(VerifyError::Replayed) }
    }
}

/// A token as it came.
struct Presented<'a> {
    encoded: &'a str,
    jws: Jws<'a>,
}

impl<'a> Presented<'a> {
    fn read(header_value: &'a str) -> Result<Self, VerifyError> {
        let encoded = header_value.trim_matches([' ', '\t']);
        let jws = Jws::parse(encoded, TOKEN_MAX).map_err(|_| VerifyError::Malformed)?;
        match jws.typ.as_deref() {
            Some(TYP) => Ok(Self { encoded, jws }),
            _ => Err(VerifyError::TypeWrong),
        }
    }

    fn keys_in(&self, keys: &KeySet) -> Result<Candidates, VerifyError> {
        Ok(keys.find(self.jws.kid.as_deref(), self.jws.algorithm)?)
    }
}

impl Rules {
    fn verify(&self, presented: &Presented<'_>, keys: &Candidates, now: SystemTime) -> Result<TxnToken, VerifyError> {
        if !keys.verify(&presented.jws) {
            return Err(VerifyError::SignatureInvalid);
        }
        let claims = TxnClaims::parse(&presented.jws.payload).map_err(|_| VerifyError::ClaimsInvalid)?;
        if claims.aud != self.trust_domain {
            return Err(VerifyError::AudienceMismatch);
        }
        self.check_issuer(claims.iss.as_deref())?;
        self.check_times(&claims, since_epoch(now))?;
        TxnToken::new(claims, presented.encoded)
    }

    fn check_issuer(&self, named: Option<&str>) -> Result<(), VerifyError> {
        let fits = match (named, self.issuer.as_deref()) {
            (Some(named), Some(ours)) => named == ours,
            (Some(_), None) => true,
            (None, _) => !self.issuer_required,
        };
        if fits { Ok(()) } else { Err(VerifyError::IssuerMismatch) }
    }

    fn check_times(&self, claims: &TxnClaims, now: Duration) -> Result<(), VerifyError> {
        let ahead = |second: u64| Duration::from_secs(second) > now.saturating_add(self.ahead);
        if now >= Duration::from_secs(claims.exp).saturating_add(self.late) {
            return Err(VerifyError::Expired { expired_at: claims.exp });
        }
        if ahead(claims.iat) || claims.nbf.is_some_and(ahead) {
            return Err(VerifyError::NotYetValid);
        }
        Ok(())
    }
}

fn fixed(document: &[u8]) -> Result<KeySet, JwksError> {
    let keys = KeySet::parse(document)?;
    if let Some(left_out) = keys.left_out() {
        tracing::warn!(left_out, "keys of a set cannot be used; the others serve");
    }
    Ok(keys)
}

/// A clock before 1970 reads as 1970: then every token is not valid yet.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What a [`Verifier`] is to be.
#[must_use]
pub struct Builder {
    trust_domain: String,
    sources: Vec<Source>,
    root_certificates_pem: Option<Vec<u8>>,
    issuer: Option<String>,
    issuer_required: bool,
    leeway: Option<Duration>,
    max_stale: Option<Duration>,
    observer: Option<remote::Observer>,
    single_use: Option<SingleUse>,
}

enum Source {
    Url(String),
    Json(Vec<u8>),
    File(std::path::PathBuf),
}

impl Builder {
    /// Keys from this HTTPS address, fetched when they are first needed and kept.
    pub fn jwks_url(mut self, url: impl Into<String>) -> Self {
        self.sources.push(Source::Url(url.into()));
        self
    }

    /// Keys from this text, for good: keys that the service changes later are not noticed.
    pub fn jwks_json(mut self, document: impl Into<Vec<u8>>) -> Self {
        self.sources.push(Source::Json(document.into()));
        self
    }

    /// Keys from this file, read once.
    pub fn jwks_file(mut self, path: impl AsRef<Path>) -> Self {
        self.sources.push(Source::File(path.as_ref().to_owned()));
        self
    }

    /// Whom to trust for HTTPS, instead of the roots of the system: one or more certificates in PEM. Can be repeated.
    ///
    /// # Errors
    /// [`BuildError::Setup`] if there is no certificate, or one that cannot be read.
    pub fn root_certificate_pem(mut self, pem: impl AsRef<[u8]>) -> Result<Self, BuildError> {
        remote::check_root_certificates(pem.as_ref())?;
        let pems = self.root_certificates_pem.get_or_insert_default();
        pems.extend_from_slice(pem.as_ref());
        pems.push(b'\n');
        Ok(self)
    }

    /// What `iss` of a token must be, byte for byte, if it has one.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Whether a token without `iss` is refused; default `false`, since the keys already tell whose it is.
    pub fn require_issuer(mut self, required: bool) -> Self {
        self.issuer_required = required;
        self
    }

    /// Takes tokens this long after `exp`, and with `iat` and `nbf` this far ahead; at most 30 s. Without it `exp` is
    /// exact, and `iat` and `nbf` may lie up to 30 s ahead.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = Some(leeway);
        self
    }

    /// How long after the last successful fetch the keys may still serve; default 24 h.
    pub fn max_stale(mut self, max_stale: Duration) -> Self {
        self.max_stale = Some(max_stale);
        self
    }

    /// Told how each fetch of the keys ends, for metrics; must return at once.
    pub fn on_fetch(mut self, observer: impl Fn(remote::FetchOutcome) + Send + Sync + 'static) -> Self {
        self.observer = Some(std::sync::Arc::new(observer));
        self
    }

    /// Refuses what was used before, in this process. Off by default: it also refuses honest retries, and a token may
    /// well arrive twice where calls of a transaction meet again.
    pub fn single_use(mut self, what: SingleUse) -> Self {
        self.single_use = Some(what);
        self
    }

    /// The verifier. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`BuildError`]
    pub fn build(mut self) -> Result<Verifier, BuildError> {
        if self.leeway.is_some_and(|leeway| leeway > LEEWAY_MAX) {
            return Err(BuildError::Leeway);
        }
        let keys = self.keys()?;
        let rules = Rules {
            trust_domain: self.trust_domain.parse()?,
            issuer: self.issuer,
            issuer_required: self.issuer_required,
            late: self.leeway.unwrap_or_default(),
            ahead: self.leeway.unwrap_or(LEEWAY_MAX),
        };
        Ok(Verifier { rules, keys, memory: self.single_use.map(Memory::new) })
    }

    fn keys(&mut self) -> Result<Keys, BuildError> {
        let source = self.sources.pop().filter(|_| self.sources.is_empty()).ok_or(BuildError::Source)?;
        Ok(match source {
            Source::Url(url) => Keys::Remote(RemoteKeys::new(&self.remote_settings(&url)?)?),
            Source::Json(document) => Keys::Fixed(fixed(&document)?),
            Source::File(path) => Keys::Fixed(fixed(&std::fs::read(path)?)?),
        })
    }

    fn remote_settings(&mut self, url: &str) -> Result<remote::Settings, BuildError> {
        let mut settings = remote::Settings::new(Location::JwksUri(Url::parse(url)?));
        settings.root_certificates_pem = self.root_certificates_pem.take();
        settings.observer = self.observer.take();
        settings.max_stale = self.max_stale.unwrap_or(settings.max_stale);
        Ok(settings)
    }
}
