//! Area POL: who may have what, and for how long.

use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::issuer::Issuer;
use crate::support::jose::Key;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ, client_policy};
use crate::support::{ISSUER, now};

/// Brings access tokens of users.
const GATEWAY: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["access_token"]
granted_by = ["orders:write"]
[[purpose]]
scope = "order.view"
accept = ["access_token"]
granted_by = ["orders:read", "orders:write"]
"#;

/// Asks for itself.
const JOB: &str = "[[purpose]]\nscope = \"mail.report\"\naccept = [\"client_credentials\"]\n";

/// Acts for others on its word.
const AGENT: &str = r#"
[[purpose]]
scope = "mail.send"
accept = ["unsigned_json", "self_signed", "client_credentials"]
subjects = ["*@trust-domain.example"]
[[purpose]]
scope = "mail.sort"
accept = ["unsigned_json", "self_signed", "client_credentials"]
"#;

fn gateway(issuer: &Issuer) -> Setup {
    Setup::new().issuer(issuer).client("gateway", GATEWAY)
}

/// Presents an access token that covers `covered`.
fn ask(writ: &Writ, issuer: &Issuer, covered: &str, scope: &str) -> Answer {
    let token = issuer.access_token().claim("scope", covered).mint();
    writ.workload("gateway").token(&Form::exchange(&token, scope))
}

fn report(writ: &Writ) -> Answer {
    writ.workload("job").token(&Form::client_credentials("mail.report"))
}

/// R-POL-01
#[test]
fn nothing_is_issued_that_no_policy_names() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer).client("job", JOB).client("idle", "").start();
    let token = issuer.access_token().claim("scope", "orders:write").mint();
    let form = Form::exchange(&token, "order.refund");
    writ.workload("gateway").token(&form).issued();
    // the client
    writ.workload("stranger").token(&form).invalid_client("client_unknown");
    // its purposes, each of them
    writ.workload("idle").token(&form).invalid_scope("purpose_not_allowed");
    writ.workload("gateway").token(&form.clone().set("scope", "order.refund x")).invalid_scope("purpose_not_allowed");
    // the type of the subject token
    let plain = Form::client_credentials("order.refund");
    writ.workload("gateway").token(&plain).unauthorized_client("source_not_allowed");
    let exchange = form.clone().set("scope", "mail.report");
    writ.workload("job").token(&exchange).unauthorized_client("source_not_allowed");
    // its issuer
    let other = Form::exchange(&Issuer::start().access_token().mint(), "order.refund");
    writ.workload("gateway").token(&other).invalid_request("subject_token_issuer_unknown");
    // the trust domain
    let elsewhere = form.set("audience", "other.example");
    writ.workload("gateway").token(&elsewhere).refused(400, "invalid_target", "audience_unknown");
}

/// R-POL-01
#[test]
fn a_policy_can_take_tokens_of_one_issuer_only() {
    let (issuer, other) = (Issuer::start(), Issuer::start());
    let only = purpose(&format!("when = 'subject.claims.iss == \"{}\"'\n", issuer.url()));
    let prefixed = |table: &mut toml::Table| drop(table.insert("subject_prefix".into(), "other:".into()));
    let setup = Setup::new().issuer(&issuer).issuer_with(&other, prefixed);
    let writ = setup.client("gateway", &only).start();
    let ask = |issuer: &Issuer| writ.workload("gateway").token(&Form::exchange(&issuer.access_token().mint(), "trade"));
    ask(&issuer).issued();
    ask(&other).invalid_scope("condition_failed");
}

/// R-POL-02
#[test]
fn the_scope_is_what_was_asked_for_and_what_the_subject_token_supports() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer).start();
    assert_eq!(ask(&writ, &issuer, "orders:write", "order.view").issued().claims["scope"], "order.view");
    ask(&writ, &issuer, "orders:read", "order.refund").invalid_scope("scope_exceeds_subject_token");
    ask(&writ, &issuer, "orders:write", "order.unheard").invalid_scope("purpose_not_allowed");
}

/// R-POL-03
#[test]
fn all_requested_purposes_are_granted_or_none() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer).start();
    let both = ask(&writ, &issuer, "orders:write", "order.view order.refund").issued();
    assert_eq!(both.claims["scope"], "order.view order.refund");
    ask(&writ, &issuer, "orders:read", "order.view order.refund").invalid_scope("scope_exceeds_subject_token");
    ask(&writ, &issuer, "orders:write", "order.view order.unheard").invalid_scope("purpose_not_allowed");
}

