//! `writ check --online`: whether the services that Writ will call answer as it needs.

use serde::Serialize;
use writ_verifier::TrustDomain;
use writ_verifier::jwks::KeySet;

use crate::cli::printable;
use crate::config::files::Named;
use crate::config::{Problem, Severity};
use writ_core::client::ClientId;
use writ_core::pdp::{Fault, Pdp};
use writ_core::subject::issuers;
use writ_core::subject::settings::{IssuerSettings, KeySource};
use writ_outbound::explain;

/// A call that succeeded.
#[derive(Debug, Serialize)]
pub(super) struct Answered {
    /// The configuration key of the address.
    key: String,
    message: String,
}

impl std::fmt::Display for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// The outcome of all calls.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) answered: Vec<Answered>,
    pub(super) problems: Vec<Problem>,
}

impl Outcome {
    fn add(&mut self, named: &Named, key: String, outcome: Result<String, String>) {
        match outcome {
            Ok(message) => self.answered.push(Answered { key, message }),
            Err(cause) => self.problems.push(named.places().problem(Severity::Error, &key, printable(&cause))),
        }
    }
}

/// Calls each configured service once, on behalf of a client that does not exist.
pub(super) async fn call_all(named: &Named, trust_domain: Option<&TrustDomain>) -> Outcome {
    let mut all = Outcome::default();
    let Ok(client) = "writ-check".parse::<ClientId>() else { return all };
    for (index, issuer) in named.subject_issuers().iter().enumerate() {
        let at = |key: &str| format!("subject_issuer[{index}].{key}");
        if let Some(outcome) = fetch_keys(issuer).await {
            all.add(named, at(location_key(issuer)), outcome);
        }
        match issuers::try_introspection(issuer, &client).await {
            Ok(None) => {}
            Ok(Some(())) => {
                let message = "answers, and accepts Writ as its client".to_owned();
                all.add(named, at("introspection.endpoint"), Ok(message));
            }
            Err(cause) => all.add(named, at("introspection.endpoint"), Err(cause)),
        }
    }
    if let (Some(pdp), Some(trust_domain)) = (named.pdp(), trust_domain) {
        all.add(named, "pdp.endpoint".to_owned(), ask_pdp(pdp, trust_domain, &client).await);
    }
    all
}

/// The configuration key that says where the keys are fetched from.
fn location_key(issuer: &IssuerSettings) -> &'static str {
    match issuer.keys {
        KeySource::Uri(_) => "jwks_uri",
        KeySource::Discovery | KeySource::File(_) => "issuer",
    }
}

/// `None` where the keys are in a file.
async fn fetch_keys(issuer: &IssuerSettings) -> Option<Result<String, String>> {
    let place = match &issuer.keys {
        KeySource::Uri(uri) => uri.origin().ascii_serialization() + uri.path(),
        KeySource::Discovery | KeySource::File(_) => issuer.issuer.clone(),
    };
    match issuers::fetch_keys(issuer).await {
        Ok(None) => None,
        Ok(Some(set)) if !issuer.has_use_for(&set) => Some(Err(format!(
            "{place}: {}: none of them fits `algorithms`, so no token can be verified",
            describe(&set)
        ))),
        Ok(Some(set)) => Some(Ok(format!("{place}: {}", describe(&set)))),
        Err(error) => Some(Err(format!("no keys from {place}: {}", explain(error.as_ref())))),
    }
}

/// `2 usable keys (kid a, b)`
fn describe(set: &KeySet) -> String {
    let kids: Vec<_> = set.keys().map(|key| printable(key.kid().unwrap_or("(none)"))).collect();
    let plural = if kids.len() == 1 { "" } else { "s" };
    let left_out = set.left_out().map(|keys| format!("; not used: {}", printable(&keys))).unwrap_or_default();
    format!("{} usable key{plural} (kid {}){left_out}", kids.len(), kids.join(", "))
}

async fn ask_pdp(
    settings: &writ_outbound::Settings,
    trust_domain: &TrustDomain,
    client: &ClientId,
) -> Result<String, String> {
    let pdp = Pdp::new(settings.clone(), trust_domain.clone()).map_err(|error| error.to_string())?;
    match pdp.try_out(client).await {
        Ok(decision) => Ok(format!("answers with a decision on a test request ({decision})")),
        Err(Fault::Unreachable(cause)) => Err(format!("no decision from {}: {cause}", address(settings))),
        Err(fault) => Err(format!("no decision from {}: {fault}", address(settings))),
    }
}

fn address(settings: &writ_outbound::Settings) -> String {
    settings.endpoint.origin().ascii_serialization() + settings.endpoint.path()
}
