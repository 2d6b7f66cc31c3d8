//! The policies of all clients, as a set that is replaced as a whole.
//!
//! In: rules that were read from policy files and checked. Out: a [`PolicySet`], the basis of every
//! [decision](crate::decision::decide).

pub mod condition;
pub mod exact;
pub mod mapping;
mod number;
pub mod schema;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use writ_verifier::jwks::KeySet;
use writ_verifier::{Purpose, Scope};

use self::condition::Condition;
use self::mapping::Mapping;
use crate::client::{
    Candidates, ClientError, ClientId, Identity, Index, PeerCertificate, Thumbprint, candidates, find_near_match,
};
use crate::request::{Source, Subject};

/// A pattern for subjects: `*` matches one or more characters except control characters; all else matches itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// The texts between the stars.
    literals: Vec<String>,
}

impl Glob {
    /// Every text is a pattern. Neighbouring stars match at least one character each.
    pub fn new(pattern: &str) -> Self {
        Self { literals: pattern.split('*').map(str::to_owned).collect() }
    }

    /// Whether the pattern matches all of `text`. The time is at most proportional to the product of the two lengths.
    pub fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = self.literals.as_slice() else {
            return self.literals.first().is_some_and(|only| only == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for literal in middle {
            // The earliest match leaves most for what follows, so no other needs to be tried.
            let Some(after) = skip_star(rest, literal) else { return false };
            rest = after;
        }
        rest.strip_suffix(last.as_str()).is_some_and(|star| !star.is_empty() && !star.chars().any(char::is_control))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.literals.join("*"))
    }
}

/// The rest of `text` after the first `literal` that one or more plain characters precede.
fn skip_star<'a>(text: &'a str, literal: &str) -> Option<&'a str> {
    let one = text.chars().next()?.len_utf8();
    let at = one + text[one..].find(literal)?;
    let plain = !text[..at].chars().any(char::is_control);
    plain.then(|| &text[at + literal.len()..])
}

/// The policy of one client.
#[derive(Debug, Clone)]
pub struct ClientPolicy {
    /// The client; also the name of its file.
    pub client_id: ClientId,
    /// Text for readers of the policies.
    pub description: Option<String>,
    /// What its certificate must contain.
    pub identity: Identity,
    /// `sub` of the tokens that it gets for itself (`client_credentials`).
    pub subject: Subject,
    /// Whether it may call the introspection endpoint.
    pub introspect: bool,
    /// If not empty, `aud` of tokens of subject issuers that it presents must contain one of these.
    pub subject_token_audience: Vec<String>,
    /// Whether it checks the proof of possession of sender-constrained (`cnf`) access tokens itself; otherwise they are
    /// refused.
    pub vouches_for_bound_tokens: bool,
    /// The issuer that introspects its opaque access tokens; `None`: the only one that offers introspection.
    pub opaque_tokens_from: Option<String>,
    /// Keys that may sign its self-signed subject tokens, besides that of its certificate.
    pub keys: Option<KeySet>,
    /// The purposes that it may request, in the file's order.
    pub purposes: Vec<PurposeRule>,
}

impl ClientPolicy {
    /// The rules for `purpose`, one for each group of sources; if there are none, the purpose is not allowed.
    pub fn rules<'p>(&'p self, purpose: &Purpose) -> impl Iterator<Item = &'p PurposeRule> {
        self.purposes.iter().filter(move |rule| rule.purpose == *purpose)
    }
}

/// How to treat a subject token that names an actor (`act`, RFC 8693 §4.1). A Txn-Token cannot name one: it would state
/// that the subject acts alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actors {
    /// The token is refused.
    Refused,
    /// `actors = "ignore"`: the token is accepted as if its subject acted alone.
    Ignored,
}

