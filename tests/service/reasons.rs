//! Every `reason` of the error table is provoked over the wire, each with its status and its `error` (CONTRACT 3.6;
//! R-RESP-07). The table is that of `docs/openapi.json`, which a unit test derives from the service's own.

use std::collections::BTreeSet;
use std::thread;

use serde_json::{Value, json};
use toml::Table;

use crate::scene::{ACCOUNTS, MAILER, PURGE, READER, batch_living, redeem};
use crate::support::answer::Answer;
use crate::support::description::DESCRIPTION;
use crate::support::http::Response;
use crate::support::issuer::{Issuer, Reply};
use crate::support::jose::Key;
use crate::support::pdp::{Mode, Pdp};
use crate::support::pki;
use crate::support::workload::{ACCESS_TOKEN, FORM, Form, TXN_TOKEN};
use crate::support::writ::{Setup, Writ, spiffe_id};
use crate::support::{ISSUER, eventually, now, wait_until};

/// Takes more requests at one time than the service works on.
pub(crate) const OVERLOADED: &str = "overloaded";
/// Takes a connection that stays open during the shutdown.
pub(crate) const SHUTTING_DOWN: &str = "shutting_down";
/// Takes a clock that goes back.
pub(crate) const CLOCK_BEHIND: &str = "clock_behind";

/// Reasons that other tests of this binary provoke: they assert them by the constants above.
const PROVOKED_BY: [(&str, fn()); 3] = [
    (OVERLOADED, crate::http2::a_client_whose_issuers_hang_does_not_use_up_the_capacity),
    (SHUTTING_DOWN, crate::http2::a_request_that_begins_during_the_shutdown_is_refused),
    (CLOCK_BEHIND, crate::clock::a_clock_behind_the_last_event_stops_tokens_until_it_is_trusted),
];

/// Takes a fault of the program: `listener::tests::a_panic_is_one_500` sends a request to a handler that panics.
const INTERNAL: &str = "internal";

const TRADES: &str = r#"
[[purpose]]
scope = "trade.execute"
accept = ["access_token"]
granted_by = ["trade.stocks"]

[[purpose]]
scope = "trade.limited"
accept = ["client_credentials"]
request_details = "trade.json"
tctx.copy = ["note"]
when = "!has(details.quantity) || details.quantity <= 10"

[[purpose]]
scope = "trade.approved"
accept = ["client_credentials"]
pdp = true

[[purpose]]
scope = "trade.vouched"
accept = ["self_signed"]
subjects = ["*"]
"#;

const ORDERS: &str = "[[purpose]]\nscope = \"trade.execute\"\naccept = [\"txn_token\"]\n";

/// The reasons that were seen, each in an answer that is right in every other respect.
#[derive(Default)]
struct Seen(BTreeSet<String>);

impl Seen {
    #[track_caller]
    fn refused(&mut self, status: u16, error: &str, reason: &str, answer: &Answer) {
        answer.refused(status, error, reason);
        self.0.insert(reason.to_owned());
    }

    #[track_caller]
    fn answered(&mut self, status: u16, error: &str, reason: &str, response: &Response) {
        let body = response.json();
        assert_eq!((response.status, &body["error"], &body["reason"]), (status, &json!(error), &json!(reason)));
        self.0.insert(reason.to_owned());
    }
}

/// R-RESP-07
#[test]
fn every_reason_of_the_error_table_is_provoked() {
    let mut seen: BTreeSet<String> = thread::scope(|scope| {
        let groups = [requests, redemptions, limits, outages].map(|group| scope.spawn(group));
        groups.into_iter().flat_map(|group| group.join().unwrap().0).collect()
    });
    for (reason, _) in PROVOKED_BY {
        assert!(seen.insert(reason.to_owned()), "{reason} is provoked here, too");
    }
    seen.insert(INTERNAL.to_owned());
    let described = &DESCRIPTION["components"]["schemas"]["Error"]["properties"]["reason"]["enum"];
    let described: BTreeSet<String> =
        described.as_array().unwrap().iter().map(|reason| reason.as_str().unwrap().to_owned()).collect();
    assert_eq!(seen, described);
}

