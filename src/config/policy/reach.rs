//! Warnings about a valid set of policies: purposes that no client can get, and those that more clients can get than was
//! probably intended.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::time::Duration;

use writ_verifier::Purpose;

use super::file::Reading;
use super::settings::Settings;
use crate::config::problem::{Problem, Severity};
use writ_core::client::ClientId;
use writ_core::policy::{ClientPolicy, PurposeRule};
use writ_core::request::Source;
use writ_platform::clock::HumanDuration;

/// The longest lifetime that raises no warning for a token that can be redeemed later.
const ADVISED_LIFETIME: Duration = Duration::from_secs(60);

/// The warnings about policies without errors. The time is proportional to the policies and the warnings.
pub(super) fn problems(readings: &[&Reading], settings: &Settings) -> Vec<Problem> {
    let set = Set::new(readings, settings);
    let mut problems = Vec::new();
    for table in tables(readings) {
        set.warn_unreachable(&table, &mut problems);
        set.warn_not_redeemable(&table, &mut problems);
        set.warn_other_clients(&table, &mut problems);
        set.warn_shared_uses(&table, &mut problems);
        set.warn_long_lifetime(&table, &mut problems);
    }
    problems
}

struct Set<'a> {
    settings: &'a Settings,
    policies: HashMap<&'a ClientId, &'a ClientPolicy>,
    purposes: HashMap<&'a Purpose, Uses<'a>>,
}

/// What all tables of one purpose allow. Clients are in the order of the policies.
#[derive(Default)]
struct Uses<'a> {
    /// The clients that can begin a transaction for it.
    beginners: Vec<&'a ClientId>,
    /// The first that can redeem a token for it.
    first_redeemer: Option<&'a ClientId>,
    /// By the client that a token was issued to, the first that can redeem it.
    redeemers: HashMap<&'a ClientId, &'a ClientId>,
}

/// One `[[purpose]]`.
struct Table<'a> {
    reading: &'a Reading,
    policy: &'a ClientPolicy,
    rule: &'a PurposeRule,
    index: usize,
}

impl Table<'_> {
    /// A warning at a key of the table; at `scope` if that key is not written.
    fn warning(&self, key: &str, message: impl Display) -> Problem {
        let key = if self.rule.lines.contains_key(key) { key } else { "scope" };
        let key = format!("purpose[{}].{key}", self.index);
        self.reading.places.problem(Severity::Warning, &key, message)
    }
}

fn tables<'a>(readings: &[&'a Reading]) -> impl Iterator<Item = Table<'a>> {
    let policies = readings.iter().filter_map(|reading| Some((*reading, reading.policy.as_ref()?)));
    policies.flat_map(|(reading, policy)| {
        let rules = policy.purposes.iter().enumerate();
        rules.map(move |(index, rule)| Table { reading, policy, rule, index })
    })
}

