//! Policies: what a set may not hold, and how it changes while the service runs (CONTRACT 7; ).

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::scene::{self, ACCOUNTS, GATEWAY, MAILER, PURGE, batch};
use crate::support::eventually;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ, client_policy};

fn deliver(writ: &Writ) -> crate::support::answer::Answer {
    writ.workload("mailer").token(&Form::client_credentials("mailbox.deliver"))
}

/// Fails the test unless `writ check` and the start refuse this policy of `bad`, naming its file.
#[track_caller]
fn refused(policy: &str) {
    let setup = Setup::new().client("bad", policy);
    setup.run(&["check"]).exits(2).says("bad.toml");
}

#[track_caller]
fn taken(policy: &str) {
    Setup::new().client("good", policy).run(&["check"]).exits(0);
}

/// CONTRACT 6: the folder is watched.
#[test]
fn a_new_policy_is_in_force_without_a_signal() {
    let writ = scene::mailer();
    writ.workload("late").token(&Form::client_credentials("mailbox.deliver")).invalid_client("client_unknown");
    writ.setup.write("policies/late.toml", &client_policy("late", MAILER));
    eventually("the new client is known", || {
        (writ.workload("late").token(&Form::client_credentials("mailbox.deliver")).status() == 200).then_some(())
    });
}

/// CONTRACT 8: so is it after `SIGHUP`, at once.
#[test]
fn a_changed_policy_is_in_force_after_a_signal() {
    let writ = scene::mailer();
    writ.change_client("mailer", "");
    deliver(&writ).invalid_scope("purpose_not_allowed");
    writ.change_client("mailer", MAILER);
    deliver(&writ).issued();
}

/// deletion is revocation.
#[test]
fn a_deleted_policy_removes_its_client_without_a_signal() {
    let writ = Setup::new().client("mailer", MAILER).client("other", MAILER).start();
    deliver(&writ).issued();
    fs::remove_file(writ.setup.path("policies/mailer.toml")).unwrap();
    eventually("the client is gone", || (deliver(&writ).status() == 401).then_some(()));
}

/// a broken change is refused as a whole.
#[test]
fn a_broken_change_leaves_the_old_set_in_force() {
    let writ = scene::mailer();
    let broken = client_policy("broken", "[[purpose]]\nscope = \"a\"\naccept = [\"nonsense\"]\n");
    for (file, text) in [
        ("mailer.toml", ""),
        ("mailer.toml", "client_id = \"mailer"),
        ("mailer.toml", "client_id = \"other\""),
        ("broken.toml", &broken),
        ("other-name.toml", &client_policy("some-name", MAILER)),
    ] {
        writ.expect_event("policies_rejected", || {
            writ.setup.write(&format!("policies/{file}"), text);
            writ.setup.write("policies/newcomer.toml", &client_policy("newcomer", MAILER));
            writ.hup();
        });
        deliver(&writ).issued();
        let newcomer = writ.workload("newcomer").token(&Form::client_credentials("mailbox.deliver"));
        newcomer.invalid_client("client_unknown");
        fs::remove_file(writ.setup.path(&format!("policies/{file}"))).unwrap();
        fs::remove_file(writ.setup.path("policies/newcomer.toml")).unwrap();
        writ.setup.write("policies/mailer.toml", &client_policy("mailer", MAILER));
        writ.hup();
    }
    assert!(writ.metric("writ_policy_reload_total", &[("outcome", "rejected")]).unwrap() >= 5.0);
    assert_eq!(writ.site().ops("/readyz").status, 200);
}

