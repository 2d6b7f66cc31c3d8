//! The files that the service loads besides its configuration, and reloads when they change.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::StartError;
use crate::config::Config;
use crate::config::policy::folder::Watch;
use crate::server::tls::Trust;
use writ_core::client::IdentityKind;
use writ_core::pdp::Pdp;
use writ_core::policy::{Policies, PolicySet};
use writ_core::subject::issuers::Issuers;
use writ_core::subject::settings::{IssuerSettings, KeySource};

/// Policies, and the certificates and keys of each connection.
pub(super) struct LoadedFiles {
    pub(super) policies: Arc<Policies>,
    /// The folder that the policies are from.
    pub(super) folder: Watch,
    pub(super) issuers: Arc<Issuers>,
    pub(super) pdp: Option<Arc<Pdp>>,
    pub(super) trust: Arc<Trust>,
    /// All others that are named in the configuration and reloaded.
    pub(super) named: Vec<PathBuf>,
}

impl LoadedFiles {
    pub(super) fn load(config: &Config) -> Result<Self, StartError> {
        let (folder, policies) = load_policies(config)?;
        let issuers = Arc::new(Issuers::new(config.subject_issuers.clone(), config.clock_skew)?);
        let pdp = load_pdp(config)?;
        let trust = Trust::load(config.listener.tls.clone())?;
        register_thumbprints(&trust, &policies.snapshot());
        Ok(Self { policies, folder, issuers, pdp, trust, named: named(config) })
    }
}

fn load_policies(config: &Config) -> Result<(Watch, Arc<Policies>), StartError> {
    let (folder, checked) = Watch::begin(config.policies.clone());
    let (set, warnings) = checked.map_err(StartError::Policies)?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    set_digest_metric(&set, 1.0);
    warn_of_redemption(&set);
    Ok((folder, Arc::new(Policies::new(set))))
}

fn named(config: &Config) -> Vec<PathBuf> {
    let (tls, mut files) = (&config.listener.tls, Vec::new());
    files.extend([tls.certificate.clone(), tls.private_key.clone()]);
    files.extend(tls.client_ca.iter().map(|ca| ca.file.clone()));
    files.extend(tls.client_crls.iter().cloned());
    if let Some(pdp) = &config.pdp {
        files.extend(pdp.ca.clone());
        files.extend(pdp.identity.iter().flat_map(|it| [it.certificate.clone(), it.private_key.clone()]));
    }
    for IssuerSettings { keys, ca, introspection, .. } in &config.subject_issuers {
        files.extend(if let KeySource::File(path) = keys { Some(path.clone()) } else { None });
        files.extend(ca.clone());
        files.extend(introspection.iter().map(|introspection| introspection.client_secret_file.clone()));
    }
    files
}

/// Redemption deviates from the draft; operators must know that it is on (R-DELAY-01).
fn warn_of_redemption(set: &PolicySet) {
    for policy in set.iter() {
        for rule in policy.purposes.iter().filter(|rule| rule.redemption.is_some()) {
            tracing::warn!(
                client = %policy.client_id,
                purpose = %rule.purpose,
                "redemption of expired Txn-Tokens is on, which the draft forbids in general (TT 6, 13.15)"
            );
        }
    }
}

fn load_pdp(config: &Config) -> Result<Option<Arc<Pdp>>, StartError> {
    let Some(settings) = config.pdp.clone() else { return Ok(None) };
    let pdp = Pdp::new(settings, config.trust_domain.clone()).map_err(StartError::Pdp)?;
    Ok(Some(Arc::new(pdp)))
}

/// Sets `writ_policies_info`: 1 for the policies in force, 0 for those before.
pub(super) fn set_digest_metric(set: &PolicySet, value: f64) {
    metrics::gauge!("writ_policies_info", "digest" => set.digest().to_owned()).set(value);
}

/// Lets clients complete a handshake with the self-signed certificates whose thumbprints policies register.
pub(super) fn register_thumbprints(trust: &Trust, set: &PolicySet) {
    let pinned = set.iter().filter(|policy| policy.identity.kind() == IdentityKind::Thumbprints);
    trust.register(pinned.flat_map(|policy| policy.identity.registered_thumbprints()).copied().collect());
}
