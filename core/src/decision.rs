//! (client, request, verified subject) → grant or denial, with the trace of rules.
//!
//! Pure: no clock, network or log. [`admit`] says what can be said without the subject token, [`decide`] the rest;
//! both write each rule they apply into the same [`Trace`], so that what is explained is the decision itself.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use uuid::Uuid;
use writ_verifier::{Members, Purpose, Scope, TxnClaims};

use crate::client::ClientId;
use crate::policy::condition::Facts;
use crate::policy::mapping::{ClaimMissing, Rejection, TransactionContext, value_fits_a_token};
use crate::policy::{Actors, ClientPolicy, PurposeRule, Redemption};
use crate::request::{Source, Subject, SubjectNameError, TokenRequest, TokenText};
use crate::subject::{OwnToken, SingleUse, VerifiedSubject};
use writ_platform::clock::Timestamp;

/// Why policy says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// A purpose that this client's policy does not have, whether or not it exists elsewhere.
    #[error("a requested purpose is not allowed for this client")]
    PurposeNotAllowed,
    /// The purpose does not accept this kind of proof.
    #[error("this kind of subject token is not accepted for a requested purpose")]
    SourceNotAllowed,
    /// The subject token names an actor, which a Txn-Token cannot, and a purpose does not ignore that.
    #[error(
        "the subject token has the claim `act`: somebody acts for its subject, which the Txn-Token could not say; \
         present a token of the subject alone, or have `actors = 'ignore'` set for each requested purpose"
    )]
    ActorNotAllowed,
    /// The subject fits none of the patterns.
    #[error("this client may not act for this subject")]
    SubjectNotAllowed,
    /// Neither the subject token nor its issuer's settings say what it covers.
    #[error("the subject token does not tell what it covers")]
    ScopeUnknown,
    /// The subject token covers less than is asked for.
    #[error("the subject token does not cover a requested purpose")]
    ScopeExceedsSubjectToken,
    /// Request details or context are not taken.
    #[error(transparent)]
    DetailsRejected(#[from] Rejection),
    /// The subject token lacks a claim that the policy puts into `tctx`.
    #[error("the subject token lacks a claim that a requested purpose needs")]
    ClaimMissing,
    /// A claim that the policy puts into `tctx`, or what a presented token of ours carries, cannot stand in a token that
    /// anybody reads.
    #[error("a claim of the subject token is nested too deeply, or too large, for the token that was asked for")]
    ClaimUnreadable,
    /// `when` is not true.
    #[error("the condition of a requested purpose does not hold")]
    ConditionFailed,
    /// So many replacements led to the token as there may be, or its transaction is too old for another.
    #[error("the token has reached its replacement limit; begin a new transaction")]
    ReplacementLimit,
    /// A redemption carries everything over: it takes no details and no context.
    #[error("{0} is not supported on a redemption")]
    UnsupportedOnRedemption(&'static str),
    /// The token is not one that this client may redeem.
    #[error("this token may not be redeemed by this client")]
    RedemptionNotAllowed,
    /// `min_age` has not passed.
    #[error("the token may be redeemed from {redeemable_at} on")]
    RedemptionTooEarly {
        /// When it may be redeemed.
        redeemable_at: Timestamp,
    },
    /// `max_age` has passed.
    #[error("the token expired at {expired_at}, too long ago to be redeemed")]
    RedemptionTooOld {
        /// Its `exp`.
        expired_at: Timestamp,
    },
}

/// One rule, as it was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The rule's name: a key of the policy file where there is one.
    pub rule: &'static str,
    /// The line of the policy file that says so, where it is written.
    pub line: Option<usize>,
    /// Whether it let the request pass.
    pub passed: bool,
    /// What was compared, for whoever may read the policy: it repeats what was sent.
    pub detail: Cow<'static, str>,
}

/// A rule, and the line that it is written in.
#[derive(Clone, Copy)]
struct Place(&'static str, Option<usize>);

impl PurposeRule {
    fn at(&self, key: &'static str) -> Place {
        Place(key, Some(self.line_of(key)))
    }
}

/// The rules applied so far, in order; the last one is the one that decided.
#[derive(Debug, Default)]
pub struct Trace(Vec<Step>);

impl Trace {
    /// The rules in the order in which they were applied.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Takes down a rule of another room.
    pub fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    fn require(
        &mut self,
        place: Place,
        passed: bool,
        detail: impl Into<Cow<'static, str>>,
        denial: Denial,
    ) -> Result<(), Denial> {
        self.check(place, if passed { Ok(()) } else { Err(denial) }, detail)
    }

    /// Takes down how a check ended.
    fn check<T, E: Into<Denial>>(
        &mut self,
        Place(rule, line): Place,
        outcome: Result<T, E>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Result<T, Denial> {
        self.0.push(Step { rule, line, passed: outcome.is_ok(), detail: detail.into() });
        outcome.map_err(Into::into)
    }
}

/// A request whose purposes are all in the client's policy and accept the kind of proof that it brings.
#[derive(Debug)]
pub struct Asked<'a> {
    client: &'a ClientPolicy,
    request: &'a TokenRequest,
}

impl<'a> Asked<'a> {
    /// The client's policy.
    pub fn client(&self) -> &'a ClientPolicy {
        self.client
    }

    /// The request.
    pub fn request(&self) -> &'a TokenRequest {
        self.request
    }

    /// The first rule by which this client may redeem an expired token for a purpose it asks for.
    pub fn redeeming_rule(&self) -> Option<&'a PurposeRule> {
        self.request
            .scope
            .purposes()
            .iter()
            .find_map(|purpose| self.client.rules(purpose).find(|rule| rule.redemption.is_some()))
    }

    /// The rule of each purpose that accepts `source`; `None` if one has no such rule.
    pub fn rules(&self, source: Source) -> Option<Vec<&'a PurposeRule>> {
        let rule = |purpose| self.client.rules(purpose).find(|rule| rule.accept.contains(&source));
        self.request.scope.purposes().iter().map(rule).collect()
    }

    /// Several purposes live as long as the shortest of them.
    fn grant(&self, rules: &[&PurposeRule], carried: TransactionContext, kind: GrantKind) -> Grant {
        let lifetime = rules.iter().map(|rule| rule.lifetime).min().unwrap_or_default();
        let asks_pdp = rules.iter().filter(|rule| rule.pdp).map(|rule| rule.purpose.clone()).collect();
        let (client, scope) = (self.client.client_id.clone(), self.request.scope.clone());
        Grant { client, scope, lifetime, asks_pdp, carried, kind }
    }
}

