//! A Writ of its own for each test: configured in a temporary folder, started as a process, watched and stopped.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;
use tempfile::TempDir;
use toml::{Table, Value as Toml};

use super::cli::{self, Output};
use super::http::{Connection, Response};
use super::issuer::{AUDIENCE, Issuer};
use super::pki::{self, Ca, Credentials};
use super::workload::{self, Workload};
use super::{DEADLINE, ISSUER, TRUST_DOMAIN, eventually};

/// A configuration in a folder, not running yet.
pub(crate) struct Setup {
    folder: TempDir,
    settings: Table,
    environment: Vec<(String, String)>,
    /// The authority of clients and server.
    pub(crate) ca: Ca,
}

impl Setup {
    /// Listeners on free ports, fresh certificates, an empty policy folder; all else as shipped.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let ca = Ca::root("clients and servers");
        let setup = Self { folder, settings: defaults(), environment: Vec::new(), ca };
        let server = setup.ca.issue(pki::server());
        setup.write("certs/ca.pem", &setup.ca.pem());
        setup.write("certs/server.pem", &server.certificate_pem);
        setup.write("certs/server.key", &server.key_pem);
        setup.write("certs/sealing.key", &sealing_key());
        fs::create_dir_all(setup.path("policies")).unwrap();
        setup
    }

    /// Sets `section.key` (or a top-level key) of `writ.toml`.
    pub(crate) fn set(mut self, name: &str, value: impl Into<Toml>) -> Self {
        self.change(name, value);
        self
    }

    /// The same for a service that was started; it counts from the next start.
    pub(crate) fn change(&mut self, name: &str, value: impl Into<Toml>) {
        let (table, key) = match name.split_once('.') {
            None => (&mut self.settings, name),
            Some((section, key)) => {
                (self.settings.entry(section).or_insert_with(|| Toml::Table(Table::new())).as_table_mut().unwrap(), key)
            }
        };
        table.insert(key.to_owned(), value.into());
    }

    /// Leaves `section.key` (or a top-level key) out of `writ.toml`.
    pub(crate) fn unset(&mut self, name: &str) {
        match name.split_once('.') {
            None => drop(self.settings.remove(name)),
            Some((section, key)) => drop(self.settings[section].as_table_mut().unwrap().remove(key)),
        }
    }

    /// Keys that live for seconds: signing for `rotation` of them, published and retained accordingly.
    pub(crate) fn short_keys(self, rotation: u32) -> Self {
        self.set("tokens.lifetime", "1s")
            .set("tokens.max_lifetime", "2s")
            .set("tokens.jwks_max_age", "1s")
            .set("keys.rotation_period", format!("{rotation}s"))
    }

    /// The same with the shortest periods that are possible: a second for tokens and for caches, so that keys can be
    /// promoted every two seconds.
    pub(crate) fn shortest_keys(self, rotation: u32) -> Self {
        self.short_keys(rotation).set("tokens.max_lifetime", "1s")
    }

    /// Sets an environment variable of the process.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A client known by the SPIFFE ID that [`spiffe_id`] gives, with this rest of its policy.
    pub(crate) fn client(self, id: &str, policy: &str) -> Self {
        self.policy(&format!("{id}.toml"), &client_policy(id, policy))
    }

    /// A file in the policy folder.
    pub(crate) fn policy(self, file: &str, text: &str) -> Self {
        self.write(&format!("policies/{file}"), text);
        self
    }

    /// A subject issuer whose access tokens are accepted.
    pub(crate) fn issuer(self, issuer: &Issuer) -> Self {
        self.issuer_with(issuer, |_| {})
    }

    /// The same with its table changed.
    pub(crate) fn issuer_with(mut self, issuer: &Issuer, change: impl FnOnce(&mut Table)) -> Self {
        let file = format!("certs/issuer-{}.pem", issuer.url().rsplit(':').next().unwrap());
        self.write(&file, &issuer.ca_pem());
        let mut table = Table::new();
        table.insert("issuer".into(), issuer.url().into());
        table.insert("jwks_uri".into(), issuer.jwks_uri().into());
        table.insert("audience".into(), vec![AUDIENCE].into());
        table.insert("algorithms".into(), vec!["ES256", "RS256"].into());
        table.insert("ca".into(), file.into());
        change(&mut table);
        let issuers = self.settings.entry("subject_issuer").or_insert_with(|| Toml::Array(Vec::new()));
        issuers.as_array_mut().unwrap().push(Toml::Table(table));
        self
    }

    /// A file with that content and mode 0600 in a folder with mode 0700; complete at the moment it appears.
    pub(crate) fn write(&self, file: &str, content: &str) {
        write_private(&self.path(file), content);
    }

    /// A path inside the folder.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// A certificate for the client of that id.
    pub(crate) fn credentials(&self, id: &str) -> Credentials {
        let mut params = pki::client(id);
        params.subject_alt_names = vec![pki::uri(&spiffe_id(id))];
        self.ca.issue(params)
    }

    /// Writes `writ.toml` and runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        cli::run(self.command(arguments))
    }

    /// Starts the service and waits until it is ready.
    pub(crate) fn start(self) -> Writ {
        let site =
            Arc::new(Site { endpoints: RwLock::new(None), ca: Ca::pem(&self.ca), answered: Mutex::new(Vec::new()) });
        let mut writ = Writ { setup: self, site, process: None, log: Vec::new(), is_log_closed: false };
        writ.start();
        writ
    }

    /// Writes `writ.toml` and prepares a command.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.write("writ.toml", &toml::to_string(&self.settings).expect("TOML"));
        let mut command = cli::command(self.folder.path());
        command.args(arguments).envs(self.environment.iter().cloned());
        command
    }
}

