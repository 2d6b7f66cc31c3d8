//! `[tls]`: the certificate of the service, and the CAs of its clients.

use writ_core::client::is_spiffe_trust_domain;

use crate::config::document::Section;
use crate::server::tls::{self, MinVersion};

pub(crate) fn read(tls: &mut Section<'_>) -> tls::Settings {
    let versions = [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
    tls::Settings {
        certificate: tls.or_default("certificate", Section::path),
        private_key: tls.or_default("private_key", Section::path),
        client_ca: client_ca(tls),
        client_crls: tls.or_default("client_crls", Section::paths),
        min_version: tls.or_default("min_version", |tls, key| tls.choice(key, &versions)),
    }
}

/// One file, or a table for each file with the trust domains that its CAs may vouch for.
fn client_ca(tls: &mut Section<'_>) -> Vec<tls::ClientCa> {
    if !tls.has_list("client_ca") {
        return vec![tls::ClientCa { file: tls.or_default("client_ca", Section::path), trust_domains: None }];
    }
    let tables = tls.tables("client_ca");
    if tables.is_empty() && !tls.has_error("client_ca") {
        tls.error("client_ca", "must name a file with the CAs of clients");
    }
    let mut all = Vec::new();
    for mut table in tables {
        table.require(&["file"]);
        let file = table.path("file");
        let is_limited = table.has("trust_domains");
        let trust_domains = table.list("trust_domains", |text| {
            let fits = is_spiffe_trust_domain(text);
            fits.then(|| text.to_owned()).ok_or("must be SPIFFE trust domains, lower case, without spiffe:// and path")
        });
        if trust_domains.as_ref().is_some_and(Vec::is_empty) {
            table.error("trust_domains", "must not be empty: no certificate of these CAs would be accepted");
        }
        table.finish();
        // An unreadable limit must not turn into no limit.
        let trust_domains = if is_limited { Some(trust_domains.unwrap_or_default()) } else { None };
        all.extend(file.map(|file| tls::ClientCa { file, trust_domains }));
    }
    all
}
