//! Policies: what they allow, what they may not contain, and how they change while the service runs (CONTRACT 3.6, 7;
//! A-079 to A-081, A-089 to A-091, A-109; area POL). Details and conditions are tested in `details`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use crate::scene::{self, ACCOUNTS, GATEWAY, MAILER, PURGE, batch};
use crate::support::answer::Answer;
use crate::support::eventually;
use crate::support::issuer::Issuer;
use crate::support::now;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ, client_policy};

fn deliver(writ: &Writ) -> Answer {
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

/// CONTRACT 8: `SIGHUP` applies it at once.
#[test]
fn a_changed_policy_is_in_force_after_a_signal() {
    let writ = scene::mailer();
    writ.change_client("mailer", "");
    deliver(&writ).invalid_scope("purpose_not_allowed");
    writ.change_client("mailer", MAILER);
    deliver(&writ).issued();
}

/// A-089
#[test]
fn a_deleted_policy_removes_its_client_without_a_signal() {
    let writ = Setup::new().client("mailer", MAILER).client("other", MAILER).start();
    deliver(&writ).issued();
    fs::remove_file(writ.setup.path("policies/mailer.toml")).unwrap();
    eventually("the client is gone", || (deliver(&writ).status() == 401).then_some(()));
}

/// A-089, R-POL-10: a broken change is refused as a whole.
#[test]
fn a_broken_change_leaves_the_old_set_in_force() {
    let writ = scene::mailer();
    let broken = client_policy("broken", "[[purpose]]\nscope = \"a\"\naccept = [\"nonsense\"]\n");
    let newcomer = || writ.workload("newcomer").token(&Form::client_credentials("mailbox.deliver"));
    for (file, text) in [
        ("mailer.toml", ""),
        ("mailer.toml", "client_id = \"mailer"),
        ("mailer.toml", "client_id = \"other\""),
        ("broken.toml", &broken),
        ("other-name.toml", &client_policy("some-name", MAILER)),
    ] {
        let rejected = writ.expect_event("policies_rejected", || {
            writ.setup.write(&format!("policies/{file}"), text);
            writ.setup.write("policies/newcomer.toml", &client_policy("newcomer", MAILER));
            writ.hup();
        });
        assert!(rejected.to_string().contains(file), "{rejected}");
        deliver(&writ).issued();
        newcomer().invalid_client("client_unknown");
        fs::remove_file(writ.setup.path(&format!("policies/{file}"))).unwrap();
        fs::remove_file(writ.setup.path("policies/newcomer.toml")).unwrap();
        writ.setup.write("policies/mailer.toml", &client_policy("mailer", MAILER));
        writ.hup();
    }
    assert!(writ.metric("writ_policy_reload_total", &[("outcome", "rejected")]).unwrap() >= 5.0);
    assert_eq!(writ.site().ops("/readyz").status, 200);
    writ.change_client("newcomer", MAILER);
    newcomer().issued();
}

/// The log says that a mistake was corrected; the counters exist from the start.
#[test]
fn a_rejected_change_that_is_corrected_is_logged() {
    let writ = scene::mailer();
    for outcome in ["ok", "rejected"] {
        for metric in ["writ_policy_reload_total", "writ_tls_reload_total"] {
            assert_eq!(writ.metric(metric, &[("outcome", outcome)]), Some(0.0), "{metric} {outcome}");
        }
    }
    let write = |file: &str, text: &str| {
        writ.setup.write(file, text);
        writ.hup();
    };
    let refuse = || write("policies/mailer.toml", "client_id = ");
    let rejected = writ.expect_event("policies_rejected", refuse);
    assert_eq!(rejected["level"], "ERROR", "{rejected}");
    let told = |line: &Value| {
        line["level"] == "INFO" && line.to_string().contains("the files are again the policies in force")
    };
    writ.expect_log("the mended set", || write("policies/mailer.toml", &client_policy("mailer", MAILER)), told);
    assert!(!writ.audit().iter().any(|line| line["event"] == "policies_reloaded"));
    let good = fs::read_to_string(writ.setup.path("certs/ca.pem")).unwrap();
    let refused = |line: &Value| line["level"] == "ERROR" && line.to_string().contains("TLS files are refused");
    writ.expect_log("the broken trust", || write("certs/ca.pem", "nothing"), refused);
    let told =
        |line: &Value| line["level"] == "INFO" && line.to_string().contains("the refused TLS files were corrected");
    writ.expect_log("the mended trust", || write("certs/ca.pem", &good), told);
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

/// A-089
#[test]
fn an_invalid_policy_file_is_refused_with_its_line() {
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

/// CONTRACT 7, R-POL-04
#[test]
fn outside_sources_need_granted_by() {
    for source in ["access_token", "jwt", "id_token"] {
        refused(&purpose(&format!("accept = [\"{source}\"]")));
        refused(&purpose(&format!("accept = [\"client_credentials\", \"{source}\"]")));
        refused(&purpose(&format!("accept = [\"{source}\"]\ngranted_by = []")));
        taken(&purpose(&format!("accept = [\"{source}\"]\ngranted_by = [\"a\"]")));
    }
}

/// R-POL-08: `tokens.max_lifetime` is 5 minutes by default and 15 at most.
#[test]
fn a_lifetime_stays_below_the_ceiling() {
    let of = |lifetime: &str| purpose(&format!("accept = [\"client_credentials\"]\nlifetime = \"{lifetime}\""));
    taken(&of("5m"));
    for lifetime in ["301s", "0s", "60", "1.5s", "-1s", "1y", ""] {
        refused(&of(lifetime));
    }
    refused(&purpose("accept = [\"client_credentials\"]\nlifetime = 60"));
    let check = |ceiling: &str, lifetime: &str| {
        Setup::new().client("job", &of(lifetime)).set("tokens.max_lifetime", ceiling).run(&["check"])
    };
    check("5m", "300s").exits(0);
    check("5m", "301s").exits(2).says("lifetime");
    check("15m", "900s").exits(0);
    check("901s", "60s").exits(2).says("max_lifetime");
}

/// CONTRACT 7
#[test]
fn one_source_cannot_be_in_two_tables_of_a_scope() {
    let table = purpose("accept = [\"client_credentials\"]");
    refused(&format!("{table}{table}"));
    taken(&format!("{table}{}", purpose("accept = [\"access_token\"]\ngranted_by = [\"a\"]")));
}

/// A-109, R-DELAY-03
#[test]
fn a_redemption_that_cannot_hold_is_refused() {
    taken(&batch(""));
    for (bad, key) in [
        (batch("max_uses = 0"), "max_uses"),
        (batch("max_uses = -1"), "max_uses"),
        (batch("max_uses = \"3\""), "max_uses"),
        (batch("min_age = \"91d\""), "min_age"),
        (batch("unheard_of = 1"), "unheard_of"),
        (batch("").replace("[\"accounts\"]", "[]"), "issued_to"),
        (batch("").replace("issued_to = [\"accounts\"]", ""), "issued_to"),
        (batch("").replace("\"accounts\"", "\"a b\""), "issued_to"),
        (batch("").replace("\"accounts\"", "\"acc*\""), "issued_to"),
        (batch("").replace("max_age = \"90d\"", ""), "max_age"),
        (batch("").replace("90d", "400d"), "max_age"),
        (batch("").replace("90d", "500d"), "max_age"),
        (batch("").replace("90d", "0s"), "max_age"),
    ] {
        Setup::new().client("bad", &bad).run(&["check"]).exits(2).says("bad.toml").says(key);
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
        let both = format!("{}{}", batch(""), purpose(&format!("accept = [\"{source}\"]\nsubjects = [\"*\"]")));
        for command in ["check", "serve"] {
            Setup::new().client("bad", &both).run(&[command]).exits(2).says("bad.toml").says("accept");
        }
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

/// A-139: every problem in one run.
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

/// A-090: each request sees one set as a whole.
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

/// A-089: as Kubernetes replaces the files of a volume, and as a deployment replaces a folder.
#[test]
fn a_link_or_folder_on_the_way_that_is_replaced_is_noticed_without_a_signal() {
    let setup = Setup::new().set("policies.directory", "volume");
    setup.write("volume/..1/mailer.toml", &client_policy("mailer", ""));
    symlink("..1", setup.path("volume/..data")).unwrap();
    symlink("..data/mailer.toml", setup.path("volume/mailer.toml")).unwrap();
    let writ = setup.start();
    deliver(&writ).invalid_scope("purpose_not_allowed");
    writ.expect_event("policies_reloaded", || {
        writ.setup.write("volume/..2/mailer.toml", &client_policy("mailer", MAILER));
        symlink("..2", writ.setup.path("volume/..data_tmp")).unwrap();
        fs::rename(writ.setup.path("volume/..data_tmp"), writ.setup.path("volume/..data")).unwrap();
    });
    deliver(&writ).issued();
    let policies = writ.setup.path("volume");
    writ.expect_event("policies_rejected", || fs::rename(&policies, writ.setup.path("elsewhere")).unwrap());
    writ.expect_event("policies_reloaded", || writ.setup.write("volume/mailer.toml", &client_policy("mailer", "")));
    deliver(&writ).invalid_scope("purpose_not_allowed");
}

/// A reload that changes nothing keeps every client.
#[test]
fn a_reload_without_a_change_keeps_every_client() {
    let writ = Setup::new().client("mailer", MAILER).client("gateway", GATEWAY).client("accounts", ACCOUNTS).start();
    let mut session = writ.workload("mailer").connect();
    for _ in 0..3 {
        writ.hup();
        session.token(&Form::client_credentials("mailbox.deliver")).issued();
    }
    let rejected: Vec<Value> = writ.audit().into_iter().filter(|line| line["event"] == "policies_rejected").collect();
    assert!(rejected.is_empty(), "{rejected:?}");
}

/// Exchanges access tokens of users.
const ORDERS: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["access_token"]
granted_by = ["orders:write"]
[[purpose]]
scope = "order.view"
accept = ["access_token"]
granted_by = ["orders:read", "orders:write"]
lifetime = "30s"
"#;

/// Presents an access token that covers `covered` as `orders`.
fn exchange(writ: &Writ, issuer: &Issuer, covered: &str, scope: &str) -> Answer {
    let token = issuer.access_token().claim("scope", covered).mint();
    writ.workload("orders").token(&Form::exchange(&token, scope))
}

/// A-079, R-POL-01
#[test]
fn nothing_is_issued_that_no_policy_allows() {
    let issuer = Issuer::start();
    let setup = Setup::new().issuer(&issuer).client("orders", ORDERS).client("mailer", MAILER);
    let writ = setup.client("idle", "").start();
    let token = issuer.access_token().claim("scope", "orders:write").mint();
    let form = Form::exchange(&token, "order.refund");
    writ.workload("orders").token(&form).issued();
    // the client
    writ.workload("nobody").token(&form).invalid_client("client_unknown");
    // its purposes, each of them
    writ.workload("idle").token(&form).invalid_scope("purpose_not_allowed");
    writ.workload("orders").token(&form.clone().set("scope", "order.refund x")).invalid_scope("purpose_not_allowed");
    for scope in ["order.refund", "unheard.of", "mailbox", "Mailbox.deliver", "mailbox.deliver order.refund"] {
        writ.workload("mailer").token(&Form::client_credentials(scope)).invalid_scope("purpose_not_allowed");
    }
    // the type of the subject token
    let plain = Form::client_credentials("order.refund");
    writ.workload("orders").token(&plain).unauthorized_client("source_not_allowed");
    let exchange = form.clone().set("scope", "mailbox.report");
    writ.workload("mailer").token(&exchange).unauthorized_client("source_not_allowed");
    // its issuer
    let other = Form::exchange(&Issuer::start().access_token().mint(), "order.refund");
    writ.workload("orders").token(&other).invalid_request("subject_token_issuer_unknown");
    // the trust domain
    let elsewhere = form.set("audience", "other.example");
    writ.workload("orders").token(&elsewhere).refused(400, "invalid_target", "audience_unknown");
}

/// A-081, R-POL-02, R-POL-03
#[test]
fn all_requested_purposes_are_granted_or_none() {
    let issuer = Issuer::start();
    let writ = Setup::new().issuer(&issuer).client("orders", ORDERS).start();
    assert_eq!(exchange(&writ, &issuer, "orders:write", "order.view").issued().claims["scope"], "order.view");
    let both = exchange(&writ, &issuer, "orders:write", "order.view order.refund").issued();
    assert_eq!(both.claims["scope"], "order.view order.refund");
    assert_eq!(both.exp() - both.iat(), 30, "the shortest lifetime counts");
    for scope in ["order.refund", "order.view order.refund"] {
        exchange(&writ, &issuer, "orders:read", scope).invalid_scope("scope_exceeds_subject_token");
    }
    for scope in ["order.unheard", "order.view order.unheard"] {
        exchange(&writ, &issuer, "orders:write", scope).invalid_scope("purpose_not_allowed");
    }
}

/// R-POL-04
#[test]
fn an_outside_scope_grants_what_granted_by_says_and_nothing_by_equal_spelling() {
    let issuer = Issuer::start();
    let writ = Setup::new().issuer(&issuer).client("orders", ORDERS).start();
    exchange(&writ, &issuer, "order.refund order.view", "order.refund").invalid_scope("scope_exceeds_subject_token");
    exchange(&writ, &issuer, "orders:read", "order.view").issued();
    exchange(&writ, &issuer, "other orders:write", "order.view order.refund").issued();
    let silent = ORDERS.replace("granted_by = [\"orders:write\"]\n", "");
    Setup::new().issuer(&issuer).client("orders", &silent).run(&["check"]).exits(2).says("granted_by");
}

/// R-POL-01
#[test]
fn a_policy_can_take_tokens_of_one_issuer_only() {
    let (issuer, other) = (Issuer::start(), Issuer::start());
    let only = trade(&format!("when = 'subject.claims.iss == \"{}\"'\n", issuer.url()));
    let prefixed = |table: &mut toml::Table| drop(table.insert("subject_prefix".into(), "other:".into()));
    let setup = Setup::new().issuer(&issuer).issuer_with(&other, prefixed);
    let writ = setup.client("gateway", &only).start();
    let ask = |issuer: &Issuer| writ.workload("gateway").token(&Form::exchange(&issuer.access_token().mint(), "trade"));
    ask(&issuer).issued();
    ask(&other).invalid_scope("condition_failed");
}

fn trade(more: &str) -> String {
    format!("[[purpose]]\nscope = \"trade\"\naccept = [\"access_token\"]\ngranted_by = [\"trade.stocks\"]\n{more}")
}

/// R-POL-09: the setting is `outlive`, and an outside token lasts for the tolerated skew of 10 s beyond its `exp`.
#[test]
fn a_txn_token_ends_with_its_subject_token_unless_the_policy_lets_it_outlive() {
    let issuer = Issuer::start();
    let exp = now() + 20;
    let form = Form::exchange(&issuer.access_token().claim("exp", exp).mint(), "trade");
    let setup = Setup::new().issuer(&issuer).client("gateway", &trade(""));
    let writ = setup.client("outliving", &trade("outlive = true\n")).start();
    assert_eq!(writ.workload("gateway").token(&form).issued().exp(), exp + 10);
    let longer = writ.workload("outliving").token(&form).issued();
    assert_eq!(longer.exp(), longer.iat() + 60);
    // Where the lifetime ends first, it counts.
    let form = Form::exchange(&issuer.access_token().mint(), "trade");
    let issued = writ.workload("gateway").token(&form).issued();
    assert_eq!(issued.exp(), issued.iat() + 60);
}