/// Where a running service is, and what it has answered.
pub(crate) struct Site {
    endpoints: RwLock<Option<Endpoints>>,
    /// The authority that vouches for its server.
    pub(crate) ca: String,
    /// Request ids of every answer of the endpoints that is JSON: each must be in the audit log once.
    answered: Mutex<Vec<String>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoints {
    pub(crate) exchange: SocketAddr,
    pub(crate) discovery: Option<SocketAddr>,
    pub(crate) ops: Option<SocketAddr>,
}

impl Endpoints {
    fn of(ready: &Value) -> Self {
        let address = |name: &str| ready[name].as_str().and_then(|text| text.parse().ok());
        let exchange = address("exchange").unwrap_or_else(|| panic!("no address in {ready}"));
        Self { exchange, discovery: address("discovery"), ops: address("ops") }
    }
}

impl Site {
    /// The addresses in the line with `event` = `ready`.
    pub(crate) fn of(ready: &Value, ca: &Ca) -> Arc<Self> {
        let endpoints = RwLock::new(Some(Endpoints::of(ready)));
        Arc::new(Self { endpoints, ca: Ca::pem(ca), answered: Mutex::new(Vec::new()) })
    }

    /// The addresses of the running service.
    pub(crate) fn endpoints(&self) -> Endpoints {
        self.endpoints.read().unwrap().expect("the service runs")
    }

    /// Records the answer of an endpoint: its request must be in the audit log.
    pub(crate) fn note(&self, response: &Response) {
        if let Some(id) = response.header("x-request-id") {
            self.answered.lock().unwrap().push(id.to_owned());
        }
    }

    /// `GET` on the discovery listener.
    pub(crate) fn discover(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.try_discover(path, headers).expect("discovery answers")
    }

    /// The same where the service may be dead.
    pub(crate) fn try_discover(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
        let address = self.endpoints().discovery.expect("a discovery listener");
        try_get(&mut Connection::tls(address, &workload::tls_config(&self.ca, None))?, "GET", path, headers)
    }

    pub(crate) fn jwks(&self) -> Vec<Value> {
        let response = self.discover("/.well-known/jwks.json", &[]);
        assert_eq!(response.status, 200);
        response.json()["keys"].as_array().expect("a JWK set").clone()
    }

    /// `GET` on the ops listener.
    pub(crate) fn ops(&self, path: &str) -> Response {
        self.try_ops(path).expect("ops answers")
    }

