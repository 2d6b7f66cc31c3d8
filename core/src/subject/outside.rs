//! What a token of a subject issuer says, and the rules that hold for every kind of them.
//!
//! The kinds look at a token's form and at what sets them apart ([`issued_jwt`](super::issued_jwt),
//! [`opaque`](super::opaque)); whoever it is about, what it covers and how long it proves that is read here, the same
//! way for all of them.

use std::time::Duration;

use writ_verifier::json::{self, Limits};
use writ_verifier::{Members, Purpose, Scope};

use super::SubjectError;
use super::SubjectFault::{AudienceMismatch, ClaimsInvalid, Expired, Malformed, NotYetValid};
use super::issuers::Settings;
use crate::policy::{ClientPolicy, PolicySet};
use crate::request::{Source, Subject};
use writ_platform::clock::Timestamp;

/// No token expires before 2001-09-09 or later than this from now: such a number is a mistake or an attack.
const FURTHEST: Duration = Duration::from_secs(10 * 366 * 86_400);
const EARLIEST: Duration = Duration::from_secs(1_000_000_000);

/// What is read of claims: people are in hundreds of groups.
/// How deep and how wide the claims of an outside token may be.
pub const LIMITS: Limits = Limits { members: 2048, ..Limits::DEFAULT };

/// The most names that `aud` may have.
const AUDIENCES_MAX: usize = 256;

/// How long an opaque token without an expiry is good for: its issuer has called it active for the moment only, and what
/// is made of it shall end soon after.
const UNTIL_ASKED_AGAIN: Duration = Duration::from_secs(60);

/// What a verified token of a subject issuer says. Only the checks of its kind make one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideToken {
    source: Source,
    issuer: String,
    sub: Subject,
    scope: Option<Scope>,
    usable_until: Timestamp,
    bound: bool,
    claims: Members,
}

impl OutsideToken {
    /// The kind that it was presented as, and passed for: access token, JWT or ID token.
    pub fn source(&self) -> Source {
        self.source
    }

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
    /// Txn-Token made from it ends unless its purpose outlives. A minute from now where there is no `exp`, as in some
    /// replies of introspection.
    pub fn usable_until(&self) -> Timestamp {
        self.usable_until
    }

    /// Whether it is bound to a sender's key (`cnf`), for which the client has vouched.
    pub fn is_bound(&self) -> bool {
        self.bound
    }

    /// All its claims, as written; of an opaque token the members of the issuer's reply.
    pub fn claims(&self) -> &Members {
        &self.claims
    }

    /// The same token, which proves nothing any more once `other` does not.
    pub(super) fn ending_with(self, other: &Self) -> Self {
        Self { usable_until: self.usable_until.min(other.usable_until), ..self }
    }
}

impl OutsideToken {
    /// What a verified token with these claims would say that covers `scope` and whose final subject is `sub`: to see what
    /// policies make of it. No issuer signed it; of an issuer's settings nothing is known.
    ///
    /// # Errors
    /// The first [`SubjectError`] in this order: audience where it is told, the proof of a bound token, subject, times.
    pub fn supposed(
        source: Source,
        sub: Subject,
        scope: Option<Scope>,
        claims: Members,
        by: SupposedBy<'_>,
    ) -> Result<Self, SubjectError> {
        if claims.raw("aud").is_some() {
            let audience: Option<Audience> = claims.get("aud");
            let fit = audience.is_some_and(|audience| audience.is_fit_for(by.client));
            fit.then_some(()).ok_or(NOT_FOR_CLIENT)?;
        }
        let bound = vouched_for(&claims, by.client)?;
        not_a_clients(&sub, by.policies)?;
        let until = Times::read(&claims, by.now)?.hold(by.now, by.clock_skew)?;
        let usable_until = until.unwrap_or(by.now + UNTIL_ASKED_AGAIN);
        let issuer = claims.get("iss").unwrap_or_default();
        Ok(Self { source, issuer, sub, scope, usable_until, bound, claims })
    }
}

/// By whom and when a token is presented that nobody verified.
#[derive(Clone, Copy)]
pub struct SupposedBy<'a> {
    /// The client.
    pub client: &'a ClientPolicy,
    /// All clients, whose own subjects are theirs alone.
    pub policies: &'a PolicySet,
    /// Tolerated between the issuer's clock and ours.
    pub clock_skew: Duration,
    /// The instant of the request.
    pub now: Timestamp,
}

