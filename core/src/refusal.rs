//! Every cause of a refusal → its [`Reason`].
//!
//! In: the errors of the other modules, which are independent of OAuth. Out: `reason`, `error` and HTTP status, the text
//! for the client, and the cause for the log.

mod reason;
#[cfg(any(test, feature = "testing"))]
pub mod samples;

use std::time::Duration;

pub use self::reason::{OAuthError, Reason};
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

/// `Retry-After` if the end of the fault is unknown.
const RETRY_SOON: Duration = Duration::from_secs(2);

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The certificate and `client_id` do not identify one client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The form is not a valid request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The client has exceeded its rate limit.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// The subject token is not acceptable.
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// The client's policy denies it.
    #[error(transparent)]
    Policy(#[from] Denial),
    /// The external decision point denies it, or gave no decision.
    #[error(transparent)]
    Pdp(#[from] PdpError),
    /// The kill switch blocks it.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// No use can be spent, or the token cannot be put on record.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No key can sign.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The client's policy lacks `introspect = true`.
    #[error("this client may not introspect tokens")]
    IntrospectionNotAllowed,
    /// The finished token is longer than `tokens.max_size`.
    #[error("the Txn-Token would be too large for an HTTP header")]
    TokenTooLarge,
    /// The log is known to be unavailable, so nothing is decided.
    #[error(transparent)]
    Audit(#[from] LogError),
    /// The audit event of the outcome could not be written, so the outcome is not sent.
    #[error(transparent)]
    NotAudited(LogError),
    /// It took longer than `limits.request_timeout`.
    #[error("the request took too long")]
    Timeout,
    /// A fault of the service.
    #[error("internal error")]
    Internal,
}

impl Refusal {
    /// The reason of each cause; `error` and HTTP status follow from it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Client(error) => match error {
                ClientError::Unknown => Reason::ClientUnknown,
                ClientError::Ambiguous => Reason::ClientAmbiguous,
                ClientError::IdMismatch => Reason::ClientIdMismatch,
            },
            Self::Request(error) => match error {
                RequestError::Missing(_) => Reason::ParameterMissing,
                RequestError::Repeated { .. } => Reason::ParameterRepeated,
                RequestError::Malformed(..) => Reason::ParameterMalformed,
                RequestError::Unsupported(_) => Reason::ParameterUnsupported,
                RequestError::GrantType => Reason::GrantTypeUnsupported,
                RequestError::SubjectTokenType => Reason::SubjectTokenTypeUnsupported,
                RequestError::Audience => Reason::AudienceUnknown,
                RequestError::Resource => Reason::ResourceUnsupported,
                RequestError::Scope(_) => Reason::ScopeMalformed,
            },
            Self::RateLimited(_) => Reason::RateLimited,
            Self::Subject(error) => of_subject_fault(error.fault()),
            Self::Policy(denial) => of_denial(denial),
            Self::Pdp(PdpError::Denied) => Reason::PdpDenied,
            Self::Pdp(PdpError::Unavailable(_)) => Reason::PdpUnavailable,
            Self::Blocked(Blocked) => Reason::Blocked,
            Self::Ledger(error) => match error {
                LedgerError::Replayed => Reason::SubjectTokenReplayed,
                LedgerError::NotOnRecord => Reason::RedemptionNotOnRecord,
                LedgerError::Exhausted => Reason::RedemptionExhausted,
                LedgerError::ClockBehind => Reason::ClockBehind,
                LedgerError::Unavailable(_) | LedgerError::Late | LedgerError::Unreadable => Reason::StoreUnavailable,
            },
            Self::Keys(KeysError::Signing(_) | KeysError::Claims) | Self::Internal => Reason::Internal,
            Self::Keys(_) => Reason::StoreUnavailable,
            Self::IntrospectionNotAllowed => Reason::IntrospectionNotAllowed,
            Self::TokenTooLarge => Reason::TokenTooLarge,
            Self::Audit(_) | Self::NotAudited(_) => Reason::AuditUnavailable,
            Self::Timeout => Reason::RequestTimeout,
        }
    }

    /// `error_description`: the text for the client, in the characters of RFC 6749 §5.2. For a fault of the service it
    /// contains no cause.
    pub fn description(&self) -> String {
        match self.reason() {
            Reason::Internal => Self::Internal.to_string(),
            Reason::StoreUnavailable => "the store is not available just now; try again".to_owned(),
            _ => self.to_string().replace(|c| !is_plain(c), "?"),
        }
    }

    /// The error with all of its causes, for the log.
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

    /// `expired_at` of the answer, so that the client does not need a correct clock.
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

    /// `Retry-After`: present on every temporary refusal.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(limited) => return Some(limited.retry_after),
            Self::Subject(error) => {
                if let SubjectFault::KeyNotFetchedYet { retry_after } = error.fault() {
                    return Some(retry_after);
                }
            }
            _ => {}
        }
        (self.reason().error() == OAuthError::TemporarilyUnavailable).then_some(RETRY_SOON)
    }

    /// Whether the service is at fault, so that the log contains more than the answer. A rate limit is not a fault, and
    /// neither is a key that has not been fetched yet: a client that invents key ids must not fill the log with errors.
    pub fn is_fault(&self) -> bool {
        let is_expected = match self {
            Self::RateLimited(_) => true,
            Self::Subject(error) => matches!(error.fault(), SubjectFault::KeyNotFetchedYet { .. }),
            _ => false,
        };
        matches!(self.reason().error(), OAuthError::TemporarilyUnavailable | OAuthError::ServerError) && !is_expected
    }
}