    /// The same where the service may be dead.
    pub(crate) fn try_ops(&self, path: &str) -> io::Result<Response> {
        let address = self.endpoints().ops.expect("an ops listener");
        try_get(&mut Connection::plain(address)?, "GET", path, &[])
    }
}

/// A request without a body.
pub(crate) fn get(connection: &mut Connection, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    try_get(connection, method, path, headers).expect("an answer")
}

fn try_get(connection: &mut Connection, method: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        write!(request, "{name}: {value}\r\n").expect("a string takes it");
    }
    connection.send(format!("{request}\r\n").as_bytes())?;
    connection.receive_for(method)
}

/// A service that was started.
pub(crate) struct Writ {
    /// Its configuration; what is changed here counts from the next start or reload.
    pub(crate) setup: Setup,
    site: Arc<Site>,
    process: Option<Process>,
    /// Every line of processes that have ended.
    log: Vec<String>,
    /// Its output was cut off, so that not every answer can be found in it.
    is_log_closed: bool,
}

struct Process {
    child: Child,
    lines: Arc<Lines>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Lines {
    /// The lines so far, and whether there will be no more.
    held: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
    /// Reading stops after the next line.
    is_log_closed: AtomicBool,
}

impl Writ {
    /// Starts the service on its folder; it must not be running.
    pub(crate) fn start(&mut self) {
        self.try_start(|_| {}).expect("the service becomes ready");
    }

    /// From now on no file of the service grows, or has no such limit any more.
    pub(crate) fn fill_disk(&self, is_full: bool) {
        let pid = Pid::from_child(&self.process.as_ref().expect("it runs").child);
        let maximum = getrlimit(Resource::Fsize).maximum;
        let current = if is_full { Some(1) } else { maximum };
        prlimit(Some(pid), Resource::Fsize, Rlimit { current, maximum }).expect("a child of ours");
    }

    /// Starts the service with a command that `change` has prepared. It may end instead: then its exit code, -1 after a
    /// signal.
    pub(crate) fn try_start(&mut self, change: impl FnOnce(&mut Command)) -> Result<(), i32> {
        let mut command = self.setup.command(&["serve"]);
        change(&mut command);
        if self.try_spawn(command) { Ok(()) } else { Err(self.wait_for_exit()) }
    }

    /// Whether it became ready.
    fn try_spawn(&mut self, mut command: Command) -> bool {
        assert!(self.process.is_none(), "it runs already");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the executable starts");
        let lines = Arc::new(Lines::default());
        let readers = vec![
            follow(child.stdout.take().expect("piped"), &lines, true),
            follow(child.stderr.take().expect("piped"), &lines, false),
        ];
        self.process = Some(Process { child, lines, readers });
        let process = self.process.as_ref().expect("it was started");
        let Some(ready) = process.lines.wait(0, &|line| line["event"] == "ready") else { return false };
        *self.site.endpoints.write().unwrap() = Some(Endpoints::of(&ready));
        true
    }

    /// The service as its clients see it.
    pub(crate) fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// A client with a fresh certificate for its SPIFFE ID.
    pub(crate) fn workload(&self, id: &str) -> Workload {
        self.workload_with(&self.setup.credentials(id))
    }

    pub(crate) fn workload_with(&self, credentials: &Credentials) -> Workload {
        Workload::new(&self.site, Some(credentials))
    }

    /// A client without a certificate.
    pub(crate) fn anonymous(&self) -> Workload {
        Workload::new(&self.site, None)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").child.id()
    }