/// Whether a token is bound to a sender's key (`cnf`); its client must have checked the proof.
fn vouched_for(claims: &Members, client: &ClientPolicy) -> Result<bool, SubjectError> {
    let bound = claims.raw("cnf").is_some();
    let vouched = !bound || client.vouches_for_bound_tokens;
    vouched.then_some(bound).ok_or(ClaimsInvalid.because(
        "it has `cnf`: it is bound to a sender's key, and the client's policy does not say that it checks the proof \
         (vouches_for_bound_tokens)",
    ))
}

fn not_a_clients(sub: &Subject, policies: &PolicySet) -> Result<(), SubjectError> {
    let own = policies.is_own_subject(sub.as_str());
    if own { Err(ClaimsInvalid.because("the subject is a client's own")) } else { Ok(()) }
}

#[cfg(test)]
impl OutsideToken {
    /// A token that no issuer signed, for tests of what is done with tokens.
    pub(crate) fn about(sub: &str, scope: Option<&str>, usable_until: Timestamp) -> Self {
        let (sub, scope) = (sub.parse().unwrap(), scope.map(|scope| scope.parse().unwrap()));
        let issuer = "https://login.example".to_owned();
        let claims = Members::default();
        Self { source: Source::AccessToken, issuer, sub, scope, usable_until, bound: false, claims }
    }
}

/// The names that a message may repeat: those of the standards. Any other may be whatever was sent.
const KNOWN_CLAIMS: [&str; 40] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "act",
    "may_act",
    "scope",
    "scp",
    "client_id",
    "cnf",
    "azp",
    "nonce",
    "auth_time",
    "at_hash",
    "c_hash",
    "s_hash",
    "acr",
    "amr",
    "sid",
    "events",
    "htm",
    "htu",
    "email",
    "name",
    "groups",
    "roles",
    "entitlements",
    "active",
    "token_type",
    "token_use",
    "typ",
    "username",
    "preferred_username",
    "txn",
    "tctx",
    "rctx",
    "req_wl",
];

/// The name of a claim as a message may repeat it.
pub(super) fn shown(name: &str) -> &str {
    KNOWN_CLAIMS.iter().find(|known| **known == name).copied().unwrap_or("the configured claim")
}

/// The text of one JSON object with one meaning: claims, or a reply.
///
/// A time like `1e400` is JSON too, though no double: that is left to the check of times, which names it.
pub(super) fn members(text: &[u8]) -> Result<Members, SubjectError> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed.because("its claims are not UTF-8"))?;
    let object = || serde_json::from_str::<Members>(text);
    let checked = json::check(text, LIMITS);
    let claims = match (checked, object()) {
        (Ok(()), claims) => return claims.map_err(|_| Malformed.because("its claims are no JSON object")),
        (Err(error), Err(_)) => return Err(Malformed.because_of(format!("its claims are {error}"))),
        (Err(error), Ok(_)) if error.to_string().contains("too many") => {
            return Err(Malformed.because("an array or object in its claims has more than 2048 members"));
        }
        (Err(error), Ok(claims)) => {
            if let Some(name) = repeated(&claims) {
                return Err(Malformed.because_of(format!("the claim `{name}` stands twice")));
            }
            let timeless = timeless(&claims).and_then(|text| json::check(&text, LIMITS).ok());
            timeless.ok_or_else(|| Malformed.because_of(format!("its claims are {error}")))?;
            claims
        }
    };
    Ok(claims)
}

/// The first claim of a known name that stands twice.
fn repeated(claims: &Members) -> Option<&'static str> {
    let count = |name: &str| claims.iter().filter(|(other, _)| *other == name).count();
    KNOWN_CLAIMS.into_iter().find(|name| count(name) > 1)
}

/// The claims with every number that stands for a time as 0.
fn timeless(claims: &Members) -> Option<String> {
    let mut claims = claims.clone();
    for name in ["exp", "iat", "nbf"] {
        if claims.raw(name).is_some_and(|value| value.starts_with(|c: char| c == '-' || c.is_ascii_digit())) {
            claims.set(name, &0).ok()?;
        }
    }
    serde_json::to_string(&claims).ok()
}

