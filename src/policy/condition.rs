//! `when`: a CEL expression over the facts of a request.
//!
//! It is compiled when the policy is read. What could loop, or names something that is not there, is refused then; so an
//! evaluation does at most what its at most 1024 characters say once. Anything but `true` refuses the request: `false`, a
//! member that is missing, a wrong type, a division by zero.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, operators};
use cel::objects::{Key, Map};
use cel::{Context, Env, Program, Value};
use serde_json::Value as Json;
use writ_verifier::{Members, Scope};

use super::exact::{self, Side};
use crate::clock::Timestamp;

/// The longest expression, in bytes.
const LONGEST: usize = 1024;

/// What an expression may name.
const FACTS: [&str; 6] = ["client", "subject", "scope", "details", "context", "now"];

/// The members of `subject`.
const SUBJECT: [&str; 2] = ["sub", "claims"];

/// What it may call: the operators, and functions whose work is bounded by their arguments.
const FUNCTIONS: [&str; 8] = ["size", "contains", "startsWith", "endsWith", "int", "uint", "double", "string"];
const OPERATORS: [&str; 17] = [
    operators::CONDITIONAL,
    operators::LOGICAL_AND,
    operators::LOGICAL_OR,
    operators::LOGICAL_NOT,
    operators::SUBSTRACT,
    operators::ADD,
    operators::MULTIPLY,
    operators::DIVIDE,
    operators::MODULO,
    operators::EQUALS,
    operators::NOT_EQUALS,
    operators::GREATER_EQUALS,
    operators::LESS_EQUALS,
    operators::GREATER,
    operators::LESS,
    operators::NEGATE,
    operators::INDEX,
];

/// Standard types, functions and macros; no syntax for optional values. Making it costs far more than an evaluation.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// Why a text is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// Longer than anybody can read.
    #[error("must be at most {LONGEST} characters")]
    TooLong,
    /// Not CEL.
    #[error("is no CEL expression: {0}")]
    Syntax(String),
    /// A name that stands for nothing.
    #[error("knows no `{name}`; there are {known}")]
    Name {
        /// The name as written.
        name: String,
        /// What it could have been.
        known: String,
    },
    /// A macro that visits the elements of a list.
    #[error("must not loop: `all`, `exists`, `exists_one`, `map` and `filter` are not available")]
    Loop,
}

/// An expression that can be decided.
pub struct Condition {
    program: Program,
    source: String,
}

/// What a condition is about.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Who asks.
    pub client: &'a str,
    /// The final subject.
    pub sub: &'a str,
    /// The claims of the subject token; none without one.
    pub claims: &'a Members,
    /// The purposes asked for.
    pub scope: &'a Scope,
    /// Request details; on a redemption the `tctx` that is carried over.
    pub details: &'a Members,
    /// Request context; on a redemption the `rctx` that is carried over.
    pub context: &'a Members,
    /// The instant of the request.
    pub now: Timestamp,
}

impl Condition {
    /// Compiles an expression.
    ///
    /// # Errors
    /// [`ConditionError`]: the first thing that is wrong with it.
    pub fn compile(source: &str) -> Result<Self, ConditionError> {
        if source.len() > LONGEST {
            return Err(ConditionError::TooLong);
        }
        let syntax = |errors: cel::ParseErrors| {
            let first = errors.errors.first().map(|error| format!("{} (character {})", error.msg, error.pos.1));
            ConditionError::Syntax(first.unwrap_or_default())
        };
        let program = ENVIRONMENT.compile(source).map_err(syntax)?;
        check(program.expression())?;
        Ok(Self { program, source: source.to_owned() })
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The members of `details` that it names.
    pub fn members_of_details(&self) -> Vec<&str> {
        let mut names = Vec::new();
        visit(self.program.expression(), &mut |expression| {
            if let Expr::Select(select) = expression
                && is_fact(&select.operand, "details")
            {
                names.push(select.field.as_str());
            }
        });
        names
    }

    /// The members that it names, like `details.quantity` or `subject.claims.level`; each once.
    pub fn members(&self) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        visit(self.program.expression(), &mut |expression| {
            let Some(path) = path(expression) else { return };
            // The outer ones come first: what they begin with is no member of its own.
            let known =
                |other: &String| other.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            if path.contains('.') && !paths.iter().any(known) {
                paths.push(path);
            }
        });
        paths
    }

