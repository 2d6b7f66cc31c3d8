//! `writ certs`: a development CA, and what it signs. Never for production: the CA's key lies in a plain file.

mod authority;
mod files;
mod show;

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use authority::{Authority, Usage};
use files::{has_pair, paths, write_pair};
use writ_core::client::{ClientId, Identity, IdentityError, IdentityKind};
use writ_platform::clock::Timestamp;

use super::OptionalConfig;
use crate::config::Problem;
pub use authority::{AuthorityError, San};
pub(in crate::cli) use files::{create, create_public, io_error, read};

/// Development certificates
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a development CA, a server certificate and a sealing key, where they are missing
    Init(InitArgs),
    /// Issue a client certificate: `ID.pem` and `ID.key`
    Issue(IssueArgs),
    /// Revoke a client's certificate in `ca.crl.pem`
    Revoke(RevokeArgs),
    /// Renew `ca.crl.pem`, or begin one that revokes nothing
    Crl(CrlArgs),
    /// Show the names, validity, usage and thumbprint of a certificate, and the policy that would match
    Show(show::Args),
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// The folder; it is made if it is missing
    dir: PathBuf,
    /// One more DNS name or IP address of the server, besides the host of `issuer` in the configuration
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    config: OptionalConfig,
}

#[derive(Debug, clap::Args)]
struct IssueArgs {
    /// The folder of the CA
    #[arg(long)]
    dir: PathBuf,
    /// The client, as its policy names it
    #[arg(long, value_name = "ID")]
    client: ClientId,
    /// A URI to put in; without any name it is `spiffe://TRUST_DOMAIN/ID`
    #[arg(long, value_name = "URI")]
    san_uri: Vec<String>,
    /// A DNS name to put in
    #[arg(long, value_name = "NAME")]
    san_dns: Vec<String>,
    /// An e-mail address to put in
    #[arg(long, value_name = "ADDRESS")]
    san_email: Vec<String>,
    /// An IP address to put in
    #[arg(long, value_name = "ADDRESS")]
    san_ip: Vec<IpAddr>,
    /// The trust domain of the SPIFFE ID that is put in by default [default: that of the configuration, else
    /// `trust-domain.example`]
    #[arg(long)]
    trust_domain: Option<String>,
    #[command(flatten)]
    config: OptionalConfig,
    /// How long the certificate is valid
    #[arg(long, default_value_t = MAX_DAYS, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DAYS)))]
    days: u32,
}

#[derive(Debug, clap::Args)]
struct RevokeArgs {
    /// The folder of the CA
    #[arg(long)]
    dir: PathBuf,
    /// The client whose `ID.pem` is revoked
    #[arg(long, value_name = "ID")]
    client: ClientId,
    #[command(flatten)]
    config: OptionalConfig,
}

#[derive(Debug, clap::Args)]
struct CrlArgs {
    /// The folder of the CA
    #[arg(long)]
    dir: PathBuf,
}

/// The longest that a certificate for a server or a client is valid.
pub const MAX_DAYS: u32 = 825;

const CA: (&str, &str) = ("ca.pem", "ca.key");
const SERVER: (&str, &str) = ("server.pem", "server.key");
pub(in crate::cli) const SEALING_KEY: &str = "sealing.key";
const CRL: &str = "ca.crl.pem";
/// Clients whose files would be taken for others.
const RESERVED: [&str; 4] = ["ca", "ca.crl", "sealing", "server"];

/// Why a file was not made.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// The disk, or standard output.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why it could not be.
        source: io::Error,
    },
    /// One of a pair is gone, and nothing fits what is left.
    #[error("{} exists without {}; put the missing file back, or remove both", present.display(), missing.display())]
    HalfPair {
        /// What is there.
        present: PathBuf,
        /// What should be beside it.
        missing: PathBuf,
    },
    /// Nothing is overwritten.
    #[error("{} exists already; move it away first", .0.display())]
    Exists(PathBuf),
    /// Its files would be taken for others.
    #[error("a client cannot be called {0:?} here: the file names are taken")]
    Reserved(String),
    /// No policy could register such a name.
    #[error("{name:?}: {source}")]
    Name {
        /// What was asked for.
        name: String,
        /// Why it is none.
        source: IdentityError,
    },
    /// The CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// What the configuration should tell cannot be read in it.
    #[error("{0}; run `writ check`")]
    Config(Problem),
    /// A file with a certificate to show.
    #[error("{}: {problem}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The files that [`init`] looked after.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    /// Made now.
    pub created: Vec<PathBuf>,
    /// There already, and left alone.
    pub kept: Vec<PathBuf>,
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = |verb, paths: &[PathBuf]| paths.iter().map(move |p| format!("{verb} {}", p.display())).collect();
        let lines: [Vec<String>; 2] = [lines("created", &self.created), lines("kept   ", &self.kept)];
        f.write_str(&lines.concat().join("\n"))
    }
}

