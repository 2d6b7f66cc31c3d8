//! A good request: the answer and the Txn-Token in it.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};
use writ_verifier::json::{self, Limits};
use writ_verifier::jws::Jws;
use writ_verifier::{Scope, TOKEN_MAX, Verifier, claims};
use zeroize::Zeroizing;

use super::report::{Check, Outcome, Report, Rule, Verdict};
use super::target::Reply;
use super::{Ask, Keys, Proof, Scene, TXN_TOKEN};
use crate::cli::token::{Decoded, ServiceError};
use writ_platform::clock::Timestamp;

/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(30);
/// A lifetime that is short beyond doubt, and one that is long beyond doubt (TT section 6 and 13.1: minutes or less).
const SHORT: u64 = 300;
const LONG: u64 = 900;
/// A part of a subject token that is long enough to be no coincidence.
const PART: usize = 20;

/// A token with what it says of itself. Nothing is verified.
#[derive(Clone)]
pub(super) struct Issued {
    pub(super) token: Zeroizing<String>,
    header: Value,
    claims: Value,
    at: Timestamp,
}

/// The answer to a good request.
struct Answer {
    reply: Reply,
    members: Map<String, Value>,
    asked: String,
    issued: Option<Issued>,
}

/// A token, and what it is compared with.
struct Token {
    issued: Issued,
    /// The token of a second request like the first; or why there is none.
    second: Result<Issued, String>,
    ask: Ask,
    keys: Option<Keys>,
    issuer: Option<String>,
}

const ANSWER: &[Check<Answer>] = &[
    Check {
        name: "issue-media-type",
        requirement: "R-RESP-01",
        did: "looked at Content-Type",
        expected: "application/json",
        judge: |answer| Verdict::of(answer.reply.media_type() == "application/json", answer.reply.media_type()),
    },
    Check {
        name: "issue-no-store",
        requirement: "R-RESP-04",
        did: "looked at Cache-Control",
        expected: "no-store",
        judge: |answer| Verdict::of(answer.reply.is_no_store(), quoted(&answer.reply.header("cache-control"))),
    },
    Check {
        name: "issue-pragma",
        requirement: "R-RESP-04",
        did: "looked at Pragma",
        expected: "no-cache, for old intermediaries",
        judge: |answer| {
            let pragma = answer.reply.header("pragma");
            Verdict::advice(pragma.to_ascii_lowercase().contains("no-cache"), quoted(&pragma))
        },
    },
    Check {
        name: "issue-issued-token-type",
        requirement: "R-RESP-01",
        did: "looked at issued_token_type",
        expected: TXN_TOKEN,
        judge: |answer| {
            Verdict::of(
                answer.members.get("issued_token_type") == Some(&TXN_TOKEN.into()),
                answer.shown("issued_token_type"),
            )
        },
    },
    Check {
        name: "issue-token-type",
        requirement: "R-RESP-01",
        did: "looked at token_type",
        expected: "N_A",
        judge: |answer| {
            Verdict::of(answer.members.get("token_type") == Some(&"N_A".into()), answer.shown("token_type"))
        },
    },
    Check {
        name: "issue-no-refresh-token",
        requirement: "R-RESP-02",
        did: "looked for a refresh token",
        expected: "none",
        judge: |answer| match answer.members.get("refresh_token") {
            None => Verdict::passed("none"),
            Some(Value::Null) => Verdict::noted("a member that is null"),
            Some(_) => Verdict::failed("one"),
        },
    },
    Check {
        name: "issue-expires-in",
        requirement: "R-RESP-03",
        did: "compared expires_in with the token",
        expected: "whole seconds, no more than the token lives",
        judge: |answer| {
            let lifetime = answer.issued.as_ref().and_then(Issued::lifetime);
            match (answer.members.get("expires_in"), lifetime) {
                (None, _) => Verdict::noted("absent"),
                (Some(value), Some(lifetime)) => {
                    let fits = value.as_u64().is_some_and(|seconds| seconds > 0 && seconds <= lifetime + 1);
                    Verdict::of(fits, format!("{value}, exp - iat = {lifetime}"))
                }
                (Some(value), None) if value.as_u64().is_none() => Verdict::failed("no whole number"),
                (Some(_), None) => Verdict::not_tried("the token has no times that can be read"),
            }
        },
    },
    Check {
        name: "issue-scope",
        requirement: "R-RESP-03",
        did: "compared scope of the answer with the scope of the token",
        expected: "the same purposes; it may be absent where they are the ones that were asked for",
        judge: |answer| {
            let Some(granted) = answer.issued.as_ref().and_then(Issued::scope) else {
                return Verdict::not_tried("the token has no scope that can be read");
            };
            match answer.members.get("scope") {
                None => Verdict::of(same(&granted, &answer.asked), "absent"),
                Some(value) => Verdict::of(value.as_str().is_some_and(|text| same(&granted, text)), value.to_string()),
            }
        },
    },
    Check {
        name: "issue-jwt",
        requirement: "R-CLAIM-01",
        did: "decoded access_token",
        expected: "a JWT in compact form: three parts of base64url, the first two of JSON without repeated members",
        judge: |answer| {
            Verdict::of(answer.issued.is_some(), if answer.issued.is_some() { "a JWT" } else { "something else" })
        },
    },
];

