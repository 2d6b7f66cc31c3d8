//! A live Txn-Token is replaced by another of its transaction (CONTRACT 3.4; R-SUBJ-19 to R-SUBJ-25; A-110, A-111).

use serde_json::json;

use crate::support::answer::{Answer, Issued};
use crate::support::issuer::Issuer;
use crate::support::wait_until;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

/// Asks first; its tokens carry details.
const EDGE: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["client_credentials"]
subjects = ["*"]
lifetime = "50s"
request_details = "order.json"
tctx.copy = ["order", "amount"]
rctx.copy = ["req_ip"]

[[purpose]]
scope = "order.view"
accept = ["client_credentials"]
subjects = ["*"]
"#;

const ORDERS: &str = r#"
[[purpose]]
scope = "order.refund"
accept = ["txn_token"]
request_details = "order.json"
tctx.copy = ["order", "amount", "note"]
rctx.copy = ["req_ip", "host"]

[[purpose]]
scope = "order.view"
accept = ["txn_token"]
lifetime = "5m"
outlive = true

[[purpose]]
scope = "order.delete"
accept = ["txn_token"]
"#;

fn setup() -> Setup {
    let setup = Setup::new();
    setup.write("policies/order.json", "{}");
    setup.client("edge", EDGE).client("orders", ORDERS).client("ledger", ORDERS)
}

