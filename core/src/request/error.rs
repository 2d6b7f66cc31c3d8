//! Why a form is not a valid request.

use std::borrow::Cow;

use super::{CLIENT_CREDENTIALS, TOKEN_EXCHANGE, TYPE_PREFIX};

/// Why a form is not a valid request. Messages name known parameters and contain nothing else of the request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A required parameter is absent or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A name is sent twice.
    #[error("{} is sent more than once (parameters {first} and {second} of the form)", .name.unwrap_or("a parameter"))]
    Repeated {
        /// The parameter, if it is a known one.
        name: Option<&'static str>,
        /// The number of its first occurrence in the form, from 1.
        first: usize,
        /// The number of its second occurrence.
        second: usize,
    },
    /// The form encoding or the syntax of a parameter is invalid: the part, and the mistake.
    #[error("{0} is malformed: {1}")]
    Malformed(&'static str, Cow<'static, str>),
    /// A parameter that this grant or source does not support.
    #[error("{name} is not supported here{instead}", name = .0, instead = instead(.0))]
    Unsupported(&'static str),
    /// `grant_type` is neither token exchange nor client credentials.
    #[error("this grant_type is not supported: it must be {TOKEN_EXCHANGE} or {CLIENT_CREDENTIALS}")]
    GrantType,
    /// `subject_token_type` is not one of the contract's table.
    #[error(
        "this subject_token_type is not supported: it must be {TYPE_PREFIX} and one of access_token, jwt, id_token, \
         self_signed, unsigned_json, txn_token"
    )]
    SubjectTokenType,
    /// `audience` is not the trust domain of this service.
    #[error("audience must be this service's trust domain (its metadata lists it)")]
    Audience,
    /// `resource` is present: a Txn-Token is valid in the whole trust domain.
    #[error("resource is not supported: a Txn-Token is for a whole trust domain")]
    Resource,
    /// `scope` is not one or more purposes with single spaces.
    #[error("scope is not a list of purposes separated by single spaces: {0}")]
    Scope(Cow<'static, str>),
}

/// A hint at the alternative, for a message.
fn instead(name: &str) -> &'static str {
    match name {
        "requested_token_type" => ": it must be urn:ietf:params:oauth:token-type:txn_token",
        "Authorization" | "client_secret" | "client_assertion" | "client_assertion_type" => {
            ": the client is known by its TLS certificate alone"
        }
        "actor_token" | "actor_token_type" => ": a Txn-Token does not say who acts for its subject",
        "requested_subject" => " by this grant: it is for client_credentials, a subject token names its own subject",
        "subject_token" | "subject_token_type" => " by this grant: it is for token exchange",
        _ => "",
    }
}
