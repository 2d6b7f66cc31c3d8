//! Requests that must not be answered with a Txn-Token: whether they are refused, with which code, and in which form.

pub(crate) mod attempt;
mod callers;
mod methods;
mod parameters;
mod subject_tokens;

use self::attempt::{attempt, check_all, judge_response};
use crate::endpoint::TokenEndpoint;
use crate::report::{Report, Rule, Verdict};
use crate::response::Response;

/// Makes every request that is refused regardless of the subject token. `unmet`: why refusals would prove nothing.
pub(crate) async fn check(
    endpoint: &TokenEndpoint,
    other_scope: Option<&str>,
    unmet: Option<&Verdict>,
    report: &mut Report,
) {
    let mut refusals = parameters::refusals(&endpoint.request, other_scope);
    refusals.extend(subject_tokens::refusals(&endpoint.request));
    refusals.extend(parameters::details(&endpoint.request));
    let mut refused = Vec::new();
    for refusal in refusals {
        refused.extend(attempt(endpoint, refusal, unmet, report).await);
    }
    check_unknown_parameter(endpoint, unmet, report).await;
    methods::check(endpoint, unmet, report).await;
    callers::check(endpoint, unmet, report).await;
    check_all(&refused, unmet, report);
}

/// The one request here that must not be refused.
async fn check_unknown_parameter(endpoint: &TokenEndpoint, unmet: Option<&Verdict>, report: &mut Report) {
    let rule = Rule::new("unknown-parameter", "R-REQ-04", "sent an unknown parameter", "a token, as without it");
    let form = endpoint.request.form().set("writ_conformance", "1");
    let judge = |response: &Response| Verdict::required(response.has_token(), response.summary());
    let verdict = match unmet {
        Some(unmet) => unmet.clone(),
        None => judge_response(endpoint.send(&form).await, judge),
    };
    report.add(rule, verdict);
}
