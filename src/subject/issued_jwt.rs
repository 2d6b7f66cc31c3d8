//! A JWT of a subject issuer → whom it is about and what it covers.
//!
//! Each step leaves a value that the next one asks for: `Presented` has the form of a JWT and names an issuer,
//! `Signed` is signed with a key of that issuer, [`OutsideToken`] keeps every rule of its kind. The kinds have one
//! function each, with rules that exclude one another, so that no token passes as another kind (RFC 8725 §3.11).

use std::time::Duration;

use jsonwebtoken::Algorithm;
use writ_verifier::json::{self, Limits};
use writ_verifier::jwks::VerificationKey;
use writ_verifier::jws::{Jws, JwsError};
use writ_verifier::{Members, Scope};

use super::SubjectError::{
    self, AudienceMismatch, ClaimsInvalid, IssuerUnknown, Malformed, NotYetValid, SignatureInvalid,
};
use super::issuers::{AccessTokenProfile, Settings};
use crate::clock::Timestamp;
use crate::policy::{ClientPolicy, PolicySet, Subject};

/// The longest JWT of an issuer that is read, in bytes.
const MAX_LEN: usize = 16 * 1024;

/// No token expires before 2001-09-09 or later than this from now: such a number is a mistake or an attack.
const FURTHEST: Duration = Duration::from_secs(10 * 366 * 86_400);
const EARLIEST: Duration = Duration::from_secs(1_000_000_000);

/// What a verified token of a subject issuer says. Only the checks of its kind make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideToken {
    issuer: String,
    sub: Subject,
    scope: Option<Scope>,
    usable_until: Timestamp,
    bound: bool,
    claims: Members,
}

impl OutsideToken {
    /// `iss`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom the token is about, with the issuer's prefix: unique in the trust domain.
    pub fn sub(&self) -> &Subject {
        &self.sub
    }

    /// What the token covers, by its own word or the issuer's setting; `None` if neither says.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// `exp`, rounded down, plus the skew allowed: the first second in which the token proves nothing, and in which a
    /// Txn-Token made from it ends unless its purpose outlives.
    pub fn usable_until(&self) -> Timestamp {
        self.usable_until
    }

    /// Whether it is bound to a sender's key (`cnf`), for which the client has vouched.
    pub fn is_bound(&self) -> bool {
        self.bound
    }

    /// All its claims, as written.
    pub fn claims(&self) -> &Members {
        &self.claims
    }
}

#[cfg(test)]
impl OutsideToken {
    /// A token that no issuer signed, for tests of what is done with tokens.
    pub(crate) fn about(sub: &str, scope: Option<&str>, usable_until: Timestamp) -> Self {
        let (sub, scope) = (sub.parse().unwrap(), scope.map(|scope| scope.parse().unwrap()));
        let issuer = "https://login.example".to_owned();
        Self { issuer, sub, scope, usable_until, bound: false, claims: Members::default() }
    }
}

/// A text in the form of a JWT; nothing in it has been proven.
#[derive(Debug)]
pub(super) struct Presented<'a> {
    jws: Jws<'a>,
    claims: Members,
    issuer: String,
}

impl<'a> Presented<'a> {
    /// Reads the form: a strict JWS with an unambiguous JSON object, which is not a Txn-Token and names an issuer.
    pub(super) fn parse(text: &'a str) -> Result<Self, SubjectError> {
        let jws = parse_jws(text)?;
        if jws.typ.as_deref() == Some(writ_verifier::claims::TYP) {
            return Err(Malformed);
        }
        let claims = members(&jws.payload)?;
        let issuer = claims.get("iss").ok_or(IssuerUnknown)?;
        Ok(Self { jws, claims, issuer })
    }

    /// `iss`, as it claims.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// `kid`, as it claims.
    pub(super) fn kid(&self) -> Option<&str> {
        self.jws.kid.as_deref()
    }

    /// `alg`, as it claims.
    pub(super) fn algorithm(&self) -> Algorithm {
        self.jws.algorithm
    }

    /// Checks that `key`, which is one of the issuer's, made the signature.
    pub(super) fn signed_with(self, key: &VerificationKey) -> Result<Signed, SubjectError> {
        let genuine = key.fits(self.jws.algorithm) && self.jws.verify(key.decoding_key());
        genuine
            .then_some(Signed { typ: self.jws.typ, claims: self.claims, issuer: self.issuer })
            .ok_or(SignatureInvalid)
    }
}