    /// Whether it is true, on either side of numbers that 64 bits do not hold.
    pub fn holds(&self, facts: Facts<'_>) -> bool {
        self.is_true(facts, Side::Below) && self.is_true(facts, Side::Above)
    }

    fn is_true(&self, facts: Facts<'_>, side: Side) -> bool {
        let Some(context) = context(facts, side) else { return false };
        matches!(self.program.execute(&context), Ok(Value::Bool(true)))
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.source).finish()
    }
}

fn context(facts: Facts<'_>, side: Side) -> Option<Context<'static, 'static>> {
    let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
    let object = |members| exact::read(members, side).map(value);
    let subject =
        HashMap::from([(Key::from("sub"), Value::from(facts.sub)), (Key::from("claims"), object(facts.claims)?)]);
    let purposes = facts.scope.purposes().iter().map(|purpose| Value::from(purpose.as_str())).collect();
    let now = i64::try_from(facts.now.epoch()).ok()?;
    for (name, value) in [
        ("client", Value::from(facts.client)),
        ("subject", Value::Map(Map { map: Arc::new(subject) })),
        ("scope", Value::List(Arc::new(purposes))),
        ("details", object(facts.details)?),
        ("context", object(facts.context)?),
        ("now", Value::Int(now)),
    ] {
        context.add_variable_from_value(name, value);
    }
    Some(context)
}

fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(flag),
        Json::String(text) => Value::from(text),
        Json::Array(elements) => Value::List(Arc::new(elements.into_iter().map(value).collect())),
        Json::Object(members) => {
            let members = members.into_iter().map(|(name, member)| (Key::from(name), value(member)));
            Value::Map(Map { map: Arc::new(members.collect()) })
        }
        Json::Number(number) => number
            .as_i64()
            .map(Value::Int)
            .or_else(|| number.as_u64().map(Value::UInt))
            .or_else(|| number.as_f64().map(Value::Float))
            .unwrap_or(Value::Null),
    }
}

fn check(expression: &IdedExpr) -> Result<(), ConditionError> {
    let mut found = Ok(());
    visit(expression, &mut |expression| {
        if found.is_ok() {
            found = check_one(expression);
        }
    });
    found
}

fn check_one(expression: &Expr) -> Result<(), ConditionError> {
    match expression {
        Expr::Comprehension(_) => Err(ConditionError::Loop),
        Expr::Ident(name) => known(name, &FACTS),
        Expr::Select(select) if is_fact(&select.operand, "subject") => known(&select.field, &SUBJECT),
        Expr::Call(CallExpr { func_name, .. })
            if OPERATORS.contains(&func_name.as_str()) || func_name == operators::IN =>
        {
            Ok(())
        }
        Expr::Call(call) => known(&call.func_name, &FUNCTIONS),
        Expr::Struct(structure) => known(&structure.type_name, &FACTS),
        Expr::Select(_) | Expr::List(_) | Expr::Map(_) | Expr::Literal(_) | Expr::Unspecified => Ok(()),
    }
}

fn known(name: &str, names: &[&str]) -> Result<(), ConditionError> {
    let unknown = || ConditionError::Name { name: name.to_owned(), known: names.join(", ") };
    names.contains(&name).then_some(()).ok_or_else(unknown)
}

fn is_fact(operand: &IdedExpr, fact: &str) -> bool {
    matches!(&operand.expr, Expr::Ident(name) if name == fact)
}

/// A fact, or a member of one however deep, as it is written.
fn path(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) => Some(format!("{}.{}", path(&select.operand.expr)?, select.field)),
        _ => None,
    }
}

