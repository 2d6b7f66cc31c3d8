//! The form of `POST /token` → a request with one meaning (RFC 6749 §3.2, RFC 8693 §2.1, TT §11.1).
//!
//! In: the bytes of the body. Out: a [`TokenRequest`], in which each parameter was validated individually. The subject is
//! still unproven: [`Presented`].

mod error;
mod form;
mod presented;
mod source;
mod subject;

use std::borrow::Cow;

use writ_verifier::json::Members;
use writ_verifier::{Scope, TrustDomain};

pub use self::error::RequestError;
pub use self::form::Form;
pub use self::presented::{Presented, TokenText, subject_token_types};
pub use self::source::Source;
pub(crate) use self::subject::holds_jws;
pub use self::subject::{Subject, SubjectNameError};

/// `requested_token_type`, and `issued_token_type` of every answer.
pub const TXN_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:txn_token";

/// `grant_type` of RFC 8693.
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// `grant_type` of RFC 6749 §4.4.
pub const CLIENT_CREDENTIALS: &str = "client_credentials";

/// The beginning of the URN of every token type (RFC 8693 §3).
pub const TYPE_PREFIX: &str = "urn:ietf:params:oauth:token-type:";

const MAX_SCOPE: usize = 1024;

/// A complete and well-formed request of either grant type. Nothing in it is proven yet.
#[derive(Debug)]
pub struct TokenRequest {
    /// The requested purposes, in order.
    pub scope: Scope,
    /// What the client presents for the subject.
    pub presented: Presented,
    /// `request_details`.
    pub details: Option<Members>,
    /// `request_context`.
    pub context: Option<Members>,
}

impl TokenRequest {
    /// Parses a form, in this order: grant, requested type, missing and unsupported parameters, `audience`, `resource`,
    /// `scope`.
    ///
    /// # Errors
    /// The first [`RequestError`] in that order.
    pub fn parse(form: &Form, trust_domain: &TrustDomain) -> Result<Self, RequestError> {
        let grant = match form.required("grant_type")? {
            TOKEN_EXCHANGE => Grant::TokenExchange,
            CLIENT_CREDENTIALS => Grant::ClientCredentials,
            _ => return Err(RequestError::GrantType),
        };
        if form.required("requested_token_type")? != TXN_TOKEN_TYPE {
            return Err(RequestError::Unsupported("requested_token_type"));
        }
        let audience = form.required("audience")?;
        let scope = form.required("scope")?;
        let presented = grant.presented(form)?;
        let details = form.object("request_details")?;
        let context = form.object("request_context")?;
        if audience != trust_domain.as_str() {
            return Err(RequestError::Audience);
        }
        if form.value("resource").is_some() {
            return Err(RequestError::Resource);
        }
        let parsed = Some(scope).filter(|scope| scope.len() <= MAX_SCOPE).and_then(|scope| scope.parse().ok());
        let scope = parsed.ok_or_else(|| RequestError::Scope(scope_fault(scope)))?;
        Ok(Self { scope, presented, details, context })
    }
}

enum Grant {
    TokenExchange,
    ClientCredentials,
}

impl Grant {
    fn presented(self, form: &Form) -> Result<Presented, RequestError> {
        match self {
            Self::TokenExchange => {
                let token = form.required_token("subject_token")?;
                let token_type = form.required("subject_token_type")?;
                form.refuse(&["actor_token", "actor_token_type"])?;
                if form.sent("requested_subject").is_some() {
                    return Err(RequestError::Unsupported("requested_subject"));
                }
                match token_type.strip_prefix(TYPE_PREFIX) {
                    Some("access_token") => Ok(Presented::AccessToken(token)),
                    Some("jwt") => Ok(Presented::Jwt(token)),
                    Some("id_token") => Ok(Presented::IdToken(token)),
                    Some("self_signed") => Ok(Presented::SelfSigned(token)),
                    Some("unsigned_json") => Ok(Presented::UnsignedJson(token)),
                    Some("txn_token") => Ok(Presented::TxnToken(token)),
                    _ => Err(RequestError::SubjectTokenType),
                }
            }
            Self::ClientCredentials => {
                form.refuse(&["subject_token", "subject_token_type", "actor_token", "actor_token_type"])?;
                match form.sent("requested_subject") {
                    None => Ok(Presented::Client),
                    // Empty is not the same as absent: ignoring it would change the subject of the token.
                    Some(name) => name.parse().map(Presented::Named).map_err(|_| {
                        let why = "it must have 1 to 255 characters, none a control character, and hold no token";
                        RequestError::Malformed("requested_subject", why.into())
                    }),
                }
            }
        }
    }
}

/// The mistake in a scope that does not parse.
fn scope_fault(text: &str) -> Cow<'static, str> {
    let foreign = |c: char| c != ' ' && !(c.is_ascii_graphic() && c != '"' && c != '\\');
    if text.len() > MAX_SCOPE {
        "it is longer than 1 KiB".into()
    } else if let Some(at) = text.chars().position(foreign) {
        format!("character {} is not allowed in it", at + 1).into()
    } else if text.starts_with(' ') || text.ends_with(' ') {
        "it begins or ends with a space".into()
    } else if text.contains("  ") {
        "it has two spaces in a row".into()
    } else {
        "it names no purpose".into()
    }
}

#[cfg(test)]
mod tests;
