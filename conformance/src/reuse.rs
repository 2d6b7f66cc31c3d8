//! A Txn-Token as subject token: under another type, for replacement, and after its expiry.

use std::time::Duration;

use crate::endpoint::TokenEndpoint;
use crate::refusals::attempt::{Refusal, attempt};
use crate::report::{Report, Rule, Verdict};
use crate::request::{TOKEN_TYPE, TXN_TOKEN, TokenRequest};
use crate::response::Response;
use crate::target::unix_now;
use crate::token::{IssuedToken, break_signature, is_within};

/// Seconds. `--wait` does not wait for tokens that live longer.
const WAIT_MAX: u64 = 65;

/// `wait_after_expiry`: how long after its expiry to present a Txn-Token, if at all. `unmet`: why refusals would prove
/// nothing.
pub(crate) async fn check(
    endpoint: &TokenEndpoint,
    replace_scope: Option<&str>,
    wait_after_expiry: Option<Duration>,
    unmet: Option<&Verdict>,
    report: &mut Report,
) {
    let fresh = match unmet {
        Some(unmet) => Err(unmet.clone()),
        None => request_again(endpoint).await,
    };
    let action = "requested a Txn-Token once more, after all refusals";
    let rule = Rule::new("issue-again", "R-RESP-01", action, "a token, as before");
    report.add(rule, fresh.as_ref().map_or_else(Verdict::clone, |_| Verdict::passed("a token")));
    let unmet = fresh.as_ref().err();
    let token = fresh.as_ref().map(|token| token.encoded.as_str()).unwrap_or_default();

    attempt(endpoint, disguised(&endpoint.request, token), unmet, report).await;
    let replaced = check_replacement(endpoint, fresh.as_ref(), report).await;
    let unmet = replaced.as_ref().err();
    attempt(endpoint, tampered(&endpoint.request, token), unmet, report).await;
    attempt(endpoint, wider(&endpoint.request, token, replace_scope), unmet, report).await;

    let verdict = match (&fresh, wait_after_expiry) {
        (Err(unmet), _) => unmet.clone(),
        (Ok(_), None) => Verdict::not_tried("needs --wait"),
        (Ok(token), Some(wait)) => present_expired(endpoint, token, wait).await,
    };
    let action = "sent an expired Txn-Token as subject token";
    report.add(Rule::new("txn-token-expired", "R-SUBJ-23", action, "a refusal with invalid_request"), verdict);
}

async fn request_again(endpoint: &TokenEndpoint) -> Result<IssuedToken, Verdict> {
    let response = endpoint.request_token().await.map_err(|error| Verdict::not_tried(error.to_string()))?;
    if !response.has_token() {
        let summary = response.summary();
        return Err(Verdict::not_tried(format!("{summary}: earlier refusals may have had another reason")));
    }
    decode(&response)
}

fn decode(response: &Response) -> Result<IssuedToken, Verdict> {
    IssuedToken::from_response(response).ok_or_else(|| Verdict::not_tried("the token cannot be decoded"))
}

/// A Txn-Token under the type that the client usually presents.
fn disguised(request: &TokenRequest, token: &str) -> Refusal {
    let usual = request.subject_token.as_ref().map(|subject| subject.token_type.clone());
    let usual = usual.filter(|usual| usual != TXN_TOKEN).unwrap_or_else(|| format!("{TOKEN_TYPE}access_token"));
    let action = "sent a Txn-Token as a subject token of another type";
    let codes = &["invalid_request", "unauthorized_client"];
    Refusal::new("txn-token-disguised", "R-SUBJ-05", action, codes, request.form_with(token, &usual))
}

fn tampered(request: &TokenRequest, token: &str) -> Refusal {
    let broken = break_signature(token).unwrap_or_default();
    let form = request.form_with(&broken, TXN_TOKEN);
    let action = "sent a Txn-Token with another signature for replacement";
    Refusal::new("replacement-signature", "R-SUBJ-19", action, &["invalid_request"], form)
}