/// What can be refused without the subject token, is: each purpose must be in the policy, then accept the source.
///
/// # Errors
/// [`Denial::PurposeNotAllowed`], [`Denial::SourceNotAllowed`].
pub fn admit<'a>(client: &'a ClientPolicy, request: &'a TokenRequest, trace: &mut Trace) -> Result<Asked<'a>, Denial> {
    let purposes = request.scope.purposes();
    for purpose in purposes {
        let rule = client.rules(purpose).next();
        let detail = match rule {
            Some(_) => format!("{purpose} is a purpose of this policy"),
            None => format!("{purpose} is no purpose of this policy"),
        };
        let place = rule.map_or(Place("scope", None), |rule| rule.at("scope"));
        trace.require(place, rule.is_some(), detail, Denial::PurposeNotAllowed)?;
    }
    let sources = request.presented.sources();
    for purpose in purposes {
        let accepts = |rule: &&PurposeRule| sources.iter().any(|source| rule.accept.contains(source));
        let accepting = client.rules(purpose).find(accepts);
        let detail = if let Some(rule) = accepting {
            let taken = names(sources.iter().filter(|source| rule.accept.contains(source)));
            format!("{purpose} accepts {taken}")
        } else {
            let taken = names(client.rules(purpose).flat_map(|rule| &rule.accept));
            format!("{purpose} accepts {taken}, not {}", names(sources))
        };
        let place = accepting.or(client.rules(purpose).next());
        let place = place.map_or(Place("accept", None), |rule| rule.at("accept"));
        trace.require(place, accepting.is_some(), detail, Denial::SourceNotAllowed)?;
    }
    Ok(Asked { client, request })
}

fn names<'a>(sources: impl IntoIterator<Item = &'a Source>) -> String {
    listed(sources.into_iter().map(|source| source.name()))
}

fn listed<T: fmt::Display>(all: impl IntoIterator<Item = T>) -> String {
    let words: Vec<_> = all.into_iter().map(|one| one.to_string()).collect();
    words.join(" or ")
}

/// A yes: what the Txn-Token will say. Only [`decide`] makes one.
#[derive(Debug, Clone)]
pub struct Grant {
    client: ClientId,
    scope: Scope,
    lifetime: Duration,
    asks_pdp: Vec<Purpose>,
    carried: TransactionContext,
    kind: GrantKind,
}

/// What a grant is for.
#[derive(Debug, Clone)]
pub enum GrantKind {
    /// A new transaction.
    Issue {
        /// Whom it is for.
        sub: Subject,
        /// The token must not outlive this instant.
        not_after: Option<Timestamp>,
        /// What is spent with it.
        single_use: Option<SingleUse>,
    },
    /// A new token for a transaction that goes on.
    Replace {
        /// The live token.
        original: Box<OwnToken>,
        /// The new one must not outlive this instant.
        not_after: Timestamp,
    },
    /// A use of the right to redeem an expired token.
    Redeem {
        /// The expired token.
        original: Box<OwnToken>,
        /// How often its transaction may be redeemed for this purpose.
        max_uses: u32,
        /// Whether it must be on record.
        require_record: bool,
    },
}

impl Grant {
    /// Who asked.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// What for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The purposes about which the external decision point has still to be asked.
    pub fn asks_pdp(&self) -> &[Purpose] {
        &self.asks_pdp
    }

    /// Whom it is for.
    pub fn sub(&self) -> &str {
        match &self.kind {
            GrantKind::Issue { sub, .. } => sub.as_str(),
            GrantKind::Replace { original, .. } | GrantKind::Redeem { original, .. } => &original.claims.sub,
        }
    }

    /// The token of ours that it came from; `None` for a new transaction.
    pub fn original(&self) -> Option<&OwnToken> {
        match &self.kind {
            GrantKind::Issue { .. } => None,
            GrantKind::Replace { original, .. } | GrantKind::Redeem { original, .. } => Some(original),
        }
    }

    /// Issue, replace or redeem.
    pub fn kind(&self) -> &GrantKind {
        &self.kind
    }

    /// What the token carries, and what it is for, with what that takes along.
    pub fn into_parts(self) -> (TransactionContext, GrantKind) {
        (self.carried, self.kind)
    }

    /// When a token that is issued `now` expires.
    pub fn expiry(&self, now: Timestamp) -> Timestamp {
        let expiry = now + self.lifetime;
        match self.kind {
            GrantKind::Issue { not_after: Some(limit), .. } | GrantKind::Replace { not_after: limit, .. } => {
                expiry.min(limit)
            }
            GrantKind::Issue { not_after: None, .. } | GrantKind::Redeem { .. } => expiry,
        }
    }
}

#[cfg(test)]
impl Grant {
    /// A right to redeem that no policy granted, for tests of what comes of it: for a minute each time.
    pub(crate) fn redeeming(client: &str, original: OwnToken, max_uses: u32, require_record: bool) -> Self {
        let carried = TransactionContext { tctx: original.claims.tctx.clone(), rctx: original.claims.rctx.clone() };
        let scope = original.claims.scope.clone();
        let kind = GrantKind::Redeem { original: Box::new(original), max_uses, require_record };
        Self {
            client: client.parse().unwrap(),
            scope,
            lifetime: Duration::from_secs(60),
            asks_pdp: Vec::new(),
            carried,
            kind,
        }
    }

    /// The same, where the external decision point has still to be asked about these purposes.
    pub(crate) fn asking_pdp(self, purposes: &[&str]) -> Self {
        Self { asks_pdp: purposes.iter().map(|purpose| purpose.parse().unwrap()).collect(), ..self }
    }

    /// A new transaction that no policy granted.
    pub(crate) fn issuing(client: &str, sub: &str, scope: &str, not_after: Option<Timestamp>) -> Self {
        let kind = GrantKind::Issue { sub: sub.parse().unwrap(), not_after, single_use: None };
        let (lifetime, carried) = (Duration::from_secs(60), TransactionContext::default());
        Self {
            client: client.parse().unwrap(),
            scope: scope.parse().unwrap(),
            lifetime,
            asks_pdp: Vec::new(),
            carried,
            kind,
        }
    }
}

/// Under what circumstances a decision is made.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The instant of the request.
    pub now: Timestamp,
    /// How often the token of a transaction may be replaced.
    pub max_replacements: u32,
}

/// Decides on a verified subject.
///
/// # Errors
/// The first [`Denial`], in the order of the contract: scope, subject, details, condition, then the rules of redemption.
pub fn decide(
    asked: &Asked<'_>,
    subject: VerifiedSubject,
    at: Circumstances,
    trace: &mut Trace,
) -> Result<Grant, Denial> {
    let rules = asked.rules(subject.source());
    let none = Members::default();
    match subject {
        VerifiedSubject::Own(token) => match rules {
            Some(rules) if token.alive => replace(asked, &rules, token, at, trace),
            _ => redeem(asked, token, at.now, trace),
        },
        VerifiedSubject::Client => {
            let proof = Proof { sub: &asked.client.subject, claims: &none, usable_until: None, single_use: None };
            issue(asked, &rules.ok_or(Denial::SourceNotAllowed)?, &proof, at.now, trace)
        }
        VerifiedSubject::Named(sub) => {
            let rules = rules.ok_or(Denial::SourceNotAllowed)?;
            may_name(asked, &rules, &sub, trace)?;
            let proof = Proof { sub: &sub, claims: &none, usable_until: None, single_use: None };
            issue(asked, &rules, &proof, at.now, trace)
        }
        VerifiedSubject::Asserted(asserted) => {
            let rules = rules.ok_or(Denial::SourceNotAllowed)?;
            no_actor(&rules, asserted.claims(), trace)?;
            may_name(asked, &rules, asserted.sub(), trace)?;
            let proof = Proof {
                sub: asserted.sub(),
                claims: asserted.claims(),
                usable_until: asserted.usable_until(),
                single_use: asserted.single_use(),
            };
            issue(asked, &rules, &proof, at.now, trace)
        }
        VerifiedSubject::Outside(token) => {
            let rules = rules.ok_or(Denial::SourceNotAllowed)?;
            no_actor(&rules, token.claims(), trace)?;
            for rule in &rules {
                covered(rule, token.scope(), trace)?;
            }
            for rule in &rules {
                fits_subjects(rule, token.sub(), trace)?;
            }
            let usable_until = Some(token.usable_until());
            let proof = Proof { sub: token.sub(), claims: token.claims(), usable_until, single_use: None };
            issue(asked, &rules, &proof, at.now, trace)
        }
    }
}