/// One `[[purpose]]` table.
#[derive(Debug, Clone)]
pub struct PurposeRule {
    /// `scope`.
    pub purpose: Purpose,
    /// The line in which the table begins, from 1, so that a decision can be traced to it.
    pub line: usize,
    /// The line of each key; those of its tables have names like `redemption.max_age`.
    pub lines: BTreeMap<String, usize>,
    /// The lifetime of its tokens, at most `tokens.max_lifetime`.
    pub lifetime: Duration,
    /// The sources it accepts; never empty.
    pub accept: Vec<Source>,
    /// Patterns for the final subject; `None`: the key is not set.
    pub subjects: Option<Vec<Glob>>,
    /// The token of a subject issuer must cover one of these scopes.
    pub granted_by: Vec<Purpose>,
    /// The members of `tctx` and `rctx`.
    pub mapping: Mapping,
    /// `when`: an expression that must be true.
    pub when: Option<Arc<Condition>>,
    /// Whether the token may outlive the subject token.
    pub outlive: bool,
    /// How subject tokens that name an actor are treated.
    pub actors: Actors,
    /// Whether the external decision point must allow it too.
    pub pdp: bool,
    /// The right to redeem expired tokens; present only if `expired_txn_token` is accepted.
    pub redemption: Option<Redemption>,
}

impl PurposeRule {
    /// The line of a key; that of the table if the key is not set.
    pub(crate) fn line_of(&self, key: &str) -> usize {
        self.lines.get(key).copied().unwrap_or(self.line)
    }

    /// The first pattern of `subjects` that matches; `None` also if `subjects` is not set.
    pub(crate) fn matching_pattern(&self, subject: &Subject) -> Option<&Glob> {
        self.subjects.iter().flatten().find(|pattern| pattern.matches(subject.as_str()))
    }

    pub(crate) fn ignores_actors(&self) -> bool {
        self.actors == Actors::Ignored
    }
}

/// `[purpose.redemption]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redemption {
    /// Clients whose tokens may be redeemed; never empty.
    pub issued_to: Vec<ClientId>,
    /// The earliest redemption, counted from `exp`.
    pub min_age: Duration,
    /// The latest redemption, counted from `exp`.
    pub max_age: Duration,
    /// Uses for one transaction and purpose, by all clients together; at least 1.
    pub max_uses: u32,
    /// Whether the token must be on record.
    pub require_record: bool,
}

/// The policies of all clients: read, checked and replaced together. What a request asks of it takes the same time for any
/// number of policies.
#[derive(Debug)]
pub struct PolicySet {
    /// In the order of the client ids.
    policies: Vec<Arc<ClientPolicy>>,
    positions: HashMap<ClientId, usize>,
    by_identity: Index,
    own_subjects: HashSet<Box<str>>,
    /// The greatest `max_age` by the purpose and the client that the token was issued to.
    redeemable: HashMap<Purpose, HashMap<ClientId, Duration>>,
    near_matches: Mutex<HashMap<Thumbprint, Option<String>>>,
    digest: String,
}

/// The number of unknown certificates whose near match is remembered.
const MAX_NEAR_MATCHES: usize = 256;

impl PolicySet {
    /// `digest` is base64url of SHA-256 over the files that the policies were read from.
    pub fn new(policies: Vec<ClientPolicy>, digest: String) -> Self {
        let by_id: BTreeMap<_, _> = policies.into_iter().map(|policy| (policy.client_id.clone(), policy)).collect();
        let policies: Vec<_> = by_id.into_values().map(Arc::new).collect();
        let ids = policies.iter().map(|policy| policy.client_id.clone());
        Self {
            positions: ids.zip(0..).collect(),
            by_identity: Index::new(policies.iter().map(|policy| &policy.identity)),
            own_subjects: policies.iter().map(|policy| policy.subject.as_str().into()).collect(),
            redeemable: redeemable(&policies),
            near_matches: Mutex::default(),
            policies,
            digest,
        }
    }

    /// Base64url of SHA-256 over the files that these policies were read from.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The number of clients.
    #[expect(clippy::len_without_is_empty, reason = "no caller needs it")]
    pub fn len(&self) -> usize {
        self.policies.len()
    }