/// Shows `see` every part of an expression, the outer ones first; what a macro made of a loop is one part.
fn visit<'a>(expression: &'a IdedExpr, see: &mut impl FnMut(&'a Expr)) {
    see(&expression.expr);
    match &expression.expr {
        Expr::Call(call) => call.target.iter().map(AsRef::as_ref).chain(&call.args).for_each(|part| visit(part, see)),
        Expr::Select(select) => visit(&select.operand, see),
        Expr::List(list) => list.elements.iter().for_each(|part| visit(part, see)),
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    visit(&entry.key, see);
                    visit(&entry.value, see);
                }
            }
        }
        Expr::Struct(_) | Expr::Comprehension(_) | Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use writ_verifier::json::Limits;

    use super::*;

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
        })
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
    fn whatever_is_not_true_refuses() {
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

    /// Numbers that no 64 bits hold are decided on the side of no.
    #[test]
    fn digits_beyond_64_bits_count() {
        const LARGE: &str = r#"{"quantity":100000000000000000001}"#;
        for (source, details, expected) in [
            ("details.quantity <= 1000", LARGE, false),
            ("details.quantity > 1000", LARGE, true),
            ("details.quantity <= 100000000000000000000.0", LARGE, false),
            ("details.quantity >= 100000000000000000000.0", LARGE, true),
            ("details.quantity == 100000000000000000000.0", LARGE, false),
            ("details.quantity <= 1000", r#"{"quantity":0.1}"#, true),
            ("details.quantity == 0.1", r#"{"quantity":0.10}"#, true),
            ("details.quantity <= 0.1", r#"{"quantity":0.1000000000000000000001}"#, false),
            ("details.quantity < 0.1", r#"{"quantity":0.0999999999999999999999}"#, false),
            ("details.quantity == 1", r#"{"quantity":1.0}"#, true),
            ("details.quantity > 9223372036854775807", r#"{"quantity":18446744073709551615}"#, true),
        ] {
            assert_eq!(holds(source, details), expected, "{source} with {details}");
        }
    }

    #[test]
    fn what_cannot_be_decided_is_refused_when_it_is_read() {
        let complaint = |source: &str| Condition::compile(source).expect_err(source).to_string();
        for (source, expected) in [
            ("detials.quantity <= 1", "knows no `detials`; there are client, subject"),
            ("subject.name == 'x'", "knows no `name`; there are sub, claims"),
            ("has(subject.name)", "knows no `name`; there are sub, claims"),
            ("lower(client) == 'x'", "knows no `lower`; there are size"),
            ("client.matches('x')", "knows no `matches`; there are size"),
            ("duration('1s') == now", "knows no `duration`"),
            ("details.tags.all(t, t == 'a')", "must not loop"),
            ("details.tags.exists(t, t == 'a')", "must not loop"),
            ("details.tags.map(t, t) == []", "must not loop"),
            ("size(details.tags.filter(t, true)) == 0", "must not loop"),
            ("[[1].exists_one(t, true)] == []", "must not loop"),
            ("{'a': [1].all(t, true)} == {}", "must not loop"),
            ("details.quantity <=", "is no CEL expression: "),
            ("details.?quantity == 1", "is no CEL expression: "),
            ("", "is no CEL expression: "),
            ("details.quantity <= 99999999999999999999", "is no CEL expression: "),
            (&format!("client == '{}'", "x".repeat(LONGEST)), "must be at most 1024"),
        ] {
            assert!(complaint(source).contains(expected), "{source}: {}", complaint(source));
        }
    }

    #[test]
    fn members_of_details_are_known_by_name() {
        let condition = Condition::compile("details.a < 1 || has(details.b.c) || context.d == details['e']").unwrap();
        assert_eq!(condition.members_of_details(), ["a", "b"]);
    }

    /// As deep as a kilobyte can be: an answer, and no overflow of the stack.
    #[test]
    fn a_deep_expression_is_answered() {
        for source in
            ["(".repeat(1000), format!("{}true{}", "(".repeat(500), ")".repeat(500)), "!".repeat(1000) + "true"]
        {
            let _ = Condition::compile(&source).map(|condition| {
                condition.holds(Facts {
                    client: "c",
                    sub: "s",
                    claims: &Members::default(),
                    scope: &"a".parse().unwrap(),
                    details: &Members::default(),
                    context: &Members::default(),
                    now: Timestamp::from_epoch(1),
                })
            });
        }
        let sums = format!("{}1 == 1", "1 + ".repeat(250));
        assert!(!holds(&sums, "{}"));
        let _ = Condition::compile(&format!("{}true", "true && ".repeat(120))).unwrap();
    }

    proptest! {
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
}
