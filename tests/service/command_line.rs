//! Commands beside `serve` and `check`: certificates, tokens, the quickstart, help (CONTRACT 8). Commands about keys,
//! blocks, policies and the store are tested with what they manage.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::scene::{self, MAILER};
use crate::support::TRUST_DOMAIN;
use crate::support::pki;
use crate::support::workload::Form;
use crate::support::writ::Setup;

/// CONTRACT 8
#[test]
fn a_token_is_requested_on_the_command_line() {
    let writ = scene::mailer();
    let credentials = writ.setup.credentials("mailer");
    writ.setup.write("mailer.pem", &credentials.certificate_pem);
    writ.setup.write("mailer.key", &credentials.key_pem);
    let url = format!("https://localhost:{}", writ.site().endpoints().exchange.port());
    let request = |scope: &str| {
        let arguments =
            ["token", "request", "--url", &url, "--ca", "certs/ca.pem", "--cert", "mailer.pem", "--key", "mailer.key"];
        writ.run(&[&arguments[..], &["--scope", scope, "--audience", TRUST_DOMAIN]].concat())
    };
    let token = request("mailbox.deliver").exits(0).stdout;
    writ.setup.write("token.txt", token.trim());
    writ.setup.write("jwks.json", &json!({"keys": writ.site().jwks()}).to_string());
    let verify = ["token", "verify", "--jwks", "jwks.json", "--audience", TRUST_DOMAIN, "token.txt"];
    writ.run(&verify).exits(0).says("valid until");
    request("other").exits(1).says("purpose_not_allowed");
}

/// CONTRACT 8: the first command that a newcomer runs.
#[test]
fn quickstart_runs_its_flows_to_the_end() {
    let setup = Setup::new();
    let folder = setup.path("quick");
    let once = ["quickstart", "--once", "--dir", folder.to_str().unwrap()];
    setup.run(&once).exits(0);
    setup.run(&once).exits(0);
}

/// CONTRACT 8: a service under its final name, before DNS has it.
#[test]
fn resolve_finds_a_service_under_a_name_without_dns() {
    let setup = Setup::new().client("mailer", MAILER);
    let mut params = pki::server();
    params.subject_alt_names.push(pki::dns("tts.corp.example"));
    let server = setup.ca.issue(params);
    setup.write("certs/server.pem", &server.certificate_pem);
    setup.write("certs/server.key", &server.key_pem);
    let credentials = setup.credentials("mailer");
    setup.write("mailer.pem", &credentials.certificate_pem);
    setup.write("mailer.key", &credentials.key_pem);
    let writ = setup.start();
    let endpoints = writ.site().endpoints();
    let (exchange, discovery) = (endpoints.exchange.port(), endpoints.discovery.unwrap().port());
    let ask = |resolve: &str| {
        let url = format!("https://tts.corp.example:{exchange}");
        let arguments = ["token", "request", "--url", &url, "--ca", "certs/ca.pem", "--cert", "mailer.pem", "--key"];
        let rest = ["mailer.key", "--scope", "mailbox.deliver", "--audience", TRUST_DOMAIN, "--resolve", resolve];
        writ.run(&[&arguments[..], &rest].concat())
    };
    let token = ask(&format!("tts.corp.example:{exchange}:127.0.0.1")).exits(0).stdout;
    ask(&format!("tts.corp.example:{discovery}:127.0.0.1")).exits(1).says("the host name cannot be resolved");
    writ.setup.write("token", token.trim());
    let url = format!("https://tts.corp.example:{discovery}/.well-known/jwks.json");
    let verify = |url: &str, ca: &str| {
        let resolve = format!("tts.corp.example:{discovery}:127.0.0.1");
        let arguments =
            ["token", "verify", "--jwks", url, "--ca", ca, "--audience", TRUST_DOMAIN, "--resolve", &resolve];
        writ.run(&[&arguments[..], &["token"]].concat())
    };
    verify(&url, "certs/ca.pem").exits(0).says("valid until");
    writ.setup.write("other.pem", &pki::Ca::root("somebody else").pem());
    for (url, ca, cause) in [
        (url.as_str(), "other.pem", "not issued by a CA that is trusted here"),
        ("https://localhost:1/jwks.json", "certs/ca.pem", "the connection was refused"),
        (&format!("https://tts.corp.example:{discovery}/nowhere"), "certs/ca.pem", "answered 404 Not Found"),
    ] {
        verify(url, ca).exits(1).says("keys_unavailable").says(cause);
    }
}

