//! What each client may get: the policies in force, as a set.
//!
//! [`mod@file`] reads what an operator wrote and complains with line numbers, [`folder`] all of it together; what they make
//! of it is in here, checked, and cannot be wrong any more. [`decide`] says yes or no and why.

pub mod condition;
pub mod exact;
pub mod mapping;
mod number;
pub mod schema;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use writ_verifier::jwks::KeySet;
use writ_verifier::{Purpose, Scope};

use self::condition::Condition;
use self::mapping::Mapping;
use crate::client::{ClientId, Identity};
use crate::request::{Source, Subject};

/// A pattern over subjects: `*` stands for one or more characters, none a control character; all else is itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// What stands between the stars.
    literals: Vec<String>,
}

impl Glob {
    /// Reads a pattern; every text is one. Neighbouring stars each stand for at least one character.
    pub fn new(pattern: &str) -> Self {
        Self { literals: pattern.split('*').map(str::to_owned).collect() }
    }

    /// Whether all of `text` fits the pattern. Time grows with the product of the two lengths at most.
    pub fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = self.literals.as_slice() else {
            return self.literals.first().is_some_and(|only| only == text);
        };
        let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
        for literal in middle {
            // The earliest fit leaves most for what follows, so trying others is never needed.
            let Some(after) = skip_star(rest, literal) else { return false };
            rest = after;
        }
        rest.strip_suffix(last.as_str()).is_some_and(|star| !star.is_empty() && !star.chars().any(char::is_control))
    }
}

/// As it was written.
impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.literals.join("*"))
    }
}

/// What follows the first `literal` in `text` that has one or more plain characters before it.
fn skip_star<'a>(text: &'a str, literal: &str) -> Option<&'a str> {
    let one = text.chars().next()?.len_utf8();
    let at = one + text[one..].find(literal)?;
    let plain = !text[..at].chars().any(char::is_control);
    plain.then(|| &text[at + literal.len()..])
}

/// What one client may get, as checked.
#[derive(Debug, Clone)]
pub struct ClientPolicy {
    /// The client; also the file's name.
    pub client_id: ClientId,
    /// For people.
    pub description: Option<String>,
    /// What its certificate must hold.
    pub identity: Identity,
    /// Its own subject, for tokens by client credentials.
    pub subject: Subject,
    /// Whether it may call the introspection endpoint.
    pub introspect: bool,
    /// If not empty: outside tokens that it presents must name one of these in `aud`.
    pub subject_token_audience: Vec<String>,
    /// It has checked the proof of sender-constrained (`cnf`) access tokens; from others these are refused.
    pub vouches_for_bound_tokens: bool,
    /// The issuer that is asked about its opaque access tokens; `None`: the only one that can be.
    pub opaque_tokens_from: Option<String>,
    /// Besides the key of its certificate: what signs its self-signed subject tokens.
    pub keys: Option<KeySet>,
    /// What it may ask for, in the file's order.
    pub purposes: Vec<PurposeRule>,
}

impl ClientPolicy {
    /// The rules for `purpose`, one for each group of sources; none: the purpose is not allowed.
    pub fn rules<'a>(&'a self, purpose: &'a Purpose) -> impl Iterator<Item = &'a PurposeRule> {
        self.purposes.iter().filter(move |rule| rule.purpose == *purpose)
    }
}

/// What becomes of a subject token that names an actor (`act`, RFC 8693 §4.1): a Txn-Token cannot say that somebody acts
/// for its subject, so it would say that the subject acts alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actors {
    /// It is refused.
    Refused,
    /// `actors = "ignore"`: it is taken as if its subject acted alone.
    Ignored,
}

