//! A line of the audit log → the request that it records, as far as it does.

use serde::Deserialize;
use writ_verifier::Members;

use super::trial::{Age, Trial, World};
use writ_core::policy::PurposeRule;
use writ_core::request::Source;

/// Why a line cannot be explained.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    /// Not JSON, or of another kind.
    #[error(
        "--from-audit: is not an audit line of a token request in JSON (\"event\":\"token_issued\" or \"token_refused\")"
    )]
    Form,
    /// The request ended before the decision.
    #[error("--from-audit: the line names no {0}: the request ended with {1} before a policy could decide on it")]
    TooEarly(&'static str, String),
}

/// The fields of a line that matter here.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    event: String,
    client: Option<String>,
    source: Option<String>,
    scope: Option<String>,
    sub: Option<String>,
    txn: Option<String>,
    delayed_by: Option<u64>,
    subject_issuer: Option<String>,
    actors: Option<String>,
    reason: Option<String>,
    policies: Option<String>,
}

impl Line {
    pub(super) fn parse(text: &str) -> Result<Self, LineError> {
        let line: Self = serde_json::from_str(text.trim()).map_err(|_| LineError::Form)?;
        let known = matches!(line.event.as_str(), "token_issued" | "token_refused");
        known.then_some(line).ok_or(LineError::Form)
    }

    /// The request, and a sentence for each part that the line does not record and that is assumed.
    pub(super) fn trial(&self, world: &World) -> Result<(Trial, Vec<String>), LineError> {
        let reason = || self.reason.clone().unwrap_or_else(|| "-".to_owned());
        let missing = |what| move || LineError::TooEarly(what, reason());
        let client = self.client.clone().ok_or_else(missing("client"))?;
        let scope = self.scope.clone().ok_or_else(missing("scope"))?;
        let source = self.source.as_deref().and_then(Source::from_name).ok_or_else(missing("source"))?;
        let mut trial = Trial {
            client,
            source,
            scope,
            subject: self.sub.clone(),
            subject_scope: None,
            details: None,
            context: None,
            presented: None,
            age: None,
        };
        let mut assumed = self.assume(&mut trial, world);
        if !matches!(source, Source::ExpiredTxnToken) {
            assumed.push("no request_details and no request_context were sent (--details, --context)".to_owned());
        }
        if self.policies.as_deref().is_some_and(|digest| digest != world.policies.digest()) {
            assumed.push("the policies in force then were different from these".to_owned());
        }
        Ok((trial, assumed))
    }

    /// Fills in the subject token; returns the assumptions about it.
    fn assume(&self, trial: &mut Trial, world: &World) -> Vec<String> {
        let mut assumed = Vec::new();
        if trial.source != Source::ClientCredentials {
            assumed.push("the subject token is genuine".to_owned());
        }
        let mut claims = Members::default();
        let mut set = |name: &str, value: &str| {
            claims.set(name, &value).expect("a string always makes JSON");
        };
        if trial.source != Source::ClientCredentials && trial.subject.is_none() {
            assumed.push("the subject is somebody (--subject)".to_owned());
            trial.subject = Some("somebody".to_owned());
        }
        match trial.source {
            Source::ClientCredentials => return assumed,
            Source::UnsignedJson | Source::SelfSigned => {
                assumed.push("it has no other claims (--presented)".to_owned());
            }
            Source::AccessToken | Source::Jwt | Source::IdToken => {
                self.subject_issuer.iter().for_each(|issuer| set("iss", issuer));
                trial.subject_scope = granting(trial, world);
                let covers = trial.subject_scope.as_deref().unwrap_or("nothing that is known");
                assumed.push(format!("the subject token covers {covers} (--subject-scope)"));
                assumed.push(
                    "it has no other claims, and was valid for longer than the Txn-Token (--presented)".to_owned(),
                );
            }
            Source::TxnToken | Source::ExpiredTxnToken => {
                let redeems = trial.source == Source::ExpiredTxnToken;
                let by = redeemed(trial, world).unwrap_or_else(|| "another client".to_owned());
                set("req_wl", &by);
                // A replacement goes on with the transaction; of a token that was refused, txn may be unknown.
                self.txn.iter().filter(|_| redeems).for_each(|txn| set("txn", txn));
                trial.subject_scope = Some(trial.scope.clone());
                trial.age = self.delayed_by.map(Age::from_secs);
                assumed
                    .push(format!("the presented token is for {}, and {by} requested it (--presented)", trial.scope));
                assumed.push("it carries no tctx and no rctx (--presented)".to_owned());
            }
        }
        if self.actors.is_some() && trial.source.brings_claims() {
            set("act", "from the line");
        }
        trial.presented = Some(claims);
        assumed
    }