const TOKEN: &[Check<Token>] = &[
    Check {
        name: "token-typ",
        requirement: "R-CLAIM-01",
        did: "looked at typ of the header",
        expected: claims::TYP,
        judge: |token| {
            let typ = token.issued.header["typ"].as_str().unwrap_or_default().to_ascii_lowercase();
            let is_right = typ.strip_prefix("application/").unwrap_or(&typ) == claims::TYP;
            Verdict::of(is_right, token.issued.header["typ"].to_string())
        },
    },
    Check {
        name: "token-algorithm",
        requirement: "R-CLAIM-01",
        did: "looked at alg of the header",
        expected: "an asymmetric algorithm",
        judge: |token| Verdict::of(token.issued.is_asymmetric(), token.issued.header["alg"].to_string()),
    },
    Check {
        name: "token-header",
        requirement: "R-CLAIM-01",
        did: "looked for jwk, jku, x5u, x5c, crit, zip and b64 in the header",
        expected: "none: a verifier follows none of them",
        judge: |token| {
            let found = ["jwk", "jku", "x5u", "x5c", "crit", "zip", "b64"]
                .into_iter()
                .filter(|name| token.issued.header.get(name).is_some())
                .collect::<Vec<_>>();
            Verdict::advice(found.is_empty(), if found.is_empty() { "none".to_owned() } else { found.join(", ") })
        },
    },
    Check {
        name: "token-key",
        requirement: "R-CLAIM-01",
        did: "looked for the kid of the header among the published keys",
        expected: "a kid that is published",
        judge: |token| match (token.issued.header.get("kid"), &token.keys) {
            (None, _) => Verdict::noted("no kid, which the draft recommends"),
            (Some(_), None) => Verdict::not_tried("no keys"),
            (Some(_), Some(_)) if !token.issued.is_asymmetric() => Verdict::not_tried("no asymmetric algorithm"),
            (Some(kid), Some(keys)) => {
                let published = kid.as_str().is_some_and(|kid| keys.names(kid));
                Verdict::of(published, if published { "published" } else { "not published" })
            }
        },
    },
    Check {
        name: "token-signature",
        requirement: "R-VERIFY-02",
        did: "verified the signature with the published keys",
        expected: "a signature of the key that kid names, or of any where there is no kid",
        judge: Token::judge_signature,
    },
    Check {
        name: "token-times",
        requirement: "R-CLAIM-02",
        did: "looked at iat and exp",
        expected: "whole seconds, iat now (give or take 30 s), exp after iat",
        judge: Token::judge_times,
    },
    Check {
        name: "token-lifetime",
        requirement: "R-POL-08",
        did: "looked at exp - iat",
        expected: "minutes or less: up to 300 s is short, above 900 s is not",
        judge: |token| match token.issued.lifetime() {
            _ if token.judge_times().outcome == Outcome::Failed => Verdict::not_tried("no times that can be read"),
            None => Verdict::not_tried("no whole seconds"),
            Some(lifetime) if lifetime > LONG => Verdict::failed(format!("{lifetime} s")),
            Some(lifetime) => Verdict::advice(lifetime <= SHORT, format!("{lifetime} s")),
        },
    },
    Check {
        name: "token-audience",
        requirement: "R-CLAIM-02",
        did: "compared aud with the audience asked for",
        expected: "the same, one text and no list",
        judge: |token| {
            let aud = &token.issued.claims["aud"];
            Verdict::of(aud.as_str() == Some(&token.ask.audience), aud.to_string())
        },
    },
    Check {
        name: "token-issuer",
        requirement: "R-CLAIM-08",
        did: "compared iss with the issuer of the metadata",
        expected: "the same, where the token has one",
        judge: |token| match (token.issued.claims.get("iss"), &token.issuer) {
            (None, _) => Verdict::not_applicable("no iss, which is optional"),
            (Some(_), None) => Verdict::not_tried("no metadata with an issuer that can be relied on"),
            (Some(iss), Some(issuer)) => Verdict::of(iss.as_str() == Some(issuer), iss.to_string()),
        },
    },
    Check {
        name: "token-txn",
        requirement: "R-CLAIM-03",
        did: "looked at txn",
        expected: "a text, not empty",
        judge: |token| text_claim(&token.issued, "txn"),
    },
    Check {
        name: "token-txn-unique",
        requirement: "R-CLAIM-03",
        did: "made the same request again and compared txn",
        expected: "another one, of at least 16 characters",
        judge: |token| {
            let of = |issued: &Issued| issued.claims["txn"].as_str().filter(|txn| !txn.is_empty()).map(str::to_owned);
            match token.second.as_ref().map(of) {
                Err(why) => Verdict::not_tried(why.clone()),
                Ok(None) => Verdict::not_tried("no txn that can be read"),
                Ok(Some(second)) if of(&token.issued).as_ref() == Some(&second) => Verdict::failed("the same one"),
                Ok(Some(second)) => {
                    Verdict::advice(second.len() >= 16, format!("another one of {} characters", second.len()))
                }
            }
        },
    },
    Check {
        name: "token-subject",
        requirement: "R-CLAIM-04",
        did: "looked at sub",
        expected: "a text, not empty",
        judge: |token| text_claim(&token.issued, "sub"),
    },
    Check {
        name: "token-requester",
        requirement: "R-CLAIM-06",
        did: "looked at req_wl",
        expected: "a text, not empty",
        judge: |token| text_claim(&token.issued, "req_wl"),
    },
    Check {
        name: "token-scope",
        requirement: "R-CLAIM-05",
        did: "compared scope of the token with the scope asked for",
        expected: "purposes separated by single spaces, none that was not asked for",
        judge: |token| {
            let granted = token.issued.scope();
            let within = granted.is_some_and(|granted| is_within(&granted, &token.ask.scope));
            Verdict::of(within, token.issued.claims["scope"].to_string())
        },
    },
    Check {
        name: "token-contexts",
        requirement: "R-CLAIM-07",
        did: "looked at tctx and rctx",
        expected: "objects, where the token has them",
        judge: |token| {
            let bad = ["tctx", "rctx"]
                .into_iter()
                .find(|name| token.issued.claims.get(name).is_some_and(|value| !value.is_object()));
            Verdict::of(
                bad.is_none(),
                bad.map_or_else(|| "objects or absent".to_owned(), |name| format!("{name} is no object")),
            )
        },
    },
    Check {
        name: "token-no-credential",
        requirement: "R-CLAIM-09",
        did: "looked for the subject token in the claims",
        expected: "no part of it",
        judge: Token::judge_credential,
    },
];

