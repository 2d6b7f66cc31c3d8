//! The default of every key of `writ.toml` that has one.
//!
//! This is their only source: they are read like values in a file, and tests compare `writ.toml` and the reference with
//! them, which explain the meaning of each key.

/// Keys with their tables, and the values as TOML.
const DEFAULTS: [(&str, &str); 42] = [
    ("listen.exchange", r#""0.0.0.0:8443""#),
    ("listen.discovery", r#""0.0.0.0:8444""#),
    ("listen.ops", r#""127.0.0.1:9464""#),
    ("listen.http2", "false"),
    ("tls.certificate", r#""certs/server.pem""#),
    ("tls.private_key", r#""certs/server.key""#),
    ("tls.client_ca", r#""certs/ca.pem""#),
    ("tls.client_crls", "[]"),
    ("tls.min_version", r#""1.3""#),
    ("tokens.lifetime", r#""60s""#),
    ("tokens.max_lifetime", r#""5m""#),
    ("tokens.clock_skew", r#""10s""#),
    ("tokens.include_iss", "true"),
    ("tokens.jwks_max_age", r#""10m""#),
    ("tokens.max_replacements", "4"),
    ("tokens.max_size", "4096"),
    ("keys.algorithm", r#""ES256""#),
    ("keys.rotation_period", r#""24h""#),
    ("keys.retention", r#""400d""#),
    ("keys.sealing_key", r#""certs/sealing.key""#),
    ("keys.previous_sealing_keys", "[]"),
    ("store.kind", r#""sled""#),
    ("store.path", r#""data""#),
    ("store.schema", r#""writ""#),
    ("store.replication", r#""quorum""#),
    ("policies.directory", r#""policies""#),
    ("limits.requests_per_second_per_client", "0"),
    ("limits.max_connections", "10000"),
    ("limits.request_timeout", r#""10s""#),
    ("limits.connection_max_age", r#""1h""#),
    ("limits.drain_delay", r#""0s""#),
    ("limits.drain_timeout", r#""20s""#),
    ("pdp.timeout", r#""1s""#),
    ("subject_issuer.algorithms", r#"["RS256", "ES256"]"#),
    ("subject_issuer.token_types", r#"["access_token"]"#),
    ("subject_issuer.jwt_access_tokens", r#""rfc9068""#),
    ("subject_issuer.subject_claim", r#""sub""#),
    ("subject_issuer.scope_claim", r#""scope""#),
    ("subject_issuer.subject_prefix", r#""""#),
    ("subject_issuer.scopes", "[]"),
    ("subject_issuer.jwks_stale", r#""24h""#),
    ("subject_issuer.introspection.always", "false"),
];

/// The default of `key`, as TOML; an index such as that of `subject_issuer[0].scopes` does not count.
pub(super) fn text(key: &str) -> Option<&'static str> {
    let parts = key.split(['[', ']']);
    let plain: String = parts.enumerate().filter(|(at, _)| at % 2 == 0).map(|(_, part)| part).collect();
    DEFAULTS.iter().find(|(known, _)| *known == plain).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key of the example, those that are commented out included, with its value.
    fn settings(example: &str) -> Vec<(String, &str)> {
        let mut settings = Vec::new();
        let mut table = String::new();
        for line in example.lines() {
            let line = line.strip_prefix("# ").unwrap_or(line);
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                table = format!("{}.", name.trim_matches(['[', ']']));
            } else if let Some((key, value)) = line.split_once(" = ")
                && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            {
                settings.push((format!("{table}{key}"), value));
            }
        }
        settings
    }

    #[test]
    fn the_example_states_every_default() {
        let settings = settings(include_str!("../../writ.toml"));
        // An example in a line that is commented out, and a member of one.
        let aside = ["keys.previous_sealing_keys", "subject_issuer.introspection.always"];
        for (key, default) in DEFAULTS.iter().filter(|(key, _)| !aside.contains(key)) {
            let stated = settings.iter().find(|(other, _)| other == key).map(|(_, value)| *value);
            assert_eq!(stated, Some(*default), "{key}");
        }
        let introspection = settings.iter().find(|(key, _)| key == "subject_issuer.introspection").unwrap().1;
        assert!(introspection.contains("always = false"), "{introspection}");
        let without: Vec<_> = settings.iter().map(|(key, _)| key.as_str()).filter(|key| text(key).is_none()).collect();
        assert_eq!(
            without,
            [
                "trust_domain",
                "issuer",
                "listen.discovery_url",
                "tls.client_ca.file",
                "tls.client_ca.trust_domains",
                "store.url",
                "store.password_file",
                "store.certificate",
                "store.private_key",
                "store.ca",
                "pdp.endpoint",
                "pdp.ca",
                "pdp.certificate",
                "pdp.private_key",
                "subject_issuer.issuer",
                "subject_issuer.jwks_uri",
                "subject_issuer.jwks_file",
                "subject_issuer.audience",
                "subject_issuer.id_token_audience",
                "subject_issuer.ca",
                "subject_issuer.introspection",
            ]
        );
    }

    /// The rows `| key | default | meaning |` of the reference, with the keys of their tables.
    fn rows(reference: &str) -> Vec<(String, &str)> {
        let mut rows = Vec::new();
        let mut table = String::new();
        for line in reference.lines() {
            if let Some(heading) = line.strip_prefix("## ") {
                table = format!("{}.", heading.trim_matches(['`', '[', ']']));
            } else if let Some((keys, rest)) = line.strip_prefix("| `").and_then(|line| line.split_once("` | ")) {
                let default = rest.split(" | ").next().unwrap_or_default();
                rows.extend(keys.split("`, `").map(|key| (format!("{table}{key}"), default)));
            }
        }
        rows
    }

    #[test]
    fn the_reference_states_every_default() {
        let reference = include_str!("../../docs/reference/configuration.md");
        let rows = rows(reference);
        for (key, default) in DEFAULTS.iter().filter(|(key, _)| *key != "subject_issuer.introspection.always") {
            let stated = rows.iter().find(|(other, _)| other == key).map(|(_, default)| *default);
            assert_eq!(stated, Some(format!("`{default}`").as_str()), "{key}");
        }
        assert!(
            reference
                .contains("| `introspection` | none | `{ endpoint, client_id, client_secret_file, always = false }`")
        );
        let invented: Vec<_> =
            rows.iter().filter(|(key, default)| default.starts_with('`') && text(key).is_none()).collect();
        assert!(invented.is_empty(), "{invented:?}");
    }
}
