//! A policy as an operator writes it, with line numbers for complaints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ClientPolicy, Glob, PurposeRule, Redemption, Source};
use crate::client::{ClientId, Identity, IdentityKind};
use crate::config::Problem;
use crate::config::document::{Places, Report, Section};

/// Where the policies are, and what they may say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder with one file a client.
    pub directory: PathBuf,
    /// How long tokens live where a purpose does not say.
    pub default_lifetime: Duration,
    /// How long they may live at most.
    pub max_lifetime: Duration,
    /// How long historical public keys stay: what can be redeemed must be younger.
    pub retention: Duration,
    /// What tokens some subject issuer is configured for.
    pub outside_sources: Vec<Source>,
}

/// What was made of one file.
#[derive(Debug)]
pub(super) struct Reading {
    /// The policy, as far as it could be read; not to be used if there is an error.
    pub(super) policy: Option<ClientPolicy>,
    /// Errors and warnings, by line.
    pub(super) problems: Vec<Problem>,
    /// Where each key stands.
    pub(super) places: Places,
}

/// Reads the text of the file at `path`, whose name is that of the client.
pub(super) fn parse(path: &Path, text: &str, settings: &Settings) -> Reading {
    let (report, table) = Report::parse(path, text);
    let mut root = Section::root(&report, table);
    let policy = client(&mut root, path, settings);
    root.finish();
    Reading { policy, places: report.places(), problems: report.into_problems() }
}

/// R-DELAY-17
const LONGEST_REDEEMED: Duration = Duration::from_secs(300);

/// Keys of one purpose that say what goes into `tctx` and `rctx`.
const DETAILS: [&str; 3] = ["request_details", "tctx", "rctx"];

fn client(root: &mut Section<'_>, path: &Path, settings: &Settings) -> Option<ClientPolicy> {
    root.require(&["client_id"]);
    let client_id = root.parse("client_id", |text| named(text, path));
    let subject = root.parse("subject", str::parse);
    let identity = identity(root);
    let policy = ClientPolicy {
        description: root.string("description"),
        subject: subject.or_else(|| client_id.as_ref()?.as_str().parse().ok())?,
        introspect: root.flag("introspect").unwrap_or(false),
        subject_token_audience: root.list("subject_token_audience", filled).unwrap_or_default(),
        vouches_for_bound_tokens: root.flag("vouches_for_bound_tokens").unwrap_or(false),
        purposes: purposes(root.tables("purpose"), settings),
        client_id: client_id?,
        identity: identity?,
    };
    root.not_supported("jwks_file");
    root.not_supported("opaque_tokens_from");
    Some(policy)
}

fn named(text: &str, path: &Path) -> Result<ClientId, String> {
    let id: ClientId = text.parse().map_err(|cause| format!("{cause}"))?;
    if path.file_stem().is_none_or(|stem| stem != id.as_str()) {
        return Err(format!("is not the name of the file, which must be {id}.toml"));
    }
    Ok(id)
}

/// The one identity of the client; none and several are both wrong (R-AUTHN-05).
fn identity(root: &mut Section<'_>) -> Option<Identity> {
    let kinds: Vec<_> = IdentityKind::ALL.into_iter().filter(|kind| root.has(kind.name())).collect();
    let identities: Vec<_> = IdentityKind::ALL.into_iter().map(|kind| identity_of(root, kind)).collect();
    match kinds.as_slice() {
        [_] => identities.into_iter().flatten().next(),
        [] => {
            let names = IdentityKind::ALL.map(IdentityKind::name).join(", ");
            root.gap("tls_client_auth_*", format_args!("is missing: exactly one identity is needed, of {names}"));
            None
        }
        [first, others @ ..] => {
            for other in others {
                root.error(other.name(), format_args!("is one identity too many: there is {} already", first.name()));
            }
            None
        }
    }
}

