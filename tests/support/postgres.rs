//! PostgreSQL for tests: one server, or a primary with two standbys and quorum commit. TLS 1.3 everywhere, the roles
//! `writ` and `writ_owner`, the empty database `writ`. Nodes can be killed, frozen, promoted and rebuilt.
//!
//! `tests/tools.sh` fetches the server. It refuses to run as root; there, its processes run as `nobody`, or, where that
//! account cannot reach `target/tools` or the temporary folder, in a user namespace in which root has another number.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::pki::{self, Ca, Credentials};

/// How long a server may take to start, to stop, or to follow another.
const DEADLINE: Duration = Duration::from_secs(60);
/// The roles that a service and its operator log in as.
const ROLES: [&str; 2] = ["writ", "writ_owner"];

/// The same on every node, so that a fail-over changes nothing here: a primary is no standby of itself.
const QUORUM: &str = "ANY 1 (n1, n2, n3)";

/// What differs from the defaults, and why.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''        # the path of a socket may have 107 bytes only
ssl = on
ssl_min_protocol_version = 'TLSv1.3'
ssl_ca_file = '../server/ca.pem'
ssl_cert_file = '../server/server.pem'
ssl_key_file = '../server/server.key'
wal_keep_size = 512MB               # a standby that comes back finds what it missed
wal_sender_timeout = 3s
wal_receiver_timeout = 3s
wal_retrieve_retry_interval = 100ms
tcp_keepalives_idle = 2
tcp_keepalives_interval = 1
tcp_keepalives_count = 3
tcp_user_timeout = 5000
max_connections = 200
shared_buffers = 64MB
dynamic_shared_memory_type = mmap   # needs no /dev/shm, which has 64 MB in a container
jit = off                           # then libllvm is never loaded
checkpoint_timeout = 15min
max_wal_size = 2GB
timezone = GMT                      # needs no tzdata
log_timezone = GMT
log_line_prefix = '%m [%p] %q%u@%d '
";

/// The servers of a test. Dropping it ends them and removes their data.
pub(crate) struct Postgres {
    folder: TempDir,
    nodes: Vec<Node>,
    primary: usize,
}

struct Node {
    name: String,
    port: u16,
    data: PathBuf,
    server: Option<Child>,
}

impl Postgres {
    /// One server without a standby. `None` where PostgreSQL could not be fetched: then the test is left out.
    pub(crate) fn single() -> Option<Self> {
        is_fetched().then(|| Self::start(1, ""))
    }

    /// A primary and two standbys; a commit waits until one standby has it on disk.
    pub(crate) fn cluster() -> Option<Self> {
        is_fetched().then(|| Self::start(3, QUORUM))
    }

    fn start(count: usize, synchronous_standbys: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let nodes = (1..=count).map(|number| Node::new(folder.path(), number)).collect();
        let mut cluster = Self { folder, nodes, primary: 0 };
        cluster.write_credentials();
        cluster.initialize(synchronous_standbys);
        for standby in 1..count {
            // The copy of a server that was never started is a backup of it.
            run(unprivileged("cp", cluster.path())
                .arg("-r")
                .arg(&cluster.nodes[0].data)
                .arg(&cluster.nodes[standby].data));
            cluster.point(standby, 0);
        }
        for node in 0..count {
            cluster.start_node(node);
        }
        cluster.wait_for_standbys();
        cluster.create_roles();
        cluster.wait_until_replayed();
        cluster
    }