/// The last word of the log is not that of a mistake that is mended; from the first one on a counter has risen.
#[test]
fn a_change_that_was_refused_and_is_put_right_is_told() {
    let writ = scene::mailer();
    for outcome in ["ok", "rejected"] {
        for metric in ["writ_policy_reload_total", "writ_tls_reload_total"] {
            assert_eq!(writ.metric(metric, &[("outcome", outcome)]), Some(0.0), "{metric} {outcome}");
        }
    }
    let refuse = || writ.setup.write("policies/mailer.toml", "client_id = ");
    let rejected = writ.expect_event("policies_rejected", refuse);
    assert_eq!(rejected["level"], "ERROR", "{rejected}");
    let told =
        |line: &Value| line["level"] == "INFO" && line.to_string().contains("the files are again what is in force");
    writ.expect_log(
        "the mended set",
        || writ.setup.write("policies/mailer.toml", &client_policy("mailer", MAILER)),
        told,
    );
    assert!(!writ.audit().iter().any(|line| line["event"] == "policies_reloaded"));
    let good = fs::read_to_string(writ.setup.path("certs/ca.pem")).unwrap();
    let refused = |line: &Value| line["level"] == "ERROR" && line.to_string().contains("TLS files is refused");
    writ.expect_log("the broken trust", || writ.setup.write("certs/ca.pem", "nothing"), refused);
    let told = |line: &Value| line["level"] == "INFO" && line.to_string().contains("TLS files that were refused");
    writ.expect_log("the mended trust", || writ.setup.write("certs/ca.pem", &good), told);
    deliver(&writ).issued();
}

/// CONTRACT 6: a folder that is gone is a broken change, not an empty set.
#[test]
fn a_vanished_folder_leaves_the_old_set_in_force() {
    let writ = scene::mailer();
    writ.expect_event("policies_rejected", || {
        fs::rename(writ.setup.path("policies"), writ.setup.path("elsewhere")).unwrap();
        writ.hup();
    });
    deliver(&writ).issued();
}

/// CONTRACT 7
#[test]
fn other_files_in_the_folder_are_left_alone() {
    let setup = Setup::new()
        .client("mailer", MAILER)
        .policy("README.md", "not TOML")
        .policy(".hidden.toml", "not TOML")
        .policy("mailer.toml.bak", "not TOML")
        .policy("schemas/x.toml", "not TOML");
    deliver(&setup.start()).issued();
}

/// CONTRACT 7
#[test]
fn a_file_must_have_its_clients_name() {
    let setup = Setup::new().policy("mailer.toml", &client_policy("other", MAILER));
    setup.run(&["check"]).exits(2).says("mailer.toml");
}

///
#[test]
fn a_file_that_is_no_policy_is_refused_with_its_line() {
    let line_of = |text: &str| {
        let problems = Setup::new().policy("bad.toml", text).run(&["check", "--json"]).exits(2).json();
        assert_eq!(problems["ok"], false);
        let problem = &problems["problems"][0];
        assert!(problem["file"].as_str().unwrap().ends_with("bad.toml"), "{problem}");
        (problem["line"].as_u64(), problem["key"].as_str().map(str::to_owned))
    };
    let head = client_policy("bad", "");
    assert_eq!(line_of(&format!("{head}descriptoin = \"x\"\n")), (Some(3), Some("descriptoin".to_owned())));
    assert_eq!(line_of(&format!("{head}introspect = \"yes\"\n")).0, Some(3));
    assert_eq!(line_of(&format!("{head}client_id = \"bad\"\n")).0, Some(3));
    assert_eq!(line_of(&format!("{head}\n[[purpose]\n")).0, Some(4));
    line_of("");
    let nested = format!("{head}\n[[purpose]]\nscope = \"a\"\naccept = [\"client_credentials\"]\nlifetme = \"1s\"\n");
    assert_eq!(line_of(&nested).0, Some(7));
}

/// CONTRACT 7
#[test]
fn a_client_id_has_a_narrow_form() {
    for id in ["", ".dot", "a b", "a/b", "ä", &"x".repeat(129)] {
        let text = format!("client_id = \"{id}\"\ntls_client_auth_san_uri = \"spiffe://a/b\"\n");
        Setup::new().policy("bad.toml", &text).run(&["check"]).exits(2).says("bad.toml");
    }
}

