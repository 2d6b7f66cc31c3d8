//! `[[subject_issuer]]`: the issuers of the tokens that are exchanged.

use std::collections::BTreeMap;

use jsonwebtoken::Algorithm;

use writ_core::request::Source;
use writ_core::subject::settings::{AccessTokenProfile, IntrospectionSettings, IssuerSettings, KeySource};

use crate::config::address::{endpoint, https_url};
use crate::config::document::{Section, non_empty};

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
pub(crate) fn read_all(tables: Vec<Section<'_>>, own: Option<&str>) -> Vec<IssuerSettings> {
    let mut names = BTreeMap::new();
    let mut prefixes = BTreeMap::new();
    let mut all = Vec::new();
    for mut table in tables {
        let settings = read(&mut table);
        if Some(settings.issuer.as_str()) == own {
            table.error("issuer", "is this service itself: its own tokens are exchanged as txn_token only");
        }
        check_unique(&table, "issuer", &mut names, &settings.issuer);
        check_unique(&table, "subject_prefix", &mut prefixes, &settings.subject_prefix);
        all.push(settings);
        table.finish();
    }
    all
}

/// Reports an issuer in an earlier line with the same `value`.
fn check_unique(table: &Section<'_>, key: &str, seen: &mut BTreeMap<String, usize>, value: &str) {
    if table.has_error(key) {
        return;
    }
    if let Some(line) = seen.insert(value.to_owned(), table.line()) {
        table.error(key, format_args!("is the same as that of the [[subject_issuer]] in line {line}"));
    }
}

/// One issuer; missing settings have been reported.
fn read(table: &mut Section<'_>) -> IssuerSettings {
    table.require(&["issuer"]);
    let keys = key_source(table);
    let issuer = table.parse("issuer", |text| name(text, keys.as_ref()));
    let token_types = table.or_default("token_types", |table, key| table.list(key, token_type));
    let profiles = [("rfc9068", AccessTokenProfile::Rfc9068), ("legacy", AccessTokenProfile::Legacy)];
    let settings = IssuerSettings {
        issuer: issuer.unwrap_or_default(),
        keys: keys.unwrap_or(KeySource::Discovery),
        audience: table.list("audience", non_empty).unwrap_or_default(),
        algorithms: table.or_default("algorithms", |table, key| table.list(key, algorithm)),
        access_token_profile: table.or_default("jwt_access_tokens", |table, key| table.choice(key, &profiles)),
        id_token_audience: table.list("id_token_audience", non_empty).unwrap_or_default(),
        subject_claim: table.or_default("subject_claim", |table, key| table.parse(key, non_empty)),
        scope_claim: table.or_default("scope_claim", |table, key| table.parse(key, non_empty)),
        subject_prefix: table.or_default("subject_prefix", |table, key| table.parse(key, prefix)),
        scopes: table.or_default("scopes", |table, key| table.list(key, str::parse)),
        jwks_stale: table.or_default("jwks_stale", Section::duration),
        ca: table.path("ca"),
        introspection: introspection(table),
        token_types,
    };
    check_gaps(table, &settings);
    check_confusion(table, &settings);
    settings
}

/// Reports lists without which every token would be refused.
fn check_gaps(table: &Section<'_>, settings: &IssuerSettings) {
    let accepts = |source| settings.token_types.contains(&source);
    let for_access = accepts(Source::AccessToken) || accepts(Source::Jwt);
    for (key, needed, why) in [
        ("token_types", settings.token_types.is_empty(), "must name at least one type of token"),
        ("algorithms", settings.algorithms.is_empty(), "must name at least one algorithm"),
        (
            "audience",
            for_access && settings.audience.is_empty(),
            "must name the values of aud in access tokens and JWTs that may be exchanged here",
        ),
        (
            "id_token_audience",
            accepts(Source::IdToken) && settings.id_token_audience.is_empty(),
            "must name the client IDs to which ID tokens may be issued",
        ),
    ] {
        if needed && !table.has_error(key) {
            table.error(key, why);
        }
    }
}

/// Reports kinds of token that could not be told apart (R-SUBJ-05).
fn check_confusion(table: &Section<'_>, settings: &IssuerSettings) {
    let accepts = |source| settings.token_types.contains(&source);
    let legacy = accepts(Source::AccessToken) && settings.access_token_profile == AccessTokenProfile::Legacy;
    if legacy && accepts(Source::Jwt) {
        table.error(
            "token_types",
            "cannot have \"jwt\" beside \"access_token\" where jwt_access_tokens is \"legacy\": the two cannot be told apart",
        );
    }
    if settings.introspection.is_some() && !accepts(Source::AccessToken) {
        table.error("introspection", "is for access tokens, which token_types does not name");
    }
    let both = settings.audience.iter().find(|name| settings.id_token_audience.contains(name));
    if let Some(name) = both.filter(|_| accepts(Source::IdToken) && (legacy || accepts(Source::Jwt))) {
        table.error(
            "id_token_audience",
            format_args!("contains \"{name}\", as audience does: ID tokens could not be told apart from other tokens"),
        );
    }
}

/// `None` if the table is absent, or incomplete, which has been reported.
fn introspection(table: &mut Section<'_>) -> Option<IntrospectionSettings> {
    let mut written = table.table("introspection")?;
    written.require(&["endpoint", "client_id", "client_secret_file"]);
    let endpoint = written.parse("endpoint", endpoint);
    let client_id = written.parse("client_id", non_empty);
    let client_secret_file = written.path("client_secret_file");
    let always = written.or_default("always", Section::flag);
    written.finish();
    let (endpoint, client_id, client_secret_file) = (endpoint?, client_id?, client_secret_file?);
    Some(IntrospectionSettings { endpoint, client_id, client_secret_file, always })
}

fn key_source(table: &mut Section<'_>) -> Option<KeySource> {
    let both = table.has("jwks_uri") && table.has("jwks_file");
    let file = table.path("jwks_file").map(KeySource::File);
    let written = table.has("jwks_uri");
    let uri = table.parse("jwks_uri", endpoint).map(KeySource::Uri);
    if both {
        table.error("jwks_file", "cannot be combined with jwks_uri: the keys come from one of them");
    }
    // A wrong address must not turn into discovery.
    if written { uri } else { file.or(Some(KeySource::Discovery)) }
}

/// `iss` may be any name, although the endpoints of the issuer must be https. Keys can only be discovered from an https
/// address, since only there a certificate authenticates the host.
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

fn token_type(name: &str) -> Result<Source, &'static str> {
    Source::from_name(name)
        .filter(|source| source.is_outside())
        .ok_or("must be one of \"access_token\", \"jwt\", \"id_token\"")
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    if name.starts_with("HS") || name.eq_ignore_ascii_case("none") {
        return Err(format!("\"{name}\" is not asymmetric: every verifier could also sign"));
    }
    let found = ALGORITHMS.iter().find(|(known, _)| *known == name);
    found.map(|(_, algorithm)| *algorithm).ok_or_else(|| {
        let names: Vec<_> = ALGORITHMS.iter().map(|(name, _)| *name).collect();
        format!("must be one of {}", names.join(", "))
    })
}

fn prefix(text: &str) -> Result<String, &'static str> {
    let fits = text.len() <= 128 && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned()).ok_or("must have at most 128 bytes and no control characters")
}
