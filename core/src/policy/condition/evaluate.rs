//! Evaluation by the rules of CEL, except that no number is rounded: a result that cannot be exact is a fault.
//!
//! An evaluation visits each part of its expression at most once. The cost of a part depends on the values of the request,
//! so it is counted, and the size of strings and lists is bounded.

use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, MapExpr, operators};
use writ_verifier::json;

use crate::policy::number::{Decimal, Number, Operator};

/// The maximum number of values and bytes of text that an evaluation may read.
const MAX_STEPS: usize = 1_000_000;

/// The maximum length of a text (in bytes) or a list that an evaluation may build.
const MAX_LENGTH: usize = 65_536;

/// Why an expression has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault(pub(super) &'static str);

const WRONG_TYPE: Fault = Fault("a value does not have the required type");
const NO_MEMBER: Fault = Fault("a member or element is missing");
const NO_NUMBER: Fault = Fault("a number would be too large or too long, or does not exist");

/// A value of CEL.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(Rc<Number>),
    Text(Rc<str>),
    List(Rc<Vec<Value>>),
    Map(Rc<Vec<(Value, Value)>>),
}

impl Value {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn int(whole: i64) -> Self {
        Self::Number(Rc::new(Number::Int(whole)))
    }

    pub(super) fn map(members: Vec<(&str, Self)>) -> Self {
        Self::Map(Rc::new(members.into_iter().map(|(name, value)| (Self::text(name), value)).collect()))
    }

    /// A value of the request; a number that cannot be represented exactly is a fault.
    pub(super) fn sent(value: &json::Value) -> Result<Self, Fault> {
        Ok(match value {
            json::Value::Null => Self::Null,
            json::Value::Bool(flag) => Self::Bool(*flag),
            json::Value::Number(digits) => Self::Number(Rc::new(Number::of_json(digits).ok_or(NO_NUMBER)?)),
            json::Value::String(text) => Self::text(text),
            json::Value::Array(elements) => {
                Self::List(Rc::new(elements.iter().map(Self::sent).collect::<Result<_, _>>()?))
            }
            json::Value::Object(members) => {
                let members = members.iter().map(|(name, value)| Ok((Self::text(name), Self::sent(value)?)));
                Self::Map(Rc::new(members.collect::<Result<_, _>>()?))
            }
        })
    }
}

