//! A decision, told to people and to programs.

use std::fmt::Write as _;

use serde::Serialize;
use writ_verifier::TxnClaims;

use super::hint::hint;
use super::trial::{Trial, Verdict, World};
use crate::cli::token::printable;
use writ_core::decision::Step;
use writ_core::refusal::Refusal;
use writ_core::request::Source;

/// Rule by rule, the outcome, and what the token would say or what could be changed.
pub(super) fn to_text(trial: &Trial, verdict: &Verdict, world: &World) -> String {
    let mut text = rules(verdict.trace.steps());
    match &verdict.outcome {
        Ok(allowed) => {
            let claims = serde_json::to_string_pretty(&allowed.claims).unwrap_or_default();
            let own = matches!(trial.source, Source::TxnToken | Source::ExpiredTxnToken);
            let txn = if own { "" } else { ", with a txn of its own" };
            let _ = write!(text, "\nallowed: the token would say{txn}\n\n{claims}\n\nNot checked here:\n");
            for open in &allowed.open {
                let _ = writeln!(text, "  - {open}");
            }
        }
        Err(refusal) => {
            let code = refusal.code();
            let _ = writeln!(text, "\nrefused: {}, {} ({})", code.error, code.reason, refusal.description());
            let _ = writeln!(text, "\nTo change that: {}", printable(&hint(trial, refusal, verdict, world)));
        }
    }
    text
}

/// A line for each: its outcome, its name, where it is written, and what was compared.
fn rules(steps: &[Step]) -> String {
    let place = |step: &Step| step.line.map(|line| format!("line {line}")).unwrap_or_default();
    let name_width = steps.iter().map(|step| step.rule.len()).max().unwrap_or(0);
    let place_width = steps.iter().map(|step| place(step).len()).max().unwrap_or(0);
    let mut text = String::new();
    for step in steps {
        let passed = if step.passed { "ok" } else { "NO" };
        let (place, detail) = (place(step), printable(&step.detail));
        let _ = writeln!(text, "  {passed}  {:name_width$}  {place:place_width$}  {detail}", step.rule);
    }
    text
}

/// `{"allowed":bool,"error","reason","rules":[{"rule","passed","detail"}],"claims":{…}}`
pub(super) fn to_json(verdict: &Verdict) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        allowed: bool,
        error: Option<&'static str>,
        reason: Option<&'static str>,
        rules: Vec<Applied>,
        claims: Option<&'a TxnClaims>,
    }
    #[derive(Serialize)]
    struct Applied {
        rule: &'static str,
        passed: bool,
        detail: String,
    }
    let rule = |step: &Step| {
        let line = step.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        Applied { rule: step.rule, passed: step.passed, detail: format!("{}{line}", step.detail) }
    };
    let code = verdict.outcome.as_ref().err().map(Refusal::code);
    let answer = Answer {
        allowed: code.is_none(),
        error: code.map(|code| code.error),
        reason: code.map(|code| code.reason),
        rules: verdict.trace.steps().iter().map(rule).collect(),
        claims: verdict.outcome.as_ref().ok().map(|allowed| allowed.claims.as_txn_claims()),
    };
    serde_json::to_string(&answer).unwrap_or_default()
}
