//! Request details and context → `tctx` and `rctx`, and conditions on them (CONTRACT 7; A-085 to A-088; R-REQ-12,
//! R-REQ-16, R-POL-06, R-POL-07, R-CLAIM-07, R-CLAIM-09).

use serde_json::{Value, json};

use crate::support::answer::Answer;
use crate::support::issuer::Issuer;
use crate::support::workload::Form;
use crate::support::writ::{Setup, Writ};

const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "properties": {
    "action": {"enum": ["buy", "sell"]},
    "ticker": {"type": "string", "maxLength": 5000},
    "quantity": {"type": "number", "exclusiveMinimum": 0},
    "limit": {}
  }
}"#;

const TRADER: &str = r#"
[[purpose]]
scope = "trade.execute"
accept = ["access_token"]
granted_by = ["trade.stocks"]
request_details = "schemas/trade.schema.json"
tctx.copy = ["action", "ticker", "quantity"]
tctx.fixed = { desk = "retail" }
tctx.subject = { customer_level = "level" }
rctx.copy = ["req_ip", "authn"]
"#;

/// The gateway of a bank, with more settings of its purpose.
fn trader(issuer: &Issuer, more: &str) -> Writ {
    let setup = Setup::new().issuer(issuer);
    setup.write("policies/schemas/trade.schema.json", SCHEMA);
    setup.client("gateway", &format!("{TRADER}{more}\n")).start()
}

fn ask(writ: &Writ, issuer: &Issuer, details: Option<&str>, context: Option<&str>) -> Answer {
    let token = issuer.access_token().claim("level", "gold").mint();
    ask_with(writ, &token, details, context)
}

fn ask_with(writ: &Writ, token: &str, details: Option<&str>, context: Option<&str>) -> Answer {
    let mut form = Form::exchange(token, "trade.execute");
    for (name, value) in [("request_details", details), ("request_context", context)] {
        if let Some(value) = value {
            form = form.set(name, value);
        }
    }
    writ.workload("gateway").token(&form)
}

/// A-087, R-POL-06, R-POL-07, R-CLAIM-07, R-PRIV-05: the members that the policy copies, fixes or takes from the
/// subject token.
#[test]
fn listed_members_reach_the_token_and_no_others() {
    let issuer = Issuer::start();
    let writ = trader(&issuer, "");
    let details =
        r#"{"action":"buy","ticker":"ACME","quantity":10,"limit":5,"desk":"prop","customer_level":"x","sub":"y"}"#;
    let context = r#"{"req_ip":"192.0.2.1","authn":"mfa","delayed":{"use":1},"scope":"admin"}"#;
    let issued = ask(&writ, &issuer, Some(details), Some(context)).issued();
    assert_eq!(
        issued.claims["tctx"],
        json!({"action": "buy", "ticker": "ACME", "quantity": 10, "desk": "retail", "customer_level": "gold"})
    );
    assert_eq!(issued.claims["rctx"], json!({"req_ip": "192.0.2.1", "authn": "mfa"}));
    assert_eq!((&issued.claims["sub"], &issued.claims["scope"]), (&json!("alice"), &json!("trade.execute")));
}

/// R-REQ-12: both are optional, and a member that was not sent is left out.
#[test]
fn a_request_without_details_gets_what_the_policy_says() {
    let issuer = Issuer::start();
    let writ = trader(&issuer, "");
    let issued = ask(&writ, &issuer, None, None).issued();
    assert_eq!(issued.claims["tctx"], json!({"desk": "retail", "customer_level": "gold"}));
    assert!(issued.claims.get("rctx").is_none());
    let bare = issuer.access_token().mint();
    ask_with(&writ, &bare, None, None).invalid_request("subject_token_claims_invalid");
}

/// Does not fit into 64 bits.
const LARGE: &str = "100000000000000000001";