fn of_subject_fault(fault: SubjectFault) -> Reason {
    match fault {
        SubjectFault::Malformed => Reason::SubjectTokenMalformed,
        SubjectFault::IssuerUnknown => Reason::SubjectTokenIssuerUnknown,
        SubjectFault::KeyUnknown => Reason::SubjectTokenKeyUnknown,
        SubjectFault::SignatureInvalid => Reason::SubjectTokenSignatureInvalid,
        SubjectFault::AudienceMismatch => Reason::SubjectTokenAudienceMismatch,
        SubjectFault::Expired { .. } => Reason::SubjectTokenExpired,
        SubjectFault::NotYetValid => Reason::SubjectTokenNotYetValid,
        SubjectFault::Inactive => Reason::SubjectTokenInactive,
        SubjectFault::ClaimsInvalid => Reason::SubjectTokenClaimsInvalid,
        SubjectFault::KeyGone => Reason::RedemptionKeyGone,
        SubjectFault::Redeemed => Reason::RedemptionNotAllowed,
        SubjectFault::IssuerUnavailable | SubjectFault::KeyNotFetchedYet { .. } => Reason::IssuerUnavailable,
    }
}

fn of_denial(denial: &Denial) -> Reason {
    match denial {
        Denial::PurposeNotAllowed => Reason::PurposeNotAllowed,
        Denial::SourceNotAllowed => Reason::SourceNotAllowed,
        Denial::ActorNotAllowed | Denial::ClaimMissing | Denial::ClaimUnreadable => Reason::SubjectTokenClaimsInvalid,
        Denial::SubjectNotAllowed => Reason::SubjectNotAllowed,
        Denial::ScopeUnknown => Reason::ScopeUnknown,
        Denial::ScopeExceedsSubjectToken => Reason::ScopeExceedsSubjectToken,
        Denial::DetailsRejected(_) => Reason::DetailsRejected,
        Denial::ConditionFailed => Reason::ConditionFailed,
        Denial::ReplacementLimit => Reason::ReplacementLimit,
        Denial::UnsupportedOnRedemption(_) => Reason::ParameterUnsupported,
        Denial::RedemptionNotAllowed => Reason::RedemptionNotAllowed,
        Denial::RedemptionTooEarly { .. } => Reason::RedemptionTooEarly,
        Denial::RedemptionTooOld { .. } => Reason::RedemptionTooOld,
    }
}

