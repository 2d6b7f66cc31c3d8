//! The verifier and its builder.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::Algorithm;
use url::Url;

use crate::cache::{CacheLimits, TokenCache, TokenHash};
use crate::claims::{NameError, TYP, TrustDomain, TxnClaims};
use crate::error::VerifyError;
use crate::jwks::{Candidates, JwksError, KeySet, VerificationKey};
use crate::jws::Jws;
use crate::remote::{self, Location, RemoteKeys, SetupError};
use crate::single_use::{SingleUse, UseLog};
use crate::token::{Content, TxnToken};

/// The maximum length of a token in bytes: 16 KiB. Writ issues far shorter tokens (at most 4 KiB by default), and few
/// HTTP servers accept longer headers.
pub const TOKEN_MAX: usize = 16 * 1024;

/// The maximum leeway: 30 s. Also the default limit on how far `iat` and `nbf` may be in the future.
pub const LEEWAY_MAX: Duration = Duration::from_secs(30);

/// How many verified tokens a [`Verifier`] remembers by default.
const CACHED_TOKENS: usize = 1024;

/// The memory for a token that the verifier remembers, on average, in bytes.
const CACHED_TOKEN_SIZE: usize = 2048;

/// Why a verifier cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The trust domain has the wrong syntax; see [`TrustDomain`].
    #[error(transparent)]
    TrustDomain(#[from] NameError),
    /// The argument of [`Builder::jwks_url`] is not a URL.
    #[error("the address of the keys is not a URL")]
    Address(#[from] url::ParseError),
    /// The URL is not an `https` URL, or the root certificates are not usable.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The file of [`Builder::jwks_file`] cannot be read; `source()` gives the cause.
    #[error("the file with the keys cannot be read")]
    File(#[from] std::io::Error),
    /// The key set of [`Builder::jwks_json`] or [`Builder::jwks_file`] is not usable.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// No source of keys was configured, or more than one.
    #[error("a verifier needs exactly one source of keys")]
    Source,
    /// The leeway is longer than [`LEEWAY_MAX`].
    #[error("the leeway is longer than 30 seconds")]
    Leeway,
}

/// Verifies the Txn-Tokens of one trust domain. Create one and share it, because it caches the keys.
#[derive(Debug)]
pub struct Verifier {
    rules: Rules,
    keys: Keys,
    /// Tokens that were accepted; `None` if they are not remembered.
    accepted: Option<TokenCache<Arc<Accepted>>>,
    use_log: Option<UseLog>,
}

/// A token that was accepted, and what its signature was checked with.
struct Accepted {
    kid: Option<String>,
    algorithm: Algorithm,
    key: Arc<VerificationKey>,
    content: Arc<Content>,
}

/// Where an accepted token is remembered.
type Place<'a> = (&'a TokenCache<Arc<Accepted>>, TokenHash);

#[derive(Debug)]
enum Keys {
    Fixed(KeySet),
    Remote(RemoteKeys),
}

/// The rules that the claims must satisfy.
#[derive(Debug)]
struct Rules {
    trust_domain: TrustDomain,
    issuer: Option<String>,
    issuer_required: bool,
    /// How long after `exp` a token is accepted.
    expiry_leeway: Duration,
    /// How far in the future `iat` and `nbf` may be.
    future_leeway: Duration,
}

impl Verifier {
    /// A builder for a verifier that accepts only tokens of this trust domain (`aud`).
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
            cached_tokens: CACHED_TOKENS,
            single_use: None,
        }
    }

    /// Verifies the value of one `Txn-Token` header.
    ///
    /// The value must be exactly one token; surrounding spaces and tabs are ignored. The caller must refuse a request with
    /// more than one such header, and must not take a token from any other header such as `Authorization`.
    ///
    /// With [`Builder::jwks_url`], waits for a fetch only if the cached keys cannot answer, and must be called inside a
    /// Tokio runtime.
    ///
    /// # Errors
    /// [`VerifyError`] if the token is invalid, or if its key cannot be fetched.
    pub async fn verify(&self, header_value: impl AsRef<str>) -> Result<TxnToken, VerifyError> {
        let encoded = trim(header_value.as_ref());
        let cache = self.accepted.as_ref().filter(|_| encoded.len() <= TOKEN_MAX);
        let place = cache.map(|cache| (cache, TokenHash::of(encoded)));
        let known = place.and_then(|(cache, hash)| cache.get(&hash, since_epoch(SystemTime::now()).as_secs()));
        let token = if let Some(known) = known {
            let keys = self.find_keys(known.kid.as_deref(), known.algorithm).await?;
            self.verify_again(&known, encoded, &keys, place)?
        } else {
            let jws = parse(encoded)?;
            let keys = self.find_keys(jws.kid.as_deref(), jws.algorithm).await?;
            self.verify_signed(jws, encoded, &keys, place)?
        };
        self.check_first_use(&token)?;
        Ok(token)
    }

    /// Verifies a token that was accepted before. Its signature is not checked again if the key that verified it is still
    /// one of `keys`, those that its header selects.
    fn verify_again(
        &self,
        known: &Accepted,
        encoded: &str,
        keys: &Candidates,
        place: Option<Place<'_>>,
    ) -> Result<TxnToken, VerifyError> {
        if !keys.contains(&known.key) {
            return self.verify_signed(parse(encoded)?, encoded, keys, place);
        }
        self.rules.check(known.content.claims(), SystemTime::now())?;
        Ok(TxnToken::new(Arc::clone(&known.content), encoded))
    }

    fn verify_signed(
        &self,
        jws: Jws<'_>,
        encoded: &str,
        keys: &Candidates,
        place: Option<Place<'_>>,
    ) -> Result<TxnToken, VerifyError> {
        let now = SystemTime::now();
        let (key, content) = self.rules.verify(&jws, keys, now)?;
        let token = TxnToken::new(Arc::clone(&content), encoded);
        if let Some((cache, hash)) = place {
            let Jws { kid, algorithm, .. } = jws;
            // Parsed claims take about twice the memory of their text.
            let (size, ends) = (2 * encoded.len() + size_of::<Accepted>(), token.expires_at());
            let accepted = Arc::new(Accepted { kid, algorithm, key: Arc::clone(key), content });
            cache.insert(hash, accepted, size, ends, since_epoch(now).as_secs());
        }
        Ok(token)
    }

    async fn find_keys(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Candidates, VerifyError> {
        match &self.keys {
            Keys::Fixed(keys) => Ok(keys.find(kid, algorithm)?),
            Keys::Remote(keys) => Ok(keys.key(kid, algorithm).await?),
        }
    }

    /// As [`Verifier::verify`], with the given keys and time: for tests, and for stored tokens. Fetches no keys, and does
    /// not apply the single-use check.
    ///
    /// # Errors
    /// [`VerifyError`] if the token is invalid.
    pub fn verify_at(&self, header_value: &str, keys: &KeySet, now: SystemTime) -> Result<TxnToken, VerifyError> {
        let encoded = trim(header_value);
        let jws = parse(encoded)?;
        let (_, content) = self.rules.verify(&jws, &keys.find(jws.kid.as_deref(), jws.algorithm)?, now)?;
        Ok(TxnToken::new(content, encoded))
    }

    /// Starts to fetch the keys, so that the first token does not wait for them. Must be called inside a Tokio runtime.
    /// Does nothing without [`Builder::jwks_url`].
    pub fn warm(&self) {
        if let Keys::Remote(keys) = &self.keys {
            keys.warm();
        }
    }

    fn check_first_use(&self, token: &TxnToken) -> Result<(), VerifyError> {
        let Some(use_log) = &self.use_log else { return Ok(()) };
        let forget_at = token.expires_at().saturating_add(self.rules.expiry_leeway.as_secs() + 1);
        let is_first = use_log.record_use(token, forget_at, since_epoch(SystemTime::now()).as_secs());
        if is_first { Ok(()) } else { Err(VerifyError::Replayed) }
    }
}

