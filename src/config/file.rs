//! `writ.toml` as a whole: its sections, with the variables of the environment in place.

use std::io;
use std::path::{Path, PathBuf};

use writ_core::request::Source;
use writ_core::subject::settings::IssuerSettings;
use writ_core::{claims, keys, limits};
use writ_platform::bounded;
use writ_verifier::TrustDomain;

use super::address::origin;
use super::document::{Places, Report, Section};
use super::environment::Overrides;
use super::files::Named;
use super::policy;
use super::problem::Problem;
use super::sections::{self, keys::Keys, limits::Limits, listen::Listen, pdp::Pdp, tokens::Tokens};
use super::settings::Config;
use crate::server::{self, tls};

impl Config {
    /// Reads the file at `path`; variables of `environment` replace single settings. Returns the settings with the warnings.
    ///
    /// # Errors
    /// All problems, including warnings.
    pub(crate) fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let reading = read(path, environment);
        match reading.config {
            Some(config) => Ok((*config, reading.problems)),
            None => Err(reading.problems),
        }
    }
}

/// The result of reading a file.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The settings, if there is no error.
    pub(crate) config: Option<Box<Config>>,
    /// The settings of the policies, with defaults for those that could not be read.
    pub(crate) policies: Option<policy::Settings>,
    /// The other files that the file names, with the same defaults.
    pub(crate) files: Option<Named>,
    /// As far as it could be read.
    pub(crate) trust_domain: Option<TrustDomain>,
    /// As far as it could be read.
    pub(crate) issuer: Option<String>,
    /// Errors and warnings, by line.
    pub(crate) problems: Vec<Problem>,
}

/// Reads the file at `path`; variables of `environment` replace single settings.
pub(crate) fn read(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Reading {
    let overrides = Overrides::new(environment);
    let text = bounded::read(path).and_then(|bytes| {
        let cause = "stream did not contain valid UTF-8";
        String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, cause))
    });
    match text {
        Ok(text) => parse(path, &text, &overrides),
        Err(cause) => Reading {
            config: None,
            policies: None,
            files: None,
            trust_domain: None,
            issuer: None,
            problems: vec![Problem::of_file(path, unreadable(&cause))],
        },
    }
}

fn unreadable(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => {
            format!("{cause} (begin one with `writ init`, or name it with --config or WRIT_CONFIG)")
        }
        _ => cause.to_string(),
    }
}

/// The sections that variables can change; the first is the file itself.
const SECTIONS: [&str; 9] = ["", "listen", "tls", "tokens", "keys", "store", "policies", "limits", "pdp"];

fn parse(path: &Path, text: &str, overrides: &Overrides) -> Reading {
    let (report, table) = Report::parse(path, text);
    let mut root = Section::root(&report, table);
    overrides.apply("", &mut root);
    let written = Written::read(&mut root, overrides);
    root.finish();
    let policies = written.policies();
    let places = report.places();
    let (trust_domain, issuer) = (written.trust_domain.clone(), written.issuer.clone());
    let files = written.files(places.clone());
    let mut problems = report.into_problems();
    problems.extend(overrides.unknown(&SECTIONS));
    let is_valid = !problems.iter().any(Problem::is_error);
    let config = is_valid.then(|| written.settle(policies.clone(), places)).flatten().map(Box::new);
    Reading { config, policies: Some(policies), files: Some(files), trust_domain, issuer, problems }
}

/// The sections as read, with defaults for what is absent or wrong; `None` where there is no default.
struct Written {
    trust_domain: Option<TrustDomain>,
    issuer: Option<String>,
    listen: Listen,
    tls: tls::Settings,
    tokens: Tokens,
    keys: Keys,
    store: writ_store::Settings,
    directory: PathBuf,
    limits: Limits,
    pdp: Pdp,
    subject_issuers: Vec<IssuerSettings>,
}

