//! A valid request: the response and the Txn-Token in it.

mod response_checks;
mod token_checks;

use crate::discovery::keys::PublishedKeys;
use crate::endpoint::TokenEndpoint;
use crate::http::HttpError;
use crate::report::{Report, Rule, Verdict};
use crate::token::IssuedToken;

use self::response_checks::TokenResponse;
use self::token_checks::TokenUnderTest;

/// Sends the valid request twice and judges the tokens. Returns a verdict for every later check if the client gets no
/// tokens: refusals would prove nothing then.
///
/// # Errors
/// The token endpoint cannot be reached.
pub(crate) async fn check(
    endpoint: &TokenEndpoint,
    keys: Option<PublishedKeys>,
    issuer: Option<String>,
    report: &mut Report,
) -> Result<Option<Verdict>, HttpError> {
    let response = endpoint.request_token().await?;
    let rule = Rule::new("issue-status", "R-RESP-01", "requested a Txn-Token", "200 with access_token");
    let is_issued = response.status == 200 && response.has_token();
    report.add(rule, Verdict::required(is_issued, response.summary()));
    let response = if is_issued { TokenResponse::parse(response, &endpoint.request.scope) } else { None };
    if let Some(encoded) = response.as_ref().and_then(TokenResponse::access_token) {
        report.redact(encoded);
    }
    let not_issued = Verdict::not_tried("no token was issued");
    report.judge(response.as_ref().ok_or(&not_issued), response_checks::CHECKS);

    let second = request_second(endpoint).await;
    let unmet = unmet_precondition(is_issued, &second);
    let token = response.and_then(|response| response.token).map(|first| TokenUnderTest {
        first,
        second,
        request: endpoint.request.clone(),
        keys,
        issuer,
    });
    let no_token = if is_issued { Verdict::not_tried("the token cannot be decoded") } else { not_issued };
    check_token(token.as_ref().ok_or(&no_token), report);
    Ok(unmet)
}

/// The token of a second request like the first, or why there is none.
async fn request_second(endpoint: &TokenEndpoint) -> Result<IssuedToken, String> {
    let response = endpoint.request_token().await.map_err(|error| error.to_string())?;
    if !response.has_token() {
        return Err(format!("the answer to the second request was {}", response.summary()));
    }
    IssuedToken::from_response(&response).ok_or_else(|| "the second token is not a JWT".to_owned())
}

fn unmet_precondition(is_issued: bool, second: &Result<IssuedToken, String>) -> Option<Verdict> {
    if !is_issued {
        return Some(Verdict::not_tried("valid requests are refused too, so a refusal would prove nothing"));
    }
    let reason = second.as_ref().err()?;
    Some(Verdict::not_tried(format!("a refusal would prove nothing: {reason}")))
}

fn check_token(token: Result<&TokenUnderTest, &Verdict>, report: &mut Report) {
    let all_passed = report.judge(token, token_checks::CHECKS);
    let verdict = match token {
        Err(no_token) => no_token.clone(),
        Ok(_) if !all_passed => Verdict::not_tried("an earlier check shows why it might be refused"),
        Ok(token) => token.verify(),
    };
    let action = "verified the token as a downstream service does";
    report.add(Rule::new("token-verifies", "R-VERIFY-05", action, "the token is accepted"), verdict);
}