/// The form of a JWT, strictly read.
pub(super) fn parse_jws(text: &str) -> Result<Jws<'_>, SubjectError> {
    Jws::parse(text, MAX_LEN).map_err(|error| match error {
        JwsError::Algorithm => SignatureInvalid,
        JwsError::TooLong | JwsError::Form | JwsError::Header => Malformed,
    })
}

/// The payload as an object with one meaning.
///
/// A time like `1e400` is JSON too, though no double: that is left to the check of times, which names it.
pub(super) fn members(payload: &[u8]) -> Result<Members, SubjectError> {
    let text = std::str::from_utf8(payload).map_err(|_| Malformed)?;
    let claims: Members = serde_json::from_str(text).map_err(|_| Malformed)?;
    let mut checked = claims.clone();
    for name in ["exp", "iat", "nbf"] {
        if checked.raw(name).is_some_and(|value| value.starts_with(|c: char| c == '-' || c.is_ascii_digit())) {
            checked.set(name, &0).map_err(|_| Malformed)?;
        }
    }
    let checked = serde_json::to_string(&checked).map_err(|_| Malformed)?;
    json::check(&checked, Limits::DEFAULT).map_err(|_| Malformed)?;
    Ok(claims)
}

/// A JWT that its issuer has signed; of what kind and for whom is still open.
#[derive(Debug)]
pub(super) struct Signed {
    typ: Option<String>,
    claims: Members,
    issuer: String,
}

/// What a token is measured by.
#[derive(Clone, Copy)]
pub(super) struct Measure<'a> {
    /// Settings of the issuer that signed it.
    pub(super) issuer: &'a Settings,
    /// What its tokens cover that tell no scope.
    pub(super) default_scope: Option<&'a Scope>,
    /// The subject prefixes of all issuers.
    pub(super) prefixes: &'a [String],
    /// The client that presents it.
    pub(super) client: &'a ClientPolicy,
    /// All clients, whose own subjects are theirs alone.
    pub(super) policies: &'a PolicySet,
    /// Tolerated between the issuer's clock and ours.
    pub(super) clock_skew: Duration,
    /// The instant of the request.
    pub(super) now: Timestamp,
}

/// An access token by RFC 9068 §4, or by the looser rules of an issuer that is set to legacy.
pub(super) fn access_token(token: Signed, by: Measure<'_>) -> Result<OutsideToken, SubjectError> {
    let claims = &token.claims;
    let profile = by.issuer.access_token_profile;
    is_access_token(profile, token.typ.as_deref(), claims)?;
    let audience: Audience = claims.get("aud").ok_or(ClaimsInvalid("aud must be a string or an array of strings"))?;
    audience.names_one_of(&by.issuer.audience)?;
    if !by.client.subject_token_audience.is_empty() {
        audience.names_one_of(&by.client.subject_token_audience)?;
    }
    if profile == AccessTokenProfile::Rfc9068 {
        required_by_rfc_9068(claims)?;
    }
    let bound = claims.raw("cnf").is_some();
    if bound && !by.client.vouches_for_bound_tokens {
        return Err(ClaimsInvalid("sender-constrained, and the client does not vouch for the proof"));
    }
    let sub = subject(claims, by)?;
    let scope = scope(claims, by)?;
    let times = Times::read(claims, by.now)?;
    times.hold(by.now, by.clock_skew)?;
    Ok(OutsideToken {
        issuer: token.issuer,
        sub,
        scope,
        usable_until: times.expires() + by.clock_skew,
        bound,
        claims: token.claims,
    })
}

/// Claims that only other kinds of JWT have: security events and logout tokens (RFC 8417), ID tokens (OIDC §3.3.2.11).
const CLAIMS_OF_OTHER_KINDS: [&str; 3] = ["events", "at_hash", "c_hash"];

fn is_access_token(profile: AccessTokenProfile, typ: Option<&str>, claims: &Members) -> Result<(), SubjectError> {
    let fits = match profile {
        AccessTokenProfile::Rfc9068 => typ == Some("at+jwt"),
        AccessTokenProfile::Legacy => {
            matches!(typ, None | Some("jwt" | "at+jwt"))
                && CLAIMS_OF_OTHER_KINDS.iter().all(|name| claims.raw(name).is_none())
        }
    };
    fits.then_some(()).ok_or(Malformed)
}

/// `aud` (RFC 7519 §4.1.3).
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    pub(super) fn names_one_of(&self, ours: &[String]) -> Result<(), SubjectError> {
        let named = match self {
            Self::One(name) => ours.contains(name),
            Self::Several(names) => names.iter().any(|name| ours.contains(name)),
        };
        named.then_some(()).ok_or(AudienceMismatch)
    }
}

