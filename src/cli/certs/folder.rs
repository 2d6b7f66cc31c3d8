//! The operations on the folder of a development CA: create it, issue and revoke certificates in it.

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::CertsError;
use super::authority::{self, Authority, AuthorityError, San, Usage};
use super::files::{create, create_public, has_pair, io_error, paths, read, write_pair};
use super::names::server_names;
use writ_core::client::ClientId;
use writ_platform::clock::Timestamp;

/// The longest validity of a server or client certificate.
pub(in crate::cli) const MAX_DAYS: u32 = 825;

pub(super) const CA: (&str, &str) = ("ca.pem", "ca.key");
pub(super) const SERVER: (&str, &str) = ("server.pem", "server.key");
pub(in crate::cli) const SEALING_KEY: &str = "sealing.key";
pub(super) const CRL: &str = "ca.crl.pem";
/// Clients whose files would have the names of other files.
const RESERVED: [&str; 4] = ["ca", "ca.crl", "sealing", "server"];

/// The outcome of [`init`] and [`issue`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::cli) struct Files {
    pub(in crate::cli) created: Vec<PathBuf>,
    pub(in crate::cli) kept: Vec<PathBuf>,
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = |verb, paths: &[PathBuf]| paths.iter().map(move |p| format!("{verb} {}", p.display())).collect();
        let lines: [Vec<String>; 2] = [lines("created", &self.created), lines("kept   ", &self.kept)];
        f.write_str(&lines.concat().join("\n"))
    }
}

/// Creates the missing files of a development CA (`ca.pem`, `ca.key`), a server certificate (`server.pem`, `server.key`)
/// for localhost, `tts.trust-domain.example` and `names`, and a sealing key (`sealing.key`).
///
/// Keys have mode 0600, certificates 0644; no file is overwritten.
pub(in crate::cli) fn init(dir: &Path, names: &[String], now: Timestamp) -> Result<Files, CertsError> {
    if !dir.exists() {
        DirBuilder::new().recursive(true).create(dir).map_err(io_error(dir))?;
        fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(io_error(dir))?;
    }
    let names = server_names(names)?;
    let mut files = Files::default();
    // Both pairs are checked before anything is written.
    let (has_ca, has_server) = (has_pair(dir, CA)?, has_pair(dir, SERVER)?);
    let authority = if has_ca {
        files.kept.extend(paths(dir, CA));
        load(dir)?
    } else {
        let (authority, pair) = Authority::create(now)?;
        files.created.extend(write_pair(dir, CA, &pair)?);
        authority
    };
    if has_server {
        files.kept.extend(paths(dir, SERVER));
    } else {
        let pair = authority.issue("Writ", &names, Usage::Server, MAX_DAYS, now)?;
        files.created.extend(write_pair(dir, SERVER, &pair)?);
    }
    match create(&dir.join(SEALING_KEY), &sealing_key()?) {
        Ok(path) => files.created.push(path),
        Err(CertsError::Exists(path)) => files.kept.push(path),
        Err(error) => return Err(error),
    }
    Ok(files)
}

/// Issues `CLIENT.pem` and `CLIENT.key` for client authentication, with these names.
pub(in crate::cli) fn issue(
    dir: &Path,
    client: &ClientId,
    names: &[San],
    days: u32,
    now: Timestamp,
) -> Result<Files, CertsError> {
    if RESERVED.contains(&client.as_str()) {
        return Err(CertsError::Reserved(client.to_string()));
    }
    let (certificate, key) = (format!("{client}.pem"), format!("{client}.key"));
    let files = (certificate.as_str(), key.as_str());
    for path in paths(dir, files) {
        if path.exists() {
            return Err(CertsError::Exists(path));
        }
    }
    let pair = load(dir)?.issue(client.as_str(), names, Usage::Client, days.min(MAX_DAYS), now)?;
    Ok(Files { created: write_pair(dir, files, &pair)?.to_vec(), kept: Vec::new() })
}

pub(super) fn revoke(dir: &Path, client: &ClientId, now: Timestamp) -> Result<String, CertsError> {
    let certificate = read(&dir.join(format!("{client}.pem")))?;
    let crl = dir.join(CRL);
    if crl.exists() && authority::is_listed(&read(&crl)?, &certificate) {
        return Ok(format!("kept    {} (revoked already)", crl.display()));
    }
    update_crl(dir, Some(&certificate), now).map(|path| format!("revoked {client} in {}", path.display()))
}