/// One `[[purpose]]` table.
#[derive(Debug, Clone)]
pub struct PurposeRule {
    /// The purpose.
    pub purpose: Purpose,
    /// Where it is written, so that a decision can be traced to its line.
    pub line: usize,
    /// Where each key of it is written; those of its tables by names like `redemption.max_age`.
    pub lines: BTreeMap<String, usize>,
    /// How long its tokens live; within the ceiling.
    pub lifetime: Duration,
    /// The sources it accepts; never empty.
    pub accept: Vec<Source>,
    /// Patterns over the final subject; `None`: not written.
    pub subjects: Option<Vec<Glob>>,
    /// The outside token must carry one of these scopes.
    pub granted_by: Vec<Purpose>,
    /// What goes into `tctx` and `rctx`.
    pub mapping: Mapping,
    /// What must be true besides.
    pub when: Option<Arc<Condition>>,
    /// Whether the token may outlive the subject token.
    pub outlive: bool,
    /// What a subject token means that somebody acts for its subject.
    pub actors: Actors,
    /// Whether the external decision point must allow it too.
    pub pdp: bool,
    /// The right to redeem expired tokens; present only if `expired_txn_token` is accepted.
    pub redemption: Option<Redemption>,
}

impl PurposeRule {
    /// The line of a key; of one that is not written, that of the table.
    pub fn line_of(&self, key: &str) -> usize {
        self.lines.get(key).copied().unwrap_or(self.line)
    }

    /// Whether one of the patterns fits; false if none are written.
    pub fn names_subject(&self, subject: &Subject) -> bool {
        self.subjects.as_ref().is_some_and(|globs| globs.iter().any(|glob| glob.matches(subject.as_str())))
    }
}

/// `[purpose.redemption]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redemption {
    /// Clients whose tokens may be redeemed; never empty.
    pub issued_to: Vec<ClientId>,
    /// How long past `exp` at the least.
    pub min_age: Duration,
    /// How long past `exp` at the most.
    pub max_age: Duration,
    /// Uses of one transaction and purpose; at least 1.
    pub max_uses: u32,
    /// Whether the token must have been recorded when it was issued.
    pub require_record: bool,
}

/// The policies in force: read together, checked together, replaced together.
#[derive(Debug, Clone)]
pub struct PolicySet {
    clients: BTreeMap<ClientId, Arc<ClientPolicy>>,
    digest: String,
}

impl PolicySet {
    /// A set of checked policies; `digest` names the text they were read from (base64url of SHA-256).
    pub fn new(policies: Vec<ClientPolicy>, digest: String) -> Self {
        let clients = policies.into_iter().map(|policy| (policy.client_id.clone(), Arc::new(policy))).collect();
        Self { clients, digest }
    }

    /// Names the text that these policies were read from.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How many clients there are.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks whether there are none")]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Every policy, by client.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ClientPolicy>> {
        self.clients.values()
    }

    /// The policy of one client.
    pub fn of(&self, client: &ClientId) -> Option<&Arc<ClientPolicy>> {
        self.clients.get(client)
    }

    /// For how long past its expiry some client may redeem a token of this scope that `req_wl` asked for; `None` if
    /// nobody may, so that it needs no record. Only a token with a single purpose can be redeemed.
    pub fn redeemable_for(&self, scope: &Scope, req_wl: &str) -> Option<Duration> {
        let purpose = scope.single()?;
        self.iter()
            .flat_map(|policy| policy.rules(purpose))
            .filter_map(|rule| rule.redemption.as_ref())
            .filter(|redemption| redemption.issued_to.iter().any(|client| client.as_str() == req_wl))
            .map(|redemption| redemption.max_age)
            .max()
    }

    /// Whether `sub` is the own subject of some client: no outside token may take it.
    pub fn is_own_subject(&self, sub: &str) -> bool {
        self.iter().any(|policy| policy.subject.as_str() == sub)
    }
}

/// The policies in force: a request keeps the set that it began with.
#[derive(Debug)]
pub struct Policies(ArcSwap<PolicySet>);

impl Policies {
    /// `set` is in force.
    pub fn new(set: PolicySet) -> Self {
        Self(ArcSwap::from_pointee(set))
    }

    /// The set in force now.
    pub fn snapshot(&self) -> Arc<PolicySet> {
        self.0.load_full()
    }

    /// From now on `set` is in force, as a whole.
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

    /// ten thousand stars against a long text end at once, whatever the answer.
    #[test]
    fn many_stars_cost_linear_work() {
        assert!(!fits(&"*a".repeat(5_000), &"a".repeat(9_999)));
        assert!(fits(&"*".repeat(5_000), &"a".repeat(5_000)));
    }
}