/// RFC 9068 §2.2; `iss`, `aud` and `exp` are checked wherever a token is.
fn required_by_rfc_9068(claims: &Members) -> Result<(), SubjectError> {
    let texts =
        ["sub", "client_id", "jti"].iter().all(|name| claims.get(name).is_some_and(|text: String| !text.is_empty()));
    let complete = texts && claims.raw("iat").is_some();
    complete.then_some(()).ok_or(ClaimsInvalid("RFC 9068 asks for sub, client_id, iat and jti"))
}

/// The subject, unique in the trust domain: inside this issuer's prefix, and nobody else's.
fn subject(claims: &Members, by: Measure<'_>) -> Result<Subject, SubjectError> {
    const FORM: SubjectError = ClaimsInvalid("the subject must have 1 to 255 characters, none a control character");
    let prefix = &by.issuer.subject_prefix;
    let name: String = claims.get(&by.issuer.subject_claim).ok_or(FORM)?;
    let name: Subject = name.parse().map_err(|_| FORM)?;
    let sub: Subject = format!("{prefix}{name}").parse().map_err(|_| FORM)?;
    let foreign = |other: &String| other.len() > prefix.len() && sub.as_str().starts_with(other.as_str());
    if by.prefixes.iter().any(foreign) {
        return Err(ClaimsInvalid("the subject has the form of another issuer's"));
    }
    if by.policies.is_own_subject(sub.as_str()) {
        return Err(ClaimsInvalid("the subject is a client's own"));
    }
    Ok(sub)
}

/// RFC 6749 §3.3, single spaces only. An empty string tells nothing, as if it were absent.
fn scope(claims: &Members, by: Measure<'_>) -> Result<Option<Scope>, SubjectError> {
    const FORM: SubjectError = ClaimsInvalid("the scope must be a string of words separated by single spaces");
    let name = &by.issuer.scope_claim;
    if claims.raw(name).is_none() {
        return Ok(by.default_scope.cloned());
    }
    let text: String = claims.get(name).ok_or(FORM)?;
    if text.is_empty() { Ok(by.default_scope.cloned()) } else { text.parse().map(Some).map_err(|_| FORM) }
}

/// The times of a token, since 1970; each can be one.
pub(super) struct Times {
    pub(super) exp: Duration,
    nbf: Option<Duration>,
    pub(super) iat: Option<Duration>,
}

impl Times {
    pub(super) fn read(claims: &Members, now: Timestamp) -> Result<Self, SubjectError> {
        let time = |name, earliest| match claims.raw(name) {
            None => Ok(None),
            Some(text) => numeric_date(text, earliest, now).map(Some).ok_or(ClaimsInvalid("a time is out of range")),
        };
        Ok(Self {
            exp: time("exp", EARLIEST)?.ok_or(ClaimsInvalid("exp is missing"))?,
            // Some issuers write 0 where they mean "from the beginning".
            nbf: time("nbf", Duration::ZERO)?,
            iat: time("iat", EARLIEST)?,
        })
    }

    /// Our clock has whole seconds, so a fraction of one counts against the token at both ends. A token issued in the
    /// future comes from a clock that is ahead, and is good later: that is no fault of its claims.
    pub(super) fn hold(&self, now: Timestamp, skew: Duration) -> Result<(), SubjectError> {
        let begun = |time: Duration| time <= Duration::from_secs((now + skew).epoch());
        let expired_at = self.expires();
        if now >= expired_at + skew {
            return Err(SubjectError::Expired { expired_at });
        }
        let valid = self.nbf.is_none_or(begun) && self.iat.is_none_or(begun);
        valid.then_some(()).ok_or(NotYetValid)
    }

    pub(super) fn expires(&self) -> Timestamp {
        Timestamp::from_epoch(self.exp.as_secs())
    }
}

