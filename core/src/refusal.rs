//! Every room's no → `error` and `reason`.
//!
//! Rooms speak of their own job and know no OAuth code; this is the one table from their causes to the contract's
//! codes, without a catch-all: a new cause must choose its answer.

#[cfg(any(test, feature = "testing"))]
pub mod samples;

use std::time::Duration;

use crate::blocks::Blocked;
use crate::client::ClientError;
use crate::decision::Denial;
use crate::keys::KeysError;
use crate::ledger::LedgerError;
use crate::limits::RateLimited;
use crate::pdp::PdpError;
use crate::request::RequestError;
use crate::subject::{SubjectError, SubjectFault};
use writ_platform::clock::Timestamp;
use writ_platform::telemetry::LogError;

/// When to try again after a fault of ours that may pass.
const SOON: Duration = Duration::from_secs(2);

/// Why a request gets no token, or no answer about one.
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
    /// The external decision point does not say yes.
    #[error(transparent)]
    Pdp(#[from] PdpError),
    /// An operator has stopped it.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// It cannot be counted or recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No key can sign.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The client's policy does not let it ask about tokens.
    #[error("this client may not introspect tokens")]
    IntrospectionNotAllowed,
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
                RequestError::Repeated { .. } => code("invalid_request", "parameter_repeated"),
                RequestError::Malformed(..) => code("invalid_request", "parameter_malformed"),
                RequestError::Unsupported(_) => code("invalid_request", "parameter_unsupported"),
                RequestError::GrantType => code("unsupported_grant_type", "grant_type_unsupported"),
                RequestError::SubjectTokenType => code("invalid_request", "subject_token_type_unsupported"),
                RequestError::Audience => code("invalid_target", "audience_unknown"),
                RequestError::Resource => code("invalid_target", "resource_unsupported"),
                RequestError::Scope(_) => code("invalid_scope", "scope_malformed"),
            },
            Self::RateLimited(_) => code("temporarily_unavailable", "rate_limited"),
            Self::Subject(error) => match error.fault() {
                SubjectFault::Malformed => code("invalid_request", "subject_token_malformed"),
                SubjectFault::IssuerUnknown => code("invalid_request", "subject_token_issuer_unknown"),
                SubjectFault::KeyUnknown => code("invalid_request", "subject_token_key_unknown"),
                SubjectFault::SignatureInvalid => code("invalid_request", "subject_token_signature_invalid"),
                SubjectFault::AudienceMismatch => code("invalid_request", "subject_token_audience_mismatch"),
                SubjectFault::Expired { .. } => code("invalid_request", "subject_token_expired"),
                SubjectFault::NotYetValid => code("invalid_request", "subject_token_not_yet_valid"),
                SubjectFault::Inactive => code("invalid_request", "subject_token_inactive"),
                SubjectFault::ClaimsInvalid => code("invalid_request", "subject_token_claims_invalid"),
                SubjectFault::KeyGone => code("invalid_request", "redemption_key_gone"),
                SubjectFault::Redeemed => code("unauthorized_client", "redemption_not_allowed"),
                SubjectFault::IssuerUnavailable | SubjectFault::KeyNotFetchedYet { .. } => {
                    code("temporarily_unavailable", "issuer_unavailable")
                }
            },
            Self::Policy(denial) => match denial {
                Denial::PurposeNotAllowed => code("invalid_scope", "purpose_not_allowed"),
                Denial::SourceNotAllowed => code("unauthorized_client", "source_not_allowed"),
                Denial::ActorNotAllowed | Denial::ClaimMissing | Denial::ClaimUnreadable => {
                    code("invalid_request", "subject_token_claims_invalid")
                }
                Denial::SubjectNotAllowed => code("unauthorized_client", "subject_not_allowed"),
                Denial::ScopeUnknown => code("invalid_scope", "scope_unknown"),
                Denial::ScopeExceedsSubjectToken => code("invalid_scope", "scope_exceeds_subject_token"),
                Denial::DetailsRejected(_) => code("invalid_scope", "details_rejected"),
                Denial::ConditionFailed => code("invalid_scope", "condition_failed"),
                Denial::ReplacementLimit => code("invalid_request", "replacement_limit"),
                Denial::UnsupportedOnRedemption(_) => code("invalid_request", "parameter_unsupported"),
                Denial::RedemptionNotAllowed => code("unauthorized_client", "redemption_not_allowed"),
                Denial::RedemptionTooEarly { .. } => code("invalid_request", "redemption_too_early"),
                Denial::RedemptionTooOld { .. } => code("invalid_request", "redemption_too_old"),
            },
            Self::Pdp(PdpError::Denied) => code("unauthorized_client", "pdp_denied"),
            Self::Pdp(PdpError::Unavailable(_)) => code("temporarily_unavailable", "pdp_unavailable"),
            Self::Blocked(Blocked) => code("invalid_request", "blocked"),
            Self::Ledger(error) => match error {
                LedgerError::Replayed => code("invalid_request", "subject_token_replayed"),
                LedgerError::NotOnRecord => code("invalid_request", "redemption_not_on_record"),
                LedgerError::Exhausted => code("invalid_request", "redemption_exhausted"),
                LedgerError::ClockBehind => code("temporarily_unavailable", "clock_behind"),
                LedgerError::Unavailable(_) | LedgerError::Late | LedgerError::Unreadable => STORE,
            },
            Self::Keys(KeysError::Signing(_) | KeysError::Claims) | Self::Internal => code("server_error", "internal"),
            Self::Keys(_) => STORE,
            Self::IntrospectionNotAllowed => code("unauthorized_client", "introspection_not_allowed"),
            Self::TokenTooLarge => code("invalid_request", "token_too_large"),
            Self::Audit(_) => code("temporarily_unavailable", "audit_unavailable"),
            Self::Timeout => code("invalid_request", "request_timeout"),
        }
    }

    /// The sentence for the client. What failed on our side is for the log alone.
    pub fn description(&self) -> String {
        match self.code().reason {
            "internal" => Self::Internal.to_string(),
            "store_unavailable" => "the store is not available just now; try again".to_owned(),
            _ => self.to_string().replace(|c| !is_plain(c), "?"),
        }
    }

    /// What is the matter, with all that it comes of; for the log.
    pub fn cause(&self) -> String {
        let mut texts = vec![self.to_string()];
        let mut error: &dyn std::error::Error = self;
        while let Some(source) = error.source() {
            texts.push(source.to_string());
            error = source;
        }
        texts.dedup();
        texts.join(": ")
    }

    /// `expired_at` of the answer: so that a client needs no clock of its own to know what to do.
    pub fn expired_at(&self) -> Option<Timestamp> {
        match self {
            Self::Subject(error) => match error.fault() {
                SubjectFault::Expired { expired_at } => Some(expired_at),
                _ => None,
            },
            Self::Policy(Denial::RedemptionTooOld { expired_at }) => Some(*expired_at),
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
            refusal @ Self::Subject(error) => match error.fault() {
                SubjectFault::KeyNotFetchedYet { retry_after } => Some(retry_after),
                _ => (refusal.code().error == "temporarily_unavailable").then_some(SOON),
            },
            refusal => (refusal.code().error == "temporarily_unavailable").then_some(SOON),
        }
    }

    /// Whether the fault is ours: then the log holds more than the answer. That a key is not known yet is nobody's fault,
    /// and whoever makes up names of keys must not fill the log with errors.
    pub fn is_fault(&self) -> bool {
        let passes = match self {
            Self::RateLimited(_) => true,
            Self::Subject(error) => matches!(error.fault(), SubjectFault::KeyNotFetchedYet { .. }),
            _ => false,
        };
        matches!(self.code().error, "temporarily_unavailable" | "server_error") && !passes
    }
}