/// A token that names an actor says that its subject does not act alone (RFC 8693 §4.1). Whatever `act` looks like:
/// one that cannot be understood says that somebody acts, too. `may_act` says who might, not that anybody does.
fn no_actor(rules: &[&PurposeRule], claims: &Members, trace: &mut Trace) -> Result<(), Denial> {
    if claims.raw("act").is_none() {
        return Ok(());
    }
    for rule in rules {
        let ignored = rule.actors == Actors::Ignored;
        let does = if ignored { "ignores" } else { "does not ignore" };
        let detail = format!("the subject token names an actor (act), which {} {does}", rule.purpose);
        trace.require(rule.at("actors"), ignored, detail, Denial::ActorNotAllowed)?;
    }
    Ok(())
}

/// Where a new transaction begins.
struct Proof<'a> {
    sub: &'a Subject,
    claims: &'a Members,
    usable_until: Option<Timestamp>,
    single_use: Option<SingleUse>,
}

fn issue(
    asked: &Asked<'_>,
    rules: &[&PurposeRule],
    proof: &Proof<'_>,
    now: Timestamp,
    trace: &mut Trace,
) -> Result<Grant, Denial> {
    let mut carried = TransactionContext::default();
    map(asked, rules, Some(proof.claims), &mut carried, trace)?;
    conditions(asked, rules, proof.sub.as_str(), proof.claims, now, trace)?;
    let not_after = proof.usable_until.filter(|_| !rules.iter().all(|rule| rule.outlive));
    let kind = GrantKind::Issue { sub: proof.sub.clone(), not_after, single_use: proof.single_use };
    Ok(asked.grant(rules, carried, kind))
}

/// The client's own subject needs no pattern; any other must fit one.
fn may_name(asked: &Asked<'_>, rules: &[&PurposeRule], sub: &Subject, trace: &mut Trace) -> Result<(), Denial> {
    if *sub == asked.client.subject {
        return trace.check(Place("subject", None), Ok::<_, Denial>(()), format!("{sub} is the client itself"));
    }
    for rule in rules {
        fits(rule, sub, trace)?;
    }
    Ok(())
}

/// One of the patterns must fit; none written, none fits.
fn fits(rule: &PurposeRule, sub: &Subject, trace: &mut Trace) -> Result<(), Denial> {
    let patterns = rule.subjects.as_deref().unwrap_or_default();
    let fitting = patterns.iter().find(|pattern| pattern.matches(sub.as_str()));
    let detail = match fitting {
        Some(pattern) => format!("{sub} fits {pattern}"),
        None if patterns.is_empty() => format!("{} names no subjects, and {sub} is another one", rule.purpose),
        None => format!("{sub} does not fit {}", listed(patterns)),
    };
    trace.require(rule.at("subjects"), fitting.is_some(), detail, Denial::SubjectNotAllowed)
}

/// Adds to `carried` what the purposes make of details, context and claims. At the first issue, where there are claims,
/// details that were not sent must fit the schemas too; after that a transaction has its details.
fn map(
    asked: &Asked<'_>,
    rules: &[&PurposeRule],
    claims: Option<&Members>,
    carried: &mut TransactionContext,
    trace: &mut Trace,
) -> Result<(), Denial> {
    let request = asked.request;
    for rule in rules.iter().filter(|rule| rule.mapping.schema.is_some()) {
        let fits = rule.mapping.admit(request, claims.is_some());
        let detail = match &fits {
            Ok(()) => format!("the details fit the schema of {}", rule.purpose),
            Err(unfit) => format!("the details do not fit the schema of {}: {}", rule.purpose, unfit.why),
        };
        trace.check(rule.at("request_details"), fits.map_err(Rejection::from), detail)?;
    }
    for rule in rules {
        let made = match rule.mapping.apply(request, claims) {
            Ok(made) => made,
            Err(ClaimMissing { member, claim }) => {
                let detail = format!("{member} is made of the claim {claim}, which the subject token lacks");
                return trace.check(rule.at("tctx.subject"), Err(Denial::ClaimMissing), detail);
            }
        };
        if claims.is_some() {
            for (member, claim) in &rule.mapping.tctx_subject {
                if !made.tctx.raw(member).is_some_and(value_fits_a_token) {
                    let detail =
                        format!("{member} is made of the claim {claim}, which no reader of a token would take");
                    return trace.check(rule.at("tctx.subject"), Err(Denial::ClaimUnreadable), detail);
                }
            }
        }
        let members: Vec<_> = made.tctx.iter().chain(made.rctx.iter()).map(|(name, _)| name).collect();
        let extended = carried.extend(&made);
        let detail = match &extended {
            Ok(()) => format!("{} brings {}", rule.purpose, members.join(", ")),
            Err(rejection) => format!("{} brings {}, but {rejection}", rule.purpose, members.join(", ")),
        };
        if !members.is_empty() {
            trace.check(Place("tctx, rctx", Some(rule.line)), extended, detail)?;
        }
    }
    let sent = request.presented.token().map(TokenText::expose);
    carried.refuse_unreadable().and_then(|()| carried.refuse_tokens(sent)).or_else(|rejection| {
        let detail = rejection.to_string();
        trace.check(Place("tctx, rctx", None), Err(rejection), detail)
    })
}

/// `when` of each purpose, on the request's details and context.
fn conditions(
    asked: &Asked<'_>,
    rules: &[&PurposeRule],
    sub: &str,
    claims: &Members,
    now: Timestamp,
    trace: &mut Trace,
) -> Result<(), Denial> {
    let (request, none) = (asked.request, Members::default());
    let client = asked.client.client_id.as_str();
    for rule in rules {
        let details = rule.mapping.details(request).unwrap_or(&none);
        let context = request.context.as_ref().unwrap_or(&none);
        condition(rule, Facts { client, sub, claims, scope: &request.scope, details, context, now }, trace)?;
    }
    Ok(())
}

fn condition(rule: &PurposeRule, facts: Facts<'_>, trace: &mut Trace) -> Result<(), Denial> {
    let Some(condition) = &rule.when else { return Ok(()) };
    let holds = condition.holds(facts);
    let why = holds.err().map(|why| format!(" ({why})")).unwrap_or_default();
    let detail = format!("{}: {}{why}", rule.purpose, condition.source());
    trace.require(rule.at("when"), holds == Ok(true), detail, Denial::ConditionFailed)
}