/// CONTRACT 8, RFC 8414 section 3.3: the metadata of another issuer are not used.
#[test]
fn metadata_of_another_issuer_are_not_trusted() {
    let writ = scene::mailer();
    let credentials = writ.setup.credentials("mailer");
    writ.setup.write("mailer.pem", &credentials.certificate_pem);
    writ.setup.write("mailer.key", &credentials.key_pem);
    let url = format!("https://localhost:{}", writ.site().endpoints().exchange.port());
    let arguments = ["token", "request", "--url", &url, "--ca", "certs/ca.pem", "--cert", "mailer.pem", "--key"];
    let output = writ.run(&[&arguments[..], &["mailer.key", "--scope", "mailbox.deliver"]].concat()).exits(1);
    output.says("calls itself https://localhost:8443: use --url https://localhost:8443");
}

fn good() -> Setup {
    Setup::new().client("mailer", MAILER)
}

/// CONTRACT 8
#[test]
fn a_development_authority_is_made_and_serves() {
    let setup = good();
    let folder = setup.path("dev");
    let dir = folder.to_str().unwrap();
    setup.run(&["certs", "init", dir]).exits(0);
    let issue =
        ["certs", "issue", "--dir", dir, "--client", "mailer", "--san-uri", "spiffe://trust-domain.example/mailer"];
    setup.run(&issue).exits(0);
    for file in ["ca.pem", "server.pem", "server.key", "sealing.key", "mailer.pem", "mailer.key"] {
        let mode = fs::metadata(folder.join(file)).unwrap().permissions().mode() & 0o777;
        assert!(
            Path::new(file).extension().is_none_or(|kind| kind != "key") || mode == 0o600,
            "{file} has mode {mode:o}"
        );
    }
    let setup = setup
        .set("tls.certificate", "dev/server.pem")
        .set("tls.private_key", "dev/server.key")
        .set("tls.client_ca", "dev/ca.pem")
        .set("keys.sealing_key", "dev/sealing.key");
    setup.run(&["check"]).exits(0);
}

/// CONTRACT 8: one certificate for each kind of name.
#[test]
fn certificates_are_issued_with_every_kind_of_name() {
    let setup = good();
    let folder = setup.path("dev");
    let dir = folder.to_str().unwrap();
    setup.run(&["certs", "init", dir]).exits(0);
    for (client, flag, value) in [
        ("by-uri", "--san-uri", "spiffe://a/b"),
        ("by-dns", "--san-dns", "a.example"),
        ("by-email", "--san-email", "a@b.example"),
        ("by-ip", "--san-ip", "192.0.2.1"),
    ] {
        setup.run(&["certs", "issue", "--dir", dir, "--client", client, flag, value, "--days", "3"]).exits(0);
    }
    setup.run(&["certs", "issue", "--dir", dir, "--client", "a/b"]).exits(2);
}

/// CONTRACT 8
#[test]
fn a_token_is_shown_decoded() {
    let writ = scene::mailer();
    let issued = writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued();
    writ.setup.write("token.txt", &issued.token);
    let shown = writ.run(&["token", "inspect", "--json", "token.txt"]).exits(0).json();
    assert_eq!((&shown["header"], &shown["claims"]), (&issued.header, &issued.claims));
    writ.setup.write("token.txt", "nonsense");
    let output = writ.run(&["token", "inspect", "token.txt"]);
    assert_ne!(output.code, 0);
}

/// CONTRACT 8
#[test]
fn a_token_is_verified_on_the_command_line() {
    let writ = scene::mailer();
    let issued = writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver")).issued();
    writ.setup.write("token.txt", &issued.token);
    writ.setup.write("jwks.json", &json!({"keys": writ.site().jwks()}).to_string());
    let verify = |domain: &str| {
        writ.run(&["token", "verify", "--json", "--jwks", "jwks.json", "--audience", domain, "token.txt"])
    };
    assert_eq!(verify("trust-domain.example").exits(0).json()["valid"], true);
    let other: Value = verify("other.example").exits(1).json();
    assert!(other["valid"] == false && other["reason"].is_string(), "{other}");
}