    /// Every policy, in the order of the client ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ClientPolicy>> {
        self.policies.iter()
    }

    /// The policy of `client`; `None`: it gets no tokens.
    pub fn of(&self, client: &ClientId) -> Option<&Arc<ClientPolicy>> {
        self.policies.get(*self.positions.get(client)?)
    }

    /// The clients that `certificate` belongs to.
    ///
    /// # Errors
    /// [`ClientError::Unknown`] if there is none.
    pub fn candidates(&self, certificate: &PeerCertificate) -> Result<Candidates<'_>, ClientError> {
        let found = self.by_identity.positions(certificate).into_iter().filter_map(|at| self.policies.get(at));
        candidates(certificate, found.map(|policy| (&policy.client_id, &policy.identity)))
    }

    /// For the log, the client whose identity an unknown certificate nearly has. Looked for once for each certificate,
    /// since that takes time for each policy.
    pub(crate) fn near_match(&self, certificate: &PeerCertificate) -> Option<String> {
        let known = || self.near_matches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known().get(&certificate.thumbprint()) {
            return found.clone();
        }
        let found = find_near_match(certificate, self.iter().map(|policy| (&policy.client_id, &policy.identity)));
        let mut known = known();
        if known.len() >= MAX_NEAR_MATCHES {
            known.clear();
        }
        known.insert(certificate.thumbprint(), found.clone());
        found
    }

    /// How long after its expiry any client may redeem a token with this scope that was issued to `req_wl`; `None` if no
    /// client may, so that it need not be recorded. Only a token with a single purpose can be redeemed.
    pub fn redeemable_for(&self, scope: &Scope, req_wl: &str) -> Option<Duration> {
        self.redeemable.get(scope.single()?)?.get(req_wl).copied()
    }

    /// Whether `sub` is the own subject of any client. No token of a subject issuer may claim it.
    pub(crate) fn is_own_subject(&self, sub: &str) -> bool {
        self.own_subjects.contains(sub)
    }
}

fn redeemable(policies: &[Arc<ClientPolicy>]) -> HashMap<Purpose, HashMap<ClientId, Duration>> {
    let mut redeemable: HashMap<Purpose, HashMap<ClientId, Duration>> = HashMap::new();
    for rule in policies.iter().flat_map(|policy| &policy.purposes) {
        if let Some(redemption) = &rule.redemption {
            let clients = redeemable.entry(rule.purpose.clone()).or_default();
            for client in &redemption.issued_to {
                let max_age = clients.entry(client.clone()).or_default();
                *max_age = redemption.max_age.max(*max_age);
            }
        }
    }
    redeemable
}

/// The policies in force, replaced atomically.
#[derive(Debug)]
pub struct Policies(ArcSwap<PolicySet>);

impl Policies {
    /// Puts `set` in force.
    pub fn new(set: PolicySet) -> Self {
        Self(ArcSwap::from_pointee(set))
    }

    /// The set in force. A request uses one snapshot from beginning to end.
    pub fn snapshot(&self) -> Arc<PolicySet> {
        self.0.load_full()
    }

    /// Puts `set` in force for requests that begin from now on.
    pub fn replace(&self, set: PolicySet) {
        self.0.store(Arc::new(set));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(pattern: &str, text: &str) -> bool {
        Glob::new(pattern).matches(text)
    }

    /// A-062, R-CLAIM-09
    #[test]
    fn a_subject_holds_no_token() {
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
        for text in [token, &format!("Bearer {token}"), &format!("a:{token}"), "", "a\nb"] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
        for text in ["eyJhbGciOiJFUzI1NiJ9", "a.b.c", "spiffe://d.example/a.b.c", "ann@mail.d.example"] {
            assert_eq!(text.parse::<Subject>().unwrap().as_str(), text);
        }
    }

    ///
    #[test]
    fn a_glob_is_anchored_and_its_star_is_never_empty() {
        assert!(fits("*@d", "x@d"));
        assert!(fits("*", "x"));
        assert!(fits("a*b*c", "a1b2b3c"));
        assert!(fits("**", "xy"));
        for (pattern, text) in [
            ("*@d", "x@d.evil"),
            ("*@d", "x@evil\n@d"),
            ("*@d", "x@D"),
            ("*@d", "@d"),
            ("**", "x"),
            ("*", ""),
            ("*", "a\u{0}"),
            ("a*b", "ab"),
            ("abc", "abcd"),
            ("", "x"),
            ("a*a", "a"),
        ] {
            assert!(!fits(pattern, text), "{pattern} must not fit {text:?}");
        }
    }

    /// ten thousand stars against a long text are fast, whether or not they match.
    #[test]
    fn many_stars_cost_linear_work() {
        assert!(!fits(&"*a".repeat(5_000), &"a".repeat(9_999)));
        assert!(fits(&"*".repeat(5_000), &"a".repeat(5_000)));
    }
}
