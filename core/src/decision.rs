//! (client, request, verified subject) → grant or denial, with a trace of the rules that were applied.
//!
//! Pure: no clock, network or log. [`admit`] refuses what can be refused without the subject token, [`decide`] makes the
//! rest of the decision. Both add each rule they apply to the same [`Trace`], so that an explanation always describes the
//! decision itself. The trace contains facts; [`Trace::applied_rules`] renders them as text.
//!
//! Only [`decide`] makes a [`Grant`], and only from a [`VerifiedSubject`](crate::subject::VerifiedSubject);
//! [`decide_trial`] applies the same rules to a [`TrialSubject`](crate::subject::TrialSubject) and yields a
//! [`TrialGrant`], which cannot be signed.

mod admit;
mod context;
mod decide;
mod denial;
mod grant;
mod issue;
mod own_token;
mod redemption;
mod render;
mod replacement;
mod subject_rules;
mod trace;

pub use self::admit::{AdmittedRequest, admit};
pub use self::decide::{Circumstances, decide, decide_trial};
pub use self::denial::Denial;
pub use self::grant::{Grant, GrantKind, TrialGrant};
pub use self::render::AppliedRule;
pub(crate) use self::replacement::began;
pub use self::trace::Trace;

#[cfg(test)]
mod tests;
