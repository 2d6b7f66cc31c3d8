//! The metrics: names, labels, units, and what they are after every flow (CONTRACT 10; A-134).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;
use toml::{Table, Value as Toml};

use crate::scene::{self, PURGE, READER, redeem};
use crate::support::issuer::{Issuer, Reply};
use crate::support::jose::Key;
use crate::support::pdp::{Mode, Pdp};
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};
use crate::support::{ISSUER, now};
use crate::tools::{fetched, root};

/// Starts transactions with every source.
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

/// Replaces and redeems tokens.
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
    let setup = pdp.configure(Setup::new()).issuer_with(issuer, introspects);
    setup.write("certs/login.secret", "a secret");
    setup.write("certs/crl.pem", &setup.ca.crl(1, &[]));
    setup
        .set("tls.client_crls", vec!["certs/crl.pem"])
        .client("front", FRONT)
        .client("back", BACK)
        .client("reader", READER)
}

/// Provokes every source, outcome and event that has a metric.
fn be_busy(writ: &mut Writ, issuer: &Issuer, pdp: &Pdp) {
    let credentials = writ.setup.credentials("front");
    let front = writ.workload_with(&credentials);
    let back = writ.workload("back");
    let access_token = issuer.access_token().mint();

    let original = front.token(&Form::exchange(&access_token, PURGE)).issued();
    let live = front.token(&Form::exchange(&access_token, "trade.execute")).issued();
    issuer.set_reply(Reply::Json(Issuer::active()));
    front.token(&Form::exchange("opaque", "trade.execute")).issued();
    back.token(&Form::redeem(&live.token, "trade.execute")).issued();
    original.wait_until_expired();
    back.token(&redeem(&original)).issued();
    back.token(&redeem(&original)).issued();

    let deliver = Form::client_credentials("mailbox.deliver");
    front.token(&deliver).issued();
    pdp.set_mode(Mode::No);
    front.token(&deliver).refused(400, "unauthorized_client", "pdp_denied");
    pdp.set_mode(Mode::Status(500));
    front.token(&deliver).refused(503, "temporarily_unavailable", "pdp_unavailable");
    pdp.set_mode(Mode::Yes);
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
    writ.anonymous().alert();
    let write = |file: &str, text: &str| {
        writ.setup.write(file, text);
        writ.hup();
    };
    writ.expect_event("policies_reloaded", || write("policies/reader.toml", &reader("introspect = false")));
    writ.expect_event("policies_rejected", || write("policies/reader.toml", "nothing"));
    writ.expect_event("certificates_reloaded", || write("certs/crl.pem", &writ.setup.ca.crl(2, &[])));
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

fn good() -> Form {
    Form::client_credentials("mailbox.deliver")
}

/// CONTRACT 10
#[test]
fn the_metrics_have_the_documented_names() {
    let writ = scene::mailer();
    writ.workload("mailer").token(&good()).issued();
    writ.workload("mailer").token(&good().set("scope", "other")).invalid_scope("purpose_not_allowed");
    let text = writ.metrics();
    let promised = [
        "writ_token_requests_total",
        "writ_token_request_duration_seconds_bucket",
        "writ_signing_key_age_seconds",
        "writ_keys",
        "writ_tls_handshakes_total",
        "writ_build_info",
        "writ_ledger_records",
        "writ_tls_certificate_expiry_seconds",
        "writ_policies_info",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_start_time_seconds",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
    ];
    let is_there = |name: &&str| text.lines().any(|line| line.split(['{', ' ']).next() == Some(*name));
    let missing: Vec<&str> = promised.into_iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are missing:\n{text}");
    assert_eq!(writ.metric("writ_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), Some(1.0));
    for (state, count) in [("next", 1.0), ("current", 1.0)] {
        assert_eq!(writ.metric("writ_keys", &[("state", state)]), Some(count));
    }
}

/// CONTRACT 10
#[test]
fn every_metric_has_a_help_text() {
    let issuer = Issuer::start();
    let writ = scene::gateway(&issuer);
    writ.workload("gateway").token(&Form::exchange(&issuer.access_token().mint(), "trade.execute"));
    let text = writ.metrics();
    let mut families = 0;
    for (help, kind) in text.lines().zip(text.lines().skip(1)) {
        let Some((name, _)) = kind.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else { continue };
        let said = help.strip_prefix(&format!("# HELP {name} "));
        assert!(said.is_some_and(|said| said.len() > 10), "{help}\n{kind}");
        families += 1;
    }
    assert!(families >= 16, "{text}");
}

/// CONTRACT 10: what the system says of the process, in the right units.
#[test]
fn the_process_is_measured() {
    let writ = scene::mailer();
    let metric = |name| writ.metric(name, &[]).unwrap_or_else(|| panic!("{name}"));
    let started = metric("process_start_time_seconds");
    let age = f64::from(u32::try_from(now()).unwrap()) - started;
    assert!((-2.0..600.0).contains(&age), "started {age} s ago");
    assert!(metric("process_cpu_seconds_total") > 0.0 && metric("process_cpu_seconds_total") < 600.0);
    let (resident, virtual_memory) = (metric("process_resident_memory_bytes"), metric("process_virtual_memory_bytes"));
    assert!(resident > 1e6 && resident <= virtual_memory, "{resident} {virtual_memory}");
    let listed = std::fs::read_dir(format!("/proc/{}/task", writ.pid())).unwrap().count();
    assert!(metric("process_threads") >= 2.0 && listed >= 2);
    let (open, most) = (metric("process_open_fds"), metric("process_max_fds"));
    assert!(open >= 10.0 && open < most, "{open} of {most}");
    let held: Vec<_> = (0..5).map(|_| writ.workload("mailer").connect()).collect();
    assert!(metric("process_open_fds") >= open + 4.0, "{} connections more", held.len());
}

/// CONTRACT 10
#[test]
fn requests_are_counted_by_client_source_outcome_and_reason() {
    let writ = scene::mailer();
    for _ in 0..3 {
        writ.workload("mailer").token(&good()).issued();
    }
    writ.workload("mailer").token(&good().set("scope", "other")).invalid_scope("purpose_not_allowed");
    writ.workload("nobody").token(&good()).invalid_client("client_unknown");
    let count = |labels: &[(&str, &str)]| writ.metric("writ_token_requests_total", labels);
    let issued = [("client", "mailer"), ("source", "client_credentials"), ("outcome", "issued"), ("reason", "-")];
    assert_eq!(count(&issued), Some(3.0));
    let refused = [("client", "mailer"), ("outcome", "refused"), ("reason", "purpose_not_allowed")];
    assert_eq!(count(&refused), Some(1.0));
    let unknown = [("client", "-"), ("source", "-"), ("outcome", "refused"), ("reason", "client_unknown")];
    assert_eq!(count(&unknown), Some(1.0));
}

/// A-134
#[test]
fn unusual_values_make_no_new_series() {
    let writ = scene::mailer();
    let client = writ.workload("mailer");
    let ask = |index: usize| {
        client.token(&good().set("requested_subject", &format!("u{index}@trust-domain.example")));
        client.token(&good().set("scope", &format!("unheard-{index}")));
        client.token(&good().set("grant_type", &format!("grant-{index}")));
        client.token(&good().set("client_id", &format!("client-{index}")));
        client.connect().get("GET", &format!("/path-{index}"));
        writ.workload("nobody").token(&good().set("client_id", &format!("client-{index}")));
    };
    let series = || -> BTreeSet<String> {
        let text = writ.metrics();
        text.lines().filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series.to_owned()).collect()
    };
    ask(0);
    let before = series();
    (1..10).for_each(ask);
    assert_eq!(series(), before);
}

/// CONTRACT 10
#[test]
fn the_expiry_of_the_certificate_is_measured() {
    let writ = scene::mailer();
    let expiry = writ.metric("writ_tls_certificate_expiry_seconds", &[]).unwrap();
    let day = 24.0 * 3600.0;
    // either the instant or what is left until then
    let instant = f64::from(u32::try_from(now()).unwrap()) + day;
    assert!((expiry - day).abs() < 120.0 || (expiry - instant).abs() < 120.0, "{expiry}");
}
