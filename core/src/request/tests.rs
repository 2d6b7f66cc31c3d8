use super::*;

const EXCHANGE: &str = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange\
    &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Atxn_token&audience=d.example&scope=a+b\
    &subject_token=t&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token";
const CREDENTIALS: &str = "grant_type=client_credentials\
    &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Atxn_token&audience=d.example&scope=a";

fn parse(body: &str) -> Result<TokenRequest, RequestError> {
    let domain = "d.example".parse().unwrap();
    TokenRequest::parse(&Form::parse(body.as_bytes())?, &domain)
}

fn refusal(body: &str) -> RequestError {
    parse(body).expect_err("refused")
}

/// The part that is malformed, if any.
fn malformed(error: &RequestError) -> Option<&'static str> {
    match error {
        RequestError::Malformed(name, _) => Some(name),
        _ => None,
    }
}

/// `body` with the value of `name` replaced, or without it.
fn with(body: &str, name: &str, value: Option<&str>) -> String {
    let mut pairs: Vec<String> =
        body.split('&').filter(|pair| !pair.starts_with(&format!("{name}="))).map(str::to_owned).collect();
    pairs.extend(value.map(|value| format!("{name}={value}")));
    pairs.join("&")
}

#[test]
fn both_grants_are_read() {
    let exchange = parse(EXCHANGE).unwrap();
    assert_eq!(exchange.scope.to_string(), "a b");
    assert!(matches!(exchange.presented, Presented::AccessToken(ref token) if token.expose() == "t"));
    assert!(matches!(parse(CREDENTIALS).unwrap().presented, Presented::Client));
}

/// R-REQ-03
#[test]
fn a_required_parameter_that_is_absent_or_empty_is_missing() {
    let names = ["grant_type", "requested_token_type", "audience", "scope", "subject_token", "subject_token_type"];
    for name in names {
        assert_eq!(refusal(&with(EXCHANGE, name, None)), RequestError::Missing(name));
        assert_eq!(refusal(&with(EXCHANGE, name, Some(""))), RequestError::Missing(name));
    }
}

/// R-REQ-03, A-026
#[test]
fn a_name_sent_twice_is_refused_known_or_not() {
    for repeat in ["scope=a+b", "%73cope=a", "unknown=1&unknown=1", "x&x", "x=&x=1"] {
        let refused = refusal(&format!("{EXCHANGE}&{repeat}"));
        assert!(matches!(refused, RequestError::Repeated { .. }), "{repeat}");
    }
}

/// R-REQ-04
#[test]
fn an_unknown_parameter_is_ignored() {
    assert!(parse(&format!("{EXCHANGE}&colour=red&&")).is_ok());
}

///
#[test]
fn text_that_is_not_form_encoding_is_malformed() {
    for bad in ["x=%", "x=%4", "x=%zz", "x=%ff", "x=%00", "%c3%28=1", "x=\u{0}"] {
        assert_eq!(malformed(&refusal(&format!("{EXCHANGE}&{bad}"))), Some("the form"), "{bad:?}");
    }
    let many = (0..65).map(|n| format!("p{n}=1")).collect::<Vec<_>>().join("&");
    assert_eq!(malformed(&Form::parse(many.as_bytes()).err().unwrap()), Some("the form"));
}