fn wider(request: &TokenRequest, token: &str, replace_scope: Option<&str>) -> Refusal {
    let form = request.form_with(token, TXN_TOKEN).set("scope", replace_scope.unwrap_or_default());
    let action = "requested a replacement for the purpose of --replace-scope, which the Txn-Token lacks";
    Refusal::new("replacement-wider", "R-SUBJ-21", action, &["invalid_scope"], form)
        .recommended()
        .unless(replace_scope.is_none().then_some("needs --replace-scope"))
}

/// Replaces the token by one like it; a verdict if the target does not.
async fn check_replacement(
    endpoint: &TokenEndpoint,
    fresh: Result<&IssuedToken, &Verdict>,
    report: &mut Report,
) -> Result<(), Verdict> {
    let (replaced, action) = ("replaced a Txn-Token", "compared the purposes of both tokens");
    let unchanged = Rule::new("replacement-keeps", "R-SUBJ-20", replaced, "a token with the same txn, sub and aud");
    let within = Rule::new("replacement-scope", "R-SUBJ-21", action, "none that the first token lacks");
    let replaced = match fresh {
        Err(unmet) => Err(unmet.clone()),
        Ok(original) => replace(endpoint, original).await.map(|replacement| (original, replacement)),
    };
    match replaced {
        Err(verdict) => {
            report.add(unchanged, verdict.clone());
            report.add(within, verdict.clone());
            Err(verdict)
        }
        Ok((original, replacement)) => {
            report.add(unchanged, judge_unchanged(original, &replacement));
            report.add(within, judge_purposes(original, &replacement));
            Ok(())
        }
    }
}

async fn replace(endpoint: &TokenEndpoint, original: &IssuedToken) -> Result<IssuedToken, Verdict> {
    let scope = original.scope().unwrap_or_else(|| endpoint.request.scope.clone());
    let form = endpoint.request.form_with(&original.encoded, TXN_TOKEN).set("scope", &scope.to_string());
    let response = endpoint.send(&form).await.map_err(|error| Verdict::not_tried(error.to_string()))?;
    if !response.has_token() {
        let summary = response.summary();
        return Err(Verdict::not_applicable(format!("replacement is not offered to this client ({summary})")));
    }
    decode(&response)
}

fn judge_unchanged(original: &IssuedToken, replacement: &IssuedToken) -> Verdict {
    let changed = ["txn", "sub", "aud"].into_iter().find(|name| original.claim(name) != replacement.claim(name));
    match changed {
        None => Verdict::passed("the same"),
        Some(name) => Verdict::failed(format!("another {name}")),
    }
}

fn judge_purposes(original: &IssuedToken, replacement: &IssuedToken) -> Verdict {
    let scopes = replacement.scope().zip(original.scope());
    let fits = scopes.is_some_and(|(after, before)| is_within(&after, &before));
    Verdict::required(fits, replacement.claim("scope").to_string())
}

async fn present_expired(endpoint: &TokenEndpoint, token: &IssuedToken, wait_after_expiry: Duration) -> Verdict {
    let Some(expiry) = token.expiry() else { return Verdict::not_tried("exp cannot be read") };
    let left = expiry.saturating_sub(unix_now());
    if left > WAIT_MAX {
        return Verdict::not_tried("its lifetime is more than 65 s");
    }
    // The time left is rounded down, hence one more second.
    let end = expiry.saturating_add(wait_after_expiry.as_secs()).saturating_add(1);
    tokio::time::sleep(Duration::from_secs(end.saturating_sub(unix_now()))).await;
    let form = endpoint.request.form_with(&token.encoded, TXN_TOKEN);
    match endpoint.send(&form).await {
        Err(error) => Verdict::not_tried(error.to_string()),
        Ok(response) if response.has_token() => Verdict::failed(response.summary()),
        Ok(response) if matches!(response.status, 429 | 500..) => Verdict::not_tried(response.summary()),
        Ok(response) => {
            let is_usual = matches!(response.error().as_deref(), Some("invalid_request" | "unauthorized_client"));
            Verdict::recommended(is_usual, response.summary())
        }
    }
}