impl<'a> Set<'a> {
    fn new(readings: &[&'a Reading], settings: &'a Settings) -> Self {
        let policies = readings.iter().filter_map(|reading| reading.policy.as_ref());
        let policies = policies.map(|policy| (&policy.client_id, policy)).collect();
        let mut set = Self { settings, policies, purposes: HashMap::new() };
        for Table { policy, rule, .. } in tables(readings) {
            let (client, begins) = (&policy.client_id, set.can_begin(rule));
            let uses = set.purposes.entry(&rule.purpose).or_default();
            if begins && uses.beginners.last() != Some(&client) {
                uses.beginners.push(client);
            }
            if let Some(redemption) = &rule.redemption {
                uses.first_redeemer.get_or_insert(client);
                for issued_to in &redemption.issued_to {
                    uses.redeemers.entry(issued_to).or_insert(client);
                }
            }
        }
        set
    }

    /// Whether a transaction for its purpose can begin by this table.
    fn can_begin(&self, rule: &PurposeRule) -> bool {
        let begins = |source: &Source| {
            !matches!(source, Source::TxnToken | Source::ExpiredTxnToken) && self.settings.has(*source)
        };
        rule.accept.iter().any(begins)
    }

    /// Whether some client can begin a transaction for it.
    fn can_begin_somewhere(&self, purpose: &Purpose) -> bool {
        self.purposes.get(purpose).is_some_and(|uses| !uses.beginners.is_empty())
    }

    /// Whether a client can get a token for the purpose that can be redeemed: new, or by replacement.
    fn can_obtain(&self, policy: &ClientPolicy, purpose: &Purpose) -> bool {
        policy.rules(purpose).any(|rule| {
            self.can_begin(rule) || (rule.accept.contains(&Source::TxnToken) && self.can_begin_somewhere(purpose))
        })
    }

    /// A table that accepts only Txn-Tokens which no client can get.
    fn warn_unreachable(&self, table: &Table<'_>, problems: &mut Vec<Problem>) {
        let purpose = &table.rule.purpose;
        if table.rule.accept == [Source::TxnToken] && !self.can_begin_somewhere(purpose) {
            let message = format!("accepts only Txn-Tokens for \"{purpose}\", which no client can get");
            problems.push(table.warning("accept", message));
        }
    }

    /// A client in `issued_to` that cannot get such tokens is probably a mistake.
    fn warn_not_redeemable(&self, table: &Table<'_>, problems: &mut Vec<Problem>) {
        let purpose = &table.rule.purpose;
        for client in table.rule.redemption.iter().flat_map(|redemption| &redemption.issued_to) {
            let message = match self.policies.get(client) {
                None => format!("\"{client}\" has no policy"),
                Some(policy) if !self.can_obtain(policy, purpose) => {
                    format!("\"{client}\" can never get a token for \"{purpose}\" that could be redeemed")
                }
                Some(_) => continue,
            };
            problems.push(table.warning("redemption.issued_to", message));
        }
    }

    /// A purpose that can be redeemed should serve delayed work only: another client that can get it can do that work at
    /// once (R-DELAY-06).
    fn warn_other_clients(&self, table: &Table<'_>, problems: &mut Vec<Problem>) {
        let Some(redemption) = &table.rule.redemption else { return };
        let purpose = &table.rule.purpose;
        let issued_to: HashSet<&ClientId> = redemption.issued_to.iter().collect();
        let beginners = self.purposes.get(purpose).into_iter().flat_map(|uses| &uses.beginners);
        for client in beginners.filter(|client| !issued_to.contains(*client)) {
            let message = format!("\"{client}\" can also get \"{purpose}\": use a separate purpose for delayed work");
            problems.push(table.warning("redemption.issued_to", message));
        }
    }

    /// Two clients that redeem one purpose compete for its uses.
    fn warn_shared_uses(&self, table: &Table<'_>, problems: &mut Vec<Problem>) {
        if table.rule.redemption.is_none() {
            return;
        }
        let (purpose, client) = (&table.rule.purpose, &table.policy.client_id);
        let first = self.purposes.get(purpose).and_then(|uses| uses.first_redeemer);
        if let Some(other) = first.filter(|first| *first != client) {
            let message = format!("\"{other}\" can also redeem \"{purpose}\": they share the uses of each transaction");
            problems.push(table.warning("redemption", message));
        }
    }

    /// R-DELAY-17: while it lives, a token is a bearer token.
    fn warn_long_lifetime(&self, table: &Table<'_>, problems: &mut Vec<Problem>) {
        let (purpose, client) = (&table.rule.purpose, &table.policy.client_id);
        let redeemer = self.purposes.get(purpose).and_then(|uses| uses.redeemers.get(client));
        if table.rule.lifetime > ADVISED_LIFETIME
            && self.can_begin(table.rule)
            && let Some(by) = redeemer
        {
            let lifetime = HumanDuration(table.rule.lifetime);
            let message = format!(
                "\"{by}\" redeems tokens for \"{purpose}\" after they expire, so they are stored: set a lifetime of at most \"1m\", not \"{lifetime}\""
            );
            problems.push(table.warning("lifetime", message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::policy::file;
    use crate::config::policy::settings::{Compiled, Context};

    /// The warnings about these clients with these purposes.
    fn warnings(clients: &[(&str, &str)]) -> Vec<String> {
        let settings = Settings {
            directory: "/p".into(),
            default_lifetime: ADVISED_LIFETIME,
            max_lifetime: Duration::from_secs(300),
            retention: Duration::from_secs(400 * 86_400),
            outside_sources: vec![Source::AccessToken],
            introspecting_issuers: Vec::new(),
            pdp: false,
        };
        let readings: Vec<_> = clients
            .iter()
            .map(|(client, purposes)| {
                let path = format!("/p/{client}.toml");
                let identity = format!("client_id = \"{client}\"\ntls_client_auth_san_dns = \"{client}.example\"\n");
                let context =
                    Context { settings: &settings, read: &|_| Err(String::new()), compiled: &Compiled::default() };
                file::parse(path.as_ref(), &(identity + purposes), context)
            })
            .collect();
        for reading in &readings {
            assert!(!reading.has_errors(), "{:?}", reading.problems);
        }
        let found = problems(&readings.iter().collect::<Vec<_>>(), &settings);
        found.iter().map(|problem| problem.to_string().replace("/p/", "")).collect()
    }

    fn purpose(accept: &str, more: &str) -> String {
        let granted_by = if matches!(accept, "access_token" | "jwt") { "granted_by = [\"g\"]\n" } else { "" };
        format!("[[purpose]]\nscope = \"s\"\naccept = [\"{accept}\"]\n{granted_by}{more}\n")
    }

    fn redeem(issued_to: &str) -> String {
        purpose("expired_txn_token", &format!("redemption = {{ issued_to = [{issued_to}], max_age = \"1d\" }}"))
    }

    #[test]
    fn consistent_policies_raise_no_warning() {
        let none: [String; 0] = [];
        let start = purpose("access_token", "");
        assert_eq!(warnings(&[("a", &start), ("job", &redeem("\"a\""))]), none);
        let (step, job) = (purpose("txn_token", ""), redeem("\"a\", \"b\""));
        assert_eq!(warnings(&[("a", &start), ("b", &step), ("job", &job)]), none);
        assert_eq!(warnings(&[("a", &purpose("access_token", "lifetime = \"2m\"")), ("b", &step)]), none);
    }

    #[test]
    fn tokens_that_no_client_can_get_can_be_neither_replaced_nor_redeemed() {
        let found = warnings(&[("a", &purpose("txn_token", ""))]);
        assert_eq!(
            found,
            ["a.toml:5: purpose[0].accept: warning: accepts only Txn-Tokens for \"s\", which no client can get"]
        );
        let never = "job.toml:6: purpose[0].redemption.issued_to: warning: \"a\" can never get a token for \"s\" that could be redeemed";
        for start in
            [purpose("access_token", "").replace("\"s\"", "\"t\""), purpose("jwt", ""), String::new(), redeem("\"x\"")]
        {
            let found = warnings(&[("a", &start), ("job", &redeem("\"a\"")), ("x", &purpose("unsigned_json", ""))]);
            assert!(found.iter().any(|warning| warning == never), "{start}: {found:?}");
        }
        let gone = warnings(&[("job", &redeem("\"gone\""))]);
        assert_eq!(gone, ["job.toml:6: purpose[0].redemption.issued_to: warning: \"gone\" has no policy"]);
    }

    /// R-DELAY-06
    #[test]
    fn a_redeemable_purpose_that_other_clients_can_get_raises_a_warning() {
        let (start, job) = (purpose("access_token", ""), redeem("\"a\""));
        let relay = purpose("txn_token", "");
        assert_eq!(warnings(&[("a", &start), ("job", &job), ("relay", &relay)]), Vec::<String>::new());
        let found = warnings(&[("a", &start), ("job", &job), ("other", &purpose("unsigned_json", ""))]);
        let expected = "job.toml:6: purpose[0].redemption.issued_to: warning: \"other\" can also get \"s\"";
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }

    #[test]
    fn a_second_client_that_redeems_a_purpose_raises_a_warning() {
        let start = purpose("access_token", "");
        let found = warnings(&[("a", &start), ("job", &redeem("\"a\"")), ("other", &redeem("\"a\""))]);
        let expected =
            "other.toml:6: purpose[0].redemption: warning: \"job\" can also redeem \"s\": they share the uses";
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }

    /// R-DELAY-17
    #[test]
    fn tokens_for_redemption_should_live_a_minute_at_most() {
        let long = purpose("access_token", "lifetime = \"61s\"");
        let found = warnings(&[("a", &long), ("job", &redeem("\"a\""))]);
        let expected = "a.toml:7: purpose[0].lifetime: warning: \"job\" redeems tokens for \"s\" after they expire";
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
}
