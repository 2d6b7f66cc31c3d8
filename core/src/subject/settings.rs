//! `[[subject_issuer]]`: what is configured for an issuer of subject tokens.

use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use url::Url;
use writ_verifier::Purpose;
use writ_verifier::jwks::KeySet;

use crate::request::Source;

/// One `[[subject_issuer]]`.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// `iss` of its tokens, compared byte for byte.
    pub issuer: String,
    /// Where its keys come from.
    pub keys: KeySource,
    /// One of these must be in `aud` of access tokens and JWTs.
    pub audience: Vec<String>,
    /// The signature algorithms of its tokens; asymmetric only.
    pub algorithms: Vec<Algorithm>,
    /// The sources that its tokens may be presented as: access token, JWT, ID token.
    pub token_types: Vec<Source>,
    /// The format of its JWT access tokens.
    pub access_token_profile: AccessTokenProfile,
    /// One of these client ids must be in `aud` of ID tokens.
    pub id_token_audience: Vec<String>,
    /// The claim with the subject.
    pub subject_claim: String,
    /// The claim with the scope.
    pub scope_claim: String,
    /// Put before the subject; no other issuer has the same.
    pub subject_prefix: String,
    /// The scope of a token without one; empty: a token needs a scope of its own.
    pub scopes: Vec<Purpose>,
    /// How long the last valid keys are used while the issuer cannot be reached.
    pub jwks_stale: Duration,
    /// Trusted for HTTPS to this issuer instead of the system's root certificates, PEM.
    pub ca: Option<PathBuf>,
    /// How to ask it about access tokens (RFC 7662).
    pub introspection: Option<IntrospectionSettings>,
}

impl IssuerSettings {
    /// Whether any of `keys` fits a configured algorithm.
    pub fn has_use_for(&self, keys: &KeySet) -> bool {
        keys.keys().any(|key| self.algorithms.iter().any(|&algorithm| key.fits(algorithm)))
    }
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A file with a JWK set.
    File(PathBuf),
    /// An HTTPS address of a JWK set.
    Uri(Url),
    /// `jwks_uri` of the issuer's metadata (OIDC Discovery, RFC 8414).
    Discovery,
}

/// The format of an issuer's JWT access tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessTokenProfile {
    /// RFC 9068: `typ` is `at+jwt`, and all required claims are present.
    Rfc9068,
    /// `typ` may be `JWT` or absent; only `iss`, `sub`, `aud` and `exp` are required.
    Legacy,
}

/// `introspection` of a `[[subject_issuer]]`.
#[derive(Debug, Clone)]
pub struct IntrospectionSettings {
    /// The only address that tokens are sent to.
    pub endpoint: Url,
    /// Writ's client id at the authorization server.
    pub client_id: String,
    /// The file with the client secret: one line of text.
    pub client_secret_file: PathBuf,
    /// Whether to ask about JWT access tokens too, after they were verified.
    pub always: bool,
}
