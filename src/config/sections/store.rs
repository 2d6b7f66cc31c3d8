//! `[store]`: where the keys, the ledger and the kill switch are kept.

use std::path::PathBuf;

use writ_store::Settings;
use writ_store::postgres::{self, Address, Credentials, Replication, SchemaName};

use crate::config::document::Section;

#[derive(Clone, Copy)]
enum Kind {
    Sled,
    Postgres,
}

pub(crate) fn read(store: &mut Section<'_>) -> Settings {
    let kinds = [("sled", Kind::Sled), ("postgres", Kind::Postgres)];
    let kind = store.or_default("kind", |store, key| store.choice(key, &kinds));
    if matches!(kind, Kind::Postgres) && !postgres::IS_BUILT {
        store.error("kind", "this build has no PostgreSQL engine; build Writ with its feature `postgres`");
    }
    let path = store.or_default("path", Section::path);
    match kind {
        Kind::Sled => Settings::Sled { path },
        // What is missing is an error of the file, whose settings are then not used.
        Kind::Postgres => match read_postgres(store, path.clone()) {
            Some(settings) => Settings::Postgres(settings),
            None => Settings::Sled { path },
        },
    }
}

fn read_postgres(store: &mut Section<'_>, path: PathBuf) -> Option<postgres::Settings> {
    store.require(&["url", "ca"]);
    let replications = [("quorum", Replication::Quorum), ("none", Replication::None)];
    let address = store.parse("url", Address::parse);
    let credentials = read_credentials(store);
    let ca = store.path("ca");
    let schema = store.or_default("schema", |store, key| store.parse(key, SchemaName::parse));
    let replication = store.or_default("replication", |store, key| store.choice(key, &replications));
    Some(postgres::Settings { path, address: address?, credentials: credentials?, ca: ca?, schema, replication })
}

/// A password, a certificate with its key, or both.
fn read_credentials(store: &mut Section<'_>) -> Option<Credentials> {
    let [has_password, has_certificate, has_key] =
        ["password_file", "certificate", "private_key"].map(|key| store.has(key));
    match (has_password, has_certificate, has_key) {
        (_, true, false) => store.gap("private_key", "is missing: it belongs to `certificate`"),
        (_, false, true) => store.gap("certificate", "is missing: it belongs to `private_key`"),
        (false, false, false) => store.gap("password_file", "is missing, and so are `certificate` and `private_key`"),
        _ => {}
    }
    let password = store.path("password_file");
    let (certificate, private_key) = (store.path("certificate"), store.path("private_key"));
    if has_password && password.is_none() {
        return None;
    }
    let certificate = match (has_certificate || has_key, certificate, private_key) {
        (false, ..) => None,
        (true, Some(certificate), Some(private_key)) => Some((certificate, private_key)),
        (true, ..) => return None,
    };
    (password.is_some() || certificate.is_some()).then_some(Credentials { password, certificate })
}
