//! The form of `POST /token` → a request that cannot be wrong (RFC 6749 §3.2, RFC 8693 §2.1, TT §11.1).
//!
//! In: the bytes of the body. Out: [`TokenRequest`], in which every parameter that can have one meaning only is gone.
//! What is still untrusted says so: [`Presented`].

mod source;
mod subject;

use std::borrow::Cow;
use std::fmt;

use writ_verifier::json::{Limits, Members};
use writ_verifier::{Scope, TrustDomain};
use zeroize::Zeroizing;

pub use self::source::Source;
pub use self::subject::{Subject, SubjectNameError, holds_jws};

/// `requested_token_type`, and `issued_token_type` of every answer.
pub const TXN_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:txn_token";

/// `grant_type` of RFC 8693.
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// `grant_type` of RFC 6749 §4.4.
pub const CLIENT_CREDENTIALS: &str = "client_credentials";

/// What the URN of every token type begins with (RFC 8693 §3).
pub const TYPE_PREFIX: &str = "urn:ietf:params:oauth:token-type:";

const MAX_PARAMETERS: usize = 64;
const MAX_JSON: usize = 16 * 1024;
const MAX_SCOPE: usize = 1024;

/// Every parameter that means something here: only these names are ever repeated in a message, since what was sent as
/// a name may be anything.
const PARAMETERS: [&str; 18] = [
    "grant_type",
    "requested_token_type",
    "audience",
    "scope",
    "subject_token",
    "subject_token_type",
    "request_details",
    "request_context",
    "requested_subject",
    "resource",
    "actor_token",
    "actor_token_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "token",
    "token_type_hint",
];

/// Why a form is no request. Texts name parameters that we know, and repeat nothing else of what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A required parameter is absent or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// One name twice.
    #[error("{} is sent more than once (parameters {first} and {second} of the form)", .name.unwrap_or("a parameter"))]
    Repeated {
        /// The parameter, if it is one of ours.
        name: Option<&'static str>,
        /// Its first place in the form, from 1.
        first: usize,
        /// Its second place.
        second: usize,
    },
    /// Not form encoding, or not of the parameter's own form: what, and how.
    #[error("{0} is malformed: {1}")]
    Malformed(&'static str, Cow<'static, str>),
    /// Something that this grant or source does not take.
    #[error("{name} is not supported here{instead}", name = .0, instead = instead(.0))]
    Unsupported(&'static str),
    /// `grant_type` is neither of the two.
    #[error("this grant_type is not supported: it must be {TOKEN_EXCHANGE} or {CLIENT_CREDENTIALS}")]
    GrantType,
    /// `subject_token_type` is not one of the contract's table.
    #[error(
        "this subject_token_type is not supported: it must be {TYPE_PREFIX} and one of access_token, jwt, id_token, \
         self_signed, unsigned_json, txn_token"
    )]
    SubjectTokenType,
    /// `audience` is not our trust domain.
    #[error("audience must be this service's trust domain (its metadata lists it)")]
    Audience,
    /// `resource` is present: a Txn-Token is valid in the whole trust domain.
    #[error("resource is not supported: a Txn-Token is for a whole trust domain")]
    Resource,
    /// `scope` is not one or more purposes with single spaces.
    #[error("scope is not a list of purposes separated by single spaces: {0}")]
    Scope(Cow<'static, str>),
}

/// What is to be done where something is sent that is not taken.
fn instead(name: &str) -> &'static str {
    match name {
        "requested_token_type" => ": it must be urn:ietf:params:oauth:token-type:txn_token",
        "Authorization" | "client_secret" | "client_assertion" | "client_assertion_type" => {
            ": the client is known by its TLS certificate alone"
        }
        "actor_token" | "actor_token_type" => ": a Txn-Token does not say who acts for its subject",
        "requested_subject" => " by this grant: it is for client_credentials, a subject token names its own subject",
        "subject_token" | "subject_token_type" => " by this grant: it is for token exchange",
        _ => "",
    }
}

