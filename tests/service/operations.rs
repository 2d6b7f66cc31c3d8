//! Running the service: health checks, listeners, signals, start, reload and shutdown (CONTRACT 2, 6, 8,
//! Log and metrics are tested in `privacy`, `log_output` and `metrics`.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::scene::{self, MAILER};
use crate::support::eventually;
use crate::support::workload::{FORM, Form};
use crate::support::writ::{Setup, Writ};

fn good() -> Form {
    Form::client_credentials("mailbox.deliver")
}

/// CONTRACT 2
#[test]
fn a_healthy_service_is_live_and_ready() {
    let writ = scene::shared_mailer();
    for path in ["/livez", "/readyz"] {
        let response = writ.site().ops(path);
        assert_eq!((response.status, response.json()), (200, json!({"status": "ok"})), "{path}");
        assert_eq!(response.header("cache-control"), Some("no-store"));
        assert!(response.header("x-request-id").is_some());
    }
}

/// CONTRACT 2
#[test]
fn other_paths_of_the_ops_listener_are_not_found() {
    let writ = scene::shared_mailer();
    for path in ["/", "/token", "/.well-known/jwks.json"] {
        let response = writ.site().ops(path);
        assert_eq!((response.status, response.json()["reason"].as_str()), (404, Some("not_found")));
    }
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

///
#[test]
fn a_request_in_flight_is_answered_before_the_shutdown() {
    let mut writ = scene::mailer();
    let body = good().encode();
    let head = format!(
        "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut session = writ.workload("mailer").connect();
    let (first, rest) = body.split_at(10);
    session.connection.send(format!("{head}{first}").as_bytes()).unwrap();
    // The head has been read, and nothing else is in flight, once a later request is answered and its connection closed.
    let mut later = writ.workload("mailer").connect();
    later.post("/token", &[("Content-Type", FORM), ("Connection", "close")], body.as_bytes()).issued();
    assert!(later.connection.is_ended());
    writ.signal(Signal::TERM);
    let is_draining = |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with("draining"));
    writ.wait_for_log("the shutdown", is_draining);
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

/// The line of a stopped service whose message begins like this.
fn logged(writ: &Writ, message: &str) -> Value {
    let text = writ.log_text();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let begins = |line: &Value| line["message"].as_str().is_some_and(|said| said.starts_with(message));
    lines.into_iter().find(begins).unwrap_or_else(|| panic!("no line {message}:\n{text}"))
}

///
#[test]
fn a_request_that_does_not_end_in_time_is_reported_as_cut_off() {
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

/// An operator who asks for a reload finds in the log that it was done.
#[test]
fn a_reload_without_a_change_is_logged() {
    let writ = scene::mailer();
    let is_about =
        |words: &'static str| move |line: &Value| line["message"].as_str().is_some_and(|m| m.contains(words));
    writ.expect_log("the signal", || writ.hup(), is_about("received the signal to reload the files"));
    writ.wait_for_log("nothing new", is_about("are unchanged"));
    assert!(!writ.audit().iter().any(|line| line["event"] == "policies_reloaded"));
}

/// An invalid filter would make a log without lines.
#[test]
fn an_invalid_log_filter_stops_the_start() {
    for (filter, expected) in [("verbose", "`verbose` is no level"), ("wirt=debug", "did you mean `writ`?")] {
        let setup = Setup::new().client("mailer", MAILER).environment("WRIT_LOG", filter);
        for command in ["serve", "check"] {
            setup.run(&[command]).exits(2).says("environment: WRIT_LOG: must be a level").says(expected);
        }
    }
    let writ = Setup::new().client("mailer", MAILER).environment("WRIT_LOG", "info,writ::service=debug").start();
    writ.workload("mailer").token(&good()).issued();
}

///
#[test]
fn idle_connections_do_not_delay_the_shutdown() {
    let mut writ = Setup::new().client("mailer", MAILER).set("limits.drain_timeout", "20s").start();
    let mut session = writ.workload("mailer").connect();
    session.token(&good()).issued();
    let before = Instant::now();
    assert_eq!(writ.terminate(), 0);
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
}

/// a load balancer learns of the shutdown before a connection is refused.
#[test]
fn a_service_that_is_asked_to_stop_serves_for_the_drain_delay_and_says_that_it_is_not_ready() {
    let mut writ = Setup::new().client("mailer", MAILER).set("limits.drain_delay", "3s").start();
    let mut idle = writ.workload("mailer").connect();
    writ.signal(Signal::TERM);
    eventually("it is not ready", || (writ.site().ops("/readyz").status == 503).then_some(()));
    assert_eq!(writ.site().ops("/readyz").json()["failing"][0], "shutting_down");
    for answer in [idle.token(&good()), writ.workload("mailer").token(&good())] {
        assert_eq!(answer.response.header("connection"), Some("close"));
        answer.issued();
    }
    assert_eq!(writ.wait_for_exit(), 0);
}

///
#[test]
fn a_shutdown_under_load_loses_no_request() {
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

///
#[test]
fn an_ops_listener_on_all_addresses_is_warned_about() {
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

/// A-136, where `/proc` is available.
#[test]
fn the_process_leaves_no_core() {
    let writ = scene::mailer();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", writ.pid()));
    if let Ok(limits) = limits {
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
}

/// The certificate of the peer decides, also for the audit.
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