/// CONTRACT 8: an option is offered only where it does something.
#[test]
fn options_are_offered_where_they_do_something() {
    let setup = good();
    for command in [
        "check",
        "serve",
        "keys list",
        "block add",
        "store repair",
        "policy test",
        "certs issue",
        "certs show",
        "certs revoke",
    ] {
        let help = setup.run(&[&command.split(' ').collect::<Vec<_>>()[..], &["--help"]].concat()).exits(0).stdout;
        assert!(help.contains("--config"), "{command}: {help}");
    }
    for command in ["quickstart", "token request", "token verify", "token inspect", "certs crl", "man"] {
        let help = setup.run(&[&command.split(' ').collect::<Vec<_>>()[..], &["--help"]].concat()).exits(0).stdout;
        assert!(!help.contains("--config"), "{command}: {help}");
    }
    setup.run(&["--config", "writ.toml", "check"]).exits(0);
    setup.run(&["--config", "writ.toml", "token", "inspect"]).exits(2).says("'--config' is not used by this command");
    let usage = setup.run(&["block", "add", "--help"]).stdout;
    assert!(usage.contains("<--txn <TXN>|--sub <SUB>|--client <CLIENT>|--purpose <PURPOSE>|--all>"), "{usage}");
    setup.run(&["block", "add", "--all", "--until", "2020-01-01T00:00:00Z"]).exits(2).says("has passed");
}

#[test]
fn completions_and_man_pages_have_every_command() {
    let setup = good();
    for shell in ["bash", "zsh", "fish"] {
        setup.run(&["completions", shell]).exits(0).says("quickstart").says("completions");
    }
    setup.run(&["man"]).exits(0).says(".TH writ 1");
    setup.run(&["man", "pages"]).exits(0);
    let page = fs::read_to_string(setup.path("pages/writ-policy-explain.1")).unwrap();
    assert!(page.contains("from\\-audit"), "{page}");
}

/// `certs init` takes names from the configuration, and `certs show` prints them as policies write them.
#[test]
fn certificates_are_made_for_the_configuration_and_shown_as_policies_name_them() {
    let setup = good().set("trust_domain", "corp.example").set("issuer", "https://tts.corp.example:8443");
    setup
        .run(&["certs", "init", "dev"])
        .exits(0)
        .says("dev/server.pem is for localhost, 127.0.0.1, ::1, ")
        .says("tts.corp.example");
    let line = "tls_client_auth_san_uri = \"spiffe://corp.example/report-job\"";
    setup.run(&["certs", "issue", "--dir", "dev", "--client", "report-job"]).exits(0).says(line);
    let show = || setup.run(&["certs", "show", "dev/report-job.pem"]).exits(0);
    show().says(line).says("tls_client_auth_subject_dn = \"CN=report-job\"").says("policies    none matches");
    let policy = format!("client_id = \"report-job\"\n{line}\n");
    setup.write("policies/report-job.toml", &policy);
    show().says("policies    report-job");
    let shown =
        setup.run(&["certs", "show", "--json", "dev/report-job.pem"]).exits(0).json()["certificates"][0].clone();
    assert_eq!((&shown["policies"], &shown["usages"]), (&json!(["report-job"]), &json!(["clientAuth"])), "{shown}");
    let mode = |file: &str| fs::metadata(setup.path(file)).unwrap().permissions().mode() & 0o777;
    for (file, expected) in
        [("dev/ca.pem", 0o644), ("dev/server.pem", 0o644), ("dev/report-job.pem", 0o644), ("dev/ca.key", 0o600)]
    {
        assert_eq!(mode(file), expected, "{file}");
    }
    setup.run(&["certs", "show", "dev/ca.key"]).exits(2).says("contains no certificate (PEM)");
}

/// CONTRACT 8
#[test]
fn wrong_usage_exits_2_and_help_exits_0() {
    let setup = good();
    for arguments in [&[][..], &["nonsense"], &["serve", "--nonsense"], &["keys"], &["keys", "revoke"]] {
        setup.run(arguments).exits(2);
    }
    for arguments in
        [&["--help"][..], &["serve", "--help"], &["keys", "--help"], &["keys", "list", "--help"], &["check", "--help"]]
    {
        setup.run(arguments).exits(0);
    }
    assert!(setup.run(&["--version"]).exits(0).stdout.contains(env!("CARGO_PKG_VERSION")));
}

/// An endless file is not read to its end, and output that could not be written is an error.
#[test]
fn an_endless_file_and_a_full_disk_are_errors() {
    let setup = Setup::new().client("mailer", MAILER);
    let verify = ["token", "verify", "--jwks", "/dev/zero", "--audience", "d.example", "writ.toml"];
    for command in [&["check", "--config", "/dev/zero"][..], &["token", "inspect", "/dev/zero"], &verify] {
        setup.run(command).exits(2).says("/dev/zero: is longer than 1 MiB");
    }
    for command in [&["check"][..], &["check", "--json"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = setup.command(command).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains("standard output: No space left"), "{said}");
    }
}
