//! One refusal of each cause, for tests of all of them.

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
    let mut all = of_requests();
    all.extend(of_subjects());
    all.extend(of_policies());
    all.extend([PdpError::Denied, PdpError::Unavailable(Fault::Late)].map(Refusal::from));
    let away = LedgerError::Unavailable(StoreError::Unavailable("/data/db: no space left".into()));
    let faults = [LedgerError::Replayed, LedgerError::NotOnRecord, LedgerError::Exhausted, LedgerError::ClockBehind];
    all.extend(faults.into_iter().chain([away, LedgerError::Late, LedgerError::Unreadable]).map(Refusal::from));
    all.extend([Blocked.into(), KeysError::Overdue.into(), KeysError::Claims.into()]);
    all.extend([LogError.into(), Refusal::NotAudited(LogError), Refusal::IntrospectionNotAllowed]);
    all.extend([Refusal::TokenTooLarge, Refusal::Timeout, Refusal::Internal]);
    all
}

fn of_requests() -> Vec<Refusal> {
    let clients = [ClientError::Unknown, ClientError::Ambiguous, ClientError::IdMismatch].map(Refusal::from);
    let requests = [
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
    ];
    let limited = Refusal::from(RateLimited { retry_after: Duration::from_secs(7) });
    clients.into_iter().chain(requests.map(Refusal::from)).chain([limited]).collect()
}

fn of_subjects() -> impl Iterator<Item = Refusal> {
    let faults = [
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
    ];
    faults.into_iter().map(|fault| SubjectError::from(fault).into())
}

fn of_policies() -> impl Iterator<Item = Refusal> {
    let denials = [
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
    ];
    denials.into_iter().map(Refusal::from)
}
