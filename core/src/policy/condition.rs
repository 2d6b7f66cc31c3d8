//! `when`: a CEL expression over the facts of a request.
//!
//! It is compiled when the policy is read. Loops and unknown names are refused then, so an evaluation visits each part of
//! the expression (at most 1024 bytes) once. Any result but `true` refuses the request: `false`, a missing member, a wrong
//! type, a division by zero. No number is rounded: neither those of the request, nor those in the expression, nor results.

mod evaluate;

use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::{Env, Program};
use writ_verifier::{Members, Scope};

use self::evaluate::{Evaluation, Fault, Value};
use super::exact;
use super::number::Decimal;
use writ_platform::clock::Timestamp;

/// The longest expression, in bytes.
const MAX_LENGTH: usize = 1024;

/// The variables of an expression.
const FACTS: [&str; 6] = ["client", "subject", "scope", "details", "context", "now"];

/// The members of `subject`.
const SUBJECT: [&str; 2] = ["sub", "claims"];

/// The functions that it may call: their work is bounded by the size of their arguments.
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

/// Standard macros, no optional values. Creating it costs far more than an evaluation.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// Why a text is not a condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// The limit is in bytes.
    #[error("must be at most {MAX_LENGTH} characters")]
    TooLong,
    /// The text is the parser's message.
    #[error("is not a CEL expression: {0}")]
    Syntax(String),
    /// A variable, member or function that does not exist.
    #[error("has an unknown name `{name}`; known are {known}")]
    Name {
        /// The name as written.
        name: String,
        /// The names that exist in its place.
        known: String,
    },
    /// A macro that visits the elements of a list.
    #[error("must not loop: `all`, `exists`, `exists_one`, `map` and `filter` are not available")]
    Loop,
    /// A number that cannot be represented exactly.
    #[error("contains a number that cannot be represented exactly")]
    Number,
}

/// A compiled expression.
pub struct Condition {
    program: Program,
    source: String,
    /// The numbers in it that have a point or an exponent, by the id of their part of the expression.
    literals: HashMap<u64, Decimal>,
}

/// The values of the variables of a condition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    /// The client that sends the request.
    pub(crate) client: &'a str,
    /// `sub` of the token to be issued.
    pub(crate) sub: &'a str,
    /// The claims of the subject token; empty without one.
    pub(crate) claims: &'a Members,
    /// The requested purposes.
    pub(crate) scope: &'a Scope,
    /// The request details; on a redemption, the `tctx` of the presented token.
    pub(crate) details: &'a Members,
    /// The request context; on a redemption, the `rctx` of the presented token.
    pub(crate) context: &'a Members,
    /// The instant of the request.
    pub(crate) now: Timestamp,
}