fn identity_of(root: &mut Section<'_>, kind: IdentityKind) -> Option<Identity> {
    let key = kind.name();
    if kind != IdentityKind::Thumbprints {
        return root.parse(key, |text| Identity::parse(kind, text));
    }
    let texts = root.list(key, filled)?;
    Identity::thumbprints(&texts).map_err(|cause| root.error(key, cause)).ok()
}

fn purposes(tables: Vec<Section<'_>>, settings: &Settings) -> Vec<PurposeRule> {
    let mut read: Vec<(PurposeRule, Section<'_>)> = Vec::new();
    for mut table in tables {
        if let Some(rule) = purpose(&mut table, settings) {
            complain_of_doubles(&rule, &table, &read);
            read.push((rule, table));
        } else {
            table.finish();
        }
    }
    complain_of_mints(&read);
    read.into_iter()
        .map(|(rule, table)| {
            table.finish();
            rule
        })
        .collect()
}

/// A source in two tables of one purpose: which of them would count?
fn complain_of_doubles(rule: &PurposeRule, table: &Section<'_>, earlier: &[(PurposeRule, Section<'_>)]) {
    for (other, _) in earlier.iter().filter(|(other, _)| other.purpose == rule.purpose) {
        for source in rule.accept.iter().filter(|source| other.accept.contains(source)) {
            let (source, line) = (source.name(), other.line);
            table.error("accept", format_args!("\"{source}\" is accepted for this scope in line {line} already"));
        }
    }
}

