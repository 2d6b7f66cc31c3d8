//! `writ.toml` as an operator writes it: every key, its default, and what must hold between them.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;
use writ_verifier::TrustDomain;

use super::document::{Places, Report, Section};
use super::environment::Overrides;
use super::problem::Problem;
use super::{Config, issuer};
use crate::keys::ring::KeyTimes;
use crate::keys::{self, SigningAlgorithm};
use crate::listener::tls::{self, MinVersion};
use crate::policy::Source;
use crate::subject::issuers;
use crate::{claims, limits, listener, policy, store};

/// What was made of a file.
#[derive(Debug)]
pub struct Reading {
    /// The settings, if there is no error.
    pub config: Option<Box<Config>>,
    /// Where the policies are and what they may say, as far as it could be read; with defaults for the rest.
    pub policies: Option<policy::file::Settings>,
    /// Errors and warnings, by line.
    pub problems: Vec<Problem>,
}

/// Reads the file at `path`, with the variables of `environment` in front.
pub fn read(path: &Path, environment: impl Iterator<Item = (String, String)>) -> Reading {
    let overrides = Overrides::new(environment);
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text, &overrides),
        Err(cause) => Reading { config: None, policies: None, problems: vec![Problem::of_file(path, cause)] },
    }
}

/// The sections that variables can change; the first is the file itself.
const SECTIONS: [&str; 8] = ["", "listen", "tls", "tokens", "keys", "store", "policies", "limits"];

fn parse(path: &Path, text: &str, overrides: &Overrides) -> Reading {
    let (report, table) = Report::parse(path, text);
    let mut root = Section::root(&report, table);
    overrides.apply("", &mut root);
    let written = Written::read(&mut root, overrides);
    root.finish();
    let policies = written.policies();
    let places = report.places();
    let mut problems = report.into_problems();
    problems.extend(overrides.unknown(&SECTIONS));
    let sound = !problems.iter().any(Problem::is_error);
    let config = sound.then(|| written.settle(policies.clone(), places)).flatten().map(Box::new);
    Reading { config, policies: Some(policies), problems }
}

/// The sections as read: with defaults for what is not written, and for what is wrong. What has no default is `None`.
struct Written {
    trust_domain: Option<TrustDomain>,
    issuer: Option<String>,
    listen: Listen,
    tls: tls::Settings,
    tokens: Tokens,
    keys: Keys,
    store: store::Settings,
    directory: PathBuf,
    limits: Limits,
    subject_issuers: Vec<issuers::Settings>,
}

struct Listen {
    exchange: SocketAddr,
    discovery: Option<SocketAddr>,
    ops: Option<SocketAddr>,
    http2: bool,
    discovery_url: Option<String>,
}

struct Tokens {
    lifetime: Duration,
    max_lifetime: Duration,
    clock_skew: Duration,
    include_iss: bool,
    jwks_max_age: Duration,
    max_replacements: u32,
    max_size: usize,
}

struct Keys {
    algorithm: SigningAlgorithm,
    retention: Duration,
    /// `None` if the times cannot hold together.
    times: Option<KeyTimes>,
    sealing_key: PathBuf,
    previous_sealing_keys: Vec<PathBuf>,
}

struct Limits {
    requests_per_second_per_client: Option<NonZeroU32>,
    max_connections: usize,
    request_timeout: Duration,
    connection_max_age: Duration,
    drain_timeout: Duration,
}

