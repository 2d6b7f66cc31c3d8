//! Renders a trace as text, for `writ policy explain` and the debug log.

use std::fmt::Display;

use super::trace::{Admission, Context, Fact, RedemptionRule, Replacement, Step, SubjectRule, Trace};
use crate::policy::PurposeRule;
use crate::policy::mapping::TransactionContext;
use crate::request::Source;

/// One applied rule, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedRule {
    /// A key of the policy file or of `writ.toml` where there is one, else a parameter or a claim.
    pub rule: &'static str,
    /// The line of the policy file, from 1; `None` if the rule is not written in it.
    pub line: Option<usize>,
    /// Whether the request satisfied it.
    pub passed: bool,
    /// What was compared. It repeats values of the request: only for readers of the policies.
    pub detail: String,
}

impl Trace<'_> {
    /// The rules in the order in which they were applied; the last one decided.
    pub fn applied_rules(&self) -> impl Iterator<Item = AppliedRule> {
        self.steps().iter().map(|Step { fact, passed }| {
            let (place, detail) = match fact {
                Fact::Admission(fact) => fact.render(),
                Fact::Subject(fact) => fact.render(),
                Fact::Context(fact) => fact.render(),
                Fact::Replacement(fact) => fact.render(),
                Fact::Redemption(fact) => fact.render(*passed),
            };
            AppliedRule { rule: place.key, line: place.line, passed: *passed, detail }
        })
    }
}

/// The key of a rule, and its line in the policy file.
struct Place {
    key: &'static str,
    line: Option<usize>,
}

/// The place of a key in a purpose.
fn at(rule: &PurposeRule, key: &'static str) -> Place {
    Place { key, line: Some(rule.line_of(key)) }
}

fn unwritten(key: &'static str) -> Place {
    Place { key, line: None }
}

impl Admission<'_> {
    fn render(&self) -> (Place, String) {
        match self {
            Self::PurposeListed(rule) => (at(rule, "scope"), format!("{} is a purpose of this policy", rule.purpose)),
            Self::PurposeNotListed(purpose) => {
                (unwritten("scope"), format!("{purpose} is not a purpose of this policy"))
            }
            Self::SourceAccepted { rule, sources } => {
                let accepted = names(sources.iter().filter(|source| rule.accept.contains(source)));
                (at(rule, "accept"), format!("{} accepts {accepted}", rule.purpose))
            }
            Self::SourceNotAccepted { policy, rule, sources } => {
                let accepted = names(policy.rules(&rule.purpose).flat_map(|rule| &rule.accept));
                (at(rule, "accept"), format!("{} accepts {accepted}, not {}", rule.purpose, names(*sources)))
            }
        }
    }
}

impl SubjectRule<'_> {
    fn render(&self) -> (Place, String) {
        match self {
            Self::NamesActor(rule) => {
                let does = if rule.ignores_actors() { "ignores" } else { "does not ignore" };
                let detail = format!("the subject token names an actor (act), which {} {does}", rule.purpose);
                (at(rule, "actors"), detail)
            }
            Self::IsClient(subject) => (unwritten("subject"), format!("{subject} is the client itself")),
            Self::Matches { rule, pattern, subject } => (at(rule, "subjects"), format!("{subject} fits {pattern}")),
            Self::MatchesNone { rule, subject } => {
                let detail = match rule.subjects.as_deref() {
                    None | Some([]) => format!("{} names no subjects, and {subject} is another one", rule.purpose),
                    Some(patterns) => format!("{subject} does not fit {}", listed(patterns)),
                };
                (at(rule, "subjects"), detail)
            }
            Self::Malformed(error) => (unwritten("subjects"), error.to_string()),
            Self::CoverageUnknown(rule) => {
                let detail = "neither the subject token nor its issuer's scopes say what it covers";
                (at(rule, "granted_by"), detail.to_owned())
            }
            Self::Covered { rule, by } => (at(rule, "granted_by"), format!("{by} grants {}", rule.purpose)),
            Self::NotCovered { rule, covered } => {
                let granting = listed(&rule.granted_by);
                let detail = format!("{granting} grants {}; the token covers {covered}", rule.purpose);
                (at(rule, "granted_by"), detail)
            }
        }
    }
}