    fn write_credentials(&self) {
        let ca = Ca::root("database servers and roles");
        for role in ROLES {
            let credentials = ca.issue(pki::client(role));
            self.write(&format!("{role}.pem"), &credentials.certificate_pem);
            self.write(&format!("{role}.key"), &credentials.key_pem);
            self.write(&format!("{role}.password"), &password());
        }
        self.write("ca.pem", &ca.pem());
        fs::create_dir(self.path().join("server")).unwrap();
        self.write("server/ca.pem", &ca.pem());
        let write = |name: &str, Credentials { certificate_pem, key_pem, .. }: &Credentials| {
            self.write(&format!("server/{name}.pem"), certificate_pem);
            self.write(&format!("server/{name}.key"), key_pem);
        };
        write("server", &ca.issue(pki::server()));
        write("postgres", &ca.issue(pki::client("postgres")));
        // The server reads only keys that are its own. The root of the folder is its own because it makes folders there.
        if let Some((user, group)) = nobody() {
            let of_server = fs::read_dir(self.path().join("server")).unwrap().map(|entry| entry.unwrap().path());
            for path in of_server.chain([self.path().join("server"), self.path().to_owned()]) {
                chown(path, Some(user), Some(group)).unwrap();
            }
        }
    }

    fn write(&self, file: &str, content: &str) {
        let path = self.path().join(file);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn initialize(&self, synchronous_standbys: &str) {
        let data = &self.nodes[0].data;
        let arguments = ["--username=postgres", "--auth=reject", "--locale=C", "--encoding=UTF8", "--no-sync"];
        run(unprivileged(&program("initdb"), self.path()).args(arguments).arg(data));
        let mut settings = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        writeln!(settings, "{SETTINGS}synchronous_standby_names = '{synchronous_standbys}'").unwrap();
        fs::write(data.join("pg_hba.conf"), access("scram-sha-256")).unwrap();
    }

    fn create_roles(&self) {
        for role in ROLES {
            let password = fs::read_to_string(self.password_file(role)).unwrap();
            self.sql_in("postgres", self.primary, &[&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'")]);
        }
        self.sql_in("postgres", self.primary, &["CREATE DATABASE writ OWNER writ_owner"]);
        self.sql("REVOKE ALL ON DATABASE writ FROM PUBLIC; GRANT CONNECT ON DATABASE writ TO writ; REVOKE ALL ON SCHEMA public FROM PUBLIC");
    }

    /// How the two roles prove who they are from now on, as `pg_hba.conf` says it: `scram-sha-256` (as started), `cert`, or
    /// `scram-sha-256 clientcert=verify-full`.
    pub(crate) fn authenticate(&self, method: &str) {
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.server.is_some()) {
            fs::write(node.data.join("pg_hba.conf"), access(method)).unwrap();
            self.sql_on(index, "SELECT pg_reload_conf()");
        }
    }

    /// The URL of the database for that role, with every node in it.
    pub(crate) fn url(&self, role: &str) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("postgresql://{role}@{}/writ", hosts.join(","))
    }

    /// The ports of the nodes, on 127.0.0.1.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// The authority that signed the certificates of servers and roles.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// The file with the certificate of a role.
    pub(crate) fn certificate(&self, role: &str) -> PathBuf {
        self.path().join(format!("{role}.pem"))
    }

    /// The file with the private key of a role.
    pub(crate) fn private_key(&self, role: &str) -> PathBuf {
        self.path().join(format!("{role}.key"))
    }

    /// The file with the password of a role.
    pub(crate) fn password_file(&self, role: &str) -> PathBuf {
        self.path().join(format!("{role}.password"))
    }

    /// What a node has logged.
    pub(crate) fn log(&self, node: usize) -> String {
        fs::read_to_string(self.log_file(node)).unwrap_or_default()
    }

    /// Runs SQL on the primary as superuser, in the database `writ`; fields are separated by `|`, rows by lines.
    pub(crate) fn sql(&self, statement: &str) -> String {
        self.sql_on(self.primary, statement)
    }

    /// The same on any node.
    pub(crate) fn sql_on(&self, node: usize, statement: &str) -> String {
        self.sql_in("writ", node, &[statement])
    }

    /// SQL on the primary as superuser, which may fail or be interrupted.
    pub(crate) fn try_sql(&self, statement: &str) {
        let _ = self.psql("writ", self.primary, &[statement]).stdin(Stdio::null()).output();
    }

    /// Each statement is a transaction of its own.
    fn sql_in(&self, database: &str, node: usize, statements: &[&str]) -> String {
        String::from_utf8(run(&mut self.psql(database, node, statements)).stdout).unwrap().trim_end().to_owned()
    }

    fn psql(&self, database: &str, node: usize, statements: &[&str]) -> Command {
        let mut psql = command(&program("psql"), self.path());
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", &self.connection(node, database)]);
        for statement in statements {
            psql.args(["-c", statement]);
        }
        psql
    }

    /// How the superuser reaches a node.
    fn connection(&self, node: usize, database: &str) -> String {
        let (port, server) = (self.nodes[node].port, self.path().join("server"));
        let server = server.display();
        format!(
            "host=127.0.0.1 port={port} user=postgres dbname={database} connect_timeout=5 sslmode=verify-full \
             sslrootcert={server}/ca.pem sslcert={server}/postgres.pem sslkey={server}/postgres.key"
        )
    }

    /// One of PostgreSQL's own clients that talks to the primary in that role.
    pub(crate) fn client(&self, name: &str, role: &str) -> Command {
        let mut client = command(&program(name), self.path());
        client.envs([("PGHOST", "127.0.0.1"), ("PGDATABASE", "writ"), ("PGUSER", role), ("PGSSLMODE", "verify-full")]);
        client.env("PGPORT", self.nodes[self.primary].port.to_string()).env("PGSSLROOTCERT", self.ca());
        client.env("PGPASSWORD", fs::read_to_string(self.password_file(role)).unwrap());
        client
    }

    /// The process of a node that started all its others.
    pub(crate) fn process(&self, node: usize) -> u32 {
        self.nodes[node].server.as_ref().expect("it runs").id()
    }

    /// The node that accepts writes.
    pub(crate) fn primary(&self) -> usize {
        self.primary
    }

    /// The other nodes.
    pub(crate) fn standbys(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| *node != self.primary).collect()
    }