/// No token of a transaction is issued to live beyond this after its beginning.
const TRANSACTION_SPAN: Duration = Duration::from_secs(15 * 60);

/// The longest chain of clients (R-SUBJ-24).
const LONGEST_CHAIN: usize = 32;

/// A live token of ours: the transaction goes on, for the same purposes or fewer (R-SUBJ-19 to R-SUBJ-25).
fn replace(
    asked: &Asked<'_>,
    rules: &[&PurposeRule],
    token: Box<OwnToken>,
    at: Circumstances,
    trace: &mut Trace,
) -> Result<Grant, Denial> {
    let claims = &token.claims;
    let within = asked.request.scope.purposes().iter().all(|purpose| claims.scope.contains(purpose.as_str()));
    let detail = format!("the token is for {}", claims.scope);
    trace.require(Place("scope", None), within, detail, Denial::ScopeExceedsSubjectToken)?;
    let sub = own_subject(claims, trace)?;
    for rule in rules {
        fits_subjects(rule, &sub, trace)?;
    }
    let mut carried = TransactionContext { tctx: claims.tctx.clone(), rctx: claims.rctx.clone() };
    map(asked, rules, None, &mut carried, trace)?;
    conditions(asked, rules, &claims.sub, &as_members(claims), at.now, trace)?;
    let chain = claims.req_wl_chain.len().max(1);
    let replaced = chain - 1;
    let few = replaced < usize::try_from(at.max_replacements).unwrap_or(usize::MAX) && chain < LONGEST_CHAIN;
    let detail = format!("{replaced} replacements led to this token, at most {} may", at.max_replacements);
    let place = Place("tokens.max_replacements", None);
    trace.require(place, few, detail, Denial::ReplacementLimit)?;
    let ends = began(&claims.txn).map(|began| began + TRANSACTION_SPAN);
    let young = ends.is_some_and(|ends| at.now < ends);
    let detail = match ends {
        Some(ends) => format!("its transaction gets no token from {ends} on, fifteen minutes after it began"),
        None => "its txn does not tell when the transaction began".to_owned(),
    };
    trace.require(Place("txn", None), young, detail, Denial::ReplacementLimit)?;
    let ends = ends.ok_or(Denial::ReplacementLimit)?;
    let outlives = rules.iter().all(|rule| rule.outlive);
    let not_after = if outlives { ends } else { ends.min(Timestamp::from_epoch(claims.exp)) };
    Ok(asked.grant(rules, carried, GrantKind::Replace { original: token, not_after }))
}

/// The claims of a token of ours, as a condition sees them.
fn as_members(claims: &TxnClaims) -> Members {
    let text = serde_json::to_string(claims).expect("claims that were read as JSON can be written as JSON");
    serde_json::from_str(&text).expect("what was just written is an object")
}

/// The second in which a transaction began: it is in its `UUIDv7`.
pub fn began(txn: &str) -> Option<Timestamp> {
    let (seconds, _) = Uuid::parse_str(txn).ok()?.get_timestamp()?.to_unix();
    Some(Timestamp::from_epoch(seconds))
}

/// The subject of a token of ours.
fn own_subject(claims: &TxnClaims, trace: &mut Trace) -> Result<Subject, Denial> {
    claims.sub.parse().or_else(|error: SubjectNameError| {
        trace.check(Place("subjects", None), Err(Denial::SubjectNotAllowed), error.to_string())
    })
}

fn covered(rule: &PurposeRule, scope: Option<&Scope>, trace: &mut Trace) -> Result<(), Denial> {
    let place = rule.at("granted_by");
    let Some(scope) = scope else {
        let detail = "neither the subject token nor its issuer's scopes say what it covers";
        return trace.check(place, Err(Denial::ScopeUnknown), detail);
    };
    let granting = rule.granted_by.iter().find(|by| scope.contains(by.as_str()));
    let detail = match granting {
        Some(by) => format!("{by} grants {}", rule.purpose),
        None => format!("{} grants {}; the token covers {scope}", listed(&rule.granted_by), rule.purpose),
    };
    trace.require(place, granting.is_some(), detail, Denial::ScopeExceedsSubjectToken)
}

/// Where patterns are written they bind the subjects of tokens too.
fn fits_subjects(rule: &PurposeRule, sub: &Subject, trace: &mut Trace) -> Result<(), Denial> {
    if rule.subjects.is_some() { fits(rule, sub, trace) } else { Ok(()) }
}

/// The order at the end of area DELAY: purpose, originator, age; record and count are the ledger's.
///
/// A live token at a purpose that accepts only expired ones is measured by the same rules: it is too early.
fn redeem(asked: &Asked<'_>, token: Box<OwnToken>, now: Timestamp, trace: &mut Trace) -> Result<Grant, Denial> {
    let request = asked.request;
    let found = asked.redeeming_rule().and_then(|rule| Some((rule, rule.redemption.as_ref()?)));
    let Some((rule, redemption)) = found else {
        let detail = format!("{} has no redemption table", request.scope);
        return trace.check(Place("redemption", None), Err(Denial::SourceNotAllowed), detail);
    };
    for (name, sent) in [("request_details", &request.details), ("request_context", &request.context)] {
        if sent.is_some() {
            let detail = "was sent, and everything is carried over from the token";
            trace.check(Place(name, None), Err(Denial::UnsupportedOnRedemption(name)), detail)?;
        }
    }
    let single = token.claims.scope.single().is_some();
    let detail = match token.claims.scope.single() {
        Some(purpose) => format!("the token has a single purpose, {purpose}"),
        None => format!("the token has several purposes, {}", token.claims.scope),
    };
    trace.require(rule.at("redemption"), single, detail, Denial::RedemptionNotAllowed)?;
    let same = token.claims.scope == request.scope;
    let detail = format!("the token is for {}", token.claims.scope);
    trace.require(rule.at("scope"), same, detail, Denial::ScopeExceedsSubjectToken)?;
    let sub = own_subject(&token.claims, trace)?;
    fits_subjects(rule, &sub, trace)?;
    let carried = TransactionContext { tctx: token.claims.tctx.clone(), rctx: token.claims.rctx.clone() };
    if let Err(rejection) = carried.refuse_unreadable() {
        let detail = format!("the mark of a redemption would be one too many: {rejection}");
        return trace.check(Place("rctx", None), Err(Denial::ClaimUnreadable), detail);
    }
    let facts = Facts {
        client: asked.client.client_id.as_str(),
        sub: &token.claims.sub,
        claims: &as_members(&token.claims),
        scope: &request.scope,
        details: &carried.tctx,
        context: &carried.rctx,
        now,
    };
    condition(rule, facts, trace)?;
    let named = redemption.issued_to.iter().any(|client| client.as_str() == token.claims.req_wl);
    let (by, of) = (&token.claims.req_wl, listed(&redemption.issued_to));
    let detail =
        if named { format!("{by} asked for the token") } else { format!("{by} asked for the token, not {of}") };
    trace.require(rule.at("redemption.issued_to"), named, detail, Denial::RedemptionNotAllowed)?;
    of_age(rule, redemption, Timestamp::from_epoch(token.claims.exp), now, trace)?;
    let (max_uses, require_record) = (redemption.max_uses, redemption.require_record);
    Ok(asked.grant(&[rule], carried, GrantKind::Redeem { original: token, max_uses, require_record }))
}

