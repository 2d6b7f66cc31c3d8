//! Certificates, trust and revocation of the listeners, reloaded when their files change.

use std::path::PathBuf;

/// The files, and the oldest version of TLS (`[tls]`).
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
    /// Who signs client certificates, PEM.
    pub client_ca: PathBuf,
    /// What they revoked, PEM; empty: nothing is checked.
    pub client_crls: Vec<PathBuf>,
    /// The oldest version spoken.
    pub min_version: MinVersion,
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2, with forward secrecy and AEAD only.
    Tls12,
    /// TLS 1.3.
    Tls13,
}