/// Makes a good request and judges what comes; makes it once more. A verdict if the client gets no tokens, so that no
/// refusal would prove anything.
///
/// # Errors
/// The token endpoint cannot be reached.
pub(super) async fn examine(scene: &Scene, report: &mut Report) -> Result<Option<Verdict>, ServiceError> {
    let reply = scene.ask(&scene.ask.form()).await?;
    let rule = Rule::new("issue-status", "R-RESP-01", "asked for a Txn-Token", "200 with access_token");
    let is_issued =
        report.add(rule, Verdict::of(reply.status == 200 && reply.is_issued(), reply.summary())) == Outcome::Passed;
    let none = Verdict::not_tried("no token was issued");
    let members = reply.members().filter(|_| is_issued);
    let answer = members.map(|members| Answer {
        issued: Issued::of(&reply),
        members,
        asked: scene.ask.scope.to_string(),
        reply,
    });
    if let Some(token) = answer.as_ref().and_then(|answer| answer.members["access_token"].as_str()) {
        report.keep_secret(token);
    }
    report.judge(answer.as_ref().ok_or(&none), ANSWER);

    let second = match scene.ask(&scene.ask.form()).await {
        Ok(reply) if reply.is_issued() => Issued::of(&reply).ok_or_else(|| "the second token is no JWT".to_owned()),
        Ok(reply) => Err(format!("the second request got {}", reply.summary())),
        Err(error) => Err(error.to_string()),
    };
    let hindrance = match (is_issued, &second) {
        (false, _) => Some(Verdict::not_tried("good requests are refused too, so a refusal would prove nothing")),
        (true, Err(why)) => Some(Verdict::not_tried(format!("a refusal would prove nothing: {why}"))),
        (true, Ok(_)) => None,
    };
    let token = answer.and_then(|answer| answer.issued).map(|issued| Token {
        issued,
        second,
        ask: scene.ask.clone(),
        keys: scene.keys.clone(),
        issuer: scene.issuer.clone(),
    });
    let none = if is_issued { Verdict::not_tried("the token cannot be decoded") } else { none };
    let is_sound = report.judge(token.as_ref().ok_or(&none), TOKEN);
    let verified = match &token {
        None => none,
        Some(_) if !is_sound => Verdict::not_tried("a check before this one tells why it might not"),
        Some(token) => token.judge_whole(),
    };
    let expected = "it takes it";
    report.add(
        Rule::new("token-verifies", "R-VERIFY-05", "verified the token as a service downstream does", expected),
        verified,
    );
    Ok(hindrance)
}

