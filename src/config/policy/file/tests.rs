use std::sync::Mutex;
use std::time::Duration;

use writ_core::policy::Glob;
use writ_core::policy::condition::Condition;
use writ_core::request::Source;

use super::*;
use crate::config::policy::settings::{Compiled, ReadNamed};

const GOOD: &str = "client_id = \"job\"\ntls_client_auth_san_uri = \"spiffe://d.example/job\"\n";
const OTHER_IDENTITY: &str = "tls_client_auth_san_dns = \"job.example\"\n";

const TRADE: &str = r#"{"properties":{"ticker":{},"quantity":{"type":"number"}},"additionalProperties":false}"#;
const KEYS: &str =
    r#"{"keys":[{"kid":"k","kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn settings() -> Settings {
    Settings {
        directory: "/p".into(),
        default_lifetime: Duration::from_secs(60),
        max_lifetime: Duration::from_secs(400),
        retention: Duration::from_secs(90 * 86_400),
        outside_sources: vec![Source::AccessToken],
        introspecting_issuers: vec!["https://login.example".to_owned()],
        pdp: false,
    }
}

fn parse_with(text: &str, settings: &Settings, read: ReadNamed<'_>) -> Reading {
    parse(Path::new("/p/job.toml"), text, Context { settings, read, compiled: &Compiled::default() })
}