    /// `SIGKILL`, and the end of the process.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.child.kill().expect("a child of ours");
            process.child.wait().expect("a child of ours");
            self.log.extend(process.into_lines());
        }
    }

    /// `SIGTERM`, and the exit code once the process has ended.
    pub(crate) fn terminate(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.wait_for_exit()
    }

    /// The exit code of a process that ends by itself.
    pub(crate) fn wait_for_exit(&mut self) -> i32 {
        let mut process = self.process.take().expect("it runs");
        let status = eventually("the service stops", || process.child.try_wait().expect("a child of ours"));
        self.log.extend(process.into_lines());
        status.code().unwrap_or(-1)
    }

    /// Stops the service as an operator would and starts it again.
    pub(crate) fn restart(&mut self) {
        assert_eq!(self.terminate(), 0, "a drained stop exits 0");
        self.start();
    }

    pub(crate) fn hup(&self) {
        self.signal(Signal::HUP);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(&process.child), signal).expect("a child of ours");
    }

    /// Closes the reading end of the log as soon as one more line has come.
    pub(crate) fn close_log(&mut self) {
        self.is_log_closed = true;
        self.process.as_ref().expect("it runs").lines.is_log_closed.store(true, Ordering::SeqCst);
    }

    /// Changes the policies of a client and returns once they are in force.
    pub(crate) fn change_client(&self, id: &str, policy: &str) {
        self.change_policy(&format!("{id}.toml"), Some(&client_policy(id, policy)));
    }

    /// Writes or removes a policy file and returns once the new set is in force.
    pub(crate) fn change_policy(&self, file: &str, text: Option<&str>) {
        self.expect_event("policies_reloaded", || {
            let path = self.setup.path(&format!("policies/{file}"));
            match text {
                Some(text) => write_private(&path, text),
                None => fs::remove_file(path).unwrap(),
            }
            self.hup();
        });
    }

    /// Runs a command on the same configuration.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.setup.run(arguments)
    }

    /// What is done by `act` makes the service log this event.
    pub(crate) fn expect_event(&self, event: &str, act: impl FnOnce()) -> Value {
        self.expect_log(event, act, |line| line["event"] == event)
    }

    /// What is done by `act` makes the service log a line that `is_it` knows.
    pub(crate) fn expect_log(&self, what: &str, act: impl FnOnce(), is_it: impl Fn(&Value) -> bool) -> Value {
        let seen = self.process.as_ref().map_or(0, |process| process.lines.count());
        act();
        self.wait_for_log_after(seen, what, is_it)
    }

    /// The first line that `is_it` knows, once it is there.
    pub(crate) fn wait_for_log(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_log_after(0, what, is_it)
    }

    fn wait_for_log_after(&self, seen: usize, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let process = self.process.as_ref().expect("it runs");
        process.lines.wait(seen, &is_it).unwrap_or_else(|| panic!("no line in the log: {what}"))
    }

    /// The audit line of the request with this id, once it is there.
    pub(crate) fn audit_of(&self, request_id: &str) -> Value {
        self.wait_for_log("an audit line", |line| line["target"] == "audit" && line["request_id"] == request_id)
    }

    /// Every audit line so far, oldest first.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let running = self.process.iter().flat_map(|process| process.lines.all());
        let lines = self.log.iter().cloned().chain(running);
        lines
            .filter_map(|line| serde_json::from_str(&line).ok())
            .filter(|line: &Value| line["target"] == "audit")
            .collect()
    }

    /// Every line so far, of both streams.
    pub(crate) fn log_text(&self) -> String {
        let running = self.process.iter().flat_map(|process| process.lines.all());
        self.log.iter().cloned().chain(running).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn metrics(&self) -> String {
        self.site.ops("/metrics").text()
    }

    /// The value of a metric with these labels among others; `None` if there is none.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let text = self.metrics();
        text.lines().find_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (metric, given) = series.split_once('{').unwrap_or((series, ""));
            let fits = labels.iter().all(|(label, value)| given.contains(&format!("{label}=\"{value}\"")));
            (metric == name && fits).then(|| value.parse().ok())?
        })
    }

    /// The keys as `writ keys list` shows them.
    pub(crate) fn keys(&self) -> Vec<Value> {
        self.run(&["keys", "list", "--json"]).exits(0).json()["keys"].as_array().expect("keys").clone()
    }

    pub(crate) fn key_state(&self, kid: &str) -> Option<String> {
        let key = self.keys().into_iter().find(|key| key["kid"] == kid)?;
        key["state"].as_str().map(str::to_owned)
    }

    /// Promotes the next key as soon as that may be done.
    pub(crate) fn rotate(&self) {
        self.run(&["keys", "rotate", "--wait"]).exits(0);
    }

    /// What must hold for every log of every test: one JSON object a line, no token, no key, one audit line an answer.
    fn check_log(&self) {
        for line in &self.log {
            assert!(!holds_secret(line), "a secret in the log");
        }
        if self.is_log_closed {
            return;
        }
        let audited: Vec<String> =
            self.audit().iter().filter_map(|line| line["request_id"].as_str().map(str::to_owned)).collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for id in &audited {
            *counts.entry(id).or_default() += 1;
        }
        for id in self.site.answered.lock().unwrap().iter() {
            assert_eq!(counts.get(id.as_str()), Some(&1), "audit lines of request {id}");
        }
    }
}

