//! One request that should be refused, and the checks of all refusals.

use serde_json::Value;

use crate::endpoint::TokenEndpoint;
use crate::form::Form;
use crate::http::HttpError;
use crate::report::{Report, Rule, Verdict};
use crate::request::TXN_TOKEN;
use crate::response::{Response, is_error_text};
use crate::token::IssuedToken;

/// Characters. A shorter subject token may occur in a refusal by coincidence.
const SECRET_MIN: usize = 16;

/// A request that should be refused.
pub(crate) struct Refusal {
    name: String,
    requirement: &'static str,
    action: String,
    codes: &'static [&'static str],
    /// Other codes are allowed: the standards only recommend these.
    is_recommendation: bool,
    leniency: Leniency,
    /// The request, or why it cannot be made.
    form: Result<Form, &'static str>,
}

/// Which token in the answer is allowed all the same.
pub(super) enum Leniency {
    None,
    /// Any: the draft does not decide.
    Any,
    /// A token of another type: the target may be a general authorization server.
    OtherType,
    /// A token for less than requested, without this purpose.
    Without(String),
}

/// A request that was refused.
pub(crate) struct RefusedRequest {
    name: String,
    subject_token: Option<String>,
    response: Response,
}

/// Makes the request, judges the answer, and returns what was refused. `unmet`: why a refusal would prove nothing.
pub(crate) async fn attempt(
    endpoint: &TokenEndpoint,
    refusal: Refusal,
    unmet: Option<&Verdict>,
    report: &mut Report,
) -> Option<RefusedRequest> {
    let rule = refusal.rule();
    let form = match (unmet, refusal.form.as_ref()) {
        (None, Ok(form)) => form,
        (Some(unmet), _) => {
            report.add(rule, unmet.clone());
            return None;
        }
        (None, Err(reason)) => {
            report.add(rule, Verdict::not_applicable(*reason));
            return None;
        }
    };
    let response = endpoint.send(form).await;
    let verdict = response.as_ref().map_or_else(|error| Verdict::not_tried(error.to_string()), |it| refusal.judge(it));
    report.add(rule, verdict);
    // 429 comes from a rate limit in front of the service as often as from the service itself.
    let response = response.ok().filter(|response| (400..500).contains(&response.status) && response.status != 429)?;
    let subject_token = form.value("subject_token").map(str::to_owned);
    Some(RefusedRequest { name: refusal.name, subject_token, response })
}

/// Judges a response, unless there is none or the target is too busy to decide.
pub(super) fn judge_response(
    response: Result<Response, HttpError>,
    judge: impl FnOnce(&Response) -> Verdict,
) -> Verdict {
    match response {
        Err(error) => Verdict::not_tried(error.to_string()),
        Ok(response) if matches!(response.status, 429 | 503) => Verdict::not_tried(response.summary()),
        Ok(response) => judge(&response),
    }
}

impl Refusal {
    /// A request that is refused with one of these codes.
    pub(crate) fn new(
        name: impl Into<String>,
        requirement: &'static str,
        action: impl Into<String>,
        codes: &'static [&'static str],
        form: Form,
    ) -> Self {
        Self {
            name: name.into(),
            requirement,
            action: action.into(),
            codes,
            is_recommendation: false,
            leniency: Leniency::None,
            form: Ok(form),
        }
    }

    /// Other codes are noted and do not fail.
    pub(crate) fn recommended(self) -> Self {
        Self { is_recommendation: true, ..self }
    }

    pub(super) fn lenient(self, leniency: Leniency) -> Self {
        Self { leniency, ..self }
    }

    /// Not applicable if there is a reason.
    pub(crate) fn unless(self, reason: Option<&'static str>) -> Self {
        match reason {
            Some(reason) => Self { form: Err(reason), ..self },
            None => self,
        }
    }

    fn rule(&self) -> Rule {
        let codes = self.codes.join(" or ");
        let expected = match &self.leniency {
            Leniency::None => format!("a refusal with {codes}"),
            Leniency::Any => format!("a refusal with {codes}; the draft does not decide"),
            Leniency::OtherType => format!("a refusal with {codes}, in any case no Txn-Token"),
            Leniency::Without(_) => format!("a refusal with {codes}, in any case no token for that purpose"),
        };
        Rule::new(self.name.clone(), self.requirement, self.action.clone(), expected)
    }

    fn judge(&self, response: &Response) -> Verdict {
        let actual = response.summary();
        match response.status {
            _ if response.has_token() => Verdict::unexpected(self.allows_token(response), actual),
            429 | 503 => Verdict::not_tried(actual),
            400..=499 => match response.error() {
                Some(code) if self.codes.contains(&code.as_str()) => Verdict::passed(actual),
                Some(_) => Verdict::unexpected(self.is_recommendation, actual),
                None => Verdict::noted(actual),
            },
            _ => Verdict::failed(actual),
        }
    }

    fn allows_token(&self, response: &Response) -> bool {
        match &self.leniency {
            Leniency::None => false,
            Leniency::Any => true,
            Leniency::OtherType => {
                let txn_token = Value::from(TXN_TOKEN);
                response.members().is_some_and(|members| members.get("issued_token_type") != Some(&txn_token))
            }
            Leniency::Without(purpose) => {
                let granted = IssuedToken::from_response(response).and_then(|token| token.scope());
                granted.is_some_and(|scope| !scope.contains(purpose))
            }
        }
    }
}

