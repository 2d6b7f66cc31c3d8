use std::collections::BTreeMap;
use std::time::Duration;

use writ_core::keys::SigningAlgorithm;
use writ_outbound::Identity;

use super::*;
use crate::server::tls::{ClientCa, MinVersion};

const EXAMPLE: &str = include_str!("../../../writ.toml");
const LEAST: &str = "trust_domain = \"d.example\"\nissuer = \"https://tts.d.example:8443\"\n";
const ISSUER: &str = "[[subject_issuer]]\nissuer = \"https://login.example\"\naudience = [\"a\"]\n";

/// An issuer that introspects, with the JSON text `value` as `key`, or without it where that is empty.
fn introspection(key: &str, value: &str) -> String {
    let mut table = BTreeMap::from([
        ("endpoint", "\"https://login.example/introspect?v=1\""),
        ("client_id", "\"writ\""),
        ("client_secret_file", "\"login.secret\""),
    ]);
    table.insert(key, value);
    let written = table.iter().filter(|(_, value)| !value.is_empty());
    let members: Vec<_> = written.map(|(key, value)| format!("{key} = {value}")).collect();
    format!("{ISSUER}introspection = {{ {} }}", members.join(", "))
}

fn reading(text: &str, environment: &[(&str, &str)]) -> Reading {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    parse(Path::new("/etc/writ/writ.toml"), text, &Overrides::new(environment))
}

fn config(text: &str, environment: &[(&str, &str)]) -> Config {
    let reading = reading(text, environment);
    *reading.config.unwrap_or_else(|| panic!("{:?}", reading.problems))
}

fn complaints(text: &str) -> Vec<String> {
    reading(text, &[]).problems.iter().map(ToString::to_string).collect()
}

/// Every complaint about `text` after the two required lines, without the file's name.
fn about(text: &str) -> Vec<String> {
    let found = complaints(&format!("{LEAST}{text}"));
    found.iter().map(|found| found.replace("/etc/writ/writ.toml:", "")).collect()
}

#[test]
fn the_shortest_file_has_every_default() {
    let config = config(LEAST, &[]);
    assert_eq!(config.discovery_url, "https://tts.d.example:8444");
    assert_eq!(config.listener.exchange, "0.0.0.0:8443".parse().unwrap());
    assert_eq!(config.listener.discovery, Some("0.0.0.0:8444".parse().unwrap()));
    assert_eq!(config.listener.ops, Some("127.0.0.1:9464".parse().unwrap()));
    assert!(!config.listener.http2);
    assert_eq!(config.listener.tls.certificate, Path::new("/etc/writ/certs/server.pem"));
    assert_eq!(config.listener.tls.private_key, Path::new("/etc/writ/certs/server.key"));
    let ca = ClientCa { file: "/etc/writ/certs/ca.pem".into(), trust_domains: None };
    assert_eq!(config.listener.tls.client_ca, [ca]);
    assert!(config.listener.tls.client_crls.is_empty());
    assert_eq!(config.listener.tls.min_version, MinVersion::Tls13);
    assert_eq!(config.listener.max_connections, 10_000);
    assert_eq!(config.listener.request_timeout, Duration::from_secs(10));
    assert_eq!(config.listener.connection_max_age, Duration::from_secs(3_600));
    assert_eq!(config.listener.drain_delay, Duration::ZERO);
    assert_eq!(config.listener.drain_timeout, Duration::from_secs(20));
    assert_eq!(config.clock_skew, Duration::from_secs(10));
    assert_eq!(config.jwks_max_age, Duration::from_secs(600));
    assert_eq!(config.policies.max_lifetime, Duration::from_secs(300));
    assert!(config.claims.include_iss);
    assert_eq!((config.claims.max_size, config.claims.max_replacements), (4096, 4));
    assert_eq!(config.keys.algorithm, SigningAlgorithm::ES256);
    assert_eq!(config.keys.sealing_key, Path::new("/etc/writ/certs/sealing.key"));
    assert_eq!(config.store.path(), Path::new("/etc/writ/data"));
    assert_eq!(config.policies.directory, Path::new("/etc/writ/policies"));
    assert_eq!(config.policies.default_lifetime, Duration::from_secs(60));
    assert_eq!(config.policies.retention, Duration::from_secs(400 * 86_400));
    assert_eq!(config.limits.requests_per_second_per_client, None);
    assert!(config.pdp.is_none() && !config.policies.pdp);
    assert!(config.subject_issuers.is_empty());
}

