//! The files that `writ.toml` names: whether they exist, have valid content and safe permissions.
//!
//! This finds mistakes before a restart; the modules that use the files read them again.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;
use writ_verifier::jwks::KeySet;
use writ_verifier::pem;
use zeroize::Zeroizing;

use super::document::Places;
use super::problem::{Problem, Severity};
use super::settings::Config;
use crate::server::tls::certificate_check::{self, Chain, Usage};
use crate::server::tls::{self, Finding, Trust};
use writ_core::subject::introspection;
use writ_core::subject::settings::{IssuerSettings, KeySource};
use writ_platform::clock::Timestamp;
use writ_platform::{bounded, secret_file};

/// The files that a configuration names, except policies, and the settings that they must fit; as far as it could be read.
#[derive(Debug)]
pub(crate) struct Named {
    pub(super) tls: tls::Settings,
    pub(super) store: writ_store::Settings,
    pub(super) sealing_key: PathBuf,
    pub(super) previous_sealing_keys: Vec<PathBuf>,
    pub(super) pdp: Option<writ_outbound::Settings>,
    pub(super) subject_issuers: Vec<IssuerSettings>,
    /// The address at which clients call the service.
    pub(super) issuer: Option<String>,
    /// The address at which verifiers call it, if it publishes its keys itself.
    pub(super) discovery_url: Option<String>,
    pub(super) places: Places,
}

impl From<&Config> for Named {
    fn from(config: &Config) -> Self {
        Self {
            tls: config.listener.tls.clone(),
            store: config.store.clone(),
            sealing_key: config.keys.sealing_key.clone(),
            previous_sealing_keys: config.keys.previous_sealing_keys.clone(),
            pdp: config.pdp.clone(),
            subject_issuers: config.subject_issuers.clone(),
            issuer: Some(config.issuer.clone()),
            discovery_url: config.listener.discovery.map(|_| config.discovery_url.clone()),
            places: config.places.clone(),
        }
    }
}

impl Named {
    pub(crate) fn subject_issuers(&self) -> &[IssuerSettings] {
        &self.subject_issuers
    }

    pub(crate) fn pdp(&self) -> Option<&writ_outbound::Settings> {
        self.pdp.as_ref()
    }

    /// Whether a CA of clients may vouch for this SPIFFE trust domain.
    pub(crate) fn names_trust_domain(&self, domain: &str) -> bool {
        self.tls.client_ca.iter().flat_map(|ca| ca.trust_domains.iter().flatten()).any(|named| named == domain)
    }

    pub(crate) fn client_crls(&self) -> &[PathBuf] {
        &self.tls.client_crls
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    pub(crate) fn problems(&self, now: Timestamp) -> Vec<Problem> {
        let mut found = Findings { named: self, now, problems: Vec::new() };
        found.check_tls();
        found.check_trust();
        found.check_store();
        found.check_sealing_keys();
        found.check_pdp();
        found.check_issuers();
        found.problems
    }
}

struct Findings<'a> {
    named: &'a Named,
    now: Timestamp,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    fn check_tls(&mut self) {
        let tls = &self.named.tls;
        let host = self.named.issuer.as_deref().and_then(host_of);
        let chain = self.check_pair(
            ("tls.certificate", &tls.certificate),
            ("tls.private_key", &tls.private_key),
            &Usage::Server(host.as_deref()),
        );
        let published_at =
            self.named.discovery_url.as_deref().and_then(host_of).filter(|other| host.as_ref() != Some(other));
        if let (Some(leaf), Some(other)) = (chain.as_deref().and_then(|chain| chain.first()), published_at)
            && !certificate_check::is_for_host(leaf, &other)
        {
            let text = format!(
                "is not for {other}, the host of listen.discovery_url; verifiers that reach this service there refuse it"
            );
            self.add(Severity::Warning, "tls.certificate", &tls.certificate, &text);
        }
        // The findings of the listeners about trust and revocation.
        for finding in tls::examine_clients(tls, self.now) {
            let (severity, key, text) = match finding {
                Finding::Error(key, text) => (Severity::Error, key, text),
                Finding::Warning(key, text) => (Severity::Warning, key, text),
                Finding::Note(key, text) => (Severity::Note, key, text),
            };
            if self.named.places.is_certain(key) {
                self.problems.push(self.named.places.problem(severity, key, text));
            }
        }
    }

    /// A certificate and its key, each with the setting that names it; the chain, if it can be read.
    fn check_pair(
        &mut self,
        certificate: (&str, &Path),
        private_key: (&str, &Path),
        usage: &Usage<'_>,
    ) -> Option<Chain> {
        // Certificate and key may be in one file.
        let chain =
            self.report(certificate.0, certificate.1, certificate_check::read_chain(certificate.1, pem::is_of_key));
        let key = self.report(private_key.0, private_key.1, certificate_check::read_key(private_key.1));
        if key.is_some() {
            self.warn_if_group_can_read(private_key.0, private_key.1);
        }
        let chain = chain?;
        let key = key.as_ref().map(|key| (key, private_key.0));
        for (severity, text) in certificate_check::judge(&chain, key, usage, self.now) {
            let severity = match severity {
                certificate_check::Severity::Error => Severity::Error,
                certificate_check::Severity::Warning => Severity::Warning,
            };
            self.add(severity, certificate.0, certificate.1, &text);
        }
        Some(chain)
    }