/// A JSON number of seconds since 1970, integer or fraction (RFC 7519 §2); `None` for anything else and for what lies
/// outside `earliest` to ten years from now, so that nothing wraps and nothing becomes "never".
fn numeric_date(text: &str, earliest: Duration, now: Timestamp) -> Option<Duration> {
    let seconds: f64 = serde_json::from_str(text).ok()?;
    let time = Duration::try_from_secs_f64(seconds).ok()?;
    let latest = Duration::from_secs((now + FURTHEST).epoch());
    (earliest..=latest).contains(&time).then_some(time)
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;
    use crate::client::{Identity, IdentityKind};
    use crate::policy::Source;
    use crate::subject::issuers::KeySource;

    pub(in crate::subject) const NOW: Timestamp = Timestamp::from_epoch(1_793_000_000);
    pub(in crate::subject) const SKEW: Duration = Duration::from_secs(10);
    pub(in crate::subject) const ISSUER: &str = "https://login.example";

    pub(in crate::subject) fn settings(issuer: &str, keys: KeySource) -> Settings {
        Settings {
            issuer: issuer.to_owned(),
            keys,
            audience: vec!["https://api.example".to_owned(), "https://api2.example".to_owned()],
            algorithms: vec![Algorithm::ES256],
            token_types: vec![Source::AccessToken],
            access_token_profile: AccessTokenProfile::Rfc9068,
            id_token_audience: Vec::new(),
            subject_claim: "sub".to_owned(),
            scope_claim: "scope".to_owned(),
            subject_prefix: String::new(),
            scopes: Vec::new(),
            jwks_stale: Duration::from_secs(86_400),
            ca: None,
        }
    }

    pub(in crate::subject) fn client() -> ClientPolicy {
        ClientPolicy {
            client_id: "gateway".parse().unwrap(),
            description: None,
            identity: Identity::parse(IdentityKind::SanUri, "spiffe://d.example/gateway").unwrap(),
            subject: "svc:gateway".parse().unwrap(),
            introspect: false,
            subject_token_audience: Vec::new(),
            vouches_for_bound_tokens: false,
            keys: None,
            purposes: Vec::new(),
        }
    }

    pub(in crate::subject) fn policies() -> PolicySet {
        PolicySet::new(vec![client()], String::new())
    }

    /// The claims of a good RFC 9068 token.
    pub(in crate::subject) fn good() -> Value {
        json!({
            "iss": ISSUER, "sub": "alice", "aud": "https://api.example", "client_id": "web", "jti": "1",
            "iat": NOW.epoch() - 5, "exp": NOW.epoch() + 300, "scope": "trade.stocks mail"
        })
    }

    /// The good claims with `name` as the JSON text `value`, or without it where that is empty.
    fn with(name: &str, value: &str) -> String {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        let text = claims.to_string();
        if value.is_empty() { text } else { text.replacen('{', &format!("{{\"{name}\":{value},"), 1) }
    }

    /// What the rules can be changed in.
    struct Setting {
        issuer: Settings,
        client: ClientPolicy,
        default_scope: Option<Scope>,
        prefixes: Vec<String>,
        typ: Option<&'static str>,
    }

    impl Setting {
        fn rfc_9068() -> Self {
            let issuer = settings(ISSUER, KeySource::Discovery);
            Self { issuer, client: client(), default_scope: None, prefixes: vec![String::new()], typ: Some("at+jwt") }
        }

        fn legacy() -> Self {
            let mut setting = Self { typ: Some("jwt"), ..Self::rfc_9068() };
            setting.issuer.access_token_profile = AccessTokenProfile::Legacy;
            setting
        }

        fn read_at(&self, claims: &str, now: Timestamp) -> Result<OutsideToken, SubjectError> {
            let token = Signed {
                typ: self.typ.map(str::to_owned),
                claims: members(claims.as_bytes())?,
                issuer: self.issuer.issuer.clone(),
            };
            let measure = Measure {
                issuer: &self.issuer,
                default_scope: self.default_scope.as_ref(),
                prefixes: &self.prefixes,
                client: &self.client,
                policies: &policies(),
                clock_skew: SKEW,
                now,
            };
            access_token(token, measure)
        }

        fn read(&self, claims: &str) -> Result<OutsideToken, SubjectError> {
            self.read_at(claims, NOW)
        }
    }

    #[track_caller]
    fn claims_are_refused(claims: &str) {
        let answer = Setting::rfc_9068().read(claims);
        assert!(matches!(answer, Err(ClaimsInvalid(_))), "{answer:?} for {claims:.300}");
    }

    fn parse(header: &str, payload: &[u8]) -> Result<(), SubjectError> {
        let token = format!("{}.{}.AA", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        Presented::parse(&token).map(|_| ())
    }

    const HEADER: &str = r#"{"typ":"at+jwt","alg":"ES256","kid":"k"}"#;

    #[test]
    fn a_good_token_says_whom_it_is_about_and_what_it_covers() {
        let token = Setting::rfc_9068().read(&good().to_string()).unwrap();
        assert_eq!(token.issuer(), ISSUER);
        assert_eq!(token.sub().as_str(), "alice");
        assert_eq!(token.scope().unwrap().to_string(), "trade.stocks mail");
        assert_eq!(token.usable_until(), NOW + Duration::from_secs(300) + SKEW);
        assert_eq!(token.claims().raw("client_id"), Some("\"web\""));
        assert!(!token.is_bound());
    }

    /// A-044, A-045: what is not signed with a key pair never reaches a verifier.
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
            assert_eq!(Presented::parse(text).err(), Some(Malformed), "{text:.80}");
        }
    }

    /// A-053, A-054, A-055
    #[test]
    fn a_payload_with_two_meanings_or_none_is_malformed() {
        let deep = format!("{{\"iss\":\"{ISSUER}\",\"a\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000));
        let wide = format!("{{\"iss\":\"{ISSUER}\",\"aud\":[{}\"\"]}}", "\"a\",".repeat(2_000));
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
            &wide,
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
        for name in CLAIMS_OF_OTHER_KINDS {
            assert_eq!(Setting::legacy().read(&with(name, "{}")).err(), Some(Malformed), "{name}");
        }
    }

    #[test]
    fn a_legacy_token_needs_four_claims_and_no_type() {
        let few =
            json!({"iss": ISSUER, "sub": "a", "aud": ["https://api2.example"], "exp": NOW.epoch() + 1}).to_string();
        for typ in [None, Some("jwt"), Some("at+jwt")] {
            assert!(Setting { typ, ..Setting::legacy() }.read(&few).is_ok(), "{typ:?}");
        }
        for name in ["sub", "aud", "exp"] {
            assert!(matches!(Setting::legacy().read(&with(name, "")), Err(ClaimsInvalid(_))), "{name}");
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

    /// A-057, A-058: the skew is on both ends, to the second.
    #[test]
    fn times_hold_within_the_skew_and_not_beyond() {
        let read = |name: &str, value: &str| Setting::rfc_9068().read(&with(name, value)).err();
        let expired = |at| Some(SubjectError::Expired { expired_at: Timestamp::from_epoch(at) });
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
            assert!(matches!(read(aud), Some(ClaimsInvalid(_))), "{aud}");
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
    fn a_bound_token_is_taken_only_from_a_client_that_vouches() {
        let mut setting = Setting::rfc_9068();
        for cnf in [r#"{"jkt":"a"}"#, "{}", "null"] {
            assert!(matches!(setting.read(&with("cnf", cnf)), Err(ClaimsInvalid(_))), "{cnf}");
        }
        setting.client.vouches_for_bound_tokens = true;
        assert!(setting.read(&with("cnf", r#"{"jkt":"a"}"#)).unwrap().is_bound());
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
            assert!(matches!(read(email), Err(ClaimsInvalid(_))), "{email}");
        }
    }

    /// R-SUBJ-07
    #[test]
    fn nobody_takes_the_subject_of_another_issuer_or_of_a_client() {
        let mut setting = Setting::rfc_9068();
        setting.issuer.subject_prefix = "a:".to_owned();
        setting.prefixes = ["", "a:", "a:b:", "c:"].map(str::to_owned).to_vec();
        assert!(matches!(setting.read(&with("sub", "\"b:x\"")), Err(ClaimsInvalid(_))));
        assert_eq!(setting.read(&with("sub", "\"c:x\"")).unwrap().sub().as_str(), "a:c:x");
        claims_are_refused(&with("sub", "\"svc:gateway\""));
        assert!(Setting::rfc_9068().read(&with("sub", "\"svc:gateway2\"")).is_ok());
    }

    /// A-063
    #[test]
    fn a_scope_has_the_syntax_of_rfc_6749() {
        for scope in [
            "[\"a\"]",
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

    #[test]
    fn a_token_that_tells_no_scope_covers_what_its_issuer_is_set_to() {
        let mut setting = Setting::rfc_9068();
        for scope in ["", "\"\""] {
            assert_eq!(setting.read(&with("scope", scope)).unwrap().scope(), None);
        }
        setting.default_scope = Some("mail".parse().unwrap());
        for scope in ["", "\"\""] {
            assert_eq!(setting.read(&with("scope", scope)).unwrap().scope().unwrap().to_string(), "mail");
        }
        assert_eq!(setting.read(&with("scope", "\"other\"")).unwrap().scope().unwrap().to_string(), "other");
    }

    /// Contract 3.6: the audience before other claims, claims before times.
    #[test]
    fn the_first_fault_in_order_is_told() {
        let expired = NOW + Duration::from_secs(10_000);
        let mut claims = good();
        claims["sub"] = json!("");
        assert!(matches!(Setting::rfc_9068().read_at(&claims.to_string(), expired), Err(ClaimsInvalid(_))));
        claims["aud"] = json!("other");
        assert_eq!(Setting::rfc_9068().read_at(&claims.to_string(), expired).err(), Some(AudienceMismatch));
    }
}
