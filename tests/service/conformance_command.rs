//! `writ-conformance` on this service. Its own tests are in `conformance/`.

#[path = "../../conformance/tests/support/report.rs"]
mod report;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use self::report::Report;
use crate::scene::GATEWAY;
use crate::support::issuer::Issuer;
use crate::support::writ::{Setup, Writ};

/// The command for this service as the client `gateway`, whose credentials are written to `folder`.
fn conformance(folder: &Path, writ: &Writ, url: &str) -> Command {
    let client = writ.setup.credentials("gateway");
    let files = [("ca.pem", &writ.site().ca), ("c.pem", &client.certificate_pem), ("c.key", &client.key_pem)];
    for (file, text) in files {
        std::fs::write(folder.join(file), text).unwrap();
    }
    // Another package's executable, beside that of this one.
    let program = Path::new(env!("CARGO_BIN_EXE_writ")).with_file_name("writ-conformance");
    assert!(program.exists(), "{} is missing: cargo build -p writ-conformance", program.display());
    let mut command = Command::new(program);
    command.current_dir(folder);
    command.args(["--target", url, "--ca", "ca.pem", "--cert", "c.pem", "--key", "c.key"]);
    command
}

#[track_caller]
fn passes_all_but(report: &Report, not_tried: &[&str]) {
    report.fails(&[]);
    assert_eq!(report.names("not_tried"), not_tried, "{:#}", report.json);
    assert_eq!(report.names("noted"), [""; 0], "{:#}", report.json);
}

/// Two free ports below the ephemeral range, so that no other test is given them.
fn free_ports() -> [u16; 2] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    [(); 2].map(|()| {
        loop {
            let step = std::process::id().wrapping_mul(8).wrapping_add(NEXT.fetch_add(1, Ordering::SeqCst));
            let port = 20_000 + u16::try_from(step % 10_000).expect("below 10000");
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                break port;
            }
        }
    })
}

/// A service at the addresses that its metadata names, with a purpose for each way in.
fn this_service(issuer: &Issuer) -> (Writ, String) {
    const MORE: &str = r#"
[[purpose]]
scope = "trade.report"
accept = ["access_token", "txn_token"]
granted_by = ["trade.stocks"]

[[purpose]]
scope = "trade.sweep"
accept = ["client_credentials"]
"#;
    let policy = GATEWAY.replace("\"access_token\"", "\"access_token\", \"txn_token\"") + MORE;
    let [exchange, discovery] = free_ports();
    let url = format!("https://localhost:{exchange}");
    let writ = Setup::new()
        .issuer(issuer)
        .client("gateway", &policy)
        .set("issuer", url.as_str())
        .set("listen.exchange", format!("127.0.0.1:{exchange}"))
        .set("listen.discovery", format!("127.0.0.1:{discovery}"))
        .set("listen.discovery_url", format!("https://localhost:{discovery}"))
        .set("tokens.lifetime", "5s")
        .start();
    (writ, url)
}

/// Nothing fails, nothing is noted and everything is tried, replacement included; redemption is off, as the draft says.
#[test]
fn this_service_conforms() {
    let issuer = Issuer::start();
    let (writ, url) = this_service(&issuer);
    let (folder, token) = (TempDir::new().unwrap(), issuer.access_token().mint());
    std::fs::write(folder.path().join("subject.jwt"), &token).unwrap();
    let mut command = conformance(folder.path(), &writ, &url);
    command.args(["--subject-token", "subject.jwt", "--scope", "trade.execute", "--other-scope", "account.purge"]);
    command.args(["--replace-scope", "trade.report", "--wait", "--leeway", "0"]);
    passes_all_but(&Report::of(command, &[&token]), &[]);
}

/// R-REQ-18: the grant that Writ offers beyond the draft.
#[test]
fn this_service_conforms_without_a_subject_token() {
    let issuer = Issuer::start();
    let (writ, url) = this_service(&issuer);
    let folder = TempDir::new().unwrap();
    let mut command = conformance(folder.path(), &writ, &url);
    command.args(["--client-credentials", "--scope", "trade.sweep", "--other-scope", "account.purge"]);
    passes_all_but(&Report::of(command, &[]), &["txn-token-expired"]);
}