impl Issued {
    /// The token in an answer.
    pub(super) fn of(reply: &Reply) -> Option<Self> {
        let members = reply.members()?;
        let token = members.get("access_token")?.as_str()?;
        let text = Decoded::parse(token).ok()?.to_json();
        let mut decoded: Value = json::from_str(&text, Limits::DOCUMENT).ok()?;
        Some(Self {
            token: Zeroizing::new(token.to_owned()),
            header: decoded["header"].take(),
            claims: decoded["claims"].take(),
            at: reply.at,
        })
    }

    /// A claim as it is written.
    pub(super) fn claim(&self, name: &str) -> &Value {
        &self.claims[name]
    }

    /// Its purposes.
    pub(super) fn scope(&self) -> Option<Scope> {
        self.claims["scope"].as_str()?.parse().ok()
    }

    /// When it expires.
    pub(super) fn expiry(&self) -> Option<Timestamp> {
        self.claims["exp"].as_u64().map(Timestamp::from_epoch)
    }

    fn lifetime(&self) -> Option<u64> {
        self.claims["exp"].as_u64()?.checked_sub(self.claims["iat"].as_u64()?)
    }

    fn is_asymmetric(&self) -> bool {
        let alg = self.header["alg"].as_str().unwrap_or_default();
        ["ES", "RS", "PS", "Ed", "ML-DSA"].iter().any(|prefix| alg.starts_with(prefix))
    }
}

