//! `writ certs`: a development CA and its certificates. Never for production: the CA's key is in an unprotected file.
//!
//! Arguments → operations on the `folder` of the CA → a report. `authority` signs, `names` are those of certificates, and
//! `files` are created but never overwritten.

mod authority;
mod files;
mod folder;
mod names;
mod show;

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use self::folder::{CRL, SERVER, revoke, update_crl};
use self::names::{check_name, policy_line};
use super::OptionalConfig;
use crate::config::Problem;
use writ_core::client::{ClientId, IdentityError};
use writ_platform::clock::Timestamp;

pub(super) use self::authority::{AuthorityError, San};
pub(in crate::cli) use self::files::{create, create_public, io_error, read};
pub(in crate::cli) use self::folder::{MAX_DAYS, SEALING_KEY, init, issue, sealing_key};
pub(super) use self::names::spiffe_id;

/// Manage development certificates
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create a development CA, a server certificate and a sealing key, if they are missing
    Init(InitArgs),
    /// Issue a client certificate: `ID.pem` and `ID.key`
    Issue(IssueArgs),
    /// Revoke a client's certificate in `ca.crl.pem`
    Revoke(RevokeArgs),
    /// Renew `ca.crl.pem`, or create one that revokes nothing
    Crl(CrlArgs),
    /// Show the names, validity, usage and thumbprint of a certificate, and the policies that match it
    Show(show::Args),
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// The folder, created if it is missing
    dir: PathBuf,
    /// A further DNS name or IP address of the server, besides the host of `issuer` in the configuration
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
    /// A URI to include; without any name, `spiffe://TRUST_DOMAIN/ID`
    #[arg(long, value_name = "URI")]
    san_uri: Vec<String>,
    /// A DNS name to include
    #[arg(long, value_name = "NAME")]
    san_dns: Vec<String>,
    /// An e-mail address to include
    #[arg(long, value_name = "ADDRESS")]
    san_email: Vec<String>,
    /// An IP address to include
    #[arg(long, value_name = "ADDRESS")]
    san_ip: Vec<IpAddr>,
    /// The trust domain of the SPIFFE ID that is included by default [default: that of the configuration, else
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

/// Why a file was not created or shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertsError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} exists without {}; put the missing file back, or remove both", present.display(), missing.display())]
    HalfPair { present: PathBuf, missing: PathBuf },
    /// No file is overwritten.
    #[error("{} exists already; move it away first", .0.display())]
    Exists(PathBuf),
    #[error("a client cannot be called {0:?} here: its files would have the names of other files")]
    Reserved(String),
    /// A name that a policy cannot register.
    #[error("{name:?}: {source}")]
    Name { name: String, source: IdentityError },
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The configuration does not contain the setting that is needed.
    #[error("{0}; run `writ check`")]
    Config(Problem),
    #[error("{}: {problem}", path.display())]
    Certificate { path: PathBuf, problem: String },
}

pub(super) fn run(args: Args) -> Result<ExitCode, CertsError> {
    let now = Timestamp::now();
    let message = match args.command {
        Command::Init(args) => {
            let mut names = args.names;
            names.extend(args.config.issuer_host().map_err(CertsError::Config)?);
            let files = init(&args.dir, &names, now)?;
            let server = args.dir.join(SERVER.0);
            format!("{files}\n{} is for {}", server.display(), show::host_names(&server)?)
        }
        Command::Issue(args) => {
            let names = args.names()?;
            let files = issue(&args.dir, &args.client, &names, args.days, now)?;
            let lines: Vec<_> = names.iter().map(|name| format!("  {}", policy_line(name))).collect();
            format!("{files}\na policy registers this client by\n{}", lines.join("\n"))
        }
        Command::Show(args) => args.shown(now)?,
        Command::Revoke(args) => {
            let revoked = revoke(&args.dir, &args.client, now)?;
            format!("{revoked}{}", args.next_step())
        }
        Command::Crl(args) => format!("written {}", update_crl(&args.dir, None, now)?.display()),
    };
    let output = |source| CertsError::Io { path: PathBuf::from("standard output"), source };
    writeln!(io::stdout(), "{message}").map_err(output)?;
    Ok(ExitCode::SUCCESS)
}

impl IssueArgs {
    /// The requested names; a policy can register each of them.
    fn names(&self) -> Result<Vec<San>, CertsError> {
        let uris = self.san_uri.iter().cloned().map(San::Uri);
        let dns = self.san_dns.iter().cloned().map(San::Dns);
        let emails = self.san_email.iter().cloned().map(San::Email);
        let ips = self.san_ip.iter().copied().map(San::Ip);
        let mut names: Vec<_> = uris.chain(dns).chain(emails).chain(ips).collect();
        if names.is_empty() {
            let configured = if self.trust_domain.is_none() {
                self.config.trust_domain().map_err(CertsError::Config)?
            } else {
                None
            };
            let trust_domain = self.trust_domain.clone().or(configured);
            names.push(spiffe_id(trust_domain.as_deref().unwrap_or("trust-domain.example"), &self.client));
        }
        names.iter().try_for_each(check_name)?;
        Ok(names)
    }
}

impl RevokeArgs {
    /// Empty if the configuration names the CRL already.
    fn next_step(&self) -> String {
        let crl = self.dir.join(CRL);
        let files = self.config.read().ok().flatten().and_then(|reading| reading.files);
        let same = |named: &PathBuf| fs::canonicalize(named).ok() == fs::canonicalize(&crl).ok();
        if files.is_some_and(|files| files.client_crls().iter().any(same)) {
            return String::new();
        }
        format!("; to enforce it, add to [tls] in writ.toml: client_crls = [{:?}]", crl.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn revoke_says_how_to_enforce_the_crl_unless_the_configuration_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join(CRL), "").unwrap();
        let args = |config: &std::path::Path| {
            let config = OptionalConfig { config: Some(config.to_owned()) };
            RevokeArgs { dir: dir.to_owned(), client: "two".parse().unwrap(), config }
        };
        let config = dir.join("writ.toml");
        fs::write(&config, "[tls]\nclient_crls = [\"ca.crl.pem\"]\n").unwrap();
        assert_eq!(args(&config).next_step(), "");
        fs::write(&config, "").unwrap();
        assert!(args(&config).next_step().contains("ca.crl.pem\"]"), "{}", args(&config).next_step());
    }
}