/// R-REQ-16: digit for digit, whatever 64 bits can hold; and a condition decides on what was sent.
#[test]
fn numbers_arrive_digit_for_digit_and_are_compared_exactly() {
    let cases = [
        ("details.n > 1000 && details.n < 1e30", LARGE, true),
        ("details.n <= 1000", LARGE, false),
        ("details.n <= 100000000000000000000.0", LARGE, false),
        ("details.n <= 1000 && details.n == 0.1", "0.1", true),
        ("details.n >= 1", "0.1", false),
        ("details.n > 0.0999", "0.100", true),
        ("true", "12345678901234567890123", true),
        ("true", "0.10", true),
        ("true", "1E2", true),
        ("true", "-0", true),
        ("true", "9007199254740993", true),
    ];
    let issuer = Issuer::start();
    let purpose = |(number, (when, ..)): (usize, &(&str, &str, bool))| {
        format!(
            "[[purpose]]\nscope = \"pay.{number}\"\naccept = [\"access_token\"]\ngranted_by = [\"trade.stocks\"]\n\
             request_details = \"any.json\"\ntctx.copy = [\"n\"]\nwhen = '{when}'\n"
        )
    };
    let policy: String = cases.iter().enumerate().map(purpose).collect();
    let setup = Setup::new().issuer(&issuer).policy("any.json", r#"{"properties":{"n":{"type":"number"}}}"#);
    let writ = setup.client("gateway", &policy).start();
    for (number, (when, sent, allowed)) in cases.iter().enumerate() {
        let form = Form::exchange(&issuer.access_token().mint(), &format!("pay.{number}"));
        let answer = writ.workload("gateway").token(&form.set("request_details", &format!("{{\"n\":{sent}}}")));
        if *allowed {
            assert_eq!(answer.issued().typed.tctx.raw("n"), Some(*sent), "{when}");
        } else {
            answer.invalid_scope("condition_failed");
        }
    }
}

/// A-087, R-CLAIM-09
#[test]
fn no_token_travels_in_a_member() {
    let issuer = Issuer::start();
    let writ = trader(&issuer, "");
    let token = issuer.access_token().claim("level", "gold").mint();
    let other = issuer.access_token().mint();
    for text in [&token, &other, &format!("Bearer {other}"), &format!("x{token}y")] {
        let details = json!({"ticker": text}).to_string();
        ask_with(&writ, &token, Some(&details), None).invalid_scope("details_rejected");
        for deep in [json!({"a": [text]}), json!({"deep": [{"text": text}]})] {
            let context = json!({"authn": deep}).to_string();
            ask_with(&writ, &token, None, Some(&context)).invalid_scope("details_rejected");
        }
    }
    let level = issuer.access_token().claim("level", other).mint();
    ask_with(&writ, &level, None, None).invalid_scope("details_rejected");
    // What is not copied may be anything.
    ask_with(&writ, &token, Some(&json!({"limit": token}).to_string()), None).issued();
}

/// A-086
#[test]
fn a_condition_that_fails_or_is_not_true_refuses() {
    let cases = [
        ("details.quantity <= 1000", r#"{"quantity":1001}"#),
        ("details.quantity <= 1000", "{}"),
        ("details.limit <= 1000", r#"{"limit":"10"}"#),
        ("1 / details.quantity == 0", r#"{"quantity":0.5}"#),
        ("details.quantity", r#"{"quantity":1}"#),
        ("subject.claims.scope.size() == now", "{}"),
        ("context.req_ip == \"192.0.2.1\"", "{}"),
    ];
    let issuer = Issuer::start();
    let purpose = |(number, (when, _)): (usize, &(&str, &str))| {
        TRADER.replacen("trade.execute", &format!("trade.{number}"), 1) + &format!("when = '{when}'\n")
    };
    let policy: String = cases.iter().enumerate().map(purpose).collect();
    let setup = Setup::new().issuer(&issuer).policy("schemas/trade.schema.json", SCHEMA);
    let writ = setup.client("gateway", &policy).start();
    for (number, (_, details)) in cases.iter().enumerate() {
        let token = issuer.access_token().claim("level", "gold").mint();
        let form = Form::exchange(&token, &format!("trade.{number}")).set("request_details", details);
        writ.workload("gateway").token(&form).invalid_scope("condition_failed");
    }
}

/// CONTRACT 7: everything that a condition can see.
#[test]
fn a_condition_sees_client_subject_scope_details_context_and_time() {
    let issuer = Issuer::start();
    let when = format!(
        "client == \"gateway\" && subject.sub == \"alice\" && subject.claims.iss == \"{}\" && \
         subject.claims.level == \"gold\" && \"trade.execute\" in scope && details.action == \"buy\" && \
         context.req_ip.startsWith(\"192.0.2.\") && now > 1700000000",
        issuer.url()
    );
    let writ = trader(&issuer, &format!("when = '{when}'"));
    let context = Some(r#"{"req_ip":"192.0.2.1"}"#);
    ask(&writ, &issuer, Some(r#"{"action":"buy"}"#), context).issued();
    ask(&writ, &issuer, Some(r#"{"action":"sell"}"#), context).invalid_scope("condition_failed");
}

/// CONTRACT 7: several purposes agree on each member, or get nothing.
#[test]
fn purposes_of_one_request_share_their_members() {
    let policy = |value: u8| {
        format!(
            "[[purpose]]\nscope = \"a\"\naccept = [\"client_credentials\"]\ntctx.fixed = {{ x = 1 }}\n\
             [[purpose]]\nscope = \"b\"\naccept = [\"client_credentials\"]\ntctx.fixed = {{ x = {value}, y = 2 }}\n"
        )
    };
    let writ = Setup::new().client("job", &policy(1)).start();
    let form = Form::client_credentials("a b");
    assert_eq!(writ.workload("job").token(&form).issued().claims["tctx"], json!({"x": 1, "y": 2}));
    writ.change_client("job", &policy(2));
    writ.workload("job").token(&form).invalid_scope("details_rejected");
}

/// A-085, A-086
#[test]
fn check_finds_schemas_and_conditions_that_cannot_work() {
    let setup = Setup::new();
    setup.write("policies/remote.json", r#"{"$ref":"https://schemas.example/trade.json"}"#);
    setup.write("policies/trade.json", r#"{"properties":{"quantity":{}},"additionalProperties":false}"#);
    let purpose = |scope: &str, more: &str| {
        format!("[[purpose]]\nscope = \"{scope}\"\naccept = [\"client_credentials\"]\n{more}\n")
    };
    let policy = [
        purpose("a", "request_details = \"remote.json\""),
        purpose("b", "request_details = \"missing.json\""),
        purpose("c", "when = 'detials.quantity < 1'"),
        purpose("d", "when = '[1].all(x, x > 0)'"),
        purpose("e", "request_details = \"trade.json\"\nwhen = 'details.quantiti < 1'"),
        purpose("f", "request_details = \"trade.json\"\ntctx.copy = [\"price\"]"),
        purpose("g", "rctx.copy = [\"delayed\"]"),
    ]
    .concat();
    let output = setup.client("job", &policy).run(&["check"]);
    let text = output.exits(2).stdout.clone();
    for expected in [
        "purpose[0].request_details: ",
        "purpose[1].request_details: ",
        "purpose[2].when: has an unknown name `detials`",
        "purpose[3].when: must not loop",
        "purpose[4].when: names \"quantiti\"",
        "purpose[5].tctx.copy: names \"price\"",
        "purpose[6].rctx.copy: must not name \"delayed\"",
        "7 errors",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

/// CONTRACT 6: a schema is reloaded like the policy that names it; a broken one leaves the old in force.
#[test]
fn a_schema_that_changes_is_in_force_within_seconds() {
    let issuer = Issuer::start();
    let writ = trader(&issuer, "");
    let details = Some(r#"{"action":"hold"}"#);
    ask(&writ, &issuer, details, None).invalid_scope("details_rejected");
    let write = |text: &str| writ.setup.write("policies/schemas/trade.schema.json", text);
    writ.expect_event("policies_reloaded", || write("{}"));
    ask(&writ, &issuer, details, None).issued();
    writ.expect_event("policies_rejected", || {
        write("{");
        writ.hup();
    });
    ask(&writ, &issuer, details, None).issued();
}

/// A-086: limits as schema and as condition, and values that differ from them by less than a double can represent.
#[test]
fn no_limit_is_passed_by_the_last_digit() {
    let cases = [
        (r#"{"minimum":-9223372036854775808}"#, "", "-9223372036854775808", "-9223372036854775809"),
        (r#"{"maximum":18446744073709551616}"#, "", "18446744073709551616", "18446744073709551617"),
        (r#"{"maximum":9223372036854775808}"#, "", "9.223372036854775808e18", "9223372036854775808.5"),
        (r#"{"exclusiveMaximum":123456789012345678901}"#, "", "123456789012345678900", "123456789012345678901"),
        (r#"{"maximum":1234567890123456.789}"#, "", "1234567890123456.789", "1234567890123456.8"),
        (r#"{"multipleOf":1e-18}"#, "", "123.000000000000000001", "123.0000000000000000001"),
        (r#"{"const":123456789012345678901}"#, "", "123456789012345678901", "123456789012345678902"),
        (r#"{"enum":[[123456789012345678901]]}"#, "", "[123456789012345678901.0]", "[123456789012345678900]"),
        (r#"{"uniqueItems":true}"#, "", "[123456789012345678901,123456789012345678902]", "[1,1.0]"),
        (r#"{"type":"integer"}"#, "", "123456789012345678901", "123456789012345678901.5"),
        ("true", "details.n <= 18446744073709551615u", "18446744073709551615", "18446744073709551616"),
        ("true", "details.n <= 9223372036854775807", "9223372036854775807", "9223372036854775807.5"),
        ("true", "details.n <= 123456789012345678901.0", "123456789012345678901", "123456789012345678902"),
        ("true", "details.n != 123456789012345678901.0", "123456789012345680000", "123456789012345678901"),
        ("true", "details.n + 0.5 < 9007199254740994.0", "9007199254740993.1", "9007199254740993.5"),
        ("true", "details.n in [1, 123456789012345678901.0]", "123456789012345678901", "123456789012345678902"),
        ("true", "string(details.n) == '123456789012345678901'", "123456789012345678901", "123456789012345678902"),
    ];
    let mut policy = Vec::new();
    let mut setup = Setup::new();
    for (number, (limit, when, _, _)) in cases.iter().enumerate() {
        setup = setup.policy(&format!("schemas/{number}.json"), &format!("{{\"properties\":{{\"n\":{limit}}}}}"));
        let when = if when.is_empty() { "true" } else { when };
        policy.push(format!(
            "[[purpose]]\nscope = \"pay.{number}\"\naccept = [\"client_credentials\"]\n\
             request_details = \"schemas/{number}.json\"\ntctx.copy = [\"n\"]\nwhen = \"{when}\"\n"
        ));
    }
    let writ = setup.client("clerk", &policy.concat()).start();
    for (number, (limit, when, fitting, beyond)) in cases.iter().enumerate() {
        let ask = |value: &str| {
            let form = Form::client_credentials(&format!("pay.{number}"));
            writ.workload("clerk").token(&form.set("request_details", &format!("{{\"n\":{value}}}")))
        };
        assert_eq!(ask(fitting).issued().typed.tctx.raw("n"), Some(*fitting), "{limit} {when}");
        ask(beyond).invalid_scope(if when.is_empty() { "details_rejected" } else { "condition_failed" });
    }
}

/// Long account numbers that are JSON numbers.
#[test]
fn numbers_of_request_and_token_are_equal_only_to_their_last_digit() {
    let issuer = Issuer::start();
    let setup = Setup::new().issuer(&issuer);
    setup.write("policies/schemas/trade.schema.json", r#"{"properties":{"account":{"type":"integer"}}}"#);
    let policy = TRADER.replace("[\"action\", \"ticker\", \"quantity\"]", "[\"account\"]");
    let writ = setup.client("gateway", &(policy + "when = 'details.account == subject.claims.account'\n")).start();
    for (claimed, asked, equal) in [
        ("7", "7", true),
        ("7", "7.0", true),
        ("7", "8", false),
        ("18446744073709551610", "18446744073709551611", false),
        ("123456789012345678901", "123456789012345678901", true),
        ("123456789012345678901", "123456789012345678902", false),
        ("123456789012345678901", "123456789012345680000", false),
    ] {
        let token = issuer.access_token().claim("level", "gold").mint_raw("account", claimed);
        let answer = ask_with(&writ, &token, Some(&format!("{{\"account\":{asked}}}")), None);
        if equal {
            answer.issued();
        } else {
            answer.invalid_scope("condition_failed");
        }
    }
}

/// No name of a member has a special meaning, whatever a library makes of it: not in the header of a token, not in its
/// claims, not in details or context, and not in the Txn-Token.
#[test]
fn names_that_a_library_reserves_are_ordinary_names() {
    let issuer = Issuer::start();
    let setup = Setup::new().issuer(&issuer);
    setup.write("policies/schemas/trade.schema.json", r#"{"properties":{"limit":{"type":"object"}}}"#);
    let policy = TRADER.replace("[\"action\", \"ticker\", \"quantity\"]", "[\"limit\"]");
    let writ = setup.client("gateway", &(policy + "when = 'size(details.limit) == 1'\n")).start();
    for name in ["$serde_json::private::RawValue", "$serde_json::private::Number", "$__toml_private_datetime"] {
        let object = format!(r#"{{"{name}":"{{\"a\":1,\"a\":"}}"#);
        let token = issuer.access_token().claim("level", "gold").mint_raw_header(name, r#""[""#);
        let (details, context) = (format!("{{\"limit\":{object}}}"), format!("{{\"req_ip\":{object},\"{name}\":1}}"));
        let answer = ask_with(&writ, &token, Some(&details), Some(&context));
        let typed = answer.verified_claims();
        assert_eq!(typed.tctx.raw("limit"), Some(object.as_str()));
        assert_eq!(typed.rctx.raw("req_ip"), Some(object.as_str()));
        let token = issuer.access_token().mint_raw("level", &object);
        let typed = ask_with(&writ, &token, Some(&details), None).verified_claims();
        assert_eq!(typed.tctx.raw("customer_level"), Some(object.as_str()));
        let smuggled = format!(r#"{{"{name}":"{{\"limit\":{{\"a\":1}}}}"}}"#);
        ask_with(&writ, &token, Some(&smuggled), None).invalid_scope("condition_failed");
        let token =
            issuer.access_token().claim("level", "gold").mint_raw("sub", &format!(r#"{{"{name}":"\"alice\""}}"#));
        ask_with(&writ, &token, Some(&details), None).invalid_request("subject_token_claims_invalid");
    }
}

/// R-REQ-12, R-REQ-16: what is issued can be redeemed; what could not be is refused before anything is recorded.
#[test]
fn details_as_deep_and_wide_as_a_request_may_be_make_no_token_that_never_redeems() {
    let accounts = r#"
        [[purpose]]
        scope = "account.purge"
        lifetime = "1s"
        accept = ["client_credentials"]
        request_details = "schemas/any.json"
        tctx.copy = ["a"]
        rctx.copy = ["a"]
    "#;
    let batch = r#"
        [[purpose]]
        scope = "account.purge"
        accept = ["expired_txn_token"]
        redemption = { issued_to = ["accounts"], max_age = "1h" }
    "#;
    let setup = Setup::new().policy("schemas/any.json", "{}");
    let writ = setup.client("accounts", accounts).client("batch", batch).start();
    let nested = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    let wide = |count: usize| format!("{{\"a\":[{}]}}", vec!["0"; count].join(","));
    let mut originals = Vec::new();
    for (value, fits) in [(nested(14), true), (nested(15), true), (nested(16), false), (wide(256), true)] {
        for parameter in ["request_details", "request_context"] {
            let form = Form::client_credentials("account.purge").set(parameter, &value);
            let answer = writ.workload("accounts").token(&form);
            if fits {
                originals.push(answer.issued());
            } else {
                let refused = answer.invalid_scope("details_rejected");
                assert!(refused.answer["error_description"].as_str().unwrap().ends_with(": a"), "{}", refused.answer);
            }
        }
    }
    let records = || writ.metric("writ_ledger_records", &[("kind", "tokens")]);
    assert_eq!(records().map(|count| count.to_string()), Some(originals.len().to_string()));
    for original in originals {
        original.wait_until_expired();
        let redeemed = writ.workload("batch").token(&Form::redeem(&original.token, "account.purge")).issued();
        assert_eq!(redeemed.claims["tctx"], original.claims["tctx"]);
    }
}

/// A schema of a few hundred bytes can keep a worker busy for ever: such a schema is refused when it is read.
#[test]
fn a_schema_that_would_not_terminate_is_refused_by_check_and_reload() {
    let level = |n: u32| {
        let below = format!(r##"{{"$ref":"#/$defs/l{}"}}"##, n - 1);
        format!(r#""l{n}":{{"allOf":[{below},{below}]}}"#)
    };
    let levels: Vec<_> = (1..=24).map(level).collect();
    let doubling = format!(r##"{{"$defs":{{"l0":{{"type":"object"}},{}}},"$ref":"#/$defs/l24"}}"##, levels.join(","));
    let round =
        r##"{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"}]},"b":{"not":{"$ref":"#/$defs/a"}}},"$ref":"#/$defs/a"}"##;
    let policy = r#"
        [[purpose]]
        scope = "pay"
        accept = ["client_credentials"]
        request_details = "schemas/pay.json"
    "#;
    let setup = Setup::new().policy("schemas/pay.json", "{}").client("clerk", policy);
    for schema in [&doubling, round] {
        setup.write("policies/schemas/pay.json", schema);
        setup.run(&["check"]).exits(2).says("schemas/pay.json: has at #").says("to one value");
    }
    setup.write("policies/schemas/pay.json", "{}");
    let writ = setup.start();
    writ.expect_event("policies_rejected", || {
        writ.setup.write("policies/schemas/pay.json", &doubling);
        writ.hup();
    });
    writ.workload("clerk").token(&Form::client_credentials("pay").set("request_details", "{}")).issued();
}

/// How a purpose maps the details.
const MAPPING: &str = r#"
request_details = "trade.json"
tctx.copy = ["action", "quantity", "desk", "level"]
tctx.fixed = { desk = "retail" }
tctx.subject = { level = "level" }
"#;

const ORDER_SCHEMA: &str = r#"{
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

/// `edge` may copy `req_ip` into `rctx`, `inner` may not.
fn trading(issuer: &Issuer) -> Writ {
    let setup = Setup::new().issuer(issuer);
    setup.write("policies/trade.json", ORDER_SCHEMA);
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

/// R-POL-07
#[test]
fn what_a_policy_fixes_or_looks_up_overrides_what_was_sent() {
    let issuer = Issuer::start();
    let writ = trading(&issuer);
    let details = json!({"action": "buy", "desk": "prop", "level": "platinum"});
    let issued = trade(&writ, &issuer, "edge", &details).issued();
    assert_eq!(issued.claims["tctx"], json!({"action": "buy", "desk": "retail", "level": "gold"}));
}

/// A-085, R-REQ-12, R-POL-07: the answer is `invalid_scope` with `details_rejected`; it names the member and repeats
/// nothing of its value.
#[test]
fn members_can_be_required_and_constrained() {
    let issuer = Issuer::start();
    let writ = trading(&issuer);
    trade(&writ, &issuer, "edge", &json!({"action": "buy", "quantity": 1000})).issued();
    for missing in [json!({}), json!({"quantity": 1})] {
        trade(&writ, &issuer, "edge", &missing).invalid_scope("details_rejected");
    }
    let token = issuer.access_token().claim("level", "gold").mint();
    writ.workload("edge").token(&Form::exchange(&token, "trade")).invalid_scope("details_rejected");
    for (member, value) in [
        ("action", json!("keep-this")),
        ("quantity", json!(1001)),
        ("quantity", json!(0)),
        ("quantity", json!("7")),
        ("ticker", json!("acme")),
        ("ticker", json!(["ACME"])),
    ] {
        let mut details = json!({"action": "buy"});
        details[member] = value.clone();
        let refused = trade(&writ, &issuer, "edge", &details).invalid_scope("details_rejected");
        let text = refused.answer["error_description"].as_str().unwrap();
        assert!(text.ends_with(member) && !text.contains(value.to_string().trim_matches('"')), "{text}");
    }
}

/// R-CLAIM-09
#[test]
fn a_policy_may_refer_to_the_subject_token_by_its_jti() {
    let issuer = Issuer::start();
    let policy = purpose("tctx.subject = { access_token = \"jti\" }\n");
    let writ = Setup::new().issuer(&issuer).client("gateway", &policy).start();
    let token = issuer.access_token().claim("jti", "reference-1").mint();
    let issued = writ.workload("gateway").token(&Form::exchange(&token, "trade")).issued();
    assert_eq!(issued.claims["tctx"], json!({"access_token": "reference-1"}));
}
