//! The OAuth clients of others, as `examples/clients` and docs/how-to/use-an-oauth-client-library.md show them, and what
//! happens without what these say that they need. `tests/tools.sh` fetches the libraries.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::scene::{GATEWAY, READER};
use crate::support::cli::{self, Output};
use crate::support::issuer::Issuer;
use crate::support::pdp::{Mode, Pdp};
use crate::support::writ::{Setup, Writ};
use crate::tools::{fetched, root};

const PROGRAMS: [&str; 4] = ["openid-client.mjs", "oauth4webapi.mjs", "requests-oauthlib.py", "oauth2-go/main.go"];
/// Those that need only a certificate.
const ALONE: &[&str] = PROGRAMS.split_at(1).1;

const MAILER: &str = r#"
[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials", "unsigned_json"]
subjects = ["*@trust-domain.example"]
"#;
/// The same where a decision point is asked.
const SORTER: &str = r#"
[[purpose]]
scope = "mailbox.sort"
accept = ["unsigned_json"]
subjects = ["*@trust-domain.example"]
pdp = true
"#;

/// A service under the address that it is issuer of, so that its metadata can be found.
fn setup() -> Setup {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below the ports that the system gives to others; processes begin in different places.
    let start = u16::try_from(std::process::id() % 10_000).unwrap();
    let candidate = || 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = std::iter::repeat_with(candidate).find(is_free).unwrap();
    Setup::new()
        .set("issuer", format!("https://localhost:{port}"))
        .set("listen.exchange", format!("127.0.0.1:{port}"))
        .client("mailer", MAILER)
        .client("reader", READER)
}

/// One of the programs, changed where a test wants it otherwise, with this certificate; `None` where it is left out.
fn program(writ: &Writ, name: &str, change: impl FnOnce(String) -> String, arguments: &[&str]) -> Option<Command> {
    let source = root().join("examples/clients").join(name);
    let text = fs::read_to_string(&source).unwrap();
    let changed = change(text.clone());
    let file = writ.setup.path(&name.replace('/', "-"));
    fs::write(&file, &changed).unwrap();
    let mut command = match name.rsplit_once('.').unwrap().1 {
        "mjs" => {
            let modules = fetched("clients/node_modules")?;
            // Node looks for packages beside the program.
            let beside = writ.setup.path("node_modules");
            if !beside.exists() {
                std::os::unix::fs::symlink(modules, beside).unwrap();
            }
            let mut node = Command::new("node");
            node.arg(file);
            node
        }
        "py" => {
            let mut python = Command::new(fetched("python/bin/python")?);
            python.arg(file);
            python
        }
        _ => Command::new(if changed == text { go_program()? } else { go_build(&file)? }),
    };
    let credentials = writ.setup.credentials(arguments[0]);
    writ.setup.write(&format!("clients/{}.pem", arguments[0]), &credentials.certificate_pem);
    writ.setup.write(&format!("clients/{}.key", arguments[0]), &credentials.key_pem);
    writ.setup.write("clients/ca.pem", &writ.setup.ca.pem());
    let exchange = writ.site().endpoints().exchange;
    command.arg(format!("https://localhost:{}", exchange.port())).arg(writ.setup.path("clients")).args(arguments);
    Some(command)
}

/// The program in Go, built once for all tests.
fn go_program() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| go_build(&root().join("examples/clients/oauth2-go/main.go"))).clone()
}

/// A program of one file, built beside it if it is in a folder of a test.
fn go_build(source: &std::path::Path) -> Option<PathBuf> {
    let go = fetched("go/usr/lib/go-1.19")?;
    let libraries = fetched("go/usr/share/gocode")?;
    let is_ours = source.starts_with(root());
    let built =
        if is_ours { PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("oauth2-go") } else { source.with_extension("") };
    let mut build = Command::new(go.join("bin/go"));
    build.args(["build", "-o"]).arg(&built).arg(source);
    build.env("GOROOT", go).env("GOPATH", libraries).env("GO111MODULE", "off").env("CGO_ENABLED", "0");
    build.env("GOCACHE", root().join("target/tools/go-cache")).env("GOFLAGS", "").stdin(Stdio::null());
    cli::run(build).exits(0);
    Some(built)
}

/// Runs a program as it is to its end.
fn run(writ: &Writ, name: &str, arguments: &[&str]) -> Option<Output> {
    program(writ, name, |text| text, arguments).map(cli::run)
}

/// Runs a program with a passage replaced that it must contain.
#[track_caller]
fn run_changed(writ: &Writ, name: &str, changes: &[(&str, &str)], arguments: &[&str]) -> Option<Output> {
    let change = |mut text: String| {
        for (from, to) in changes {
            assert!(text.contains(from), "{name} has no {from:?}");
            text = text.replace(from, to);
        }
        text
    };
    program(writ, name, change, arguments).map(cli::run)
}

