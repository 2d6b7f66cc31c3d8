//! Requests with a subject token that is not what the request says it is.

use super::attempt::Refusal;
use crate::request::{SubjectToken, TOKEN_TYPE, TokenRequest};
use crate::token::{break_signature, strip_signature};

const CODES: &[&str] = &["invalid_request"];

pub(super) fn refusals(request: &TokenRequest) -> Vec<Refusal> {
    let no_subject_token = request.subject_token.is_none().then_some("needs --subject-token");
    let all = wrong_types(request).into_iter().chain(wrong_tokens(request));
    all.map(|refusal| refusal.unless(no_subject_token)).collect()
}

fn wrong_types(request: &TokenRequest) -> [Refusal; 3] {
    let refusal = |name: &str, requirement, action: &str, token_type: &str| {
        Refusal::new(name, requirement, action, CODES, request.form().set("subject_token_type", token_type))
    };
    let (refresh, saml) = (format!("{TOKEN_TYPE}refresh_token"), format!("{TOKEN_TYPE}saml2"));
    let unknown = "urn:example:token-type:no-such-type";
    [
        refusal("subject-type-refresh-token", "R-REQ-11", "sent the subject token as a refresh token", &refresh),
        refusal("subject-type-saml", "R-SUBJ-13", "sent the subject token as a SAML assertion", &saml),
        refusal("subject-type-unknown", "R-REQ-10", "sent the subject token with an unknown type", unknown),
    ]
}

fn wrong_tokens(request: &TokenRequest) -> [Refusal; 3] {
    let subject = request.subject_token.as_ref();
    let (token, token_type) = subject.map_or(("", ""), |subject| (&subject.token, &subject.token_type));
    let is_json = subject.is_some_and(SubjectToken::is_unsigned_json);
    let malformed = if is_json { "{\"sub\":" } else { "not.a.token" };
    let (broken, stripped) = (break_signature(token), strip_signature(token));
    let refusal = |name: &str, requirement, action: &str, token: &str| {
        Refusal::new(name, requirement, action, CODES, request.form_with(token, token_type))
    };
    let needs = |forged: &Option<String>| match forged {
        _ if is_json => Some("the subject token is not signed"),
        None => Some("the subject token is not a JWT"),
        Some(_) => None,
    };
    let with_none = "sent the subject token with alg none and without signature";
    let with_other = "sent the subject token with another signature";
    [
        refusal("subject-token-malformed", "R-SUBJ-01", "sent a malformed subject token", malformed),
        refusal("subject-token-signature", "R-SUBJ-01", with_other, broken.as_deref().unwrap_or_default())
            .unless(needs(&broken)),
        refusal("subject-token-unsigned", "R-SUBJ-03", with_none, stripped.as_deref().unwrap_or_default())
            .unless(needs(&stripped)),
    ]
}