/// The checks of every refusal of a well-formed HTTP request: name, requirement, action, expectation, test.
type CommonRule = (&'static str, &'static str, &'static str, &'static str, fn(&RefusedRequest) -> bool);

const COMMON_RULES: [CommonRule; 5] = [
    ("refusals-json", "R-RESP-05", "read every refusal", "application/json, an object with error", |refused| {
        refused.response.media_type() == "application/json" && refused.response.error().is_some()
    }),
    (
        "refusals-status",
        "R-RESP-07",
        "checked the status of every refusal",
        "400; 401 only with invalid_client",
        RefusedRequest::has_fitting_status,
    ),
    ("refusals-no-store", "R-RESP-04", "checked Cache-Control of every refusal", "no-store", |refused| {
        refused.response.is_no_store()
    }),
    (
        "refusals-description",
        "R-RESP-05",
        "checked error_description of every refusal",
        "absent, or printable ASCII without quotation mark and backslash",
        RefusedRequest::has_valid_description,
    ),
    (
        "refusals-keep-secrets",
        "R-RESP-05",
        "looked for the subject token in every refusal",
        "no refusal repeats it",
        |refused| !refused.repeats_subject_token(),
    ),
];

impl RefusedRequest {
    fn has_fitting_status(&self) -> bool {
        match self.response.status {
            400 => true,
            401 => self.response.error().is_none_or(|error| error == "invalid_client"),
            _ => self.response.error().is_none(),
        }
    }

    fn has_valid_description(&self) -> bool {
        let members = self.response.members().unwrap_or_default();
        members.get("error_description").is_none_or(|text| text.as_str().is_some_and(is_error_text))
    }

    fn repeats_subject_token(&self) -> bool {
        let secret = self.subject_token.as_deref().filter(|token| token.len() >= SECRET_MIN);
        secret.is_some_and(|token| self.response.body_contains(token))
    }
}

/// Adds the checks that every refusal must pass.
pub(super) fn check_all(refused: &[RefusedRequest], unmet: Option<&Verdict>, report: &mut Report) {
    for (name, requirement, action, expected, holds) in COMMON_RULES {
        let verdict = unmet.cloned().unwrap_or_else(|| judge_all(refused, holds));
        report.add(Rule::new(name, requirement, action, expected), verdict);
    }
}

fn judge_all(refused: &[RefusedRequest], holds: fn(&RefusedRequest) -> bool) -> Verdict {
    let all = refused.len();
    let failing: Vec<&RefusedRequest> = refused.iter().filter(|request| !holds(request)).collect();
    match failing.first() {
        _ if all == 0 => Verdict::not_tried("nothing was refused"),
        None => Verdict::passed(format!("true of all {all}")),
        Some(RefusedRequest { name, response, .. }) => {
            let (count, summary) = (failing.len(), response.summary());
            Verdict::failed(format!("not true of {count} of {all}, the first is {name} ({summary})"))
        }
    }
}
