//! `[[subject_issuer]]`: who signs the tokens that are exchanged.

use std::collections::BTreeMap;
use std::time::Duration;

use jsonwebtoken::Algorithm;

use super::document::Section;
use super::file::https_url;
use writ_core::request::Source;
use writ_core::subject::introspection;
use writ_core::subject::issuers::{AccessTokenProfile, KeySource, Settings};

const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// Reads every issuer; `own` is the name of this service, which must not be one of them.
pub(super) fn read_all(tables: Vec<Section<'_>>, own: Option<&str>) -> Vec<Settings> {
    let mut names = BTreeMap::new();
    let mut prefixes = BTreeMap::new();
    let mut all = Vec::new();
    for mut table in tables {
        let settings = read(&mut table);
        if Some(settings.issuer.as_str()) == own {
            table.error("issuer", "is this service itself: its own tokens are exchanged as txn_token only");
        }
        once(&table, "issuer", &mut names, &settings.issuer);
        once(&table, "subject_prefix", &mut prefixes, &settings.subject_prefix);
        all.push(settings);
        table.finish();
    }
    all
}

/// Complains if an issuer in an earlier line has the same `value`.
fn once(table: &Section<'_>, key: &str, seen: &mut BTreeMap<String, usize>, value: &str) {
    if table.complained(key) {
        return;
    }
    if let Some(line) = seen.insert(value.to_owned(), table.line()) {
        table.error(key, format_args!("is the same as that of the [[subject_issuer]] in line {line}"));
    }
}

/// One issuer; what is missing in it was complained about.
fn read(table: &mut Section<'_>) -> Settings {
    table.require(&["issuer"]);
    let keys = key_source(table);
    let issuer = table.parse("issuer", |text| name(text, keys.as_ref()));
    let token_types = table.list("token_types", token_type).unwrap_or_else(|| vec![Source::AccessToken]);
    let profiles = [("rfc9068", AccessTokenProfile::Rfc9068), ("legacy", AccessTokenProfile::Legacy)];
    let settings = Settings {
        issuer: issuer.unwrap_or_default(),
        keys: keys.unwrap_or(KeySource::Discovery),
        audience: table.list("audience", filled).unwrap_or_default(),
        algorithms: table.list("algorithms", algorithm).unwrap_or_else(|| vec![Algorithm::RS256, Algorithm::ES256]),
        access_token_profile: table.choice("jwt_access_tokens", &profiles).unwrap_or(AccessTokenProfile::Rfc9068),
        id_token_audience: table.list("id_token_audience", filled).unwrap_or_default(),
        subject_claim: table.parse("subject_claim", filled).unwrap_or_else(|| "sub".to_owned()),
        scope_claim: table.parse("scope_claim", filled).unwrap_or_else(|| "scope".to_owned()),
        subject_prefix: table.parse("subject_prefix", prefix).unwrap_or_default(),
        scopes: table.list("scopes", str::parse).unwrap_or_default(),
        jwks_stale: table.duration("jwks_stale").unwrap_or(Duration::from_secs(86_400)),
        ca: table.path("ca"),
        introspection: introspection(table),
        token_types,
    };
    complain_of_gaps(table, &settings);
    complain_of_confusion(table, &settings);
    settings
}

/// Lists without which every token would be refused.
fn complain_of_gaps(table: &Section<'_>, settings: &Settings) {
    let takes = |source| settings.token_types.contains(&source);
    let for_access = takes(Source::AccessToken) || takes(Source::Jwt);
    for (key, needed, why) in [
        ("token_types", settings.token_types.is_empty(), "must name one type of token or more"),
        ("algorithms", settings.algorithms.is_empty(), "must name one algorithm or more"),
        (
            "audience",
            for_access && settings.audience.is_empty(),
            "must say what \"access_token\" and \"jwt\" have in aud when they are meant for exchange here",
        ),
        (
            "id_token_audience",
            takes(Source::IdToken) && settings.id_token_audience.is_empty(),
            "must name the client ids that \"id_token\" may be issued to",
        ),
    ] {
        if needed && !table.complained(key) {
            table.error(key, why);
        }
    }
}

