//! One trust domain for all servers: certificates, policies, an issuer of access tokens, and the servers themselves.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use crate::database::Postgres;
use crate::generator::Endpoint;
use crate::process::{Cores, Output, Process};
use crate::shared::over;
use crate::support::issuer::{AUDIENCE, Issuer};
use crate::support::jose::Key;
use crate::support::now;
use crate::support::workload;
use crate::support::writ::{Setup, client_policy};

/// The client that asks for most tokens.
pub(crate) const GATEWAY: &str = "gateway";

const GATEWAY_POLICY: &str = r#"
introspect = true

[[purpose]]
scope = "order.refund"
accept = ["access_token", "txn_token"]
granted_by = ["orders.write"]

[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials"]

[[purpose]]
scope = "account.purge"
accept = ["client_credentials"]

[[purpose]]
scope = "account.close"
accept = ["client_credentials"]
lifetime = "1s"
"#;

/// The client that redeems.
pub(crate) const PURGE_JOB: &str = "purge-job";

const PURGE_JOB_POLICY: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["expired_txn_token"]
[purpose.redemption]
issued_to = ["gateway"]
max_age = "1d"

[[purpose]]
scope = "account.close"
accept = ["expired_txn_token"]
[purpose.redemption]
issued_to = ["gateway"]
max_age = "1d"

[[purpose]]
scope = "archive.read"
accept = ["expired_txn_token"]
[purpose.redemption]
issued_to = ["gateway"]
max_age = "1d"
require_record = false
"#;

/// Of a client that only takes its place.
const OTHER_POLICY: &str = r#"
[[purpose]]
scope = "order.read"
accept = ["access_token"]
granted_by = ["orders.read"]

[[purpose]]
scope = "report.send"
accept = ["client_credentials"]
"#;

/// The servers that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Null,
    Ideal,
    Writ,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Ideal => "ideal",
            Self::Writ => "writ",
        }
    }
}

/// What all servers of a benchmark have in common.
pub(crate) struct Site {
    pub(crate) cores: Cores,
    pub(crate) setup: Setup,
    /// Signs with RS256.
    pub(crate) issuer: Arc<Issuer>,
    /// A key of the same issuer for ES256.
    pub(crate) es256: Arc<Key>,
    /// Whether the log goes to a file in any case.
    pub(crate) logs_to_file: bool,
}

/// A server that answers.
pub(crate) struct Server {
    pub(crate) process: Process,
    address: SocketAddr,
}

impl Site {
    /// A site whose Writ has `policies` policies.
    pub(crate) fn new(policies: usize, cores: Cores) -> Self {
        let issuer = Issuer::with_key(Key::rsa("issuer-rs256"));
        let es256 = Key::es256("issuer-es256");
        issuer.publish(&[issuer.key.jwk(), es256.jwk()]);
        Self::with_issuer(policies, cores, Arc::new(issuer), Arc::new(es256))
    }

    /// As many sites for instances of one service over these servers. It has the tables, and no key ring yet.
    pub(crate) fn over(servers: &Postgres, count: usize, policies: usize, cores: Cores) -> Vec<Self> {
        let first = Self::new(policies, cores);
        let sealing_key = fs::read_to_string(first.setup.path("certs/sealing.key")).expect("a sealing key");
        let mut sites = vec![first];
        while sites.len() < count {
            let (issuer, es256) = (Arc::clone(&sites[0].issuer), Arc::clone(&sites[0].es256));
            let other = Self::with_issuer(policies, cores, issuer, es256);
            other.setup.write("certs/sealing.key", &sealing_key);
            sites.push(other);
        }
        let sites: Vec<_> = sites.into_iter().map(|site| Self { setup: over(site.setup, servers), ..site }).collect();
        let owner = servers.password_file("writ_owner").display().to_string();
        sites[0].setup.run(&["store", "migrate", "--password-file", &owner]).exits(0);
        sites
    }

