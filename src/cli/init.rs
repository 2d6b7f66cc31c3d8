//! `writ init`: creates the files of a new setup, and prints the next steps.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use url::Url;
use writ_verifier::TrustDomain;

use super::certs::{self, CertsError, create, create_public, io_error};
use crate::config::{self, Problem, file};
use writ_core::client::{Identity, IdentityError, IdentityKind};

/// `writ init …`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder, created if it is missing
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The trust domain: `aud` of every Txn-Token
    #[arg(long, default_value = TRUST_DOMAIN)]
    trust_domain: TrustDomain,
    /// The URL by which clients reach the service: `https://HOST` or `https://HOST:PORT`
    #[arg(long, value_name = "URL", default_value = ISSUER, value_parser = config::origin)]
    issuer: String,
}

/// Why the setup was not created.
#[derive(Debug, thiserror::Error)]
pub(super) enum InitError {
    #[error(transparent)]
    Files(#[from] CertsError),
    #[error("{domain} cannot be the trust domain of a SPIFFE ID, which the example needs: {source}")]
    TrustDomain { domain: TrustDomain, source: IdentityError },
    #[error("{0}; correct the file, or move it away to have it created again")]
    Config(Problem),
}

/// The shipped configuration, with a comment on every setting.
const TEMPLATE: &str = include_str!("../../writ.toml");
const TRUST_DOMAIN: &str = "trust-domain.example";
const ISSUER: &str = "https://localhost:8443";
const CLIENT: &str = "batch-job";
const PURPOSE: &str = "report.create";

/// Creates the missing files, and prints the next steps.
pub(super) fn run(args: &Args) -> Result<ExitCode, InitError> {
    let report = init(args)?;
    let output = |source| CertsError::Io { path: PathBuf::from("standard output"), source };
    writeln!(io::stdout(), "{report}").map_err(output)?;
    Ok(ExitCode::SUCCESS)
}

fn init(args: &Args) -> Result<String, InitError> {
    let dir = &args.dir;
    let spiffe_id = format!("spiffe://{}/{CLIENT}", args.trust_domain);
    Identity::parse(IdentityKind::SanUri, &spiffe_id)
        .map_err(|source| InitError::TrustDomain { domain: args.trust_domain.clone(), source })?;
    create_folder(dir)?;
    let mut text = String::new();
    let mut report = |created: bool, path: &Path, what: &str| {
        let verb = if created { "created" } else { "kept   " };
        let _ = writeln!(text, "{verb} {:<37} {what}", path.display());
    };
    let config = dir.join("writ.toml");
    let created = was_created(create_public(&config, &configuration(&args.trust_domain, &args.issuer)))?;
    report(created, &config, "every setting, explained");
    let issuer = if created { args.issuer.clone() } else { configured_issuer(&config)? };
    create_folder(&dir.join("certs"))?;
    let key = dir.join("certs").join(certs::SEALING_KEY);
    report(was_created(create(&key, &certs::sealing_key()?))?, &key, "seals private keys in the store");
    // A setup with its own policies needs no example.
    let policies = dir.join("policies");
    if policies.exists() {
        report(false, &policies, "what each client can get");
    } else {
        create_folder(&policies.join("tests"))?;
        let name = format!("{CLIENT}.toml");
        for (path, content, what) in [
            (policies.join(&name), policy(&spiffe_id), "an example: what one client can get"),
            (policies.join("tests").join(&name), expectations(), "what that policy must allow and refuse"),
        ] {
            report(was_created(create_public(&path, &content))?, &path, what);
        }
    }
    for (flag, given, usual) in
        [("--trust-domain", args.trust_domain.as_str(), TRUST_DOMAIN), ("--issuer", &args.issuer, ISSUER)]
    {
        if !created && given != usual {
            let _ = writeln!(text, "{flag} not used: {} exists", config.display());
        }
    }
    text.push_str(&next_steps(dir, &issuer));
    Ok(text)
}

/// Everyone can enter the folder: of its files only keys are secret, and those have a mode of their own.
fn create_folder(dir: &Path) -> Result<(), CertsError> {
    if dir.exists() {
        return Ok(());
    }
    let created = DirBuilder::new().recursive(true).create(dir);
    created.and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o755))).map_err(io_error(dir))
}