/// What the printed token says, if the service takes it for valid.
#[track_caller]
fn claims(writ: &Writ, output: Output) -> Value {
    let output = output.exits(0);
    writ.workload("reader").introspect(output.stdout.trim()).active()
}

fn has_token(text: &str) -> bool {
    text.contains("eyJ")
}

#[test]
fn each_exchanges_an_access_token() {
    let issuer = Issuer::start();
    let writ = setup().issuer(&issuer).client("gateway", GATEWAY).start();
    let file = writ.setup.path("access-token");
    for name in PROGRAMS {
        fs::write(&file, issuer.access_token().mint()).unwrap();
        let arguments = ["gateway", "trade.execute", "access_token", file.to_str().unwrap()];
        let Some(output) = run(&writ, name, &arguments) else { continue };
        let claims = claims(&writ, output);
        assert_eq!((&claims["req_wl"], &claims["scope"]), (&json!("gateway"), &json!("trade.execute")), "{name}");
    }
}

#[test]
fn each_says_for_whom_it_acts() {
    let writ = setup().start();
    for name in PROGRAMS {
        let arguments = ["mailer", "mailbox.deliver", "unsigned_json", "bob@trust-domain.example"];
        let Some(output) = run(&writ, name, &arguments) else { continue };
        assert_eq!(claims(&writ, output)["sub"], "bob@trust-domain.example", "{name}");
    }
}

#[test]
fn all_but_openid_client_need_only_a_certificate() {
    let writ = setup().start();
    for name in ALONE {
        let arguments = ["mailer", "mailbox.deliver", "client_credentials", "bob@trust-domain.example"];
        for (count, subject) in [(3, "mailer"), (4, "bob@trust-domain.example")] {
            let Some(output) = run(&writ, name, &arguments[..count]) else { continue };
            assert_eq!(claims(&writ, output)["sub"], subject, "{name}");
        }
    }
}

#[test]
fn each_reports_why_it_was_refused() {
    let writ = setup().start();
    for name in PROGRAMS {
        let arguments = ["mailer", "mailbox.deliver", "unsigned_json", "bob@elsewhere.example"];
        let Some(output) = run(&writ, name, &arguments) else { continue };
        let output = output.exits(1).says("refused: subject_not_allowed (400 unauthorized_client): ");
        assert!(output.stdout.is_empty() && output.stderr.lines().count() == 1, "{name}: {output:?}");
    }
}

/// Each waits for as long as `Retry-After` says, and gets its token then.
#[test]
fn each_retries_after_the_given_time() {
    let pdp = Pdp::start();
    let writ = pdp.configure(setup()).client("sorter", SORTER).start();
    for name in PROGRAMS {
        pdp.set_mode(Mode::Status(500));
        let arguments = ["sorter", "mailbox.sort", "unsigned_json", "bob@trust-domain.example"];
        let Some(mut command) = program(&writ, name, |text| text, &arguments) else { continue };
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut told).unwrap();
        assert!(told.starts_with("pdp_unavailable: retrying in "), "{name}: {told}");
        pdp.set_mode(Mode::Yes);
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let output = Output { code: child.wait().unwrap().code().unwrap(), stdout, stderr: told };
        assert_eq!(claims(&writ, output)["sub"], "bob@trust-domain.example", "{name}");
    }
}

/// It supports that grant with bearer tokens only.
#[test]
fn openid_client_refuses_what_a_certificate_alone_brings() {
    let writ = setup().start();
    let changes = [
        ("oauth.genericGrantRequest(config, grant, {", "oauth.clientCredentialsGrant(config, {"),
        ("    subject_token: subjectToken,\n    subject_token_type: subjectTokenType,\n", ""),
    ];
    let arguments = ["mailer", "mailbox.deliver", "unsigned_json", "bob@trust-domain.example"];
    let Some(output) = run_changed(&writ, "openid-client.mjs", &changes, &arguments) else { return };
    let output = output.exits(2).says("unsupported operation");
    assert!(!has_token(&output.stdout) && !has_token(&output.stderr));
    assert_eq!(writ.audit().last().unwrap()["event"], "token_issued", "it was granted");
    // Nor does it take it from its general function.
    let changes = [("'urn:ietf:params:oauth:grant-type:token-exchange'", "'client_credentials'"), changes[1]];
    run_changed(&writ, "openid-client.mjs", &changes, &arguments).unwrap().exits(2).says("unsupported operation");
    // The way out, for a token of its own.
    let output = run(&writ, "openid-client.mjs", &["mailer", "mailbox.deliver", "unsigned_json", "mailer"]).unwrap();
    assert_eq!(claims(&writ, output)["sub"], "mailer");
}