impl Drop for Writ {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the service ---\n{}\n---", self.log.join("\n"));
        } else {
            self.check_log();
        }
    }
}

impl Process {
    /// What it wrote, once it has ended.
    fn into_lines(self) -> Vec<String> {
        for reader in self.readers {
            reader.join().expect("reads to the end");
        }
        self.lines.all()
    }
}

impl Lines {
    fn all(&self) -> Vec<String> {
        self.held.lock().unwrap().0.clone()
    }

    fn count(&self) -> usize {
        self.held.lock().unwrap().0.len()
    }

    /// The first line from `seen` on that `is_it` knows; `None` at the deadline or at the end of the output.
    fn wait(&self, seen: usize, is_it: &dyn Fn(&Value) -> bool) -> Option<Value> {
        let deadline = Instant::now() + DEADLINE;
        let mut next = seen;
        let mut held = self.held.lock().unwrap();
        loop {
            let fresh = held.0.iter().skip(next).filter_map(|line| serde_json::from_str(line).ok());
            if let Some(line) = fresh.into_iter().find(is_it) {
                return Some(line);
            }
            next = held.0.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            if held.1 {
                return None;
            }
            held = self.changed.wait_timeout(held, left).unwrap().0;
        }
    }
}

/// Collects the lines of a pipe; the end of the first one (standard output) is the end of the log.
fn follow(pipe: impl Read + Send + 'static, lines: &Arc<Lines>, is_log: bool) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            lines.held.lock().unwrap().0.push(line);
            lines.changed.notify_all();
            if is_log && lines.is_log_closed.load(Ordering::SeqCst) {
                break;
            }
        }
        if is_log {
            lines.held.lock().unwrap().1 = true;
            lines.changed.notify_all();
        }
    })
}

/// The SPIFFE ID of a client in these tests.
pub(crate) fn spiffe_id(id: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/{id}")
}

/// A policy file for a client with that SPIFFE ID.
pub(crate) fn client_policy(id: &str, policy: &str) -> String {
    format!("client_id = \"{id}\"\ntls_client_auth_san_uri = \"{}\"\n{policy}", spiffe_id(id))
}

/// A fresh sealing key, as its file holds it.
pub(crate) fn sealing_key() -> String {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    STANDARD.encode(bytes)
}

/// Whether a line holds a compact JWS or a private key.
fn holds_secret(line: &str) -> bool {
    let is_token = |word: &str| word.starts_with("eyJ") && word.bytes().filter(|&byte| byte == b'.').count() == 2;
    let words = line.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')));
    line.contains("PRIVATE KEY") || words.into_iter().any(is_token)
}

fn write_private(path: &Path, content: &str) {
    let folder = path.parent().expect("a folder");
    fs::create_dir_all(folder).unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    // Hidden, so that nothing that watches the folder takes it for complete.
    let hidden = folder.join(format!(".{}.new", path.file_name().unwrap().to_string_lossy()));
    fs::write(&hidden, content).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&hidden, path).unwrap();
}

fn defaults() -> Table {
    let text = format!(
        r#"
trust_domain = "{TRUST_DOMAIN}"
issuer = "{ISSUER}"
[listen]
exchange = "127.0.0.1:0"
discovery = "127.0.0.1:0"
ops = "127.0.0.1:0"
discovery_url = "https://localhost:8444"
[tls]
certificate = "certs/server.pem"
private_key = "certs/server.key"
client_ca = "certs/ca.pem"
[keys]
sealing_key = "certs/sealing.key"
[store]
path = "data"
[policies]
directory = "policies"
[limits]
drain_timeout = "5s"
"#
    );
    text.parse().expect("TOML")
}
