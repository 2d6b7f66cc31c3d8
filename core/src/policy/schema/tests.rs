use num_rational::BigRational;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::policy::number::tests::{near, reference};

const TRADE: &str = r#"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "action": {"enum": ["buy", "sell"]},
        "ticker": {"type": "string", "pattern": "^[A-Z]{1,5}$"},
        "quantity": {"type": "number", "exclusiveMinimum": 0}
    },
    "required": ["action"],
    "additionalProperties": false
}"#;

fn schema(text: &str) -> Schema {
    Schema::parse(text.as_bytes()).unwrap()
}

fn outcome(schema: &Schema, details: &str) -> Result<(), Option<String>> {
    schema.admit(&Members::parse(details, Limits::DEFAULT).unwrap()).map_err(|unfit| unfit.member)
}

/// A misspelt keyword refuses nothing.
#[test]
fn keywords_that_json_schema_does_not_have_are_reported() {
    let text = r#"{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"t","x-owner":"o","requierd":["a"],
        "properties":{"requierd":{"additionalItems":false,"format":"date"}},"allOf":[{"maximun":1}]}"#;
    let mut ignored = Schema::parse(text.as_bytes()).unwrap().ignored().to_vec();
    ignored.sort();
    assert_eq!(ignored, ["/allOf/0/maximun", "/properties/requierd/additionalItems", "/requierd"]);
}