/// What may stand in an `error_description` (RFC 6749 §5.2).
fn is_plain(c: char) -> bool {
    c == ' ' || (c.is_ascii_graphic() && c != '"' && c != '\\')
}

const STORE: Code = code("temporarily_unavailable", "store_unavailable");

/// CONTRACT 3.6, as far as this table has a cause for it: each `error` with its reasons.
const TABLE: [(&str, &[&str]); 8] = [
    (
        "invalid_request",
        &[
            "parameter_missing",
            "parameter_repeated",
            "parameter_malformed",
            "parameter_unsupported",
            "subject_token_malformed",
            "subject_token_type_unsupported",
            "subject_token_issuer_unknown",
            "subject_token_key_unknown",
            "subject_token_signature_invalid",
            "subject_token_audience_mismatch",
            "subject_token_expired",
            "subject_token_not_yet_valid",
            "subject_token_inactive",
            "subject_token_claims_invalid",
            "subject_token_replayed",
            "redemption_too_early",
            "redemption_too_old",
            "redemption_exhausted",
            "redemption_key_gone",
            "redemption_not_on_record",
            "replacement_limit",
            "blocked",
            "token_too_large",
            "request_timeout",
        ],
    ),
    ("unsupported_grant_type", &["grant_type_unsupported"]),
    (
        "invalid_scope",
        &[
            "scope_malformed",
            "purpose_not_allowed",
            "scope_exceeds_subject_token",
            "scope_unknown",
            "details_rejected",
            "condition_failed",
        ],
    ),
    (
        "unauthorized_client",
        &[
            "source_not_allowed",
            "subject_not_allowed",
            "redemption_not_allowed",
            "pdp_denied",
            "introspection_not_allowed",
        ],
    ),
    ("invalid_target", &["audience_unknown", "resource_unsupported"]),
    ("invalid_client", &["client_unknown", "client_ambiguous", "client_id_mismatch"]),
    ("server_error", &["internal"]),
    (
        "temporarily_unavailable",
        &[
            "rate_limited",
            "store_unavailable",
            "issuer_unavailable",
            "pdp_unavailable",
            "clock_behind",
            "audit_unavailable",
        ],
    ),
];