fn purpose(lines: &str) -> String {
    format!("[[purpose]]\nscope = \"{PURGE}\"\n{lines}\n")
}

/// CONTRACT 7
#[test]
fn a_purpose_has_a_proper_scope_and_sources() {
    taken(&purpose("accept = [\"client_credentials\"]"));
    for bad in
        ["accept = []", "accept = [\"magic\"]", "", "accept = [\"client_credentials\", \"client_credentials\"]\nx = 1"]
    {
        refused(&purpose(bad));
    }
    for scope in ["", "a b", "ä", "a\\\"b"] {
        refused(&format!("[[purpose]]\nscope = \"{scope}\"\naccept = [\"client_credentials\"]\n"));
    }
}

/// CONTRACT 7
#[test]
fn outside_sources_need_a_scope_that_grants() {
    for source in ["access_token", "jwt", "id_token"] {
        refused(&purpose(&format!("accept = [\"{source}\"]")));
        refused(&purpose(&format!("accept = [\"client_credentials\", \"{source}\"]")));
        refused(&purpose(&format!("accept = [\"{source}\"]\ngranted_by = []")));
        taken(&purpose(&format!("accept = [\"{source}\"]\ngranted_by = [\"a\"]")));
    }
}

/// R-POL-08
#[test]
fn a_lifetime_stays_below_the_ceiling() {
    taken(&purpose("accept = [\"client_credentials\"]\nlifetime = \"5m\""));
    for lifetime in ["301s", "0s", "60", "1.5s", "-1s", "1y", ""] {
        refused(&purpose(&format!("accept = [\"client_credentials\"]\nlifetime = \"{lifetime}\"")));
    }
    refused(&purpose("accept = [\"client_credentials\"]\nlifetime = 60"));
}

/// CONTRACT 7
#[test]
fn one_source_cannot_be_in_two_tables_of_a_scope() {
    let table = purpose("accept = [\"client_credentials\"]");
    refused(&format!("{table}{table}"));
    taken(&format!("{table}{}", purpose("accept = [\"access_token\"]\ngranted_by = [\"a\"]")));
}

///
#[test]
fn a_redemption_that_cannot_hold_is_refused() {
    taken(&batch(""));
    for bad in [
        batch("max_uses = 0"),
        batch("max_uses = -1"),
        batch("max_uses = \"3\""),
        batch("min_age = \"91d\""),
        batch("unheard_of = 1"),
        batch("").replace("[\"accounts\"]", "[]"),
        batch("").replace("issued_to = [\"accounts\"]", ""),
        batch("").replace("max_age = \"90d\"", ""),
        batch("").replace("90d", "400d"),
        batch("").replace("90d", "500d"),
        batch("").replace("90d", "0s"),
        batch("").replace("\"accounts\"", "\"a b\""),
    ] {
        refused(&bad);
    }
}

/// CONTRACT 7
#[test]
fn redemption_and_its_source_come_together() {
    refused(&purpose("accept = [\"expired_txn_token\"]"));
    refused(&purpose("accept = [\"txn_token\"]\n[purpose.redemption]\nissued_to = [\"accounts\"]\nmax_age = \"1d\""));
}

/// A-109, R-DELAY-20: holding the token is the evidence that the transaction happened.
#[test]
fn a_client_that_redeems_cannot_get_the_purpose_without_a_token() {
    for source in ["client_credentials", "unsigned_json", "self_signed"] {
        refused(&format!("{}{}", batch(""), purpose(&format!("accept = [\"{source}\"]\nsubjects = [\"*\"]"))));
        refused(&batch("").replace("[\"expired_txn_token\"]", &format!("[\"expired_txn_token\", \"{source}\"]")));
    }
    taken(&format!("{}{}", batch(""), purpose("accept = [\"access_token\"]\ngranted_by = [\"a\"]")));
    taken(&format!("{}{}", batch(""), purpose("accept = [\"client_credentials\"]").replace(PURGE, "account.other")));
}