    pub(super) fn outcome(&self) -> String {
        match &self.reason {
            Some(reason) => format!("refused, {reason}"),
            None => "a token was issued".to_owned(),
        }
    }
}

/// The rules of the requested purposes that accept the source.
fn rules<'w>(trial: &'w Trial, world: &'w World) -> impl Iterator<Item = &'w PurposeRule> {
    let purposes = world.client(&trial.client).map(|policy| policy.purposes.as_slice()).unwrap_or_default();
    let is_requested = |rule: &&PurposeRule| trial.scope.split(' ').any(|word| word == rule.purpose.as_str());
    purposes.iter().filter(is_requested).filter(|rule| rule.accept.contains(&trial.source))
}

/// Scopes that grant the requested purposes.
fn granting(trial: &Trial, world: &World) -> Option<String> {
    let scopes: Vec<_> =
        rules(trial, world).filter_map(|rule| rule.granted_by.first()).map(ToString::to_string).collect();
    (!scopes.is_empty()).then(|| scopes.join(" "))
}

/// The client whose tokens can be redeemed.
fn redeemed(trial: &Trial, world: &World) -> Option<String> {
    rules(trial, world).find_map(|rule| rule.redemption.as_ref()?.issued_to.first()).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::trial::tests::world;
    use super::*;

    const GATEWAY: &str =
        "[[purpose]]\nscope = \"s\"\naccept = [\"access_token\", \"txn_token\"]\ngranted_by = [\"g\", \"h\"]\n";

    const JOB: &str = "[[purpose]]\nscope = \"s\"\naccept = [\"expired_txn_token\"]\n\
        redemption = { issued_to = [\"gateway\"], max_age = \"1d\" }\n";

    #[test]
    fn only_lines_about_tokens_are_explained() {
        let parse = |text: &str| Line::parse(text).map(|line| line.outcome());
        assert_eq!(parse(" {\"event\":\"token_issued\"}\n"), Ok("a token was issued".to_owned()));
        assert_eq!(parse(r#"{"event":"token_refused","reason":"blocked"}"#), Ok("refused, blocked".to_owned()));
        for text in ["", "{}", r#"{"event":"key_rotated"}"#, r#"{"event":"token_introspected"}"#, "INFO audit: event"] {
            assert_eq!(parse(text), Err(LineError::Form), "{text}");
        }
    }

    #[test]
    fn parts_that_a_line_lacks_are_assumed_from_the_policies() {
        let world = world(&[("gateway", GATEWAY), ("job", JOB)]);
        let read = |line: serde_json::Value| Line::parse(&line.to_string()).unwrap().trial(&world);
        let line = |client: &str, source: &str| {
            json!({"event": "token_refused", "client": client, "source": source, "scope": "s", "sub": "u", "txn": "t",
                "delayed_by": 7, "subject_issuer": "https://login.example"})
        };
        let (trial, _) = read(line("gateway", "access_token")).unwrap();
        assert_eq!(trial.subject_scope.as_deref(), Some("g"));
        assert_eq!(trial.presented.unwrap().get::<String>("iss").as_deref(), Some("https://login.example"));
        let (trial, _) = read(line("job", "expired_txn_token")).unwrap();
        let claims = trial.presented.unwrap();
        assert_eq!((claims.raw("req_wl"), claims.raw("txn")), (Some("\"gateway\""), Some("\"t\"")));
        assert_eq!((trial.subject_scope.as_deref(), trial.age), (Some("s"), Some(Age::from_secs(7))));
        let (trial, _) = read(line("gateway", "txn_token")).unwrap();
        assert_eq!(trial.presented.unwrap().raw("txn"), None, "its fifteen minutes are over");
        let (trial, assumed) = read(line("gateway", "client_credentials")).unwrap();
        assert_eq!((trial.subject.as_deref(), trial.presented.is_none(), assumed.len()), (Some("u"), true, 1));
        let early = read(json!({"event": "token_refused", "client": "job", "reason": "rate_limited"})).unwrap_err();
        assert_eq!(early, LineError::TooEarly("scope", "rate_limited".to_owned()));
    }
}