#[test]
fn oauth4webapi_needs_the_token_type() {
    let writ = setup().start();
    for source in ["client_credentials", "unsigned_json"] {
        let arguments = ["mailer", "mailbox.deliver", source, "bob@trust-domain.example"];
        let untold = (", txnTokens)", ")");
        let Some(output) = run_changed(&writ, "oauth4webapi.mjs", &[untold], &arguments) else { return };
        let output = output.exits(2).says("unsupported `token_type` value");
        assert!(!has_token(&output.stdout) && !has_token(&output.stderr));
        // Who logs the whole error logs a token that is alive.
        let whole = [untold, (": error.message)", ": error)")];
        let output = run_changed(&writ, "oauth4webapi.mjs", &whole, &arguments).unwrap().exits(2);
        assert!(has_token(&output.stderr), "{output:?}");
    }
}

#[test]
fn requests_oauthlib_sends_an_authorization_unless_told_otherwise() {
    let writ = setup().start();
    let arguments = ["mailer", "mailbox.deliver", "client_credentials"];
    let change = [("include_client_id=True,", "")];
    let Some(output) = run_changed(&writ, "requests-oauthlib.py", &change, &arguments) else { return };
    output.exits(1).says("refused: parameter_unsupported (400 invalid_request)");
    // Without the hook the reason is lost, and the class says something else.
    let unhooked = [change[0], ("session.register_compliance_hook(\"access_token_response\", refuse)", "")];
    let output = run_changed(&writ, "requests-oauthlib.py", &unhooked, &arguments).unwrap().exits(1);
    let output = output.says("InvalidClientIdError: (invalid_request) ");
    assert!(!output.stderr.contains("parameter_unsupported"), "{output:?}");
}

#[test]
fn requests_oauthlib_does_not_send_a_txn_token_as_if_it_were_a_bearer_token() {
    let writ = setup().start();
    let change = [("return answer[\"access_token\"]", "return session.get(f\"{issuer}/orders\").text")];
    let arguments = ["mailer", "mailbox.deliver", "client_credentials"];
    let Some(output) = run_changed(&writ, "requests-oauthlib.py", &change, &arguments) else { return };
    output.exits(1).says("ValueError: Unsupported token type: N_A");
}

#[test]
fn oauth2_of_go_asks_twice_unless_told_how_to_authenticate() {
    let writ = setup().start();
    let arguments = ["mailer", "mailbox.deliver", "client_credentials"];
    let change = [("AuthStyle: oauth2.AuthStyleInParams,", "")];
    let Some(output) = run_changed(&writ, "oauth2-go/main.go", &change, &arguments) else { return };
    claims(&writ, output);
    let asked: Vec<Value> = writ.audit().into_iter().filter(|line| line["client"] == "mailer").collect();
    let events: Vec<&Value> = asked.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["token_refused", "token_issued"]);
    assert_eq!(asked[0]["reason"], "parameter_unsupported");
}

#[test]
fn oauth2_of_go_would_send_a_txn_token_as_authorization() {
    let writ = setup().start();
    let sent = "request, _ := http.NewRequest(\"GET\", \"https://orders.example\", nil)\n\ttoken.SetAuthHeader(request)\n\t\
                return request.Header.Get(\"Authorization\"), nil";
    let arguments = ["mailer", "mailbox.deliver", "client_credentials"];
    let change = [("return token.AccessToken, nil", sent)];
    let Some(output) = run_changed(&writ, "oauth2-go/main.go", &change, &arguments) else { return };
    let output = output.exits(0);
    assert!(output.stdout.starts_with("N_A eyJ"), "{output:?}");
}

/// The blocks of the page are parts of the programs that run here, lines in their order.
#[test]
fn what_the_page_shows_is_what_runs() {
    let pages = ["use-an-oauth-client-library.md", "protect-a-service-with-nginx.md"];
    let page = pages.map(|page| fs::read_to_string(root().join("docs/how-to").join(page)).unwrap()).concat();
    let mut shown = 0;
    for part in page.split("<!-- from ").skip(1) {
        let (file, rest) = part.split_once(" -->\n").unwrap();
        let (_, block) = rest.trim_start().strip_prefix("```").and_then(|rest| rest.split_once('\n')).unwrap();
        let block = trimmed(block.split_once("\n```").unwrap().0);
        let whole = trimmed(&fs::read_to_string(root().join(file)).unwrap());
        assert!(whole.windows(block.len()).any(|lines| lines == block), "{file} has no {block:#?}");
        shown += 1;
    }
    let code =
        page.matches("\n```").count() / 2 - page.matches("\n```sh\n").count() - page.matches("\n```toml\n").count();
    assert_eq!(shown, code, "each block of code names its file");
}

fn trimmed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}
