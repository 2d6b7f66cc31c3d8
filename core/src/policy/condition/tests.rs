use num_rational::BigRational;
use proptest::prelude::*;
use writ_verifier::json::Limits;

use super::*;
use crate::policy::number::tests::{near, reference};

fn members(text: &str) -> Members {
    Members::parse(text, Limits::DEFAULT).unwrap()
}

fn holds(source: &str, details: &str) -> bool {
    let condition = Condition::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    let scope = "trade.execute trade.view".parse().unwrap();
    condition.holds(Facts {
        client: "gateway",
        sub: "alice",
        claims: &members(r#"{"level":"gold","age":42}"#),
        scope: &scope,
        details: &members(details),
        context: &members(r#"{"req_ip":"192.0.2.1"}"#),
        now: Timestamp::from_epoch(1_790_000_000),
    }) == Ok(true)
}

#[test]
fn the_members_that_a_condition_names_are_known() {
    let members = |text: &str| Condition::compile(text).unwrap().members();
    assert_eq!(
        members("!has(details.a.b) || details.a.b <= 1 && subject.claims.level == 'x' && subject.sub == client"),
        ["details.a.b", "subject.claims.level", "subject.sub"]
    );
    assert_eq!(members("size(scope) == 1 && now > 0").len(), 0);
}

#[test]
fn every_fact_can_be_asked_for() {
    for source in [
        "client == 'gateway'",
        "subject.sub == 'alice' && subject.claims.level == 'gold'",
        "subject.claims.age >= 18 && subject['sub'] == 'alice'",
        "'trade.execute' in scope && size(scope) == 2",
        "details.quantity <= 1000 && has(details.ticker) && !has(details.limit)",
        "details.ticker.startsWith('AC') && details.ticker in ['ACME', 'INIT']",
        "context.req_ip.contains('192.0.2.')",
        "now > 1700000000",
        "details.tags[1] == 'b' && details.nested.flag",
        "details.quantity * 2 + 1 == 21",
    ] {
        let details = r#"{"quantity":10,"ticker":"ACME","tags":["a","b"],"nested":{"flag":true}}"#;
        assert!(holds(source, details), "{source}");
    }
}

/// A-086
#[test]
fn any_result_but_true_refuses() {
    for (source, details) in [
        ("details.quantity <= 1000", "{}"),
        ("details.quantity <= 1000", r#"{"quantity":"10"}"#),
        ("details.quantity <= 1000", r#"{"quantity":null}"#),
        ("details.quantity <= 1000", r#"{"quantity":1001}"#),
        ("1 / details.quantity == 1", r#"{"quantity":0}"#),
        ("1 % details.quantity == 1", r#"{"quantity":0}"#),
        ("-9223372036854775807 - details.quantity < 0", r#"{"quantity":9223372036854775807}"#),
        ("details.quantity / -1 < 0", r#"{"quantity":-9223372036854775808}"#),
        ("-details.quantity < 0", r#"{"quantity":-9223372036854775808}"#),
        ("details.tags[7] == 'a'", r#"{"tags":["a"]}"#),
        ("details.quantity", r#"{"quantity":1}"#),
        ("'true'", "{}"),
        ("null", "{}"),
        ("details", "{}"),
        ("int(details.quantity) == 1", r#"{"quantity":"x"}"#),
    ] {
        assert!(!holds(source, details), "{source} with {details}");
    }
}

/// Numbers are exact, whether sent, written or computed.
#[test]
fn digits_beyond_64_bits_count() {
    const LARGE: &str = r#"{"quantity":100000000000000000001}"#;
    for (source, details, expected) in [
        ("details.quantity <= 1000", LARGE, false),
        ("details.quantity > 1000", LARGE, true),
        ("details.quantity <= 100000000000000000000.0", LARGE, false),
        ("details.quantity >= 100000000000000000000.0", LARGE, true),
        ("details.quantity == 100000000000000000000.0", LARGE, false),
        ("details.quantity == 100000000000000000001.0", LARGE, true),
        ("details.quantity - 1.0 == 100000000000000000000.0", LARGE, true),
        ("string(details.quantity) == '100000000000000000001'", LARGE, true),
        ("'é' != '' && details.quantity == 10000000000000000000.1e1", LARGE, true),
        ("details.quantity == double('100000000000000000001')", LARGE, true),
        ("details.quantity in [1, 100000000000000000000.0]", LARGE, false),
        ("details == {'quantity': 100000000000000000001.0}", LARGE, true),
        ("[details] == [{'quantity': 100000000000000000000.0}]", LARGE, false),
        ("details.quantity >= -9223372036854775808", r#"{"quantity":-9223372036854775809}"#, false),
        ("details.quantity <= 18446744073709551615u", r#"{"quantity":18446744073709551616}"#, false),
        ("details.quantity <= 9223372036854775807", r#"{"quantity":9223372036854775807.5}"#, false),
        ("details.quantity <= 9007199254740992.0", r#"{"quantity":9007199254740993}"#, false),
        ("details.quantity <= 123456789012345678901.0", r#"{"quantity":123456789012345680000}"#, false),
        ("details.quantity <= -1.5e-3", r#"{"quantity":-0.0015}"#, true),
        ("details.quantity + 0.2 == 0.3", r#"{"quantity":0.1}"#, true),
        ("details.quantity / 3.0 * 3.0 == 1.0", r#"{"quantity":1.0}"#, true),
        ("int(details.quantity) == 9223372036854775807", r#"{"quantity":9223372036854775807.9}"#, true),
        ("int(details.quantity) > 0", r#"{"quantity":9223372036854775808.0}"#, false),
        ("uint(details.quantity) == 18446744073709551615u", r#"{"quantity":18446744073709551615.5}"#, true),
        ("uint(details.quantity) == 0u", r#"{"quantity":-0.5}"#, false),
        ("details.quantity <= 1000", r#"{"quantity":0.1}"#, true),
        ("details.quantity == 0.1", r#"{"quantity":0.10}"#, true),
        ("details.quantity <= 0.1", r#"{"quantity":0.1000000000000000000001}"#, false),
        ("details.quantity < 0.1", r#"{"quantity":0.0999999999999999999999}"#, true),
        ("details.quantity == 1", r#"{"quantity":1.0}"#, true),
        ("details.quantity == 100", r#"{"quantity":1e2}"#, true),
        ("details.quantity > 9223372036854775807", r#"{"quantity":18446744073709551615}"#, true),
        ("details.quantity > 0", r#"{"quantity":1e-999999999}"#, true),
        ("details.quantity + 1.0 > 0.0", r#"{"quantity":1e-999999999}"#, false),
        ("details.quantity >= 0", r#"{"quantity":1e-99999999999999999999}"#, false),
    ] {
        assert_eq!(holds(source, details), expected, "{source} with {details}");
    }
}

/// The semantics of standard CEL: short-circuit operators, types that do not mix, members and elements.
#[test]
fn an_expression_means_what_it_means_in_cel() {
    let details = r#"{"n":7,"x":1.5,"t":"äb","l":[1,"a",{"b":null}],"o":{"k":true}}"#;
    for source in [
        "details.n / 2 == 3 && details.n % 2 == 1 && -details.n == -7 && details.n * 2 - 1 == 13",
        "details.x * 2.0 == 3.0 && details.x / 3.0 == 0.5 && -details.x == -1.5",
        "details.none || true",
        "true || details.none",
        "!(details.none && false)",
        "details.n == 7u && details.n == 7.0 && uint(details.n) / 2u == 3u",
        "details.n != '7' && !(details.n == '7')",
        "size(details.t) == 2 && details.t.size() == 2 && size(details.l) == 3 && size(details) == 5",
        "details.l[0] == 1 && details.l[1.0] == 'a' && details.l[2u].b == null && details['n'] == 7",
        "'a' in details.l && !('b' in details.l) && 'k' in details.o && !(1 in details.o)",
        "details.t + 'c' == 'äbc' && details.l + [2] == [1, 'a', {'b': null}, 2]",
        "details.n > 5 ? details.x < 2.0 : details.none",
        "{1: 'a'}[1u] == 'a' && {'a': 1} == {'a': 1.0} && {true: 1}[true] == 1",
        "'a' < 'b' && false < true && double('1.50') == details.x && int('-7') == -details.n",
        "string(details.x) == '1.5' && string(details.n) == '7' && string(true) == 'true'",
        "has(details.o.k) && !has(details.o.x)",
    ] {
        assert!(holds(source, details), "{source}");
    }
    for source in [
        "details.n + details.x > 0.0",
        "details.n + 1u > 0u",
        "details.x % 1.5 == 0.0",
        "details.x / 0.0 > 0.0",
        "details.l[1.5] == 1",
        "details.l[-1] == 1",
        "details.n < '8'",
        "null <= null",
        "has(details.n.x)",
        "details.n && true",
        "details.none || false",
        "details.n ? true : true",
        "1 in 1",
        "null in details",
        "double('NaN') != 1.0",
        "int('1.5') == 1",
        "uint('-1') >= 0u",
        "string(1.0 / 3.0) != ''",
        "{'a': 1, 'a': 2}.a == 2",
        "{1.5: 1} != {}",
        "b'a' != b'b'",
        "contains('a', 'a')",
        "'a'.size(1) == 1",
    ] {
        assert!(!holds(source, details), "{source}");
    }
}

/// A value of the request may be large, and an expression may use it often.
#[test]
fn an_evaluation_is_bounded_for_any_input() {
    let list = vec!["\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""; 250].join(",");
    let details = format!(r#"{{"t":"{}","l":[{list}],"d":0.{}1}}"#, "a".repeat(16_000), "0".repeat(400));
    let why = |source: &str| {
        let scope = "a".parse().unwrap();
        let (none, details) = (Members::default(), members(&details));
        let now = Timestamp::from_epoch(1);
        let facts =
            Facts { client: "c", sub: "s", claims: &none, scope: &scope, details: &details, context: &none, now };
        Condition::compile(source).unwrap().holds(facts)
    };
    let repeated = |part: &str, between: &str, times: usize| vec![part; times].join(between);
    let too_long = Err("a text or a list would be too long");
    assert_eq!(why(&format!("size({}) > 0", repeated("details.t", " + ", 80))), too_long);
    let lists = format!("[{}]", repeated("details", ",", 40));
    let costly = format!("{lists} == {lists} && true");
    assert_eq!(why(&costly), Err("it takes more work than an evaluation is allowed"));
    let searched = repeated("details.t.contains('ab')", " || ", 32);
    assert_eq!(why(&searched), Ok(false));
    let product = format!("{} > 0.0", repeated("details.d", " * ", 60));
    assert_eq!(why(&product), Err("a number would be too large or too long, or does not exist"));
}

#[test]
fn what_cannot_be_decided_is_refused_when_it_is_read() {
    let complaint = |source: &str| Condition::compile(source).expect_err(source).to_string();
    for (source, expected) in [
        ("detials.quantity <= 1", "has an unknown name `detials`; known are client, subject"),
        ("subject.name == 'x'", "has an unknown name `name`; known are sub, claims"),
        ("has(subject.name)", "has an unknown name `name`; known are sub, claims"),
        ("lower(client) == 'x'", "has an unknown name `lower`; known are size"),
        ("client.matches('x')", "has an unknown name `matches`; known are size"),
        ("duration('1s') == now", "has an unknown name `duration`"),
        ("details.tags.all(t, t == 'a')", "must not loop"),
        ("details.tags.exists(t, t == 'a')", "must not loop"),
        ("details.tags.map(t, t) == []", "must not loop"),
        ("size(details.tags.filter(t, true)) == 0", "must not loop"),
        ("[[1].exists_one(t, true)] == []", "must not loop"),
        ("{'a': [1].all(t, true)} == {}", "must not loop"),
        ("details.quantity <=", "is not a CEL expression: "),
        ("details.?quantity == 1", "is not a CEL expression: "),
        ("", "is not a CEL expression: "),
        ("details.quantity <= 99999999999999999999", "is not a CEL expression: "),
        (&format!("{}true{}", "(".repeat(400), ")".repeat(400)), "is not a CEL expression: it is nested too deeply"),
        (&format!("client == '{}'", "x".repeat(MAX_LENGTH)), "must be at most 1024"),
    ] {
        assert!(complaint(source).contains(expected), "{source}: {}", complaint(source));
    }
}

#[test]
fn members_of_details_are_known_by_name() {
    let condition = Condition::compile("details.a < 1 || has(details.b.c) || context.d == details['e']").unwrap();
    assert_eq!(condition.members_of_details(), ["a", "b"]);
}

/// The deepest nesting in a kilobyte gets an answer and does not overflow the stack.
#[test]
fn a_deep_expression_is_answered() {
    for source in ["(".repeat(1000), format!("{}true{}", "(".repeat(500), ")".repeat(500)), "!".repeat(1000) + "true"] {
        let _ = Condition::compile(&source).map(|condition| {
            let _ = condition.holds(Facts {
                client: "c",
                sub: "s",
                claims: &Members::default(),
                scope: &"a".parse().unwrap(),
                details: &Members::default(),
                context: &Members::default(),
                now: Timestamp::from_epoch(1),
            });
        });
    }
    let sums = format!("{}1 == 1", "1 + ".repeat(250));
    assert!(!holds(&sums, "{}"));
    let _ = Condition::compile(&format!("{}true", "true && ".repeat(120))).unwrap();
}

/// A number as an expression writes it.
fn literal(number: &str) -> String {
    if number.contains(['.', 'e']) || number.parse::<i64>().is_ok() { number.to_owned() } else { format!("{number}.0") }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Every operator, between what is sent, written and claimed, at any depth, against fractions.
    #[test]
    fn comparisons_are_those_of_fractions(sent in near(), other in near(), same in any::<bool>()) {
        let other = if same { sent.clone() } else { other };
        let in_range = |text: &str| text.parse::<f64>().unwrap().is_finite();
        prop_assume!(in_range(&sent) && in_range(&other));
        let (number, bound) = (reference(&sent), reference(&other));
        let written = literal(&other);
        let facts = members(&format!(r#"{{"n":{sent},"l":[{{"x":[{sent}]}}]}}"#));
        let claims = members(&format!(r#"{{"l":[{{"x":[{other}]}}],"n":{other}}}"#));
        let scope = "a".parse().unwrap();
        let says = |source: &str| {
            let now = Timestamp::from_epoch(1);
            let context = Members::default();
            let facts = Facts { client: "c", sub: "s", claims: &claims, scope: &scope, details: &facts, context: &context, now };
            Condition::compile(source).map_err(|error| error.to_string()).unwrap().holds(facts)
        };
        let zero = BigRational::from_integer(0.into());
        for (source, expected) in [
            (format!("details.n == {written}"), number == bound),
            (format!("details.n != {written}"), number != bound),
            (format!("details.n < {written}"), number < bound),
            (format!("details.n <= {written}"), number <= bound),
            (format!("details.n > {written}"), number > bound),
            (format!("{written} <= details.n"), bound <= number),
            (format!("details.n in ['x', {written}]"), number == bound),
            (format!("details.l == [{{'x': [{written}]}}]"), number == bound),
            ("details == subject.claims".to_owned(), number == bound),
            ("details.n >= subject.claims.n".to_owned(), number >= bound),
            ("details.l[0] in subject.claims.l".to_owned(), number == bound),
            (format!("double(details.n) - double({written}) < 0.0"), &number - &bound < zero),
            (format!("double(details.n) + double({written}) == 0.0"), &number + &bound == zero),
            (format!("double(details.n) * double({written}) > 0.0"), &number * &bound > zero),
            (format!("string(details.n) == string({written})"), number == bound),
            (format!("double(string(details.n)) == {written}"), number == bound),
        ] {
            prop_assert_eq!(says(&source), Ok(expected), "{} with {}", source, sent);
        }
    }

    /// Nothing that a client can send makes an expression panic.
    #[test]
    fn any_details_get_an_answer(
        quantity in prop_oneof![
            Just("null".to_owned()), Just("\"x\"".to_owned()), Just("[]".to_owned()), Just("{}".to_owned()),
            any::<i64>().prop_map(|n| n.to_string()), any::<u64>().prop_map(|n| n.to_string()),
            "-?[1-9][0-9]{0,30}(\\.[0-9]{1,9})?(e-?[0-9]{1,2})?",
        ],
        operator in prop_oneof![Just("+"), Just("-"), Just("*"), Just("/"), Just("%"), Just("<"), Just("=="), Just("in")],
        other in prop_oneof![Just("1"), Just("0"), Just("-1"), Just("0.5"), Just("9223372036854775807"), Just("1u"), Just("'x'"), Just("details")],
    ) {
        let details = format!("{{\"q\":{quantity}}}");
        let _ = holds(&format!("details.q {operator} {other} == 1"), &details);
        let _ = holds(&format!("string(details.q {operator} details.q) != ''"), &details);
    }
}