/// The parameters of a form: decoded, each name once, empty values kept apart from absent ones.
pub struct Form(Vec<(String, Zeroizing<String>)>);

impl Form {
    /// Reads `application/x-www-form-urlencoded` text as UTF-8.
    ///
    /// # Errors
    /// [`RequestError::Malformed`] for bad percent-encoding, UTF-8 or NUL, or more than 64 parameters;
    /// [`RequestError::Repeated`] for a name sent twice, known or not.
    pub fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let mut parameters: Vec<(String, Zeroizing<String>)> = Vec::new();
        for pair in body.split(|&b| b == b'&').filter(|pair| !pair.is_empty()) {
            if parameters.len() == MAX_PARAMETERS {
                return Err(RequestError::Malformed("the form", "it has more than 64 parameters".into()));
            }
            let place = parameters.len() + 1;
            let mut halves = pair.splitn(2, |&b| b == b'=');
            let name = decode(halves.next().unwrap_or_default()).map_err(|fault| {
                RequestError::Malformed("the form", format!("in the name of parameter {place}, {fault}").into())
            })?;
            let value = decode(halves.next().unwrap_or_default()).map_err(|fault| match known(&name) {
                Some(name) => RequestError::Malformed(name, fault.into()),
                None => RequestError::Malformed("the form", format!("in parameter {place}, {fault}").into()),
            })?;
            if let Some(first) = parameters.iter().position(|(known, _)| *known == *name) {
                return Err(RequestError::Repeated { name: known(&name), first: first + 1, second: place });
            }
            parameters.push((name.to_string(), value));
        }
        Ok(Self(parameters))
    }

    /// The value of `name`, empty ones included.
    fn sent(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The value of `name`; an empty one counts as absent (RFC 6749 §3.2).
    fn value(&self, name: &str) -> Option<&str> {
        self.sent(name).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<&str, RequestError> {
        self.value(name).ok_or(RequestError::Missing(name))
    }

    fn refuse(&self, names: &[&'static str]) -> Result<(), RequestError> {
        match names.iter().find(|name| self.value(name).is_some()) {
            Some(name) => Err(RequestError::Unsupported(name)),
            None => Ok(()),
        }
    }

    /// `client_id`, if sent.
    pub fn client_id(&self) -> Option<&str> {
        self.value("client_id")
    }

    /// `token`: what `POST /introspect` asks about (RFC 7662 §2.1). Its `token_type_hint` is ignored.
    ///
    /// # Errors
    /// [`RequestError::Missing`] if it is absent or empty.
    pub fn token(&self) -> Result<TokenText, RequestError> {
        self.required("token").map(|token| TokenText(Zeroizing::new(token.to_owned())))
    }

    /// Refuses what would authenticate the client a second time: only its certificate does.
    ///
    /// # Errors
    /// [`RequestError::Unsupported`] naming the parameter.
    pub fn refuse_second_authentication(&self) -> Result<(), RequestError> {
        self.refuse(&["client_secret", "client_assertion", "client_assertion_type"])
    }

    fn object(&self, name: &'static str) -> Result<Option<Members>, RequestError> {
        let Some(text) = self.value(name) else { return Ok(None) };
        let malformed = |why: Cow<'static, str>| RequestError::Malformed(name, why);
        if text.len() > MAX_JSON {
            return Err(malformed("it is longer than 16 KiB".into()));
        }
        if !text.trim_start().starts_with('{') {
            return Err(malformed("it is not the text of a JSON object".into()));
        }
        Members::parse(text, Limits::DEFAULT).map(Some).map_err(|error| malformed(error.to_string().into()))
    }
}

/// The name, if it is one of ours.
fn known(name: &str) -> Option<&'static str> {
    PARAMETERS.into_iter().find(|known| *known == name)
}

/// `+` is a space, `%XX` a byte, the whole UTF-8 without NUL; else what is wrong, and where.
fn decode(bytes: &[u8]) -> Result<Zeroizing<String>, String> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut rest = bytes.iter().enumerate();
    while let Some((at, &byte)) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|(_, &d)| char::from(d).to_digit(16)).and_then(|d| u8::try_from(d).ok());
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(format!(
                        "the percent sign at byte {} is not followed by two hexadecimal digits",
                        at + 1
                    ));
                };
                high << 4 | low
            }
            other => other,
        });
    }
    if let Some(at) = decoded.iter().position(|byte| *byte == 0) {
        return Err(format!("byte {} is NUL once it is decoded", at + 1));
    }
    let text = std::str::from_utf8(&decoded);
    text.map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|error| format!("byte {} is not UTF-8 once it is decoded", error.valid_up_to() + 1))
}