/// R-POL-04
#[test]
fn outside_scopes_grant_what_the_map_says_and_equal_spelling_nothing() {
    let issuer = Issuer::start();
    let writ = gateway(&issuer).start();
    ask(&writ, &issuer, "order.refund order.view", "order.refund").invalid_scope("scope_exceeds_subject_token");
    ask(&writ, &issuer, "orders:read", "order.view").issued();
    ask(&writ, &issuer, "other orders:write", "order.view order.refund").issued();
    let silent = GATEWAY.replace("granted_by = [\"orders:write\"]\n", "");
    gateway(&issuer).client("gateway", &silent).run(&["check"]).exits(2).says("granted_by");
}

/// R-POL-05
#[test]
fn a_token_that_does_not_tell_its_scope_covers_nothing() {
    let issuer = Issuer::start();
    let form = Form::exchange(&issuer.access_token().without("scope").mint(), "order.refund");
    let writ = gateway(&issuer).start();
    writ.workload("gateway").token(&form).invalid_scope("scope_unknown");
    // What the operator says of the issuer is the only other word.
    let setup = Setup::new().issuer_with(&issuer, |table| {
        table.insert("scopes".into(), vec!["orders:write"].into());
    });
    setup.client("gateway", GATEWAY).start().workload("gateway").token(&form).issued();
}

/// R-POL-05
#[test]
fn types_without_a_scope_need_a_grant_of_subjects_and_purposes() {
    let writ = Setup::new().client("agent", AGENT).start();
    let ask = |scope: &str, sub: &str| {
        let kind = "urn:ietf:params:oauth:token-type:unsigned_json";
        let exchange = Form::token_exchange(&json!({"sub": sub}).to_string(), kind, scope);
        let named = Form::client_credentials(scope).set("requested_subject", sub);
        [exchange, named].map(|form| writ.workload("agent").token(&form))
    };
    for answer in ask("mail.send", "ann@trust-domain.example") {
        answer.issued();
    }
    for answer in ask("mail.send", "ann@other.example").iter().chain(&ask("mail.sort", "ann@trust-domain.example")) {
        answer.unauthorized_client("subject_not_allowed");
    }
}

/// What a purpose makes of what was sent along.
const MAPPING: &str = r#"
request_details = "trade.json"
tctx.copy = ["action", "quantity", "desk", "level"]
tctx.fixed = { desk = "retail" }
tctx.subject = { level = "level" }
"#;

const SCHEMA: &str = r#"{
  "required": ["action"],
  "properties": {
    "action": {"enum": ["buy", "sell"]},
    "quantity": {"type": "integer", "minimum": 1, "maximum": 1000},
    "ticker": {"type": "string", "pattern": "^[A-Z]{1,5}$"}
  }
}"#;

fn purpose(more: &str) -> String {
    format!("[[purpose]]\nscope = \"trade\"\naccept = [\"access_token\"]\ngranted_by = [\"trade.stocks\"]\n{more}")
}

/// `edge`, which may say where a request came from, and `inner`, which may not.
fn trading(issuer: &Issuer) -> Writ {
    let setup = Setup::new().issuer(issuer);
    setup.write("policies/trade.json", SCHEMA);
    let edge = purpose(&format!("{MAPPING}rctx.copy = [\"req_ip\"]\n"));
    setup.client("edge", &edge).client("inner", &purpose(MAPPING)).client("bare", &purpose("")).start()
}

