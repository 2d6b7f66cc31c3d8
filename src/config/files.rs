//! The files that `writ.toml` names: whether they are there, hold what they should, and are kept from strangers.
//!
//! A look beforehand, so that a mistake is found before a restart; the rooms that use the files read them anew.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use writ_verifier::jwks::KeySet;
use zeroize::Zeroizing;

use super::problem::{Problem, Severity};
use super::{Config, secret_file};
use crate::listener::tls::Trust;
use crate::subject::issuers::KeySource;

/// What is wrong with the files that `config` names; policies aside.
pub fn problems(config: &Config) -> Vec<Problem> {
    let mut found = Findings { config, problems: Vec::new() };
    found.of_tls();
    found.of_trust();
    found.of_sealing_keys();
    found.of_pdp();
    found.of_issuers();
    found.problems
}

struct Findings<'a> {
    config: &'a Config,
    problems: Vec<Problem>,
}

impl Findings<'_> {
    fn of_tls(&mut self) {
        let tls = &self.config.listener.tls;
        self.of_pair(("tls.certificate", &tls.certificate), ("tls.private_key", &tls.private_key));
        self.keep("tls.client_ca", &tls.client_ca, certificates(&tls.client_ca));
        for crl in &tls.client_crls {
            self.keep("tls.client_crls", crl, crls(crl));
        }
    }

    /// A certificate and its key, each with the setting that names it.
    fn of_pair(&mut self, certificate: (&str, &Path), private_key: (&str, &Path)) {
        let chain = self.keep(certificate.0, certificate.1, certificates(certificate.1));
        let key = self.keep(private_key.0, private_key.1, self::private_key(private_key.1));
        if key.is_some() {
            self.tell_of_group(private_key.0, private_key.1);
        }
        if let (Some(chain), Some(key)) = (chain, key) {
            let pair = CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider());
            let pair = pair.map_err(|_| format!("does not fit the key in {}", private_key.0));
            self.keep(certificate.0, certificate.1, pair);
        }
    }

    /// What the listeners would say of trust and revocation.
    fn of_trust(&mut self) {
        let (severity, complaints) = match Trust::load(self.config.listener.tls.clone()) {
            Ok(trust) => (Severity::Warning, trust.warnings()),
            // A file that was complained about already is not complained about again.
            Err(_) if self.problems.iter().any(Problem::is_error) => return,
            Err(error) => (Severity::Error, vec![error.to_string()]),
        };
        let problem = |text| self.config.places.problem(severity, "tls.client_crls", text);
        self.problems.extend(complaints.into_iter().map(problem));
    }

    fn of_sealing_keys(&mut self) {
        let keys = &self.config.keys;
        let current = std::iter::once(("keys.sealing_key", &keys.sealing_key));
        let previous = keys.previous_sealing_keys.iter().map(|path| ("keys.previous_sealing_keys", path));
        for (key, path) in current.chain(previous) {
            if self.keep(key, path, sealing_key(path)).is_some() {
                self.tell_of_group(key, path);
            }
        }
    }

    fn of_pdp(&mut self) {
        let Some(pdp) = &self.config.pdp else { return };
        if let Some(ca) = &pdp.ca {
            self.keep("pdp.ca", ca, certificates(ca));
        }
        if let Some(identity) = &pdp.identity {
            self.of_pair(("pdp.certificate", &identity.certificate), ("pdp.private_key", &identity.private_key));
        }
    }

    fn of_issuers(&mut self) {
        for (index, issuer) in self.config.subject_issuers.iter().enumerate() {
            if let KeySource::File(path) = &issuer.keys {
                self.keep(&format!("subject_issuer[{index}].jwks_file"), path, jwks(path));
            }
            if let Some(path) = &issuer.ca {
                self.keep(&format!("subject_issuer[{index}].ca"), path, certificates(path));
            }
        }
    }

    /// Notes what is wrong with the file that `key` names.
    fn keep<T>(&mut self, key: &str, path: &Path, result: Result<T, String>) -> Option<T> {
        result.map_err(|cause| self.add(Severity::Error, key, path, &cause)).ok()
    }

    fn tell_of_group(&mut self, key: &str, path: &Path) {
        if secret_file::group_can_read(path) {
            self.add(Severity::Warning, key, path, "can be read by its group; 0600 would keep it to its owner");
        }
    }

    fn add(&mut self, severity: Severity, key: &str, path: &Path, message: &str) {
        let message = format!("{}: {message}", path.display());
        self.problems.push(self.config.places.problem(severity, key, message));
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|cause| cause.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| "is no sound PEM".to_owned())?;
    if all.is_empty() {
        return Err("holds no certificate (PEM)".to_owned());
    }
    let sound = |certificate: &CertificateDer<'_>| x509_parser::parse_x509_certificate(certificate).is_ok();
    if all.iter().all(sound) { Ok(all) } else { Err("holds a certificate that cannot be read".to_owned()) }
}

/// A list of no CRLs would switch revocation off.
fn crls(path: &Path) -> Result<(), String> {
    let all: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| "is no sound PEM".to_owned())?;
    if all.is_empty() {
        return Err("holds no CRL (PEM)".to_owned());
    }
    let sound = |crl: &CertificateRevocationListDer<'_>| x509_parser::parse_x509_crl(crl).is_ok();
    if all.iter().all(sound) { Ok(()) } else { Err("holds a CRL that cannot be read".to_owned()) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let content = secret(path)?;
    PrivateKeyDer::from_pem_slice(&content).map_err(|_| "holds no private key (PEM)".to_owned())
}

fn sealing_key(path: &Path) -> Result<(), String> {
    const FORM: &str = "does not hold 32 bytes in base64";
    let content = secret(path)?;
    let text = std::str::from_utf8(&content).map_err(|_| FORM)?;
    let bytes = Zeroizing::new(STANDARD.decode(text.trim()).map_err(|_| FORM)?);
    if bytes.len() == 32 { Ok(()) } else { Err(FORM.to_owned()) }
}

fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    secret_file::read(path).map_err(|cause| cause.reason())
}

/// Judged as at start, so that a set without a usable key is found beforehand.
fn jwks(path: &Path) -> Result<(), String> {
    KeySet::parse(&read(path)?).map(drop).map_err(|cause| cause.to_string())
}