/// Does what the command line asks for, and says what it did.
pub fn run(args: Args) -> Result<ExitCode, CertsError> {
    let now = Timestamp::now();
    let said = match args.command {
        Command::Init(args) => {
            let mut names = args.names;
            names.extend(args.config.issuer_host()?);
            let files = init(&args.dir, &names, now)?;
            let server = args.dir.join(SERVER.0);
            format!("{files}\n{} is for {}", server.display(), show::host_names(&server)?)
        }
        Command::Issue(args) => {
            let names = args.names()?;
            let files = issue(&args.dir, &args.client, &names, args.days, now)?;
            let lines: Vec<_> = names.iter().map(|name| format!("  {}", policy_line(name))).collect();
            format!("{files}\na policy names this client by\n{}", lines.join("\n"))
        }
        Command::Show(args) => args.shown(now)?,
        Command::Revoke(args) => {
            let said = revoke(&args.dir, &args.client, now)?;
            format!("{said}{}", args.missing())
        }
        Command::Crl(args) => written(&update_crl(&args.dir, None, now)?),
    };
    let output = |source| CertsError::Io { path: PathBuf::from("standard output"), source };
    writeln!(io::stdout(), "{said}").map_err(output)?;
    Ok(ExitCode::SUCCESS)
}

/// Makes what is missing of a development CA (`ca.pem`, `ca.key`), a server certificate (`server.pem`, `server.key`)
/// for localhost, `tts.trust-domain.example` and `names`, and a sealing key (`sealing.key`).
///
/// Keys have mode 0600, certificates 0644; none is overwritten.
pub fn init(dir: &Path, names: &[String], now: Timestamp) -> Result<Files, CertsError> {
    if !dir.exists() {
        DirBuilder::new().recursive(true).create(dir).map_err(io_error(dir))?;
        fs::set_permissions(dir, Permissions::from_mode(0o755)).map_err(io_error(dir))?;
    }
    let names = server_names(names)?;
    let mut files = Files::default();
    // Both pairs are looked at before anything is written.
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
pub fn issue(dir: &Path, client: &ClientId, names: &[San], days: u32, now: Timestamp) -> Result<Files, CertsError> {
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

/// The SPIFFE ID that a development certificate of `client` holds.
pub fn spiffe_id(trust_domain: &str, client: &ClientId) -> San {
    San::Uri(format!("spiffe://{trust_domain}/{client}"))
}

impl IssueArgs {
    /// The names asked for, each one that a policy could register.
    fn names(&self) -> Result<Vec<San>, CertsError> {
        let uris = self.san_uri.iter().cloned().map(San::Uri);
        let dns = self.san_dns.iter().cloned().map(San::Dns);
        let emails = self.san_email.iter().cloned().map(San::Email);
        let ips = self.san_ip.iter().copied().map(San::Ip);
        let mut names: Vec<_> = uris.chain(dns).chain(emails).chain(ips).collect();
        if names.is_empty() {
            let configured = if self.trust_domain.is_none() { self.config.trust_domain()? } else { None };
            let trust_domain = self.trust_domain.clone().or(configured);
            names.push(spiffe_id(trust_domain.as_deref().unwrap_or("trust-domain.example"), &self.client));
        }
        names.iter().try_for_each(check)?;
        Ok(names)
    }
}

fn check(name: &San) -> Result<(), CertsError> {
    let (kind, text) = identity(name);
    let refused = |source| CertsError::Name { name: text.clone(), source };
    Identity::parse(kind, &text).map(drop).map_err(refused)
}

/// What a policy calls the name.
fn identity(name: &San) -> (IdentityKind, String) {
    match name {
        San::Dns(text) => (IdentityKind::SanDns, text.clone()),
        San::Uri(text) => (IdentityKind::SanUri, text.clone()),
        San::Email(text) => (IdentityKind::SanEmail, text.clone()),
        San::Ip(ip) => (IdentityKind::SanIp, ip.to_string()),
    }
}

fn policy_line(name: &San) -> String {
    let (kind, text) = identity(name);
    format!("{} = \"{text}\"", kind.name())
}

fn server_names(more: &[String]) -> Result<Vec<San>, CertsError> {
    let name = |text: &str| text.parse().map_or_else(|_| San::Dns(text.to_owned()), San::Ip);
    let mut names: Vec<_> = ["localhost", "127.0.0.1", "::1", "tts.trust-domain.example"].map(name).into();
    for more in more.iter().map(|text| name(text)) {
        check(&more)?;
        if !names.contains(&more) {
            names.push(more);
        }
    }
    Ok(names)
}

fn revoke(dir: &Path, client: &ClientId, now: Timestamp) -> Result<String, CertsError> {
    let certificate = read(&dir.join(format!("{client}.pem")))?;
    let crl = dir.join(CRL);
    if crl.exists() && authority::is_listed(&read(&crl)?, &certificate) {
        return Ok(format!("kept    {} (revoked already)", crl.display()));
    }
    update_crl(dir, Some(&certificate), now).map(|path| format!("revoked {client} in {}", path.display()))
}

impl RevokeArgs {
    /// What is still to be done: nothing, where the configuration names the CRL.
    fn missing(&self) -> String {
        let crl = self.dir.join(CRL);
        let files = self.config.read().ok().flatten().and_then(|reading| reading.files);
        let same = |named: &PathBuf| fs::canonicalize(named).ok() == fs::canonicalize(&crl).ok();
        if files.is_some_and(|files| files.client_crls().iter().any(same)) {
            return String::new();
        }
        format!("; in force once writ.toml has, in [tls], client_crls = [{:?}]", crl.display().to_string())
    }
}

fn written(path: &Path) -> String {
    format!("written {}", path.display())
}

/// Replaces the CRL in one step, since a running service watches it.
fn update_crl(dir: &Path, certificate: Option<&str>, now: Timestamp) -> Result<PathBuf, CertsError> {
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

    use super::*;
    use writ_core::client::PeerCertificate;

    fn now() -> Timestamp {
        Timestamp::from_epoch(1_793_000_000)
    }

    fn id(text: &str) -> ClientId {
        text.parse().unwrap()
    }

    fn der(path: &Path) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(path).unwrap()
    }

    /// What the exchange listener would say to this client at `at`.
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

    #[derive(clap::Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        <CommandLine as clap::Parser>::try_parse_from(line.split(' ')).map(|parsed| parsed.args)
    }

    #[test]
    fn the_command_line_is_read_as_documented() {
        <CommandLine as clap::CommandFactory>::command().debug_assert();
        let Command::Issue(args) = parse("certs issue --dir d --client mda").unwrap().command else { panic!() };
        assert_eq!(args.names().unwrap(), [San::Uri("spiffe://trust-domain.example/mda".into())]);
        let line = "certs issue --dir d --client mda --days 7 --san-dns a.example --san-ip ::1 --san-email a@a.example";
        let Command::Issue(args) = parse(line).unwrap().command else { panic!() };
        assert_eq!((args.names().unwrap().len(), args.days), (3, 7));
        for bad in
            ["certs issue --dir d", "certs issue --dir d --client a/b", "certs issue --dir d --client a --days 826"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn everything_is_made_once_and_kept_afterwards() {
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
    fn a_missing_server_certificate_is_signed_by_the_ca_that_is_there() {
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
        assert!(matches!(error, Error::InvalidCertificate(_)), "a server certificate makes no client: {error}");
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
    fn an_issued_certificate_makes_a_client_until_it_ends() {
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
    fn no_file_is_overwritten_and_no_other_taken_for_a_client() {
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
    fn a_ca_of_someone_else_is_refused() {
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
    fn revoked_clients_stay_revoked_and_others_do_not_suffer() {
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
        let args = |config: &Path| {
            let config = OptionalConfig { config: Some(config.to_owned()) };
            RevokeArgs { dir: dir.to_owned(), client: id("two"), config }
        };
        let config = dir.join("writ.toml");
        fs::write(&config, "[tls]\nclient_crls = [\"ca.crl.pem\"]\n").unwrap();
        assert_eq!(args(&config).missing(), "");
        fs::write(&config, "").unwrap();
        assert!(args(&config).missing().contains("ca.crl.pem\"]"), "{}", args(&config).missing());
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
    fn names_that_no_policy_could_register_are_refused() {
        for name in [San::Dns("*.example".into()), San::Uri("spiffe://Example/a".into()), San::Email("a".into())] {
            assert!(check(&name).is_err(), "{name:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(init(dir.path(), &["a b".to_owned()], now()), Err(CertsError::Name { .. })));
    }
}
