//! What operators see: health, metrics, log and audit, start and stop (CONTRACT 2, 8, 10; A-041, A-043, A-131 to A-136).

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::scene::{self, MAILER};
use crate::support::issuer::Issuer;
use crate::support::jose::Key;
use crate::support::workload::{FORM, Form};
use crate::support::writ::{Setup, Writ};
use crate::support::{eventually, now};

fn good() -> Form {
    Form::client_credentials("mailbox.deliver")
}

/// CONTRACT 2
#[test]
fn a_healthy_service_says_so() {
    let writ = scene::mailer();
    for path in ["/livez", "/readyz"] {
        let response = writ.site().ops(path);
        assert_eq!((response.status, response.json()), (200, json!({"status": "ok"})), "{path}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert!(response.header("x-request-id").is_some());
    }
}

/// CONTRACT 2
#[test]
fn what_ops_does_not_know_is_not_found() {
    let writ = scene::mailer();
    for path in ["/", "/token", "/.well-known/jwks.json"] {
        let response = writ.site().ops(path);
        assert_eq!((response.status, response.json()["reason"].as_str()), (404, Some("not_found")));
    }
}

/// CONTRACT 10
#[test]
fn the_metrics_have_the_names_that_were_promised() {
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
fn every_metric_says_what_it_is() {
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
fn strange_values_make_no_new_series() {
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

/// CONTRACT 10, R-PRIV-03
#[test]
fn an_issued_token_is_audited() {
    let writ = scene::mailer();
    let credentials = writ.setup.credentials("mailer");
    let form = good().set("requested_subject", "alice@trust-domain.example");
    let issued = writ.workload_with(&credentials).token(&form).issued();
    let line = writ.audit_of(&issued.request_id);
    let sha256 = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, issued.token.as_bytes()));
    for (name, value) in [
        ("event", json!("token_issued")),
        ("target", json!("audit")),
        ("client", json!("mailer")),
        ("source", json!("client_credentials")),
        ("scope", json!("mailbox.deliver")),
        ("txn", json!(issued.txn())),
        ("sub", json!("alice@trust-domain.example")),
        ("kid", json!(issued.kid())),
        ("exp", json!(issued.exp())),
        ("token_sha256", json!(sha256)),
        ("client_certificate", json!(credentials.thumbprint())),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert!(line["timestamp"].is_string() && line["level"].is_string() && line["policies"].is_string(), "{line}");
    for absent in ["reason", "use", "delayed_by", "key_state", "retry"] {
        assert_eq!(line.get(absent), None, "what does not apply is absent");
    }
}

/// CONTRACT 10
#[test]
fn a_refusal_is_audited_with_its_reason() {
    let writ = scene::mailer();
    let refused = writ.workload("mailer").token(&good().set("scope", "other")).invalid_scope("purpose_not_allowed");
    let line = writ.audit_of(&refused.request_id);
    assert_eq!(
        (&line["event"], &line["reason"], &line["client"]),
        (&json!("token_refused"), &json!("purpose_not_allowed"), &json!("mailer"))
    );
    for absent in ["txn", "token_sha256", "kid", "exp"] {
        assert_eq!(line.get(absent), None, "{absent} in {line}");
    }
}

/// CONTRACT 10
#[test]
fn what_never_became_a_request_is_audited_too() {
    let writ = scene::mailer();
    let stranger = writ.workload("nobody").token(&good()).invalid_client("client_unknown");
    let line = writ.audit_of(&stranger.request_id);
    assert_eq!((&line["reason"], line.get("client")), (&json!("client_unknown"), None));
    let client = writ.workload("mailer");
    let json_body = client.post(&[("Content-Type", "application/json")], b"{}");
    let refused = json_body.refused(415, "invalid_request", "media_type_unsupported");
    assert_eq!(writ.audit_of(&refused.request_id)["reason"], "media_type_unsupported");
}

/// A-133
#[test]
fn strange_values_cannot_forge_a_log_line() {
    let writ = scene::mailer();
    let evil = "x\n{\"target\":\"audit\",\"event\":\"token_issued\"}\u{1b}[31m\u{202e}\"";
    writ.workload("mailer").token(&good().set("client_id", evil)).invalid_client("client_id_mismatch");
    let long = format!("a{}", "b".repeat(60_000));
    writ.workload("mailer").token(&good().set("scope", &long)).status();
    writ.workload("mailer").token(&good()).issued();
    for line in writ.log_text().lines() {
        assert!(!line.contains('\u{1b}') && !line.contains('\u{202e}'), "{line}");
        assert!(line.len() < 16_000, "a line of {} bytes", line.len());
    }
    let audit = writ.audit();
    assert_eq!(audit.iter().filter(|line| line["event"] == "token_issued").count(), 1);
}

/// A-135, R-PRIV-01: nor does a refusal repeat it.
#[test]
fn a_token_that_is_sent_in_the_wrong_place_is_not_logged() {
    let writ = scene::mailer();
    let token = Key::es256("k").token(r#"{"alg":"ES256"}"#, r#"{"sub":"a"}"#);
    let form = good().set("requested_subject", "alice@trust-domain.example").set("client_id", "mailer");
    let mut bodies: Vec<Form> = form.names().iter().map(|name| form.clone().set(name, &token)).collect();
    bodies.push(form.set(&token, &token));
    for body in bodies {
        let answer = writ.workload("mailer").token(&body);
        writ.audit_of(&answer.request_id());
        assert!(!answer.response.text().contains(&token), "{body:?}");
    }
    assert!(!writ.log_text().contains(&token));
}

/// CONTRACT 10
#[test]
fn every_line_of_the_log_is_json() {
    let writ = scene::mailer();
    writ.workload("mailer").token(&good()).issued();
    for line in writ.log_text().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for name in ["timestamp", "level", "target"] {
            assert!(line[name].is_string(), "{name} is missing: {line}");
        }
    }
}

/// CONTRACT 2
#[test]
fn a_trace_of_the_client_is_found_in_the_log() {
    let writ = scene::mailer();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [("Content-Type", FORM), ("traceparent", parent.as_str())];
    writ.workload("mailer").post(&headers, good().encode().as_bytes()).issued();
    writ.wait_for_log("the trace", |line| line.to_string().contains(trace));
}

/// A-132: what cannot be recorded does not happen.
#[test]
fn no_token_leaves_once_the_log_is_closed() {
    let mut writ = scene::mailer();
    writ.close_log();
    let client = writ.workload("mailer");
    eventually("the log is found closed", || {
        let answer = client.token(&good());
        (answer.status() != 200).then(|| answer.refused(503, "temporarily_unavailable", "audit_unavailable"))
    });
    client.token(&good()).refused(503, "temporarily_unavailable", "audit_unavailable");
}

/// CONTRACT 8
#[test]
fn sigterm_and_sigint_stop_the_service() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut writ = scene::mailer();
        writ.workload("mailer").token(&good()).issued();
        writ.signal(signal);
        assert_eq!(writ.wait_for_exit(), 0);
    }
}

/// A-043
#[test]
fn a_request_in_flight_is_answered_before_the_stop() {
    let mut writ = scene::mailer();
    let body = good().encode();
    let head = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut session = writ.workload("mailer").connect();
    let (first, rest) = body.split_at(10);
    session.connection.send(format!("{head}{first}").as_bytes()).unwrap();
    // The head has been read once the service has answered somebody who came later.
    writ.workload("mailer").token(&good()).issued();
    writ.signal(Signal::TERM);
    eventually("no new connection is taken", || writ.workload("mailer").try_token(&good()).err());
    session.connection.send(rest.as_bytes()).unwrap();
    let response = session.connection.receive().unwrap();
    assert!(response.status == 200 || response.json()["reason"] == "shutting_down", "{}", response.text());
    writ.site().note(&response);
    assert_eq!(writ.wait_for_exit(), 0);
    let line = |message: &str| logged(&writ, message);
    assert_eq!(line("received the signal to stop")["signal"], "SIGTERM");
    let draining = line("draining");
    assert_eq!((&draining["requests"], &draining["timeout"]), (&json!(1), &json!("5s")), "{draining}");
    assert!(draining["connections"].as_u64().unwrap() >= 1, "{draining}");
    let drained = line("drained");
    assert_eq!((&drained["answered"], &drained["cut_off"]), (&json!(1), &json!(0)), "{drained}");
}

/// The line of a service that has ended whose message begins so.
fn logged(writ: &Writ, message: &str) -> Value {
    let text = writ.log_text();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let begins = |line: &Value| line["message"].as_str().is_some_and(|said| said.starts_with(message));
    lines.into_iter().find(begins).unwrap_or_else(|| panic!("no line {message}:\n{text}"))
}

/// A-043
#[test]
fn a_request_that_does_not_end_in_time_is_told_as_cut_off() {
    let mut writ = Setup::new().client("mailer", MAILER).set("limits.drain_timeout", "1s").start();
    let head =
        format!("POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: 500\r\n\r\na=b");
    let mut session = writ.workload("mailer").connect();
    session.connection.send(head.as_bytes()).unwrap();
    writ.workload("mailer").token(&good()).issued();
    writ.signal(Signal::INT);
    assert_eq!(writ.wait_for_exit(), 0);
    assert_eq!(logged(&writ, "received the signal to stop")["signal"], "SIGINT");
    assert_eq!(logged(&writ, "drained")["cut_off"], 1);
}

/// Whoever asks for a reload hears that it was done.
#[test]
fn a_reload_without_a_change_is_told() {
    let writ = scene::mailer();
    let is_about =
        |words: &'static str| move |line: &Value| line["message"].as_str().is_some_and(|m| m.contains(words));
    writ.expect_log("the signal", || writ.hup(), is_about("received the signal to reload the files"));
    writ.wait_for_log("nothing new", is_about("are as they were"));
    assert!(!writ.audit().iter().any(|line| line["event"] == "policies_reloaded"));
}

/// A filter that means nothing would make a log without lines.
#[test]
fn a_log_filter_that_means_nothing_stops_the_start() {
    for (filter, expected) in [("verbose", "`verbose` is no level"), ("wirt=debug", "did you mean `writ`?")] {
        let setup = Setup::new().client("mailer", MAILER).environment("WRIT_LOG", filter);
        for command in ["serve", "check"] {
            setup.run(&[command]).exits(2).says("environment: WRIT_LOG: must be a level").says(expected);
        }
    }
    let writ = Setup::new().client("mailer", MAILER).environment("WRIT_LOG", "info,writ::service=debug").start();
    writ.workload("mailer").token(&good()).issued();
}

/// A-043
#[test]
fn idle_connections_do_not_hold_up_the_stop() {
    let mut writ = Setup::new().client("mailer", MAILER).set("limits.drain_timeout", "20s").start();
    let mut session = writ.workload("mailer").connect();
    session.token(&good()).issued();
    let before = Instant::now();
    assert_eq!(writ.terminate(), 0);
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
}

/// A-043
#[test]
fn a_stop_under_load_loses_nothing() {
    let mut writ = scene::mailer();
    let client = writ.workload("mailer");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Ok(answer) = client.try_token(&good()) {
                    assert!(answer.status() == 200 || answer.reason() == "shutting_down", "{}", answer.reason());
                }
            });
        }
        eventually("some requests were served", || (writ.audit().len() > 20).then_some(()));
        assert_eq!(writ.terminate(), 0);
    });
    // that each answer is in the audit log is checked when `writ` is dropped
}