#[test]
fn the_values_of_the_example_are_the_defaults() {
    let example = config(EXAMPLE, &[]);
    let from = EXAMPLE.find("[[subject_issuer]]\n").unwrap();
    let least = "trust_domain = \"trust-domain.example\"\nissuer = \"https://tts.trust-domain.example:8443\"\n";
    let written = format!("{:?}", Config { places: example.places.clone(), ..config(least, &[]) });
    let without_issuer = Config {
        subject_issuers: Vec::new(),
        policies: policy::Settings { outside_sources: Vec::new(), ..example.policies.clone() },
        ..example.clone()
    };
    assert_eq!(format!("{without_issuer:?}"), written);
    let shortest = format!(
        "{least}[[subject_issuer]]\nissuer = \"https://login.example\"\naudience = [\"https://api.example\"]\n\
         jwks_uri = \"https://login.example/jwks\"\n"
    );
    assert!(EXAMPLE[from..].contains("jwks_stale"));
    let shortest = config(&shortest, &[]);
    assert_eq!(format!("{:?}", shortest.subject_issuers), format!("{:?}", example.subject_issuers));
}

/// no key of the example can be misspelt unnoticed, those that are commented out included.
#[test]
fn every_key_of_the_example_is_reported_where_it_is_misspelt() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    let mut tried = 0;
    for (index, line) in lines.iter().enumerate() {
        let setting = line.strip_prefix("# ").unwrap_or(line);
        let Some((key, value)) = setting.split_once(" = ") else { continue };
        if !key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            continue;
        }
        tried += 1;
        let misspelt = format!("{key}x = {value}");
        let text = [&lines[..index], &[misspelt.as_str()], &lines[index + 1..]].concat().join("\n");
        // A key of a section that is commented out is one of that section.
        let text = if lines[..index].contains(&"# [pdp]") { text.replace("# [pdp]", "[pdp]") } else { text };
        // A key of the database is one only with that kind of store.
        let is_of_database =
            lines[..index].contains(&"[store]") && !lines[..index].contains(&"[policies]") && line.starts_with('#');
        let text = if is_of_database { text.replace("kind = \"sled\"", "kind = \"postgres\"") } else { text };
        let is_of_ca = lines[index.saturating_sub(2)..index].contains(&"# [[tls.client_ca]]");
        let with_table = || text.replace("\nclient_ca = ", "\n# ").replace("# [[tls.client_ca]]", "[[tls.client_ca]]");
        let text = if is_of_ca { with_table() } else { text };
        let problems = reading(&text, &[]).problems;
        let named = |problem: &Problem| {
            problem.line == index + 1
                && problem.key.ends_with(&format!("{key}x"))
                && problem.message.contains(&format!("did you mean `{key}`?"))
        };
        assert!(problems.iter().any(named), "{key}: {problems:?}");
    }
    assert_eq!(tried, 62);
}

/// Letters exchanged with their neighbour, left out or doubled, capitals, hyphens.
fn misspellings(word: &str) -> Vec<String> {
    let letters: Vec<char> = word.chars().collect();
    let mut misspellings = vec![word.to_uppercase(), word.replace('_', "-")];
    for at in 0..letters.len() {
        let (before, after) = (&letters[..at], &letters[at + 1..]);
        misspellings.push([before, after].concat().iter().collect());
        misspellings.push([before, &letters[at..=at], &letters[at..=at], after].concat().iter().collect());
        if let Some((next, rest)) = after.split_first() {
            misspellings.push([before, &[*next, letters[at]], rest].concat().iter().collect());
        }
    }
    misspellings.retain(|misspelling| misspelling != word);
    misspellings
}

/// nor a table.
#[test]
fn every_table_of_the_example_is_reported_where_it_is_misspelt() {
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    let mut tried = 0;
    for (index, line) in lines.iter().enumerate() {
        let header = line.strip_prefix("# ").unwrap_or(line);
        let name = header.trim_matches(['[', ']']);
        let is_header = header.starts_with('[') && header.ends_with(']');
        if !is_header || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            continue;
        }
        for misspelling in misspellings(name) {
            tried += 1;
            let misspelt = header.replace(name, &misspelling);
            let problems = reading(&[&lines[..index], &[misspelt.as_str()]].concat().join("\n"), &[]).problems;
            let meant = format!("unknown key `{misspelling}`: did you mean `{name}`?");
            let named = |problem: &Problem| problem.line == index + 1 && problem.message == meant;
            assert!(problems.iter().any(named), "{misspelt}: {problems:?}");
        }
    }
    assert!(tried > 120, "{tried}");
}

