use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use std::time::Duration;

use writ_verifier::Scope;

use super::*;
use crate::policy::ClientPolicy;
use crate::subject::SubjectFault::{self, NotYetValid};
use crate::subject::fixtures::{ISSUER, NOW, SKEW, client, good, policies, settings};
use crate::subject::jwt::MAX_LEN;
use crate::subject::settings::{IssuerSettings, KeySource};
use writ_platform::clock::Timestamp;

/// The valid claims with `name` as the JSON text `value`, or without it if that is empty.
fn with(name: &str, value: &str) -> String {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    let text = claims.to_string();
    if value.is_empty() { text } else { text.replacen('{', &format!("{{\"{name}\":{value},"), 1) }
}

/// The variable settings of the rules.
struct Setting {
    kind: Source,
    issuer: IssuerSettings,
    client: ClientPolicy,
    default_scope: Option<Scope>,
    prefixes: Vec<String>,
    typ: Option<&'static str>,
}

impl Setting {
    fn rfc_9068() -> Self {
        let issuer = settings(ISSUER, KeySource::Discovery);
        Self {
            kind: Source::AccessToken,
            issuer,
            client: client(),
            default_scope: None,
            prefixes: vec![String::new()],
            typ: Some("at+jwt"),
        }
    }

    fn legacy() -> Self {
        let mut setting = Self { typ: Some("jwt"), ..Self::rfc_9068() };
        setting.issuer.access_token_profile = AccessTokenProfile::Legacy;
        setting
    }

    fn jwt() -> Self {
        Self { kind: Source::Jwt, typ: Some("jwt"), ..Self::rfc_9068() }
    }

    fn id_token() -> Self {
        let mut setting = Self { kind: Source::IdToken, typ: Some("jwt"), ..Self::rfc_9068() };
        setting.issuer.id_token_audience = ["web", "mobile"].map(str::to_owned).to_vec();
        setting
    }

    fn read_at(&self, claims: &str, now: Timestamp) -> Result<OutsideToken, SubjectFault> {
        self.error_at(claims, now).map_err(|error| error.fault())
    }

    fn error_at(&self, claims: &str, now: Timestamp) -> Result<OutsideToken, SubjectError> {
        let token = Signed { typ: self.typ.map(str::to_owned), claims: members(claims.as_bytes())?.into() };
        let measure = ValidationContext {
            issuer: &self.issuer,
            default_scope: self.default_scope.as_ref(),
            prefixes: &self.prefixes,
            client: &self.client,
            policies: &policies(),
            clock_skew: SKEW,
            now,
        };
        super::read(self.kind, &token, measure)
    }

    fn read(&self, claims: &str) -> Result<OutsideToken, SubjectFault> {
        self.read_at(claims, NOW)
    }
}

#[track_caller]
fn claims_are_refused(claims: &str) {
    let answer = Setting::rfc_9068().read(claims);
    assert!(matches!(answer, Err(ClaimsInvalid)), "{answer:?} for {claims:.300}");
}

fn parse(header: &str, payload: &[u8]) -> Result<(), SubjectFault> {
    let token = format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    Presented::parse(&token).map(|_| ()).map_err(|error| error.fault())
}

const HEADER: &str = r#"{"typ":"at+jwt","alg":"ES256","kid":"k"}"#;

#[test]
fn a_valid_token_yields_subject_and_scope() {
    let token = Setting::rfc_9068().read(&good().to_string()).unwrap();
    assert_eq!(token.issuer(), ISSUER);
    assert_eq!(token.sub().as_str(), "alice");
    assert_eq!(token.scope().unwrap().to_string(), "trade.stocks mail");
    assert_eq!(token.usable_until(), NOW + Duration::from_secs(300) + SKEW);
    assert_eq!(token.claims().raw("client_id"), Some("\"web\""));
}

