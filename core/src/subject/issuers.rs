//! The configured subject issuers: finds the issuer of a presented token, and verifies the token with its keys.

mod keys;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::Algorithm;
use writ_verifier::cache::{CacheLimits, TokenCache, TokenHash};
use writ_verifier::jwks::{Candidates, JwksError};
use writ_verifier::remote::{self, KeyError};
use writ_verifier::{Purpose, Scope};

pub use self::keys::fetch_keys;

use self::keys::IssuerKeys;
use super::SubjectError;
use super::SubjectFault::{
    IssuerUnavailable, IssuerUnknown, KeyNotFetchedYet, KeyUnknown, Malformed, SignatureInvalid,
};
use super::introspection::{self, Introspector};
use super::issued_jwt::{self, Presented, VerifiedJwt};
use super::jwt;
use super::opaque;
use super::outside::{OutsideToken, ValidationContext};
use super::settings::IssuerSettings;
use crate::client::ClientId;
use crate::policy::{ClientPolicy, PolicySet};
use crate::request::{Source, TokenText};
use writ_platform::clock::Timestamp;

/// How many verified tokens are remembered, so that a token that is presented for many transactions is verified once.
const REMEMBERED: CacheLimits = CacheLimits { tokens: 4096, bytes: 4 << 20 };

/// Why the subject issuers cannot be set up. An unreachable issuer is not an error here.
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
        /// The cause.
        source: io::Error,
    },
    /// A `jwks_file` has no usable key set.
    #[error("{} cannot be used", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: JwksError,
    },
    /// With these settings, introspection can never work for this issuer.
    #[error("the subject issuer {issuer} cannot be asked about tokens")]
    Introspection {
        /// Its `iss`.
        issuer: String,
        /// The cause.
        source: introspection::SetupError,
    },
    /// With these settings, keys can never be fetched from this issuer.
    #[error("the keys of the subject issuer {issuer} cannot be fetched")]
    Remote {
        /// Its `iss`.
        issuer: String,
        /// The cause.
        source: remote::SetupError,
    },
}

/// The configured subject issuers with their keys.
#[derive(Debug)]
pub struct Issuers {
    by_iss: BTreeMap<String, Issuer>,
    prefixes: Vec<String>,
    clock_skew: Duration,
    /// Tokens that were accepted, each until its `exp`: their form, claims and signatures need not be verified again. They
    /// depend on nothing but the text of the token and the key, which is looked up again for each use.
    remembered: TokenCache<Arc<VerifiedJwt>>,
}

#[derive(Debug)]
struct Issuer {
    settings: IssuerSettings,
    default_scope: Option<Scope>,
    /// A key of another issuer never verifies a token of this one.
    keys: IssuerKeys,
    introspector: Option<Introspector>,
}

impl Issuers {
    /// Reads the files of the issuers; nothing is fetched yet. Introspection needs a Tokio runtime.
    ///
    /// # Errors
    /// [`IssuersError`] names the file or the issuer at fault.
    pub fn new(settings: Vec<IssuerSettings>, clock_skew: Duration) -> Result<Self, IssuersError> {
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
        let remembered = TokenCache::new(REMEMBERED);
        Ok(Self { by_iss, prefixes: prefixes.into_keys().collect(), clock_skew, remembered })
    }

    /// Starts fetching the keys in the background, so that the first token need not wait. Needs a Tokio runtime.
    pub fn warm(&self) {
        for issuer in self.by_iss.values() {
            issuer.keys.warm();
        }
    }

    /// Reads the files again: keys, and those for introspection. If one cannot be used, its last valid content stays in
    /// use, and this is logged once. Returns whether all can be used.
    pub fn reload_files(&self) -> bool {
        let mut are_usable = true;
        for issuer in self.by_iss.values() {
            are_usable &= issuer.introspector.as_ref().is_none_or(Introspector::reload_files);
            are_usable &= issuer.keys.reload_file();
        }
        are_usable
    }