/// Whoever may redeem must not be able to make the token itself: that it holds one is the evidence that the
/// transaction happened (R-DELAY-20).
fn complain_of_mints(read: &[(PurposeRule, Section<'_>)]) {
    for (rule, table) in read {
        let redeemable = |(other, _): &&(PurposeRule, _)| other.purpose == rule.purpose && other.redemption.is_some();
        let Some((other, _)) = read.iter().find(redeemable) else { continue };
        for source in rule.accept.iter().filter(|source| source.is_self_asserted()) {
            let (source, line) = (source.name(), other.line);
            table.error(
                "accept",
                format_args!(
                    "\"{source}\" needs no token, and this scope can be redeemed (line {line}): holding the expired \
                     token must be the evidence that the transaction happened"
                ),
            );
        }
    }
}

/// One table; `None` without a scope.
fn purpose(table: &mut Section<'_>, settings: &Settings) -> Option<PurposeRule> {
    table.require(&["scope", "accept"]);
    let scope = table.parse("scope", str::parse);
    let accept = table.list("accept", source);
    let redemption = table.table("redemption").map(|mut redemption| {
        let read = self::redemption(&mut redemption, settings);
        redemption.finish();
        read
    });
    let rule = PurposeRule {
        line: table.line(),
        lifetime: table.duration("lifetime").unwrap_or(settings.default_lifetime),
        subjects: table.list("subjects", glob),
        granted_by: table.list("granted_by", str::parse).unwrap_or_default(),
        outlive: table.flag("outlive").unwrap_or(false),
        accept: accept.unwrap_or_default(),
        redemption,
        purpose: scope?,
    };
    complain_of_unsupported(table, &rule);
    complain_of_sources(table, &rule, settings);
    complain_of_lifetime(table, &rule, settings);
    Some(rule)
}

fn complain_of_unsupported(table: &mut Section<'_>, rule: &PurposeRule) {
    for key in DETAILS {
        if rule.accept == [Source::ExpiredTxnToken] && table.ignore(key) {
            table.error(key, "has no place here: a redeemed token carries its details and context over unchanged");
        } else {
            table.not_supported(key);
        }
    }
    table.not_supported("when");
    if table.flag("pdp") == Some(true) {
        table.error("pdp", "`pdp` is not supported by this version of Writ");
    }
}

fn complain_of_sources(table: &Section<'_>, rule: &PurposeRule, settings: &Settings) {
    let accepts = |source| rule.accept.contains(&source);
    if rule.accept.is_empty() && !table.complained("accept") {
        table.gap("accept", "must name one source or more");
    }
    for (index, source) in rule.accept.iter().enumerate() {
        if rule.accept[..index].contains(source) {
            table.error("accept", format_args!("names \"{}\" twice", source.name()));
        }
        if source.is_outside() && !settings.outside_sources.contains(source) {
            let name = source.name();
            table.warning("accept", format_args!("takes \"{name}\", which no [[subject_issuer]] has in token_types"));
        }
    }
    match (rule.accept.iter().find(|source| source.is_outside()), rule.granted_by.is_empty()) {
        (Some(outside), true) if !table.complained("granted_by") => table.gap(
            "granted_by",
            format_args!(
                "must name the scopes of a subject token that allow this, since \"{}\" is accepted",
                outside.name()
            ),
        ),
        (None, false) => table.warning("granted_by", "has no effect: no token of a subject issuer is accepted"),
        _ => {}
    }
    if rule.subjects.as_ref().is_some_and(Vec::is_empty) {
        table.warning("subjects", "names nobody: only the client's own subject is left");
    }
    let expired = accepts(Source::ExpiredTxnToken);
    if expired && rule.redemption.is_none() && !table.complained("redemption") {
        table.gap(
            "redemption",
            "is missing: \"expired_txn_token\" is accepted, so a table must say whose and how often",
        );
    }
    if !expired && rule.redemption.is_some() && !table.complained("accept") {
        table.error("redemption", "has no place here: `accept` does not name \"expired_txn_token\"");
    }
}

fn complain_of_lifetime(table: &Section<'_>, rule: &PurposeRule, settings: &Settings) {
    if rule.lifetime > settings.max_lifetime {
        let most = settings.max_lifetime.as_secs();
        table.error("lifetime", format_args!("must be at most tokens.max_lifetime, \"{most}s\""));
    }
    if rule.redemption.is_some() && rule.lifetime > LONGEST_REDEEMED {
        table.error("lifetime", "must be at most \"300s\" where expired tokens are redeemed");
    }
}

/// `[purpose.redemption]`; what is wrong in it was complained about.
fn redemption(table: &mut Section<'_>, settings: &Settings) -> Redemption {
    table.require(&["issued_to", "max_age"]);
    let issued_to = table.list("issued_to", str::parse);
    let max_age = table.duration("max_age");
    let read = Redemption {
        min_age: table.duration_or_none("min_age").unwrap_or_default(),
        max_age: max_age.unwrap_or_default(),
        max_uses: table.integer("max_uses", 1..=1_000_000).unwrap_or(1),
        require_record: table.flag("require_record").unwrap_or(true),
        issued_to: issued_to.unwrap_or_default(),
    };
    if read.issued_to.is_empty() && !table.complained("issued_to") {
        table.gap("issued_to", "must name the clients whose tokens may be redeemed");
    }
    if max_age.is_some() && read.min_age > read.max_age {
        table.error("min_age", "must not be longer than max_age");
    }
    if read.max_age + settings.max_lifetime >= settings.retention {
        let least = (read.max_age + settings.max_lifetime).as_secs();
        table.error(
            "max_age",
            format_args!(
                "is too long: keys.retention must be longer than max_age and tokens.max_lifetime, \"{least}s\""
            ),
        );
    }
    if !read.require_record {
        table.warning(
            "require_record",
            "tokens that are not on record can be redeemed: whoever gets hold of a signing key of the past can make them",
        );
    }
    read
}

fn source(name: &str) -> Result<Source, String> {
    Source::from_name(name).ok_or_else(|| {
        let names = Source::ALL.map(|source| format!("\"{}\"", source.name()));
        format!("must be of {}", names.join(", "))
    })
}

fn glob(pattern: &str) -> Result<Glob, &'static str> {
    (!pattern.is_empty()).then(|| Glob::new(pattern)).ok_or("an empty pattern fits no subject")
}

fn filled(text: &str) -> Result<String, &'static str> {
    (!text.is_empty()).then(|| text.to_owned()).ok_or("must not be empty")
}