/// The value of a header without the white space that HTTP allows around it.
fn trim(header_value: &str) -> &str {
    header_value.trim_matches([' ', '\t'])
}

/// Parses a token of the right type. Its signature and claims are not verified yet.
fn parse(encoded: &str) -> Result<Jws<'_>, VerifyError> {
    let jws = Jws::parse(encoded, TOKEN_MAX).map_err(|_| VerifyError::Malformed)?;
    if jws.typ.as_deref() == Some(TYP) { Ok(jws) } else { Err(VerifyError::TypeWrong) }
}

impl Rules {
    /// The content of a token, and the key that verified it.
    fn verify<'k>(
        &self,
        jws: &Jws<'_>,
        keys: &'k Candidates,
        now: SystemTime,
    ) -> Result<(&'k Arc<VerificationKey>, Arc<Content>), VerifyError> {
        let signer = keys.find_signer(jws).ok_or(VerifyError::SignatureInvalid)?;
        let claims = TxnClaims::parse(&jws.payload).map_err(|_| VerifyError::ClaimsInvalid)?;
        self.check(&claims, now)?;
        Ok((signer, Arc::new(Content::new(claims)?)))
    }

    /// Every check of the claims that depends on the time or the settings.
    fn check(&self, claims: &TxnClaims, now: SystemTime) -> Result<(), VerifyError> {
        if claims.aud != self.trust_domain {
            return Err(VerifyError::AudienceMismatch);
        }
        self.check_issuer(claims.iss.as_deref())?;
        self.check_times(claims, since_epoch(now))
    }

    fn check_issuer(&self, iss: Option<&str>) -> Result<(), VerifyError> {
        let is_accepted = match (iss, self.issuer.as_deref()) {
            (Some(iss), Some(expected)) => iss == expected,
            (Some(_), None) => true,
            (None, _) => !self.issuer_required,
        };
        if is_accepted { Ok(()) } else { Err(VerifyError::IssuerMismatch) }
    }

    fn check_times(&self, claims: &TxnClaims, now: Duration) -> Result<(), VerifyError> {
        let is_future = |second: u64| Duration::from_secs(second) > now.saturating_add(self.future_leeway);
        if now >= Duration::from_secs(claims.exp).saturating_add(self.expiry_leeway) {
            return Err(VerifyError::Expired { expired_at: claims.exp });
        }
        if is_future(claims.iat) || claims.nbf.is_some_and(is_future) {
            return Err(VerifyError::NotYetValid);
        }
        Ok(())
    }
}