    /// The tolerated difference between the clocks of issuers or clients and that of this host.
    pub fn clock_skew(&self) -> Duration {
        self.clock_skew
    }

    /// Verifies `token`, which `client` presents as a token of that kind (access token, JWT or ID token), at the
    /// instant `now`.
    ///
    /// # Errors
    /// [`SubjectError`], the first in the order of contract 3.6: form, issuer and key, signature, audience and other
    /// claims, times. For an introspected access token, the same order applies to the issuer's reply.
    pub(super) async fn verify(
        &self,
        kind: Source,
        token: &TokenText,
        client: &ClientPolicy,
        policies: &PolicySet,
        now: Timestamp,
    ) -> Result<OutsideToken, SubjectError> {
        let text = token.expose();
        let context = |issuer| self.context(issuer, client, policies, now);
        if kind == Source::AccessToken && opaque::is_opaque(text) {
            opaque::check_form(text)?;
            let (issuer, introspector) = self.introspecting(client).ok_or_else(|| no_introspection(text))?;
            return opaque::read(
                text,
                Box::pin(introspector.introspect(&client.client_id, text)).await?,
                context(issuer),
            );
        }
        jwt::check_len(text)?;
        let hash = TokenHash::from_sha256(token.sha256());
        let known = self.remembered.get(&hash, now.epoch());
        let (issuer, verified) = self.verify_signature(kind, text, known.as_ref(), client).await?;
        let (name, key_id, algorithm) = (verified.issuer(), verified.kid(), verified.algorithm());
        tracing::debug!(issuer = name, kid = key_id, ?algorithm, "the subject token is signed by its issuer");
        let token = issued_jwt::read(kind, verified.signed(), context(issuer))?;
        match issuer.introspector.as_ref().filter(|introspector| introspector.is_always_asked()) {
            Some(introspector) if kind == Source::AccessToken => {
                let reply = Box::pin(introspector.introspect(&client.client_id, text)).await?;
                opaque::confirm(&token, &reply, context(issuer))
            }
            Some(_) => Ok(token), // of such an issuer nothing is remembered
            None => {
                if known.is_none_or(|known| !Arc::ptr_eq(&known, &verified)) {
                    let (size, exp) = (verified.size(), token.usable_until() - self.clock_skew);
                    self.remembered.insert(hash, verified, size, exp.epoch(), now.epoch());
                }
                Ok(token)
            }
        }
    }

    /// The token with its issuer, signed with a key that its issuer publishes and that its header selects. The signature of
    /// a `known` token, which was accepted before, is not checked again if the key that verified it is one of these. Every
    /// other check is still to be made.
    async fn verify_signature(
        &self,
        kind: Source,
        text: &str,
        known: Option<&Arc<VerifiedJwt>>,
        client: &ClientPolicy,
    ) -> Result<(&Issuer, Arc<VerifiedJwt>), SubjectError> {
        if let Some(known) = known {
            let issuer = self.issuing(kind, known.issuer())?;
            let keys = issuer.find_keys(known.kid(), known.algorithm(), &client.client_id).await?;
            if known.is_signed_with_one_of(&keys) {
                return Ok((issuer, Arc::clone(known)));
            }
            return Ok((issuer, Arc::new(Presented::parse(text)?.signed_with(&keys)?)));
        }
        let presented = Presented::parse(text)?;
        let issuer = self.issuing(kind, presented.issuer())?;
        let keys = issuer.find_keys(presented.kid(), presented.algorithm(), &client.client_id).await?;
        Ok((issuer, Arc::new(presented.signed_with(&keys)?)))
    }