/// What is wrong with the text of a scope.
fn scope_fault(text: &str) -> Cow<'static, str> {
    let foreign = |c: char| c != ' ' && !(c.is_ascii_graphic() && c != '"' && c != '\\');
    if text.len() > MAX_SCOPE {
        "it is longer than 1 KiB".into()
    } else if let Some(at) = text.chars().position(foreign) {
        format!("character {} is not allowed in it", at + 1).into()
    } else if text.starts_with(' ') || text.ends_with(' ') {
        "it begins or ends with a space".into()
    } else if text.contains("  ") {
        "it has two spaces in a row".into()
    } else {
        "it names no purpose".into()
    }
}

/// A request of either grant, complete and in form; nothing of it is proven yet.
#[derive(Debug)]
pub struct TokenRequest {
    /// The purposes, in the order asked.
    pub scope: Scope,
    /// What stands for the subject.
    pub presented: Presented,
    /// `request_details`.
    pub details: Option<Members>,
    /// `request_context`.
    pub context: Option<Members>,
}

/// What stands for the subject, as received.
#[derive(Debug)]
pub enum Presented {
    /// Nothing but the client's own identity.
    Client,
    /// `requested_subject`: the client names whom it acts for.
    Named(Subject),
    /// An access token of a subject issuer.
    AccessToken(TokenText),
    /// Any other JWT of a subject issuer.
    Jwt(TokenText),
    /// An ID token of a subject issuer.
    IdToken(TokenText),
    /// A JWT that the client signed.
    SelfSigned(TokenText),
    /// A JSON object, for which the client stands.
    UnsignedJson(TokenText),
    /// A Txn-Token of ours, alive or expired.
    TxnToken(TokenText),
}

impl Presented {
    /// The sources that this may turn out to be.
    pub fn sources(&self) -> &'static [Source] {
        match self {
            Self::Client | Self::Named(_) => &[Source::ClientCredentials],
            Self::AccessToken(_) => &[Source::AccessToken],
            Self::Jwt(_) => &[Source::Jwt],
            Self::IdToken(_) => &[Source::IdToken],
            Self::SelfSigned(_) => &[Source::SelfSigned],
            Self::UnsignedJson(_) => &[Source::UnsignedJson],
            Self::TxnToken(_) => &[Source::TxnToken, Source::ExpiredTxnToken],
        }
    }

    /// The token's text, if there is one.
    pub fn token(&self) -> Option<&TokenText> {
        match self {
            Self::Client | Self::Named(_) => None,
            Self::AccessToken(token)
            | Self::Jwt(token)
            | Self::IdToken(token)
            | Self::SelfSigned(token)
            | Self::UnsignedJson(token)
            | Self::TxnToken(token) => Some(token),
        }
    }
}

/// Every `subject_token_type` that is taken: for each source that comes as a token, the type that it is named after.
pub fn subject_token_types() -> Vec<String> {
    let own_type = |source: &Source| match source {
        Source::AccessToken
        | Source::Jwt
        | Source::IdToken
        | Source::SelfSigned
        | Source::UnsignedJson
        | Source::TxnToken => true,
        // One comes as `txn_token`, the other without any token.
        Source::ExpiredTxnToken | Source::ClientCredentials => false,
    };
    Source::ALL.into_iter().filter(own_type).map(|source| format!("{TYPE_PREFIX}{}", source.name())).collect()
}