/// Parses a configured key set, and logs its unusable keys.
fn parse_key_set(document: &[u8]) -> Result<KeySet, JwksError> {
    let keys = KeySet::parse(document)?;
    if let Some(left_out) = keys.left_out() {
        tracing::warn!(left_out, "keys of a key set cannot be used; the others remain in use");
    }
    Ok(keys)
}

/// Time since the Unix epoch. A clock before 1970 counts as 1970, so that no token is valid yet.
fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Configures a [`Verifier`]. Exactly one of [`jwks_url`](Self::jwks_url), [`jwks_json`](Self::jwks_json) and
/// [`jwks_file`](Self::jwks_file) is required.
#[must_use]
pub struct Builder {
    trust_domain: String,
    sources: Vec<KeySource>,
    root_certificates_pem: Option<Vec<u8>>,
    issuer: Option<String>,
    issuer_required: bool,
    leeway: Option<Duration>,
    max_stale: Option<Duration>,
    observer: Option<remote::Observer>,
    cached_tokens: usize,
    single_use: Option<SingleUse>,
}

enum KeySource {
    Url(String),
    Json(Vec<u8>),
    File(std::path::PathBuf),
}

impl Builder {
    /// Fetches the keys from this `https` URL when they are first needed, caches them for the `max-age` of the response
    /// (5 min if there is none), and refreshes them in the background.
    pub fn jwks_url(mut self, url: impl Into<String>) -> Self {
        self.sources.push(KeySource::Url(url.into()));
        self
    }

    /// Uses the keys of this JWK set (RFC 7517 §5). They never change, so the verifier does not follow key rotations.
    pub fn jwks_json(mut self, document: impl Into<Vec<u8>>) -> Self {
        self.sources.push(KeySource::Json(document.into()));
        self
    }

    /// Uses the keys of this file, a JWK set. [`Builder::build`] reads it once, so the verifier does not follow key
    /// rotations.
    pub fn jwks_file(mut self, path: impl AsRef<Path>) -> Self {
        self.sources.push(KeySource::File(path.as_ref().to_owned()));
        self
    }