/// The characters of `error_description` (RFC 6749 §5.2).
fn is_plain(c: char) -> bool {
    c == ' ' || (c.is_ascii_graphic() && c != '"' && c != '\\')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::samples::all;
    use super::*;
    use crate::pdp::Fault;
    use writ_store::StoreError;

    #[test]
    fn every_reason_has_a_cause() {
        let given: BTreeSet<_> = all().iter().map(Refusal::reason).collect();
        let expected = Reason::ALL.iter().copied().filter(|reason| !reason.is_listeners_own());
        assert_eq!(given, expected.collect());
    }

    #[test]
    fn a_name_belongs_to_one_reason() {
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|reason| Reason::from_name(reason.as_str()) == Some(*reason)));
        assert_eq!(Reason::from_name("no_such_reason"), None);
    }

    /// RFC 6749 §5.2: 400, and 401 for a client that is not authenticated; temporary refusals have 429 or 503.
    #[test]
    fn the_status_fits_the_error() {
        for reason in Reason::ALL {
            let fits = match reason.error() {
                OAuthError::InvalidRequest => matches!(reason.status(), 400 | 404 | 405 | 408 | 413 | 415),
                OAuthError::InvalidClient => reason.status() == 401,
                OAuthError::UnauthorizedClient => matches!(reason.status(), 400 | 403),
                OAuthError::UnsupportedGrantType | OAuthError::InvalidScope | OAuthError::InvalidTarget => {
                    reason.status() == 400
                }
                OAuthError::ServerError => reason.status() == 500,
                OAuthError::TemporarilyUnavailable => matches!(reason.status(), 429 | 503),
            };
            assert!(fits, "{reason:?}");
        }
    }

    /// RFC 6749 §5.2: printable ASCII without quotes and backslashes; and no internal cause is shown.
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
    fn temporary_refusals_have_retry_after() {
        for refusal in all() {
            let passes = refusal.reason().error() == OAuthError::TemporarilyUnavailable;
            assert_eq!(refusal.retry_after().is_some_and(|wait| wait >= Duration::from_secs(1)), passes, "{refusal}");
        }
    }

    #[test]
    fn times_are_present_as_the_contract_requires() {
        for refusal in all() {
            let reason = refusal.reason();
            let expired = matches!(reason, Reason::SubjectTokenExpired | Reason::RedemptionTooOld);
            assert_eq!(refusal.expired_at().is_some(), expired, "{reason:?}");
            assert_eq!(refusal.redeemable_at().is_some(), reason == Reason::RedemptionTooEarly, "{reason:?}");
        }
    }

    /// The texts of the error chain, not its `Debug` form.
    #[test]
    fn the_cause_contains_the_whole_error_chain() {
        let store = StoreError::Unavailable("/data/db: no space left".into());
        let cause = Refusal::from(LedgerError::Unavailable(store)).cause();
        assert_eq!(cause, "the store is not available: the store is unavailable: /data/db: no space left");
        let cause = Refusal::from(PdpError::Unavailable(Fault::Late)).cause();
        assert_eq!(
            cause,
            "the external decision point is not available just now; try again: the deadline of the request has passed"
        );
        for refusal in all() {
            let (cause, debug) = (refusal.cause(), format!("{refusal:?}"));
            let name = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap();
            assert!(cause.contains(' ') && !cause.contains(&format!("{name}(")), "{cause}");
        }
    }

    #[test]
    fn faults_are_ours() {
        let faults = all().into_iter().filter(Refusal::is_fault).map(|fault| fault.reason());
        let expected = [
            Reason::IssuerUnavailable,
            Reason::PdpUnavailable,
            Reason::ClockBehind,
            Reason::StoreUnavailable,
            Reason::AuditUnavailable,
            Reason::Internal,
        ];
        assert_eq!(faults.collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    }
}