fn begin(writ: &Writ, scope: &str) -> Issued {
    let form = Form::client_credentials(scope)
        .set("requested_subject", "ann")
        .set("request_details", r#"{"order":"A-1","amount":0.10}"#)
        .set("request_context", r#"{"req_ip":"192.0.2.1"}"#);
    writ.workload("edge").token(&form).issued()
}

fn form(token: &Issued, scope: &str) -> Form {
    Form::redeem(&token.token, scope)
}

fn replace(writ: &Writ, client: &str, token: &Issued, scope: &str) -> Answer {
    writ.workload(client).token(&form(token, scope))
}

/// R-SUBJ-20, R-SUBJ-22, R-SUBJ-24, R-SUBJ-25, R-CLAIM-07: the chain is there from the first replacement on, it comes
/// from no request, and the log leads from the old token to the new one.
#[test]
fn the_transaction_goes_on_unchanged_and_the_chain_grows() {
    let writ = setup().start();
    let first = begin(&writ, "order.refund");
    let second = replace(&writ, "orders", &first, "order.refund").issued();
    assert_eq!(
        second.claims,
        json!({
            "iss": crate::support::ISSUER, "iat": second.iat(), "exp": first.exp(), "aud": "trust-domain.example",
            "txn": first.txn(), "sub": "ann", "scope": "order.refund", "req_wl": "orders",
            "req_wl_chain": ["edge", "orders"], "tctx": {"order": "A-1", "amount": 0.1}, "rctx": {"req_ip": "192.0.2.1"},
        })
    );
    assert_eq!(second.typed.tctx.raw("amount"), Some("0.10"), "digit for digit");
    assert_eq!((&first.claims["req_wl"], first.claims.get("req_wl_chain")), (&json!("edge"), None));
    let pretending = form(&second, "order.refund")
        .set("req_wl_chain", r#"["mallory"]"#)
        .set("request_context", r#"{"req_wl_chain":["mallory"]}"#);
    let third = writ.workload("ledger").token(&pretending).issued();
    assert_eq!(third.claims["req_wl"], "ledger");
    assert_eq!(third.claims["req_wl_chain"], json!(["edge", "orders", "ledger"]));
    let audit = writ.audit_of(&second.request_id);
    assert_eq!((&audit["source"], &audit["txn"]), (&json!("txn_token"), &json!(first.txn())));
    assert_eq!(audit["subject_token_sha256"], writ.audit_of(&first.request_id)["token_sha256"]);
    assert_ne!(audit["token_sha256"], audit["subject_token_sha256"]);
    assert!(audit.get("delayed_by").is_none());
}

/// R-SUBJ-21, A-110
#[test]
fn the_scope_stays_or_shrinks_and_never_grows() {
    let writ = setup().start();
    let both = begin(&writ, "order.refund order.view");
    let less = replace(&writ, "orders", &both, "order.view").issued();
    assert_eq!(less.claims["scope"], "order.view");
    replace(&writ, "orders", &less, "order.refund").invalid_scope("scope_exceeds_subject_token");
    replace(&writ, "orders", &less, "order.view order.refund").invalid_scope("scope_exceeds_subject_token");
    replace(&writ, "orders", &both, "order.delete").invalid_scope("scope_exceeds_subject_token");
    replace(&writ, "orders", &both, "order.cancel").invalid_scope("purpose_not_allowed");
    assert_eq!(
        replace(&writ, "orders", &both, "order.view order.refund").issued().claims["scope"],
        "order.view order.refund"
    );
}

/// R-SUBJ-19
#[test]
fn replacement_is_off_unless_the_purpose_accepts_it() {
    let writ = setup().start();
    let first = begin(&writ, "order.refund");
    replace(&writ, "edge", &first, "order.refund").unauthorized_client("source_not_allowed");
    replace(&writ, "orders", &first, "order.refund").issued();
}

/// R-SUBJ-22, A-110
#[test]
fn members_may_be_added_or_repeated_and_never_changed() {
    let writ = setup().start();
    let first = begin(&writ, "order.refund");
    let with = |details: &str, context: &str| {
        let form = form(&first, "order.refund").set("request_details", details).set("request_context", context);
        writ.workload("orders").token(&form)
    };
    let added = with(r#"{"amount":1e-1,"note":"n","other":1}"#, r#"{"host":"h","req_ip":"192.0.2.1"}"#).issued();
    assert_eq!(added.typed.tctx.raw("amount"), Some("0.10"));
    assert_eq!(added.claims["tctx"], json!({"order": "A-1", "amount": 0.1, "note": "n"}));
    assert_eq!(added.claims["rctx"], json!({"req_ip": "192.0.2.1", "host": "h"}));
    for (details, context) in [
        (r#"{"amount":0.11}"#, "{}"),
        (r#"{"amount":"0.10"}"#, "{}"),
        (r#"{"order":null}"#, "{}"),
        ("{}", r#"{"req_ip":"192.0.2.2"}"#),
    ] {
        with(details, context).invalid_scope("details_rejected");
    }
}

/// A-110: what a policy fixes is a value like any other.
#[test]
fn a_fixed_member_does_not_overwrite() {
    let fixing = ORDERS.replacen("request_details", "tctx.fixed = { order = \"B-2\" }\nrequest_details", 1);
    let writ = setup().client("fixing", &fixing).start();
    let first = begin(&writ, "order.refund");
    replace(&writ, "fixing", &first, "order.refund").invalid_scope("details_rejected");
}

/// R-SUBJ-25, A-110: the old `exp`, unless the purpose outlives.
#[test]
fn a_replacement_outlives_the_token_only_where_the_purpose_says_so() {
    let writ = setup().start();
    let first = begin(&writ, "order.refund order.view");
    assert_eq!(replace(&writ, "orders", &first, "order.refund").issued().exp(), first.exp());
    let longer = replace(&writ, "orders", &first, "order.view").issued();
    assert_eq!(longer.exp(), longer.iat() + 300);
    // Several purposes outlive only together.
    assert_eq!(replace(&writ, "orders", &first, "order.view order.refund").issued().exp(), first.exp());
}

/// R-SUBJ-24, R-SUBJ-25, A-110
#[test]
fn the_fifth_replacement_is_one_too_many() {
    let writ = setup().start();
    let mut token = begin(&writ, "order.refund");
    for client in ["orders", "ledger", "orders", "ledger"] {
        token = replace(&writ, client, &token, "order.refund").issued();
    }
    assert_eq!(token.claims["req_wl_chain"], json!(["edge", "orders", "ledger", "orders", "ledger"]));
    replace(&writ, "orders", &token, "order.refund").invalid_request("replacement_limit");
}

/// CONTRACT 3.4: counted along the chain. A service calls several others, and asks again when an answer got lost.
#[test]
fn branches_of_a_transaction_count_each_for_itself() {
    let writ = setup().set("tokens.max_replacements", 2).start();
    let first = begin(&writ, "order.refund");
    let branches: Vec<Issued> = (0..6).map(|_| replace(&writ, "orders", &first, "order.refund").issued()).collect();
    for branch in &branches {
        assert_eq!((branch.txn(), &branch.claims["req_wl_chain"]), (first.txn(), &json!(["edge", "orders"])));
        let last = replace(&writ, "ledger", branch, "order.refund").issued();
        assert_eq!(last.exp(), first.exp(), "no branch outlives the token that it began with");
        replace(&writ, "orders", &last, "order.refund").invalid_request("replacement_limit");
    }
    replace(&writ, "ledger", &first, "order.refund").issued();
}

#[test]
fn the_number_of_replacements_is_a_setting() {
    let writ = setup().set("tokens.max_replacements", 0).start();
    let first = begin(&writ, "order.refund");
    replace(&writ, "orders", &first, "order.refund").invalid_request("replacement_limit");
}

/// R-SUBJ-02, R-SUBJ-23
#[test]
fn an_expired_token_is_not_replaced() {
    let brief = EDGE.replacen("50s", "1s", 1);
    let writ = setup().client("brief", &brief).start();
    let form = Form::client_credentials("order.refund").set("requested_subject", "ann");
    let first = writ.workload("brief").token(&form).issued();
    first.wait_until_expired();
    let refused = replace(&writ, "orders", &first, "order.refund").invalid_request("subject_token_expired");
    assert_eq!(refused.answer["expired_at"], first.exp());
}

/// CONTRACT 3.4, R-DELAY-14
#[test]
fn a_redeemed_token_is_not_replaced() {
    let edge = EDGE.replacen("50s", "1s", 1);
    let job = "[[purpose]]\nscope = \"order.refund\"\naccept = [\"expired_txn_token\", \"txn_token\"]\n\
               [purpose.redemption]\nissued_to = [\"edge\"]\nmax_age = \"1d\"\n";
    let writ = setup().client("edge", &edge).client("job", job).start();
    let form = Form::client_credentials("order.refund").set("requested_subject", "ann");
    let first = writ.workload("edge").token(&form).issued();
    // While it lives, the same client may replace it.
    first.wait_until_expired();
    let redeemed = replace(&writ, "job", &first, "order.refund").issued();
    assert_eq!(redeemed.use_number(), Some(1));
    for client in ["job", "orders"] {
        replace(&writ, client, &redeemed, "order.refund").unauthorized_client("redemption_not_allowed");
    }
}

/// CONTRACT 3.5: what replaced a token can be redeemed in its place, and both share their uses.
#[test]
fn a_replaced_token_goes_on_record_for_whoever_may_redeem_it() {
    let orders = ORDERS.replacen("accept = [\"txn_token\"]", "accept = [\"txn_token\"]\nlifetime = \"1s\"", 1);
    let job = "[[purpose]]\nscope = \"order.refund\"\naccept = [\"expired_txn_token\"]\nlifetime = \"1s\"\n\
               [purpose.redemption]\nissued_to = [\"edge\", \"orders\"]\nmax_age = \"1d\"\n";
    let edge = EDGE.replacen("50s", "2s", 1);
    let writ = setup().client("edge", &edge).client("orders", &orders).client("job", job).start();
    let form = Form::client_credentials("order.refund").set("requested_subject", "ann");
    let first = writ.workload("edge").token(&form).issued();
    let second = replace(&writ, "orders", &first, "order.refund").issued();
    assert_eq!(second.answer["redeemable_until"], second.exp() + 86_400);
    first.wait_until_expired();
    let redeemed = replace(&writ, "job", &second, "order.refund").issued();
    assert_eq!(redeemed.claims["req_wl_chain"], json!(["edge", "orders", "job"]));
    redeemed.wait_until_expired();
    replace(&writ, "job", &first, "order.refund").invalid_request("redemption_exhausted");
}

/// A-091: the current policy applies.
#[test]
fn a_client_whose_policy_is_gone_replaces_nothing() {
    let writ = setup().start();
    let first = begin(&writ, "order.refund");
    replace(&writ, "orders", &first, "order.refund").issued();
    writ.change_client("orders", "[[purpose]]\nscope = \"order.view\"\naccept = [\"txn_token\"]\n");
    replace(&writ, "orders", &first, "order.refund").invalid_scope("purpose_not_allowed");
    writ.change_policy("orders.toml", None);
    replace(&writ, "orders", &first, "order.refund").invalid_client("client_unknown");
}

/// A-064, A-107, A-112, R-SUBJ-05, R-SUBJ-19: only a Txn-Token of this service, signed by a published key.
#[test]
fn only_a_valid_txn_token_of_this_service_is_replaced() {
    let issuer = Issuer::start();
    let writ = setup().issuer(&issuer).start();
    let first = begin(&writ, "order.refund");
    let ask = |token: &str| writ.workload("orders").token(&Form::redeem(token, "order.refund"));
    ask(&issuer.access_token().mint()).invalid_request("subject_token_malformed");
    let retyped = issuer.access_token().header("typ", "txntoken+jwt").mint();
    ask(&retyped).invalid_request("subject_token_key_unknown");
    let (signed_part, signature) = first.token.rsplit_once('.').unwrap();
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    ask(&format!("{signed_part}.{other}{}", &signature[1..])).invalid_request("subject_token_signature_invalid");
    let elsewhere = setup().start();
    let foreign = begin(&elsewhere, "order.refund");
    ask(&foreign.token).invalid_request("subject_token_key_unknown");
    let audience = form(&first, "order.refund").set("audience", "other.example");
    writ.workload("orders").token(&audience).refused(400, "invalid_target", "audience_unknown");
    // It is accepted as no other type either.
    for kind in ["access_token", "jwt", "id_token", "self_signed"] {
        let form =
            Form::token_exchange(&first.token, &format!("urn:ietf:params:oauth:token-type:{kind}"), "order.refund");
        writ.workload("orders").token(&form).unauthorized_client("source_not_allowed");
    }
}

/// R-SUBJ-20
#[test]
fn nothing_in_a_request_changes_transaction_subject_or_audience() {
    let writ = setup().start();
    let first = begin(&writ, "order.refund");
    let members = r#"{"txn":"t-1","sub":"mallory","aud":"other.example"}"#;
    let form = Form::redeem(&first.token, "order.refund")
        .set("request_details", members)
        .set("request_context", members)
        .set("txn", "t-1")
        .set("sub", "mallory");
    let second = writ.workload("orders").token(&form).issued();
    for name in ["txn", "sub", "aud"] {
        assert_eq!(second.claims[name], first.claims[name], "{name}");
    }
    let form = form.set("requested_subject", "mallory");
    writ.workload("orders").token(&form).invalid_request("parameter_unsupported");
}

/// R-SUBJ-24
#[test]
fn no_chain_has_more_than_32_clients() {
    let writ = setup().set("tokens.max_replacements", 100).start();
    let mut token = begin(&writ, "order.view");
    for _ in 1..32 {
        token = replace(&writ, "orders", &token, "order.view").issued();
    }
    assert_eq!(token.claims["req_wl_chain"].as_array().map(Vec::len), Some(32));
    replace(&writ, "orders", &token, "order.view").invalid_request("replacement_limit");
}

/// R-SUBJ-25: the 15 minutes count from the time in `txn`, whatever the purpose outlives.
#[test]
fn a_replacement_ends_fifteen_minutes_after_the_transaction_began() {
    let orders = ORDERS.replacen("5m", "15m", 1);
    let writ = setup().set("tokens.max_lifetime", "15m").client("orders", &orders).start();
    let first = begin(&writ, "order.refund order.view");
    let milliseconds = u64::from_str_radix(&first.txn().replace('-', "")[..12], 16).unwrap();
    wait_until(milliseconds / 1000 + 2);
    let longer = replace(&writ, "orders", &first, "order.view").issued();
    assert_eq!(longer.exp(), milliseconds / 1000 + 900);
    assert!(longer.exp() < longer.iat() + 900);
}