fn of_age(
    rule: &PurposeRule,
    redemption: &Redemption,
    exp: Timestamp,
    now: Timestamp,
    trace: &mut Trace,
) -> Result<(), Denial> {
    let redeemable_at = exp + redemption.min_age;
    let early = Denial::RedemptionTooEarly { redeemable_at };
    let detail = format!("it can be redeemed from {redeemable_at} on");
    trace.require(rule.at("redemption.min_age"), now >= redeemable_at, detail, early)?;
    let last = exp + redemption.max_age;
    let old = Denial::RedemptionTooOld { expired_at: exp };
    let detail = format!("it can be redeemed until {last}");
    trace.require(rule.at("redemption.max_age"), now <= last, detail, old)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;
    use writ_verifier::TxnClaims;

    use super::*;
    use crate::client::{Identity, IdentityKind};
    use crate::policy::Glob;
    use crate::policy::condition::Condition;
    use crate::policy::mapping::Mapping;
    use crate::policy::schema::Schema;
    use crate::request::Presented;
    use crate::subject::{AssertedSubject, OutsideToken};

    const NOW: Timestamp = Timestamp::from_epoch(1_790_000_000);
    const AT: Circumstances = Circumstances { now: NOW, max_replacements: 4 };
    const DAY: Duration = Duration::from_secs(86_400);

    fn rule(purpose: &str, accept: &[Source]) -> PurposeRule {
        PurposeRule {
            purpose: purpose.parse().unwrap(),
            line: 1,
            lines: BTreeMap::new(),
            lifetime: Duration::from_secs(60),
            accept: accept.to_vec(),
            subjects: None,
            granted_by: Vec::new(),
            mapping: Mapping::default(),
            when: None,
            outlive: false,
            actors: Actors::Refused,
            pdp: false,
            redemption: None,
        }
    }

    fn policy(purposes: Vec<PurposeRule>) -> ClientPolicy {
        ClientPolicy {
            client_id: "purge-job".parse().unwrap(),
            description: None,
            identity: Identity::parse(IdentityKind::SanUri, "spiffe://d.example/purge").unwrap(),
            subject: "svc:purge".parse().unwrap(),
            introspect: false,
            subject_token_audience: Vec::new(),
            vouches_for_bound_tokens: false,
            opaque_tokens_from: None,
            keys: None,
            purposes,
        }
    }

    fn request(scope: &str, presented: Presented) -> TokenRequest {
        TokenRequest { scope: scope.parse().unwrap(), presented, details: None, context: None }
    }

    fn decided(policy: &ClientPolicy, request: &TokenRequest, subject: VerifiedSubject) -> Result<Grant, Denial> {
        let mut trace = Trace::default();
        let asked = admit(policy, request, &mut trace)?;
        let outcome = decide(&asked, subject, AT, &mut trace);
        let last = trace.steps().last().expect("a decision has steps");
        assert_eq!(last.passed, outcome.is_ok(), "the last step is the one that decided: {last:?}");
        outcome
    }

    fn named(name: &str) -> (Presented, VerifiedSubject) {
        let subject: Subject = name.parse().unwrap();
        (Presented::Named(subject.clone()), VerifiedSubject::Named(subject))
    }

    /// R-POL-12: each rule says where it is written and what it compared.
    #[test]
    fn the_trace_tells_what_was_compared_and_where() {
        let lines = BTreeMap::from([("accept".to_owned(), 5), ("subjects".to_owned(), 6)]);
        let named_only = PurposeRule {
            subjects: Some(vec![Glob::new("u-*"), Glob::new("v-*")]),
            line: 3,
            lines,
            ..rule("a", &[Source::ClientCredentials, Source::TxnToken])
        };
        let policy = policy(vec![named_only]);
        let traced = |scope: &str, (presented, subject): (Presented, VerifiedSubject)| {
            let (mut trace, request) = (Trace::default(), request(scope, presented));
            let outcome =
                admit(&policy, &request, &mut trace).and_then(|asked| decide(&asked, subject, AT, &mut trace));
            let last = trace.steps().last().unwrap();
            assert_eq!(last.passed, outcome.is_ok());
            (last.rule, last.line, last.detail.to_string())
        };
        let told = |rule, line, detail: &str| (rule, line, detail.to_owned());
        assert_eq!(traced("a", named("v-1")), told("subjects", Some(6), "v-1 fits v-*"));
        assert_eq!(traced("a", named("w-1")), told("subjects", Some(6), "w-1 does not fit u-* or v-*"));
        assert_eq!(traced("a", named("svc:purge")), told("subject", None, "svc:purge is the client itself"));
        assert_eq!(traced("b", named("u-1")), told("scope", None, "b is no purpose of this policy"));
        let signed = (form("a", "self_signed").presented, VerifiedSubject::Client);
        let detail = "a accepts client_credentials or txn_token, not self_signed";
        assert_eq!(traced("a", signed), told("accept", Some(5), detail));
    }

    /// R-POL-01, A-079
    #[test]
    fn what_is_not_written_is_not_allowed() {
        let policy = policy(vec![rule("a", &[Source::AccessToken])]);
        let own = || VerifiedSubject::Client;
        let refused = decided(&policy, &request("b", Presented::Client), own()).unwrap_err();
        assert_eq!(refused, Denial::PurposeNotAllowed);
        assert_eq!(decided(&policy, &request("a", Presented::Client), own()).unwrap_err(), Denial::SourceNotAllowed);
    }

    /// A-081
    #[test]
    fn one_purpose_refused_refuses_all() {
        let policy = policy(vec![rule("a", &[Source::ClientCredentials]), rule("b", &[Source::AccessToken])]);
        let subject = VerifiedSubject::Client;
        let refused = decided(&policy, &request("a b", Presented::Client), subject).unwrap_err();
        assert_eq!(refused, Denial::SourceNotAllowed);
    }

    #[test]
    fn several_purposes_live_as_long_as_the_shortest() {
        let brief = PurposeRule { lifetime: Duration::from_secs(5), ..rule("b", &[Source::ClientCredentials]) };
        let policy = policy(vec![rule("a", &[Source::ClientCredentials]), brief]);
        let grant = decided(&policy, &request("a b", Presented::Client), VerifiedSubject::Client).unwrap();
        assert_eq!(grant.expiry(NOW), NOW + Duration::from_secs(5));
    }

    #[test]
    fn the_decision_point_is_asked_about_the_purposes_that_want_it() {
        let wanting = |purpose| PurposeRule { pdp: true, ..rule(purpose, &[Source::ClientCredentials]) };
        let policy = policy(vec![wanting("a"), rule("b", &[Source::ClientCredentials]), wanting("c")]);
        let asks = |scope: &str| {
            let grant = decided(&policy, &request(scope, Presented::Client), VerifiedSubject::Client).unwrap();
            grant.asks_pdp().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(asks("c b a"), ["c", "a"]);
        assert!(asks("b").is_empty());
    }

    /// R-REQ-19, A-083
    #[test]
    fn a_named_subject_must_fit_a_pattern_unless_it_is_the_clients_own() {
        let open =
            PurposeRule { subjects: Some(vec![Glob::new("*@d.example")]), ..rule("a", &[Source::ClientCredentials]) };
        let closed = rule("b", &[Source::ClientCredentials]);
        let policy = policy(vec![open, closed]);
        let outcome = |scope: &str, name: &str| {
            let (presented, subject) = named(name);
            decided(&policy, &request(scope, presented), subject).map(|grant| grant.sub().to_owned())
        };
        assert_eq!(outcome("a", "ann@d.example").unwrap(), "ann@d.example");
        assert_eq!(outcome("b", "svc:purge").unwrap(), "svc:purge");
        assert_eq!(outcome("a", "ann@e.example").unwrap_err(), Denial::SubjectNotAllowed);
        assert_eq!(outcome("b", "ann@d.example").unwrap_err(), Denial::SubjectNotAllowed);
        assert_eq!(outcome("a b", "ann@d.example").unwrap_err(), Denial::SubjectNotAllowed);
    }

    fn redeeming() -> ClientPolicy {
        let redemption = Redemption {
            issued_to: vec!["account-service".parse().unwrap()],
            min_age: DAY,
            max_age: 2 * DAY,
            max_uses: 1,
            require_record: true,
        };
        let purge = rule("account.purge", &[Source::ExpiredTxnToken]);
        policy(vec![PurposeRule { redemption: Some(redemption), ..purge }, rule("other", &[Source::TxnToken])])
    }

    fn expired(age: Duration) -> TxnClaims {
        let exp = (NOW - age).epoch();
        serde_json::from_value(serde_json::json!({
            "iat": exp - 60, "exp": exp, "aud": "d.example", "txn": "t", "sub": "u-1",
            "scope": "account.purge", "req_wl": "account-service"
        }))
        .unwrap()
    }

    fn redeem(scope: &str, claims: TxnClaims) -> Result<Grant, Denial> {
        redeem_by(&redeeming(), scope, claims)
    }

    fn redeem_by(policy: &ClientPolicy, scope: &str, claims: TxnClaims) -> Result<Grant, Denial> {
        let request = form(scope, "txn_token");
        let alive = NOW.epoch() < claims.exp;
        let token = OwnToken { claims, signed_part: [0; 32], kid: "k".into(), key_state: "historical", alive };
        decided(policy, &request, VerifiedSubject::Own(Box::new(token)))
    }

    /// R-DELAY-11, A-096: both ends of the age window are inside.
    #[test]
    fn a_token_is_redeemed_within_its_age_and_not_outside() {
        assert!(redeem("account.purge", expired(DAY)).is_ok());
        assert!(redeem("account.purge", expired(2 * DAY)).is_ok());
        let second = Duration::from_secs(1);
        let young = redeem("account.purge", expired(DAY.saturating_sub(second))).unwrap_err();
        assert_eq!(young, Denial::RedemptionTooEarly { redeemable_at: NOW + second });
        let old = redeem("account.purge", expired(2 * DAY + second)).unwrap_err();
        assert_eq!(old, Denial::RedemptionTooOld { expired_at: NOW - (2 * DAY + second) });
    }

    #[test]
    fn a_live_token_is_too_early_even_where_no_age_is_asked() {
        let mut claims = expired(DAY);
        claims.exp = NOW.epoch() + 10;
        let redeemable_at = NOW + Duration::from_secs(10) + DAY;
        assert_eq!(redeem("account.purge", claims).unwrap_err(), Denial::RedemptionTooEarly { redeemable_at });
    }

    /// R-DELAY-05, A-094
    #[test]
    fn the_scope_is_the_same_single_purpose_on_every_side() {
        let other = TxnClaims { scope: "other".parse().unwrap(), ..expired(DAY) };
        assert_eq!(redeem("account.purge", other).unwrap_err(), Denial::ScopeExceedsSubjectToken);
        assert_eq!(redeem("account.purge other", expired(DAY)).unwrap_err(), Denial::ScopeExceedsSubjectToken);
        let two = TxnClaims { scope: "account.purge other".parse().unwrap(), ..expired(DAY) };
        assert_eq!(redeem("account.purge", two.clone()).unwrap_err(), Denial::RedemptionNotAllowed);
        assert_eq!(redeem("account.purge other", two).unwrap_err(), Denial::RedemptionNotAllowed);
    }

    /// A-093
    #[test]
    fn a_token_issued_to_anyone_else_is_not_redeemed() {
        let stranger = TxnClaims { req_wl: "gateway".into(), ..expired(DAY) };
        assert_eq!(redeem("account.purge", stranger).unwrap_err(), Denial::RedemptionNotAllowed);
    }

    fn live(scope: &str, chain: &[&str]) -> OwnToken {
        let began = NOW.epoch() - 30;
        let claims = serde_json::json!({
            "iat": began, "exp": NOW.epoch() + 30, "aud": "d.example", "txn": txn(began), "sub": "u-1", "scope": scope,
            "req_wl": "gateway", "req_wl_chain": chain, "rctx": {"req_ip": "192.0.2.1"}
        });
        let mut claims: TxnClaims = serde_json::from_value(claims).unwrap();
        claims.tctx = serde_json::from_str(r#"{"amount":0.10}"#).unwrap();
        OwnToken { claims, signed_part: [0; 32], kid: "k".into(), key_state: "current", alive: true }
    }

    fn replaced(rule: PurposeRule, request: &TokenRequest, token: OwnToken) -> Result<Grant, Denial> {
        decided(&policy(vec![rule]), request, VerifiedSubject::Own(Box::new(token)))
    }

    fn asking(scope: &str) -> TokenRequest {
        form(scope, "txn_token")
    }

    /// R-SUBJ-20, R-SUBJ-21
    #[test]
    fn a_replacement_asks_for_no_more_than_the_token_has() {
        let rule = || rule("a", &[Source::TxnToken]);
        let grant = replaced(rule(), &asking("a"), live("b a", &[])).unwrap();
        assert_eq!((grant.scope().to_string().as_str(), grant.sub()), ("a", "u-1"));
        let refused = replaced(rule(), &asking("a"), live("b", &[])).unwrap_err();
        assert_eq!(refused, Denial::ScopeExceedsSubjectToken);
        let bound = PurposeRule { subjects: Some(vec![Glob::new("v-*")]), ..rule() };
        assert_eq!(replaced(bound, &asking("a"), live("a", &[])).unwrap_err(), Denial::SubjectNotAllowed);
    }

    /// R-SUBJ-25, A-110
    #[test]
    fn a_replacement_ends_with_the_token_or_with_its_transaction() {
        let long =
            |outlive| PurposeRule { lifetime: Duration::from_secs(870), outlive, ..rule("a", &[Source::TxnToken]) };
        let ends = |outlive| replaced(long(outlive), &asking("a"), live("a", &[])).unwrap().expiry(NOW).since(NOW);
        assert_eq!(ends(false), Duration::from_secs(30));
        assert_eq!(ends(true), Duration::from_secs(870), "fifteen minutes after it began");
        let mut old = live("a", &[]);
        old.claims.txn = txn(NOW.epoch() - 900);
        assert_eq!(replaced(long(true), &asking("a"), old).unwrap_err(), Denial::ReplacementLimit);
        let mut strange = live("a", &[]);
        strange.claims.txn = "t-1".to_owned();
        assert_eq!(replaced(long(true), &asking("a"), strange).unwrap_err(), Denial::ReplacementLimit);
    }

    /// R-SUBJ-24, R-SUBJ-25, A-110
    #[test]
    fn the_fifth_replacement_is_one_too_many() {
        let outcome =
            |chain: &[&str]| replaced(rule("a", &[Source::TxnToken]), &asking("a"), live("a", chain)).map(drop);
        assert_eq!(outcome(&["a", "b", "c", "gateway"]), Ok(()));
        assert_eq!(outcome(&["a", "b", "c", "d", "gateway"]), Err(Denial::ReplacementLimit));
    }

    fn details(request: TokenRequest, text: &str) -> TokenRequest {
        let details = Members::parse(text, writ_verifier::json::Limits::DEFAULT).unwrap();
        TokenRequest { details: Some(details), ..request }
    }

    /// R-SUBJ-22, A-110
    #[test]
    fn a_replacement_may_add_members_and_change_none() {
        let schema = Schema::parse(b"{\"required\":[\"amount\"]}").unwrap();
        let copying = |fixed: &str| {
            let mapping = Mapping {
                schema: Some(Arc::new(Schema::parse(b"{}").unwrap())),
                tctx_copy: vec!["amount".into(), "note".into()],
                tctx_fixed: serde_json::from_str(fixed).unwrap(),
                tctx_subject: vec![("level".into(), "level".into())],
                ..Mapping::default()
            };
            PurposeRule { mapping, ..rule("a", &[Source::TxnToken]) }
        };
        let tctx = |rule, request: &TokenRequest| -> Result<String, Denial> {
            let (carried, _) = replaced(rule, request, live("a", &[]))?.into_parts();
            Ok(serde_json::to_string(&carried.tctx).unwrap())
        };
        let added = tctx(copying("{}"), &details(asking("a"), r#"{"amount":0.1,"note":"n"}"#)).unwrap();
        assert_eq!(added, r#"{"amount":0.10,"note":"n"}"#, "no claim is copied from a token of ours");
        let changed = tctx(copying("{}"), &details(asking("a"), r#"{"amount":0.2}"#)).unwrap_err();
        assert_eq!(changed, Denial::DetailsRejected(Rejection::TwoValues("amount".into())));
        let fixed = tctx(copying(r#"{"amount":1}"#), &asking("a")).unwrap_err();
        assert_eq!(fixed, Denial::DetailsRejected(Rejection::TwoValues("amount".into())));
        // A transaction that has its details need not be told them again.
        let mut strict = copying("{}");
        strict.mapping.schema = Some(Arc::new(schema));
        assert!(tctx(strict.clone(), &asking("a")).is_ok());
        assert!(tctx(strict, &details(asking("a"), "{}")).is_err());
    }

    fn with_condition(rule: PurposeRule, when: &str) -> PurposeRule {
        PurposeRule { when: Some(Arc::new(Condition::compile(when).unwrap())), ..rule }
    }

    /// CONTRACT 7: what a condition sees on each path.
    #[test]
    fn a_condition_sees_the_request_and_on_a_redemption_what_is_carried() {
        let issue = |when: &str| {
            let mapping = Mapping { schema: Some(Arc::new(Schema::parse(b"{}").unwrap())), ..Mapping::default() };
            let rule = with_condition(PurposeRule { mapping, ..rule("a", &[Source::ClientCredentials]) }, when);
            let request = details(request("a", Presented::Client), r#"{"n":1}"#);
            decided(&policy(vec![rule]), &request, VerifiedSubject::Client).map(drop)
        };
        assert_eq!(issue("details.n == 1 && client == 'purge-job' && subject.sub == 'svc:purge'"), Ok(()));
        assert_eq!(issue("details.n == 2"), Err(Denial::ConditionFailed));
        assert_eq!(issue("has(subject.claims.iss)"), Err(Denial::ConditionFailed));
        let replace = |when: &str| {
            replaced(with_condition(rule("a", &[Source::TxnToken]), when), &asking("a"), live("a", &[])).map(drop)
        };
        assert_eq!(replace("details == {} && subject.claims.tctx.amount == 0.1 && 'a' in scope"), Ok(()));
        let redeem = |when: &str| {
            let mut policy = redeeming();
            policy.purposes = policy.purposes.into_iter().map(|rule| with_condition(rule, when)).collect();
            let claims = TxnClaims { tctx: serde_json::from_str(r#"{"n":7}"#).unwrap(), ..expired(DAY) };
            redeem_by(&policy, "account.purge", claims).map(drop)
        };
        assert_eq!(redeem("details.n == 7 && subject.claims.req_wl == 'account-service'"), Ok(()));
        assert_eq!(redeem("details.n == 8"), Err(Denial::ConditionFailed));
    }

    /// CONTRACT 7: one member, two values.
    #[test]
    fn purposes_of_one_request_must_agree_on_each_member() {
        let fixed = |purpose: &str, members: &str| {
            let mapping = Mapping { tctx_fixed: serde_json::from_str(members).unwrap(), ..Mapping::default() };
            PurposeRule { mapping, ..rule(purpose, &[Source::ClientCredentials]) }
        };
        let outcome = |one: &str, other: &str| -> Result<String, Denial> {
            let policy = policy(vec![fixed("a", one), fixed("b", other)]);
            let grant = decided(&policy, &request("a b", Presented::Client), VerifiedSubject::Client)?;
            Ok(serde_json::to_string(&grant.into_parts().0.tctx).unwrap())
        };
        assert_eq!(outcome(r#"{"x":1}"#, r#"{"y":2,"x":1.0}"#).unwrap(), r#"{"x":1,"y":2}"#);
        let refused = Denial::DetailsRejected(Rejection::TwoValues("x".into()));
        assert_eq!(outcome(r#"{"x":1}"#, r#"{"x":2}"#), Err(refused));
    }

    const PURPOSES: [&str; 3] = ["a", "b", "c"];
    const SOURCES: [Source; 6] = [
        Source::ClientCredentials,
        Source::SelfSigned,
        Source::UnsignedJson,
        Source::AccessToken,
        Source::TxnToken,
        Source::ExpiredTxnToken,
    ];

    fn any_rule() -> impl Strategy<Value = PurposeRule> {
        let accept = proptest::sample::subsequence(&SOURCES[..], 1..=6);
        let issued_to = proptest::sample::subsequence(&["x", "y"][..], 1..=2);
        let granted_by = proptest::sample::subsequence(&PURPOSES[..], 1..=2);
        let subjects = proptest::option::of(proptest::sample::select(vec!["u-*", "v-*"]));
        let made = (proptest::sample::select(PURPOSES.to_vec()), accept, issued_to, granted_by, subjects, 1..100_u64);
        made.prop_map(|(purpose, accept, issued_to, granted_by, subjects, lifetime)| {
            let redemption = Redemption {
                issued_to: issued_to.iter().map(|client| client.parse().unwrap()).collect(),
                min_age: Duration::from_secs(10),
                max_age: DAY,
                max_uses: 1,
                require_record: true,
            };
            PurposeRule {
                lifetime: Duration::from_secs(lifetime),
                subjects: subjects.map(|pattern| vec![Glob::new(pattern)]),
                granted_by: granted_by.iter().map(|scope| scope.parse().unwrap()).collect(),
                redemption: accept.contains(&Source::ExpiredTxnToken).then_some(redemption),
                ..rule(purpose, &accept)
            }
        })
    }

    /// A source appears in one table of a purpose only, as files are checked.
    fn any_policy() -> impl Strategy<Value = ClientPolicy> {
        proptest::collection::vec(any_rule(), 0..5).prop_map(|rules| {
            let mut kept: Vec<PurposeRule> = Vec::new();
            for rule in rules {
                let clashes = |other: &PurposeRule| {
                    other.purpose == rule.purpose && other.accept.iter().any(|source| rule.accept.contains(source))
                };
                if !kept.iter().any(clashes) {
                    kept.push(rule);
                }
            }
            policy(kept)
        })
    }

    /// What is presented, as it would be verified; with what a form would say of it.
    fn any_subject() -> impl Strategy<Value = (&'static str, VerifiedSubject)> {
        let sub = || proptest::sample::select(vec!["u-1", "v-1", "svc:purge"]);
        let scope = || proptest::sample::select(vec!["a", "b", "a b", "c"]);
        let age = proptest::sample::select(vec![-30_i64, 9, 10, 86_400, 86_401]);
        let own = (scope(), sub(), age, proptest::sample::select(vec!["x", "y", "z"])).prop_map(own_token);
        prop_oneof![
            1 => Just(()).prop_map(|()| ("client", VerifiedSubject::Client)),
            1 => sub().prop_map(|sub| ("client", VerifiedSubject::Named(sub.parse().unwrap()))),
            2 => (sub(), proptest::option::of(scope())).prop_map(|(sub, scope)| {
                let until = NOW + Duration::from_secs(30);
                ("access_token", VerifiedSubject::Outside(OutsideToken::about(sub, scope, until)))
            }),
            2 => (sub(), any::<bool>(), any::<bool>()).prop_map(|(sub, signs, ends)| {
                let source = if signs { Source::SelfSigned } else { Source::UnsignedJson };
                let until = (signs || ends).then(|| NOW + Duration::from_secs(30));
                (source.name(), VerifiedSubject::Asserted(AssertedSubject::about(source, sub, until)))
            }),
            4 => own,
        ]
    }

    fn own_token((scope, sub, age, req_wl): (&str, &str, i64, &str)) -> (&'static str, VerifiedSubject) {
        let exp = NOW.epoch().checked_add_signed(-age).unwrap();
        let claims = serde_json::json!({
            "iat": exp - 60, "exp": exp, "aud": "d.example", "txn": txn(exp - 60), "sub": sub, "scope": scope,
            "req_wl": req_wl
        });
        let alive = NOW.epoch() < exp;
        let claims = serde_json::from_value(claims).unwrap();
        let token = OwnToken { claims, signed_part: [0; 32], kid: "k".into(), key_state: "previous", alive };
        ("txn_token", VerifiedSubject::Own(Box::new(token)))
    }

    /// A transaction that began then.
    fn txn(began: u64) -> String {
        Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, began, 0)).to_string()
    }

    fn form(scope: &str, presented: &str) -> TokenRequest {
        use crate::request::{CLIENT_CREDENTIALS, Form, TOKEN_EXCHANGE, TXN_TOKEN_TYPE, TYPE_PREFIX};
        let (grant, token) = match presented {
            "client" => (CLIENT_CREDENTIALS, String::new()),
            kind => (TOKEN_EXCHANGE, format!("&subject_token=0paque&subject_token_type={TYPE_PREFIX}{kind}")),
        };
        let scope = scope.replace(' ', "+");
        let wanted = format!("requested_token_type={TXN_TOKEN_TYPE}&audience=d.example&scope={scope}");
        let form = Form::parse(format!("grant_type={grant}&{wanted}{token}").as_bytes()).unwrap();
        TokenRequest::parse(&form, &"d.example".parse().unwrap()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// R-POL-01, R-POL-02, R-POL-03: whatever is granted is written, for that very source.
        #[test]
        fn nothing_is_granted_that_is_not_written(
            policy in any_policy(),
            scope in proptest::sample::select(vec!["a", "b", "c", "a b", "b a c"]),
            (presented, subject) in any_subject(),
        ) {
            let request = form(scope, presented);
            let source = subject.source();
            let (told, sub, req_wl, exp) = match &subject {
                VerifiedSubject::Client => (None, policy.subject.clone(), None, None),
                VerifiedSubject::Named(sub) => (None, sub.clone(), None, None),
                VerifiedSubject::Asserted(asserted) => (None, asserted.sub().clone(), None, asserted.usable_until().map(Timestamp::epoch)),
                VerifiedSubject::Outside(token) => (token.scope().cloned(), token.sub().clone(), None, None),
                VerifiedSubject::Own(token) => {
                    let claims = &token.claims;
                    let sub = claims.sub.parse().unwrap();
                    (Some(claims.scope.clone()), sub, Some(claims.req_wl.clone()), Some(claims.exp))
                }
            };
            let Ok(grant) = decided(&policy, &request, subject) else { return Ok(()) };
            prop_assert_eq!(grant.scope(), &request.scope);
            for purpose in request.scope.purposes() {
                let rule = policy.rules(purpose).find(|rule| rule.accept.contains(&source));
                let rule = rule.expect("a rule for each purpose and this source");
                prop_assert!(grant.expiry(NOW) <= NOW + rule.lifetime);
                prop_assert!(sub == policy.subject || rule.subjects.is_none() || rule.names_subject(&sub));
                match source {
                    Source::ClientCredentials | Source::UnsignedJson | Source::SelfSigned => {
                        prop_assert!(sub == policy.subject || rule.names_subject(&sub));
                        prop_assert!(exp.is_none_or(|exp| grant.expiry(NOW).epoch() <= exp));
                    }
                    Source::AccessToken => {
                        let told = told.clone().expect("a token that tells its scope");
                        prop_assert!(rule.granted_by.iter().any(|by| told.contains(by.as_str())));
                        prop_assert!(grant.expiry(NOW) <= NOW + Duration::from_secs(30));
                    }
                    Source::TxnToken => {
                        prop_assert!(told.as_ref().is_some_and(|told| told.contains(purpose.as_str())));
                        prop_assert!(exp.is_some_and(|exp| grant.expiry(NOW).epoch() <= exp));
                    }
                    _ => {
                        prop_assert_eq!(source, Source::ExpiredTxnToken);
                        prop_assert_eq!(told.as_ref(), Some(&request.scope));
                        prop_assert_eq!(request.scope.purposes().len(), 1);
                        let redemption = rule.redemption.as_ref().expect("a table");
                        prop_assert!(redemption.issued_to.iter().any(|id| Some(id.as_str()) == req_wl.as_deref()));
                        let age = NOW.epoch() - exp.unwrap();
                        prop_assert!((10..=86_400).contains(&age));
                    }
                }
            }
        }
    }
}
