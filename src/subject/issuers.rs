//! Subject issuers: who may sign what is exchanged; their keys, fetched and kept.

use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use url::Url;
use writ_verifier::Purpose;

use crate::policy::Source;

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
