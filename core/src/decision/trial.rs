//! The decision on an imagined request: the rules of [`decide`], on a subject that was not verified.

use super::admit::Asked;
use super::decide::{Circumstances, decide};
use super::denial::Denial;
use super::grant::Grant;
use super::trace::Trace;
use crate::subject::TrialSubject;

/// What policy would allow if the subject were proven. No token is signed for it:
///
/// ```compile_fail,E0308
/// use writ_core::claims::{Claims, Settings};
/// use writ_core::decision::TrialGrant;
/// use writ_core::ledger::Term;
/// fn sign(trial: TrialGrant, term: Term, settings: &Settings) -> Claims {
///     Claims::new(trial, term, settings)
/// }
/// ```
///
/// nor is there a way from it to a grant:
///
/// ```compile_fail,E0507
/// use writ_core::decision::{Grant, TrialGrant};
/// fn promote(trial: &TrialGrant) -> Grant {
///     *trial.as_grant()
/// }
/// ```
#[derive(Debug)]
pub struct TrialGrant(Grant);

impl TrialGrant {
    /// What would be granted, to look at.
    pub fn as_grant(&self) -> &Grant {
        &self.0
    }
}

/// Decides as [`decide`] does.
///
/// # Errors
/// The [`Denial`] that [`decide`] would return.
pub fn decide_trial<'p>(
    asked: &Asked<'p, '_>,
    subject: TrialSubject,
    at: Circumstances,
    trace: &mut Trace<'p>,
) -> Result<TrialGrant, Denial> {
    decide(asked, subject.into_unverified(), at, trace).map(TrialGrant)
}
