//! The decision on a new transaction.

use writ_verifier::{Members, Scope};

use super::admit::AdmittedRequest;
use super::context;
use super::denial::Denial;
use super::grant::{Grant, GrantKind};
use super::subject_rules::{check_actor, check_coverage, check_named, check_subjects};
use super::trace::Trace;
use crate::policy::PurposeRule;
use crate::policy::mapping::TransactionContext;
use crate::request::Subject;
use crate::subject::{SingleUse, Statement};
use writ_platform::clock::Timestamp;

pub(super) fn for_client<'p, T>(
    admitted: &AdmittedRequest<'p, '_>,
    rules: &[&'p PurposeRule],
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<Grant<T>, Denial> {
    issue(admitted, rules, &Proof::without_token(&admitted.client().subject), now, trace)
}

pub(super) fn for_named<'p, T>(
    admitted: &AdmittedRequest<'p, '_>,
    rules: &[&'p PurposeRule],
    sub: &Subject,
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<Grant<T>, Denial> {
    check_named(admitted.client(), rules, sub, trace)?;
    issue(admitted, rules, &Proof::without_token(sub), now, trace)
}

pub(super) fn for_asserted<'p, T>(
    admitted: &AdmittedRequest<'p, '_>,
    rules: &[&'p PurposeRule],
    statement: &Statement,
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<Grant<T>, Denial> {
    check_actor(rules, &statement.claims, trace)?;
    check_named(admitted.client(), rules, &statement.sub, trace)?;
    issue(admitted, rules, &Proof::of(statement), now, trace)
}

pub(super) fn for_outside<'p, T>(
    admitted: &AdmittedRequest<'p, '_>,
    rules: &[&'p PurposeRule],
    statement: &Statement,
    scope: Option<&Scope>,
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<Grant<T>, Denial> {
    check_actor(rules, &statement.claims, trace)?;
    check_coverage(rules, scope, trace)?;
    check_subjects(rules, &statement.sub, trace)?;
    issue(admitted, rules, &Proof::of(statement), now, trace)
}

/// The facts that a new transaction is based on.
struct Proof<'a> {
    sub: &'a Subject,
    /// The claims of the subject token.
    claims: Option<&'a Members>,
    /// The first second in which the subject token is no longer valid.
    usable_until: Option<Timestamp>,
    single_use: Option<SingleUse>,
}

impl<'a> Proof<'a> {
    fn without_token(sub: &'a Subject) -> Self {
        Self { sub, claims: None, usable_until: None, single_use: None }
    }

    fn of(statement: &'a Statement) -> Self {
        let Statement { sub, claims, usable_until, single_use, .. } = statement;
        Self { sub, claims: Some(claims), usable_until: *usable_until, single_use: *single_use }
    }
}

fn issue<'p, T>(
    admitted: &AdmittedRequest<'p, '_>,
    rules: &[&'p PurposeRule],
    proof: &Proof<'_>,
    now: Timestamp,
    trace: &mut Trace<'p>,
) -> Result<Grant<T>, Denial> {
    let none = Members::default();
    let claims = proof.claims.unwrap_or(&none);
    let carried = context::extend(admitted, rules, Some(claims), TransactionContext::default(), trace)?;
    context::check_conditions(admitted, rules, proof.sub.as_str(), claims, now, trace)?;
    let may_outlive = rules.iter().all(|rule| rule.outlive);
    let not_after = proof.usable_until.filter(|_| !may_outlive);
    let kind = GrantKind::Issue { sub: proof.sub.clone(), not_after, single_use: proof.single_use };
    Ok(Grant::new(admitted, rules, carried, kind))
}
