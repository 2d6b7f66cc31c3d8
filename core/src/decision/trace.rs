//! The rules that a decision applied, as facts.
//!
//! Every live request produces a trace, but few are read: facts refer to the policy wherever possible, and text is rendered
//! only on demand ([`render`](super::render)).

use writ_platform::clock::Timestamp;
use writ_verifier::{Purpose, Scope};

use super::denial::Denial;
use crate::policy::condition::Condition;
use crate::policy::mapping::{ClaimMissing, Rejection, TransactionContext};
use crate::policy::{ClientPolicy, Glob, PurposeRule, Redemption};
use crate::request::{Source, Subject, SubjectNameError};

/// The rules applied so far, in order; the last one decided. `'p` is the lifetime of the policies.
#[derive(Debug, Default)]
pub struct Trace<'p>(Vec<Step<'p>>);

#[derive(Debug)]
pub(super) struct Step<'p> {
    pub(super) fact: Fact<'p>,
    pub(super) passed: bool,
}

/// What one rule compared. A rule that passes and one that refuses share a variant where they compare the same things.
#[derive(Debug)]
pub(super) enum Fact<'p> {
    Admission(Admission<'p>),
    Subject(SubjectRule<'p>),
    Context(Context<'p>),
    Replacement(Replacement),
    Redemption(RedemptionRule<'p>),
}

/// Purpose and source, before the subject token is verified.
#[derive(Debug)]
pub(super) enum Admission<'p> {
    PurposeListed(&'p PurposeRule),
    PurposeNotListed(Purpose),
    SourceAccepted { rule: &'p PurposeRule, sources: &'static [Source] },
    SourceNotAccepted { policy: &'p ClientPolicy, rule: &'p PurposeRule, sources: &'static [Source] },
}

/// The subject of the transaction, and the scope that the subject token covers.
#[derive(Debug)]
pub(super) enum SubjectRule<'p> {
    /// The subject token has `act`.
    NamesActor(&'p PurposeRule),
    /// The subject is the client's own.
    IsClient(&'p Subject),
    Matches {
        rule: &'p PurposeRule,
        pattern: &'p Glob,
        subject: Subject,
    },
    MatchesNone {
        rule: &'p PurposeRule,
        subject: Subject,
    },
    /// `sub` of a Txn-Token.
    Malformed(SubjectNameError),
    CoverageUnknown(&'p PurposeRule),
    Covered {
        rule: &'p PurposeRule,
        by: &'p Purpose,
    },
    NotCovered {
        rule: &'p PurposeRule,
        covered: Scope,
    },
}

/// Request details, request context, and the condition on them.
#[derive(Debug)]
pub(super) enum Context<'p> {
    DetailsFit(&'p PurposeRule),
    DetailsUnfit {
        rule: &'p PurposeRule,
        why: String,
    },
    ClaimMissing {
        rule: &'p PurposeRule,
        missing: ClaimMissing<'p>,
    },
    ClaimUnreadable {
        rule: &'p PurposeRule,
        member: &'p str,
        claim: &'p str,
    },
    MembersAdded {
        rule: &'p PurposeRule,
        members: TransactionContext,
    },
    MembersConflict {
        rule: &'p PurposeRule,
        members: TransactionContext,
        rejection: Rejection,
    },
    Rejected(Rejection),
    /// `fault` says why it is neither true nor false.
    Condition {
        rule: &'p PurposeRule,
        condition: &'p Condition,
        fault: Option<&'static str>,
    },
}

/// The rules for replacing a live Txn-Token.
#[derive(Debug)]
pub(super) enum Replacement {
    /// The purposes of the presented token, which must include those requested.
    TokenScope(Scope),
    Count {
        replaced: usize,
        allowed: u32,
    },
    /// The instant from which the transaction gets no more tokens; `None` if its `txn` does not contain its start time.
    TransactionEnd(Option<Timestamp>),
}

/// The rules for redeeming an expired Txn-Token.
#[derive(Debug)]
pub(super) enum RedemptionRule<'p> {
    /// No requested purpose can be redeemed.
    Absent(Scope),
    /// A parameter that a redemption does not accept.
    Parameter(&'static str),
    /// The presented token must have a single purpose.
    SinglePurpose {
        rule: &'p PurposeRule,
        token: Scope,
    },
    /// The purpose of the presented token, which must be the one requested.
    TokenScope {
        rule: &'p PurposeRule,
        token: Scope,
    },
    /// The mark of a redemption does not fit into `rctx`.
    MarkRejected(Rejection),
    /// The client that the presented token was issued to.
    IssuedTo {
        rule: &'p PurposeRule,
        redemption: &'p Redemption,
        client: String,
    },
    From {
        rule: &'p PurposeRule,
        at: Timestamp,
    },
    Until {
        rule: &'p PurposeRule,
        at: Timestamp,
    },
}

impl<'p> Trace<'p> {
    pub(super) fn steps(&self) -> &[Step<'p>] {
        &self.0
    }

    pub(super) fn pass(&mut self, fact: impl Into<Fact<'p>>) {
        self.0.push(Step { fact: fact.into(), passed: true });
    }

    /// Records the rule that refuses the request; returns `denial` for the caller to return.
    pub(super) fn refuse(&mut self, fact: impl Into<Fact<'p>>, denial: impl Into<Denial>) -> Denial {
        self.0.push(Step { fact: fact.into(), passed: false });
        denial.into()
    }

    pub(super) fn require(&mut self, passed: bool, fact: impl Into<Fact<'p>>, denial: Denial) -> Result<(), Denial> {
        self.0.push(Step { fact: fact.into(), passed });
        if passed { Ok(()) } else { Err(denial) }
    }
}

impl<'p> From<Admission<'p>> for Fact<'p> {
    fn from(fact: Admission<'p>) -> Self {
        Self::Admission(fact)
    }
}

impl<'p> From<SubjectRule<'p>> for Fact<'p> {
    fn from(fact: SubjectRule<'p>) -> Self {
        Self::Subject(fact)
    }
}

impl<'p> From<Context<'p>> for Fact<'p> {
    fn from(fact: Context<'p>) -> Self {
        Self::Context(fact)
    }
}

impl From<Replacement> for Fact<'_> {
    fn from(fact: Replacement) -> Self {
        Self::Replacement(fact)
    }
}

impl<'p> From<RedemptionRule<'p>> for Fact<'p> {
    fn from(fact: RedemptionRule<'p>) -> Self {
        Self::Redemption(fact)
    }
}
