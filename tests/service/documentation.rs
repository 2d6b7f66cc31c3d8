//! Pages of `docs/`: the tutorial and the list of mistakes are run as they are written, and what the requirements want
//! documented is there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::scene::MAILER;
use crate::support::cli::{self, Output};
use crate::support::pki;
use crate::support::writ::{Setup, Writ};

const GETTING_STARTED: &str = include_str!("../../docs/tutorial/getting-started.md");
const TROUBLESHOOTING: &str = include_str!("../../docs/how-to/troubleshoot.md");

/// The blocks of that language, in order.
fn blocks<'a>(page: &'a str, language: &'a str) -> impl Iterator<Item = &'a str> {
    let opening = format!("```{language}\n");
    let mut rest = page;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&opening)?;
        let (block, after) = after.split_once("```")?;
        rest = after;
        Some(block)
    })
}

/// The text with other ports where the usual ones are in use.
struct Ports(Vec<(&'static str, String)>);

impl Ports {
    fn free() -> Self {
        let mut held = Vec::new();
        let mut port = |usual: &'static str| {
            let usual_port: u16 = usual.parse().unwrap();
            let listener =
                TcpListener::bind(("0.0.0.0", usual_port)).or_else(|_| TcpListener::bind("0.0.0.0:0")).unwrap();
            let chosen = listener.local_addr().unwrap().port().to_string();
            held.push(listener);
            (usual, chosen)
        };
        Self(["8443", "8444", "9464"].map(&mut port).into())
    }

    fn put(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (usual, chosen)| text.replace(usual, chosen))
    }
}

fn shell(script: &str, folder: &Path) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_writ"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-euc", script]).current_dir(folder).env("PATH", path).env_remove("WRIT_CONFIG").stdin(Stdio::null());
    command
}