/// CONTRACT 7
#[test]
fn a_purpose_only_for_redemption_copies_nothing() {
    for line in ["tctx.copy = [\"a\"]", "tctx.fixed = { a = 1 }", "rctx.copy = [\"a\"]", "request_details = \"x.json\""]
    {
        refused(&batch("").replace("[purpose.redemption]", &format!("{line}\n[purpose.redemption]")));
    }
}

/// every problem in one run.
#[test]
fn all_problems_of_all_policies_are_reported() {
    let setup = Setup::new()
        .client("one", &purpose("accept = [\"magic\"]"))
        .client("two", &batch("max_uses = 0"))
        .client("good", MAILER);
    let problems = setup.run(&["check", "--json"]).exits(2).json();
    let files: BTreeSet<String> = problems["problems"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|problem| problem["file"].as_str()?.rsplit('/').next().map(str::to_owned))
        .collect();
    assert_eq!(files, BTreeSet::from(["one.toml".to_owned(), "two.toml".to_owned()]), "{problems}");
    setup.run(&["serve"]).exits(2);
}

/// each request sees one set as a whole.
#[test]
fn requests_in_flight_see_one_set() {
    let version = |subject: &str, lifetime: u64| {
        format!(
            "subject = \"{subject}\"\n[[purpose]]\nscope = \"mailbox.deliver\"\naccept = [\"client_credentials\"]\nlifetime = \"{lifetime}s\"\n"
        )
    };
    let writ = Setup::new().client("mailer", &version("one", 11)).start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut session = writ.workload("mailer").connect();
                while !stop.load(Ordering::SeqCst) {
                    let answer = session.token(&Form::client_credentials("mailbox.deliver"));
                    let (_, claims) =
                        crate::support::jose::decode(answer.response.json()["access_token"].as_str().unwrap());
                    let lifetime = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
                    let seen = (claims["sub"].as_str().unwrap(), lifetime);
                    assert!(seen == ("one", 11) || seen == ("two", 22), "{seen:?}");
                }
            });
        }
        for round in 0..10 {
            let (subject, lifetime) = if round % 2 == 0 { ("two", 22) } else { ("one", 11) };
            writ.change_client("mailer", &version(subject, lifetime));
        }
        stop.store(true, Ordering::SeqCst);
    });
}

/// R-POL-10
#[test]
fn the_set_in_force_has_a_digest() {
    let writ = scene::mailer();
    let digest =
        |writ: &Writ| writ.audit_of(&deliver(writ).issued().request_id)["policies"].as_str().unwrap().to_owned();
    let before = digest(&writ);
    assert_eq!(writ.metric("writ_policies_info", &[("digest", &before)]), Some(1.0));
    assert_eq!(digest(&writ), before);
    writ.change_client("other", MAILER);
    let after = digest(&writ);
    assert_ne!(after, before);
    assert_eq!(writ.metric("writ_policies_info", &[("digest", &after)]), Some(1.0));
    assert!(writ.metric("writ_policy_reload_total", &[("outcome", "ok")]).unwrap() >= 1.0);
}

/// A reload that changes nothing keeps everybody.
#[test]
fn a_reload_without_a_change_keeps_everybody() {
    let writ = Setup::new().client("mailer", MAILER).client("gateway", GATEWAY).client("accounts", ACCOUNTS).start();
    let mut session = writ.workload("mailer").connect();
    for _ in 0..3 {
        writ.hup();
        session.token(&Form::client_credentials("mailbox.deliver")).issued();
    }
    let rejected: Vec<Value> = writ.audit().into_iter().filter(|line| line["event"] == "policies_rejected").collect();
    assert!(rejected.is_empty(), "{rejected:?}");
}