impl Context<'_> {
    fn render(&self) -> (Place, String) {
        match self {
            Self::DetailsFit(rule) => {
                (at(rule, "request_details"), format!("the details fit the schema of {}", rule.purpose))
            }
            Self::DetailsUnfit { rule, why } => {
                let detail = format!("the details do not fit the schema of {}: {why}", rule.purpose);
                (at(rule, "request_details"), detail)
            }
            Self::ClaimMissing { rule, missing } => {
                let (member, claim) = (missing.member, missing.claim);
                let detail = format!("{member} is made of the claim {claim}, which the subject token lacks");
                (at(rule, "tctx.subject"), detail)
            }
            Self::ClaimUnreadable { rule, member, claim } => {
                let detail =
                    format!("{member} is made of the claim {claim}, which readers of the token would not accept");
                (at(rule, "tctx.subject"), detail)
            }
            Self::MembersAdded { rule, members } => (at_table(rule), added(rule, members)),
            Self::MembersConflict { rule, members, rejection } => {
                (at_table(rule), format!("{}, but {rejection}", added(rule, members)))
            }
            Self::Rejected(rejection) => (unwritten("tctx, rctx"), rejection.to_string()),
            Self::Condition { rule, condition, fault } => {
                let why = fault.map(|why| format!(" ({why})")).unwrap_or_default();
                (at(rule, "when"), format!("{}: {}{why}", rule.purpose, condition.source()))
            }
        }
    }
}

fn at_table(rule: &PurposeRule) -> Place {
    Place { key: "tctx, rctx", line: Some(rule.line) }
}

fn added(rule: &PurposeRule, members: &TransactionContext) -> String {
    let names: Vec<_> = members.names().collect();
    format!("{} brings {}", rule.purpose, names.join(", "))
}

impl Replacement {
    fn render(&self) -> (Place, String) {
        match self {
            Self::TokenScope(scope) => (unwritten("scope"), format!("the token is for {scope}")),
            Self::Count { replaced, allowed } => {
                let detail = format!("{replaced} replacements led to this token; at most {allowed} are allowed");
                (unwritten("tokens.max_replacements"), detail)
            }
            Self::TransactionEnd(end) => {
                let detail = match end {
                    Some(end) => format!("its transaction gets no token from {end}, fifteen minutes after it began"),
                    None => "its txn does not say when the transaction began".to_owned(),
                };
                (unwritten("txn"), detail)
            }
        }
    }
}

impl RedemptionRule<'_> {
    fn render(&self, passed: bool) -> (Place, String) {
        match self {
            Self::Absent(scope) => (unwritten("redemption"), format!("{scope} has no redemption table")),
            Self::Parameter(name) => {
                (unwritten(name), "was sent, and everything is carried over from the token".to_owned())
            }
            Self::SinglePurpose { rule, token } => {
                let count = if passed { "a single purpose" } else { "several purposes" };
                (at(rule, "redemption"), format!("the token has {count}, {token}"))
            }
            Self::TokenScope { rule, token } => (at(rule, "scope"), format!("the token is for {token}")),
            Self::MarkRejected(rejection) => {
                (unwritten("rctx"), format!("the mark of a redemption would be one too many: {rejection}"))
            }
            Self::IssuedTo { rule, redemption, client } => {
                let others = if passed { String::new() } else { format!(", not {}", listed(&redemption.issued_to)) };
                (at(rule, "redemption.issued_to"), format!("{client} asked for the token{others}"))
            }
            Self::From { rule, at: from } => {
                (at(rule, "redemption.min_age"), format!("it can be redeemed from {from} on"))
            }
            Self::Until { rule, at: until } => {
                (at(rule, "redemption.max_age"), format!("it can be redeemed until {until}"))
            }
        }
    }
}

fn names<'a>(sources: impl IntoIterator<Item = &'a Source>) -> String {
    listed(sources.into_iter().map(|source| source.name()))
}

fn listed<T: Display>(all: impl IntoIterator<Item = T>) -> String {
    let words: Vec<_> = all.into_iter().map(|one| one.to_string()).collect();
    words.join(" or ")
}