impl Written {
    fn read<'a>(root: &mut Section<'a>, overrides: &'a Overrides) -> Self {
        root.require(&["trust_domain", "issuer"]);
        let trust_domain = root.parse("trust_domain", str::parse);
        let own_issuer = root.parse("issuer", origin);
        let listen = with(root, overrides, "listen", listen);
        let tls = with(root, overrides, "tls", tls);
        let tokens = with(root, overrides, "tokens", tokens);
        let keys = with(root, overrides, "keys", |section| keys(section, &tokens));
        let store = with(root, overrides, "store", store);
        let directory = with(root, overrides, "policies", |policies| path_or(policies, "directory", "policies"));
        let limits = with(root, overrides, "limits", limits);
        let subject_issuers = issuer::read_all(root.tables("subject_issuer"), own_issuer.as_deref());
        root.not_supported("pdp");
        Self { trust_domain, issuer: own_issuer, listen, tls, tokens, keys, store, directory, limits, subject_issuers }
    }

    fn policies(&self) -> policy::file::Settings {
        let issued = |source: &Source| self.subject_issuers.iter().any(|issuer| issuer.token_types.contains(source));
        policy::file::Settings {
            directory: self.directory.clone(),
            default_lifetime: self.tokens.lifetime,
            max_lifetime: self.tokens.max_lifetime,
            retention: self.keys.retention,
            outside_sources: Source::ALL.into_iter().filter(issued).collect(),
        }
    }

    /// The settings of each room; `None` only where there was a complaint before.
    fn settle(self, policies: policy::file::Settings, places: Places) -> Option<Config> {
        let Self { listen, tls, tokens, keys, store, limits, subject_issuers, .. } = self;
        let (trust_domain, issuer) = (self.trust_domain?, self.issuer?);
        Some(Config {
            discovery_url: listen.discovery_url.clone().or_else(|| discovery_url(&issuer, listen.discovery))?,
            listener: listener::Settings {
                exchange: listen.exchange,
                discovery: listen.discovery,
                ops: listen.ops,
                http2: listen.http2,
                tls,
                max_connections: limits.max_connections,
                request_timeout: limits.request_timeout,
                connection_max_age: limits.connection_max_age,
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
            max_lifetime: tokens.max_lifetime,
            keys: keys::Settings {
                algorithm: keys.algorithm,
                times: keys.times?,
                sealing_key: keys.sealing_key,
                previous_sealing_keys: keys.previous_sealing_keys,
            },
            limits: limits::Settings { requests_per_second_per_client: limits.requests_per_second_per_client },
            trust_domain,
            issuer,
            store,
            policies,
            subject_issuers,
            places,
        })
    }
}

/// Reads one section, with the variables for it in front, and complains about what is left in it.
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

fn listen(listen: &mut Section<'_>) -> Listen {
    let port = |last: [u8; 4], port| SocketAddr::from((last, port));
    let read = Listen {
        exchange: listen.parse("exchange", address).unwrap_or(port([0, 0, 0, 0], 8443)),
        discovery: listen.parse("discovery", address_or_off).unwrap_or(Some(port([0, 0, 0, 0], 8444))),
        ops: listen.parse("ops", address_or_off).unwrap_or(Some(port([127, 0, 0, 1], 9464))),
        http2: listen.flag("http2").unwrap_or(false),
        discovery_url: listen.parse("discovery_url", origin),
    };
    let mut taken = vec![read.exchange];
    for (key, address) in [("discovery", read.discovery), ("ops", read.ops)] {
        // Port 0 is a free one, a new one each time.
        let Some(address) = address.filter(|address| address.port() != 0) else { continue };
        if taken.contains(&address) {
            listen.error(key, "is the address of another listener too");
        }
        taken.push(address);
    }
    if read.ops.is_some_and(|ops| !ops.ip().is_loopback()) {
        listen.warning("ops", "is not a loopback address: metrics are readable, without TLS, by whoever reaches it");
    }
    read
}

