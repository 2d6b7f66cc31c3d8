//! The explanation of a decision, as text and as JSON.

use std::fmt::Write as _;

use serde::Serialize;
use writ_verifier::TxnClaims;

use super::hint::hint;
use super::trial::{Trial, Verdict, World};
use crate::cli::printable;
use writ_core::decision::AppliedRule;
use writ_core::refusal::{Reason, Refusal};
use writ_core::request::Source;

/// Each rule, the outcome, and the claims of the token or a hint how to change the outcome.
pub(super) fn to_text(trial: &Trial, verdict: &Verdict, world: &World) -> String {
    let mut text = rules(&verdict.rules);
    match &verdict.outcome {
        Ok(allowed) => {
            let claims = serde_json::to_string_pretty(&allowed.claims).unwrap_or_default();
            let own = matches!(trial.source, Source::TxnToken | Source::ExpiredTxnToken);
            let txn = if own { "" } else { ", with a txn of its own" };
            let _ = write!(text, "\nallowed: the token would say{txn}\n\n{claims}\n\nNot checked here:\n");
            for condition in &allowed.unchecked {
                let _ = writeln!(text, "  - {condition}");
            }
        }
        Err(refusal) => {
            let (error, reason) = (refusal.reason().error().as_str(), refusal.reason().as_str());
            let _ = writeln!(text, "\nrefused: {error}, {reason} ({})", refusal.description());
            let _ = writeln!(text, "\nTo change that: {}", printable(&hint(trial, refusal, verdict, world)));
        }
    }
    text
}

/// One line a rule: outcome, name, line in the file, compared values.
fn rules(rules: &[AppliedRule]) -> String {
    let place = |rule: &AppliedRule| rule.line.map(|line| format!("line {line}")).unwrap_or_default();
    let name_width = rules.iter().map(|rule| rule.rule.len()).max().unwrap_or(0);
    let place_width = rules.iter().map(|rule| place(rule).len()).max().unwrap_or(0);
    let mut text = String::new();
    for applied in rules {
        let passed = if applied.passed { "ok" } else { "NO" };
        let (place, detail) = (place(applied), printable(&applied.detail));
        let _ = writeln!(text, "  {passed}  {:name_width$}  {place:place_width$}  {detail}", applied.rule);
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
        rules: Vec<RuleLine>,
        claims: Option<&'a TxnClaims>,
    }
    #[derive(Serialize)]
    struct RuleLine {
        rule: &'static str,
        passed: bool,
        detail: String,
    }
    let rule = |applied: &AppliedRule| {
        let line = applied.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        RuleLine { rule: applied.rule, passed: applied.passed, detail: format!("{}{line}", applied.detail) }
    };
    let reason = verdict.outcome.as_ref().err().map(Refusal::reason);
    let answer = Answer {
        allowed: reason.is_none(),
        error: reason.map(|reason| reason.error().as_str()),
        reason: reason.map(Reason::as_str),
        rules: verdict.rules.iter().map(rule).collect(),
        claims: verdict.outcome.as_ref().ok().map(|allowed| allowed.claims.as_txn_claims()),
    };
    serde_json::to_string(&answer).unwrap_or_default()
}
