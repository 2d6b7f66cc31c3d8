//! One refusal of each cause, for tests that must know all of them.

use std::time::Duration;

use writ_platform::clock::Timestamp;
use writ_platform::telemetry::LogError;
use writ_store::StoreError;

use super::Refusal;
use crate::blocks::Blocked;
use crate::client::ClientError;
use crate::decision::Denial;
use crate::keys::KeysError;
use crate::ledger::LedgerError;
use crate::limits::RateLimited;
use crate::pdp::{Fault, PdpError};
use crate::policy::mapping::Rejection;
use crate::request::RequestError;
use crate::subject::{SubjectError, SubjectFault};

const NOW: Timestamp = Timestamp::from_epoch(1_790_000_000);

/// Every refusal, one of each cause.
pub fn all() -> Vec<Refusal> {
    let mut all: Vec<Refusal> = Vec::new();
    all.extend([ClientError::Unknown, ClientError::Ambiguous, ClientError::IdMismatch].map(Refusal::from));
    all.extend(
        [
            RequestError::Missing("scope"),
            RequestError::Repeated { name: Some("scope"), first: 1, second: 2 },
            RequestError::Repeated { name: None, first: 1, second: 2 },
            RequestError::Malformed("the form", "it has more than 64 parameters".into()),
            RequestError::Unsupported("actor_token"),
            RequestError::GrantType,
            RequestError::SubjectTokenType,
            RequestError::Audience,
            RequestError::Resource,
            RequestError::Scope("it has two spaces in a row".into()),
        ]
        .map(Refusal::from),
    );
    all.push(RateLimited { retry_after: Duration::from_secs(7) }.into());
    all.extend(
        [
            SubjectFault::Malformed,
            SubjectFault::IssuerUnknown,
            SubjectFault::KeyUnknown,
            SubjectFault::SignatureInvalid,
            SubjectFault::AudienceMismatch,
            SubjectFault::Expired { expired_at: NOW },
            SubjectFault::NotYetValid,
            SubjectFault::Inactive,
            SubjectFault::ClaimsInvalid,
            SubjectFault::KeyGone,
            SubjectFault::Redeemed,
            SubjectFault::IssuerUnavailable,
            SubjectFault::KeyNotFetchedYet { retry_after: Duration::from_secs(30) },
        ]
        .map(|fault| Refusal::from(SubjectError::from(fault))),
    );
    all.extend(
        [
            Denial::PurposeNotAllowed,
            Denial::SourceNotAllowed,
            Denial::ActorNotAllowed,
            Denial::SubjectNotAllowed,
            Denial::ScopeUnknown,
            Denial::ScopeExceedsSubjectToken,
            Denial::DetailsRejected(Rejection::Unfit(Some("ticker".into()))),
            Denial::DetailsRejected(Rejection::TwoValues("ticker".into())),
            Denial::DetailsRejected(Rejection::HoldsToken("a \"b\"".into())),
            Denial::DetailsRejected(Rejection::Unreadable(Some("ticker".into()))),
            Denial::ClaimMissing,
            Denial::ClaimUnreadable,
            Denial::ConditionFailed,
            Denial::ReplacementLimit,
            Denial::UnsupportedOnRedemption("request_details"),
            Denial::RedemptionNotAllowed,
            Denial::RedemptionTooEarly { redeemable_at: NOW },
            Denial::RedemptionTooOld { expired_at: NOW },
        ]
        .map(Refusal::from),
    );
    all.extend([PdpError::Denied, PdpError::Unavailable(Fault::Late)].map(Refusal::from));
    let away = LedgerError::Unavailable(StoreError::Unavailable("/data/db: no space left".into()));
    let faults = [LedgerError::Replayed, LedgerError::NotOnRecord, LedgerError::Exhausted, LedgerError::ClockBehind];
    all.extend(faults.into_iter().chain([away, LedgerError::Late, LedgerError::Unreadable]).map(Refusal::from));
    all.push(Blocked.into());
    all.extend([KeysError::Overdue.into(), KeysError::Claims.into(), LogError.into()]);
    all.push(Refusal::IntrospectionNotAllowed);
    all.extend([Refusal::TokenTooLarge, Refusal::Timeout, Refusal::Internal]);
    all
}