    /// Any other error of the listeners' files.
    fn check_trust(&mut self) {
        // A file is reported once.
        let tls = &self.named.tls;
        if !self.problems.iter().any(Problem::is_error)
            && let Err(error) = Trust::load(tls.clone())
        {
            let key = if error.file == tls.private_key { "tls.private_key" } else { "tls.certificate" };
            if self.named.places.is_certain(key) {
                self.problems.push(self.named.places.problem(Severity::Error, key, error));
            }
        }
    }

    /// The permissions of its folder, and the files with which it connects. It is not opened: a running service may use it.
    fn check_store(&mut self) {
        if let writ_store::Settings::Postgres(postgres) = &self.named.store {
            self.report("store.ca", &postgres.ca, certificate_check::read_chain(&postgres.ca, |_| false));
            if let Some((certificate, key)) = &postgres.credentials.certificate {
                self.check_pair(("store.certificate", certificate), ("store.private_key", key), &Usage::Client);
            }
            if let Some(password) = &postgres.credentials.password
                && self.report("store.password_file", password, secret(password)).is_some()
            {
                self.warn_if_group_can_read("store.password_file", password);
            }
        }
        if let Err(error) = writ_store::check_access(&self.named.store)
            && self.named.places.is_certain("store.path")
        {
            self.problems.push(self.named.places.problem(Severity::Error, "store.path", error));
        }
    }

    fn check_sealing_keys(&mut self) {
        let named = self.named;
        let current = std::iter::once(("keys.sealing_key", &named.sealing_key));
        let previous = named.previous_sealing_keys.iter().map(|path| ("keys.previous_sealing_keys", path));
        for (key, path) in current.chain(previous) {
            if self.report(key, path, sealing_key(path)).is_some() {
                self.warn_if_group_can_read(key, path);
            }
        }
    }

    fn check_pdp(&mut self) {
        let Some(pdp) = &self.named.pdp else { return };
        if let Some(ca) = &pdp.ca {
            self.report("pdp.ca", ca, certificate_check::read_chain(ca, |_| false));
        }
        if let Some(identity) = &pdp.identity {
            let (certificate, key) = (&identity.certificate, &identity.private_key);
            self.check_pair(("pdp.certificate", certificate), ("pdp.private_key", key), &Usage::Client);
        }
    }

    fn check_issuers(&mut self) {
        for (index, issuer) in self.named.subject_issuers.iter().enumerate() {
            if let KeySource::File(path) = &issuer.keys {
                let key = format!("subject_issuer[{index}].jwks_file");
                let set = self.report(&key, path, jwks(path));
                if set.is_some_and(|set| !issuer.has_use_for(&set)) {
                    let text = "none of its keys fits `algorithms`, so no token of this issuer can be verified";
                    self.add(Severity::Warning, &key, path, text);
                }
            }
            if let Some(introspection) = &issuer.introspection {
                let (key, path) = (
                    format!("subject_issuer[{index}].introspection.client_secret_file"),
                    &introspection.client_secret_file,
                );
                if self.report(&key, path, client_secret(path)).is_some() {
                    self.warn_if_group_can_read(&key, path);
                }
            }
            if let Some(path) = &issuer.ca {
                self.report(
                    &format!("subject_issuer[{index}].ca"),
                    path,
                    certificate_check::read_chain(path, |_| false),
                );
            }
        }
    }

    /// Reports an error of the file that `key` names, unless the key itself is wrong or may be in a line that is not TOML:
    /// its default would then name the wrong file.
    fn report<T>(&mut self, key: &str, path: &Path, result: Result<T, String>) -> Option<T> {
        if !self.named.places.is_certain(key) {
            return None;
        }
        result.map_err(|cause| self.add(Severity::Error, key, path, &cause)).ok()
    }

    fn warn_if_group_can_read(&mut self, key: &str, path: &Path) {
        if secret_file::group_can_read(path) {
            self.add(Severity::Warning, key, path, "can be read by its group; mode 0600 limits it to its owner");
        }
    }

    fn add(&mut self, severity: Severity, key: &str, path: &Path, message: &str) {
        let message = format!("{}: {message}", path.display());
        self.problems.push(self.named.places.problem(severity, key, message));
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    bounded::read(path).map_err(|cause| cause.to_string())
}

fn sealing_key(path: &Path) -> Result<(), String> {
    const FORM: &str = "does not contain 32 bytes in base64";
    let content = secret(path)?;
    let text = std::str::from_utf8(&content).map_err(|_| FORM)?;
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| FORM)?);
    if bytes.len() == 32 { Ok(()) } else { Err(FORM.to_owned()) }
}

fn client_secret(path: &Path) -> Result<(), String> {
    let parsed = introspection::parse_secret(&secret(path)?);
    parsed.map(drop).ok_or_else(|| "does not contain a client secret: one line of text".to_owned())
}

fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    secret_file::read(path).map_err(|cause| cause.reason())
}

/// Parsed as at startup, so that a set without a usable key is found beforehand.
fn jwks(path: &Path) -> Result<KeySet, String> {
    KeySet::parse(&read(path)?).map_err(|cause| cause.to_string())
}

/// The host of an `https` address, without brackets.
fn host_of(address: &str) -> Option<String> {
    Url::parse(address).ok()?.host_str().map(|host| host.trim_matches(['[', ']']).to_owned())
}