impl Token {
    fn judge_signature(&self) -> Verdict {
        let Some(keys) = self.keys.as_ref().and_then(Keys::usable) else { return Verdict::not_tried("no usable keys") };
        if !self.issued.is_asymmetric() {
            return Verdict::not_tried("no asymmetric algorithm");
        }
        let Ok(jws) = Jws::parse(&self.issued.token, TOKEN_MAX) else {
            return Verdict::not_tried("an algorithm or header that the verifier does not know");
        };
        let named: Vec<_> = keys.keys().filter(|key| jws.kid.is_none() || key.kid() == jws.kid.as_deref()).collect();
        if named.is_empty() {
            return Verdict::not_tried("the key is not published");
        }
        let is_good = named.iter().any(|key| key.fits(jws.algorithm) && jws.verify(key.decoding_key()));
        Verdict::of(is_good, if is_good { "good" } else { "not the signature of that key" })
    }

    fn judge_times(&self) -> Verdict {
        let (iat, exp) = (&self.issued.claims["iat"], &self.issued.claims["exp"]);
        let came = format!("iat {iat}, exp {exp}, now {}", self.issued.at.epoch());
        let (Some(iat_seconds), Some(exp_seconds)) = (iat.as_f64(), exp.as_f64()) else { return Verdict::failed(came) };
        let is_past = |seconds: f64| {
            // Below 2^53 both are exact, and nothing above is a time.
            let until = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            Timestamp::from_epoch(until.as_secs())
        };
        let issued = is_past(iat_seconds);
        let is_now = issued.since(self.issued.at) <= SKEW && self.issued.at.since(issued) <= SKEW;
        if !is_now || exp_seconds <= iat_seconds {
            return Verdict::failed(came);
        }
        Verdict::advice(iat.is_u64() && exp.is_u64(), came)
    }

    fn judge_credential(&self) -> Verdict {
        let Proof::Subject { token, token_type } = &self.ask.proof else {
            return Verdict::not_applicable("no subject token");
        };
        if token_type.ends_with(":unsigned_json") || token.len() < PART {
            return Verdict::not_applicable("the subject token is no credential");
        }
        let claims = self.issued.claims.to_string();
        let mut parts = token.split('.').filter(|part| part.len() >= PART);
        let is_copied = claims.contains(token.as_str()) || parts.any(|part| claims.contains(part));
        Verdict::of(!is_copied, if is_copied { "a part of it" } else { "none" })
    }

    /// All at once, as the verifier crate sees it: also what no check before looks at, such as repeated members.
    fn judge_whole(&self) -> Verdict {
        let Some(keys) = &self.keys else { return Verdict::not_tried("no keys") };
        let Some(set) = keys.usable() else { return Verdict::not_tried("no usable keys") };
        let Ok(verifier) = Verifier::builder(&self.ask.audience).jwks_json(keys.to_json()).build() else {
            return Verdict::not_tried("the verifier cannot be made for this audience");
        };
        // Its iat has been judged by the clock here; this is about all else.
        let then = UNIX_EPOCH + Duration::from_secs(self.issued.claims["iat"].as_u64().unwrap_or_default());
        match verifier.verify_at(&self.issued.token, set, then) {
            Ok(_) => Verdict::passed("taken"),
            Err(error) => Verdict::failed(error.reason()),
        }
    }
}

impl Answer {
    fn shown(&self, name: &str) -> String {
        self.members.get(name).map_or_else(|| "absent".to_owned(), ToString::to_string)
    }
}

/// Whether every purpose of `granted` is one of `asked`.
pub(super) fn is_within(granted: &Scope, asked: &Scope) -> bool {
    granted.purposes().iter().all(|purpose| asked.contains(purpose.as_str()))
}

fn same(granted: &Scope, text: &str) -> bool {
    text.parse::<Scope>().is_ok_and(|scope| is_within(&scope, granted) && is_within(granted, &scope))
}

/// The value of a claim is not shown: it may be about a person.
fn text_claim(issued: &Issued, name: &str) -> Verdict {
    match issued.claims.get(name) {
        None => Verdict::failed("absent"),
        Some(Value::String(text)) => Verdict::of(!text.is_empty(), format!("a text of {} bytes", text.len())),
        Some(_) => Verdict::failed("no text"),
    }
}

fn quoted(text: &str) -> String {
    if text.is_empty() { "no such header".to_owned() } else { text.to_owned() }
}
