//! A policy as an operator writes it, with line numbers for complaints.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use writ_verifier::Delayed;
use writ_verifier::jwks::KeySet;

use crate::config::Problem;
use crate::config::document::{Places, Report, Section};
use writ_core::client::{ClientId, Identity, IdentityKind};
use writ_core::policy::condition::Condition;
use writ_core::policy::mapping::{Mapping, fits_a_token};
use writ_core::policy::schema::Schema;
use writ_core::policy::{Actors, ClientPolicy, Glob, PurposeRule, Redemption};
use writ_core::request::Source;
use writ_platform::clock::HumanDuration;

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
    /// The subject issuers that can be asked about opaque access tokens.
    pub introspecting_issuers: Vec<String>,
    /// Whether there is an external decision point.
    pub pdp: bool,
}

impl Settings {
    /// Whether there can be such a proof: an outside one needs an issuer.
    pub(super) fn has(&self, source: Source) -> bool {
        !source.is_outside() || self.outside_sources.contains(&source)
    }
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

impl Reading {
    /// Whether something is wrong with the file.
    pub(super) fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

/// The content of a file that a policy names, or why it cannot be read.
pub(super) type Named<'a> = &'a dyn Fn(&Path) -> Result<Vec<u8>, String>;

/// What a policy is read with.
#[derive(Clone, Copy)]
struct With<'a> {
    settings: &'a Settings,
    named: Named<'a>,
}

/// The files that a policy names: its own keys, and the schemas of its purposes. Whatever else is wrong with it.
pub(super) fn names(path: &Path, text: &str) -> Vec<PathBuf> {
    if !text.contains("jwks_file") && !text.contains("request_details") {
        return Vec::new(); // most name none
    }
    let Ok(table) = text.parse::<toml::Table>() else { return Vec::new() };
    let purposes = table.get("purpose").and_then(toml::Value::as_array).into_iter().flatten();
    let schemas = purposes.filter_map(|purpose| purpose.get("request_details"));
    let folder = path.parent().unwrap_or(Path::new(""));
    table.get("jwks_file").into_iter().chain(schemas).filter_map(|name| Some(folder.join(name.as_str()?))).collect()
}

/// Reads the text of the file at `path`, whose name is that of the client; `named` gives the files that it names.
pub(super) fn parse(path: &Path, text: &str, settings: &Settings, named: Named<'_>) -> Reading {
    let (report, table) = Report::parse(path, text);
    let mut root = Section::root(&report, table);
    let policy = client(&mut root, path, With { settings, named });
    root.finish();
    Reading { policy, places: report.places(), problems: report.into_problems() }
}

/// R-DELAY-17
const LONGEST_REDEEMED: Duration = Duration::from_secs(300);

/// Keys of one purpose that say what goes into `tctx` and `rctx`.
const DETAILS: [&str; 3] = ["request_details", "tctx", "rctx"];

fn client(root: &mut Section<'_>, path: &Path, with: With<'_>) -> Option<ClientPolicy> {
    root.require(&["client_id"]);
    let client_id = root.parse("client_id", |text| named(text, path));
    let identity = identity(root);
    let subject = root.parse("subject", str::parse);
    let description = root.string("description");
    let introspect = root.flag("introspect").unwrap_or(false);
    let subject_token_audience = root.list("subject_token_audience", filled).unwrap_or_default();
    let vouches_for_bound_tokens = root.flag("vouches_for_bound_tokens").unwrap_or(false);
    let opaque_tokens_from = root.parse("opaque_tokens_from", |text| introspecting(text, with.settings));
    let keys = keys(root, with);
    let purposes = purposes(root.tables("purpose"), with);
    let client_id = client_id?;
    Some(ClientPolicy {
        description,
        identity: identity?,
        subject: subject.or_else(|| client_id.as_str().parse().ok())?,
        introspect,
        subject_token_audience,
        vouches_for_bound_tokens,
        opaque_tokens_from,
        keys,
        purposes,
        client_id,
    })
}

/// The client's own keys.
fn keys(root: &mut Section<'_>, with: With<'_>) -> Option<KeySet> {
    let path = root.path("jwks_file")?;
    let keys = (with.named)(&path).and_then(|document| KeySet::parse(&document).map_err(|cause| cause.to_string()));
    let keys = keys.and_then(|keys| {
        let named = keys.keys().all(|key| key.kid().is_some());
        if named { Ok(keys) } else { Err("has a key without kid, which no token can name".to_owned()) }
    });
    if let Some(left_out) = keys.as_ref().ok().and_then(KeySet::left_out) {
        root.warning("jwks_file", format_args!("{}: cannot use {left_out}", path.display()));
    }
    keys.map_err(|cause| root.error("jwks_file", format_args!("{}: {cause}", path.display()))).ok()
}

fn named(text: &str, path: &Path) -> Result<ClientId, String> {
    let id: ClientId = text.parse().map_err(|cause| format!("{cause}"))?;
    if path.file_stem().is_none_or(|stem| stem != id.as_str()) {
        return Err(format!("is not the name of the file, which must be {id}.toml"));
    }
    Ok(id)
}

fn introspecting(issuer: &str, settings: &Settings) -> Result<String, &'static str> {
    let known = settings.introspecting_issuers.iter().any(|known| known == issuer);
    known.then(|| issuer.to_owned()).ok_or("must be the issuer of a [[subject_issuer]] that has introspection")
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

fn purposes(tables: Vec<Section<'_>>, with: With<'_>) -> Vec<PurposeRule> {
    let mut read: Vec<(PurposeRule, Section<'_>)> = Vec::new();
    for mut table in tables {
        if let Some(rule) = purpose(&mut table, with) {
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
fn purpose(table: &mut Section<'_>, with: With<'_>) -> Option<PurposeRule> {
    let settings = with.settings;
    table.require(&["scope", "accept"]);
    let scope = table.parse("scope", str::parse);
    let accept = table.list("accept", source).unwrap_or_default();
    let mapping = mapping(table, &accept, with);
    let when = table.parse("when", Condition::compile).map(Arc::new);
    complain_of_condition(table, when.as_deref(), &mapping, &accept);
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
        actors: table.choice("actors", &[("ignore", Actors::Ignored)]).unwrap_or(Actors::Refused),
        mapping,
        when,
        pdp: table.flag("pdp").unwrap_or(false),
        accept,
        redemption,
        lines: table.lines(),
        purpose: scope?,
    };
    complain_of_sources(table, &rule, settings);
    complain_of_lifetime(table, &rule, settings);
    if rule.pdp && !settings.pdp {
        table.error("pdp", "needs an external decision point: writ.toml has no section [pdp]");
    }
    Some(rule)
}

/// `request_details`, `tctx` and `rctx`; what is wrong in them was complained about.
fn mapping(table: &mut Section<'_>, accept: &[Source], with: With<'_>) -> Mapping {
    if accept == [Source::ExpiredTxnToken] {
        for key in DETAILS {
            if table.ignore(key) {
                table.error(key, "has no place here: a redeemed token carries its details and context over unchanged");
            }
        }
        return Mapping::default();
    }
    let has_schema = table.has("request_details");
    let mut mapping = Mapping { schema: schema(table, with), ..Mapping::default() };
    if let Some(mut tctx) = table.table("tctx") {
        mapping.tctx_copy = tctx.list("copy", member).unwrap_or_default();
        mapping.tctx_fixed = tctx.members("fixed").unwrap_or_default();
        mapping.tctx_subject = tctx.pairs("subject").unwrap_or_default();
        if !fits_a_token(&mapping.tctx_fixed) {
            tctx.error("fixed", "is nested too deeply, or has too many members, for a token that anybody could read");
        }
        complain_of_tctx(&tctx, &mapping, has_schema, accept);
        tctx.finish();
    }
    if let Some(mut rctx) = table.table("rctx") {
        mapping.rctx_copy = rctx.list("copy", rctx_member).unwrap_or_default();
        rctx.finish();
    }
    mapping
}

fn schema(table: &mut Section<'_>, with: With<'_>) -> Option<Arc<Schema>> {
    let path = table.path("request_details")?;
    let schema = (with.named)(&path).and_then(|text| Schema::parse(&text).map_err(|cause| cause.to_string()));
    let schema = schema
        .map(Arc::new)
        .map_err(|cause| table.error("request_details", format_args!("{}: {cause}", path.display())))
        .ok()?;
    for place in schema.ignored() {
        let what =
            "is no keyword of JSON Schema 2020-12 and refuses nothing; correct it, or begin its name with \"x-\"";
        table.warning("request_details", format_args!("{}: #{place} {what}", path.display()));
    }
    Some(schema)
}

fn complain_of_tctx(tctx: &Section<'_>, mapping: &Mapping, has_schema: bool, accept: &[Source]) {
    if !mapping.tctx_copy.is_empty() && !has_schema {
        tctx.error("copy", "needs request_details: only what fits a schema is copied");
    }
    for name in &mapping.tctx_copy {
        complain_of_stranger(tctx, "copy", name, mapping.schema.as_deref());
        if mapping.tctx_fixed.raw(name).is_some() || mapping.tctx_subject.iter().any(|(member, _)| member == name) {
            tctx.warning("copy", format_args!("\"{name}\" has no effect: the policy gives this member its value"));
        }
    }
    for (name, claim) in &mapping.tctx_subject {
        // R-SUBJ-10: nobody downstream could ask for the proof.
        if claim == "cnf" {
            tctx.error("subject", "must not name \"cnf\": the key of a sender is never copied");
        }
        if mapping.tctx_fixed.raw(name).is_some() {
            tctx.error("subject", format_args!("\"{name}\" is a member of `fixed` too: which of them would count?"));
        }
    }
    if let Some(source) = accept.iter().find(|source| **source == Source::ClientCredentials)
        && !mapping.tctx_subject.is_empty()
    {
        let source = source.name();
        tctx.warning("subject", format_args!("refuses every request by \"{source}\", which brings no claims"));
    }
}

/// A member of the details that the schema does not tell of can hardly be meant; where the schema is closed, it cannot be.
fn complain_of_stranger(table: &Section<'_>, key: &str, name: &str, schema: Option<&Schema>) {
    let Some(schema) = schema.filter(|schema| schema.describes(name) == Some(false)) else { return };
    if schema.is_closed() {
        table.error(key, format_args!("names \"{name}\", which the schema of request_details does not allow"));
    } else {
        table.warning(key, format_args!("names \"{name}\", which the schema of request_details does not describe"));
    }
}

/// On a redemption `details` are the `tctx` that is carried over, whose members other policies name.
fn complain_of_condition(table: &Section<'_>, when: Option<&Condition>, mapping: &Mapping, accept: &[Source]) {
    let Some(when) = when.filter(|_| !accept.contains(&Source::ExpiredTxnToken)) else { return };
    let members = when.members_of_details();
    if !members.is_empty() && mapping.schema.is_none() && !table.complained("request_details") {
        table.error("when", "looks at `details`, which stay empty without request_details");
    }
    for name in members {
        complain_of_stranger(table, "when", name, mapping.schema.as_deref());
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
        if !settings.has(*source) {
            let (name, nothing) = (source.name(), !rule.accept.iter().any(|source| settings.has(*source)));
            let nothing = if nothing { ": nobody can get this purpose here" } else { "" };
            table.warning(
                "accept",
                format_args!("takes \"{name}\", which no [[subject_issuer]] has in token_types{nothing}"),
            );
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
    if rule.actors == Actors::Ignored && !rule.accept.iter().any(|source| source.brings_claims()) {
        table.warning("actors", "has no effect: no subject token that could name an actor is accepted");
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
        let most = HumanDuration(settings.max_lifetime);
        table.error("lifetime", format_args!("must be at most tokens.max_lifetime, \"{most}\""));
    }
    if rule.redemption.is_some() && rule.lifetime > LONGEST_REDEEMED {
        table.error("lifetime", "must be at most \"5m\" where expired tokens are redeemed");
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
        let least = HumanDuration(read.max_age + settings.max_lifetime);
        table.error(
            "max_age",
            format_args!(
                "is too long: keys.retention must be longer than max_age and tokens.max_lifetime, \"{least}\" together"
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

fn member(name: &str) -> Result<String, &'static str> {
    let fits = (1..=128).contains(&name.len()) && !name.chars().any(char::is_control);
    fits.then(|| name.to_owned()).ok_or("a member's name has 1 to 128 bytes and no control characters")
}

fn rctx_member(name: &str) -> Result<String, &'static str> {
    if name == Delayed::MEMBER {
        return Err("must not name \"delayed\": only a redemption adds that member");
    }
    member(name)
}

fn glob(pattern: &str) -> Result<Glob, &'static str> {
    (!pattern.is_empty()).then(|| Glob::new(pattern)).ok_or("an empty pattern fits no subject")
}

fn filled(text: &str) -> Result<String, &'static str> {
    (!text.is_empty()).then(|| text.to_owned()).ok_or("must not be empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "client_id = \"job\"\ntls_client_auth_san_uri = \"spiffe://d.example/job\"\n";
    const OTHER_IDENTITY: &str = "tls_client_auth_san_dns = \"job.example\"\n";

    const TRADE: &str = r#"{"properties":{"ticker":{},"quantity":{"type":"number"}},"additionalProperties":false}"#;
    const KEYS: &str =
        r#"{"keys":[{"kid":"k","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn settings() -> Settings {
        Settings {
            directory: "/p".into(),
            default_lifetime: Duration::from_secs(60),
            max_lifetime: Duration::from_secs(400),
            retention: Duration::from_secs(90 * 86_400),
            outside_sources: vec![Source::AccessToken],
            introspecting_issuers: vec!["https://login.example".to_owned()],
            pdp: false,
        }
    }

    fn reading(text: &str) -> Reading {
        let named = |path: &Path| match path.to_str() {
            Some("/p/schemas/trade.json") => Ok(TRADE.as_bytes().to_vec()),
            Some("/p/open.json") => Ok(TRADE.replace(r#","additionalProperties":false"#, "").into_bytes()),
            Some("/p/draft7.json") => Ok(br#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#.to_vec()),
            Some("/p/keys.json") => Ok(KEYS.as_bytes().to_vec()),
            Some("/p/nameless.json") => Ok(KEYS.replace(r#""kid":"k","#, "").into_bytes()),
            _ => Err("No such file".to_owned()),
        };
        parse(Path::new("/p/job.toml"), text, &settings(), &named)
    }

    fn complaints(text: &str) -> Vec<String> {
        reading(text).problems.iter().map(|problem| problem.to_string().replace("/p/job.toml:", "")).collect()
    }

    /// A purpose that accepts these sources.
    fn purpose(accept: &[&str], more: &str) -> String {
        format!("[[purpose]]\nscope = \"s\"\naccept = {accept:?}\n{more}\n")
    }

    fn redeem(accept: &[&str], redemption: &str) -> String {
        purpose(accept, &format!("[purpose.redemption]\n{redemption}"))
    }

    const AGED: &str = "issued_to = [\"job\"]\nmax_age = \"40d\"\n";

    #[test]
    fn a_policy_says_what_the_defaults_leave_open() {
        let text = format!("{GOOD}{}", redeem(&["expired_txn_token"], AGED));
        let policy = reading(&text).policy.unwrap();
        assert_eq!((policy.client_id.as_str(), policy.subject.as_str()), ("job", "job"));
        assert_eq!(policy.identity, Identity::parse(IdentityKind::SanUri, "spiffe://d.example/job").unwrap());
        assert!(!policy.introspect && !policy.vouches_for_bound_tokens && policy.subject_token_audience.is_empty());
        assert_eq!(policy.opaque_tokens_from, None);
        let [rule] = policy.purposes.as_slice() else { panic!("{policy:?}") };
        assert_eq!((rule.purpose.as_str(), rule.line, rule.lifetime.as_secs()), ("s", 3, 60));
        assert!(!rule.outlive && rule.subjects.is_none() && rule.granted_by.is_empty());
        let redemption = rule.redemption.clone().unwrap();
        assert_eq!((redemption.min_age.as_secs(), redemption.max_age.as_secs()), (0, 40 * 86_400));
        assert_eq!((redemption.max_uses, redemption.require_record), (1, true));
    }

    #[test]
    fn a_policy_says_what_is_written() {
        let text = format!(
            "{GOOD}subject = \"svc:job\"\nintrospect = true\nvouches_for_bound_tokens = true\n\
             subject_token_audience = [\"https://api.example\"]\nopaque_tokens_from = \"https://login.example\"\n{}",
            purpose(
                &["access_token", "txn_token"],
                "lifetime = \"2m\"\nsubjects = [\"*@d\"]\ngranted_by = [\"g\"]\noutlive = true\npdp = false"
            )
        );
        let reading = reading(&text);
        assert!(reading.problems.is_empty(), "{:?}", reading.problems);
        let policy = reading.policy.unwrap();
        assert_eq!(
            (policy.subject.as_str(), policy.introspect, policy.vouches_for_bound_tokens),
            ("svc:job", true, true)
        );
        assert_eq!(policy.subject_token_audience, ["https://api.example"]);
        assert_eq!(policy.opaque_tokens_from.as_deref(), Some("https://login.example"));
        let rule = &policy.purposes[0];
        assert_eq!((rule.lifetime.as_secs(), rule.outlive, rule.granted_by[0].as_str()), (120, true, "g"));
        assert!(rule.names_subject(&"x@d".parse().unwrap()));
        assert_eq!(rule.accept, [Source::AccessToken, Source::TxnToken]);
    }

    #[test]
    fn a_purpose_may_ask_the_decision_point_where_there_is_one() {
        let text = format!("{GOOD}{}", purpose(&["txn_token"], "pdp = true"));
        let reading =
            parse(Path::new("/p/job.toml"), &text, &Settings { pdp: true, ..settings() }, &|_| Err(String::new()));
        assert!(reading.problems.is_empty() && reading.policy.unwrap().purposes[0].pdp);
    }

    /// R-AUTHN-05
    #[test]
    fn a_client_has_exactly_one_identity() {
        for (text, expected) in [
            ("client_id = \"job\"".to_owned(), "1: tls_client_auth_*: is missing: exactly one"),
            (format!("{GOOD}{OTHER_IDENTITY}"), "2: tls_client_auth_san_uri: is one identity too many"),
            (
                format!("{GOOD}self_signed_tls_client_auth_x5t_s256 = [\"{}\"]", "A".repeat(43)),
                "3: self_signed_tls_client_auth_x5t_s256: is one identity too many",
            ),
            (GOOD.replace("spiffe:", "spiffe"), "2: tls_client_auth_san_uri: not a URI"),
            (GOOD.replace("tls_client_auth_san_uri", "tls_client_auth_uri"), "1: tls_client_auth_*: is missing"),
            (
                "client_id = \"job\"\nself_signed_tls_client_auth_x5t_s256 = []".to_owned(),
                "2: self_signed_tls_client_auth_x5t_s256: one or two",
            ),
            (
                "client_id = \"job\"\nself_signed_tls_client_auth_x5t_s256 = [\"x\"]".to_owned(),
                "2: self_signed_tls_client_auth_x5t_s256: not a SHA-256 thumbprint",
            ),
        ] {
            assert!(complaints(&text)[0].contains(expected), "{text}: {:?}", complaints(&text));
        }
        for key in IdentityKind::ALL.map(IdentityKind::name) {
            assert!(complaints(&format!("client_id = \"job\"\n{key} = 1\n")).len() == 1);
        }
    }

    /// A-089, A-109, and the list at the end of the contract's section on policies.
    #[test]
    fn each_rule_complains_at_its_key() {
        let access = |more: &str| purpose(&["access_token"], more);
        for (text, expected) in [
            (String::from("client = \"job\""), "3: client: unknown key `client`"),
            ("description = 1".into(), "3: description: must be a string"),
            ("subject = \"\"".into(), "3: subject: a subject has 1 to 255"),
            ("jwks_file = \"x\"".into(), "3: jwks_file: /p/x: No such file"),
            ("jwks_file = \"draft7.json\"".into(), "3: jwks_file: /p/draft7.json: not a JWK set"),
            ("jwks_file = \"nameless.json\"".into(), "3: jwks_file: /p/nameless.json: has a key without kid"),
            ("[[purpose]]\naccept = [\"txn_token\"]\npdp = false".into(), "3: purpose[0].scope: is missing"),
            ("[[purpose]]\nscope = \"s\"".into(), "3: purpose[0].accept: is missing"),
            ("[[purpose]]\nscope = \"s t\"\naccept = [\"txn_token\"]".into(), "4: purpose[0].scope: a purpose is"),
            (purpose(&[], ""), "5: purpose[0].accept: must name one source"),
            (purpose(&["token"], ""), "5: purpose[0].accept: must be of \"access_token\""),
            (purpose(&["txn_token", "txn_token"], ""), "5: purpose[0].accept: names \"txn_token\" twice"),
            (
                purpose(&["txn_token"], "lifetime = \"401s\""),
                "6: purpose[0].lifetime: must be at most tokens.max_lifetime, \"6m40s\"",
            ),
            (purpose(&["txn_token"], "subjects = [\"\"]"), "6: purpose[0].subjects: an empty pattern"),
            (purpose(&["txn_token"], "subjects = []"), "6: purpose[0].subjects: warning: names nobody"),
            (purpose(&["txn_token"], "granted_by = [\"x\"]"), "6: purpose[0].granted_by: warning: has no effect"),
            (purpose(&["unsigned_json"], "actors = true"), "6: purpose[0].actors: must be a string"),
            (purpose(&["unsigned_json"], "actors = \"keep\""), "6: purpose[0].actors: must be one of \"ignore\""),
            (purpose(&["txn_token"], "actors = \"ignore\""), "6: purpose[0].actors: warning: has no effect"),
            (purpose(&["client_credentials"], "actors = \"ignore\""), "6: purpose[0].actors: warning: has no effect"),
            (purpose(&["unsigned_json"], "actor = \"ignore\""), "did you mean `actors`?"),
            (purpose(&["txn_token"], "pdp = true"), "6: purpose[0].pdp: needs an external decision point"),
            (purpose(&["txn_token"], "outlives = true"), "did you mean `outlive`?"),
            (access(""), "3: purpose[0].granted_by: must name the scopes"),
            (access("granted_by = []"), "6: purpose[0].granted_by: must name the scopes"),
            (access("granted_by = [\"a b\"]"), "6: purpose[0].granted_by: a purpose is"),
            (purpose(&["jwt"], "granted_by = [\"x\"]"), "5: purpose[0].accept: warning: takes \"jwt\", which no"),
            (purpose(&["expired_txn_token"], ""), "3: purpose[0].redemption: is missing"),
            (purpose(&["expired_txn_token"], "redemption = true"), "6: purpose[0].redemption: must be a table"),
            (redeem(&["txn_token"], AGED), "6: purpose[0].redemption: has no place here"),
            (redeem(&["expired_txn_token"], "max_age = \"1d\""), "6: purpose[0].redemption.issued_to: is missing"),
            (
                redeem(&["expired_txn_token"], "max_age = \"1d\"\nissued_to = []"),
                "8: purpose[0].redemption.issued_to: must name",
            ),
            (
                redeem(&["expired_txn_token"], "max_age = \"1d\"\nissued_to = [\".\"]"),
                "redemption.issued_to: a client_id is",
            ),
            (redeem(&["expired_txn_token"], "issued_to = [\"a\"]"), "6: purpose[0].redemption.max_age: is missing"),
            (
                redeem(&["expired_txn_token"], &format!("{AGED}max_uses = 0")),
                "redemption.max_uses: must be a whole number from 1",
            ),
            (
                redeem(&["expired_txn_token"], &format!("{AGED}max_uses = -1")),
                "redemption.max_uses: must be a whole number from 1",
            ),
            (
                redeem(&["expired_txn_token"], &format!("{AGED}min_age = \"41d\"")),
                "redemption.min_age: must not be longer",
            ),
            (redeem(&["expired_txn_token"], &format!("{AGED}max_use = 3")), "did you mean `max_uses`?"),
            (
                redeem(&["expired_txn_token"], "issued_to = [\"a\"]\nmax_age = \"90d\""),
                "8: purpose[0].redemption.max_age: is too long: keys.retention must be longer",
            ),
            (
                redeem(&["expired_txn_token"], &format!("{AGED}require_record = false")),
                "redemption.require_record: warning: tokens that are not on record",
            ),
            (
                redeem(&["expired_txn_token"], AGED).replace("scope", "lifetime = \"301s\"\nscope"),
                "4: purpose[0].lifetime: must be at most \"5m\"",
            ),
            (
                redeem(&["expired_txn_token"], AGED).replace("scope", "tctx.copy = [\"a\"]\nscope"),
                "4: purpose[0].tctx: has no place here: a redeemed token carries",
            ),
            (
                redeem(&["expired_txn_token", "client_credentials"], AGED),
                "5: purpose[0].accept: \"client_credentials\" needs no token, and this scope can be redeemed (line 3)",
            ),
            (
                redeem(&["expired_txn_token"], AGED) + &purpose(&["unsigned_json"], ""),
                "12: purpose[1].accept: \"unsigned_json\" needs no token, and this scope can be redeemed (line 3)",
            ),
            (
                purpose(&["self_signed"], "") + &redeem(&["expired_txn_token"], AGED),
                "5: purpose[0].accept: \"self_signed\" needs no token, and this scope can be redeemed (line 7)",
            ),
            (
                purpose(&["txn_token", "self_signed"], "") + &purpose(&["txn_token"], ""),
                "9: purpose[1].accept: \"txn_token\" is accepted for this scope in line 3 already",
            ),
        ] {
            let found = complaints(&format!("{GOOD}{text}"));
            assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
        }
    }

    /// R-SUBJ-11
    #[test]
    fn opaque_tokens_come_from_an_issuer_that_can_be_asked() {
        for issuer in ["https://login.example/", "https://other.example", ""] {
            let found = complaints(&format!("{GOOD}opaque_tokens_from = \"{issuer}\""));
            let expected = "3: opaque_tokens_from: must be the issuer of a [[subject_issuer]] that has introspection";
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        }
    }

    #[test]
    fn details_context_and_condition_complain_at_their_keys() {
        let trade = |more: &str| purpose(&["txn_token"], &format!("request_details = \"schemas/trade.json\"\n{more}"));
        for (text, expected) in [
            (purpose(&["txn_token"], "when = true"), "6: purpose[0].when: must be a string"),
            (purpose(&["txn_token"], "when = \"tru\""), "6: purpose[0].when: knows no `tru`; there are client"),
            (
                purpose(&["txn_token"], "when = \"details.quantity < 1\""),
                "6: purpose[0].when: looks at `details`, which stay empty without request_details",
            ),
            (purpose(&["txn_token"], "request_details = \"x\""), "6: purpose[0].request_details: /p/x: No such file"),
            (
                purpose(&["txn_token"], "request_details = \"draft7.json\""),
                "6: purpose[0].request_details: /p/draft7.json: is not for JSON Schema 2020-12",
            ),
            (purpose(&["txn_token"], "tctx.copy = [\"a\"]"), "6: purpose[0].tctx.copy: needs request_details"),
            (purpose(&["txn_token"], "tctx = true"), "6: purpose[0].tctx: must be a table"),
            (purpose(&["txn_token"], "tctx.fix = {}"), "6: purpose[0].tctx.fix: unknown key"),
            (purpose(&["txn_token"], "tctx.fixed = { a = 1979-05-27 }"), "tctx.fixed: 1979-05-27 is no value in JSON"),
            (purpose(&["txn_token"], "tctx.fixed = { a = nan }"), "tctx.fixed: nan is no number in JSON"),
            (purpose(&["txn_token"], "tctx.subject = { a = 1 }"), "tctx.subject: must be a table of strings, not a"),
            (
                purpose(&["txn_token"], "tctx = { fixed = { a = 1 }, subject = { a = \"b\" } }"),
                "6: purpose[0].tctx.subject: \"a\" is a member of `fixed` too",
            ),
            (
                purpose(&["txn_token"], "tctx.subject = { a = \"cnf\" }"),
                "6: purpose[0].tctx.subject: must not name \"cnf\"",
            ),
            (
                purpose(&["client_credentials"], "tctx.subject = { a = \"b\" }"),
                "tctx.subject: warning: refuses every request by \"client_credentials\"",
            ),
            (trade("tctx.copy = [\"tikcer\"]"), "7: purpose[0].tctx.copy: names \"tikcer\", which the schema"),
            (trade("when = \"details.quantiti < 1\""), "7: purpose[0].when: names \"quantiti\", which the schema"),
            (
                trade("tctx.copy = [\"other\"]").replace("schemas/trade", "open"),
                "7: purpose[0].tctx.copy: warning: names \"other\", which the schema",
            ),
            (
                trade("tctx = { copy = [\"ticker\"], fixed = { ticker = \"A\" } }"),
                "7: purpose[0].tctx.copy: warning: \"ticker\" has no effect",
            ),
            (
                purpose(&["txn_token"], "rctx.copy = [\"delayed\"]"),
                "6: purpose[0].rctx.copy: must not name \"delayed\"",
            ),
            (purpose(&["txn_token"], "rctx.copy = [\"\"]"), "6: purpose[0].rctx.copy: a member's name has 1 to 128"),
        ] {
            let found = complaints(&format!("{GOOD}{text}"));
            assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
        }
    }

    #[test]
    fn details_context_and_condition_are_read_as_written() {
        let more = "request_details = \"schemas/trade.json\"\ntctx.copy = [\"ticker\", \"quantity\"]\n\
             tctx.fixed = { desk = \"retail\", fee = 0.10, tags = [\"a\", { n = 0x10 }], open = true }\n\
             tctx.subject = { level = \"customer_level\" }\nrctx.copy = [\"req_ip\"]\n\
             when = 'details.quantity <= 1000 && has(details.ticker)'";
        let text = format!("{GOOD}jwks_file = \"keys.json\"\n{}", purpose(&["txn_token"], more));
        assert!(complaints(&text).is_empty(), "{:?}", complaints(&text));
        let policy = reading(&text).policy.unwrap();
        assert_eq!(policy.keys.unwrap().keys().count(), 1);
        let rule = &policy.purposes[0];
        assert_eq!(rule.mapping.tctx_copy, ["ticker", "quantity"]);
        let fixed = serde_json::to_string(&rule.mapping.tctx_fixed).unwrap();
        assert_eq!(fixed, r#"{"desk":"retail","fee":0.10,"open":true,"tags":["a",{"n":16}]}"#);
        assert_eq!(rule.mapping.tctx_subject, [("level".to_owned(), "customer_level".to_owned())]);
        assert_eq!(rule.mapping.rctx_copy, ["req_ip"]);
        assert!(rule.mapping.schema.is_some() && rule.when.is_some());
    }

    /// What a redemption looks at is what other policies carry along.
    #[test]
    fn a_condition_on_a_redemption_may_name_any_detail() {
        let text =
            redeem(&["expired_txn_token"], AGED).replace("scope =", "when = \"details.contract == 'C-1'\"\nscope =");
        assert!(complaints(&format!("{GOOD}{text}")).is_empty());
    }

    /// The examples of the reference are policies that can be used.
    #[test]
    fn the_manual_says_what_works() {
        const MANUAL: &str = include_str!("../../../docs/reference/policies.md");
        let schema = |_: &Path| Ok(include_bytes!("../../../policies/schemas/trade.schema.json").to_vec());
        let retention = Duration::from_secs(400 * 86_400);
        let settings = Settings { outside_sources: Source::ALL.to_vec(), pdp: true, retention, ..settings() };
        let blocks = MANUAL.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let mut purposes = 0;
        for block in blocks.filter(|block| block.starts_with("[[purpose]]")) {
            let found = parse(Path::new("/p/job.toml"), &format!("{GOOD}{block}"), &settings, &schema);
            assert!(!found.problems.iter().any(Problem::is_error), "{block}: {:?}", found.problems);
            purposes += 1;
        }
        let table = MANUAL.split("| to allow only | write |").nth(1).unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let conditions: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap().replace("\\|", "|")).collect();
        for condition in &conditions {
            assert!(Condition::compile(condition).is_ok(), "{condition}");
        }
        assert!(purposes >= 6 && conditions.len() >= 8, "{purposes} {conditions:?}");
    }

    #[test]
    fn the_files_that_a_policy_names_are_found() {
        let text = format!(
            "{GOOD}jwks_file = \"../keys.json\"\n{}{}",
            purpose(&["txn_token"], "request_details = \"schemas/trade.json\""),
            purpose(&["txn_token"], "request_details = \"/etc/other.json\"")
        );
        let found = names(Path::new("/p/job.toml"), &text);
        assert_eq!(found, ["/p/../keys.json", "/p/schemas/trade.json", "/etc/other.json"].map(PathBuf::from));
        assert!(
            names(Path::new("/p/job.toml"), "jwks_file").is_empty() && names(Path::new("/p/job.toml"), GOOD).is_empty()
        );
    }

    #[test]
    fn a_scope_may_have_a_table_for_each_of_its_sources() {
        let text = format!(
            "{GOOD}{}{}{}",
            purpose(&["client_credentials"], "lifetime = \"30s\""),
            purpose(&["txn_token"], ""),
            purpose(&["access_token"], "granted_by = [\"g\"]")
        );
        assert!(complaints(&text).is_empty());
        // Redeeming is no matter of other purposes.
        let other = purpose(&["client_credentials"], "").replace("\"s\"", "\"t\"");
        assert!(complaints(&format!("{GOOD}{}{other}", redeem(&["expired_txn_token", "txn_token"], AGED))).is_empty());
    }

    /// A-089
    #[test]
    fn a_file_that_is_empty_cut_off_or_misnamed_is_refused() {
        assert_eq!(complaints("").len(), 2);
        assert!(complaints(&GOOD[..GOOD.len() - 3])[0].starts_with("2: "));
        assert!(
            complaints(&GOOD.replace("\"job\"", "\"jobs\""))[0].contains("1: client_id: is not the name of the file")
        );
        assert!(
            complaints(&GOOD.replace("\"job\"", "\"JOB\""))[0].contains("1: client_id: is not the name of the file")
        );
        assert!(complaints(&format!("{GOOD}client_id = \"job\"\n"))[0].contains("3: client_id: is written twice"));
    }

    /// A-139
    #[test]
    fn ten_mistakes_are_named_in_one_run() {
        let text = "\
client_id = \"jobs\"
subject = \"\"
introspect = \"yes\"
[[purpose]]
scope = \"a b\"
[[purpose]]
scope = \"c\"
accept = [\"access_token\", \"magic\"]
lifetime = \"forever\"
when = 'tru'
[[purpose]]
scope = \"d\"
accept = [\"expired_txn_token\"]
[purpose.redemption]
issued_to = []
max_age = \"4000d\"
max_uses = 0
";
        let lines: Vec<usize> = reading(text).problems.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [1, 1, 2, 3, 4, 5, 8, 9, 10, 15, 16, 17]);
    }
}