/// Whether there is a refusal with this `reason`.
pub fn is_reason(name: &str) -> bool {
    TABLE.iter().any(|(_, reasons)| reasons.contains(&name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::samples::all;
    use super::*;
    use crate::pdp::Fault;
    use writ_store::StoreError;

    #[test]
    fn every_cause_has_its_row_and_every_row_its_cause() {
        let rows: BTreeSet<_> =
            TABLE.iter().flat_map(|(error, reasons)| reasons.iter().map(|reason| (*error, *reason))).collect();
        let given: BTreeSet<_> = all().iter().map(Refusal::code).map(|code| (code.error, code.reason)).collect();
        assert_eq!(given, rows);
        let reasons: BTreeSet<_> = rows.iter().map(|(_, reason)| reason).collect();
        assert_eq!(reasons.len(), rows.len(), "a reason belongs to one error");
    }

    /// RFC 6749 §5.2: printable ASCII without quotes and backslashes; and nothing of ours shows.
    #[test]
    fn descriptions_can_be_shown_to_anyone() {
        for refusal in all() {
            let text = refusal.description();
            assert!(!text.is_empty() && text.chars().all(is_plain), "{text:?}");
            assert!(!text.contains('?'), "a character was replaced: {text:?}");
            assert!(!text.contains('/'), "{text:?}");
        }
    }

    /// CONTRACT 3.6
    #[test]
    fn what_passes_says_when_to_come_back() {
        for refusal in all() {
            let passes = refusal.code().error == "temporarily_unavailable";
            assert_eq!(refusal.retry_after().is_some_and(|wait| wait >= Duration::from_secs(1)), passes, "{refusal}");
        }
    }

    #[test]
    fn times_are_told_where_the_contract_says_so() {
        for refusal in all() {
            let reason = refusal.code().reason;
            let expired = matches!(reason, "subject_token_expired" | "redemption_too_old");
            assert_eq!(refusal.expired_at().is_some(), expired, "{reason}");
            assert_eq!(refusal.redeemable_at().is_some(), reason == "redemption_too_early", "{reason}");
        }
    }

    /// Not in the words of the program's text.
    #[test]
    fn the_cause_is_told_in_words_down_to_its_root() {
        let store = StoreError::Unavailable("/data/db: no space left".into());
        let cause = Refusal::from(LedgerError::Unavailable(store)).cause();
        assert_eq!(cause, "the store is not available: the store is unavailable: /data/db: no space left");
        let cause = Refusal::from(PdpError::Unavailable(Fault::Late)).cause();
        assert_eq!(
            cause,
            "the external decision point is not available just now; try again: the request had no time left"
        );
        for refusal in all() {
            let (cause, debug) = (refusal.cause(), format!("{refusal:?}"));
            let name = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            assert!(cause.contains(' ') && !cause.contains(&format!("{name}(")), "{cause}");
        }
    }

    #[test]
    fn faults_are_ours() {
        let faults = all().into_iter().filter(Refusal::is_fault).map(|fault| fault.code().reason);
        let expected = [
            "issuer_unavailable",
            "pdp_unavailable",
            "clock_behind",
            "store_unavailable",
            "audit_unavailable",
            "internal",
        ];
        assert_eq!(faults.collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    }
}