/// A-044, A-045: a token that is not signed with a key pair never reaches a verifier.
#[test]
fn symmetric_and_missing_algorithms_are_no_signature() {
    for alg in ["\"none\"", "\"nOnE\"", "null", "[]", "\"HS256\"", "\"HS512\"", "\"RS1\""] {
        let header = format!(r#"{{"typ":"at+jwt","alg":{alg},"kid":"k"}}"#);
        assert_eq!(parse(&header, good().to_string().as_bytes()), Err(SignatureInvalid), "{alg}");
    }
}

/// A-051, A-052: other forms, and more than one text of a token.
#[test]
fn other_forms_are_malformed() {
    let good = format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(good().to_string()));
    assert!(Presented::parse(&good).is_ok());
    let many_dots = ".".repeat(12_000);
    let long = format!("{good}{}", "A".repeat(MAX_LEN));
    for text in ["", "opaque", "a.b", "a.b.c.d", "a.b.c.d.e", "..", &many_dots, &long, &format!("{good}=")] {
        assert_eq!(Presented::parse(text).err().map(|error| error.fault()), Some(Malformed), "{text:.80}");
    }
}

/// A-053, A-054, A-055
#[test]
fn a_payload_with_two_meanings_or_none_is_malformed() {
    let deep = format!("{{\"iss\":\"{ISSUER}\",\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
    for payload in [
        "",
        "[]",
        "null",
        "\"a\"",
        "{",
        "{} {}",
        "{}x",
        "{\"exp\":NaN}",
        "{\"a\":1e400}",
        "/**/{}",
        "\u{feff}{}",
        r#"{"iss":"a","iss":"a"}"#,
        r#"{"exp":1,"exp":1}"#,
        r#"{"sub":"a","\u0073ub":"b"}"#,
        r#"{"a":{"b":1,"b":1}}"#,
        &deep,
    ] {
        assert_eq!(parse(HEADER, payload.as_bytes()), Err(Malformed), "{payload:.80}");
    }
    assert_eq!(parse(HEADER, b"{\"iss\":\"\xff\"}"), Err(Malformed));
    assert_eq!(parse(HEADER, b"{\0\"\0i\0"), Err(Malformed));
}

/// A-059
#[test]
fn an_issuer_is_one_string() {
    for iss in ["", "null", "1", "{}", r#"["https://login.example"]"#] {
        assert_eq!(parse(HEADER, with("iss", iss).as_bytes()), Err(IssuerUnknown), "{iss}");
    }
}

/// A-064
#[test]
fn a_txn_token_is_never_read() {
    for typ in ["txntoken+jwt", "TxnToken+JWT", "application/txntoken+jwt"] {
        let header = format!(r#"{{"typ":"{typ}","alg":"ES256","kid":"k"}}"#);
        assert_eq!(parse(&header, good().to_string().as_bytes()), Err(Malformed), "{typ}");
    }
}

/// A-064, R-SUBJ-08
#[test]
fn other_kinds_of_jwt_are_no_access_tokens() {
    let claims = good().to_string();
    let kinds = ["dpop+jwt", "secevent+jwt", "logout+jwt", "at", "id_token+jwt", ""];
    for typ in kinds.map(Some).into_iter().chain([Some("jwt"), None]) {
        assert_eq!(Setting { typ, ..Setting::rfc_9068() }.read(&claims).err(), Some(Malformed), "{typ:?}");
    }
    for typ in kinds {
        assert_eq!(Setting { typ: Some(typ), ..Setting::legacy() }.read(&claims).err(), Some(Malformed), "{typ}");
    }
    for name in OF_EVENTS_AND_PROOFS.iter().chain(&OF_ID_TOKENS) {
        assert_eq!(Setting::legacy().read(&with(name, "{}")).err(), Some(Malformed), "{name}");
    }
}

/// R-SUBJ-13
#[test]
fn a_jwt_is_read_by_the_settings_of_its_issuer() {
    let mut setting = Setting::jwt();
    setting.issuer.subject_claim = "employee".to_owned();
    setting.issuer.scope_claim = "rights".to_owned();
    setting.issuer.subject_prefix = "staff:".to_owned();
    setting.prefixes = vec!["staff:".to_owned()];
    let few = json!({"iss": ISSUER, "employee": "e-7", "rights": "read", "scope": "all", "aud": "https://api.example",
        "exp": NOW.epoch() + 1})
    .to_string();
    for typ in [None, Some("jwt")] {
        setting.typ = typ;
        let token = setting.read(&few).unwrap();
        assert_eq!((token.source(), token.sub().as_str()), (Source::Jwt, "staff:e-7"));
        assert_eq!(token.scope().unwrap().to_string(), "read");
    }
    for name in ["sub", "aud", "exp"] {
        assert!(matches!(Setting::jwt().read(&with(name, "")), Err(ClaimsInvalid)), "{name}");
    }
    let elsewhere = Setting::jwt().read(&with("aud", "\"https://elsewhere.example\""));
    assert_eq!(elsewhere.err(), Some(AudienceMismatch));
}

/// A-064, R-SUBJ-05
#[test]
fn other_kinds_of_token_are_no_jwts() {
    for typ in ["at+jwt", "dpop+jwt", "secevent+jwt", "logout+jwt", "rt+jwt", "token-introspection+jwt", ""] {
        let setting = Setting { typ: Some(typ), ..Setting::jwt() };
        assert_eq!(setting.read(&good().to_string()).err(), Some(Malformed), "{typ}");
    }
    for name in OF_EVENTS_AND_PROOFS.iter().chain(&OF_ID_TOKENS) {
        assert_eq!(Setting::jwt().read(&with(name, "\"x\"")).err(), Some(Malformed), "{name}");
    }
    let mut setting = Setting::jwt();
    setting.issuer.id_token_audience = vec!["web".to_owned()];
    assert!(setting.read(&good().to_string()).is_ok());
    let for_both = with("aud", r#"["https://api.example","web"]"#);
    assert_eq!(setting.read(&for_both).err(), Some(AudienceMismatch));
}

/// The claims of a valid ID token, with `name` as the JSON text `value`, or without it if that is empty.
fn id_token_with(name: &str, value: &str) -> String {
    let mut claims = json!({
        "iss": ISSUER, "sub": "alice", "aud": "web", "iat": NOW.epoch() - 5, "exp": NOW.epoch() + 300,
        "nonce": "n", "at_hash": "h", "auth_time": NOW.epoch() - 9, "amr": ["pwd"]
    });
    claims.as_object_mut().unwrap().remove(name);
    let text = claims.to_string();
    if value.is_empty() { text } else { text.replacen('{', &format!("{{\"{name}\":{value},"), 1) }
}

/// R-SUBJ-12
#[test]
fn an_id_token_identifies_a_user() {
    for typ in [None, Some("jwt")] {
        let token = Setting { typ, ..Setting::id_token() }.read(&id_token_with("x", "")).unwrap();
        assert_eq!((token.source(), token.sub().as_str(), token.scope()), (Source::IdToken, "alice", None));
    }
    for name in ["sub", "aud", "iat", "exp"] {
        let answer = Setting::id_token().read(&id_token_with(name, ""));
        assert!(matches!(answer, Err(ClaimsInvalid)), "{name}: {answer:?}");
    }
    let mut by_mail = Setting::id_token();
    by_mail.issuer.subject_claim = "email".to_owned();
    assert_eq!(by_mail.read(&id_token_with("email", "\"a@d\"")).unwrap().sub().as_str(), "a@d");
    for value in ["\"1793000000\"", "null", "1e400", "0"] {
        assert!(matches!(Setting::id_token().read(&id_token_with("iat", value)), Err(ClaimsInvalid)), "{value}");
    }
}

/// R-SUBJ-12: it was issued to one of the configured clients, regardless of other names in it.
#[test]
fn an_id_token_is_for_a_client_and_never_for_a_service() {
    let read = |name: &str, value: &str| Setting::id_token().read(&id_token_with(name, value)).err();
    assert_eq!(read("aud", "[\"mobile\"]"), None);
    for aud in ["\"https://api.example\"", "\"WEB\"", "\"we\"", "[]", "\"\""] {
        assert_eq!(read("aud", aud), Some(AudienceMismatch), "{aud}");
    }
    assert!(matches!(read("aud", "[\"web\",1]"), Some(ClaimsInvalid)));
    assert!(matches!(read("aud", "[\"web\",\"other\"]"), Some(ClaimsInvalid)), "azp is missing");
    for azp in ["\"web\"", "\"mobile\""] {
        let two = id_token_with("aud", "[\"web\",\"other\"]").replacen('{', &format!("{{\"azp\":{azp},"), 1);
        assert!(Setting::id_token().read(&two).is_ok(), "{azp}");
        assert_eq!(read("azp", azp), None);
    }
    for azp in ["\"other\"", "\"\"", "\"https://api.example\""] {
        assert_eq!(read("azp", azp), Some(AudienceMismatch), "{azp}");
    }
    for azp in ["null", "1", "[\"web\"]"] {
        assert!(matches!(read("azp", azp), Some(ClaimsInvalid)), "{azp}");
    }
    let mut held = Setting::id_token();
    held.client.subject_token_audience = vec!["mobile".to_owned()];
    assert_eq!(held.read(&id_token_with("x", "")).err(), Some(AudienceMismatch));
    assert!(held.read(&id_token_with("aud", "\"mobile\"")).is_ok());
}

/// A-064
#[test]
fn other_kinds_of_token_are_no_id_tokens() {
    for typ in ["at+jwt", "logout+jwt", "secevent+jwt", "dpop+jwt", "id_token+jwt", ""] {
        let setting = Setting { typ: Some(typ), ..Setting::id_token() };
        assert_eq!(setting.read(&id_token_with("x", "")).err(), Some(Malformed), "{typ}");
    }
    for name in OF_EVENTS_AND_PROOFS {
        assert_eq!(Setting::id_token().read(&id_token_with(name, "{}")).err(), Some(Malformed), "{name}");
    }
}

/// R-POL-05: scopes in an ID token have no meaning.
#[test]
fn an_id_token_covers_what_its_issuer_is_set_to_and_nothing_else() {
    let with_scope = id_token_with("scope", "\"admin\"");
    let mut setting = Setting::id_token();
    assert_eq!(setting.read(&with_scope).unwrap().scope(), None);
    setting.default_scope = Some("profile".parse().unwrap());
    assert_eq!(setting.read(&with_scope).unwrap().scope().unwrap().to_string(), "profile");
}

/// R-SUBJ-05: any combination of claims passes as at most one kind.
#[test]
fn no_token_passes_as_two_kinds() {
    let mut counts = std::collections::BTreeMap::<Source, usize>::new();
    for profile in [AccessTokenProfile::Rfc9068, AccessTokenProfile::Legacy] {
        for typ in [None, Some("jwt"), Some("at+jwt"), Some("logout+jwt"), Some("dpop+jwt")] {
            for aud in [json!("https://api.example"), json!("web"), json!(["https://api.example", "web"])] {
                for extra in ["x", "nonce", "at_hash", "events", "htm", "client_id", "azp"] {
                    let mut claims = good();
                    claims["aud"] = aud.clone();
                    claims["azp"] = json!("web");
                    claims[extra] = json!("web");
                    let is_taken = |kind: &Source| {
                        let mut setting = Setting { kind: *kind, typ, ..Setting::id_token() };
                        setting.issuer.access_token_profile = profile;
                        setting.read(&claims.to_string()).is_ok()
                    };
                    let mut kinds = vec![Source::AccessToken, Source::IdToken];
                    // The configuration has no JWTs beside legacy access tokens.
                    kinds.extend((profile == AccessTokenProfile::Rfc9068).then_some(Source::Jwt));
                    kinds.retain(is_taken);
                    assert!(kinds.len() <= 1, "{kinds:?}: {profile:?} {typ:?} {claims}");
                    for kind in kinds {
                        *counts.entry(kind).or_default() += 1;
                    }
                }
            }
        }
    }
    assert_eq!(counts.len(), 3, "each kind has its tokens: {counts:?}");
}

#[test]
fn kinds_that_no_issuer_signs_are_not_read() {
    for kind in [Source::SelfSigned, Source::UnsignedJson, Source::TxnToken, Source::ClientCredentials] {
        let setting = Setting { kind, ..Setting::jwt() };
        assert_eq!(setting.read(&good().to_string()).err(), Some(IssuerUnknown), "{kind:?}");
    }
}

#[test]
fn a_legacy_token_needs_four_claims_and_no_type() {
    let few = json!({"iss": ISSUER, "sub": "a", "aud": ["https://api2.example"], "exp": NOW.epoch() + 1}).to_string();
    for typ in [None, Some("jwt"), Some("at+jwt")] {
        assert!(Setting { typ, ..Setting::legacy() }.read(&few).is_ok(), "{typ:?}");
    }
    for name in ["sub", "aud", "exp"] {
        assert!(matches!(Setting::legacy().read(&with(name, "")), Err(ClaimsInvalid)), "{name}");
    }
}

/// R-SUBJ-08
#[test]
fn every_claim_of_rfc_9068_is_required() {
    for name in ["sub", "client_id", "iat", "jti", "exp"] {
        for value in ["", "null", "{}", "[\"a\"]", "true"] {
            claims_are_refused(&with(name, value));
        }
    }
    for name in ["client_id", "jti"] {
        claims_are_refused(&with(name, "\"\""));
    }
}

/// A-056. `1e400` and 4000 digits are JSON, so the claim is at fault and not the form.
#[test]
fn an_expiry_that_can_not_be_is_refused() {
    let digits = "9".repeat(4_000);
    let milliseconds = (NOW.epoch() * 1_000).to_string();
    for exp in [
        "",
        "\"1793000300\"",
        "null",
        "true",
        "[1793000300]",
        "{}",
        "-1",
        "-0",
        "0",
        "1",
        "999999999",
        "1e18",
        "1e308",
        "1e400",
        "-1e400",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "253402300799",
        &digits,
        &milliseconds,
    ] {
        claims_are_refused(&with("exp", exp));
    }
    for exp in ["1793000300.5", "1.7930003e9", "1793000300.0"] {
        let token = Setting::rfc_9068().read(&with("exp", exp)).unwrap();
        assert_eq!(token.usable_until(), Timestamp::from_epoch(1_793_000_300) + SKEW, "{exp}");
    }
}

/// A-057
#[test]
fn other_times_that_can_not_be_are_refused() {
    for name in ["nbf", "iat"] {
        for value in ["\"1793000000\"", "null", "[]", "-1", "1e400", "1e300", "18446744073709551616"] {
            claims_are_refused(&with(name, value));
        }
    }
    claims_are_refused(&with("iat", "0"));
    assert!(Setting::rfc_9068().read(&with("nbf", "0")).is_ok());
}

/// A-057, A-058, R-SUBJ-02, R-SUBJ-06: the skew is on both ends, to the second.
#[test]
fn times_hold_within_the_skew_and_not_beyond() {
    let read = |name: &str, value: &str| Setting::rfc_9068().read(&with(name, value)).err();
    let expired = |at| Some(SubjectFault::Expired { expired_at: Timestamp::from_epoch(at) });
    assert_eq!(read("exp", "1792999991"), None);
    assert_eq!(read("exp", "1792999990"), expired(1_792_999_990));
    assert_eq!(read("exp", "1792999990.9"), expired(1_792_999_990));
    for name in ["nbf", "iat"] {
        assert_eq!(read(name, "1793000010"), None, "{name}");
        assert_eq!(read(name, "1793000010.1"), Some(NotYetValid), "{name}");
        assert_eq!(read(name, "1793000011"), Some(NotYetValid), "{name}");
    }
}

/// A-061
#[test]
fn an_audience_is_compared_byte_for_byte() {
    let read = |aud: &str| Setting::rfc_9068().read(&with("aud", aud)).err();
    for aud in [
        "\"https://api.exampl\"",
        "\"https://api.example/\"",
        "\"https://API.example\"",
        "\"\"",
        "[]",
        "[\"other\"]",
        "\"https://api.example https://api2.example\"",
    ] {
        assert_eq!(read(aud), Some(AudienceMismatch), "{aud}");
    }
    for aud in ["", "1", "null", "{}", "[[\"https://api.example\"]]", "[\"https://api.example\",1]"] {
        assert!(matches!(read(aud), Some(ClaimsInvalid)), "{aud}");
    }
    assert_eq!(read("[\"other\",\"https://api.example\"]"), None);
}

/// R-SUBJ-09
#[test]
fn a_client_can_be_held_to_audiences_of_its_own() {
    let mut setting = Setting::rfc_9068();
    setting.client.subject_token_audience = vec!["https://api2.example".to_owned()];
    assert_eq!(setting.read(&good().to_string()).err(), Some(AudienceMismatch));
    assert!(setting.read(&with("aud", r#"["https://api.example","https://api2.example"]"#)).is_ok());
    assert_eq!(setting.read(&with("aud", "\"https://elsewhere.example\"")).err(), Some(AudienceMismatch));
}

/// R-SUBJ-10
#[test]
fn a_bound_token_is_accepted_only_from_a_client_that_vouches() {
    let mut setting = Setting::rfc_9068();
    for cnf in [r#"{"jkt":"a"}"#, "{}", "null"] {
        assert!(matches!(setting.read(&with("cnf", cnf)), Err(ClaimsInvalid)), "{cnf}");
    }
    setting.client.vouches_for_bound_tokens = true;
    assert!(setting.read(&with("cnf", r#"{"jkt":"a"}"#)).is_ok());
}

/// A-062
#[test]
fn a_subject_is_plain_text_of_bounded_length() {
    let long = json!("s".repeat(256)).to_string();
    for sub in ["\"\"", "1", "null", "[\"a\"]", r#""a\u0000""#, r#""a\nb""#, r#""\u0085""#, &long] {
        claims_are_refused(&with("sub", sub));
    }
    assert!(Setting::rfc_9068().read(&with("sub", &json!("é".repeat(255)).to_string())).is_ok());
}

#[test]
fn the_configured_claim_names_the_subject_inside_the_prefix() {
    let mut setting = Setting::rfc_9068();
    setting.issuer.subject_claim = "email".to_owned();
    setting.issuer.subject_prefix = "corp:".to_owned();
    setting.prefixes = vec!["corp:".to_owned()];
    let read = |email: &str| setting.read(&with("email", email));
    assert_eq!(read("\"alice@example\"").unwrap().sub().as_str(), "corp:alice@example");
    for email in ["", "\"\"", &json!("a".repeat(251)).to_string()] {
        assert!(matches!(read(email), Err(ClaimsInvalid)), "{email}");
    }
}

/// R-SUBJ-07
#[test]
fn no_token_has_the_subject_of_another_issuer_or_of_a_client() {
    let mut setting = Setting::rfc_9068();
    setting.issuer.subject_prefix = "a:".to_owned();
    setting.prefixes = ["", "a:", "a:b:", "c:"].map(str::to_owned).to_vec();
    assert!(matches!(setting.read(&with("sub", "\"b:x\"")), Err(ClaimsInvalid)));
    assert_eq!(setting.read(&with("sub", "\"c:x\"")).unwrap().sub().as_str(), "a:c:x");
    claims_are_refused(&with("sub", "\"svc:gateway\""));
    assert!(Setting::rfc_9068().read(&with("sub", "\"svc:gateway2\"")).is_ok());
}

/// A-063
#[test]
fn a_scope_has_the_syntax_of_rfc_6749() {
    for scope in [
        "[\"a b\"]",
        "[\"a\",\"\"]",
        "[\"\"]",
        "[\"a\",1]",
        "[[\"a\"]]",
        "[\"a\\tb\"]",
        "[\"ａ\"]",
        "null",
        "{}",
        "1",
        r#""a\tb""#,
        r#""a\nb""#,
        "\"a\u{a0}b\"",
        "\"a\u{200b}b\"",
        "\"ａ\"",
        "\"а\"",
        r#""a\"b""#,
        r#""a\\b""#,
        "\" \"",
        "\" a\"",
        "\"a \"",
        "\"a  b\"",
    ] {
        claims_are_refused(&with("scope", scope));
    }
    let token = Setting::rfc_9068().read(&with("scope", "\"a,b A a+ *\"")).unwrap();
    let words: Vec<_> = token.scope().unwrap().purposes().iter().map(writ_verifier::Purpose::as_str).collect();
    assert_eq!(words, ["a,b", "A", "a+", "*"]);
}

/// Many issuers write one word in each element, in `scope` or in a claim of another name.
#[test]
fn a_scope_may_be_an_array_of_words() {
    let mut setting = Setting::rfc_9068();
    for (scope, expected) in
        [("[\"a\"]", "a"), ("[\"a\",\"b:c\"]", "a b:c"), ("[ \"a\" , \"a\" ]", "a"), (r#"["\u0061"]"#, "a")]
    {
        let token = setting.read(&with("scope", scope)).unwrap();
        assert_eq!(token.scope().unwrap().to_string(), expected, "{scope}");
    }
    setting.issuer.scope_claim = "scp".to_owned();
    let token = setting.read(&with("scp", "[\"mail\"]")).unwrap();
    assert_eq!(token.scope().unwrap().to_string(), "mail");
    setting.default_scope = Some("everything".parse().unwrap());
    let many: Vec<_> = (0..900).map(|n| format!("w{n}")).collect();
    let token = setting.read(&with("scp", &json!(many).to_string())).unwrap();
    assert_eq!(token.scope().unwrap().purposes().len(), 900);
}

/// Users are in hundreds of groups: only the length of a token is limited.
#[test]
fn a_token_may_have_as_many_members_as_it_has_room_for() {
    let groups: Vec<_> = (0..1_500).map(|n| format!("g{n}")).collect();
    let mut claims = good();
    claims["groups"] = json!(groups);
    for n in 0..400 {
        claims[format!("c{n}")] = json!(n);
    }
    let token = Setting::rfc_9068().read(&claims.to_string()).unwrap();
    assert_eq!(token.claims().get::<Vec<String>>("groups").unwrap().len(), 1_500);
}

#[test]
fn a_token_without_a_scope_covers_its_issuers_setting() {
    let mut setting = Setting::rfc_9068();
    for scope in ["", "\"\"", "[]", "[ ]"] {
        assert_eq!(setting.read(&with("scope", scope)).unwrap().scope(), None);
    }
    setting.default_scope = Some("mail".parse().unwrap());
    for scope in ["", "\"\"", "[]", "[ ]"] {
        assert_eq!(setting.read(&with("scope", scope)).unwrap().scope().unwrap().to_string(), "mail");
    }
    assert_eq!(setting.read(&with("scope", "\"other\"")).unwrap().scope().unwrap().to_string(), "other");
}

/// Contract 3.6: the audience before other claims, claims before times.
#[test]
fn the_first_fault_in_order_is_reported() {
    let expired = NOW + Duration::from_secs(10_000);
    let mut claims = good();
    claims["sub"] = json!("");
    assert!(matches!(Setting::rfc_9068().read_at(&claims.to_string(), expired), Err(ClaimsInvalid)));
    claims["aud"] = json!("other");
    assert_eq!(Setting::rfc_9068().read_at(&claims.to_string(), expired).err(), Some(AudienceMismatch));
}
