//! `[[subject_issuer]]`: the settings of an issuer of subject tokens.

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
    /// The source of its keys.
    pub keys: KeySource,
    /// `aud` of access tokens and JWTs must contain one of these.
    pub audience: Vec<String>,
    /// The signature algorithms of its tokens; asymmetric only.
    pub algorithms: Vec<Algorithm>,
    /// The sources that its tokens may be presented as: access token, JWT, ID token.
    pub token_types: Vec<Source>,
    /// The format of its JWT access tokens.
    pub access_token_profile: AccessTokenProfile,
    /// `aud` of ID tokens must contain one of these client ids.
    pub id_token_audience: Vec<String>,
    /// The claim with the subject.
    pub subject_claim: String,
    /// The claim with the scope.
    pub scope_claim: String,
    /// The text prepended to the subject; unique among the issuers.
    pub subject_prefix: String,
    /// The scope of a token without one; empty: a token must have its own scope.
    pub scopes: Vec<Purpose>,
    /// How long the last valid keys are used while the issuer cannot be reached.
    pub jwks_stale: Duration,
    /// The CAs for HTTPS to this issuer, PEM, instead of the system's root certificates.
    pub ca: Option<PathBuf>,
    /// Introspection of its access tokens (RFC 7662).
    pub introspection: Option<IntrospectionSettings>,
}

impl IssuerSettings {
    /// Whether any of `keys` fits a configured algorithm.
    pub fn has_use_for(&self, keys: &KeySet) -> bool {
        keys.keys().any(|key| self.algorithms.iter().any(|&algorithm| key.fits(algorithm)))
    }
}

/// The source of an issuer's keys.
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
    /// Whether to introspect JWT access tokens too, after they were verified.
    pub always: bool,
}