/// The text of a claim that must be there.
pub(super) fn text(claims: &Members, name: &str) -> Result<String, SubjectError> {
    let fault = |fault: &str| ClaimsInvalid.because_of(format!("`{}` {fault}", shown(name)));
    if claims.raw(name).is_none() {
        return Err(fault("is missing"));
    }
    claims.get(name).ok_or_else(|| fault("must be a string"))
}

/// `aud`, in either of its forms.
pub(super) fn audience(claims: &Members) -> Result<Audience, SubjectError> {
    if claims.raw("aud").is_none() {
        return Err(ClaimsInvalid.because("`aud` is missing"));
    }
    claims.get("aud").ok_or(ClaimsInvalid.because("`aud` must be a string or an array of strings"))
}

const NOT_FOR_CLIENT: SubjectError = AudienceMismatch
    .because("`aud` names nothing of what the client is held to by its policy (subject_token_audience)");

/// What a token is measured by.
#[derive(Clone, Copy)]
pub(super) struct Measure<'a> {
    /// Settings of the issuer that it is from.
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

impl Measure<'_> {
    /// Whom the token was meant for: one of `ours`, and one of those that the client is held to.
    pub(super) fn audience(self, claims: &Members, ours: &[String]) -> Result<Audience, SubjectError> {
        let audience = audience(claims)?;
        if audience.names().len() > AUDIENCES_MAX {
            return Err(ClaimsInvalid.because("`aud` has more than 256 names"));
        }
        if !audience.names_one_of(ours) {
            return Err(AudienceMismatch.because("`aud` names nothing of what is configured for its issuer"));
        }
        audience.is_fit_for(self.client).then_some(audience).ok_or(NOT_FOR_CLIENT)
    }

    /// The rest, once form and audience are those of `source`: the proof of a bound token, subject, scope, times.
    pub(super) fn complete(self, source: Source, claims: Members) -> Result<OutsideToken, SubjectError> {
        let bound = vouched_for(&claims, self.client)?;
        let sub = self.subject(&claims)?;
        // An ID token says who somebody is, never what may be done (R-POL-05).
        let scope = if source == Source::IdToken { self.default_scope.cloned() } else { self.scope(&claims)? };
        let times = Times::read(&claims, self.now)?;
        let usable_until = times.hold(self.now, self.clock_skew)?.unwrap_or(self.now + UNTIL_ASKED_AGAIN);
        Ok(OutsideToken { source, issuer: self.issuer.issuer.clone(), sub, scope, usable_until, bound, claims })
    }

    /// The subject, unique in the trust domain: inside this issuer's prefix, and nobody else's.
    fn subject(self, claims: &Members) -> Result<Subject, SubjectError> {
        let prefix = &self.issuer.subject_prefix;
        let name = text(claims, &self.issuer.subject_claim)?;
        let sub: Result<Subject, _> = name.parse().and_then(|name: Subject| format!("{prefix}{name}").parse());
        let sub = sub.map_err(|_| SUBJECT_FORM)?;
        let foreign = |other: &String| other.len() > prefix.len() && sub.as_str().starts_with(other.as_str());
        if self.prefixes.iter().any(foreign) {
            return Err(ClaimsInvalid.because("the subject has the form of another issuer's"));
        }
        not_a_clients(&sub, self.policies)?;
        Ok(sub)
    }

    /// What the claim that tells the scope says, else what the issuer's setting does.
    fn scope(self, claims: &Members) -> Result<Option<Scope>, SubjectError> {
        Ok(scope(claims, &self.issuer.scope_claim)?.or_else(|| self.default_scope.cloned()))
    }
}

/// What is wrong with a subject that is no name.
pub(super) const SUBJECT_FORM: SubjectError =
    ClaimsInvalid.because("the subject must have 1 to 255 characters, none a control character, and hold no token");