    /// Kills a node as if its machine had lost power: all its processes at one instant.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Kills the primary as if its machine had lost power.
    pub(crate) fn kill_primary(&mut self) {
        self.kill(self.primary);
    }

    /// Kills every standby: from now on commits wait.
    pub(crate) fn kill_standbys(&mut self) {
        for standby in self.standbys() {
            self.kill(standby);
        }
    }

    /// Starts a killed node again as what it was, with the data it had: also a primary, whatever became of the others.
    pub(crate) fn restart(&mut self, node: usize) {
        self.start_node(node);
    }

    /// Freezes a node: its connections stay open and nothing answers.
    pub(crate) fn pause(&self, node: usize) {
        self.nodes[node].signal(&[Signal::STOP]);
    }

    /// Ends [`Self::pause`].
    pub(crate) fn resume(&self, node: usize) {
        self.nodes[node].signal(&[Signal::CONT]);
    }

    /// Makes the standby that has most the primary, and the other one follow it; the old primary may be dead, frozen or
    /// alive. Returns the new primary.
    ///
    /// Both standbys must answer: each commit is on two of the three nodes, so that one standby alone may lack some. They
    /// are cut from the old primary *before* they are compared: otherwise it could go on with one of them as its quorum
    /// and acknowledge what the other, promoted, never gets.
    pub(crate) fn fail_over(&mut self) -> usize {
        let standbys = self.standbys();
        for standby in &standbys {
            self.sql_in("writ", *standby, &["ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"]);
        }
        for standby in &standbys {
            wait("a standby lets go of the old primary", || {
                self.sql_on(*standby, "SELECT count(*) FROM pg_stat_wal_receiver") == "0"
            });
        }
        let received = |standby: &&usize| -> u64 {
            let position = "greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'";
            self.sql_on(**standby, &format!("SELECT {position}")).parse().expect("a position in the log")
        };
        let promoted = *standbys.iter().max_by_key(received).expect("a cluster has standbys");
        assert_eq!(self.sql_on(promoted, "SELECT pg_promote(true, 60)"), "t", "the promotion");
        self.primary = promoted;
        for standby in standbys.into_iter().filter(|standby| *standby != promoted) {
            let follow = format!("ALTER SYSTEM SET primary_conninfo = '{}'", self.connection(promoted, "postgres"));
            self.sql_in("writ", standby, &[&follow, "SELECT pg_reload_conf()"]);
        }
        promoted
    }