    /// Root certificates for HTTPS, one or more in PEM (RFC 7468). They replace the root certificates of the system. Can
    /// be called several times.
    ///
    /// # Errors
    /// [`BuildError::Setup`] if `pem` contains no certificate, or an invalid one.
    pub fn root_certificate_pem(mut self, pem: impl AsRef<[u8]>) -> Result<Self, BuildError> {
        remote::check_root_certificates(pem.as_ref())?;
        let pems = self.root_certificates_pem.get_or_insert_default();
        pems.extend_from_slice(pem.as_ref());
        pems.push(b'\n');
        Ok(self)
    }

    /// The required value of `iss`, compared byte for byte, for tokens that contain it. By default any value is accepted.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Whether a token without `iss` is refused; default `false`, because the keys already identify the service.
    pub fn require_issuer(mut self, required: bool) -> Self {
        self.issuer_required = required;
        self
    }

    /// How long after `exp` a token is accepted, and how far in the future `iat` and `nbf` may be; at most
    /// [`LEEWAY_MAX`]. By default `exp` is exact, and `iat` and `nbf` may be up to 30 s in the future.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = Some(leeway);
        self
    }

    /// How long the keys are used after the last successful fetch; default 24 h. Only for [`Builder::jwks_url`].
    pub fn max_stale(mut self, max_stale: Duration) -> Self {
        self.max_stale = Some(max_stale);
        self
    }

    /// Sets a function that receives the outcome of each fetch of the keys, for metrics. It must not block.
    pub fn on_fetch(mut self, observer: impl Fn(remote::FetchOutcome) + Send + Sync + 'static) -> Self {
        self.observer = Some(std::sync::Arc::new(observer));
        self
    }

    /// Refuses a token or transaction that this verifier has already accepted. Off by default: the check also refuses
    /// legitimate retries, and one token may arrive twice when several calls of a transaction reach the same service.
    pub fn single_use(mut self, unit: SingleUse) -> Self {
        self.single_use = Some(unit);
        self
    }

    /// How many accepted tokens the verifier remembers, each until its `exp`; default 1024, with together at most 2 KiB for
    /// each. 0 remembers none.
    ///
    /// The signature of a remembered token is not checked again as long as the published keys do not change. Everything
    /// else is: `exp` and the other times, `aud`, `iss`, the key lookup, and the single-use check. The claims are kept, the
    /// token itself is not.
    pub fn cached_tokens(mut self, tokens: usize) -> Self {
        self.cached_tokens = tokens;
        self
    }

    /// Builds the verifier. Reads the key file, but fetches nothing.
    ///
    /// # Errors
    /// [`BuildError`] if the settings are invalid, or if the given keys are not usable.
    pub fn build(mut self) -> Result<Verifier, BuildError> {
        if self.leeway.is_some_and(|leeway| leeway > LEEWAY_MAX) {
            return Err(BuildError::Leeway);
        }
        let keys = self.build_keys()?;
        let rules = Rules {
            trust_domain: self.trust_domain.parse()?,
            issuer: self.issuer,
            issuer_required: self.issuer_required,
            expiry_leeway: self.leeway.unwrap_or_default(),
            future_leeway: self.leeway.unwrap_or(LEEWAY_MAX),
        };
        let tokens = self.cached_tokens;
        let limits = CacheLimits { tokens, bytes: tokens.saturating_mul(CACHED_TOKEN_SIZE) };
        let accepted = (tokens > 0).then(|| TokenCache::new(limits));
        Ok(Verifier { rules, keys, accepted, use_log: self.single_use.map(UseLog::new) })
    }

    fn build_keys(&mut self) -> Result<Keys, BuildError> {
        let source = self.sources.pop().filter(|_| self.sources.is_empty()).ok_or(BuildError::Source)?;
        Ok(match source {
            KeySource::Url(url) => Keys::Remote(RemoteKeys::new(&self.remote_settings(&url)?)?),
            KeySource::Json(document) => Keys::Fixed(parse_key_set(&document)?),
            KeySource::File(path) => Keys::Fixed(parse_key_set(&std::fs::read(path)?)?),
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