#[test]
fn details_must_fit() {
    let trade = schema(TRADE);
    assert_eq!(outcome(&trade, r#"{"action":"buy","ticker":"ACME","quantity":0.1}"#), Ok(()));
    assert_eq!(outcome(&trade, r#"{"action":"buy","quantity":100000000000000000001}"#), Ok(()));
    for (details, member) in [
        ("{}", None),
        (r#"{"action":"keep"}"#, Some("action")),
        (r#"{"action":"buy","quantity":"1"}"#, Some("quantity")),
        (r#"{"action":"buy","quantity":0}"#, Some("quantity")),
        (r#"{"action":"buy","ticker":"acme"}"#, Some("ticker")),
        (r#"{"action":"buy","other":1}"#, None),
    ] {
        assert_eq!(outcome(&trade, details), Err(member.map(str::to_owned)), "{details}");
    }
}

/// The sender chooses the names of members, so they are repeated only if plain.
#[test]
fn strange_names_are_not_repeated() {
    let numbers = schema(r#"{"additionalProperties": {"type": "number"}}"#);
    assert_eq!(outcome(&numbers, r#"{"a":""}"#), Err(Some("a".to_owned())));
    for name in ["a b", "a~b", "\\\"", "ä", "", &"x".repeat(65)] {
        assert_eq!(outcome(&numbers, &format!("{{\"{name}\":\"\"}}")), Err(None), "{name}");
    }
}

#[test]
fn a_limit_holds_to_the_last_digit() {
    let limited = schema(r#"{"properties": {"n": {"maximum": 100000000000000000000}}}"#);
    assert_eq!(outcome(&limited, r#"{"n":100000000000000000000}"#), Ok(()));
    assert!(outcome(&limited, r#"{"n":100000000000000000001}"#).is_err());
    for (keywords, fitting, unfit) in [
        (r#""minimum":-9223372036854775808"#, "-9223372036854775808", "-9223372036854775809"),
        (r#""minimum":-9223372036854775808"#, "-9223372036854775807.9", "-9223372036854776000"),
        (r#""maximum":18446744073709551616"#, "1.8446744073709551616e19", "18446744073709551617"),
        (r#""maximum":9223372036854775808"#, "9223372036854775808.0", "9223372036854775808.5"),
        (r#""maximum":1234567890123456.789"#, "1234567890123456.789", "1234567890123456.8"),
        (r#""exclusiveMaximum":1e-30"#, "0.999e-30", "0.10000000000000000000000000000000000000001e-29"),
        (r#""exclusiveMinimum":0"#, "1e-999999999", "-1e-999999999"),
        (r#""multipleOf":0.01"#, "123456789012345678901.23", "123456789012345678901.234"),
        (r#""multipleOf":1e-18"#, "1.000000000000000001", "1.0000000000000000001"),
        (r#""multipleOf":123456789012345678901"#, "246913578024691357802", "246913578024691357803"),
        (r#""const":123456789012345678901"#, "123456789012345678901.0", "123456789012345678902"),
        (r#""enum":[1,[123456789012345678901]]"#, "[1234567890123456789010e-1]", "[123456789012345680000]"),
        (r#""uniqueItems":true"#, "[123456789012345678901,123456789012345678902]", "[0.1,0.10]"),
        (r#""type":"integer""#, "123456789012345678901.000", "123456789012345678901.5"),
        (r#""type":"integer""#, "1e2", "1e-2"),
        (r#""not":{"maximum":9007199254740992}"#, "9007199254740993", "9007199254740992"),
        (r#""type":"array","maxItems":1.0"#, "[1]", "[1,2]"),
        (r#""minimum":0"#, "1e-999999999999999999", "1e-9999999999999999999"),
    ] {
        let limited = schema(&format!("{{\"properties\":{{\"n\":{{{keywords}}}}}}}"));
        assert_eq!(outcome(&limited, &format!("{{\"n\":{fitting}}}")), Ok(()), "{keywords} {fitting}");
        let refused = outcome(&limited, &format!("{{\"n\":{unfit}}}"));
        assert_eq!(refused, Err(Some("n".to_owned())), "{keywords} {unfit}");
    }
}

/// A-085
#[test]
fn invalid_and_external_schemas_are_refused() {
    let complaint = |text: &str| Schema::parse(text.as_bytes()).expect_err(text).to_string();
    for (text, expected) in [
        ("", "is not a JSON Schema: it must be one JSON object"),
        ("true", "is not a JSON Schema: it must be one JSON object"),
        (r#"{"type":"object","type":"object"}"#, "is not a JSON Schema: it must be one JSON object"),
        (r#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#, "is not for JSON Schema 2020-12"),
        (r#"{"$schema":1}"#, "is not for JSON Schema 2020-12"),
        (r#"{"type":"objekt"}"#, "is not a valid JSON Schema"),
        (r#"{"$ref":"https://schemas.example/trade.json"}"#, "is not a valid JSON Schema"),
        (r#"{"$ref":"file:///etc/passwd"}"#, "is not a valid JSON Schema"),
        (r#"{"$ref":"other.json"}"#, "is not a valid JSON Schema"),
        (r##"{"$ref":"#/$defs/missing"}"##, "is not a valid JSON Schema"),
        (r#"{"properties":{"a":{"pattern":"(?=x)"}}}"#, "is not a valid JSON Schema"),
        (r#"{"properties":{"a":{"pattern":"("}}}"#, "is not a valid JSON Schema"),
    ] {
        assert!(complaint(text).contains(expected), "{text}: {}", complaint(text));
    }
    assert!(Schema::parse(br##"{"$defs":{"n":{"type":"number"}},"properties":{"a":{"$ref":"#/$defs/n"}}}"##).is_ok());
}

/// Each keyword, with a value that fits and one that does not.
#[test]
fn keywords_mean_what_they_mean_in_json_schema() {
    for (keywords, fitting, unfit) in [
        (r#""type":["string","null"]"#, "null", "1"),
        (r#""minLength":2,"maxLength":3"#, r#""äöü""#, r#""ä""#),
        (r#""pattern":"^\\d+$""#, r#""12""#, r#""١٢""#),
        (r#""pattern":"b""#, r#""abc""#, r#""ac""#),
        (r#""prefixItems":[{"type":"string"}],"items":false"#, r#"["a"]"#, r#"["a",1]"#),
        (r#""items":{"minimum":1},"minItems":1"#, "[1,2]", "[]"),
        (r#""contains":{"const":1},"maxContains":1"#, "[1,2]", "[1,1.0]"),
        (r#""contains":{"const":1},"minContains":0"#, "[]", "{"),
        (
            r#""properties":{"a":{"type":"null"}},"patternProperties":{"^b":{"type":"string"}},"additionalProperties":{"type":"number"}"#,
            r#"{"a":null,"bb":"","c":1}"#,
            r#"{"c":""}"#,
        ),
        (r#""propertyNames":{"maxLength":1},"minProperties":1,"maxProperties":2"#, r#"{"a":1}"#, r#"{"ab":1}"#),
        (r#""required":["a"],"dependentRequired":{"a":["b"]}"#, r#"{"a":1,"b":1}"#, r#"{"a":1}"#),
        (r#""dependentSchemas":{"a":{"required":["b"]}}"#, r#"{"a":1,"b":1}"#, r#"{"a":1}"#),
        (r#""dependencies":{"a":["b"],"b":{"required":["c"]}}"#, r#"{"a":1,"b":1,"c":1}"#, r#"{"a":1,"b":1}"#),
        (r#""allOf":[{"minimum":1},{"maximum":2}]"#, "2", "3"),
        (r#""anyOf":[{"minimum":3},{"maximum":2}]"#, "3", "2.5"),
        (r#""oneOf":[{"minimum":1},{"maximum":2}]"#, "3", "1.5"),
        (r#""not":{"type":"string"}"#, "1", r#""""#),
        (r#""if":{"minimum":10},"then":{"multipleOf":10},"else":{"multipleOf":3}"#, "20", "5"),
        (r#""if":{"minimum":10},"then":{"multipleOf":10},"else":{"multipleOf":3}"#, "9", "15"),
        (
            r#""allOf":[{"properties":{"a":true}}],"anyOf":[{"required":["b"],"properties":{"b":true}},true],"unevaluatedProperties":false"#,
            r#"{"a":1,"b":1}"#,
            r#"{"a":1,"c":1}"#,
        ),
        (
            r#""prefixItems":[true],"contains":{"const":7},"unevaluatedItems":{"type":"string"}"#,
            r#"[1,7,"a"]"#,
            "[7,1]",
        ),
        (r##""$ref":"#/$defs/even""##, "4", "5"),
        (r##""$ref":"#named""##, r#""""#, "1"),
        (r#""$ref":"inner.json""#, "true", "1"),
        (r#""$ref":"inner.json/../inner.json#/$defs/deep""#, "[]", "1"),
        (r##""$dynamicRef":"#tree""##, r#"{"l":{"l":{}}}"#, r#"{"l":{"l":1}}"#),
        (r#""format":"email","x-unknown":{"minimum":3}"#, r#""no email""#, "]"),
    ] {
        let text = format!(
            r##"{{"properties":{{"n":{{{keywords}}}}},"$defs":{{"even":{{"multipleOf":2}},"t":{{"$anchor":"named","type":"string"}},
            "inner":{{"$id":"inner.json","type":"boolean","$defs":{{"deep":{{"type":"array"}}}}}},
            "tree":{{"$dynamicAnchor":"tree","type":"object","additionalProperties":{{"$dynamicRef":"#tree"}}}}}}}}"##
        );
        let limited = schema(&text);
        assert_eq!(outcome(&limited, &format!("{{\"n\":{fitting}}}")), Ok(()), "{keywords} {fitting}");
        if json::check(unfit, LIMITS).is_ok() {
            assert!(outcome(&limited, &format!("{{\"n\":{unfit}}}")).is_err(), "{keywords} {unfit}");
        }
    }
}

/// Under `not` a pattern that matched too little would let through what the schema forbids.
#[test]
fn patterns_mean_what_they_mean_in_ecma_262() {
    let lines = "\u{d}\u{2028}\u{2029}\n";
    let breaks: Vec<String> = lines.chars().map(|c| format!("a{c}b")).collect();
    let breaks: Vec<&str> = breaks.iter().map(String::as_str).collect();
    for (pattern, matching, other) in [
        (r"^a.b$", &["aäb", "a\u{85}b", "a😀b"][..], &breaks[..]),
        (r"^a[.]b$", &["a.b"], &["axb"]),
        (r"^a\.b$", &["a.b"], &["axb"]),
        (r"é\b", &["éa"], &["é", "é "]),
        (r"\bx\b", &["äxä", "x"], &["axa"]),
        (r"a\B", &["aa"], &["aä", "a"]),
        (r"\B", &["é", "aa"], &["a", "aéa"]),
        (r"^[\b]$", &["\u{8}"], &["b"]),
        (r"^\<a\>$", &["<a>"], &["a"]),
        (r"^[\<-\>]$", &["<", "=", ">"], &["-"]),
        (r"^\w$", &["a", "_", "0"], &["ä", "\u{17f}"]),
        (r"^\W$", &["ä"], &["a"]),
        (r"^[\w.]$", &["a", "."], &["ä", "\\"]),
        (r"^\d$", &["1"], &["\u{661}"]),
        (r"^\D$", &["\u{661}"], &["1"]),
        (r"^\s$", &["\u{feff}", "\u{a0}", "\u{2028}", "\u{b}"], &["\u{85}", "\u{180e}"]),
        (r"^\S$", &["\u{85}"], &["\u{feff}"]),
        (r"^a$", &["a"], &["a\n"]),
        (r"^(?:(?<y>a.)|b)$", &["ax", "b"], &["a\r"]),
    ] {
        let text = serde_json::json!({"properties": {"n": {"pattern": pattern}, "m": {"not": {"pattern": pattern}}}});
        let schema = schema(&text.to_string());
        let cases = matching.iter().map(|text| (text, true)).chain(other.iter().map(|text| (text, false)));
        for (text, matches) in cases {
            let fits = |name: &str| outcome(&schema, &serde_json::json!({name: text}).to_string()).is_ok();
            assert_eq!((fits("n"), fits("m")), (matches, !matches), "{pattern} {text:?}");
        }
    }
    for pattern in
        ["(?i)a", "(?i:a)", "(?s).", "(?-u:a)", r"\Aa\z", "[]|[a]", "[^]", "a{,2}", "[[:alpha:]]", r"\b{start}a", "a**"]
    {
        let text = serde_json::json!({"properties": {"n": {"pattern": pattern}}}).to_string();
        assert!(matches!(Schema::parse(text.as_bytes()), Err(SchemaError::Unsound(_))), "{pattern}");
    }
}

/// A-085: a schema that applies to one value without end is refused; one that some details would make very slow refuses
/// those details.
#[test]
fn no_schema_keeps_a_worker_busy() {
    let doubling = |keyword: &str| {
        let level = |n: u32| {
            let below = format!(r##"{{"$ref":"#/$defs/l{}"}}"##, n - 1);
            format!(r#""l{n}":{{"{keyword}":[{below},{below}]}}"#)
        };
        let levels: Vec<_> = (1..=24).map(level).collect();
        format!(r##"{{"$defs":{{"l0":{{"type":"object"}},{}}},"$ref":"#/$defs/l24"}}"##, levels.join(","))
    };
    let chain: Vec<_> = (0..5000).map(|n| format!(r##""l{n}":{{"$ref":"#/$defs/l{}"}}"##, n + 1)).collect();
    for text in [
        doubling("allOf"),
        doubling("anyOf"),
        doubling("oneOf"),
        r##"{"$ref":"#"}"##.to_owned(),
        r##"{"$defs":{"a":{"not":{"$ref":"#/$defs/b"}},"b":{"if":{"$ref":"#/$defs/a"}}}}"##.to_owned(),
        format!(r##"{{"$ref":"#/$defs/l0","$defs":{{{},"l5000":true}}}}"##, chain.join(",")),
    ] {
        let error = Schema::parse(text.as_bytes()).expect_err(&text);
        assert!(matches!(error, SchemaError::Boundless(_)), "{error}");
    }
    let nested = format!("{}1{}", r#"{"x":"#.repeat(15), "}".repeat(15));
    let wide =
        format!(r#"{{"x":[{}]}}"#, vec!["\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""; 250].join(","));
    let wider: Vec<_> = (0..200).map(|n| format!(r#"{{"not":{{"pattern":"(a|b)*c{n}$"}}}}"#)).collect();
    let limits: Vec<_> = (0..900).map(|n| format!(r#"{{"type":["integer","number"],"minimum":-{n}}}"#)).collect();
    let long_number = format!(r#"{{"x":0.{}1}}"#, "0".repeat(16_000));
    let long_number_schema = format!(r#"{{"properties":{{"x":{{"allOf":[{}]}}}}}}"#, limits.join(","));
    for (text, details) in [
        (r##"{"properties":{"x":{"allOf":[{"$ref":"#"},{"$ref":"#"},{"$ref":"#"}]}}}"##.to_owned(), &nested),
        (format!(r#"{{"properties":{{"x":{{"items":{{"allOf":[{}]}}}}}}}}"#, wider.join(",")), &wide),
        (long_number_schema, &long_number),
        (r#"{"properties":{"x":{"items":{"pattern":"^(\\w{1,50}\\W?){50}$"}}}}"#.to_owned(), &wide),
    ] {
        let unfit = schema(&text).admit(&Members::parse(details, Limits::DEFAULT).unwrap()).expect_err(&text);
        assert!(unfit.why.contains("more work than is allowed"), "{text}: {}", unfit.why);
    }
    let tree = r##"{"type":"object","properties":{"x":{"oneOf":[{"type":"number"},{"$ref":"#"}]}},"additionalProperties":false}"##;
    assert_eq!(outcome(&schema(tree), &nested), Ok(()));
    let large = r#"{"properties":{"a":{"pattern":"^([a-z]{1000}){1000}$"}}}"#;
    assert!(Schema::parse(large.as_bytes()).is_err());
}

#[test]
fn a_schema_says_which_members_there_can_be() {
    let trade = schema(TRADE);
    assert_eq!(
        (trade.describes("ticker"), trade.describes("tikcer"), trade.is_closed()),
        (Some(true), Some(false), true)
    );
    assert_eq!(schema(r#"{"type":"object"}"#).describes("a"), None);
    let open = schema(r#"{"properties":{"a":{}},"patternProperties":{"^b":{}}}"#);
    assert_eq!((open.describes("b"), open.is_closed()), (None, false));
}

/// A schema of a few keywords, in JSON, with numbers that a double holds.
fn any_schema() -> impl Strategy<Value = String> {
    let leaf = select(vec![
        "true",
        "false",
        r#"{"type":"integer"}"#,
        r#"{"type":["string","null"]}"#,
        r#"{"minimum":1,"exclusiveMaximum":3}"#,
        r#"{"multipleOf":0.5}"#,
        r#"{"enum":[1,"a",null,[1],{"a":1}]}"#,
        r#"{"const":{"a":[1,2.0]}}"#,
        r#"{"minLength":1,"maxLength":1}"#,
        r#"{"pattern":"^a|b$"}"#,
        r#"{"required":["a"],"maxProperties":2}"#,
        r#"{"uniqueItems":true,"minItems":1}"#,
        r#"{"dependentRequired":{"a":["b"]},"minProperties":1}"#,
        r#"{"propertyNames":{"pattern":"[ab]"}}"#,
        r##"{"$ref":"#/$defs/r"}"##,
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(3, 24, 3, |inner| {
        let some = proptest::collection::vec(inner.clone(), 1..3).prop_map(|all| all.join(","));
        let keyword = prop_oneof![
            (select(vec!["allOf", "anyOf", "oneOf", "prefixItems"]), some.clone())
                .prop_map(|(name, all)| format!(r#""{name}":[{all}]"#)),
            (
                select(vec![
                    "not",
                    "items",
                    "contains",
                    "additionalProperties",
                    "unevaluatedItems",
                    "unevaluatedProperties",
                    "if",
                    "then",
                    "else",
                    "propertyNames"
                ]),
                inner.clone()
            )
                .prop_map(|(name, schema)| format!(r#""{name}":{schema}"#)),
            (select(vec!["properties", "dependentSchemas", "patternProperties"]), inner.clone(), inner)
                .prop_map(|(name, one, other)| format!(r#""{name}":{{"a":{one},"b":{other}}}"#)),
            select(vec![r#""minContains":0"#, r#""maxContains":1"#, r#""maxItems":2"#]).prop_map(str::to_owned),
        ];
        proptest::collection::vec(keyword, 1..4).prop_map(|keywords| {
            let mut names = BTreeSet::new();
            let name = |keyword: &String| keyword.split(':').next().unwrap_or_default().to_owned();
            let keywords: Vec<_> = keywords.into_iter().filter(|keyword| names.insert(name(keyword))).collect();
            format!("{{{}}}", keywords.join(","))
        })
    })
}

fn any_value() -> impl Strategy<Value = String> {
    let leaf =
        select(vec!["null", "true", "0", "1", "1.0", "2.5", "-1", "3", "\"\"", "\"a\"", "\"ab\"", "\"ä\"", "[]", "{}"]);
    leaf.prop_map(str::to_owned).prop_recursive(3, 16, 3, |inner| {
        let named = (select(vec!["a", "b", "c"]), inner.clone());
        prop_oneof![
            proptest::collection::vec(inner, 0..4).prop_map(|all| format!("[{}]", all.join(","))),
            proptest::collection::vec(named, 0..4).prop_map(|members| {
                let members: std::collections::BTreeMap<_, _> = members.into_iter().collect();
                let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// For values without rounding, another implementation has the same result.
    #[test]
    fn a_value_fits_where_another_implementation_says_so(inner in any_schema(), value in any_value()) {
        let text = format!(r#"{{"properties":{{"n":{inner}}},"$defs":{{"r":{{"items":{{"type":"number"}}}}}}}}"#);
        let theirs: serde_json::Value = serde_json::from_str(&text).unwrap();
        let theirs = jsonschema::draft202012::new(&theirs).unwrap();
        let details = format!("{{\"n\":{value}}}");
        let fits = theirs.is_valid(&serde_json::from_str(&details).unwrap());
        prop_assert_eq!(outcome(&schema(&text), &details).is_ok(), fits, "{} {}", inner, details);
    }

    /// Every keyword that compares numbers, at any depth, against fractions.
    #[test]
    fn limits_hold_as_those_of_fractions(limit in near(), value in near(), same in any::<bool>(), depth in 0..3_usize) {
        let value = if same { limit.clone() } else { value };
        let in_range = |text: &str| text.parse::<f64>().unwrap().is_finite();
        prop_assume!(in_range(&limit) && in_range(&value));
        let (number, bound) = (reference(&value), reference(&limit));
        let above = bound > BigRational::from_integer(0.into());
        let whole = above && (&number / &bound).is_integer();
        for (keyword, fits) in [
            (format!(r#""minimum":{limit}"#), number >= bound),
            (format!(r#""maximum":{limit}"#), number <= bound),
            (format!(r#""exclusiveMinimum":{limit}"#), number > bound),
            (format!(r#""exclusiveMaximum":{limit}"#), number < bound),
            (format!(r#""const":{limit}"#), number == bound),
            (format!(r#""const":{{"x":[{limit}]}}"#), false),
            (format!(r#""enum":["x",{limit},7.5e-77]"#), number == bound),
            (r#""type":"integer""#.to_owned(), number.is_integer()),
            (format!(r#""multipleOf":{}"#, if above { &limit } else { "1" }), if above { whole } else { number.is_integer() }),
        ] {
            let open = r#"{"items":"#.repeat(depth);
            let text = format!(r#"{{"properties":{{"n":{open}{{{keyword}}}{}}}}}"#, "}".repeat(depth));
            let details = format!("{{\"n\":{}{value}{}}}", "[".repeat(depth), "]".repeat(depth));
            prop_assert_eq!(outcome(&schema(&text), &details).is_ok(), fits, "{} {}", text, details);
        }
        let unique = schema(r#"{"properties":{"n":{"uniqueItems":true}}}"#);
        let details = format!(r#"{{"n":[{{"x":[{limit}]}},{{"x":[{value}]}}]}}"#);
        prop_assert_eq!(outcome(&unique, &details).is_ok(), number != bound, "{}", details);
    }
}
