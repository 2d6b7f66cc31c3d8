//! `writ check --online`: whether what the service will ask others for is to be had.

use serde::Serialize;
use writ_verifier::TrustDomain;
use writ_verifier::jwks::KeySet;

use crate::cli::token::printable;
use crate::config::files::Named;
use crate::config::{Problem, Severity};
use writ_core::client::ClientId;
use writ_core::pdp::{Fault, Pdp};
use writ_core::subject::issuers::{self, KeySource};
use writ_outbound::explain;

/// What came of one call.
#[derive(Debug, Serialize)]
pub(super) struct Answered {
    /// The key of the configuration that says where.
    key: String,
    /// What came.
    message: String,
}

impl std::fmt::Display for Answered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// What came, and what did not.
#[derive(Default)]
pub(super) struct Looked {
    pub(super) answered: Vec<Answered>,
    pub(super) problems: Vec<Problem>,
}

impl Looked {
    fn add(&mut self, named: &Named, key: String, outcome: Result<String, String>) {
        match outcome {
            Ok(message) => self.answered.push(Answered { key, message }),
            Err(cause) => self.problems.push(named.places().problem(Severity::Error, &key, printable(&cause))),
        }
    }
}

/// Asks everybody once.
pub(super) async fn look(named: &Named, trust_domain: Option<&TrustDomain>) -> Looked {
    let mut looked = Looked::default();
    let Ok(nobody) = "writ-check".parse::<ClientId>() else { return looked };
    for (index, issuer) in named.subject_issuers().iter().enumerate() {
        let at = |key: &str| format!("subject_issuer[{index}].{key}");
        if let Some(outcome) = keys(issuer).await {
            looked.add(named, at(key_of(issuer)), outcome);
        }
        match issuers::try_introspection(issuer, &nobody).await {
            Ok(None) => {}
            Ok(Some(())) => {
                let message = "answers, and takes Writ for its client".to_owned();
                looked.add(named, at("introspection.endpoint"), Ok(message));
            }
            Err(cause) => looked.add(named, at("introspection.endpoint"), Err(cause)),
        }
    }
    if let (Some(pdp), Some(trust_domain)) = (named.pdp(), trust_domain) {
        looked.add(named, "pdp.endpoint".to_owned(), decision(pdp, trust_domain, &nobody).await);
    }
    looked
}

fn key_of(issuer: &issuers::Settings) -> &'static str {
    match issuer.keys {
        KeySource::Uri(_) => "jwks_uri",
        KeySource::Discovery | KeySource::File(_) => "issuer",
    }
}

async fn keys(issuer: &issuers::Settings) -> Option<Result<String, String>> {
    let place = match &issuer.keys {
        KeySource::Uri(uri) => uri.origin().ascii_serialization() + uri.path(),
        KeySource::Discovery | KeySource::File(_) => issuer.issuer.clone(),
    };
    match issuers::fetch_keys(issuer).await {
        Ok(None) => None,
        Ok(Some(set)) if !issuer.has_use_for(&set) => {
            Some(Err(format!("{place}: {}: none of them fits `algorithms`, so no token can be verified", told(&set))))
        }
        Ok(Some(set)) => Some(Ok(format!("{place}: {}", told(&set)))),
        Err(error) => Some(Err(format!("no keys from {place}: {}", explain(error.as_ref())))),
    }
}

/// `2 usable keys (kid a, b)`
fn told(set: &KeySet) -> String {
    let kids: Vec<_> = set.keys().map(|key| printable(key.kid().unwrap_or("(none)"))).collect();
    let plural = if kids.len() == 1 { "" } else { "s" };
    let left_out = set.left_out().map(|keys| format!("; not used: {}", printable(&keys))).unwrap_or_default();
    format!("{} usable key{plural} (kid {}){left_out}", kids.len(), kids.join(", "))
}

async fn decision(
    settings: &writ_outbound::Settings,
    trust_domain: &TrustDomain,
    nobody: &ClientId,
) -> Result<String, String> {
    let pdp = Pdp::new(settings.clone(), trust_domain.clone()).map_err(|error| error.to_string())?;
    match pdp.try_out(nobody).await {
        Ok(decision) => Ok(format!("answers with a decision (about nobody: {decision})")),
        Err(Fault::Unreachable(cause)) => Err(format!("no decision from {}: {cause}", place(settings))),
        Err(fault) => Err(format!("no decision from {}: {fault}", place(settings))),
    }
}

fn place(settings: &writ_outbound::Settings) -> String {
    settings.endpoint.origin().ascii_serialization() + settings.endpoint.path()
}