/// A token as received: wiped after use, never shown.
pub struct TokenText(Zeroizing<String>);

impl TokenText {
    /// The text, for the room that verifies it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl TokenRequest {
    /// Reads a form, in the order in which refusals are due: grant, requested type, missing and unsupported
    /// parameters, `audience`, `resource`, `scope`.
    ///
    /// # Errors
    /// The first [`RequestError`] in that order.
    pub fn parse(form: &Form, trust_domain: &TrustDomain) -> Result<Self, RequestError> {
        let grant = match form.required("grant_type")? {
            TOKEN_EXCHANGE => Grant::TokenExchange,
            CLIENT_CREDENTIALS => Grant::ClientCredentials,
            _ => return Err(RequestError::GrantType),
        };
        if form.required("requested_token_type")? != TXN_TOKEN_TYPE {
            return Err(RequestError::Unsupported("requested_token_type"));
        }
        let audience = form.required("audience")?;
        let scope = form.required("scope")?;
        let presented = grant.presented(form)?;
        let details = form.object("request_details")?;
        let context = form.object("request_context")?;
        if audience != trust_domain.as_str() {
            return Err(RequestError::Audience);
        }
        if form.value("resource").is_some() {
            return Err(RequestError::Resource);
        }
        let parsed = Some(scope).filter(|scope| scope.len() <= MAX_SCOPE).and_then(|scope| scope.parse().ok());
        let scope = parsed.ok_or_else(|| RequestError::Scope(scope_fault(scope)))?;
        Ok(Self { scope, presented, details, context })
    }
}

enum Grant {
    TokenExchange,
    ClientCredentials,
}

impl Grant {
    fn presented(self, form: &Form) -> Result<Presented, RequestError> {
        match self {
            Self::TokenExchange => {
                let token = form.required("subject_token")?;
                let token_type = form.required("subject_token_type")?;
                form.refuse(&["actor_token", "actor_token_type"])?;
                if form.sent("requested_subject").is_some() {
                    return Err(RequestError::Unsupported("requested_subject"));
                }
                let token = TokenText(Zeroizing::new(token.to_owned()));
                match token_type.strip_prefix(TYPE_PREFIX) {
                    Some("access_token") => Ok(Presented::AccessToken(token)),
                    Some("jwt") => Ok(Presented::Jwt(token)),
                    Some("id_token") => Ok(Presented::IdToken(token)),
                    Some("self_signed") => Ok(Presented::SelfSigned(token)),
                    Some("unsigned_json") => Ok(Presented::UnsignedJson(token)),
                    Some("txn_token") => Ok(Presented::TxnToken(token)),
                    _ => Err(RequestError::SubjectTokenType),
                }
            }
            Self::ClientCredentials => {
                form.refuse(&["subject_token", "subject_token_type", "actor_token", "actor_token_type"])?;
                match form.sent("requested_subject") {
                    None => Ok(Presented::Client),
                    // An empty one is no absent one: dropping it would change whom the token is for.
                    Some(name) => name.parse().map(Presented::Named).map_err(|_| {
                        let why = "it must have 1 to 255 characters, none a control character, and hold no token";
                        RequestError::Malformed("requested_subject", why.into())
                    }),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    /// What is malformed, if something is.
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
        assert_eq!(
            refusal(&with(EXCHANGE, "subject_token_type", Some("access_token"))),
            RequestError::SubjectTokenType
        );
    }

    /// R-META-08: the metadata list what is taken and nothing else.
    #[test]
    fn every_type_that_is_told_is_taken() {
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
    fn what_is_asked_about_is_one_token_and_nothing_else_is_read() {
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
        let TokenText(text) = Form::parse(b"token=secret").and_then(|form| form.token()).unwrap();
        wiped(&text);
    }
}