    /// Makes every node that does not follow the primary (dead, replaced or left behind) a fresh standby of it.
    pub(crate) fn rejoin(&mut self) {
        let following = self.following();
        for node in self.standbys() {
            if following.contains(&self.nodes[node].name) {
                continue;
            }
            self.nodes[node].kill();
            fs::remove_dir_all(&self.nodes[node].data).unwrap();
            let mut backup = unprivileged(&program("pg_basebackup"), self.path());
            backup.args(["--checkpoint=fast", "--no-sync", "--dbname", &self.connection(self.primary, "postgres")]);
            run(backup.arg("--pgdata").arg(&self.nodes[node].data));
            self.point(node, self.primary);
            self.start_node(node);
        }
        self.wait_for_standbys();
    }

    /// The names of the nodes that follow the primary.
    fn following(&self) -> Vec<String> {
        let names = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'";
        self.sql_in("postgres", self.primary, &[names]).lines().map(str::to_owned).collect()
    }

    /// Returns when every standby follows the primary.
    pub(crate) fn wait_for_standbys(&self) {
        let standbys = self.nodes.len() - 1;
        wait("the standbys follow the primary", || self.following().len() == standbys);
    }

    /// A commit waits for one standby; on another, the database may not exist yet.
    fn wait_until_replayed(&self) {
        let standbys = self.nodes.len() - 1;
        let end = self.sql("SELECT pg_current_wal_lsn()");
        let replayed = format!("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '{end}'");
        wait("the standbys have replayed what the primary has", || self.sql(&replayed) == standbys.to_string());
    }

    /// Lets a node that is not running follow another when it starts.
    fn point(&self, node: usize, primary: usize) {
        let data = &self.nodes[node].data;
        let settings = format!("primary_conninfo = '{}'\n", self.connection(primary, "postgres"));
        for (file, content) in [("postgresql.auto.conf", settings.as_str()), ("standby.signal", "")] {
            fs::write(data.join(file), content).unwrap();
            if let Some((user, group)) = nobody() {
                chown(data.join(file), Some(user), Some(group)).unwrap();
            }
        }
    }

    fn start_node(&mut self, node: usize) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file(node)).unwrap();
        let mut server = unprivileged(&program("postgres"), self.path());
        let Node { name, port, data, .. } = &self.nodes[node];
        // On the command line, because standbys are copies of the primary with its configuration.
        server.arg("-D").arg(data).args(["-p", &port.to_string(), "-c", &format!("cluster_name={name}")]);
        server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = server.spawn().unwrap();
        let lock = data.join("postmaster.pid");
        wait("a server starts", || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{name} ended: {ended:?}\n{}", self.log(node));
            let state =
                fs::read_to_string(&lock).unwrap_or_default().lines().nth(7).unwrap_or_default().trim().to_owned();
            state == "ready" || state == "standby"
        });
        self.nodes[node].server = Some(child);
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn log_file(&self, node: usize) -> PathBuf {
        self.path().join(format!("{}.log", self.nodes[node].name))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
    }
}

impl Node {
    fn new(folder: &Path, number: usize) -> Self {
        let name = format!("n{number}");
        Self { data: folder.join(&name), name, port: free_port(), server: None }
    }

    /// Sends signals to all processes of the server; the first one stops before the others are listed, since it starts them.
    fn signal(&self, signals: &[Signal]) {
        let Some(server) = &self.server else { return };
        let first = Pid::from_child(server);
        kill_process(first, Signal::STOP).unwrap();
        let children = children(first);
        for signal in signals {
            for process in children.iter().chain([&first]) {
                let _ = kill_process(*process, *signal); // it may have ended by itself
            }
        }
    }