impl Condition {
    /// Compiles an expression.
    ///
    /// # Errors
    /// The first [`ConditionError`].
    pub fn compile(source: &str) -> Result<Self, ConditionError> {
        if source.len() > MAX_LENGTH {
            return Err(ConditionError::TooLong);
        }
        let syntax = |errors: cel::ParseErrors| {
            // If the nesting is too deep, the parser's message contains a `Debug` form of its error.
            let describe = |error: &cel::ParseError| {
                let is_depth = error.msg.contains("Error {");
                let at = format!("{} (character {})", error.msg, error.pos.1);
                if is_depth { "it is nested too deeply".to_owned() } else { at }
            };
            let first = errors.errors.first().map(describe);
            ConditionError::Syntax(first.unwrap_or_default())
        };
        let program = ENVIRONMENT.compile(source).map_err(syntax)?;
        check(program.expression())?;
        let literals = literals(&program, source).ok_or(ConditionError::Number)?;
        Ok(Self { program, source: source.to_owned(), literals })
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The members of `details` in the expression.
    pub fn members_of_details(&self) -> Vec<&str> {
        let mut names = Vec::new();
        visit(self.program.expression(), &mut |part| {
            if let Expr::Select(select) = &part.expr
                && is_fact(&select.operand, "details")
            {
                names.push(select.field.as_str());
            }
        });
        names
    }

    /// The members in the expression, like `details.quantity` or `subject.claims.level`; each once.
    pub fn members(&self) -> Vec<String> {
        let mut paths: Vec<String> = Vec::new();
        visit(self.program.expression(), &mut |part| {
            let Some(path) = path(&part.expr) else { return };
            // The longest paths come first; their prefixes are not listed.
            let known =
                |other: &String| other.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
            if path.contains('.') && !paths.iter().any(known) {
                paths.push(path);
            }
        });
        paths
    }

    /// Evaluates the expression.
    ///
    /// # Errors
    /// The reason why it is neither true nor false, for the log.
    pub(crate) fn holds(&self, facts: Facts<'_>) -> Result<bool, &'static str> {
        let value = facts_by_name(facts)
            .and_then(|facts| Evaluation::new(facts, &self.literals).value(self.program.expression()));
        match value {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(_) => Err("it is neither true nor false"),
            Err(Fault(why)) => Err(why),
        }
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.source).finish()
    }
}

fn facts_by_name(facts: Facts<'_>) -> Result<HashMap<&'static str, Value>, Fault> {
    let unreadable = Fault("a value cannot be read");
    let object = |members: &Members| {
        let members = members.iter().map(|(name, raw)| {
            let value = exact::read(raw).ok_or(unreadable)?;
            Ok((Value::text(name), Value::sent(&value)?))
        });
        Ok(Value::Map(Rc::new(members.collect::<Result<_, Fault>>()?)))
    };
    let subject = Value::map(vec![("sub", Value::text(facts.sub)), ("claims", object(facts.claims)?)]);
    let purposes = facts.scope.purposes().iter().map(|purpose| Value::text(purpose.as_str())).collect();
    Ok(HashMap::from([
        ("client", Value::text(facts.client)),
        ("subject", subject),
        ("scope", Value::List(Rc::new(purposes))),
        ("details", object(facts.details)?),
        ("context", object(facts.context)?),
        ("now", Value::int(i64::try_from(facts.now.epoch()).map_err(|_| unreadable)?)),
    ]))
}

/// The numbers with a point or an exponent, as written: the parsed expression has them only as doubles.
fn literals(program: &Program, source: &str) -> Option<HashMap<u64, Decimal>> {
    let mut literals = Some(HashMap::new());
    visit(program.expression(), &mut |part| {
        let Expr::Literal(LiteralValue::Double(double)) = &part.expr else { return };
        let read = || {
            let (start, _) = program.source_info().offset_for(part.id)?;
            let digits = source.get(usize::try_from(start).ok()?..)?.chars().skip_while(|&c| c == '-');
            let mut exponent = false;
            let digits = digits.take_while(|&c| {
                let sign = exponent && matches!(c, '+' | '-');
                exponent = matches!(c, 'e' | 'E');
                sign || exponent || c == '.' || c.is_ascii_digit()
            });
            let digits: String = digits.collect();
            // The text at that position is the literal only if it parses to the same double.
            let same = digits.parse::<f64>().is_ok_and(|found| found.total_cmp(&double.inner().abs()).is_eq());
            let number = Decimal::of_text(&digits).filter(|_| same)?;
            Some(if double.inner().is_sign_negative() { number.negated() } else { number })
        };
        match (&mut literals, read()) {
            (Some(literals), Some(number)) => drop(literals.insert(part.id, number)),
            _ => literals = None,
        }
    });
    literals
}

fn check(expression: &IdedExpr) -> Result<(), ConditionError> {
    let mut found = Ok(());
    visit(expression, &mut |part| {
        if found.is_ok() {
            found = check_one(&part.expr);
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

/// The path of a variable, or of a member of one at any depth, as written.
fn path(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) => Some(format!("{}.{}", path(&select.operand.expr)?, select.field)),
        _ => None,
    }
}

/// Calls `see` for every part of an expression, outer parts first; the expansion of a macro is one part.
fn visit<'a>(expression: &'a IdedExpr, see: &mut impl FnMut(&'a IdedExpr)) {
    see(expression);
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
mod tests;
