//! A valid token request, which a conforming service answers with a Txn-Token.

use writ_verifier::Scope;
use zeroize::Zeroizing;

use crate::form::Form;

pub(crate) const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// The prefix of every type that OAuth registers.
pub(crate) const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";
pub(crate) const TXN_TOKEN: &str = "urn:ietf:params:oauth:token-type:txn_token";

#[derive(Clone)]
pub(crate) struct TokenRequest {
    pub(crate) audience: String,
    pub(crate) scope: Scope,
    /// `None`: the client itself is the subject (`client_credentials`).
    pub(crate) subject_token: Option<SubjectToken>,
    /// `--parameter`: credentials of the client besides its certificate.
    pub(crate) parameters: Vec<(String, String)>,
}

#[derive(Clone)]
pub(crate) struct SubjectToken {
    pub(crate) token: Zeroizing<String>,
    pub(crate) token_type: String,
}

impl SubjectToken {
    /// A token that needs no secret: plain JSON, a type that only Writ defines.
    pub(crate) fn is_unsigned_json(&self) -> bool {
        self.token_type.ends_with(":unsigned_json")
    }
}

impl TokenRequest {
    pub(crate) fn form(&self) -> Form {
        let form = Form::new(self.parameters.clone())
            .set("requested_token_type", TXN_TOKEN)
            .set("audience", &self.audience)
            .set("scope", &self.scope.to_string());
        match &self.subject_token {
            None => form.set("grant_type", "client_credentials"),
            Some(subject) => exchange(form, &subject.token, &subject.token_type),
        }
    }

    /// The same request with another subject token.
    pub(crate) fn form_with(&self, subject_token: &str, token_type: &str) -> Form {
        exchange(self.form(), subject_token, token_type)
    }
}

fn exchange(form: Form, token: &str, token_type: &str) -> Form {
    form.set("grant_type", TOKEN_EXCHANGE).set("subject_token", token).set("subject_token_type", token_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_holds_what_the_draft_asks_for() {
        let mut request = TokenRequest {
            audience: "d.example".to_owned(),
            scope: "a b".parse().unwrap(),
            subject_token: None,
            parameters: vec![("client_id".to_owned(), "c".to_owned())],
        };
        let form = request.form();
        assert_eq!((form.value("grant_type"), form.value("client_id")), (Some("client_credentials"), Some("c")));
        assert_eq!(form.value("subject_token"), None);
        let subject_token = SubjectToken { token: "t".to_owned().into(), token_type: format!("{TOKEN_TYPE}jwt") };
        request.subject_token = Some(subject_token);
        let form = request.form();
        assert_eq!((form.value("grant_type"), form.value("subject_token")), (Some(TOKEN_EXCHANGE), Some("t")));
        assert_eq!((form.value("scope"), form.value("requested_token_type")), (Some("a b"), Some(TXN_TOKEN)));
    }
}
