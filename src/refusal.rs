//! Every room's no → `error` and `reason`.
//!
//! Rooms speak of their own job and know no OAuth code; this is the one table from their causes to the contract's
//! codes, without a catch-all: a new cause must choose its answer.

use std::time::Duration;

use crate::client::ClientError;
use crate::clock::Timestamp;
use crate::keys::KeysError;
use crate::ledger::LedgerError;
use crate::limits::RateLimited;
use crate::policy::decide::Denial;
use crate::request::RequestError;
use crate::subject::SubjectError;
use crate::telemetry::LogError;

/// When to try again after a fault of ours that may pass.
const SOON: Duration = Duration::from_secs(2);

/// Why a request gets no token.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No client, or not one.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The form is no request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The client asks too often.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// The subject token proves nothing.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The policy says no.
    #[error(transparent)]
    Policy(#[from] Denial),
    /// It cannot be counted or recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No key can sign.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The finished token is longer than `tokens.max_size`.
    #[error("the Txn-Token would be too large for an HTTP header")]
    TokenTooLarge,
    /// The decision cannot be recorded.
    #[error(transparent)]
    Audit(#[from] LogError),
    /// It took longer than `limits.request_timeout`.
    #[error("the request took too long")]
    Timeout,
    /// A fault of ours.
    #[error("something went wrong here; the log tells what")]
    Internal,
}

/// `error` (RFC 6749 §5.2) and the stable `reason` of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The code that OAuth knows.
    pub error: &'static str,
    /// The code that says why.
    pub reason: &'static str,
}

const fn code(error: &'static str, reason: &'static str) -> Code {
    Code { error, reason }
}

impl Refusal {
    /// The contract's table.
    pub fn code(&self) -> Code {
        match self {
            Self::Client(error) => match error {
                ClientError::Unknown => code("invalid_client", "client_unknown"),
                ClientError::Ambiguous => code("invalid_client", "client_ambiguous"),
                ClientError::IdMismatch => code("invalid_client", "client_id_mismatch"),
            },
            Self::Request(error) => match error {
                RequestError::Missing(_) => code("invalid_request", "parameter_missing"),
                RequestError::Repeated => code("invalid_request", "parameter_repeated"),
                RequestError::Malformed(_) => code("invalid_request", "parameter_malformed"),
                RequestError::Unsupported(_) => code("invalid_request", "parameter_unsupported"),
                RequestError::GrantType => code("unsupported_grant_type", "grant_type_unsupported"),
                RequestError::SubjectTokenType => code("invalid_request", "subject_token_type_unsupported"),
                RequestError::Audience => code("invalid_target", "audience_unknown"),
                RequestError::Resource => code("invalid_target", "resource_unsupported"),
                RequestError::Scope => code("invalid_scope", "scope_malformed"),
            },
            Self::RateLimited(_) => code("temporarily_unavailable", "rate_limited"),
            Self::Subject(error) => match error {
                SubjectError::Malformed => code("invalid_request", "subject_token_malformed"),
                SubjectError::TypeUnsupported => code("invalid_request", "subject_token_type_unsupported"),
                SubjectError::IssuerUnknown => code("invalid_request", "subject_token_issuer_unknown"),
                SubjectError::KeyUnknown => code("invalid_request", "subject_token_key_unknown"),
                SubjectError::SignatureInvalid => code("invalid_request", "subject_token_signature_invalid"),
                SubjectError::AudienceMismatch => code("invalid_request", "subject_token_audience_mismatch"),
                SubjectError::Expired { .. } => code("invalid_request", "subject_token_expired"),
                SubjectError::NotYetValid => code("invalid_request", "subject_token_not_yet_valid"),
                SubjectError::ClaimsInvalid(_) => code("invalid_request", "subject_token_claims_invalid"),
                SubjectError::KeyGone => code("invalid_request", "redemption_key_gone"),
                SubjectError::Redeemed => code("unauthorized_client", "redemption_not_allowed"),
                SubjectError::IssuerUnavailable => code("temporarily_unavailable", "issuer_unavailable"),
            },
            Self::Policy(denial) => match denial {
                Denial::PurposeNotAllowed => code("invalid_scope", "purpose_not_allowed"),
                Denial::SourceNotAllowed => code("unauthorized_client", "source_not_allowed"),
                Denial::SubjectNotAllowed => code("unauthorized_client", "subject_not_allowed"),
                Denial::ScopeUnknown => code("invalid_scope", "scope_unknown"),
                Denial::ScopeExceedsSubjectToken => code("invalid_scope", "scope_exceeds_subject_token"),
                Denial::UnsupportedOnRedemption(_) => code("invalid_request", "parameter_unsupported"),
                Denial::RedemptionNotAllowed => code("unauthorized_client", "redemption_not_allowed"),
                Denial::RedemptionTooEarly { .. } => code("invalid_request", "redemption_too_early"),
                Denial::RedemptionTooOld { .. } => code("invalid_request", "redemption_too_old"),
            },
            Self::Ledger(error) => match error {
                LedgerError::NotOnRecord => code("invalid_request", "redemption_not_on_record"),
                LedgerError::Exhausted => code("invalid_request", "redemption_exhausted"),
                LedgerError::ClockBehind => code("temporarily_unavailable", "clock_behind"),
                LedgerError::Unavailable(_) | LedgerError::Late | LedgerError::Unreadable => STORE,
            },
            Self::Keys(_) => STORE,
            Self::TokenTooLarge => code("invalid_request", "token_too_large"),
            Self::Audit(_) => code("temporarily_unavailable", "audit_unavailable"),
            Self::Timeout => code("invalid_request", "request_timeout"),
            Self::Internal => code("server_error", "internal"),
        }
    }

    /// The sentence for the client. What failed on our side is for the log alone.
    pub fn description(&self) -> String {
        match self {
            Self::Ledger(LedgerError::Unavailable(_) | LedgerError::Late | LedgerError::Unreadable) | Self::Keys(_) => {
                "the store is not available just now; try again".to_owned()
            }
            other => other.to_string(),
        }
    }

    /// `expired_at` of the answer: so that a client needs no clock of its own to know what to do.
    pub fn expired_at(&self) -> Option<Timestamp> {
        match self {
            Self::Subject(SubjectError::Expired { expired_at })
            | Self::Policy(Denial::RedemptionTooOld { expired_at }) => Some(*expired_at),
            _ => None,
        }
    }

    /// `redeemable_at` of the answer.
    pub fn redeemable_at(&self) -> Option<Timestamp> {
        match self {
            Self::Policy(Denial::RedemptionTooEarly { redeemable_at }) => Some(*redeemable_at),
            _ => None,
        }
    }

    /// When to try again, where that may help.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(limited) => Some(limited.retry_after),
            refusal => (refusal.code().error == "temporarily_unavailable").then_some(SOON),
        }
    }

    /// Whether the fault is ours: then the log holds more than the answer.
    pub fn is_fault(&self) -> bool {
        matches!(self.code().error, "temporarily_unavailable" | "server_error") && !matches!(self, Self::RateLimited(_))
    }
}

const STORE: Code = code("temporarily_unavailable", "store_unavailable");