/// CONTRACT 6
#[test]
fn a_busy_port_stops_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for listener in ["exchange", "discovery", "ops"] {
        let setup = Setup::new().client("mailer", MAILER).set(&format!("listen.{listener}"), address.clone());
        setup.run(&["serve"]).exits(2).says(&address);
    }
}

/// CONTRACT 6
#[test]
fn discovery_and_ops_can_be_switched_off() {
    let writ = Setup::new().client("mailer", MAILER).set("listen.discovery", "off").set("listen.ops", "off").start();
    let endpoints = writ.site().endpoints();
    assert_eq!((endpoints.discovery, endpoints.ops), (None, None));
    let mut session = writ.workload("mailer").connect();
    assert_eq!(session.get("GET", "/.well-known/jwks.json").status(), 200);
    assert_eq!(session.token(&good()).status(), 200);
}

/// A-041
#[test]
fn an_ops_listener_for_everybody_is_warned_about() {
    let setup = Setup::new().client("mailer", MAILER).set("listen.ops", "0.0.0.0:0");
    setup.run(&["check"]).exits(0).says("ops");
    setup.start().wait_for_log("the warning", |line| line["level"] == "WARN" && line.to_string().contains("ops"));
}

/// A-116, CONTRACT 8: an open admin socket is for its owner.
#[test]
fn the_admin_socket_is_for_its_owner() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let writ = scene::mailer();
    let metadata = std::fs::metadata(writ.setup.path("data/admin.sock")).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

/// A-136, where the system tells.
#[test]
fn the_process_leaves_no_core() {
    let writ = scene::mailer();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", writ.pid()));
    if let Ok(limits) = limits {
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
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

/// The certificate of the peer decides, also for the audit (A-023).
#[test]
fn a_service_answers_many_clients_at_once() {
    let writ: Writ = Setup::new().client("mailer", MAILER).client("other", MAILER).start();
    let clients = [("mailer", writ.workload("mailer")), ("other", writ.workload("other"))];
    std::thread::scope(|scope| {
        for index in 0..8 {
            let (name, client) = &clients[index % 2];
            scope.spawn(move || {
                let mut session = client.connect();
                for _ in 0..20 {
                    let answer = session.token(&good());
                    let (_, claims) =
                        crate::support::jose::decode(answer.response.json()["access_token"].as_str().unwrap());
                    assert_eq!(claims["req_wl"], *name);
                }
            });
        }
    });
}
