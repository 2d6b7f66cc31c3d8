//! What a client presents for the subject, as received. Nothing in it is proven yet.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use zeroize::Zeroizing;

use super::TYPE_PREFIX;
use super::source::Source;
use super::subject::Subject;
use writ_platform::digest::sha256;

/// What a client presents for the subject, as received.
#[derive(Debug)]
pub enum Presented {
    /// Nothing but its certificate: the client itself is the subject.
    Client,
    /// The subject that the client names (`requested_subject`).
    Named(Subject),
    /// An access token of a subject issuer.
    AccessToken(TokenText),
    /// Any other JWT of a subject issuer.
    Jwt(TokenText),
    /// An ID token of a subject issuer.
    IdToken(TokenText),
    /// A JWT that the client signed.
    SelfSigned(TokenText),
    /// A JSON object that the client vouches for.
    UnsignedJson(TokenText),
    /// A Txn-Token of this service, alive or expired.
    TxnToken(TokenText),
}

impl Presented {
    /// The sources that it may be verified as.
    pub(crate) fn sources(&self) -> &'static [Source] {
        match self {
            Self::Client | Self::Named(_) => &[Source::ClientCredentials],
            Self::AccessToken(_) => &[Source::AccessToken],
            Self::Jwt(_) => &[Source::Jwt],
            Self::IdToken(_) => &[Source::IdToken],
            Self::SelfSigned(_) => &[Source::SelfSigned],
            Self::UnsignedJson(_) => &[Source::UnsignedJson],
            Self::TxnToken(_) => &[Source::TxnToken, Source::ExpiredTxnToken],
        }
    }

    /// `None` if no token is presented: for the client itself and a named subject.
    pub fn token(&self) -> Option<&TokenText> {
        match self {
            Self::Client | Self::Named(_) => None,
            Self::AccessToken(token)
            | Self::Jwt(token)
            | Self::IdToken(token)
            | Self::SelfSigned(token)
            | Self::UnsignedJson(token)
            | Self::TxnToken(token) => Some(token),
        }
    }
}

/// Every supported `subject_token_type`, for the metadata: one for each source that comes as a token.
pub fn subject_token_types() -> Vec<String> {
    let own_type = |source: &Source| match source {
        Source::AccessToken
        | Source::Jwt
        | Source::IdToken
        | Source::SelfSigned
        | Source::UnsignedJson
        | Source::TxnToken => true,
        // An expired Txn-Token is presented as `txn_token`, and client credentials without a token.
        Source::ExpiredTxnToken | Source::ClientCredentials => false,
    };
    Source::ALL.into_iter().filter(own_type).map(|source| format!("{TYPE_PREFIX}{}", source.name())).collect()
}

/// A token as received: wiped after use, and never shown by `Debug`.
pub struct TokenText {
    /// The text of the form that contains it.
    pub(super) form: Arc<Zeroizing<String>>,
    place: Range<usize>,
    sha256: OnceLock<[u8; 32]>,
}

impl TokenText {
    pub(super) fn new(form: Arc<Zeroizing<String>>, place: Range<usize>) -> Self {
        Self { form, place, sha256: OnceLock::new() }
    }

    /// A token that comes in no form.
    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Self::new(Arc::new(Zeroizing::new(text.to_owned())), 0..text.len())
    }

    /// The text, to verify it.
    pub(crate) fn expose(&self) -> &str {
        &self.form[self.place.clone()]
    }

    /// SHA-256 of the text.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        *self.sha256.get_or_init(|| sha256(self.expose().as_bytes()))
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
