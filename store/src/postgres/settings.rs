//! Where the database is, and as whom to connect to it.

use std::path::PathBuf;

const FORM: SettingError = SettingError("must have the form postgresql://role@host:port,host:port/database");
const DEFAULT_PORT: u16 = 5432;
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
        let rest = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")).ok_or(FORM)?;
        if text.contains('?') {
            return Err(SettingError("takes no parameters; the keys of [store] say the rest"));
        }
        let (user, rest) = rest.split_once('@').ok_or(FORM)?;
        if user.contains(':') {
            return Err(SettingError("must not contain a password; name its file by store.password_file"));
        }
        let (hosts, database) = rest.split_once('/').ok_or(FORM)?;
        let hosts = hosts.split(',').map(host).collect::<Result<Vec<_>, _>>()?;
        let [user, database] = [user, database].map(|name| decode(name).filter(|name| !name.is_empty()));
        Ok(Self { hosts, user: user.ok_or(FORM)?, database: database.ok_or(FORM)? })
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

/// A host with its port; an IPv6 address is in brackets.
fn host(text: &str) -> Result<(String, u16), SettingError> {
    if text.contains('%') {
        return Err(SettingError("names a Unix socket; TLS needs a host name"));
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(FORM)?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| FORM)?,
        None if port.is_empty() => DEFAULT_PORT,
        None => return Err(FORM),
    };
    if name.is_empty() { Err(FORM) } else { Ok((name.to_owned(), port)) }
}

/// A name as a URL writes it; `None` if an escape is malformed.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok()
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
        let address = Address::parse("postgres://wr%40it@pg/d%2Fb").unwrap();
        assert_eq!((address.user(), address.database()), ("wr@it", "d/b"));
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
            "postgresql://writ@pg-1:port/writ",
            "postgresql://writ@pg-1,/writ",
            "postgresql://writ@[::1/writ",
            "postgresql://wr%4it@pg-1/writ",
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