fn reading(text: &str) -> Reading {
    let named = |path: &Path| match path.to_str() {
        Some("/p/schemas/trade.json") => Ok(TRADE.as_bytes().to_vec()),
        Some("/p/open.json") => Ok(TRADE.replace(r#","additionalProperties":false"#, "").into_bytes()),
        Some("/p/draft7.json") => Ok(br#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#.to_vec()),
        Some("/p/keys.json") => Ok(KEYS.as_bytes().to_vec()),
        Some("/p/nameless.json") => Ok(KEYS.replace(r#""kid":"k","#, "").into_bytes()),
        _ => Err("No such file".to_owned()),
    };
    parse_with(text, &settings(), &named)
}

fn complaints(text: &str) -> Vec<String> {
    reading(text).problems.iter().map(|problem| problem.to_string().replace("/p/job.toml:", "")).collect()
}

/// A purpose that accepts these sources.
fn purpose(accept: &[&str], more: &str) -> String {
    format!("[[purpose]]\nscope = \"s\"\naccept = {accept:?}\n{more}\n")
}

fn redeem(accept: &[&str], redemption: &str) -> String {
    purpose(accept, &format!("[purpose.redemption]\n{redemption}"))
}

const AGED: &str = "issued_to = [\"job\"]\nmax_age = \"40d\"\n";

#[test]
fn a_policy_says_what_the_defaults_leave_open() {
    let text = format!("{GOOD}{}", redeem(&["expired_txn_token"], AGED));
    let policy = reading(&text).policy.unwrap();
    assert_eq!((policy.client_id.as_str(), policy.subject.as_str()), ("job", "job"));
    assert_eq!(policy.identity, Identity::parse(IdentityKind::SanUri, "spiffe://d.example/job").unwrap());
    assert!(!policy.introspect && !policy.vouches_for_bound_tokens && policy.subject_token_audience.is_empty());
    assert_eq!(policy.opaque_tokens_from, None);
    let [rule] = policy.purposes.as_slice() else { panic!("{policy:?}") };
    assert_eq!((rule.purpose.as_str(), rule.line, rule.lifetime.as_secs()), ("s", 3, 60));
    assert!(!rule.outlive && rule.subjects.is_none() && rule.granted_by.is_empty());
    let redemption = rule.redemption.clone().unwrap();
    assert_eq!((redemption.min_age.as_secs(), redemption.max_age.as_secs()), (0, 40 * 86_400));
    assert_eq!((redemption.max_uses, redemption.require_record), (1, true));
}

#[test]
fn a_policy_says_what_is_written() {
    let text = format!(
        "{GOOD}subject = \"svc:job\"\nintrospect = true\nvouches_for_bound_tokens = true\n\
         subject_token_audience = [\"https://api.example\"]\nopaque_tokens_from = \"https://login.example\"\n{}",
        purpose(
            &["access_token", "txn_token"],
            "lifetime = \"2m\"\nsubjects = [\"*@d\"]\ngranted_by = [\"g\"]\noutlive = true\npdp = false"
        )
    );
    let reading = reading(&text);
    assert!(reading.problems.is_empty(), "{:?}", reading.problems);
    let policy = reading.policy.unwrap();
    assert_eq!((policy.subject.as_str(), policy.introspect, policy.vouches_for_bound_tokens), ("svc:job", true, true));
    assert_eq!(policy.subject_token_audience, ["https://api.example"]);
    assert_eq!(policy.opaque_tokens_from.as_deref(), Some("https://login.example"));
    let rule = &policy.purposes[0];
    assert_eq!((rule.lifetime.as_secs(), rule.outlive, rule.granted_by[0].as_str()), (120, true, "g"));
    assert_eq!(rule.subjects.as_deref(), Some(&[Glob::new("*@d")][..]));
    assert_eq!(rule.accept, [Source::AccessToken, Source::TxnToken]);
}

#[test]
fn a_purpose_may_ask_the_decision_point_where_there_is_one() {
    let text = format!("{GOOD}{}", purpose(&["txn_token"], "pdp = true"));
    let reading = parse_with(&text, &Settings { pdp: true, ..settings() }, &|_| Err(String::new()));
    assert!(reading.problems.is_empty() && reading.policy.unwrap().purposes[0].pdp);
}

/// R-AUTHN-05
#[test]
fn a_client_has_exactly_one_identity() {
    for (text, expected) in [
        ("client_id = \"job\"".to_owned(), "1: tls_client_auth_*: is missing: exactly one"),
        (format!("{GOOD}{OTHER_IDENTITY}"), "2: tls_client_auth_san_uri: is a second identity"),
        (
            format!("{GOOD}self_signed_tls_client_auth_x5t_s256 = [\"{}\"]", "A".repeat(43)),
            "3: self_signed_tls_client_auth_x5t_s256: is a second identity",
        ),
        (GOOD.replace("spiffe:", "spiffe"), "2: tls_client_auth_san_uri: not a URI"),
        (GOOD.replace("tls_client_auth_san_uri", "tls_client_auth_uri"), "1: tls_client_auth_*: is missing"),
        (
            "client_id = \"job\"\nself_signed_tls_client_auth_x5t_s256 = []".to_owned(),
            "2: self_signed_tls_client_auth_x5t_s256: one or two",
        ),
        (
            "client_id = \"job\"\nself_signed_tls_client_auth_x5t_s256 = [\"x\"]".to_owned(),
            "2: self_signed_tls_client_auth_x5t_s256: not a SHA-256 thumbprint",
        ),
    ] {
        assert!(complaints(&text)[0].contains(expected), "{text}: {:?}", complaints(&text));
    }
    for key in IdentityKind::ALL.map(IdentityKind::name) {
        assert!(complaints(&format!("client_id = \"job\"\n{key} = 1\n")).len() == 1);
    }
}

/// A-089, A-109, and the list at the end of the contract's section on policies.
#[test]
fn each_rule_complains_at_its_key() {
    let access = |more: &str| purpose(&["access_token"], more);
    for (text, expected) in [
        (String::from("client = \"job\""), "3: client: unknown key `client`"),
        ("description = 1".into(), "3: description: must be a string"),
        ("subject = \"\"".into(), "3: subject: a subject has 1 to 255"),
        ("jwks_file = \"x\"".into(), "3: jwks_file: /p/x: No such file"),
        ("jwks_file = \"draft7.json\"".into(), "3: jwks_file: /p/draft7.json: not a JWK set"),
        ("jwks_file = \"nameless.json\"".into(), "3: jwks_file: /p/nameless.json: has a key without kid"),
        ("[[purpose]]\naccept = [\"txn_token\"]\npdp = false".into(), "3: purpose[0].scope: is missing"),
        ("[[purpose]]\nscope = \"s\"".into(), "3: purpose[0].accept: is missing"),
        ("[[purpose]]\nscope = \"s t\"\naccept = [\"txn_token\"]".into(), "4: purpose[0].scope: a purpose is"),
        (purpose(&[], ""), "5: purpose[0].accept: must name at least one source"),
        (purpose(&["token"], ""), "5: purpose[0].accept: must be one of \"access_token\""),
        (purpose(&["txn_token", "txn_token"], ""), "5: purpose[0].accept: names \"txn_token\" twice"),
        (
            purpose(&["txn_token"], "lifetime = \"401s\""),
            "6: purpose[0].lifetime: must be at most tokens.max_lifetime, \"6m40s\"",
        ),
        (purpose(&["txn_token"], "subjects = [\"\"]"), "6: purpose[0].subjects: an empty pattern"),
        (purpose(&["txn_token"], "subjects = []"), "6: purpose[0].subjects: warning: matches no subject"),
        (purpose(&["txn_token"], "granted_by = [\"x\"]"), "6: purpose[0].granted_by: warning: has no effect"),
        (purpose(&["unsigned_json"], "actors = true"), "6: purpose[0].actors: must be a string"),
        (purpose(&["unsigned_json"], "actors = \"keep\""), "6: purpose[0].actors: must be one of \"ignore\""),
        (purpose(&["txn_token"], "actors = \"ignore\""), "6: purpose[0].actors: warning: has no effect"),
        (purpose(&["client_credentials"], "actors = \"ignore\""), "6: purpose[0].actors: warning: has no effect"),
        (purpose(&["unsigned_json"], "actor = \"ignore\""), "did you mean `actors`?"),
        (purpose(&["txn_token"], "pdp = true"), "6: purpose[0].pdp: needs an external decision point"),
        (purpose(&["txn_token"], "outlives = true"), "did you mean `outlive`?"),
        (access(""), "3: purpose[0].granted_by: must name the scopes"),
        (access("granted_by = []"), "6: purpose[0].granted_by: must name the scopes"),
        (access("granted_by = [\"a b\"]"), "6: purpose[0].granted_by: a purpose is"),
        (purpose(&["jwt"], "granted_by = [\"x\"]"), "5: purpose[0].accept: warning: accepts \"jwt\", which no"),
        (purpose(&["expired_txn_token"], ""), "3: purpose[0].redemption: is missing"),
        (purpose(&["expired_txn_token"], "redemption = true"), "6: purpose[0].redemption: must be a table"),
        (redeem(&["txn_token"], AGED), "6: purpose[0].redemption: does not apply"),
        (redeem(&["expired_txn_token"], "max_age = \"1d\""), "6: purpose[0].redemption.issued_to: is missing"),
        (
            redeem(&["expired_txn_token"], "max_age = \"1d\"\nissued_to = []"),
            "8: purpose[0].redemption.issued_to: must name",
        ),
        (
            redeem(&["expired_txn_token"], "max_age = \"1d\"\nissued_to = [\".\"]"),
            "redemption.issued_to: a client_id is",
        ),
        (redeem(&["expired_txn_token"], "issued_to = [\"a\"]"), "6: purpose[0].redemption.max_age: is missing"),
        (
            redeem(&["expired_txn_token"], &format!("{AGED}max_uses = 0")),
            "redemption.max_uses: must be a whole number from 1",
        ),
        (
            redeem(&["expired_txn_token"], &format!("{AGED}max_uses = -1")),
            "redemption.max_uses: must be a whole number from 1",
        ),
        (redeem(&["expired_txn_token"], &format!("{AGED}min_age = \"41d\"")), "redemption.min_age: must not be longer"),
        (redeem(&["expired_txn_token"], &format!("{AGED}max_use = 3")), "did you mean `max_uses`?"),
        (
            redeem(&["expired_txn_token"], "issued_to = [\"a\"]\nmax_age = \"90d\""),
            "8: purpose[0].redemption.max_age: is too long: keys.retention must be longer",
        ),
        (
            redeem(&["expired_txn_token"], &format!("{AGED}require_record = false")),
            "redemption.require_record: warning: tokens that are not on record",
        ),
        (
            redeem(&["expired_txn_token"], AGED).replace("scope", "lifetime = \"301s\"\nscope"),
            "4: purpose[0].lifetime: must be at most \"5m\"",
        ),
        (
            redeem(&["expired_txn_token"], AGED).replace("scope", "tctx.copy = [\"a\"]\nscope"),
            "4: purpose[0].tctx: does not apply: a redeemed token carries",
        ),
        (
            redeem(&["expired_txn_token", "client_credentials"], AGED),
            "5: purpose[0].accept: \"client_credentials\" needs no token, and this scope can be redeemed (line 3)",
        ),
        (
            redeem(&["expired_txn_token"], AGED) + &purpose(&["unsigned_json"], ""),
            "12: purpose[1].accept: \"unsigned_json\" needs no token, and this scope can be redeemed (line 3)",
        ),
        (
            purpose(&["self_signed"], "") + &redeem(&["expired_txn_token"], AGED),
            "5: purpose[0].accept: \"self_signed\" needs no token, and this scope can be redeemed (line 7)",
        ),
        (
            purpose(&["txn_token", "self_signed"], "") + &purpose(&["txn_token"], ""),
            "9: purpose[1].accept: \"txn_token\" is accepted for this scope in line 3 already",
        ),
    ] {
        let found = complaints(&format!("{GOOD}{text}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
    }
}

/// R-SUBJ-11
#[test]
fn opaque_tokens_come_from_an_issuer_that_can_be_asked() {
    for issuer in ["https://login.example/", "https://other.example", ""] {
        let found = complaints(&format!("{GOOD}opaque_tokens_from = \"{issuer}\""));
        let expected = "3: opaque_tokens_from: must be the issuer of a [[subject_issuer]] that has introspection";
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn details_context_and_condition_complain_at_their_keys() {
    let trade = |more: &str| purpose(&["txn_token"], &format!("request_details = \"schemas/trade.json\"\n{more}"));
    for (text, expected) in [
        (purpose(&["txn_token"], "when = true"), "6: purpose[0].when: must be a string"),
        (purpose(&["txn_token"], "when = \"tru\""), "6: purpose[0].when: has an unknown name `tru`; known are client"),
        (
            purpose(&["txn_token"], "when = \"details.quantity < 1\""),
            "6: purpose[0].when: reads `details`, which stay empty without request_details",
        ),
        (purpose(&["txn_token"], "request_details = \"x\""), "6: purpose[0].request_details: /p/x: No such file"),
        (
            purpose(&["txn_token"], "request_details = \"draft7.json\""),
            "6: purpose[0].request_details: /p/draft7.json: is not for JSON Schema 2020-12",
        ),
        (purpose(&["txn_token"], "tctx.copy = [\"a\"]"), "6: purpose[0].tctx.copy: needs request_details"),
        (purpose(&["txn_token"], "tctx = true"), "6: purpose[0].tctx: must be a table"),
        (purpose(&["txn_token"], "tctx.fix = {}"), "6: purpose[0].tctx.fix: unknown key"),
        (purpose(&["txn_token"], "tctx.fixed = { a = 1979-05-27 }"), "tctx.fixed: 1979-05-27 is not a value in JSON"),
        (purpose(&["txn_token"], "tctx.fixed = { a = nan }"), "tctx.fixed: nan is not a number in JSON"),
        (purpose(&["txn_token"], "tctx.subject = { a = 1 }"), "tctx.subject: must be a table of strings, not a"),
        (
            purpose(&["txn_token"], "tctx = { fixed = { a = 1 }, subject = { a = \"b\" } }"),
            "6: purpose[0].tctx.subject: \"a\" is a member of `fixed` too",
        ),
        (
            purpose(&["txn_token"], "tctx.subject = { a = \"cnf\" }"),
            "6: purpose[0].tctx.subject: must not name \"cnf\"",
        ),
        (
            purpose(&["client_credentials"], "tctx.subject = { a = \"b\" }"),
            "tctx.subject: warning: refuses every request by \"client_credentials\"",
        ),
        (trade("tctx.copy = [\"tikcer\"]"), "7: purpose[0].tctx.copy: names \"tikcer\", which the schema"),
        (trade("when = \"details.quantiti < 1\""), "7: purpose[0].when: names \"quantiti\", which the schema"),
        (
            trade("tctx.copy = [\"other\"]").replace("schemas/trade", "open"),
            "7: purpose[0].tctx.copy: warning: names \"other\", which the schema",
        ),
        (
            trade("tctx = { copy = [\"ticker\"], fixed = { ticker = \"A\" } }"),
            "7: purpose[0].tctx.copy: warning: \"ticker\" has no effect",
        ),
        (purpose(&["txn_token"], "rctx.copy = [\"delayed\"]"), "6: purpose[0].rctx.copy: must not name \"delayed\""),
        (purpose(&["txn_token"], "rctx.copy = [\"\"]"), "6: purpose[0].rctx.copy: a member's name has 1 to 128"),
    ] {
        let found = complaints(&format!("{GOOD}{text}"));
        assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
    }
}

#[test]
fn details_context_and_condition_are_read_as_written() {
    let more = "request_details = \"schemas/trade.json\"\ntctx.copy = [\"ticker\", \"quantity\"]\n\
         tctx.fixed = { desk = \"retail\", fee = 0.10, tags = [\"a\", { n = 0x10 }], open = true }\n\
         tctx.subject = { level = \"customer_level\" }\nrctx.copy = [\"req_ip\"]\n\
         when = 'details.quantity <= 1000 && has(details.ticker)'";
    let text = format!("{GOOD}jwks_file = \"keys.json\"\n{}", purpose(&["txn_token"], more));
    assert!(complaints(&text).is_empty(), "{:?}", complaints(&text));
    let policy = reading(&text).policy.unwrap();
    assert_eq!(policy.keys.unwrap().keys().count(), 1);
    let rule = &policy.purposes[0];
    assert_eq!(rule.mapping.tctx_copy, ["ticker", "quantity"]);
    let fixed = serde_json::to_string(&rule.mapping.tctx_fixed).unwrap();
    assert_eq!(fixed, r#"{"desk":"retail","fee":0.10,"open":true,"tags":["a",{"n":16}]}"#);
    assert_eq!(rule.mapping.tctx_subject, [("level".to_owned(), "customer_level".to_owned())]);
    assert_eq!(rule.mapping.rctx_copy, ["req_ip"]);
    assert!(rule.mapping.schema.is_some() && rule.when.is_some());
}

/// What a redemption looks at is what other policies carry along.
#[test]
fn a_condition_on_a_redemption_may_name_any_detail() {
    let text = redeem(&["expired_txn_token"], AGED).replace("scope =", "when = \"details.contract == 'C-1'\"\nscope =");
    assert!(complaints(&format!("{GOOD}{text}")).is_empty());
}

/// The examples of the reference are policies that can be used.
#[test]
fn the_manual_says_what_works() {
    const MANUAL: &str = include_str!("../../../../docs/reference/policies.md");
    let schema = |_: &Path| Ok(include_bytes!("../../../../policies/schemas/trade.schema.json").to_vec());
    let retention = Duration::from_secs(400 * 86_400);
    let settings = Settings { outside_sources: Source::ALL.to_vec(), pdp: true, retention, ..settings() };
    let blocks = MANUAL.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut purposes = 0;
    for block in blocks.filter(|block| block.starts_with("[[purpose]]")) {
        let found = parse_with(&format!("{GOOD}{block}"), &settings, &schema);
        assert!(!found.problems.iter().any(Problem::is_error), "{block}: {:?}", found.problems);
        purposes += 1;
    }
    let table = MANUAL.split("| to allow only | write |").nth(1).unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let conditions: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap().replace("\\|", "|")).collect();
    for condition in &conditions {
        assert!(Condition::compile(condition).is_ok(), "{condition}");
    }
    assert!(purposes >= 6 && conditions.len() >= 8, "{purposes} {conditions:?}");
}

/// What was read for a policy is watched, and part of the digest.
#[test]
fn each_file_that_a_policy_names_is_read() {
    let text = format!(
        "{GOOD}jwks_file = \"../keys.json\"\n{}{}",
        purpose(&["txn_token"], "request_details = \"schemas/trade.json\""),
        purpose(&["txn_token"], "request_details = \"/etc/other.json\"")
    );
    let read = Mutex::new(Vec::new());
    let note = |path: &Path| {
        read.lock().unwrap().push(path.display().to_string());
        Err("No such file".to_owned())
    };
    parse_with(&text, &settings(), &note);
    assert_eq!(*read.lock().unwrap(), ["/p/../keys.json", "/p/schemas/trade.json", "/etc/other.json"]);
}

#[test]
fn a_scope_may_have_a_table_for_each_of_its_sources() {
    let text = format!(
        "{GOOD}{}{}{}",
        purpose(&["client_credentials"], "lifetime = \"30s\""),
        purpose(&["txn_token"], ""),
        purpose(&["access_token"], "granted_by = [\"g\"]")
    );
    assert!(complaints(&text).is_empty());
    // Redeeming is no matter of other purposes.
    let other = purpose(&["client_credentials"], "").replace("\"s\"", "\"t\"");
    assert!(complaints(&format!("{GOOD}{}{other}", redeem(&["expired_txn_token", "txn_token"], AGED))).is_empty());
}

/// A-089
#[test]
fn a_file_that_is_empty_cut_off_or_misnamed_is_refused() {
    assert_eq!(complaints("").len(), 2);
    assert!(complaints(&GOOD[..GOOD.len() - 3])[0].starts_with("2: "));
    assert!(complaints(&GOOD.replace("\"job\"", "\"jobs\""))[0].contains("1: client_id: is not the name of the file"));
    assert!(complaints(&GOOD.replace("\"job\"", "\"JOB\""))[0].contains("1: client_id: is not the name of the file"));
    assert!(complaints(&format!("{GOOD}client_id = \"job\"\n"))[0].contains("3: client_id: is written twice"));
}

/// A-139
#[test]
fn ten_mistakes_are_named_in_one_run() {
    let text = "\
client_id = \"jobs\"
subject = \"\"
introspect = \"yes\"
[[purpose]]
scope = \"a b\"
[[purpose]]
scope = \"c\"
accept = [\"access_token\", \"magic\"]
lifetime = \"forever\"
when = 'tru'
[[purpose]]
scope = \"d\"
accept = [\"expired_txn_token\"]
[purpose.redemption]
issued_to = []
max_age = \"4000d\"
max_uses = 0
";
    let lines: Vec<usize> = reading(text).problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 1, 2, 3, 4, 5, 8, 9, 10, 15, 16, 17]);
}