    fn kill(&mut self) {
        if self.server.is_none() {
            return;
        }
        // A process that saw another die could still answer a client.
        self.signal(&[Signal::STOP, Signal::KILL]);
        if let Some(mut server) = self.server.take() {
            server.wait().unwrap();
        }
        // A machine that lost power forgets its shared memory; and the number in the file may be another's by now.
        let lock = self.data.join("postmaster.pid");
        let text = fs::read_to_string(&lock).unwrap_or_default();
        if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            let _ = Command::new("ipcrm").args(["--shmem-id", id]).stderr(Stdio::null()).status();
        }
        let _ = fs::remove_file(lock);
    }
}

/// The processes started by another one. Each backend has a process group of its own.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let child = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let of = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        if Pid::from_raw(of) == Some(parent) { Pid::from_raw(id) } else { None }
    };
    processes.filter_map(child).collect()
}

/// Who may log in how: the superuser and the standbys with the superuser's certificate.
fn access(method: &str) -> String {
    format!(
        "hostssl all postgres 127.0.0.1/32 cert\n\
         hostssl replication postgres 127.0.0.1/32 cert\n\
         hostssl writ {} 127.0.0.1/32 {method}\n",
        ROLES.join(",")
    )
}

fn password() -> String {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    format!("{:032x}", u128::from_le_bytes(bytes))
}

/// A port that is free now, out of the range that the system gives to clients: a killed server finds it free again.
fn free_port() -> u16 {
    for _ in 0..100 {
        let mut bytes = [0_u8; 2];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        let port = 10_000 + u16::from_le_bytes(bytes) % 20_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Where `tests/tools.sh` puts PostgreSQL, seen from this package or one below it.
fn tools() -> Option<PathBuf> {
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    packages.map(|folder| folder.join("target/tools/postgres")).find(|path| path.exists())
}

fn is_fetched() -> bool {
    let is_fetched = tools().is_some();
    if !is_fetched {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "skipped: PostgreSQL is missing");
        println!("skipped: PostgreSQL is missing (tests/tools.sh)");
    }
    is_fetched
}

fn program(name: &str) -> String {
    let tools = tools().expect("checked by is_fetched");
    tools.join("usr/lib/postgresql/15/bin").join(name).display().to_string()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// The account that replaces root, if it can reach all files: its user and group.
fn nobody() -> Option<(u32, u32)> {
    static NOBODY: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *NOBODY.get_or_init(|| {
        if !is_root() {
            return None;
        }
        let accounts = fs::read_to_string("/etc/passwd").ok()?;
        let account = accounts.lines().find(|line| line.starts_with("nobody:"))?;
        let mut numbers = account.split(':').skip(2).map(|number| number.parse().ok());
        let (user, group) = (numbers.next()??, numbers.next()??);
        let reaches = |path: &Path| {
            let mut test = Command::new("setpriv");
            test.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups", "test", "-x"]);
            test.arg(path).status().is_ok_and(|status| status.success())
        };
        (reaches(Path::new(&program("postgres"))) && reaches(&std::env::temp_dir())).then_some((user, group))
    })
}

/// A command that finds its libraries, and nothing else, in its environment.
fn command(program: &str, folder: &Path) -> Command {
    let tools = tools().expect("checked by is_fetched");
    let libraries: Vec<_> = ["usr/lib", "lib"]
        .iter()
        .flat_map(|lib| fs::read_dir(tools.join(lib)).into_iter().flatten().flatten())
        .map(|entry| entry.path().display().to_string())
        .filter(|path| path.ends_with("-linux-gnu"))
        .collect();
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LD_LIBRARY_PATH", libraries.join(":"));
    command.env("LC_ALL", "C").env("HOME", folder).current_dir(folder);
    command
}

/// The same without root's rights.
fn unprivileged(program: &str, folder: &Path) -> Command {
    if !is_root() {
        return command(program, folder);
    }
    if let Some((user, group)) = nobody() {
        let mut command = command("setpriv", folder);
        command.args([&format!("--reuid={user}"), &format!("--regid={group}"), "--clear-groups", program]);
        return command;
    }
    let mut command = command("unshare", folder);
    command.args(["--user", "--map-user=65534", "--map-group=65534", program]);
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < DEADLINE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