fn trade(writ: &Writ, issuer: &Issuer, client: &str, details: &Value) -> Answer {
    let token = issuer.access_token().claim("level", "gold").mint();
    let form = Form::exchange(&token, "trade")
        .set("request_details", &details.to_string())
        .set("request_context", r#"{"req_ip":"192.0.2.1","other":1}"#);
    writ.workload(client).token(&form)
}

/// R-POL-06
#[test]
fn members_are_copied_by_rules_of_each_client_and_all_others_dropped() {
    let issuer = Issuer::start();
    let writ = trading(&issuer);
    let details = json!({"action": "buy", "ticker": "ACME"});
    let edge = trade(&writ, &issuer, "edge", &details).issued();
    assert_eq!(edge.claims["rctx"], json!({"req_ip": "192.0.2.1"}));
    assert_eq!(edge.claims["tctx"], json!({"action": "buy", "desk": "retail", "level": "gold"}));
    assert_eq!(trade(&writ, &issuer, "inner", &details).issued().claims.get("rctx"), None);
    let bare = trade(&writ, &issuer, "bare", &details).issued();
    assert_eq!((bare.claims.get("rctx"), bare.claims.get("tctx")), (None, None));
}

/// R-POL-07: the answer is `invalid_scope` with `details_rejected`, as the contract has it.
#[test]
fn members_can_be_required_and_constrained_and_the_answer_names_the_member_only() {
    let issuer = Issuer::start();
    let writ = trading(&issuer);
    trade(&writ, &issuer, "edge", &json!({"action": "buy", "quantity": 1000})).issued();
    trade(&writ, &issuer, "edge", &json!({"quantity": 1})).invalid_scope("details_rejected");
    for (member, value) in
        [("action", json!("keep-this")), ("quantity", json!(1001)), ("quantity", json!("7")), ("ticker", json!("acme"))]
    {
        let mut details = json!({"action": "buy"});
        details[member] = value.clone();
        let refused = trade(&writ, &issuer, "edge", &details).invalid_scope("details_rejected");
        let text = refused.answer["error_description"].as_str().unwrap();
        assert!(text.contains(member) && !text.contains(value.to_string().trim_matches('"')), "{text}");
    }
}

/// R-POL-07
#[test]
fn what_a_policy_fixes_or_looks_up_overrides_what_was_sent() {
    let issuer = Issuer::start();
    let writ = trading(&issuer);
    let details = json!({"action": "buy", "desk": "prop", "level": "platinum"});
    let issued = trade(&writ, &issuer, "edge", &details).issued();
    assert_eq!(issued.claims["tctx"], json!({"action": "buy", "desk": "retail", "level": "gold"}));
}

/// R-POL-08
#[test]
fn a_lifetime_is_a_minute_unless_the_purpose_says_otherwise() {
    let other = "[[purpose]]\nscope = \"mail.index\"\naccept = [\"client_credentials\"]\nlifetime = \"5m\"\n";
    let writ = Setup::new().client("job", &format!("{JOB}{other}")).start();
    let lifetime = |scope: &str| {
        let issued = writ.workload("job").token(&Form::client_credentials(scope)).issued();
        issued.exp() - issued.iat()
    };
    assert_eq!((lifetime("mail.report"), lifetime("mail.index")), (60, 300));
    assert_eq!(lifetime("mail.index mail.report"), 60, "the shortest counts");
}

/// R-POL-08
#[test]
fn no_lifetime_exceeds_the_ceiling_and_no_ceiling_fifteen_minutes() {
    let check = |ceiling: &str, lifetime: &str| {
        let setup = Setup::new().client("job", &format!("{JOB}lifetime = \"{lifetime}\"\n"));
        setup.set("tokens.max_lifetime", ceiling).run(&["check"])
    };
    check("5m", "300s").exits(0);
    check("5m", "301s").exits(2).says("lifetime");
    check("15m", "900s").exits(0);
    check("901s", "60s").exits(2).says("max_lifetime");
    Setup::new().client("job", &format!("{JOB}lifetime = \"301s\"\n")).run(&["check"]).exits(2).says("lifetime");
}

/// R-POL-09: the setting is `outlive`, and an outside token lasts for the tolerated skew of 10 s beyond its `exp`.
#[test]
fn a_txn_token_ends_with_its_subject_token_unless_the_policy_lets_it_outlive() {
    let issuer = Issuer::start();
    let exp = now() + 20;
    let form = Form::exchange(&issuer.access_token().claim("exp", exp).mint(), "trade");
    let setup = Setup::new().issuer(&issuer).client("gateway", &purpose(""));
    let writ = setup.client("outliving", &purpose("outlive = true\n")).start();
    assert_eq!(writ.workload("gateway").token(&form).issued().exp(), exp + 10);
    let longer = writ.workload("outliving").token(&form).issued();
    assert_eq!(longer.exp(), longer.iat() + 60);
    // Where the lifetime ends first, it counts.
    let form = Form::exchange(&issuer.access_token().mint(), "trade");
    let issued = writ.workload("gateway").token(&form).issued();
    assert_eq!(issued.exp(), issued.iat() + 60);
}

/// R-POL-10
#[test]
fn an_invalid_change_is_rejected_as_a_whole_and_the_old_set_serves_on() {
    let writ = Setup::new().client("job", JOB).start();
    let rejected = writ.expect_event("policies_rejected", || {
        writ.setup.write("policies/newcomer.toml", &client_policy("newcomer", JOB));
        writ.setup.write("policies/job.toml", &client_policy("job", "[[purpose]]\nscope = \"mail.report\"\n"));
        writ.hup();
    });
    assert!(rejected.to_string().contains("job.toml"), "{rejected}");
    assert!(writ.metric("writ_policy_reload_total", &[("outcome", "rejected")]).unwrap() >= 1.0);
    report(&writ).issued();
    let form = Form::client_credentials("mail.report");
    writ.workload("newcomer").token(&form).invalid_client("client_unknown");
    writ.change_client("job", JOB);
    writ.workload("newcomer").token(&form).issued();
}

/// R-POL-10
#[test]
fn the_audit_names_the_set_of_policies_by_which_it_was_decided() {
    let writ = Setup::new().client("job", JOB).start();
    let digest = || writ.audit_of(&report(&writ).issued().request_id)["policies"].clone();
    let before = digest();
    assert!(before.is_string());
    assert_eq!(digest(), before);
    writ.change_client("other", JOB);
    let after = digest();
    assert_ne!(after, before);
    assert_eq!(writ.metric("writ_policies_info", &[("digest", after.as_str().unwrap())]), Some(1.0));
}

/// R-POL-11
#[test]
fn a_second_instance_on_the_same_store_does_not_start() {
    let writ = Setup::new().client("job", JOB).start();
    writ.run(&["serve"]).exits(2).says("data");
    report(&writ).issued();
}

/// R-POL-11
#[test]
fn the_keys_of_one_trust_domain_sign_for_no_other() {
    let mut writ = Setup::new().client("job", JOB).start();
    assert_eq!(writ.terminate(), 0);
    writ.setup.change("trust_domain", "other.example");
    writ.run(&["serve"]).exits(2).says("the store belongs to the trust domain");
}

/// R-POL-11
#[test]
fn issuer_keys_and_spent_single_uses_are_those_of_the_trust_domain_not_of_a_process() {
    let mut writ = Setup::new().client("agent", AGENT).start();
    let credentials = writ.setup.credentials("agent");
    let key = Key::of(&credentials, "unused");
    let claims = json!({
        "iss": "agent", "sub": "ann@trust-domain.example", "aud": ISSUER, "iat": now(),
        "exp": now() + 60, "jti": "1"
    });
    let token = key.token(r#"{"alg":"ES256"}"#, &claims.to_string());
    let form = Form::token_exchange(&token, "urn:ietf:params:oauth:token-type:self_signed", "mail.send");
    let own = Form::client_credentials("mail.sort");
    writ.workload_with(&credentials).token(&form).issued();
    let before = writ.workload("agent").token(&own).issued();
    writ.restart();
    writ.workload_with(&credentials).token(&form).invalid_request("subject_token_replayed");
    let after = writ.workload("agent").token(&own).issued();
    assert_eq!((after.kid(), &after.claims["iss"]), (before.kid(), &before.claims["iss"]));
}

/// R-POL-12
#[test]
fn requests_can_be_limited_for_each_client() {
    let setup = Setup::new().client("job", JOB).client("other", JOB).set("limits.requests_per_second_per_client", 2);
    let writ = setup.start();
    let mut session = writ.workload("job").connect();
    let form = Form::client_credentials("mail.report");
    let limited = (0..100).map(|_| session.token(&form)).find(|answer| answer.status() != 200);
    limited.expect("100 requests are more than 2 a second").refused(429, "temporarily_unavailable", "rate_limited");
    writ.workload("other").token(&form).issued();
}

/// R-POL-12
#[test]
fn a_decision_can_be_tried_and_explained_without_the_service() {
    let setup = Setup::new().client("job", JOB);
    let explain = |scope: &str| {
        let request = ["--client", "job", "--source", "client_credentials", "--scope", scope, "--json"];
        setup.run(&[&["policy", "explain"], &request[..]].concat())
    };
    let allowed = explain("mail.report").exits(0).json();
    assert_eq!((&allowed["allowed"], &allowed["claims"]["scope"]), (&json!(true), &json!("mail.report")));
    let refused = explain("mail.other").exits(1).json();
    assert_eq!((&refused["allowed"], &refused["reason"]), (&json!(false), &json!("purpose_not_allowed")));
    let last = refused["rules"].as_array().and_then(|rules| rules.last()).expect("rules");
    assert_eq!((&last["rule"], &last["passed"]), (&json!("scope"), &json!(false)));
}
