//! The metrics of a service that has seen every flow, as Prometheus reads them (CONTRACT 10).

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;
use toml::{Table, Value as Toml};

use crate::scene::{PURGE, READER, redeem};
use crate::support::issuer::{Issuer, Word};
use crate::support::jose::Key;
use crate::support::pdp::{Mode, Pdp};
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, now};
use crate::tools::{fetched, root};

/// Begins in every way there is.
const FRONT: &str = r#"
[[purpose]]
scope = "account.purge"
accept = ["access_token"]
granted_by = ["trade.stocks"]
lifetime = "1s"

[[purpose]]
scope = "trade.execute"
accept = ["access_token"]
granted_by = ["trade.stocks"]

[[purpose]]
scope = "mailbox.deliver"
accept = ["client_credentials", "unsigned_json", "self_signed"]
subjects = ["*"]
pdp = true
"#;

/// Goes on with what another began.
const BACK: &str = r#"
[[purpose]]
scope = "trade.execute"
accept = ["txn_token"]

[[purpose]]
scope = "account.purge"
accept = ["expired_txn_token"]
[purpose.redemption]
issued_to = ["front"]
max_age = "90d"
"#;

fn setup(issuer: &Issuer, pdp: &Pdp) -> Setup {
    let introspects = |table: &mut Table| {
        let introspection = [
            ("endpoint", issuer.introspection_endpoint()),
            ("client_id", "writ".to_owned()),
            ("client_secret_file", "certs/login.secret".to_owned()),
        ];
        let introspection: Table =
            introspection.into_iter().map(|(name, value)| (name.to_owned(), Toml::String(value))).collect();
        table.insert("introspection".into(), introspection.into());
    };
    let setup = pdp.known_to(Setup::new()).issuer_with(issuer, introspects);
    setup.write("certs/login.secret", "a secret");
    setup.write("certs/crl.pem", &setup.ca.crl(1, &[]));
    setup
        .set("tls.client_crls", vec!["certs/crl.pem"])
        .client("front", FRONT)
        .client("back", BACK)
        .client("reader", READER)
}

/// Every source, outcome and event that has a metric.
fn be_busy(writ: &mut Writ, issuer: &Issuer, pdp: &Pdp) {
    let credentials = writ.setup.credentials("front");
    let front = writ.workload_with(&credentials);
    let back = writ.workload("back");
    let access_token = issuer.access_token().mint();

    let original = front.token(&Form::exchange(&access_token, PURGE)).issued();
    let live = front.token(&Form::exchange(&access_token, "trade.execute")).issued();
    issuer.introspect(Word::Says(Issuer::reply()));
    front.token(&Form::exchange("opaque", "trade.execute")).issued();
    back.token(&Form::redeem(&live.token, "trade.execute")).issued();
    original.wait_until_expired();
    back.token(&redeem(&original)).issued();
    back.token(&redeem(&original)).issued();

    let deliver = Form::client_credentials("mailbox.deliver");
    front.token(&deliver).issued();
    pdp.be(Mode::No);
    front.token(&deliver).refused(400, "unauthorized_client", "pdp_denied");
    pdp.be(Mode::Status(500));
    front.token(&deliver).refused(503, "temporarily_unavailable", "pdp_unavailable");
    pdp.be(Mode::Yes);
    let typed = |token: &str, name: &str| {
        let kind = format!("urn:ietf:params:oauth:token-type:{name}");
        Form::token_exchange(token, &kind, "mailbox.deliver")
    };
    front.token(&typed(r#"{"sub":"ann"}"#, "unsigned_json")).issued();
    let key = Key::of(&credentials, "unused");
    let claims = json!({"iss": "front", "sub": "ann", "aud": ISSUER, "iat": now(), "exp": now() + 60, "jti": "1"});
    let signed = key.token(&json!({"typ": "JWT", "alg": key.alg()}).to_string(), &claims.to_string());
    front.token(&typed(&signed, "self_signed")).issued();
    front.token(&typed(&signed, "self_signed")).invalid_request("subject_token_replayed");
    front.token(&deliver.clone().set("scope", "other")).invalid_scope("purpose_not_allowed");
    writ.workload("nobody").token(&deliver).invalid_client("client_unknown");

    writ.workload("reader").introspect(&live.token).active();
    writ.workload("reader").introspect("x").inactive();
    writ.stranger().alert();
    writ.expect_event("policies_reloaded", || writ.setup.write("policies/reader.toml", &reader("introspect = false")));
    writ.expect_event("policies_rejected", || writ.setup.write("policies/reader.toml", "nothing"));
    writ.expect_event("certificates_reloaded", || {
        writ.setup.write("certs/crl.pem", &writ.setup.ca.crl(2, &[]));
    });
    writ.fill_disk(true);
    front.token(&Form::exchange(&access_token, PURGE)).refused(503, "temporarily_unavailable", "store_unavailable");
    writ.fill_disk(false);
}

fn reader(policy: &str) -> String {
    crate::support::writ::client_policy("reader", policy)
}

/// Names, units, types and help are as Prometheus has them.
#[test]
fn promtool_finds_nothing_wrong_with_the_metrics_of_a_busy_service() {
    let Some(promtool) = fetched("prometheus/usr/bin/promtool") else { return };
    let (issuer, pdp) = (Issuer::start(), Pdp::start());
    let mut writ = setup(&issuer, &pdp).start();
    writ.terminate();
    writ.start();
    be_busy(&mut writ, &issuer, &pdp);
    let metrics = writ.metrics();

    let page = fs::read_to_string(root().join("docs/reference/metrics-and-logs.md")).unwrap();
    let (_, section) = page.split_once("\n## Metrics\n").unwrap();
    let (listed, _) = section.split_once("\n## ").unwrap();
    let promised =
        |part: &str| part.split(['{', '`']).next().is_some_and(|name| metrics.contains(&format!("\n{name}")));
    let is_metric = |part: &&str| part.starts_with("writ_") || part.starts_with("process_");
    let names: Vec<&str> = listed.split('`').skip(1).step_by(2).filter(is_metric).collect();
    assert!(names.len() >= 20, "the page lists them");
    let missing: Vec<&str> = names.into_iter().filter(|part| !promised(part)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing:\n{metrics}");

    let mut check = Command::new(promtool);
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = check.spawn().unwrap();
    check.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let verdict = check.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&verdict.stderr);
    assert!(verdict.status.success() && said.is_empty(), "{said}\n{metrics}");
}