/// Ends the service with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From an empty folder to a token, every command as it is written.
#[test]
fn the_tutorial_leads_from_an_empty_folder_to_a_token() {
    let started = Instant::now();
    let folder = TempDir::new().unwrap();
    let ports = Ports::free();
    let (mut home, mut service) = (folder.path().to_owned(), None);
    let mut outputs = Vec::new();
    for block in blocks(GETTING_STARTED, "sh") {
        let script = ports.put(block);
        if script.starts_with("writ serve") {
            let mut child = shell(&format!("exec {script}"), &home).stdout(Stdio::piped()).spawn().unwrap();
            let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
            service = Some(Service(child));
            let ready = log.by_ref().any(|line| line.unwrap().contains("all listeners accept"));
            assert!(ready, "the service ended");
            std::thread::spawn(move || log.for_each(drop));
            continue;
        }
        outputs.push(cli::run(shell(&script, &home)).exits(0).stdout);
        if script.contains("cd my-writ") {
            home.push("my-writ");
            let config = home.join("writ.toml");
            fs::write(&config, ports.put(&fs::read_to_string(&config).unwrap())).unwrap();
        }
    }
    assert!(service.is_some());
    let said = outputs.join("\n");
    for expected in [
        "policies    batch-job",
        "allowed: the token would say",
        "3 passed, 0 failed",
        "\nok\n",
        "valid until",
        "\"access_token\"",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(started.elapsed() < Duration::from_secs(300), "{:?}", started.elapsed());
}

/// What `writ init` prints works too.
#[test]
fn the_next_steps_that_init_prints_work() {
    let folder = TempDir::new().unwrap();
    let said = cli::run(shell("writ init 'my set-up' --trust-domain corp.example", folder.path())).exits(0).stdout;
    let printed: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    let serve = printed.iter().position(|line| line.ends_with("writ serve")).unwrap();
    let before = printed[..serve].join("\n");
    cli::run(shell(&before, folder.path())).exits(0).says("3 passed, 0 failed").says("\nok\n");
    let request = printed[serve + 1..].join("\n");
    // No service listens there, or another one: no token, but correct usage.
    cli::run(shell(&request, &folder.path().join("my set-up"))).exits(1);
}

/// One mistake of the page: the section's title, and what the command says.
fn mistakes() -> Vec<(&'static str, Output, String)> {
    let mut all = Vec::new();
    let mut note = |title, output: Output, setup: &Setup| {
        let folder = setup.path("").display().to_string();
        all.push((title, output, folder));
    };
    let good = || Setup::new().client("mailer", MAILER).set("tls.certificate", "certs/server.pem");

    let setup = good();
    let mut params = pki::server();
    params.subject_alt_names = vec![pki::dns("tts.corp.example")];
    let server = setup.ca.issue(params);
    setup.write("certs/server.pem", &server.certificate_pem);
    setup.write("certs/server.key", &server.key_pem);
    note("The server's certificate is for another name", setup.run(&["check"]), &setup);

    let setup = good();
    setup.write("certs/server.key", &setup.ca.issue(pki::server()).key_pem);
    note("The private key belongs to another certificate", setup.run(&["check"]), &setup);

    let setup = good().set("tls.private_key", "certs/server.key");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    setup.write("certs/server.key", encrypted);
    note("The private key has a password", setup.run(&["check"]), &setup);

    let setup = good().set("tls.private_key", "certs/server.key");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(setup.path("certs/server.key"), mode).unwrap();
    note("Others can read the private key", setup.run(&["check"]), &setup);

    let setup = Setup::new();
    setup.write("policies/mailer.yaml", "client_id: mailer\n");
    note("The policies are YAML, or there are none", setup.run(&["check"]), &setup);

    let setup = good().client("reporter", "[[purpose]]\nscop = \"report.create\"\naccept = [\"client_credentials\"]\n");
    note("A key of a policy is misspelt", setup.run(&["check"]), &setup);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = good().set("listen.exchange", address.clone());
    let mut busy = setup.run(&["serve"]);
    busy.stderr = busy.stderr.replace(&address, "127.0.0.1:8443");
    note("The port is taken", busy, &setup);

    let writ = good().client("stranger", "").start();
    fs::remove_file(writ.setup.path("policies/stranger.toml")).unwrap();
    writ.wait_for_log("the client is gone", |line| line["event"] == "policies_reloaded");
    note(
        "No policy knows the client's certificate",
        ask(&writ, &writ.setup.ca, "certs/ca.pem", "stranger", "mailbox.deliver"),
        &writ.setup,
    );
    note(
        "The policy does not allow the purpose",
        ask(&writ, &writ.setup.ca, "certs/ca.pem", "mailer", "report.create"),
        &writ.setup,
    );
    let setup = Setup::new().client("mailer", MAILER);
    for folder in ["one", "two"] {
        setup.run(&["certs", "init", folder]).exits(0);
        setup.run(&["certs", "issue", "--dir", folder, "--client", "mailer"]).exits(0);
    }
    let setup = setup.set("tls.certificate", "one/server.pem").set("tls.private_key", "one/server.key");
    let writ = setup.set("tls.client_ca", "one/ca.pem").start();
    note("The client trusts another CA", ask_with(&writ, "two/ca.pem", "one/mailer", "mailbox.deliver"), &writ.setup);
    note(
        "The client's certificate is of another CA",
        ask_with(&writ, "one/ca.pem", "two/mailer", "mailbox.deliver"),
        &writ.setup,
    );
    all
}

/// Asks for a token with a certificate that `ca` signs.
fn ask(writ: &Writ, ca: &pki::Ca, trusted: &str, client: &str, scope: &str) -> Output {
    let mut params = pki::client(client);
    params.subject_alt_names = vec![pki::uri(&format!("spiffe://trust-domain.example/{client}"))];
    let credentials = ca.issue(params);
    writ.setup.write("client.pem", &credentials.certificate_pem);
    writ.setup.write("client.key", &credentials.key_pem);
    ask_with(writ, trusted, "client", scope)
}

/// Asks for a token with `NAME.pem` and `NAME.key`.
fn ask_with(writ: &Writ, trusted: &str, name: &str, scope: &str) -> Output {
    let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
    let port = writ.site().endpoints().exchange.port().to_string();
    let url = format!("https://localhost:{port}");
    let arguments = ["token", "request", "--url", &url, "--ca", trusted, "--cert", &certificate, "--key", &key];
    let rest = ["--audience", "trust-domain.example", "--scope", scope];
    let mut output = writ.run(&[&arguments[..], &rest].concat());
    output.stderr = output.stderr.replace(&port, "8443");
    output
}

/// Each message stands on the page word for word, in the section of its mistake; and the page has no other sections.
#[test]
fn the_troubleshooting_page_shows_the_message_of_each_mistake() {
    let titles: Vec<_> = TROUBLESHOOTING.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mistakes = mistakes();
    assert!(mistakes.len() >= 10);
    assert_eq!(titles, mistakes.iter().map(|(title, ..)| *title).collect::<Vec<_>>());
    for (title, output, folder) in mistakes {
        assert_ne!(output.code, 0, "{title}");
        let (_, section) = TROUBLESHOOTING.split_once(&format!("## {title}\n")).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let shown = blocks(section, "text").next().unwrap_or_else(|| panic!("no message below {title}"));
        let said = format!("{}{}", output.stdout, output.stderr).replace(&folder, "");
        assert_eq!(lines(shown), lines(&said), "{title}: the page shows something else");
    }
}

/// Without the numbers of lines, which the tests' own configuration shifts.
fn lines(text: &str) -> Vec<String> {
    let numbered = |line: &str| match line.strip_prefix("writ.toml:") {
        Some(rest) => format!("writ.toml:{}", rest.trim_start_matches(|c: char| c.is_ascii_digit())),
        None => line.to_owned(),
    };
    text.trim().lines().map(numbered).collect()
}

/// What a page says, without its line breaks.
fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name);
    fs::read_to_string(path).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// R-META-09: what operators tell workloads.
#[test]
fn the_documentation_says_where_workloads_take_their_configuration_from() {
    assert!(page("how-to/run-in-production.md").contains("list of instances"), "a section for workloads");
}

/// R-DELAY-01
#[test]
fn the_documentation_says_that_redemption_deviates_from_the_draft() {
    assert!(page("explanation/delayed-work.md").contains("## Deviation from the draft"));
}

/// R-DELAY-22
#[test]
fn the_documentation_names_the_alternatives() {
    let text = page("explanation/delayed-work.md");
    for alternative in ["replace a token before it expires", "`unsigned_json`", "`self_signed`", "`requested_subject`"]
    {
        assert!(text.contains(alternative), "{alternative}");
    }
}

/// R-DELAY-23: that verifiers never take an expired token is R-VERIFY-05.
#[test]
fn the_documentation_says_how_to_store_tokens_for_later() {
    let text = page("how-to/redeem-delayed-work.md");
    assert!(
        text.contains(
            "one for each work item, encrypted, readable by the job alone, deleted after success, never logged"
        )
    );
}
