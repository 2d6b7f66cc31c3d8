//! Other methods, media types and the query string. These URLs hold no secret, since URLs are logged.

use url::Url;

use super::attempt::judge_response;
use crate::endpoint::TokenEndpoint;
use crate::form::Form;
use crate::report::{Report, Rule, Verdict};
use crate::response::Response;
use crate::target::{Caller, FORM};

pub(super) async fn check(endpoint: &TokenEndpoint, unmet: Option<&Verdict>, report: &mut Report) {
    let get = Rule::new("http-get", "R-REQ-01", "sent GET to the token endpoint", "405 with Allow: POST");
    let json = Rule::new("http-json", "R-REQ-02", "sent a valid request as JSON", "a refusal");
    let action = "sent scope in the query string and not in the body";
    let query = Rule::new("http-query", "R-REQ-02", action, "a refusal: scope is missing");
    if let Some(unmet) = unmet {
        for rule in [get, json, query] {
            report.add(rule, unmet.clone());
        }
        return;
    }
    let (target, form) = (&endpoint.target, endpoint.request.form());
    let response = target.get(Caller::Client, &with_query(&endpoint.url, &form)).await;
    report.add(get, judge_response(response, judge_get));

    let response = target.post(Caller::Client, &endpoint.url, "application/json", form.to_json()).await;
    report.add(json, judge_response(response, judge_refusal));

    let mut url = endpoint.url.clone();
    url.query_pairs_mut().append_pair("scope", &endpoint.request.scope.to_string());
    let response = target.post(Caller::Client, &url, FORM, form.without("scope").encode()).await;
    report.add(query, judge_response(response, judge_refusal));
}

fn judge_get(response: &Response) -> Verdict {
    match response.status {
        405 => {
            let allow = response.header("allow");
            Verdict::recommended(!allow.is_empty(), format!("405, Allow: {allow}"))
        }
        400..=499 => Verdict::noted(response.summary()),
        _ => Verdict::failed(response.summary()),
    }
}

fn judge_refusal(response: &Response) -> Verdict {
    Verdict::required((400..500).contains(&response.status), response.summary())
}

/// The URL with every parameter that is not a secret.
fn with_query(endpoint: &Url, form: &Form) -> Url {
    let mut url = endpoint.clone();
    for name in ["grant_type", "requested_token_type", "audience", "scope"] {
        url.query_pairs_mut().append_pair(name, form.value(name).unwrap_or_default());
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_gets_into_a_url() {
        let form =
            Form::new(vec![("subject_token".into(), "s3cret".into()), ("client_secret".into(), "s3cret".into())]);
        let url = with_query(&Url::parse("https://t.example/token").unwrap(), &form);
        assert!(!url.as_str().contains("s3cret"), "{url}");
    }
}