/// One evaluation.
pub(super) struct Evaluation<'a> {
    facts: HashMap<&'static str, Value>,
    /// The numbers with a point or an exponent in the expression, by the id of their part.
    literals: &'a HashMap<u64, Decimal>,
    steps: Cell<usize>,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(facts: HashMap<&'static str, Value>, literals: &'a HashMap<u64, Decimal>) -> Self {
        Self { facts, literals, steps: Cell::new(0) }
    }

    fn spend(&self, steps: usize) -> Result<(), Fault> {
        let spent = self.steps.get().saturating_add(steps);
        self.steps.set(spent);
        if spent > MAX_STEPS { Err(Fault("it takes more work than an evaluation is allowed")) } else { Ok(()) }
    }

    pub(super) fn value(&self, part: &IdedExpr) -> Result<Value, Fault> {
        self.spend(1)?;
        match &part.expr {
            Expr::Literal(literal) => self.literal(part.id, literal),
            Expr::Ident(name) => self.facts.get(name.as_str()).cloned().ok_or(NO_MEMBER),
            Expr::Select(select) => {
                let Value::Map(members) = self.value(&select.operand)? else { return Err(WRONG_TYPE) };
                let found = self.member(&members, &Value::text(&select.field))?;
                if select.test { Ok(Value::Bool(found.is_some())) } else { found.ok_or(NO_MEMBER) }
            }
            Expr::List(list) => {
                Ok(Value::List(Rc::new(list.elements.iter().map(|part| self.value(part)).collect::<Result<_, _>>()?)))
            }
            Expr::Map(map) => self.map(map),
            Expr::Call(call) => self.call(call),
            Expr::Struct(_) | Expr::Comprehension(_) | Expr::Unspecified => Err(WRONG_TYPE),
        }
    }

    fn literal(&self, id: u64, literal: &LiteralValue) -> Result<Value, Fault> {
        Ok(match literal {
            LiteralValue::Null => Value::Null,
            LiteralValue::Boolean(flag) => Value::Bool(*flag.inner()),
            LiteralValue::Int(whole) => Value::int(*whole.inner()),
            LiteralValue::UInt(whole) => Value::Number(Rc::new(Number::UInt(*whole.inner()))),
            LiteralValue::Double(_) => {
                Value::Number(Rc::new(Number::Double(self.literals.get(&id).cloned().ok_or(NO_NUMBER)?)))
            }
            LiteralValue::String(text) => Value::text(text.inner()),
            LiteralValue::Bytes(_) => return Err(WRONG_TYPE),
        })
    }

    fn map(&self, map: &MapExpr) -> Result<Value, Fault> {
        let mut members = Vec::new();
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { return Err(WRONG_TYPE) };
            let key = self.value(&entry.key)?;
            let is_key = match &key {
                Value::Bool(_) | Value::Text(_) => true,
                Value::Number(number) => matches!(**number, Number::Int(_) | Number::UInt(_)),
                Value::Null | Value::List(_) | Value::Map(_) => false,
            };
            if !is_key || self.member(&members, &key)?.is_some() {
                return Err(Fault("a key of a map is repeated or has an invalid type"));
            }
            members.push((key, self.value(&entry.value)?));
        }
        Ok(Value::Map(Rc::new(members)))
    }

    fn call(&self, call: &CallExpr) -> Result<Value, Fault> {
        let name = call.func_name.as_str();
        match (&call.target, call.args.as_slice()) {
            (None, [condition, then, otherwise]) if name == operators::CONDITIONAL => {
                let Value::Bool(holds) = self.value(condition)? else { return Err(WRONG_TYPE) };
                self.value(if holds { then } else { otherwise })
            }
            // One side may determine the result, even if the other is a fault.
            (None, [one, other]) if name == operators::LOGICAL_AND => self.either(one, other, false),
            (None, [one, other]) if name == operators::LOGICAL_OR => self.either(one, other, true),
            (None, [one]) => self.of_one(name, self.value(one)?),
            (None, [one, other]) => self.of_two(name, self.value(one)?, self.value(other)?),
            (Some(target), []) if name == "size" => self.of_one(name, self.value(target)?),
            (Some(target), [part]) => {
                let (Value::Text(text), Value::Text(part)) = (self.value(target)?, self.value(part)?) else {
                    return Err(WRONG_TYPE);
                };
                self.spend(text.len() + part.len())?;
                match name {
                    "contains" => Ok(Value::Bool(text.contains(&*part))),
                    "startsWith" => Ok(Value::Bool(text.starts_with(&*part))),
                    "endsWith" => Ok(Value::Bool(text.ends_with(&*part))),
                    _ => Err(WRONG_TYPE),
                }
            }
            _ => Err(WRONG_TYPE),
        }
    }

    /// `&&` and `||`: if one side is `settled`, that is the result.
    fn either(&self, one: &IdedExpr, other: &IdedExpr, settled: bool) -> Result<Value, Fault> {
        let truth = |part| match self.value(part)? {
            Value::Bool(flag) => Ok(flag),
            _ => Err(WRONG_TYPE),
        };
        let one = truth(one);
        if one == Ok(settled) {
            return Ok(Value::Bool(settled));
        }
        let other = truth(other)?;
        if other == settled { Ok(Value::Bool(settled)) } else { one.map(Value::Bool) }
    }

    fn of_one(&self, name: &str, value: Value) -> Result<Value, Fault> {
        let number = |number: Option<Number>| number.map(|number| Value::Number(Rc::new(number))).ok_or(NO_NUMBER);
        match (name, value) {
            (operators::LOGICAL_NOT, Value::Bool(flag)) => Ok(Value::Bool(!flag)),
            (operators::NEGATE, Value::Number(value)) => number(Rc::unwrap_or_clone(value).negated()),
            ("size", Value::Text(text)) => {
                self.spend(text.len())?;
                Ok(Value::int(i64::try_from(text.chars().count()).map_err(|_| NO_NUMBER)?))
            }
            ("size", Value::List(list)) => Ok(Value::int(i64::try_from(list.len()).map_err(|_| NO_NUMBER)?)),
            ("size", Value::Map(map)) => Ok(Value::int(i64::try_from(map.len()).map_err(|_| NO_NUMBER)?)),
            ("int", Value::Number(value)) => number(value.to_int()),
            ("int", Value::Text(text)) => number(text.parse().ok().map(Number::Int)),
            ("uint", Value::Number(value)) => number(value.to_uint()),
            ("uint", Value::Text(text)) => number(text.parse().ok().map(Number::UInt)),
            ("double", Value::Number(value)) => number(value.to_double()),
            ("double", Value::Text(text)) => number(Decimal::of_text(&text).map(Number::Double)),
            ("string", Value::Number(value)) => value.to_text().map(|text| Value::text(&text)).ok_or(NO_NUMBER),
            ("string", Value::Bool(flag)) => Ok(Value::text(if flag { "true" } else { "false" })),
            ("string", Value::Text(text)) => Ok(Value::Text(text)),
            _ => Err(WRONG_TYPE),
        }
    }

    fn of_two(&self, name: &str, one: Value, other: Value) -> Result<Value, Fault> {
        let ordered = |is: fn(Ordering) -> bool| self.compare(&one, &other).map(|ordering| Value::Bool(is(ordering)));
        let operator = match name {
            operators::EQUALS => return self.equal(&one, &other).map(Value::Bool),
            operators::NOT_EQUALS => return self.equal(&one, &other).map(|equal| Value::Bool(!equal)),
            operators::LESS => return ordered(Ordering::is_lt),
            operators::LESS_EQUALS => return ordered(Ordering::is_le),
            operators::GREATER => return ordered(Ordering::is_gt),
            operators::GREATER_EQUALS => return ordered(Ordering::is_ge),
            operators::IN => return self.contains(&other, &one).map(Value::Bool),
            operators::INDEX => return self.index(&one, &other),
            operators::ADD => Operator::Add,
            operators::SUBSTRACT => Operator::Subtract,
            operators::MULTIPLY => Operator::Multiply,
            operators::DIVIDE => Operator::Divide,
            operators::MODULO => Operator::Remainder,
            _ => return Err(WRONG_TYPE),
        };
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => {
                self.spend(1000)?;
                one.compute(operator, &other).map(|number| Value::Number(Rc::new(number))).ok_or(NO_NUMBER)
            }
            (Value::Text(one), Value::Text(other)) if operator == Operator::Add => {
                self.grow(one.len(), other.len())?;
                Ok(Value::Text([&*one, &*other].concat().into()))
            }
            (Value::List(one), Value::List(other)) if operator == Operator::Add => {
                self.grow(one.len(), other.len())?;
                Ok(Value::List(Rc::new(one.iter().chain(&*other).cloned().collect())))
            }
            _ => Err(WRONG_TYPE),
        }
    }

    fn grow(&self, one: usize, other: usize) -> Result<(), Fault> {
        self.spend(one + other)?;
        if one + other > MAX_LENGTH { Err(Fault("a text or a list would be too long")) } else { Ok(()) }
    }

    fn compare(&self, one: &Value, other: &Value) -> Result<Ordering, Fault> {
        match (one, other) {
            (Value::Number(one), Value::Number(other)) => {
                self.spend(100)?;
                one.compare(other).ok_or(NO_NUMBER)
            }
            (Value::Text(one), Value::Text(other)) => {
                self.spend(one.len().min(other.len()))?;
                Ok(one.cmp(other))
            }
            (Value::Bool(one), Value::Bool(other)) => Ok(one.cmp(other)),
            _ => Err(WRONG_TYPE),
        }
    }

    /// Values of different types are different.
    fn equal(&self, one: &Value, other: &Value) -> Result<bool, Fault> {
        self.spend(1)?;
        match (one, other) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Bool(_), Value::Bool(_))
            | (Value::Number(_), Value::Number(_))
            | (Value::Text(_), Value::Text(_)) => self.compare(one, other).map(Ordering::is_eq),
            (Value::List(one), Value::List(other)) if one.len() == other.len() => {
                for (one, other) in one.iter().zip(&**other) {
                    if !self.equal(one, other)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Map(one), Value::Map(other)) if one.len() == other.len() => {
                for (key, value) in &**one {
                    let Some(other) = self.member(other, key)? else { return Ok(false) };
                    if !self.equal(value, &other)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn member(&self, members: &[(Value, Value)], key: &Value) -> Result<Option<Value>, Fault> {
        for (name, value) in members {
            if self.equal(name, key)? {
                return Ok(Some(value.clone()));
            }
        }
        Ok(None)
    }

    fn contains(&self, container: &Value, value: &Value) -> Result<bool, Fault> {
        match container {
            Value::List(elements) => {
                for element in &**elements {
                    if self.equal(element, value)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Map(members) if !matches!(value, Value::Null | Value::List(_) | Value::Map(_)) => {
                Ok(self.member(members, value)?.is_some())
            }
            _ => Err(WRONG_TYPE),
        }
    }

    fn index(&self, container: &Value, index: &Value) -> Result<Value, Fault> {
        match (container, index) {
            (Value::List(elements), Value::Number(number)) => {
                let index = number.to_uint().ok_or(NO_MEMBER)?;
                let Number::UInt(place) = index else { return Err(NO_MEMBER) };
                let exact = number.compare(&index).is_some_and(Ordering::is_eq);
                let element = usize::try_from(place).ok().and_then(|place| elements.get(place));
                element.filter(|_| exact).cloned().ok_or(NO_MEMBER)
            }
            (Value::Map(members), Value::Bool(_) | Value::Number(_) | Value::Text(_)) => {
                self.member(members, index)?.ok_or(NO_MEMBER)
            }
            _ => Err(WRONG_TYPE),
        }
    }
}