/// Kinds of token that nothing would tell apart (R-SUBJ-05).
fn complain_of_confusion(table: &Section<'_>, settings: &Settings) {
    let takes = |source| settings.token_types.contains(&source);
    let legacy = takes(Source::AccessToken) && settings.access_token_profile == AccessTokenProfile::Legacy;
    if legacy && takes(Source::Jwt) {
        table.error(
            "token_types",
            "cannot have \"jwt\" beside \"access_token\" where jwt_access_tokens is \"legacy\": nothing tells the two apart",
        );
    }
    if settings.introspection.is_some() && !takes(Source::AccessToken) {
        table.error("introspection", "is for access tokens, which token_types does not name");
    }
    let both = settings.audience.iter().find(|name| settings.id_token_audience.contains(name));
    if let Some(name) = both.filter(|_| takes(Source::IdToken) && (legacy || takes(Source::Jwt))) {
        table.error(
            "id_token_audience",
            format_args!("names \"{name}\", as audience does: nothing would tell ID tokens from other tokens"),
        );
    }
}

/// `None` if it is not written, or not complete; that was complained about.
fn introspection(table: &mut Section<'_>) -> Option<introspection::Settings> {
    let mut written = table.table("introspection")?;
    written.require(&["endpoint", "client_id", "client_secret_file"]);
    let endpoint = written.parse("endpoint", address);
    let client_id = written.parse("client_id", filled);
    let client_secret_file = written.path("client_secret_file");
    let always = written.flag("always").unwrap_or(false);
    written.finish();
    let (endpoint, client_id, client_secret_file) = (endpoint?, client_id?, client_secret_file?);
    Some(introspection::Settings { endpoint, client_id, client_secret_file, always })
}

fn key_source(table: &mut Section<'_>) -> Option<KeySource> {
    let both = table.has("jwks_uri") && table.has("jwks_file");
    let file = table.path("jwks_file").map(KeySource::File);
    let written = table.has("jwks_uri");
    let uri = table.parse("jwks_uri", address).map(KeySource::Uri);
    if both {
        table.error("jwks_file", "cannot stand beside jwks_uri: the keys come from one of them");
    }
    // A wrong address must not look like a wish for discovery.
    if written { uri } else { file.or(Some(KeySource::Discovery)) }
}

/// `iss` is a name, and some issuers have one that is no https address, though all their endpoints are; but keys that are
/// discovered by a name belong to whoever answers under it.
fn name(text: &str, keys: Option<&KeySource>) -> Result<String, &'static str> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("must be the `iss` of its tokens");
    }
    if keys == Some(&KeySource::Discovery) && https_url(text).is_err() {
        return Err("must be an https:// address without query and fragment, since its keys are discovered from it; \
                    an issuer with another name needs jwks_uri or jwks_file");
    }
    Ok(text.to_owned())
}

/// Unlike a name, what is called may have a query.
fn address(text: &str) -> Result<url::Url, &'static str> {
    https_url(text.split('?').next().unwrap_or_default())?;
    url::Url::parse(text).map_err(|_| "must be an https:// address")
}

fn token_type(name: &str) -> Result<Source, &'static str> {
    Source::from_name(name)
        .filter(|source| source.is_outside())
        .ok_or("must be of \"access_token\", \"jwt\", \"id_token\"")
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    if name.starts_with("HS") || name.eq_ignore_ascii_case("none") {
        return Err(format!("\"{name}\" is not asymmetric: whoever could verify could sign too"));
    }
    let found = ALGORITHMS.iter().find(|(known, _)| *known == name);
    found.map(|(_, algorithm)| *algorithm).ok_or_else(|| {
        let names: Vec<_> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
        format!("must be of {}", names.join(", "))
    })
}

fn prefix(text: &str) -> Result<String, &'static str> {
    let fits = text.len() <= 128 && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or("must have at most 128 bytes and no control characters")
}

fn filled(text: &str) -> Result<String, &'static str> {
    (!text.is_empty()).then(|| text.to_owned()).ok_or("must not be empty")
}