/// A refusal names the parameter and what is wrong with it, and repeats nothing that could be a secret.
#[test]
fn a_refusal_says_what_is_wrong_and_repeats_nothing() {
    const SECRET: &str = "2YotnFZFEjr1zCsicMWpAA";
    for (sent, told) in [
        ("scope=a", "scope is sent more than once (parameters 4 and 7 of the form)"),
        ("x=1&SECRET=1&y=2&SECRET=2", "a parameter is sent more than once (parameters 8 and 10 of the form)"),
        ("actor_token=SECRET%", "actor_token is malformed: the percent sign at byte 23 is not followed by two"),
        ("resource=a%ff", "resource is malformed: byte 2 is not UTF-8 once it is decoded"),
        ("client_id=ab%00", "client_id is malformed: byte 3 is NUL once it is decoded"),
        ("SECRET=%zz", "the form is malformed: in parameter 7, the percent sign at byte 1"),
        ("SECRET%=1", "the form is malformed: in the name of parameter 7, the percent sign at byte 23"),
        ("request_details=[]", "request_details is malformed: it is not the text of a JSON object"),
        ("request_details=SECRET", "request_details is malformed: it is not the text of a JSON object"),
        ("request_details={\"SECRET\":1,\"SECRET\":2}", "line 1 column"),
        ("request_details=%0A{\"a\":%0A SECRET}", "line 3 column"),
        ("request_context={\"a\":1", "request_context is malformed"),
        ("requested_subject=SECRET", "it is for client_credentials"),
        ("actor_token=SECRET", "does not say who acts"),
    ] {
        let text = refusal(&format!("{EXCHANGE}&{}", sent.replace("SECRET", SECRET))).to_string();
        assert!(text.contains(told) && !text.contains(SECRET), "{sent}: {text}");
    }
    for (scope, told) in [
        ("a++b", "two spaces in a row"),
        ("+a", "begins or ends with a space"),
        ("ab%09", "character 3 is not allowed"),
        (&"a".repeat(1025), "longer than 1 KiB"),
    ] {
        let text = refusal(&with(EXCHANGE, "scope", Some(scope))).to_string();
        assert!(text.contains(told), "{text}");
    }
    let subject = refusal(&format!("{CREDENTIALS}&requested_subject=a%0A")).to_string();
    assert!(subject.contains("1 to 255 characters"), "{subject}");
}

/// R-REQ-05
#[test]
fn grants_are_compared_exactly() {
    for grant in ["password", "authorization_code", "Client_Credentials", "client_credentials+"] {
        assert_eq!(refusal(&with(EXCHANGE, "grant_type", Some(grant))), RequestError::GrantType, "{grant}");
    }
}

/// R-REQ-06
#[test]
fn only_txn_tokens_can_be_requested() {
    for kind in ["urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:txn-token"] {
        let refused = refusal(&with(EXCHANGE, "requested_token_type", Some(kind)));
        assert_eq!(refused, RequestError::Unsupported("requested_token_type"));
    }
}

/// R-REQ-10, R-REQ-11
#[test]
fn refresh_and_unknown_subject_token_types_are_refused() {
    for kind in ["refresh_token", "saml2", "txn-token", "ACCESS_TOKEN", ""] {
        let body = with(EXCHANGE, "subject_token_type", Some(&format!("{TYPE_PREFIX}{kind}")));
        assert_eq!(refusal(&body), RequestError::SubjectTokenType, "{kind}");
    }
    assert_eq!(refusal(&with(EXCHANGE, "subject_token_type", Some("access_token"))), RequestError::SubjectTokenType);
}

/// R-META-08: the metadata lists exactly the accepted types.
#[test]
fn every_listed_type_is_accepted() {
    for kind in subject_token_types() {
        let request = parse(&with(EXCHANGE, "subject_token_type", Some(&kind))).unwrap();
        let name = kind.strip_prefix(TYPE_PREFIX).unwrap();
        assert_eq!(request.presented.sources()[0].name(), name);
    }
}

/// R-REQ-07, R-REQ-14
#[test]
fn another_audience_and_any_resource_are_refused() {
    for audience in ["D.example", "https://d.example", "d.example/"] {
        assert_eq!(refusal(&with(EXCHANGE, "audience", Some(audience))), RequestError::Audience);
    }
    assert_eq!(refusal(&format!("{EXCHANGE}&resource=https://api.example")), RequestError::Resource);
}

