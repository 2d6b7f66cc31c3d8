//! An opaque access token → a verified token, by the reply of its issuer's introspection endpoint (RFC 7662).
//!
//! The reply is validated like the claims of a signed token: an active token for another audience is refused.

use serde_json::value::RawValue;
use writ_verifier::Members;

use super::SubjectError;
use super::SubjectFault::{ClaimsInvalid, Malformed};
use super::jwt::common_mistake;
use super::members;
use super::outside::{OutsideToken, ValidationContext};
use crate::request::Source;

/// The longest opaque token, in bytes.
const MAX_LEN: usize = 4096;

/// Whether an access token is opaque, which means that it does not have the two dots of a JWT.
pub(super) fn is_opaque(text: &str) -> bool {
    text.bytes().filter(|&byte| byte == b'.').count() != 2
}

/// Checks the form of an opaque token: 1 to 4096 characters of `b64token` (RFC 6750 §2.1). No other text is sent to an
/// issuer.
pub(super) fn check_form(text: &str) -> Result<(), SubjectError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    let token = text.trim_end_matches('=');
    if text.len() > MAX_LEN {
        return Err(Malformed
            .because("it is not a JWT, which has three parts, and longer than the 4096 bytes of an opaque token"));
    }
    let fits = !token.is_empty() && token.bytes().all(plain);
    let why = common_mistake(text)
        .unwrap_or("it is not a JWT, which has three parts, and has characters that no bearer token has");
    fits.then_some(()).ok_or(Malformed.because(why))
}

/// Validates the `reply` about the active opaque token `text`. A reply without `aud` is refused, since the token may be for
/// any service; so is one whose subject contains the token, which must not be embedded in another (R-CLAIM-09).
pub(super) fn read(text: &str, reply: Members, by: ValidationContext<'_>) -> Result<OutsideToken, SubjectError> {
    is_of_access_token(&reply, by)?;
    by.audience(&reply, &by.issuer.audience)?;
    if reply.get("sub").is_none_or(|sub: String| sub.is_empty()) {
        return Err(ClaimsInvalid.because("its issuer does not name its subject: `sub` is missing from the reply"));
    }
    let token = by.complete(Source::AccessToken, reply)?;
    if token.sub().as_str().contains(text) {
        return Err(ClaimsInvalid.because("the subject contains the token"));
    }
    Ok(token)
}

/// Validates the `reply` about a JWT access token that was already verified. The issuer may have reduced scope and
/// lifetime since it signed: members of the reply replace claims. The reply may omit the subject, but not name another
/// one.
pub(super) fn confirm(
    token: &OutsideToken,
    reply: &Members,
    by: ValidationContext<'_>,
) -> Result<OutsideToken, SubjectError> {
    is_of_access_token(reply, by)?;
    let denied = |name: &str| reply.raw(name).is_some() && reply.get::<String>(name) != token.claims().get(name);
    if denied("sub") || denied(&by.issuer.subject_claim) {
        return Err(ClaimsInvalid.because("the issuer reports another subject for the token"));
    }
    let scope = by.issuer.scope_claim.as_str();
    let mut claims = token.claims().clone();
    for name in ["aud", "exp", "nbf", "iat", "cnf", "act", scope] {
        let Some(said) = reply.get::<&RawValue>(name) else { continue };
        // An empty scope counts as absent, and must not lead to the issuer's default scope.
        if name != scope || members::scope(reply, scope)?.is_some() {
            claims.set(name, &said).map_err(|_| SubjectError::from(Malformed))?;
        }
    }
    by.audience(&claims, &by.issuer.audience)?;
    Ok(by.complete(Source::AccessToken, claims)?.ending_with(token))
}

