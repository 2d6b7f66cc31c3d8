//! Where the database is, and as whom to connect to it.

use std::path::PathBuf;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// The longest name of a schema, in bytes; PostgreSQL cuts longer ones off.
const MAX_NAME_LEN: usize = 63;

/// The settings of the PostgreSQL engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder of this instance (`store.path`).
    pub path: PathBuf,
    /// The servers, the role and the database (`store.url`).
    pub address: Address,
    /// As what the role authenticates.
    pub credentials: Credentials,
    /// The CA certificates of the servers (`store.ca`).
    pub ca: PathBuf,
    /// The schema of the tables (`store.schema`).
    pub schema: SchemaName,
    /// What a commit waits for (`store.replication`).
    pub replication: Replication,
}

/// Several servers, of which one accepts writes; a role; a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    hosts: Vec<(String, u16)>,
    user: String,
    database: String,
}

/// How a role authenticates: with a password, a certificate, or both. The files are read for each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The file with the password (`store.password_file`).
    pub password: Option<PathBuf>,
    /// The files with the certificate chain and its private key (`store.certificate`, `store.private_key`).
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// The name of a schema: lower-case letters, digits and underscores, so that it needs no quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaName(String);

/// What the servers must do before a commit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replication {
    /// Each commit waits for a standby.
    Quorum,
    /// A single server is accepted: what its disk loses is lost.
    None,
}

/// The text of `store.url` or `store.schema` cannot be used; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingError(&'static str);

impl std::fmt::Display for Settings {
    /// The store, for messages.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Address { hosts, user, database } = &self.address;
        let hosts: Vec<String> = hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        write!(f, "the schema {} of postgresql://{user}@{}/{database}", self.schema.as_str(), hosts.join(","))
    }
}

impl Address {
    /// Parses `postgresql://role@host,host:port/database`.
    ///
    /// # Errors
    /// [`SettingError`], also for what `writ.toml` says elsewhere: a password, parameters.
    pub fn parse(text: &str) -> Result<Self, SettingError> {
        const FORM: SettingError = SettingError("must have the form postgresql://role@host:port,host:port/database");
        if !(text.starts_with("postgresql://") || text.starts_with("postgres://")) {
            return Err(FORM);
        }
        if text.contains('?') {
            return Err(SettingError("takes no parameters; the keys of [store] say the rest"));
        }
        let config: Config = text.parse().map_err(|_| FORM)?;
        if config.get_password().is_some() {
            return Err(SettingError("must not contain a password; name its file by store.password_file"));
        }
        let (Some(user), Some(database)) = (config.get_user(), config.get_dbname()) else { return Err(FORM) };
        let ports = config.get_ports();
        let mut hosts = Vec::new();
        for (at, host) in config.get_hosts().iter().enumerate() {
            let Host::Tcp(host) = host else {
                return Err(SettingError("names a Unix socket; TLS needs a host name"));
            };
            if host.is_empty() {
                return Err(FORM);
            }
            let port = ports.get(at).or_else(|| ports.first().filter(|_| ports.len() == 1)).copied().unwrap_or(5432);
            hosts.push((host.clone(), port));
        }
        if hosts.is_empty() {
            return Err(FORM);
        }
        Ok(Self { hosts, user: user.to_owned(), database: database.to_owned() })
    }

    /// The same servers and database for another role.
    #[must_use]
    pub fn with_user(&self, user: String) -> Self {
        Self { user, ..self.clone() }
    }

    /// Hosts and ports.
    pub fn hosts(&self) -> &[(String, u16)] {
        &self.hosts
    }

    /// The role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.database
    }
}

impl SchemaName {
    /// # Errors
    /// [`SettingError`].
    pub fn parse(text: &str) -> Result<Self, SettingError> {
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let begins = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        if begins && text.len() <= MAX_NAME_LEN && text.chars().all(is_plain) && !text.starts_with("pg_") {
            Ok(Self(text.to_owned()))
        } else {
            Err(SettingError("must consist of a-z, 0-9 and _, begin with a letter, and not with pg_"))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_every_server_with_its_port() {
        let address = Address::parse("postgresql://writ@pg-1,pg-2:6432,[::1]:7/db").unwrap();
        let hosts = [("pg-1".to_owned(), 5432), ("pg-2".to_owned(), 6432), ("::1".to_owned(), 7)];
        assert_eq!(address.hosts(), hosts);
        assert_eq!((address.user(), address.database()), ("writ", "db"));
    }

    #[test]
    fn an_address_that_says_too_much_or_too_little_is_refused() {
        for text in [
            "postgresql://writ:secret@pg-1/writ",
            "postgresql://writ@pg-1/writ?sslmode=disable",
            "postgresql://pg-1/writ",
            "postgresql://writ@pg-1",
            "postgresql://writ@%2Frun%2Fpostgresql/writ",
            "postgresql://writ@/writ",
            "host=pg-1 user=writ",
            "http://pg-1",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_schema_name_needs_no_quotes() {
        assert_eq!(SchemaName::parse("writ_2").unwrap().as_str(), "writ_2");
        for text in ["", "2writ", "Writ", "writ\"; DROP", "pg_writ", &"w".repeat(64)] {
            assert!(SchemaName::parse(text).is_err(), "{text}");
        }
    }
}
