//! What the service does with the parameters of a token request.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::{Value, json};
use writ_verifier::json as strict;
use writ_verifier::jwks::KeySet;
use writ_verifier::jws::Jws;

use super::fault::Fault;
use super::jose::{self, Key};
use super::{ACCESS_TOKEN, TOKEN_EXCHANGE, TOKEN_TYPE, TRUST_DOMAIN, TXN_TOKEN, now};

/// The purposes of the only client. With a Txn-Token it may request any.
pub(crate) const PURPOSE: &str = "trade.execute";
pub(crate) const OTHER_PURPOSE: &str = "trade.report";
/// A purpose that the client may not request.
pub(crate) const FORBIDDEN_PURPOSE: &str = "trade.admin";

const KNOWN: [&str; 11] = [
    "grant_type",
    "requested_token_type",
    "audience",
    "scope",
    "subject_token",
    "subject_token_type",
    "request_details",
    "request_context",
    "actor_token",
    "actor_token_type",
    "resource",
];

const INVALID_REQUEST: Refusal = (400, "invalid_request");

/// Status and `error`.
pub(super) type Refusal = (u16, &'static str);
type Parameters = Vec<(String, String)>;

pub(super) struct Exchange {
    pub(super) fault: Fault,
    pub(super) url: String,
    lifetime: u64,
    pub(super) key: Key,
    /// The key of the access tokens that it accepts.
    subject_key: Key,
    /// Its tokens with their claims.
    issued: Mutex<Vec<(String, Value)>>,
    /// The one that it uses again and again with [`Fault::ReusesTxn`].
    txn: String,
}

impl Exchange {
    pub(super) fn new(fault: Fault, url: String, lifetime: u64) -> Self {
        let (key, subject_key) = (Key::es256("tts-1"), Key::es256("issuer-1"));
        Self { fault, url, lifetime, key, subject_key, issued: Mutex::default(), txn: fresh_txn() }
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    pub(super) fn access_token(&self) -> String {
        let header = json!({"typ": "at+jwt", "alg": "ES256", "kid": self.subject_key.kid});
        self.subject_key.token(&header.to_string(), &json!({"sub": "alice", "exp": now() + 600}).to_string())
    }

    pub(super) fn exchange(&self, parameters: &Parameters) -> Result<Value, Refusal> {
        self.check_names(parameters)?;
        let one = |name: &str| values(parameters, name).first().copied();
        match one("grant_type") {
            Some(TOKEN_EXCHANGE) => {}
            Some(_) if self.has(Fault::TakesUnknownGrant) => {}
            Some(_) => return Err((400, "unsupported_grant_type")),
            None => return Err(INVALID_REQUEST),
        }
        match one("requested_token_type") {
            Some(TXN_TOKEN) => {}
            Some(kind) if self.has(Fault::TakesUnknownRequestedType) && !kind.starts_with(TOKEN_TYPE) => {}
            Some(ACCESS_TOKEN) if self.has(Fault::IssuesAccessTokens) => {
                return Ok(json!({
                    "access_token": "opaque-access-token", "issued_token_type": ACCESS_TOKEN, "token_type": "Bearer",
                }));
            }
            _ => return Err(INVALID_REQUEST),
        }
        self.check_target(&values(parameters, "audience"), one("resource"))?;
        if one("actor_token").or(one("actor_token_type")).is_some()
            && !(self.has(Fault::IgnoresActor) && one("actor_token").is_none())
        {
            return Err(INVALID_REQUEST);
        }
        for name in ["request_details", "request_context"] {
            self.check_object(name, one(name).unwrap_or("{}"))?;
        }
        let (Some(token), Some(kind), Some(scope)) = (one("subject_token"), one("subject_token_type"), one("scope"))
        else {
            return Err(INVALID_REQUEST);
        };
        self.exchange_token(token, kind, scope)
    }

    /// Repeated and unknown parameters.
    fn check_names(&self, parameters: &Parameters) -> Result<(), Refusal> {
        let may_repeat =
            |name: &str| name == "audience" || matches!(self.fault, Fault::TakesRepeated(it) if it == name);
        let is_repeated = |name: &&str| values(parameters, name).len() > 1 && !may_repeat(name);
        let has_unknown = parameters.iter().any(|(name, _)| !KNOWN.contains(&name.as_str()));
        if KNOWN.iter().any(is_repeated) || (has_unknown && self.has(Fault::RefusesUnknownParameters)) {
            return Err(INVALID_REQUEST);
        }
        Ok(())
    }

    fn check_target(&self, audiences: &[&str], resource: Option<&str>) -> Result<(), Refusal> {
        match audiences {
            [] => return Err(INVALID_REQUEST),
            [TRUST_DOMAIN] => {}
            [_] if self.has(Fault::IgnoresAudience) => {}
            [_] if self.has(Fault::OtherTargetCode) => return Err(INVALID_REQUEST),
            [_, _] if self.has(Fault::TakesTwoAudiences) => {}
            _ => return Err((400, "invalid_target")),
        }
        if resource.is_some() { Err((400, "invalid_target")) } else { Ok(()) }
    }

    fn check_object(&self, name: &str, text: &str) -> Result<(), Refusal> {
        let is_object = strict::check(text, strict::Limits::DEFAULT).is_ok() && text.starts_with('{');
        let is_tolerated = matches!(self.fault, Fault::TakesContext(which, value) if which == name && value == text);
        if is_object || is_tolerated { Ok(()) } else { Err(INVALID_REQUEST) }
    }

    fn exchange_token(&self, token: &str, kind: &str, scope: &str) -> Result<Value, Refusal> {
        let kind = match self.fault {
            Fault::TakesType(name) if kind.ends_with(name) => ACCESS_TOKEN,
            _ => kind,
        };
        match kind {
            ACCESS_TOKEN if self.has(Fault::TakesTxnTokenAsAccessToken) && self.claims_of(token).is_some() => {
                Ok(self.issue(scope, "alice", token))
            }
            ACCESS_TOKEN => {
                self.check_access_token(token)?;
                self.check_scope(scope)?;
                Ok(self.issue(scope, "alice", token))
            }
            TXN_TOKEN => self.replace(token, scope),
            _ => Err(INVALID_REQUEST),
        }
    }

    fn check_scope(&self, scope: &str) -> Result<(), Refusal> {
        let is_tolerated = |purpose: &str| matches!(self.fault, Fault::TakesPurpose(end) if scope.ends_with(end) && purpose.ends_with(end));
        let is_granted = |purpose: &str| [PURPOSE, OTHER_PURPOSE].contains(&purpose) || is_tolerated(purpose);
        let checked = if self.has(Fault::TakesWiderScope) { 1 } else { usize::MAX };
        if scope.split(' ').take(checked).all(is_granted) { Ok(()) } else { Err((400, "invalid_scope")) }
    }

    fn check_access_token(&self, token: &str) -> Result<(), Refusal> {
        if self.has(Fault::TakesUnsigned) && token.ends_with('.') {
            return Ok(());
        }
        let is_decodable = token.split('.').count() == 3 && !token.starts_with("not.");
        if !is_decodable {
            return Err(if self.has(Fault::InvalidGrant) { (400, "invalid_grant") } else { INVALID_REQUEST });
        }
        let jws = Jws::parse(token, 16 * 1024).map_err(|_| INVALID_REQUEST)?;
        let keys = KeySet::parse(json!({"keys": [self.subject_key.jwk()]}).to_string().as_bytes()).expect("a key set");
        let key = keys.find(jws.kid.as_deref(), jws.algorithm).map_err(|_| INVALID_REQUEST)?;
        let is_good = jws.typ.as_deref() == Some("at+jwt") && key.verify(&jws);
        if is_good || self.has(Fault::TakesBrokenSignatures) { Ok(()) } else { Err(INVALID_REQUEST) }
    }

    /// The claims of a token that was issued here.
    fn claims_of(&self, token: &str) -> Option<Value> {
        let signed_part = token.rsplit_once('.')?.0;
        let issued = self.issued.lock().unwrap();
        let is_it = |other: &str| {
            other == token || (self.has(Fault::TakesForgedTxnToken) && other.starts_with(&format!("{signed_part}.")))
        };
        issued.iter().find(|(other, _)| is_it(other)).map(|(_, claims)| claims.clone())
    }

    fn replace(&self, token: &str, scope: &str) -> Result<Value, Refusal> {
        let claims = self.claims_of(token).ok_or(INVALID_REQUEST)?;
        if claims["exp"].as_u64().is_none_or(|exp| exp <= now()) && !self.has(Fault::TakesExpired) {
            return Err(INVALID_REQUEST);
        }
        let presented = claims["scope"].as_str().unwrap_or_default();
        let is_covered = scope.split(' ').all(|purpose| presented.split(' ').any(|own| own == purpose));
        if !is_covered && !self.has(Fault::WidensReplacement) {
            return Err((400, "invalid_scope"));
        }
        let txn = if self.has(Fault::NewTxnOnReplacement) { fresh_txn().into() } else { claims["txn"].clone() };
        let more = format!("{scope} {OTHER_PURPOSE}");
        let scope = if self.has(Fault::GrowsOnReplacement) { &more } else { scope };
        Ok(self.sign(scope, claims["sub"].as_str().unwrap_or_default(), &txn, token))
    }

    fn issue(&self, scope: &str, subject: &str, presented: &str) -> Value {
        let txn = if self.has(Fault::ReusesTxn) { self.txn.clone() } else { fresh_txn() };
        self.sign(scope, subject, &txn.into(), presented)
    }

    fn sign(&self, scope: &str, subject: &str, txn: &Value, presented: &str) -> Value {
        let lifetime = if self.has(Fault::LivesForHours) { 7200 } else { self.lifetime };
        let granted =
            if self.has(Fault::GrantsMore) { format!("{scope} {FORBIDDEN_PURPOSE}") } else { scope.to_owned() };
        let mut header = json!({"typ": "txntoken+jwt", "alg": "ES256", "kid": self.key.kid});
        let mut claims = json!({
            "iss": self.url, "iat": now(), "exp": now() + lifetime, "aud": TRUST_DOMAIN, "txn": txn, "sub": subject,
            "scope": granted, "req_wl": "client",
        });
        self.spoil_token(&mut header, &mut claims, presented);
        let (header, mut text) = (header.to_string(), claims.to_string());
        if self.has(Fault::RepeatsClaim) {
            text = text.replacen('{', r#"{"sub":"bob","#, 1);
        }
        let token = match self.fault {
            Fault::Symmetric => jose::seal(&header, &text, |message| jose::hs256(b"secret", message)),
            Fault::WrongSignature => Key::es256(&self.key.kid).token(&header, &text),
            _ => self.key.token(&header, &text),
        };
        self.issued.lock().unwrap().push((token.clone(), claims));
        self.answer(&token, lifetime, &granted)
    }

    fn spoil_token(&self, header: &mut Value, claims: &mut Value, presented: &str) {
        match self.fault {
            Fault::WrongTyp => header["typ"] = json!("JWT"),
            Fault::Symmetric => header["alg"] = json!("HS256"),
            Fault::UnknownKid => header["kid"] = json!("nobody"),
            Fault::NoKid => drop(header.as_object_mut().expect("an object").remove("kid")),
            Fault::Milliseconds => {
                for name in ["iat", "exp"] {
                    claims[name] = json!(claims[name].as_u64().expect("seconds") * 1000);
                }
            }
            Fault::AudienceArray => claims["aud"] = json!([TRUST_DOMAIN]),
            Fault::OtherIss => claims["iss"] = json!("https://other.example"),
            Fault::EmptyTxn => claims["txn"] = json!(""),
            Fault::EmptySubject => claims["sub"] = json!(""),
            Fault::NoRequester => drop(claims.as_object_mut().expect("an object").remove("req_wl")),
            Fault::NotBefore => claims["nbf"] = json!(now() + 3600),
            Fault::TextAsContext => claims["rctx"] = json!("text"),
            Fault::CopiesSubjectToken => claims["tctx"] = json!({"token": presented}),
            _ => {}
        }
    }

    fn answer(&self, token: &str, lifetime: u64, granted: &str) -> Value {
        let mut answer = json!({
            "access_token": token, "issued_token_type": TXN_TOKEN, "token_type": "N_A", "expires_in": lifetime,
            "scope": granted,
        });
        match self.fault {
            Fault::SaysJwt => answer["issued_token_type"] = json!(format!("{TOKEN_TYPE}jwt")),
            Fault::SaysBearer => answer["token_type"] = json!("Bearer"),
            Fault::AddsRefreshToken => answer["refresh_token"] = json!("for-ever"),
            Fault::NullAsRefreshToken => answer["refresh_token"] = Value::Null,
            Fault::LateExpiresIn => answer["expires_in"] = json!(lifetime * 10),
            Fault::SaysOtherScope => answer["scope"] = json!(OTHER_PURPOSE),
            _ => {}
        }
        answer
    }
}

/// A parameter of a valid request.
pub(super) fn default_parameter(exchange: &Exchange, name: &str) -> (String, String) {
    let value = match name {
        "grant_type" => TOKEN_EXCHANGE.to_owned(),
        "requested_token_type" => TXN_TOKEN.to_owned(),
        "audience" => TRUST_DOMAIN.to_owned(),
        "scope" => PURPOSE.to_owned(),
        "subject_token" => exchange.access_token(),
        _ => ACCESS_TOKEN.to_owned(),
    };
    (name.to_owned(), value)
}

pub(super) fn parse_form(form: &str) -> Parameters {
    url::form_urlencoded::parse(form.as_bytes()).into_owned().collect()
}

pub(super) fn parse_json(body: &str) -> Parameters {
    let members: HashMap<String, String> = serde_json::from_str(body).unwrap_or_default();
    members.into_iter().collect()
}

/// The values of that name that are not empty.
fn values<'a>(parameters: &'a Parameters, name: &str) -> Vec<&'a str> {
    let named = parameters.iter().filter(|(other, value)| other == name && !value.is_empty());
    named.map(|(_, value)| value.as_str()).collect()
}

fn fresh_txn() -> String {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).unwrap();
    format!("{:032x}", u128::from_be_bytes(random))
}