    fn context<'a>(
        &'a self,
        issuer: &'a Issuer,
        client: &'a ClientPolicy,
        policies: &'a PolicySet,
        now: Timestamp,
    ) -> ValidationContext<'a> {
        ValidationContext {
            issuer: &issuer.settings,
            default_scope: issuer.default_scope.as_ref(),
            prefixes: &self.prefixes,
            client,
            policies,
            clock_skew: self.clock_skew,
            now,
        }
    }

    /// The only issuer that may see the opaque tokens of `client`, since they do not contain their issuer: the one in its
    /// policy, otherwise the only one with introspection. A token is never sent to another (R-SUBJ-11).
    fn introspecting(&self, client: &ClientPolicy) -> Option<(&Issuer, &Introspector)> {
        let mut able = self.by_iss.values().filter_map(|issuer| Some((issuer, issuer.introspector.as_ref()?)));
        match &client.opaque_tokens_from {
            Some(iss) => able.find(|(issuer, _)| issuer.settings.issuer == *iss),
            None => able.next().filter(|_| able.next().is_none()),
        }
    }

    /// The issuer with this exact `iss`, if it issues tokens of this kind.
    fn issuing(&self, kind: Source, iss: &str) -> Result<&Issuer, SubjectError> {
        let issuer = self.by_iss.get(iss);
        let issuer = issuer.ok_or(IssuerUnknown.because("no subject issuer is configured with its `iss`"))?;
        let issues_kind = issuer.settings.token_types.contains(&kind);
        issues_kind
            .then_some(issuer)
            .ok_or(IssuerUnknown.because("its issuer is not set up for tokens of this type (token_types)"))
    }
}

/// The error for an opaque token that no issuer can introspect, or another text that is not a JWT.
fn no_introspection(text: &str) -> SubjectError {
    if text.bytes().filter(|&byte| byte == b'.').count() == 4 {
        return Malformed.because("it has five parts: it is encrypted, and only signed tokens are read");
    }
    Malformed.because(
        "this is not a JWT (three dot-separated parts). If it is an opaque token, configure `introspection` for an issuer, \
         and `opaque_tokens_from` if several have it",
    )
}

impl Issuer {
    fn new(settings: IssuerSettings) -> Result<Self, IssuersError> {
        let keys = IssuerKeys::new(&settings)?;
        let words: Vec<_> = settings.scopes.iter().map(Purpose::as_str).collect();
        let introspector = settings.introspection.as_ref();
        let introspector = introspector.map(|asked| Introspector::new(&settings.issuer, asked, settings.ca.clone()));
        let introspector = introspector.transpose().map_err(|source| {
            let issuer = settings.issuer.clone();
            IssuersError::Introspection { issuer, source }
        })?;
        Ok(Self { default_scope: words.join(" ").parse().ok(), settings, keys, introspector })
    }

    /// The keys for a token with this `kid` and `alg`. If `alg` is not one of this issuer's, no key is looked up.
    async fn find_keys(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        client: &ClientId,
    ) -> Result<Candidates, SubjectError> {
        if !self.settings.algorithms.contains(&algorithm) {
            return Err(SignatureInvalid.because("its alg is not one of those configured for its issuer"));
        }
        self.keys.find(kid, algorithm, client).await.map_err(|error| match error {
            KeyError::Unknown if kid.is_none() => {
                KeyUnknown.because("its header has no kid, and its issuer does not publish exactly one key")
            }
            KeyError::Unknown => KeyUnknown.because("its issuer publishes no key with the kid of its header"),
            KeyError::CoolingDown { retry_after } => KeyNotFetchedYet { retry_after }.into(),
            KeyError::Unfit => SignatureInvalid.because("its alg does not fit the key that its header names"),
            KeyError::Unavailable => IssuerUnavailable.into(),
        })
    }
}

/// Asks the introspection endpoint of an issuer about a token that no server issued; `None` if it has no endpoint. Needs a
/// Tokio runtime.
///
/// # Errors
/// A text with the reason.
pub async fn try_introspection(settings: &IssuerSettings, client: &ClientId) -> Result<Option<()>, String> {
    let Some(asked) = &settings.introspection else { return Ok(None) };
    let introspector = Introspector::new(&settings.issuer, asked, settings.ca.clone());
    introspector.map_err(|error| error.to_string())?.try_out(client).await.map(Some)
}

#[cfg(test)]
mod tests;