///
#[test]
fn ten_mistakes_are_named_in_one_run() {
    let text = "\
trust_domain = \"a b\"
issuer = \"http://tts.example\"
[listen]
ops = \"localhost:9464\"
htp2 = true
[tokens]
lifetime = \"10m\"
max_lifetime = 300
[keys]
algorithm = \"HS256\"
rotation_period = \"1m\"
[store]
kind = \"etcd\"
[[subject_issuer]]
issuer = \"https://login.example\"
algorithms = [\"RS256\",
  \"none\"]
";
    let lines: Vec<_> = reading(text, &[]).problems.iter().map(|problem| (problem.line, problem.key.clone())).collect();
    let expected = [
        (1, "trust_domain"),
        (2, "issuer"),
        (4, "listen.ops"),
        (5, "listen.htp2"),
        (7, "tokens.lifetime"),
        (8, "tokens.max_lifetime"),
        (10, "keys.algorithm"),
        (11, "keys.rotation_period"),
        (13, "store.kind"),
        (14, "subject_issuer[0].audience"),
        (17, "subject_issuer[0].algorithms"),
    ];
    assert_eq!(lines, expected.map(|(line, key)| (line, key.to_owned())));
}

/// A-139, and what cannot work together.
#[test]
fn each_rule_complains_at_its_key() {
    for (text, expected) in [
        ("[listen]\nexchange = \"off\"", "4: listen.exchange: must be an IP address and a port"),
        ("[listen]\ndiscovery = \"0.0.0.0\"", "4: listen.discovery: must be \"off\", or an IP address"),
        ("[listen]\nops = \"[::1]:1\"\nexchange = \"[::1]:1\"", "4: listen.ops: is also the address of another"),
        ("[listen]\nops = \"127.0.0.1:8443\"", "4: listen.ops: has the port of another listener, and one"),
        ("[listen]\nops = \"127.0.0.1:1\"\nexchange = \"[::]:1\"", "4: listen.ops: has the port of another"),
        ("[listen]\ndiscovery_url = \"http://x\"", "4: listen.discovery_url: must begin with https://"),
        ("[tls]\nmin_version = \"1.1\"", "4: tls.min_version: must be one of \"1.2\", \"1.3\""),
        ("[tls]\nclient_ca = 1", "4: tls.client_ca: must be a string, not a whole number"),
        ("[tls]\nclient_ca = []", "4: tls.client_ca: must name a file"),
        ("[tls]\nclient_ca = [\"x\"]", "4: tls.client_ca: must be [[client_ca]] tables"),
        ("[[tls.client_ca]]\ntrust_domains = [\"a\"]", "3: tls.client_ca[0].file: is missing"),
        (
            "[[tls.client_ca]]\nfile = \"a\"\ntrust_domains = [\"A.example\"]",
            "5: tls.client_ca[0].trust_domains: must be SPIFFE trust",
        ),
        (
            "[[tls.client_ca]]\nfile = \"a\"\ntrust_domains = [\"spiffe://a\"]",
            "5: tls.client_ca[0].trust_domains: must be",
        ),
        ("[[tls.client_ca]]\nfile = \"a\"\ntrust_domains = []", "5: tls.client_ca[0].trust_domains: must not be empty"),
        ("[[tls.client_ca]]\nfile = \"a\"\ntrust_domain = \"a\"", "5: tls.client_ca[0].trust_domain: unknown key"),
        ("[tls]\nclient_crls = \"x\"", "4: tls.client_crls: must be a list of strings"),
        ("[tokens]\nmax_lifetime = \"16m\"", "4: tokens.max_lifetime: must be at most \"15m\""),
        ("[tokens]\nlifetime = \"6m\"", "4: tokens.lifetime: must not be longer than max_lifetime"),
        (
            "[tokens]\nlifetime = \"31s\"\nmax_lifetime = \"30s\"",
            "4: tokens.lifetime: must not be longer than max_lifetime",
        ),
        ("[tokens]\nclock_skew = \"121s\"", "4: tokens.clock_skew: must be at most"),
        ("[tokens]\nmax_size = 0", "4: tokens.max_size: must be a whole number from 1"),
        ("[keys]\nrotation_period = \"899s\"", "4: keys.rotation_period: rotation_period must not be shorter"),
        ("[tokens]\njwks_max_age = \"24h\"", "keys.rotation_period: rotation_period must not be shorter"),
        ("[keys]\nalgorithm = \"ES512\"", "4: keys.algorithm: must be one of"),
        ("[keys]\nretention = \"0d\"", "4: keys.retention: must be at least"),
        ("[store]\nkind = \"redis\"", "4: store.kind: must be one of \"sled\""),
        ("[store]\nurl = \"postgresql://writ@pg/writ\"", "4: store.url: unknown key `store.url`"),
        ("[store]\nendpoints = []", "4: store.endpoints: unknown key `store.endpoints`"),
        ("[limits]\nmax_connections = 0", "4: limits.max_connections: must be a whole number"),
        ("[limits]\nrequest_timeout = \"0s\"", "4: limits.request_timeout: must be at least"),
        ("[pdp]", "3: pdp.endpoint: is missing"),
        ("[pdp]\nendpoint = \"http://x\"", "4: pdp.endpoint: must be an https:// address"),
        ("[pdp]\nendpoint = \"https://x\"\ncertificate = \"c\"", "3: pdp.private_key: is missing"),
        ("[pdp]\nendpoint = \"https://x\"\nprivate_key = \"k\"", "3: pdp.certificate: is missing"),
        ("[pdp]\nendpoint = \"https://x\"\ntimeout = \"11s\"", "5: pdp.timeout: must not be longer than limits"),
        ("[pdp]\nendpoint = \"https://x\"\ntimout = \"1s\"", "5: pdp.timout: unknown key `pdp.timout`: did you"),
        ("[audit]\nsink = 1", "3: audit: unknown key `audit`"),
        ("[subject_issuer]\nissuer = \"x\"", "3: subject_issuer: must be [[subject_issuer]] tables"),
    ] {
        let found = about(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
    }
    let database =
        "[store]\nkind = \"postgres\"\nurl = \"postgresql://writ@pg/writ\"\nca = \"ca\"\npassword_file = \"p\"\n";
    assert!(about(database).is_empty(), "{:?}", about(database));
    for (from, to, expected) in [
        ("url = \"postgresql://writ@pg/writ\"\n", "", "3: store.url: is missing"),
        ("ca = \"ca\"\n", "", "3: store.ca: is missing"),
        ("password_file = \"p\"\n", "", "3: store.password_file: is missing, and so are"),
        ("writ@pg", "writ:secret@pg", "5: store.url: must not contain a password"),
        ("ca = \"ca\"", "ca = \"ca\"\nschema = \"Writ\"", "7: store.schema: must consist of a-z"),
        ("ca = \"ca\"", "ca = \"ca\"\nreplication = \"async\"", "7: store.replication: must be one of"),
        ("ca = \"ca\"", "ca = \"ca\"\ncertificate = \"c\"", "3: store.private_key: is missing"),
        ("ca = \"ca\"", "ca = \"ca\"\nprivate_key = \"c\"", "3: store.certificate: is missing"),
    ] {
        let text = database.replace(from, to);
        let found = about(&text);
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
    }
    assert!(about("[keys]\nrotation_period = \"15m\"").is_empty());
    assert!(about("[tokens]\nclock_skew = \"0s\"\n[limits]\ndrain_timeout = \"0s\"").is_empty());
    assert!(about("[listen]\ndiscovery = \"off\"\nops = \"off\"").is_empty());
}

#[test]
fn a_decision_point_is_named_by_the_file_or_by_variables() {
    let written = "[pdp]\nendpoint = \"https://pdp.example/access/v1/evaluation\"\n";
    let read = config(&format!("{LEAST}{written}"), &[]);
    let pdp = read.pdp.unwrap();
    assert_eq!(pdp.endpoint.as_str(), "https://pdp.example/access/v1/evaluation");
    assert_eq!((pdp.timeout, pdp.ca.is_none(), pdp.identity.is_none()), (Duration::from_secs(1), true, true));
    assert!(read.policies.pdp);
    let read = config(
        LEAST,
        &[
            ("WRIT_PDP__ENDPOINT", "https://pdp.example"),
            ("WRIT_PDP__TIMEOUT", "2s"),
            ("WRIT_PDP__CA", "pdp-ca.pem"),
            ("WRIT_PDP__CERTIFICATE", "pdp.pem"),
            ("WRIT_PDP__PRIVATE_KEY", "/run/pdp.key"),
        ],
    );
    let pdp = read.pdp.unwrap();
    assert_eq!((pdp.timeout, pdp.ca.unwrap()), (Duration::from_secs(2), "/etc/writ/pdp-ca.pem".into()));
    let Identity { certificate, private_key } = pdp.identity.unwrap();
    assert_eq!((certificate, private_key), ("/etc/writ/pdp.pem".into(), "/run/pdp.key".into()));
    let broken = reading(&format!("{LEAST}[pdp]\nendpoint = \"http://x\"\n"), &[]);
    assert!(broken.policies.unwrap().pdp, "a policy that asks it is not wrong as well");
}

#[test]
fn an_issuer_is_an_https_origin() {
    let with = |issuer: &str| complaints(&format!("trust_domain = \"d\"\nissuer = \"{issuer}\"\n"));
    for good in ["https://tts.example", "https://tts.example:8443", "https://[::1]:8443", "https://127.0.0.1:1"] {
        assert!(with(good).is_empty(), "{good}: {:?}", with(good));
    }
    for bad in [
        "http://tts.example",
        "HTTPS://tts.example",
        "https://tts.example/",
        "https://tts.example/path",
        "https://tts.example?q",
        "https://tts.example#f",
        "https://user@tts.example",
        "https://",
        "https://tts.example:99999",
        "https://tts example",
        "https://tts.ex\\tample",
        "tts.example",
        "",
    ] {
        assert!(with(bad)[0].contains("writ.toml:2: issuer: must"), "{bad}");
    }
    assert_eq!(complaints("").len(), 2);
}

#[test]
fn the_address_of_the_jwks_is_that_of_the_discovery_listener() {
    let url = |text: &str| config(&format!("{LEAST}[listen]\n{text}"), &[]).discovery_url;
    assert_eq!(url("discovery = \"0.0.0.0:9000\""), "https://tts.d.example:9000");
    assert_eq!(url("discovery = \"0.0.0.0:443\""), "https://tts.d.example");
    assert_eq!(url("discovery = \"off\""), "https://tts.d.example:8443");
    assert_eq!(url("discovery_url = \"https://keys.example\""), "https://keys.example");
}

#[test]
fn an_ops_listener_that_others_can_reach_is_only_warned_about() {
    let reading = reading(&format!("{LEAST}[listen]\nops = \"0.0.0.0:9464\"\n"), &[]);
    assert!(reading.config.is_some());
    assert_eq!((reading.problems[0].severity, reading.problems[0].line), (crate::config::Severity::Warning, 4));
}

/// Only what is discovered by it needs a name that can be called.
#[test]
fn an_issuer_whose_keys_have_a_place_of_their_own_may_have_any_name() {
    for name in ["http://sts.example/adfs/services/trust", "accounts.example", "urn:example:idp", "HTTP://X?y#z"] {
        for keys in ["jwks_uri = \"https://sts.example/keys\"", "jwks_file = \"k\""] {
            let text = format!("{LEAST}{}{keys}\n", ISSUER.replace("https://login.example", name));
            let read = reading(&text, &[]);
            assert!(!read.problems.iter().any(crate::config::Problem::is_error), "{name}: {:?}", read.problems);
        }
    }
}

///
#[test]
fn each_rule_about_subject_issuers_complains_at_its_key() {
    let second = "[[subject_issuer]]\nissuer = \"https://other.example\"\naudience = [\"a\"]\n";
    for (text, expected) in [
        (ISSUER.replace("https:", "http:"), "4: subject_issuer[0].issuer: must be an https://"),
        (
            ISSUER.replace("https://login.example", "urn:example:idp"),
            "4: subject_issuer[0].issuer: must be an https://",
        ),
        (
            format!("{}jwks_file = \"k\"", ISSUER.replace("https://login.example", "")),
            "4: subject_issuer[0].issuer: must be the",
        ),
        (ISSUER.replace("https://login.example", "login"), "4: subject_issuer[0].issuer: must be an https://"),
        (ISSUER.replace("issuer =", "jwks_file ="), "3: subject_issuer[0].issuer: is missing"),
        (
            ISSUER.replace("https://login.example", "https://tts.d.example:8443"),
            "4: subject_issuer[0].issuer: is this service itself",
        ),
        (ISSUER.replace("[\"a\"]", "[]"), "5: subject_issuer[0].audience: must name the values of aud"),
        (format!("{ISSUER}jwks_uri = \"http://x/jwks\""), "6: subject_issuer[0].jwks_uri: must be an https://"),
        (
            format!("{ISSUER}jwks_uri = \"https://x\"\njwks_file = \"k\""),
            "7: subject_issuer[0].jwks_file: cannot be combined with jwks_uri",
        ),
        (format!("{ISSUER}algorithms = [\"HS256\"]"), "6: subject_issuer[0].algorithms: \"HS256\" is not asymmetric"),
        (format!("{ISSUER}algorithms = [\"none\"]"), "6: subject_issuer[0].algorithms: \"none\" is not asymmetric"),
        (format!("{ISSUER}algorithms = [\"es256\"]"), "6: subject_issuer[0].algorithms: must be one of RS256"),
        (format!("{ISSUER}algorithms = []"), "6: subject_issuer[0].algorithms: must name at least one"),
        (format!("{ISSUER}token_types = []"), "6: subject_issuer[0].token_types: must name at least one"),
        (format!("{ISSUER}token_types = [\"txn_token\"]"), "6: subject_issuer[0].token_types: must be one of"),
        (format!("{ISSUER}token_types = [\"id_token\"]"), "subject_issuer[0].id_token_audience: must name the client"),
        (format!("{ISSUER}jwt_access_tokens = \"any\""), "6: subject_issuer[0].jwt_access_tokens: must be one of"),
        (
            format!("{ISSUER}jwt_access_tokens = \"legacy\"\ntoken_types = [\"access_token\", \"jwt\"]"),
            "7: subject_issuer[0].token_types: cannot have \"jwt\" beside \"access_token\" where",
        ),
        (
            format!("{ISSUER}token_types = [\"id_token\", \"jwt\"]\nid_token_audience = [\"b\", \"a\"]"),
            "7: subject_issuer[0].id_token_audience: contains \"a\", as audience does",
        ),
        (format!("{ISSUER}scopes = [\"a b\"]"), "6: subject_issuer[0].scopes: a purpose is"),
        (introspection("endpoint", "\"http://x\""), "6: subject_issuer[0].introspection.endpoint: must be an https:"),
        (introspection("endpoint", "\"https://u@x\""), "introspection.endpoint: must be an https:// address without"),
        (introspection("endpoint", ""), "6: subject_issuer[0].introspection.endpoint: is missing"),
        (introspection("client_id", "\"\""), "6: subject_issuer[0].introspection.client_id: must not be empty"),
        (introspection("client_id", ""), "6: subject_issuer[0].introspection.client_id: is missing"),
        (introspection("client_secret_file", "\"\""), "introspection.client_secret_file: must be a path"),
        (introspection("client_secret_file", ""), "introspection.client_secret_file: is missing"),
        (introspection("always", "\"yes\""), "6: subject_issuer[0].introspection.always: must be true or false"),
        (introspection("alwys", "true"), "unknown key `subject_issuer[0].introspection.alwys`: did you mean `always`?"),
        (format!("{ISSUER}introspection = true"), "6: subject_issuer[0].introspection: must be a table"),
        (
            introspection("always", "true").replace("audience", "token_types = [\"jwt\"]\naudience"),
            "7: subject_issuer[0].introspection: is for access tokens, which token_types does not name",
        ),
        (
            format!("{ISSUER}{second}"),
            "6: subject_issuer[1].subject_prefix: is the same as that of the [[subject_issuer]] in line 3",
        ),
        (
            format!("{ISSUER}{}subject_prefix = \"o:\"", second.replace("other", "login")),
            "7: subject_issuer[1].issuer: is the same as that of the [[subject_issuer]] in line 3",
        ),
    ] {
        let found = about(&text);
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
    }
    assert!(about(&format!("{ISSUER}{second}subject_prefix = \"o:\"")).is_empty());
    assert!(about(&format!("{ISSUER}jwks_uri = \"https://x/jwks?v=1\"")).is_empty());
    let asked = config(&format!("{LEAST}{}", introspection("always", "true")), &[]);
    assert_eq!(asked.policies.introspecting_issuers, ["https://login.example"]);
    let introspection = asked.subject_issuers[0].introspection.as_ref().unwrap();
    assert_eq!(introspection.endpoint.as_str(), "https://login.example/introspect?v=1");
    assert_eq!(introspection.client_secret_file, Path::new("/etc/writ/login.secret"));
    assert!(introspection.always);
    // `typ` distinguishes access tokens of RFC 9068 from all others.
    let ids = "id_token_audience = [\"a\"]\n";
    assert!(about(&format!("{ISSUER}{ids}token_types = [\"access_token\", \"id_token\"]")).is_empty());
    let all = "token_types = [\"access_token\", \"jwt\", \"id_token\"]\nid_token_audience = [\"b\"]";
    assert!(about(&format!("{ISSUER}{all}")).is_empty());
    assert!(about(&format!("{}jwks_file = \"k\"", ISSUER.replace("https://login.example", "login"))).is_empty());
}

#[test]
fn a_variable_stands_in_for_what_is_written_and_for_what_is_not() {
    let config = config(
        &format!("{LEAST}[tokens]\nlifetime = \"30s\"\n"),
        &[
            ("WRIT_TRUST_DOMAIN", "other.example"),
            ("WRIT_ISSUER", "\"https://other.example\""),
            ("WRIT_TOKENS__LIFETIME", "45s"),
            ("WRIT_LISTEN__EXCHANGE", "127.0.0.1:18443"),
            ("WRIT_LISTEN__HTTP2", "true"),
            ("WRIT_TLS__MIN_VERSION", "1.2"),
            ("WRIT_TLS__CLIENT_CRLS", "[\"a.crl\"]"),
            ("WRIT_TOKENS__MAX_SIZE", "2048"),
            ("WRIT_STORE__PATH", "/var/lib/writ"),
            // Left alone: an orchestrator and the command line set these.
            ("WRIT_CONFIG", "x"),
            ("WRIT_SERVICE_HOST", "10.0.0.1"),
            ("WRIT_PORT_8443_TCP", "tcp://10.0.0.1:8443"),
            ("PATH", "x__y"),
        ],
    );
    assert_eq!(config.trust_domain.as_str(), "other.example");
    assert_eq!(config.issuer, "https://other.example");
    assert_eq!(config.policies.default_lifetime, Duration::from_secs(45));
    assert_eq!(config.listener.exchange, "127.0.0.1:18443".parse().unwrap());
    assert!(config.listener.http2);
    assert_eq!(config.listener.tls.min_version, MinVersion::Tls12);
    assert_eq!(config.listener.tls.client_crls, [Path::new("/etc/writ/a.crl")]);
    assert_eq!(config.claims.max_size, 2048);
    assert_eq!(config.store.path(), Path::new("/var/lib/writ"));
}

///
#[test]
fn a_variable_that_fits_nothing_or_holds_the_wrong_thing_is_named() {
    for (name, value, expected) in [
        ("WRIT_LISTEN__EXCHNGE", "x", "unknown key `listen.exchnge`: did you mean `exchange`?"),
        ("WRIT_LISTENS__EXCHANGE", "x", "no section `listens` that variables can change: did you mean `listen`?"),
        ("WRIT_SUBJECT_ISSUER__ISSUER", "x", "no section `subject_issuer`"),
        ("WRIT_listen__exchange", "127.0.0.1:1", "no section `listen__exchange`"),
        ("WRIT___EXCHANGE", "x", "unknown key"),
        ("WRIT_LISTEN__", "x", "unknown key"),
        ("WRIT_STORE__TLS__CA", "x", "unknown key"),
        ("WRIT_TOKENS__LIFETIME", "60", "must be a duration"),
        ("WRIT_LISTEN__HTTP2", "yes", "must be true or false, not a string"),
        ("WRIT_TOKENS__MAX_SIZE", "\"1\"", "must be a whole number, not a string"),
        ("WRIT_TLS__CLIENT_CRLS", "[\"a\", 1]", "must be a list of strings"),
        ("WRIT_TOKENS__MAX_LIFETIME", "16m", "must be at most \"15m\""),
    ] {
        let reading = reading(LEAST, &[(name, value)]);
        let text = reading.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert!(reading.config.is_none() && reading.problems.len() == 1, "{name}: {text}");
        let start = format!("environment: {name}: ");
        assert!(text.starts_with(&start) && text.contains(expected), "{name}: {text}");
    }
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("writ.toml");
    for content in [None, Some(&b"\xff"[..])] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let problems = Config::load(&path, std::iter::empty()).unwrap_err();
        assert!(problems.len() == 1 && problems[0].file == path, "{problems:?}");
    }
}