fn introspected(issuer: &Issuer) -> impl FnOnce(&mut Table) {
    let endpoint = issuer.introspection_endpoint();
    move |table| {
        let mut introspection = Table::new();
        introspection.insert("endpoint".into(), endpoint.into());
        introspection.insert("client_id".into(), "writ".into());
        introspection.insert("client_secret_file".into(), "certs/login.secret".into());
        table.insert("introspection".into(), introspection.into());
    }
}

/// What a request can be refused for while everything works.
fn requests() -> Seen {
    let (issuer, pdp) = (Issuer::start(), Pdp::start());
    let setup = pdp.configure(Setup::new()).issuer_with(&issuer, introspected(&issuer));
    setup.write("certs/login.secret", "a secret");
    setup.write("policies/trade.json", r#"{"properties":{"quantity":{"type":"number"},"note":{"type":"string"}}}"#);
    let postman = format!("client_id = \"postman\"\ntls_client_auth_san_dns = \"postman.example\"\n{MAILER}");
    let setup = setup.client("mailer", MAILER).policy("postman.toml", &postman).client("orders", ORDERS);
    let writ = setup.client("trader", TRADES).client("reader", READER).set("tokens.max_replacements", 0).start();
    let mut seen = Seen::default();
    forms(&mut seen, &writ);
    clients(&mut seen, &writ);
    subject_tokens(&mut seen, &writ, &issuer);
    decisions(&mut seen, &writ, &issuer, &pdp);
    seen
}

/// Media type, form and parameters.
fn forms(seen: &mut Seen, writ: &Writ) {
    let mailer = writ.workload("mailer");
    let good = || Form::client_credentials("mailbox.deliver");
    let exchange = Form::token_exchange("x", "urn:ietf:params:oauth:token-type:saml2", "mailbox.deliver");
    for (form, error, reason) in [
        (good().without("audience"), "invalid_request", "parameter_missing"),
        (good().add("audience", "x"), "invalid_request", "parameter_repeated"),
        (good().set("request_details", "[]"), "invalid_request", "parameter_malformed"),
        (good().set("client_secret", "x"), "invalid_request", "parameter_unsupported"),
        (good().set("requested_token_type", ACCESS_TOKEN), "invalid_request", "parameter_unsupported"),
        (good().set("grant_type", "password"), "unsupported_grant_type", "grant_type_unsupported"),
        (good().set("audience", "other.example"), "invalid_target", "audience_unknown"),
        (good().set("resource", "https://api.example"), "invalid_target", "resource_unsupported"),
        (good().set("scope", "two  spaces"), "invalid_scope", "scope_malformed"),
        (exchange, "invalid_request", "subject_token_type_unsupported"),
    ] {
        seen.refused(400, error, reason, &mailer.token(&form));
    }
    let huge = vec![b'a'; 64 * 1024 + 1];
    seen.refused(413, "invalid_request", "body_too_large", &mailer.post(&[("Content-Type", FORM)], &huge));
    seen.refused(415, "invalid_request", "media_type_unsupported", &mailer.post(&[], b"a=1"));
    let mut session = mailer.connect();
    seen.refused(405, "invalid_request", "method_not_allowed", &session.get("GET", "/token"));
    seen.refused(404, "invalid_request", "not_found", &session.get("GET", "/tokens"));
}

/// Who asks.
fn clients(seen: &mut Seen, writ: &Writ) {
    let good = Form::client_credentials("mailbox.deliver");
    seen.refused(401, "invalid_client", "client_unknown", &writ.workload("nobody").token(&good));
    let mut both = pki::client("both");
    both.subject_alt_names = vec![pki::uri(&spiffe_id("mailer")), pki::dns("postman.example")];
    let both = writ.workload_with(&writ.setup.ca.issue(both));
    seen.refused(401, "invalid_client", "client_ambiguous", &both.token(&good));
    let mailer = writ.workload("mailer");
    seen.refused(401, "invalid_client", "client_id_mismatch", &mailer.token(&good.set("client_id", "reader")));
    let introspection = mailer.introspect("a.b.c");
    seen.refused(403, "unauthorized_client", "introspection_not_allowed", &introspection);
}

/// Whether the subject token proves something.
fn subject_tokens(seen: &mut Seen, writ: &Writ, issuer: &Issuer) {
    let credentials = writ.setup.credentials("trader");
    let trader = writ.workload_with(&credentials);
    let draft = || issuer.access_token();
    let stranger = Key::es256("issuer-1");
    for (token, reason) in [
        ("a.b.c".to_owned(), "subject_token_malformed"),
        (draft().claim("iss", "https://other.example").mint(), "subject_token_issuer_unknown"),
        (draft().header("kid", "unheard-of").mint(), "subject_token_key_unknown"),
        (draft().signed_by(&stranger).mint(), "subject_token_signature_invalid"),
        (draft().claim("aud", "https://other.example").mint(), "subject_token_audience_mismatch"),
        (draft().without("sub").mint(), "subject_token_claims_invalid"),
        (draft().claim("exp", now() - 60).mint(), "subject_token_expired"),
        (draft().claim("nbf", now() + 60).mint(), "subject_token_not_yet_valid"),
        ("opaque".to_owned(), "subject_token_inactive"),
    ] {
        seen.refused(400, "invalid_request", reason, &trader.token(&Form::exchange(&token, "trade.execute")));
    }
    issuer.set_reply(Reply::Status(500, String::new()));
    let opaque = trader.token(&Form::exchange("opaque", "trade.execute"));
    seen.refused(503, "temporarily_unavailable", "issuer_unavailable", &opaque);
    let claims = json!({"iss": "trader", "sub": "ann", "aud": ISSUER, "iat": now(), "exp": now() + 60, "jti": "1"});
    let vouched = Key::of(&credentials, "unused").token(r#"{"alg":"ES256"}"#, &claims.to_string());
    let form = Form::token_exchange(&vouched, "urn:ietf:params:oauth:token-type:self_signed", "trade.vouched");
    trader.token(&form).issued();
    seen.refused(400, "invalid_request", "subject_token_replayed", &trader.token(&form));
}

/// Whether a policy, the decision point and an operator allow it.
fn decisions(seen: &mut Seen, writ: &Writ, issuer: &Issuer, pdp: &Pdp) {
    let (trader, mailer) = (writ.workload("trader"), writ.workload("mailer"));
    let exchange = |token: &str| Form::exchange(token, "trade.execute");
    let limited =
        |details: &Value| Form::client_credentials("trade.limited").set("request_details", &details.to_string());
    let ann = Form::client_credentials("mailbox.report").set("requested_subject", "ann");
    for (form, error, reason) in [
        (Form::client_credentials("order.burn"), "invalid_scope", "purpose_not_allowed"),
        (Form::client_credentials("trade.execute"), "unauthorized_client", "source_not_allowed"),
        (exchange("x.y.z").set("subject_token_type", TXN_TOKEN), "unauthorized_client", "source_not_allowed"),
        (exchange(&issuer.access_token().without("scope").mint()), "invalid_scope", "scope_unknown"),
        (exchange(&issuer.access_token().claim("scope", "x").mint()), "invalid_scope", "scope_exceeds_subject_token"),
        (limited(&json!({"quantity": "many"})), "invalid_scope", "details_rejected"),
        (limited(&json!({"quantity": 11})), "invalid_scope", "condition_failed"),
        (limited(&json!({"note": "x".repeat(4000)})), "invalid_request", "token_too_large"),
    ] {
        seen.refused(400, error, reason, &trader.token(&form));
    }
    seen.refused(400, "unauthorized_client", "subject_not_allowed", &mailer.token(&ann));
    let token = trader.token(&exchange(&issuer.access_token().mint())).issued().token;
    let replaced = writ.workload("orders").token(&Form::redeem(&token, "trade.execute"));
    seen.refused(400, "invalid_request", "replacement_limit", &replaced);
    let approved = Form::client_credentials("trade.approved");
    pdp.set_mode(Mode::No);
    seen.refused(400, "unauthorized_client", "pdp_denied", &trader.token(&approved));
    pdp.set_mode(Mode::Broken);
    seen.refused(503, "temporarily_unavailable", "pdp_unavailable", &trader.token(&approved));
    writ.run(&["block", "add", "--client", "mailer"]).exits(0);
    let blocked = mailer.token(&Form::client_credentials("mailbox.deliver"));
    seen.refused(400, "invalid_request", "blocked", &blocked);
}

/// Whether an expired token can be redeemed, and what happens while the store cannot be written.
fn redemptions() -> Seen {
    let setup = Setup::new().client("accounts", ACCOUNTS).client("others", ACCOUNTS);
    let setup =
        setup.client("batch", &batch_living("1s", "")).client("patient", &batch_living("1s", "min_age = \"1h\""));
    let mut writ = setup.client("late", &batch_living("1s", "").replace("90d", "1s")).start();
    let issue =
        |writ: &Writ, client: &str, scope: &str| writ.workload(client).token(&Form::client_credentials(scope)).issued();
    let by = |writ: &Writ, client: &str, form: &Form| writ.workload(client).token(form);
    let mut seen = Seen::default();
    let unrecorded = issue(&writ, "accounts", "account.rename");
    let (original, foreign) = (issue(&writ, "accounts", PURGE), issue(&writ, "others", PURGE));
    let early = by(&writ, "patient", &redeem(&original));
    seen.refused(400, "invalid_request", "redemption_too_early", &early);
    for token in [&unrecorded, &original, &foreign] {
        token.wait_until_expired();
    }
    let redeemed = by(&writ, "batch", &redeem(&original)).issued();
    let not_ours = by(&writ, "batch", &redeem(&foreign));
    seen.refused(400, "unauthorized_client", "redemption_not_allowed", &not_ours);
    writ.change_client("clerk", &batch_living("1s", "").replace(PURGE, "account.rename"));
    let missing = by(&writ, "clerk", &Form::redeem(&unrecorded.token, "account.rename"));
    seen.refused(400, "invalid_request", "redemption_not_on_record", &missing);
    redeemed.wait_until_expired();
    let again = by(&writ, "batch", &redeem(&original));
    seen.refused(400, "invalid_request", "redemption_exhausted", &again);
    wait_until(original.exp() + 2);
    seen.refused(400, "invalid_request", "redemption_too_old", &by(&writ, "late", &redeem(&original)));
    writ.run(&["keys", "revoke", original.kid()]).exits(0);
    seen.refused(400, "invalid_request", "redemption_key_gone", &by(&writ, "batch", &redeem(&original)));
    assert_eq!(writ.terminate(), 0);
    writ.start();
    writ.fill_disk(true);
    let unstored = by(&writ, "accounts", &Form::client_credentials(PURGE));
    seen.refused(503, "temporarily_unavailable", "store_unavailable", &unstored);
    writ.fill_disk(false);
    seen
}

/// Rate and time.
fn limits() -> Seen {
    let setup = Setup::new().client("mailer", MAILER).client("limited", MAILER).set("limits.request_timeout", "1s");
    let writ = setup.set("limits.requests_per_second_per_client", 1).start();
    let good = Form::client_credentials("mailbox.deliver");
    let mut seen = Seen::default();
    let mut session = writ.workload("limited").connect();
    let limited = (0..50).map(|_| session.token(&good)).find(|answer| answer.status() != 200);
    seen.refused(
        429,
        "temporarily_unavailable",
        "rate_limited",
        &limited.expect("50 requests are more than 1 a second"),
    );
    let head = |end: &str| {
        format!("POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM}\r\nContent-Length: 100\r\n{end}")
    };
    let mut slow = writ.workload("mailer").connect();
    slow.connection.send(head("\r\ngrant").as_bytes()).unwrap();
    seen.answered(408, "invalid_request", "request_timeout", &slow.connection.receive().unwrap());
    seen
}

/// What the service cannot do without.
fn outages() -> Seen {
    let mut writ = Setup::new().client("mailer", MAILER).start();
    writ.close_log();
    let mailer = writ.workload("mailer");
    let unrecorded = eventually("the log is found closed", || {
        let answer = mailer.token(&Form::client_credentials("mailbox.deliver"));
        (answer.status() != 200).then_some(answer)
    });
    let mut seen = Seen::default();
    seen.refused(503, "temporarily_unavailable", "audit_unavailable", &unrecorded);
    seen
}