impl Written {
    fn read<'a>(root: &mut Section<'a>, overrides: &'a Overrides) -> Self {
        root.require(&["trust_domain", "issuer"]);
        let trust_domain = trust_domain(root);
        let issuer = root.parse("issuer", origin);
        let listen = with(root, overrides, "listen", sections::listen::read);
        let tls = with(root, overrides, "tls", sections::tls::read);
        let tokens = with(root, overrides, "tokens", sections::tokens::read);
        let keys = with(root, overrides, "keys", |keys| sections::keys::read(keys, &tokens));
        let store = with(root, overrides, "store", sections::store::read);
        let directory = with(root, overrides, "policies", |policies| policies.or_default("directory", Section::path));
        let limits = with(root, overrides, "limits", sections::limits::read);
        let subject_issuers = sections::subject_issuer::read_all(root.tables("subject_issuer"), issuer.as_deref());
        let has_pdp = root.has("pdp");
        let pdp = with(root, overrides, "pdp", |pdp| sections::pdp::read(pdp, has_pdp, limits.request_timeout));
        Self { trust_domain, issuer, listen, tls, tokens, keys, store, directory, limits, pdp, subject_issuers }
    }

    fn policies(&self) -> policy::Settings {
        let issued = |source: &Source| self.subject_issuers.iter().any(|issuer| issuer.token_types.contains(source));
        let introspects = |issuer: &&IssuerSettings| issuer.introspection.is_some();
        policy::Settings {
            directory: self.directory.clone(),
            default_lifetime: self.tokens.lifetime,
            max_lifetime: self.tokens.max_lifetime,
            retention: self.keys.retention,
            outside_sources: Source::ALL.into_iter().filter(issued).collect(),
            introspecting_issuers: self
                .subject_issuers
                .iter()
                .filter(introspects)
                .map(|issuer| issuer.issuer.clone())
                .collect(),
            pdp: self.pdp.is_written,
        }
    }

    fn files(&self, places: Places) -> Named {
        let default = || sections::listen::discovery_url(self.issuer.as_deref()?, self.listen.discovery);
        Named {
            tls: self.tls.clone(),
            store: self.store.clone(),
            sealing_key: self.keys.sealing.clone(),
            previous_sealing_keys: self.keys.previous_sealing.clone(),
            pdp: self.pdp.settings.clone(),
            subject_issuers: self.subject_issuers.clone(),
            issuer: self.issuer.clone(),
            discovery_url: self.listen.discovery.and_then(|_| self.listen.discovery_url.clone().or_else(default)),
            places,
        }
    }

    /// The settings of each module; `None` only where an error was reported.
    fn settle(self, policies: policy::Settings, places: Places) -> Option<Config> {
        let Self { listen, tls, tokens, keys, store, limits, pdp, subject_issuers, .. } = self;
        let (trust_domain, issuer) = (self.trust_domain?, self.issuer?);
        Some(Config {
            discovery_url: listen
                .discovery_url
                .clone()
                .or_else(|| sections::listen::discovery_url(&issuer, listen.discovery))?,
            listener: server::Settings {
                exchange: listen.exchange,
                discovery: listen.discovery,
                ops: listen.ops,
                http2: listen.http2,
                tls,
                max_connections: limits.max_connections,
                request_timeout: limits.request_timeout,
                connection_max_age: limits.connection_max_age,
                drain_delay: limits.drain_delay,
                drain_timeout: limits.drain_timeout,
            },
            claims: claims::Settings {
                trust_domain: trust_domain.clone(),
                issuer: issuer.clone(),
                include_iss: tokens.include_iss,
                max_size: tokens.max_size,
                max_replacements: tokens.max_replacements,
            },
            clock_skew: tokens.clock_skew,
            jwks_max_age: tokens.jwks_max_age,
            keys: keys::Settings {
                algorithm: keys.algorithm,
                times: keys.times?,
                sealing_key: keys.sealing,
                previous_sealing_keys: keys.previous_sealing,
            },
            limits: limits::Settings { requests_per_second_per_client: limits.requests_per_second_per_client },
            trust_domain,
            issuer,
            store,
            policies,
            pdp: pdp.settings,
            subject_issuers,
            places,
        })
    }
}

fn trust_domain(root: &mut Section<'_>) -> Option<TrustDomain> {
    let trust_domain: Option<TrustDomain> = root.parse("trust_domain", str::parse);
    if trust_domain.as_ref().is_some_and(|name| name.as_str().contains("://")) {
        let text = "is a URL; a trust domain is usually a plain name, like trust-domain.example, and `audience` of every request \
            must equal it exactly";
        root.warning("trust_domain", text);
    }
    trust_domain
}

/// Reads one section, with its variables in place of values of the file, and reports unknown keys.
fn with<'a, T>(
    root: &mut Section<'a>,
    overrides: &'a Overrides,
    name: &'static str,
    read: impl FnOnce(&mut Section<'a>) -> T,
) -> T {
    let mut section = root.section(name);
    overrides.apply(name, &mut section);
    let value = read(&mut section);
    section.finish();
    value
}

#[cfg(test)]
mod tests;