/// RFC 6749 §3.3, single spaces only; or, as many issuers write it, an array with one word in each element. An empty
/// string or array tells nothing, as if it were absent.
///
/// # Errors
/// [`SubjectError`] where the claim is anything else.
pub fn scope(claims: &Members, name: &str) -> Result<Option<Scope>, SubjectError> {
    const FORM: SubjectError =
        ClaimsInvalid.because("the scope must be a string of words separated by single spaces, or an array of words");
    if claims.raw(name).is_none() {
        return Ok(None);
    }
    let text = match claims.get(name).ok_or(FORM)? {
        Words::Text(text) => text,
        // A word is a word: two in one element would become two of them.
        Words::List(words) if words.iter().any(|word| word.parse::<Purpose>().is_err()) => return Err(FORM),
        Words::List(words) => words.join(" "),
    };
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| FORM) }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Words {
    Text(String),
    List(Vec<String>),
}

/// `aud` (RFC 7519 §4.1.3).
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    /// Whether it is one that this client may bring.
    fn is_fit_for(&self, client: &ClientPolicy) -> bool {
        let held_to = &client.subject_token_audience;
        held_to.is_empty() || self.names_one_of(held_to)
    }

    /// Whether one of `these` is in it.
    pub(super) fn names_one_of(&self, these: &[String]) -> bool {
        self.names().iter().any(|name| these.contains(name))
    }

    /// Whether nobody else was meant.
    pub(super) fn is_single(&self) -> bool {
        self.names().len() == 1
    }

    fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Several(names) => names,
        }
    }
}

/// The times of a token, since 1970; each can be one.
pub(super) struct Times {
    pub(super) exp: Option<Duration>,
    nbf: Option<Duration>,
    pub(super) iat: Option<Duration>,
}

impl Times {
    pub(super) fn read(claims: &Members, now: Timestamp) -> Result<Self, SubjectError> {
        let time = |name, earliest| match claims.raw(name) {
            None => Ok(None),
            Some(text) => numeric_date(text, earliest, now).map(Some).map_err(|fault| {
                ClaimsInvalid.because_of(format!("`{name}` must be a number of seconds since 1970: {fault}"))
            }),
        };
        Ok(Self {
            exp: time("exp", EARLIEST)?,
            // Some issuers write 0 where they mean "from the beginning".
            nbf: time("nbf", Duration::ZERO)?,
            iat: time("iat", EARLIEST)?,
        })
    }

    /// The first second in which the token proves nothing any more, the skew included; `None` if it never said.
    ///
    /// Our clock has whole seconds, so a fraction of one counts against the token at both ends. A token issued in the
    /// future comes from a clock that is ahead, and is good later: that is no fault of its claims.
    pub(super) fn hold(&self, now: Timestamp, skew: Duration) -> Result<Option<Timestamp>, SubjectError> {
        let expires = self.exp.map(|exp| Timestamp::from_epoch(exp.as_secs()));
        if let Some(expired_at) = expires.filter(|exp| now >= *exp + skew) {
            return Err(Expired { expired_at }.into());
        }
        let latest = Duration::from_secs((now + skew).epoch());
        for (name, time) in [("nbf", self.nbf), ("iat", self.iat)] {
            if let Some(time) = time.filter(|time| *time > latest) {
                let ahead = time.as_secs().saturating_sub(now.epoch());
                return Err(NotYetValid.because_of(format!("`{name}` lies {ahead} seconds ahead of the clock here")));
            }
        }
        Ok(expires.map(|exp| exp + skew))
    }
}

/// A JSON number of seconds since 1970, integer or fraction (RFC 7519 §2), from `earliest` to ten years from now, so that
/// nothing wraps and nothing becomes "never"; else what is wrong with it.
fn numeric_date(text: &str, earliest: Duration, now: Timestamp) -> Result<Duration, &'static str> {
    const NO_NUMBER: &str = "it is no number";
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Err(NO_NUMBER);
    }
    let seconds: f64 = text.parse().map_err(|_| NO_NUMBER)?;
    let latest = Duration::from_secs((now + FURTHEST).epoch());
    if let Ok(milliseconds) = Duration::try_from_secs_f64(seconds / 1000.0)
        && (EARLIEST..=latest).contains(&milliseconds)
    {
        return Err("it looks like milliseconds");
    }
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| "it is out of range")?;
    if time > latest {
        return Err("it lies more than ten years ahead");
    }
    if time < earliest {
        return Err("it lies before 2001");
    }
    Ok(time)
}
