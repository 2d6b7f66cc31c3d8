//! Valid requests from callers who are not authenticated.

use crate::endpoint::TokenEndpoint;
use crate::http::HttpError;
use crate::report::{Report, Rule, Verdict};
use crate::response::Response;
use crate::target::Caller;

pub(super) async fn check(endpoint: &TokenEndpoint, unmet: Option<&Verdict>, report: &mut Report) {
    let expected = "the handshake fails, or a refusal with invalid_client";
    let anonymous = Rule::new("client-nobody", "R-AUTHN-01", "sent a valid request without credentials", expected);
    let action = "sent a valid request with a self-signed certificate";
    let self_signed = Rule::new("client-stranger", "R-AUTHN-03", action, expected);

    let target = &endpoint.target;
    let no_credentials = (!target.has_credentials()).then_some("the client has no credentials either");
    let no_certificate = (!target.has_certificate()).then_some("needs --cert and --key");
    for (rule, caller, not_applicable) in
        [(anonymous, Caller::Anonymous, no_credentials), (self_signed, Caller::SelfSigned, no_certificate)]
    {
        let verdict = match (unmet, not_applicable) {
            (Some(unmet), _) => unmet.clone(),
            (None, Some(reason)) => Verdict::not_applicable(reason),
            (None, None) => judge(target.post_form(caller, &endpoint.url, &endpoint.request.form()).await),
        };
        report.add(rule, verdict);
    }
}

fn judge(response: Result<Response, HttpError>) -> Verdict {
    let response = match response {
        Err(HttpError::Unreachable(_)) => return Verdict::passed("no answer"),
        Err(error) => return Verdict::not_tried(error.to_string()),
        Ok(response) => response,
    };
    match response.status {
        400 | 401 => {
            let is_invalid_client = response.error().as_deref() == Some("invalid_client");
            Verdict::recommended(is_invalid_client, response.summary())
        }
        402..=499 => Verdict::noted(response.summary()),
        _ => Verdict::failed(response.summary()),
    }
}
