//! The rules about the subject: whether an actor is ignored, which subjects a client may name, what a token covers.

use writ_verifier::{Members, Scope};

use super::denial::Denial;
use super::trace::{SubjectRule, Trace};
use crate::policy::{ClientPolicy, PurposeRule};
use crate::request::Subject;

/// A token with `act`, in any form, states that its subject does not act alone (RFC 8693 §4.1). `may_act` does not: it
/// states who could act.
pub(super) fn check_actor<'p>(
    rules: &[&'p PurposeRule],
    claims: &Members,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    if claims.raw("act").is_none() {
        return Ok(());
    }
    for rule in rules {
        trace.require(rule.ignores_actors(), SubjectRule::NamesActor(rule), Denial::ActorNotAllowed)?;
    }
    Ok(())
}

/// A client may always name its own subject; any other must match a pattern of each purpose.
pub(super) fn check_named<'p>(
    client: &'p ClientPolicy,
    rules: &[&'p PurposeRule],
    sub: &Subject,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    if *sub == client.subject {
        trace.pass(SubjectRule::IsClient(&client.subject));
        return Ok(());
    }
    rules.iter().try_for_each(|rule| check_patterns(rule, sub, trace))
}

/// The subject of a token must match a pattern of each purpose that has patterns.
pub(super) fn check_subjects<'p>(
    rules: &[&'p PurposeRule],
    sub: &Subject,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    let mut bound = rules.iter().filter(|rule| rule.subjects.is_some());
    bound.try_for_each(|rule| check_patterns(rule, sub, trace))
}

/// Without patterns no subject matches.
fn check_patterns<'p>(rule: &'p PurposeRule, sub: &Subject, trace: &mut Trace<'p>) -> Result<(), Denial> {
    let subject = sub.clone();
    let Some(pattern) = rule.matching_pattern(sub) else {
        return Err(trace.refuse(SubjectRule::MatchesNone { rule, subject }, Denial::SubjectNotAllowed));
    };
    trace.pass(SubjectRule::Matches { rule, pattern, subject });
    Ok(())
}

/// One of the scopes in `granted_by` of each purpose must be among those that the subject token covers.
pub(super) fn check_coverage<'p>(
    rules: &[&'p PurposeRule],
    covered: Option<&Scope>,
    trace: &mut Trace<'p>,
) -> Result<(), Denial> {
    for rule in rules {
        let Some(covered) = covered else {
            return Err(trace.refuse(SubjectRule::CoverageUnknown(rule), Denial::ScopeUnknown));
        };
        let Some(by) = rule.granted_by.iter().find(|by| covered.contains(by.as_str())) else {
            let fact = SubjectRule::NotCovered { rule, covered: covered.clone() };
            return Err(trace.refuse(fact, Denial::ScopeExceedsSubjectToken));
        };
        trace.pass(SubjectRule::Covered { rule, by });
    }
    Ok(())
}