/// False if the file existed.
fn was_created(created: Result<PathBuf, CertsError>) -> Result<bool, CertsError> {
    match created {
        Ok(_) => Ok(true),
        Err(CertsError::Exists(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The issuer of an existing configuration.
fn configured_issuer(config: &Path) -> Result<String, InitError> {
    let reading = file::read(config, std::iter::empty());
    let unknown = || Problem::of_file(config, "does not name an issuer");
    reading.issuer.ok_or_else(|| InitError::Config(reading.problems.into_iter().next().unwrap_or_else(unknown)))
}

/// The shipped configuration for this trust domain and issuer, without a subject issuer.
fn configuration(trust_domain: &TrustDomain, issuer: &str) -> String {
    let port = Url::parse(issuer).ok().and_then(|url| url.port()).unwrap_or(8443);
    let discovery = if port == 8444 { 8445 } else { 8444 };
    let mut in_issuer = false;
    let mut text = String::new();
    for line in TEMPLATE.lines() {
        in_issuer |= line == "[[subject_issuer]]";
        let line = match line.split_once(" = ").map(|(key, _)| key) {
            Some("trust_domain") => format!("trust_domain = \"{trust_domain}\""),
            Some("issuer") if !in_issuer => format!("issuer = \"{issuer}\""),
            Some("exchange") => format!("exchange = \"0.0.0.0:{port}\""),
            Some("discovery") => format!("discovery = \"0.0.0.0:{discovery}\""),
            _ if in_issuer && !line.is_empty() && !line.starts_with('#') => format!("# {line}"),
            _ => line.to_owned(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

fn policy(spiffe_id: &str) -> String {
    format!(
        "# What the client {CLIENT} can get. One file for each client, named after its client_id; what is not written is not\n\
         # allowed. A change takes effect within seconds.\n\
         client_id   = \"{CLIENT}\"\n\
         description = \"An example: a job that needs no proof other than its certificate\"\n\
         \n\
         # The name that its certificate must contain; `writ certs show FILE` prints this line for a certificate.\n\
         tls_client_auth_san_uri = \"{spiffe_id}\"\n\
         \n\
         # One table for each purpose that it can request.\n\
         [[purpose]]\n\
         scope    = \"{PURPOSE}\"\n\
         lifetime = \"60s\"\n\
         accept   = [\"client_credentials\"]   # it is the subject itself, without a subject token\n"
    )
}

fn expectations() -> String {
    format!(
        "# What {CLIENT}.toml must allow and refuse. `writ policy test` runs these tests.\n\
         \n\
         [[test]]\n\
         name   = \"the job can create its report\"\n\
         client = \"{CLIENT}\"\n\
         source = \"client_credentials\"\n\
         scope  = \"{PURPOSE}\"\n\
         expect = \"allow\"\n\
         claims = {{ sub = \"{CLIENT}\", scope = \"{PURPOSE}\" }}\n\
         \n\
         [[test]]\n\
         name   = \"the job can do nothing else\"\n\
         client = \"{CLIENT}\"\n\
         source = \"client_credentials\"\n\
         scope  = \"report.delete\"\n\
         expect = \"purpose_not_allowed\"\n\
         \n\
         [[test]]\n\
         name    = \"the job cannot act for another subject\"\n\
         client  = \"{CLIENT}\"\n\
         source  = \"client_credentials\"\n\
         scope   = \"{PURPOSE}\"\n\
         subject = \"another-subject\"\n\
         expect  = \"subject_not_allowed\"\n"
    )
}

/// The next steps, as commands that can be copied.
fn next_steps(dir: &Path, issuer: &str) -> String {
    let writ = program();
    let enter =
        if dir == Path::new(".") { String::new() } else { format!("  cd {}\n", quoted(&dir.display().to_string())) };
    let url = Url::parse(issuer).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or("localhost");
    let port = url.as_ref().and_then(Url::port_or_known_default).unwrap_or(8443);
    let is_local = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
    let resolve = if is_local { String::new() } else { format!("--resolve {host}:{port}:127.0.0.1 ") };
    format!(
        "\nNext:\n\n{enter}\
         \x20 {writ} certs init certs                             # a development CA and the service's certificate\n\
         \x20 {writ} certs issue --dir certs --client {CLIENT}   # a certificate for the client of the example\n\
         \x20 {writ} policy test                                  # the policy decides as its tests expect\n\
         \x20 {writ} check                                        # everything is in place\n\
         \x20 {writ} serve\n\n\
         and in another shell, in the same folder, the first token:\n\n\
         \x20 {writ} token request --url {issuer} {resolve}--ca certs/ca.pem \\\n\
         \x20   --cert certs/{CLIENT}.pem --key certs/{CLIENT}.key --scope {PURPOSE}"
    )
}

/// How to call this program: by its path, if it was called by a path.
fn program() -> String {
    let called = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let is_path = called.components().count() > 1;
    let path = std::env::current_exe().ok().filter(|_| is_path);
    path.map_or_else(|| "writ".to_owned(), |path| quoted(&path.display().to_string()))
}

/// Quoted for a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(dir: &Path, issuer: &str) -> Args {
        Args { dir: dir.to_owned(), trust_domain: "d.example".parse().unwrap(), issuer: issuer.to_owned() }
    }

    #[test]
    fn a_setup_lacks_only_certificates_and_is_created_once() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new");
        let first = init(&args(&dir, "https://tts.d.example:8444")).unwrap();
        assert_eq!(first.matches("created ").count(), 4, "{first}");
        assert!(
            first.contains("--url https://tts.d.example:8444 --resolve tts.d.example:8444:127.0.0.1 --ca"),
            "{first}"
        );
        let reading = file::read(&dir.join("writ.toml"), std::iter::empty());
        let config = reading.config.unwrap_or_else(|| panic!("{:?}", reading.problems));
        assert_eq!((config.issuer.as_str(), config.listener.exchange.port()), ("https://tts.d.example:8444", 8444));
        assert!(config.subject_issuers.is_empty());
        let (policies, warnings) = crate::config::policy::folder::load(&config.policies).unwrap();
        assert_eq!((policies.len(), warnings.len()), (1, 0));
        let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("certs/sealing.key"), mode("writ.toml")), (0o600, 0o644));

        let before: Vec<_> = ["writ.toml", "certs/sealing.key"].map(|name| fs::read(dir.join(name)).unwrap()).into();
        fs::remove_file(dir.join("policies/batch-job.toml")).unwrap();
        let second = init(&args(&dir, "https://other.example")).unwrap();
        assert!(second.contains("--issuer not used: ") && second.contains("writ.toml exists"), "{second}");
        assert!(!second.contains("created") && second.contains("--url https://tts.d.example:8444 "), "{second}");
        let after: Vec<_> = ["writ.toml", "certs/sealing.key"].map(|name| fs::read(dir.join(name)).unwrap()).into();
        assert_eq!(before, after);
        assert!(!dir.join("policies/batch-job.toml").exists(), "existing policies are left alone");
    }

    #[test]
    fn a_trust_domain_that_the_example_cannot_use_is_refused_before_anything_is_created() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new");
        let mut args = args(&dir, "https://localhost:8443");
        args.trust_domain = "Upper.example".parse().unwrap();
        assert!(matches!(init(&args), Err(InitError::TrustDomain { .. })) && !dir.exists());
    }
}