/// Replaces the CRL atomically, since a running service reloads it.
pub(super) fn update_crl(dir: &Path, certificate: Option<&str>, now: Timestamp) -> Result<PathBuf, CertsError> {
    let path = dir.join(CRL);
    let last = if path.exists() { Some(read(&path)?) } else { None };
    let crl = load(dir)?.revoke(last.as_ref().map(|text| text.as_str()), certificate, now)?;
    let draft = dir.join(format!(".{CRL}.new"));
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(&draft)(error)),
        _ => {}
    }
    create_public(&draft, &crl)?;
    fs::rename(&draft, &path).map_err(io_error(&path))?;
    Ok(path)
}

fn load(dir: &Path) -> Result<Authority, CertsError> {
    let [certificate, key] = paths(dir, CA);
    Ok(Authority::load(&read(&certificate)?, &read(&key)?)?)
}

/// 32 random bytes in base64.
pub(in crate::cli) fn sealing_key() -> Result<Zeroizing<String>, CertsError> {
    let mut key = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *key).map_err(|_| AuthorityError::Random)?;
    let mut text = Zeroizing::new(STANDARD.encode(*key));
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
    use rustls::server::danger::ClientCertVerifier;
    use rustls::{CertificateError, Error, RootCertStore, server::WebPkiClientVerifier};

    use super::super::names::{check_name, spiffe_id};
    use super::*;
    use writ_core::client::{Identity, IdentityKind, PeerCertificate};

    fn now() -> Timestamp {
        Timestamp::from_epoch(1_793_000_000)
    }

    fn id(text: &str) -> ClientId {
        text.parse().unwrap()
    }

    fn der(path: &Path) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(path).unwrap()
    }

    /// The verdict of the exchange listener on this client's certificate at `at`.
    fn verified(dir: &Path, client: &str, with_crl: bool, at: Timestamp) -> Result<(), Error> {
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(der(&dir.join("ca.pem"))).unwrap();
        let crls = with_crl.then(|| CertificateRevocationListDer::from_pem_file(dir.join(CRL)).unwrap());
        let verifier: std::sync::Arc<dyn ClientCertVerifier> =
            WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .with_crls(crls)
                .enforce_revocation_expiration()
                .build()
                .unwrap();
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.epoch()));
        verifier.verify_client_cert(&der(&dir.join(format!("{client}.pem"))), &[], time).map(drop)
    }

    #[test]
    fn files_are_created_once_and_kept_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("certs");
        let first = init(&dir, &[], now()).unwrap();
        assert_eq!((first.created.len(), first.kept.len()), (5, 0));
        let before: Vec<_> = first.created.iter().map(|path| fs::read(path).unwrap()).collect();
        let second = init(&dir, &[], now()).unwrap();
        assert_eq!((second.created.len(), &second.kept), (0, &first.created));
        let after: Vec<_> = first.created.iter().map(|path| fs::read(path).unwrap()).collect();
        assert_eq!(before, after);
        for path in &first.created {
            let expected = if path.extension().unwrap() == "pem" { 0o644 } else { 0o600 };
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, expected, "{}", path.display());
        }
        assert_eq!(STANDARD.decode(fs::read_to_string(dir.join(SEALING_KEY)).unwrap().trim_end()).unwrap().len(), 32);
    }

    #[test]
    fn a_missing_server_certificate_is_signed_by_the_existing_ca() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &[], now()).unwrap();
        let ca = fs::read(dir.path().join("ca.pem")).unwrap();
        for file in ["server.pem", "server.key"] {
            fs::remove_file(dir.path().join(file)).unwrap();
        }
        let files = init(dir.path(), &["tts.example".to_owned(), "10.0.0.1".to_owned()], now()).unwrap();
        assert_eq!(files.created, paths(dir.path(), SERVER));
        assert_eq!(fs::read(dir.path().join("ca.pem")).unwrap(), ca);
        let server = PeerCertificate::parse(&der(&dir.path().join("server.pem"))).unwrap();
        for name in ["localhost", "tts.trust-domain.example", "tts.example"] {
            assert!(server.matches(&Identity::parse(IdentityKind::SanDns, name).unwrap()), "{name}");
        }
        for ip in ["127.0.0.1", "::1", "10.0.0.1"] {
            assert!(server.matches(&Identity::parse(IdentityKind::SanIp, ip).unwrap()), "{ip}");
        }
        let error = verified(dir.path(), "server", false, now()).unwrap_err();
        assert!(matches!(error, Error::InvalidCertificate(_)), "a server certificate is not one for clients: {error}");
    }

    #[test]
    fn half_a_pair_is_refused_before_anything_is_written() {
        for (missing, present) in [CA, (CA.1, CA.0), SERVER, (SERVER.1, SERVER.0)] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(present), "").unwrap();
            let error = init(dir.path(), &[], now()).unwrap_err();
            assert!(matches!(error, CertsError::HalfPair { .. }), "{missing}: {error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn an_issued_certificate_authenticates_a_client_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &[], now()).unwrap();
        let name = spiffe_id("trust-domain.example", &id("mda"));
        issue(dir.path(), &id("mda"), &[name], 30, now()).unwrap();
        assert_eq!(verified(dir.path(), "mda", false, now()), Ok(()));
        let end = now() + std::time::Duration::from_secs(30 * 24 * 3600 + 1);
        assert!(verified(dir.path(), "mda", false, end).is_err());
        let identity = Identity::parse(IdentityKind::SanUri, "spiffe://trust-domain.example/mda").unwrap();
        assert!(PeerCertificate::parse(&der(&dir.path().join("mda.pem"))).unwrap().matches(&identity));
        assert!(PrivateKeyDer::from_pem_file(dir.path().join("mda.key")).is_ok());
    }

    #[test]
    fn no_file_is_overwritten_and_no_reserved_name_is_a_client() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &[], now()).unwrap();
        let issue = |client| issue(dir.path(), &id(client), &[San::Dns("a.example".into())], 1, now());
        issue("mda").unwrap();
        assert!(matches!(issue("mda"), Err(CertsError::Exists(_))));
        for client in RESERVED {
            assert!(matches!(issue(client), Err(CertsError::Reserved(_))), "{client}");
        }
    }

    #[test]
    fn another_ca_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        for dir in [dir.path(), other.path()] {
            init(dir, &[], now()).unwrap();
        }
        fs::copy(other.path().join("ca.key"), dir.path().join("ca.key")).unwrap();
        let error = issue(dir.path(), &id("mda"), &[], 1, now()).unwrap_err();
        assert!(matches!(error, CertsError::Authority(AuthorityError::NotOurs)), "{error}");
    }

    #[test]
    fn revoked_clients_stay_revoked_and_others_are_not_affected() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        init(dir, &[], now()).unwrap();
        for client in ["one", "two", "three"] {
            issue(dir, &id(client), &[San::Dns(format!("{client}.example"))], 30, now()).unwrap();
        }
        update_crl(dir, None, now()).unwrap();
        assert_eq!(verified(dir, "one", true, now()), Ok(()));
        revoke(dir, &id("one"), now()).unwrap();
        revoke(dir, &id("two"), now()).unwrap();
        for client in ["one", "two"] {
            let revoked = Err(Error::InvalidCertificate(CertificateError::Revoked));
            assert_eq!(verified(dir, client, true, now()), revoked, "{client}");
        }
        assert_eq!(verified(dir, "three", true, now()), Ok(()));
        let before = fs::read(dir.join(CRL)).unwrap();
        assert!(revoke(dir, &id("two"), now()).unwrap().contains("already"));
        assert_eq!(fs::read(dir.join(CRL)).unwrap(), before);
    }
    #[test]
    fn each_crl_has_a_higher_number() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), &[], now()).unwrap();
        let number = || {
            let path = update_crl(dir.path(), None, now()).unwrap();
            let der = CertificateRevocationListDer::from_pem_file(path).unwrap();
            let (_, crl) = x509_parser::parse_x509_crl(&der).unwrap();
            crl.crl_number().cloned().unwrap()
        };
        let (first, second, third) = (number(), number(), number());
        assert!(first < second && second < third);
    }

    #[test]
    fn names_that_policies_cannot_register_are_refused() {
        for name in [San::Dns("*.example".into()), San::Uri("spiffe://Example/a".into()), San::Email("a".into())] {
            assert!(check_name(&name).is_err(), "{name:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(init(dir.path(), &["a b".to_owned()], now()), Err(CertsError::Name { .. })));
    }
}