/// If present, `iss` must be the issuer's own, and no type may be that of a refresh token, which can be active too.
fn is_of_access_token(reply: &Members, by: ValidationContext<'_>) -> Result<(), SubjectError> {
    if reply.raw("iss").is_some() && reply.get::<String>("iss").as_ref() != Some(&by.issuer.issuer) {
        return Err(ClaimsInvalid.because("the issuer reports another issuer for the token"));
    }
    // `token_type` is standard; servers that also call refresh tokens `Bearer` distinguish them by the other members.
    for name in ["token_type", "token_use", "typ"].into_iter().filter(|name| reply.raw(name).is_some()) {
        let kind: String = reply.get(name).ok_or(ClaimsInvalid.because("the type of the token must be a string"))?;
        let kind = kind.to_ascii_lowercase();
        if kind.contains("refresh") || kind.contains("offline") {
            return Err(ClaimsInvalid.because("a refresh token is not an access token"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::policy::ClientPolicy;
    use crate::subject::SubjectFault::{self, AudienceMismatch, Expired, NotYetValid};
    use crate::subject::fixtures::{ISSUER, NOW, SKEW, client, good, policies, settings};
    use crate::subject::members::members;
    use crate::subject::settings::{IssuerSettings, KeySource};
    use writ_platform::clock::Timestamp;

    /// The variable settings of the rules.
    struct Setting {
        issuer: IssuerSettings,
        client: ClientPolicy,
        default_scope: Option<writ_verifier::Scope>,
    }

    impl Setting {
        fn new() -> Self {
            Self { issuer: settings(ISSUER, KeySource::Discovery), client: client(), default_scope: None }
        }

        fn measured<T>(&self, judge: impl FnOnce(ValidationContext<'_>) -> T) -> T {
            judge(ValidationContext {
                issuer: &self.issuer,
                default_scope: self.default_scope.as_ref(),
                prefixes: &[String::new()],
                client: &self.client,
                policies: &policies(),
                clock_skew: SKEW,
                now: NOW,
            })
        }

        fn read(&self, reply: &Value) -> Result<OutsideToken, SubjectFault> {
            let read = self.measured(|by| super::read("2YotnFZFEjr1", members(reply.to_string().as_bytes())?, by));
            read.map_err(|error| error.fault())
        }

        /// The outcome for a valid JWT with this reply of its issuer.
        fn confirm(&self, reply: &Value) -> Result<OutsideToken, SubjectFault> {
            let confirmed = self.measured(|by| {
                let token = by.complete(Source::AccessToken, members(good().to_string().as_bytes())?).unwrap();
                super::confirm(&token, &members(reply.to_string().as_bytes())?, by)
            });
            confirmed.map_err(|error| error.fault())
        }
    }

    /// A minimal valid reply, with `name` as `value`; null leaves it out.
    fn reply(name: &str, value: Value) -> Value {
        let mut reply = json!({"active": true, "sub": "alice", "aud": "https://api.example", "scope": "mail"});
        reply[name] = value;
        reply.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        reply
    }

    #[track_caller]
    fn claims_are_refused(name: &str, value: &Value) {
        let answer = Setting::new().read(&reply(name, value.clone()));
        assert!(matches!(answer, Err(ClaimsInvalid)), "{name} {value}: {answer:?}");
    }

    /// CONTRACT 3.2
    #[test]
    fn an_opaque_token_has_plain_characters_and_not_the_two_dots_of_a_jwt() {
        let longest = "x".repeat(MAX_LEN);
        for text in ["x", "2YotnFZFEjr1zCsicMWpAA", "a.b", "a.b.c.d", ".", "-._~+/", "a=", "a==", &longest] {
            assert!(is_opaque(text) && check_form(text).is_ok(), "{text:.80}");
        }
        let dots = ".".repeat(12_000);
        for text in ["", "=", "==", "a=b", "=a", "a b", "a\n", "ä", "a\0", "{}", "a,b", "a%20", "a\"", &dots] {
            assert!(
                is_opaque(text) && check_form(text).err().map(|error| error.fault()) == Some(Malformed),
                "{text:.80}"
            );
        }
        assert_eq!(check_form(&"x".repeat(MAX_LEN + 1)).err().map(|error| error.fault()), Some(Malformed));
        assert!(!is_opaque("a.b.c") && !is_opaque(".."));
    }

    #[test]
    fn a_reply_yields_the_subject_and_scope_of_an_opaque_token() {
        let token = Setting::new().read(&reply("exp", json!(NOW.epoch() + 300))).unwrap();
        assert_eq!((token.source(), token.issuer(), token.sub().as_str()), (Source::AccessToken, ISSUER, "alice"));
        assert_eq!(token.scope().unwrap().to_string(), "mail");
        assert_eq!(token.usable_until(), NOW + std::time::Duration::from_secs(300) + SKEW);
    }

    /// R-CLAIM-09
    #[test]
    fn a_subject_that_contains_the_token_is_refused() {
        let setting = Setting::new();
        for sub in ["2YotnFZFEjr1", "token:2YotnFZFEjr1:"] {
            assert!(matches!(setting.read(&reply("sub", json!(sub))), Err(ClaimsInvalid)), "{sub}");
        }
        assert!(setting.read(&reply("sub", json!("2YotnFZFEjr"))).is_ok());
    }

    /// A-077, R-INTRO-03
    #[test]
    fn an_active_token_is_accepted_only_within_the_settings_of_its_issuer() {
        for iss in [json!("https://other.example"), json!("https://login.example/"), json!([ISSUER]), json!(1)] {
            claims_are_refused("iss", &iss);
        }
        assert!(Setting::new().read(&reply("iss", json!(ISSUER))).is_ok());
        for sub in [Value::Null, json!(""), json!(1), json!(["alice"]), json!("a\nb"), json!("svc:gateway")] {
            claims_are_refused("sub", &sub);
        }
        for aud in [Value::Null, json!(1), json!([1])] {
            claims_are_refused("aud", &aud);
        }
        for aud in [json!("https://elsewhere.example"), json!([]), json!("https://API.example")] {
            assert_eq!(Setting::new().read(&reply("aud", aud.clone())).err(), Some(AudienceMismatch), "{aud}");
        }
        let mut held = Setting::new();
        held.client.subject_token_audience = vec!["https://api2.example".to_owned()];
        assert_eq!(held.read(&reply("x", Value::Null)).err(), Some(AudienceMismatch));
        for scope in [json!(["a b"]), json!(["mail", 1]), json!("a  b"), json!(1)] {
            claims_are_refused("scope", &scope);
        }
    }

    ///
    #[test]
    fn the_subject_is_required_even_if_another_claim_names_it() {
        let mut setting = Setting::new();
        setting.issuer.subject_claim = "email".to_owned();
        assert_eq!(setting.read(&reply("email", json!("a@d"))).unwrap().sub().as_str(), "a@d");
        assert!(matches!(setting.read(&reply("x", Value::Null)), Err(ClaimsInvalid)));
        let mut without_sub = reply("sub", Value::Null);
        without_sub["email"] = json!("a@d");
        assert!(matches!(setting.read(&without_sub), Err(ClaimsInvalid)));
    }

    /// A-077, R-INTRO-03
    #[test]
    fn the_times_of_a_reply_hold_like_those_of_a_token() {
        let read = |name: &str, value: u64| Setting::new().read(&reply(name, json!(value))).err();
        let past = NOW.epoch() - 10;
        assert_eq!(read("exp", past), Some(Expired { expired_at: Timestamp::from_epoch(past) }));
        assert_eq!(read("exp", past + 1), None);
        for name in ["nbf", "iat"] {
            assert_eq!((read(name, NOW.epoch() + 11), read(name, NOW.epoch() + 10)), (Some(NotYetValid), None));
        }
        for exp in [json!("1793000300"), json!(0), json!(-1), json!(1e18), json!([])] {
            claims_are_refused("exp", &exp);
        }
    }

    /// Without an expiry, the issuer has confirmed the token only for the moment.
    #[test]
    fn a_token_without_an_expiry_is_usable_for_a_minute() {
        let token = Setting::new().read(&reply("x", Value::Null)).unwrap();
        assert_eq!(token.usable_until(), NOW + std::time::Duration::from_secs(60));
    }

    /// R-INTRO-03
    #[test]
    fn an_active_refresh_token_is_not_an_access_token() {
        for (name, kind) in [
            ("token_type", json!("refresh_token")),
            ("token_type", json!("Refresh")),
            ("token_type", json!(1)),
            ("token_use", json!("refresh_token")),
            ("typ", json!("Offline")),
        ] {
            claims_are_refused(name, &kind);
        }
        for kind in ["Bearer", "DPoP", "access_token", "N_A"] {
            assert!(Setting::new().read(&reply("token_type", json!(kind))).is_ok(), "{kind}");
        }
    }

    /// R-SUBJ-10
    #[test]
    fn a_bound_opaque_token_is_accepted_only_from_a_client_that_vouches() {
        let mut setting = Setting::new();
        let bound = reply("cnf", json!({"x5t#S256": "a"}));
        assert!(matches!(setting.read(&bound), Err(ClaimsInvalid)));
        setting.client.vouches_for_bound_tokens = true;
        assert!(setting.read(&bound).is_ok());
    }

    /// R-POL-05
    #[test]
    fn a_reply_without_a_scope_covers_what_the_issuer_is_set_to() {
        let mut setting = Setting::new();
        for scope in [Value::Null, json!(""), json!([])] {
            assert_eq!(setting.read(&reply("scope", scope)).unwrap().scope(), None);
        }
        let listed = setting.read(&reply("scope", json!(["mail", "contacts"]))).unwrap();
        assert_eq!(listed.scope().unwrap().to_string(), "mail contacts");
        setting.default_scope = Some("contacts".parse().unwrap());
        assert_eq!(setting.read(&reply("scope", Value::Null)).unwrap().scope().unwrap().to_string(), "contacts");
        assert_eq!(setting.read(&reply("x", Value::Null)).unwrap().scope().unwrap().to_string(), "mail");
    }

    /// R-SUBJ-11
    #[test]
    fn a_reply_about_a_jwt_may_omit_members_and_may_reduce_claims() {
        let setting = Setting { default_scope: Some("everything".parse().unwrap()), ..Setting::new() };
        let silent = setting.confirm(&json!({"active": true})).unwrap();
        assert_eq!((silent.sub().as_str(), silent.scope().unwrap().to_string()), ("alice", "trade.stocks mail".into()));
        assert_eq!(silent.usable_until(), NOW + std::time::Duration::from_secs(300) + SKEW);
        let narrowed = setting.confirm(&json!({"active": true, "scope": "mail", "exp": NOW.epoch() + 9})).unwrap();
        assert_eq!(narrowed.scope().unwrap().to_string(), "mail");
        assert_eq!(narrowed.usable_until(), NOW + std::time::Duration::from_secs(9) + SKEW);
        for scope in [json!(""), json!([]), json!("trade.stocks mail"), json!(["trade.stocks", "mail"])] {
            let unchanged = setting.confirm(&json!({"active": true, "scope": scope})).unwrap();
            assert_eq!(unchanged.scope(), silent.scope());
        }
        let longer = setting.confirm(&json!({"active": true, "exp": NOW.epoch() + 900})).unwrap();
        assert_eq!(longer.usable_until(), silent.usable_until(), "what it signed ends when it said");
        assert!(setting.confirm(&json!({"active": true, "sub": "alice", "iss": ISSUER})).is_ok());
    }

    /// R-SUBJ-11
    #[test]
    fn an_issuer_may_not_name_another_subject_by_any_claim() {
        let mut setting = Setting::new();
        setting.issuer.subject_claim = "client_id".to_owned();
        assert!(setting.confirm(&json!({"active": true, "client_id": "web", "sub": "alice"})).is_ok());
        for said in [json!({"active": true, "client_id": "other"}), json!({"active": true, "sub": "web"})] {
            assert!(matches!(setting.confirm(&said), Err(ClaimsInvalid)), "{said}");
        }
    }

    /// R-SUBJ-11, R-INTRO-03
    #[test]
    fn an_issuer_that_contradicts_its_own_jwt_is_not_followed() {
        let past = NOW.epoch() - 60;
        for (name, value, expected) in [
            ("sub", json!("bob"), None),
            ("sub", json!(1), None),
            ("iss", json!("https://other.example"), None),
            ("token_type", json!("refresh_token"), None),
            ("cnf", json!({"jkt": "a"}), None),
            ("scope", json!(1), None),
            ("exp", json!("soon"), None),
            ("exp", json!(""), None),
            ("aud", json!("https://elsewhere.example"), Some(AudienceMismatch)),
            ("exp", json!(past), Some(Expired { expired_at: Timestamp::from_epoch(past) })),
            ("nbf", json!(NOW.epoch() + 60), Some(NotYetValid)),
        ] {
            let error = Setting::new().confirm(&json!({"active": true, name: value})).expect_err(name);
            assert!(expected.map_or(matches!(error, ClaimsInvalid), |expected| error == expected), "{name}: {error}");
        }
    }
}