fn tls(tls: &mut Section<'_>) -> tls::Settings {
    let versions = [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
    tls::Settings {
        certificate: path_or(tls, "certificate", "certs/server.pem"),
        private_key: path_or(tls, "private_key", "certs/server.key"),
        client_ca: path_or(tls, "client_ca", "certs/ca.pem"),
        client_crls: tls.paths("client_crls").unwrap_or_default(),
        min_version: tls.choice("min_version", &versions).unwrap_or(MinVersion::Tls13),
    }
}

/// No configuration lets a Txn-Token live longer.
const LONGEST_LIFETIME: Duration = minutes(15);

/// R-SUBJ-06
const LARGEST_SKEW: Duration = minutes(2);

fn tokens(tokens: &mut Section<'_>) -> Tokens {
    let read = Tokens {
        lifetime: tokens.duration("lifetime").unwrap_or(minutes(1)),
        max_lifetime: tokens.duration("max_lifetime").unwrap_or(minutes(5)),
        clock_skew: tokens.duration_or_none("clock_skew").unwrap_or(Duration::from_secs(10)),
        include_iss: tokens.flag("include_iss").unwrap_or(true),
        jwks_max_age: tokens.duration("jwks_max_age").unwrap_or(minutes(10)),
        max_replacements: tokens.integer("max_replacements", 0..=1_000).unwrap_or(4),
        max_size: tokens.integer("max_size", 1..=1_048_576).map_or(4096, |size| size as usize),
    };
    if read.max_lifetime > LONGEST_LIFETIME {
        tokens.error("max_lifetime", "must be at most \"15m\"");
    }
    if read.lifetime > read.max_lifetime {
        tokens.error("lifetime", "must not be longer than max_lifetime");
    }
    if read.clock_skew > LARGEST_SKEW {
        tokens.error("clock_skew", "must be at most \"2m\"");
    }
    read
}

const ALGORITHMS: [(&str, SigningAlgorithm); 5] = [
    ("ES256", SigningAlgorithm::ES256),
    ("ES384", SigningAlgorithm::ES384),
    ("EdDSA", SigningAlgorithm::EdDSA),
    ("RS256", SigningAlgorithm::RS256),
    ("PS256", SigningAlgorithm::PS256),
];

fn keys(keys: &mut Section<'_>, tokens: &Tokens) -> Keys {
    let rotation_period = keys.duration("rotation_period").unwrap_or(days(1));
    let retention = keys.duration("retention").unwrap_or(days(400));
    let times = KeyTimes::new(rotation_period, tokens.jwks_max_age, tokens.max_lifetime, retention);
    if let Err(cause) = &times {
        keys.error("rotation_period", cause);
    }
    Keys {
        algorithm: keys.choice("algorithm", &ALGORITHMS).unwrap_or(SigningAlgorithm::ES256),
        retention,
        times: times.ok(),
        sealing_key: path_or(keys, "sealing_key", "certs/sealing.key"),
        previous_sealing_keys: keys.paths("previous_sealing_keys").unwrap_or_default(),
    }
}

fn store(store: &mut Section<'_>) -> store::Settings {
    let etcd = store.choice("kind", &[("sled", false), ("etcd", true)]).unwrap_or(false);
    if etcd {
        store.error("kind", "\"etcd\" needs a build with the feature `etcd`, which this version does not have");
    }
    for key in ["endpoints", "prefix", "tls"] {
        if store.ignore(key) && !etcd {
            store.error(key, "is for kind = \"etcd\" only, which this version does not have");
        }
    }
    store::Settings { path: path_or(store, "path", "data") }
}

fn limits(limits: &mut Section<'_>) -> Limits {
    let rate = limits.integer("requests_per_second_per_client", 0..=1_000_000).unwrap_or(0);
    Limits {
        requests_per_second_per_client: NonZeroU32::new(rate),
        max_connections: limits.integer("max_connections", 1..=1_000_000).map_or(10_000, |count| count as usize),
        request_timeout: limits.duration("request_timeout").unwrap_or(Duration::from_secs(10)),
        connection_max_age: limits.duration("connection_max_age").unwrap_or(minutes(60)),
        drain_timeout: limits.duration_or_none("drain_timeout").unwrap_or(Duration::from_secs(20)),
    }
}

fn path_or(section: &mut Section<'_>, key: &'static str, default: &str) -> PathBuf {
    section.path(key).unwrap_or_else(|| section.folder().join(default))
}

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 86_400)
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:8443\"")
}

fn address_or_off(text: &str) -> Result<Option<SocketAddr>, &'static str> {
    if text == "off" {
        return Ok(None);
    }
    let address =
        text.parse().map_err(|_| "must be \"off\", or an IP address and a port, such as \"127.0.0.1:9464\"")?;
    Ok(Some(address))
}

/// `https://host` or `https://host:port` and nothing behind it: paths are put behind it, and it is compared as text.
fn origin(text: &str) -> Result<String, &'static str> {
    let authority = text.strip_prefix("https://").ok_or("must begin with https://")?;
    if authority.contains(['/', '?', '#', '\\']) {
        return Err("must end with the host or the port: no path, no final slash, no query, no fragment");
    }
    https_url(text).map(|_| text.to_owned())
}

/// An `https` address without user, query and fragment.
pub(super) fn https_url(text: &str) -> Result<Url, &'static str> {
    const FORM: &str = "must be an https:// address without user, query and fragment";
    // The parser forgives white space; who compares the text does not.
    let plain = text.starts_with("https://") && text.bytes().all(|b| b.is_ascii_graphic());
    let url = Url::parse(text).ok().filter(|_| plain && !text.contains(['@', '?', '#'])).ok_or(FORM)?;
    url.has_host().then_some(url).ok_or(FORM)
}

/// Where verifiers find the JWKS, unless it is said: the issuer's host with the port of the discovery listener.
fn discovery_url(issuer: &str, discovery: Option<SocketAddr>) -> Option<String> {
    let Some(address) = discovery else { return Some(issuer.to_owned()) };
    let mut url = Url::parse(issuer).ok()?;
    url.set_port(Some(address.port())).ok()?;
    Some(url.as_str().trim_end_matches('/').to_owned())
}