    fn with_issuer(policies: usize, cores: Cores, issuer: Arc<Issuer>, es256: Arc<Key>) -> Self {
        let keys = [issuer.key.jwk(), es256.jwk()];
        let mut setup = Setup::new()
            .environment("WRIT_LOG", "info")
            .issuer(&issuer)
            .client(GATEWAY, GATEWAY_POLICY)
            .client(PURGE_JOB, PURGE_JOB_POLICY);
        for number in 2..policies {
            // Half of them sort before the clients that are used, half after them.
            let side = if number % 2 == 0 { "a" } else { "z" };
            setup = setup.client(&format!("{side}-{number:05}"), OTHER_POLICY);
        }
        setup.write("issuer.jwks.json", &serde_json::json!({"keys": keys}).to_string());
        Self { cores, setup, issuer, es256, logs_to_file: false }
    }

    /// Changes a policy, to the same meaning.
    pub(crate) fn change_policy(&self) {
        let text = client_policy("changed", &format!("{OTHER_POLICY}\n# {}\n", now()));
        self.setup.write("policies/changed.toml", &text);
    }

    /// Starts a server, with an empty store.
    pub(crate) fn start(&self, kind: Kind) -> Server {
        match kind {
            Kind::Null => self.start_reference(&["null"], &[]),
            Kind::Ideal => {
                let jwks = self.setup.path("issuer.jwks.json");
                self.start_reference(&["ideal"], &[&jwks.to_string_lossy(), &self.issuer.url(), AUDIENCE])
            }
            Kind::Writ => {
                // Absent at the first start.
                let _ = fs::remove_dir_all(self.setup.path("data"));
                self.restart()
            }
        }
    }

    /// Starts Writ on the store that is there.
    pub(crate) fn restart(&self) -> Server {
        let mut command = self.setup.command(&["serve"]);
        if let Ok(executable) = std::env::var("BENCH_WRIT") {
            command = with_program(&command, &executable);
        }
        let address = |line: &str| {
            let ready: serde_json::Value = serde_json::from_str(line).expect("JSON");
            ready["exchange"].as_str().expect("an address").to_owned()
        };
        self.run("writ.log", command, |line| line.contains(r#""event":"ready""#), address)
    }

    fn start_reference(&self, mode: &[&str], rest: &[&str]) -> Server {
        let mut command = Command::new(reference());
        command.args(mode);
        command.args(["certs/server.pem", "certs/server.key", "certs/ca.pem"].map(|file| self.setup.path(file)));
        command.args(rest);
        self.run(
            &format!("{}.log", mode[0]),
            command,
            |line| line.starts_with("127.0.0.1:"),
            |line| line.trim().to_owned(),
        )
    }

    fn run(&self, log: &str, command: Command, is_ready: fn(&str) -> bool, address: fn(&str) -> String) -> Server {
        // In a folder of its own: the service watches that of its configuration.
        let logs = self.setup.path("logs");
        fs::create_dir_all(&logs).expect("a folder of the log");
        let log = logs.join(log);
        let to_file = self.logs_to_file || std::env::var("BENCH_LOG").is_ok_and(|to| to == "file");
        let output = if to_file { Output::File(&log) } else { Output::Pipe };
        let (process, ready) = Process::start(command, &output, self.cores, is_ready);
        Server { process, address: address(&ready).parse().expect("an address") }
    }

    /// The server as a client with a new certificate reaches it.
    pub(crate) fn endpoint(&self, server: &Server, client: &str) -> Endpoint {
        let tls = workload::tls_config(&self.setup.ca.pem(), Some(&self.setup.credentials(client)));
        Endpoint { address: server.address, tls }
    }
}

/// The same command with another executable.
fn with_program(command: &Command, program: &str) -> Command {
    let mut changed = Command::new(program);
    changed.args(command.get_args()).stdin(std::process::Stdio::null());
    if let Some(folder) = command.get_current_dir() {
        changed.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => changed.env(name, value),
            None => changed.env_remove(name),
        };
    }
    changed
}

/// `writ-reference`, built beside `writ`.
fn reference() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_BIN_EXE_writ")).with_file_name("writ-reference")
}