/// R-REQ-08
#[test]
fn scope_has_single_spaces_only() {
    for scope in ["+a", "a+", "a++b", "a%09b", "a%22", "%C3%A4", &"a".repeat(1025)] {
        assert!(matches!(refusal(&with(EXCHANGE, "scope", Some(scope))), RequestError::Scope(_)), "{scope}");
    }
    assert_eq!(parse(&with(EXCHANGE, "scope", Some("b+a+b"))).unwrap().scope.to_string(), "b a");
}

/// R-REQ-15, R-REQ-18, R-REQ-19, A-083, A-084
#[test]
fn parameters_of_another_grant_are_refused_never_ignored() {
    for name in ["actor_token", "actor_token_type", "requested_subject"] {
        assert_eq!(refusal(&format!("{EXCHANGE}&{name}=x")), RequestError::Unsupported(name));
    }
    assert_eq!(refusal(&format!("{EXCHANGE}&requested_subject=")), RequestError::Unsupported("requested_subject"));
    for name in ["subject_token", "subject_token_type", "actor_token"] {
        assert_eq!(refusal(&format!("{CREDENTIALS}&{name}=x")), RequestError::Unsupported(name));
    }
}

#[test]
fn a_requested_subject_is_never_dropped() {
    let named = parse(&format!("{CREDENTIALS}&requested_subject=ann%40d.example")).unwrap();
    assert!(matches!(named.presented, Presented::Named(subject) if subject.as_str() == "ann@d.example"));
    for bad in ["", "a%0Ab", &"x".repeat(256)] {
        let refused = refusal(&format!("{CREDENTIALS}&requested_subject={bad}"));
        assert_eq!(malformed(&refused), Some("requested_subject"));
    }
}

/// R-REQ-12, R-REQ-16, A-085
#[test]
fn details_and_context_are_one_json_object_each() {
    let request = parse(&format!("{EXCHANGE}&request_details=%7B%22n%22%3A0.10%7D")).unwrap();
    assert_eq!(request.details.unwrap().raw("n"), Some("0.10"));
    for bad in ["[]", "null", "1", "{} {}", "{\"a\":1,\"a\":1}", "{\"a\":1e400}", "e30", "{"] {
        for name in ["request_details", "request_context"] {
            assert_eq!(malformed(&refusal(&format!("{EXCHANGE}&{name}={bad}"))), Some(name), "{bad}");
        }
    }
}

#[test]
fn the_first_mistake_in_the_contracts_order_is_named() {
    let body = with(&with(EXCHANGE, "audience", Some("x")), "scope", Some("+"));
    assert_eq!(refusal(&body), RequestError::Audience);
    assert_eq!(refusal(&format!("{body}&resource=x")), RequestError::Audience);
    assert_eq!(refusal(&format!("{body}&actor_token=x")), RequestError::Unsupported("actor_token"));
    assert_eq!(
        refusal(&with(&format!("{body}&actor_token=x"), "grant_type", None)),
        RequestError::Missing("grant_type")
    );
}

/// R-INTRO-06, A-026
#[test]
fn an_introspection_request_needs_one_token_and_other_parameters_are_ignored() {
    let token = |body: &str| Form::parse(body.as_bytes()).and_then(|form| form.token());
    assert_eq!(token("token=a.b.c&token_type_hint=x&scope=%2B").unwrap().expose(), "a.b.c");
    for body in ["", "token=", "token_type_hint=access_token", "Token=a.b.c"] {
        assert_eq!(token(body).err(), Some(RequestError::Missing("token")), "{body}");
    }
    let repeated = RequestError::Repeated { name: Some("token"), first: 1, second: 2 };
    assert_eq!(token("token=a&token=a").err(), Some(repeated));
}

/// R-PRIV-01
#[test]
fn a_token_is_never_shown() {
    assert!(!format!("{:?}", parse(&with(EXCHANGE, "subject_token", Some("secret"))).unwrap()).contains("secret"));
}

/// R-PRIV-01: by its type.
#[test]
fn a_token_is_wiped_after_use() {
    fn wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
    let token = Form::parse(b"token=secret").and_then(|form| form.token()).unwrap();
    wiped(&*token.form);
}
