//! A compiled schema and a value → whether it fits, and if not, what does not.

use std::collections::HashSet;

use writ_verifier::json::Value;

use super::compile::{Index, Keywords, Subschema, Type};
use super::pattern::Pattern;
use crate::policy::exact;
use crate::policy::number::Decimal;

/// The work limit of one application: subschemas applied, members and elements visited, characters matched.
const MAX_STEPS: usize = 500_000;

/// The cost of applying one subschema, in addition to that of its keywords.
const STEPS_PER_SUBSCHEMA: usize = 5;

/// The maximum nesting of subschemas, over all levels of the value.
const MAX_DEPTH: usize = 256;

/// Why a value does not fit.
#[derive(Debug)]
pub(super) enum Stop {
    /// A keyword refuses the value.
    Unfit {
        /// Member names and element indices, outermost first.
        path: Vec<String>,
        keyword: &'static str,
        /// JSON pointer to its subschema.
        place: String,
    },
    /// The work exceeds its bound.
    TooMuch,
}

/// The members and elements of one object or array that subschemas have evaluated.
#[derive(Default)]
struct Seen<'a> {
    all: bool,
    members: HashSet<&'a str>,
    elements: HashSet<usize>,
}

impl<'a> Seen<'a> {
    fn add(&mut self, other: Seen<'a>) {
        self.all |= other.all;
        self.members.extend(other.members);
        self.elements.extend(other.elements);
    }
}

/// Applies a schema, the first of its subschemas, to a value.
pub(super) fn apply(subschemas: &[Subschema], value: &Value) -> Result<(), Stop> {
    let uneven = |subschema: &Subschema| {
        let Subschema::Keywords(keywords) = subschema else { return false };
        keywords.unevaluated_items.is_some() || keywords.unevaluated_properties.is_some()
    };
    let remembers = subschemas.iter().any(uneven);
    let mut application = Application { subschemas, remembers, steps: 0, depth: 0, path: Vec::new() };
    application.apply(0, value).map(drop)
}

struct Application<'a> {
    subschemas: &'a [Subschema],
    /// Whether the evaluated members and elements must be tracked.
    remembers: bool,
    steps: usize,
    depth: usize,
    path: Vec<Part<'a>>,
}

enum Part<'a> {
    Name(&'a str),
    Number(usize),
}

impl<'a> Application<'a> {
    fn spend(&mut self, steps: usize) -> Result<(), Stop> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS { Err(Stop::TooMuch) } else { Ok(()) }
    }

    fn unfit(&self, keyword: &'static str, place: &str) -> Stop {
        let part = |part: &Part<'_>| match part {
            Part::Name(name) => (*name).to_owned(),
            Part::Number(number) => number.to_string(),
        };
        Stop::Unfit { path: self.path.iter().map(part).collect(), keyword, place: place.to_owned() }
    }

    fn require(&self, fits: bool, keyword: &'static str, keywords: &Keywords) -> Result<(), Stop> {
        if fits { Ok(()) } else { Err(self.unfit(keyword, &keywords.place)) }
    }

    fn apply(&mut self, index: Index, value: &'a Value) -> Result<Seen<'a>, Stop> {
        self.spend(STEPS_PER_SUBSCHEMA)?;
        if self.depth == MAX_DEPTH {
            return Err(Stop::TooMuch);
        }
        self.depth += 1;
        let outcome = match &self.subschemas[index] {
            Subschema::Any(true) => Ok(Seen::default()),
            Subschema::Any(false) => Err(self.unfit("false", "")),
            Subschema::Keywords(keywords) => self.keywords(keywords, value),
        };
        self.depth -= 1;
        outcome
    }

    /// `None` if the value does not fit, which is not an error here.
    fn try_apply(&mut self, index: Index, value: &'a Value) -> Result<Option<Seen<'a>>, Stop> {
        let depth = self.path.len();
        match self.apply(index, value) {
            Ok(seen) => Ok(Some(seen)),
            Err(Stop::TooMuch) => Err(Stop::TooMuch),
            Err(Stop::Unfit { .. }) => {
                self.path.truncate(depth);
                Ok(None)
            }
        }
    }

    fn apply_inside(&mut self, index: Index, part: Part<'a>, value: &'a Value) -> Result<(), Stop> {
        self.path.push(part);
        self.apply(index, value)?;
        self.path.pop();
        Ok(())
    }

    fn matches(&mut self, pattern: &Pattern, text: &str) -> Result<bool, Stop> {
        self.spend(text.len().saturating_mul(4 * pattern.weight).saturating_add(1))?;
        Ok(pattern.fits(text))
    }

    fn canonical(&mut self, value: &Value) -> Result<Option<String>, Stop> {
        self.spend(digits(value))?;
        let text = exact::canonical(value);
        self.spend(text.as_ref().map_or(0, String::len))?;
        Ok(text)
    }

    fn keywords(&mut self, keywords: &'a Keywords, value: &'a Value) -> Result<Seen<'a>, Stop> {
        self.any_type(keywords, value)?;
        match value {
            Value::Number(digits) => self.number(keywords, digits)?,
            Value::String(text) => self.string(keywords, text)?,
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {}
        }
        let mut seen = self.beside(keywords, value)?;
        match value {
            Value::Array(elements) => self.array(keywords, elements, &mut seen)?,
            Value::Object(members) => self.object(keywords, members, &mut seen)?,
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
        Ok(if self.remembers { seen } else { Seen::default() })
    }

    fn any_type(&mut self, keywords: &Keywords, value: &Value) -> Result<(), Stop> {
        if let Some(types) = &keywords.types {
            if types.contains(&Type::Integer) {
                self.spend(digits(value))?;
            }
            let of_type = |one: &Type| match (one, value) {
                (Type::Null, Value::Null)
                | (Type::Boolean, Value::Bool(_))
                | (Type::Number, Value::Number(_))
                | (Type::String, Value::String(_))
                | (Type::Array, Value::Array(_))
                | (Type::Object, Value::Object(_)) => true,
                (Type::Integer, Value::Number(digits)) => {
                    Decimal::of_json(digits).is_some_and(|number| number.is_whole())
                }
                _ => false,
            };
            self.require(types.iter().any(of_type), "type", keywords)?;
        }
        if let Some(allowed) = &keywords.one_of_values {
            let fits = self.canonical(value)?.is_some_and(|value| allowed.contains(&value));
            self.require(fits, "enum", keywords)?;
        }
        if let Some(constant) = &keywords.constant {
            let fits = self.canonical(value)?.is_some_and(|value| value == *constant);
            self.require(fits, "const", keywords)?;
        }
        Ok(())
    }

    fn number(&mut self, keywords: &Keywords, digits: &str) -> Result<(), Stop> {
        type Limit<'k> = (&'k Option<Decimal>, &'static str, fn(&Decimal, &Decimal) -> bool);
        let limits: [Limit<'_>; 5] = [
            (&keywords.minimum, "minimum", |number, limit| number >= limit),
            (&keywords.maximum, "maximum", |number, limit| number <= limit),
            (&keywords.exclusive_minimum, "exclusiveMinimum", |number, limit| number > limit),
            (&keywords.exclusive_maximum, "exclusiveMaximum", |number, limit| number < limit),
            (&keywords.multiple_of, "multipleOf", Decimal::is_multiple_of),
        ];
        if limits.iter().all(|(limit, ..)| limit.is_none()) {
            return Ok(());
        }
        self.spend(digits.len())?;
        let number = Decimal::of_json(digits).ok_or(Stop::TooMuch)?;
        for (limit, keyword, fits) in limits {
            if let Some(limit) = limit {
                self.spend(digits.len())?;
                self.require(fits(&number, limit), keyword, keywords)?;
            }
        }
        Ok(())
    }

    fn string(&mut self, keywords: &Keywords, text: &str) -> Result<(), Stop> {
        if keywords.min_length.is_some() || keywords.max_length.is_some() {
            self.spend(text.len())?;
            let length = text.chars().count();
            self.within(keywords.min_length, keywords.max_length, length, ("minLength", "maxLength"), keywords)?;
        }
        if let Some(pattern) = &keywords.pattern {
            let fits = self.matches(pattern, text)?;
            self.require(fits, "pattern", keywords)?;
        }
        Ok(())
    }

    fn within(
        &self,
        least: Option<usize>,
        most: Option<usize>,
        count: usize,
        names: (&'static str, &'static str),
        keywords: &Keywords,
    ) -> Result<(), Stop> {
        self.require(least.is_none_or(|least| count >= least), names.0, keywords)?;
        self.require(most.is_none_or(|most| count <= most), names.1, keywords)
    }

    /// The subschemas that apply to the same value.
    fn beside(&mut self, keywords: &'a Keywords, value: &'a Value) -> Result<Seen<'a>, Stop> {
        let mut seen = Seen::default();
        for index in keywords.references.iter().chain(&keywords.all_of) {
            seen.add(self.apply(*index, value)?);
        }
        if let Some(any) = &keywords.any_of {
            let mut fits = false;
            for index in any {
                if let Some(found) = self.try_apply(*index, value)? {
                    seen.add(found);
                    fits = true;
                    if !self.remembers {
                        break;
                    }
                }
            }
            self.require(fits, "anyOf", keywords)?;
        }
        if let Some(one) = &keywords.one_of {
            let mut fitting = 0;
            for index in one {
                if let Some(found) = self.try_apply(*index, value)? {
                    seen.add(found);
                    fitting += 1;
                }
            }
            self.require(fitting == 1, "oneOf", keywords)?;
        }
        if let Some(not) = keywords.not {
            let fits = self.try_apply(not, value)?.is_none();
            self.require(fits, "not", keywords)?;
        }
        if let Some(condition) = keywords.condition {
            let holds = self.try_apply(condition, value)?;
            let then = if holds.is_some() { keywords.then } else { keywords.otherwise };
            seen.add(holds.unwrap_or_default());
            if let Some(then) = then {
                seen.add(self.apply(then, value)?);
            }
        }
        if let Value::Object(members) = value {
            for (name, index) in &keywords.dependent_schemas {
                self.spend(members.len())?;
                if members.iter().any(|(member, _)| member == name) {
                    seen.add(self.apply(*index, value)?);
                }
            }
        }
        self.spend(seen.members.len() + seen.elements.len())?;
        Ok(seen)
    }

    fn array(&mut self, keywords: &'a Keywords, elements: &'a [Value], seen: &mut Seen<'a>) -> Result<(), Stop> {
        self.within(keywords.min_items, keywords.max_items, elements.len(), ("minItems", "maxItems"), keywords)?;
        if keywords.unique_items {
            let mut found = HashSet::new();
            for element in elements {
                let text = self.canonical(element)?.ok_or(Stop::TooMuch)?;
                self.require(found.insert(text), "uniqueItems", keywords)?;
            }
        }
        for (number, element) in elements.iter().enumerate() {
            let index = keywords.prefix_items.get(number).copied().or(keywords.items);
            if let Some(index) = index {
                self.apply_inside(index, Part::Number(number), element)?;
                if self.remembers {
                    seen.elements.insert(number);
                }
            }
        }
        if let Some(contains) = keywords.contains {
            let mut count = 0;
            for (number, element) in elements.iter().enumerate() {
                if self.try_apply(contains, element)?.is_some() {
                    count += 1;
                    if self.remembers {
                        seen.elements.insert(number);
                    }
                }
            }
            let least = Some(keywords.min_contains.unwrap_or(1));
            self.within(least, keywords.max_contains, count, ("contains", "maxContains"), keywords)?;
        }
        if let Some(index) = keywords.unevaluated_items
            && !seen.all
        {
            for (number, element) in elements.iter().enumerate() {
                if !seen.elements.contains(&number) {
                    self.apply_inside(index, Part::Number(number), element)?;
                }
            }
            seen.all = true;
        }
        Ok(())
    }

    fn object(
        &mut self,
        keywords: &'a Keywords,
        members: &'a [(String, Value)],
        seen: &mut Seen<'a>,
    ) -> Result<(), Stop> {
        let names = ("minProperties", "maxProperties");
        self.within(keywords.min_properties, keywords.max_properties, members.len(), names, keywords)?;
        self.required(keywords, members)?;
        for (name, value) in members {
            self.spend(1)?;
            if let Some(index) = keywords.property_names {
                // A name is a string.
                let fits = self.name_fits(index, name)?;
                self.require(fits, "propertyNames", keywords)?;
            }
            let mut described = false;
            if let Some(index) = keywords.properties.get(name) {
                self.apply_inside(*index, Part::Name(name), value)?;
                described = true;
            }
            for (pattern, index) in &keywords.pattern_properties {
                if self.matches(pattern, name)? {
                    self.apply_inside(*index, Part::Name(name), value)?;
                    described = true;
                }
            }
            if let (false, Some(index)) = (described, keywords.additional_properties) {
                self.additional(index, keywords, "additionalProperties", name, value)?;
                described = true;
            }
            if described && self.remembers {
                seen.members.insert(name);
            }
        }
        if let Some(index) = keywords.unevaluated_properties
            && !seen.all
        {
            for (name, value) in members.iter().filter(|(name, _)| !seen.members.contains(name.as_str())) {
                self.additional(index, keywords, "unevaluatedProperties", name, value)?;
            }
            seen.all = true;
        }
        Ok(())
    }

    /// If no other members are allowed, the object does not fit, rather than the value of the member.
    fn additional(
        &mut self,
        index: Index,
        keywords: &Keywords,
        keyword: &'static str,
        name: &'a str,
        value: &'a Value,
    ) -> Result<(), Stop> {
        if matches!(self.subschemas[index], Subschema::Any(false)) {
            return Err(self.unfit(keyword, &keywords.place));
        }
        self.apply_inside(index, Part::Name(name), value)
    }

    fn required(&mut self, keywords: &Keywords, members: &[(String, Value)]) -> Result<(), Stop> {
        if keywords.required.is_empty() && keywords.dependent_required.is_empty() {
            return Ok(());
        }
        let names: HashSet<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        self.spend(names.len() + keywords.required.len())?;
        let all = |required: &[String]| required.iter().all(|name| names.contains(name.as_str()));
        self.require(all(&keywords.required), "required", keywords)?;
        for (name, required) in &keywords.dependent_required {
            self.spend(required.len() + 1)?;
            let fits = !names.contains(name.as_str()) || all(required);
            self.require(fits, "dependentRequired", keywords)?;
        }
        Ok(())
    }

    fn name_fits(&mut self, index: Index, name: &str) -> Result<bool, Stop> {
        let name = Value::String(name.to_owned());
        let mut inner = Application {
            subschemas: self.subschemas,
            remembers: self.remembers,
            steps: self.steps,
            depth: self.depth,
            path: Vec::new(),
        };
        let fits = inner.try_apply(index, &name).map(|seen| seen.is_some());
        let steps = inner.steps;
        self.steps = steps;
        fits
    }
}

/// The number of digits in its numbers.
fn digits(value: &Value) -> usize {
    match value {
        Value::Number(digits) => digits.len(),
        Value::Array(elements) => elements.iter().map(digits).sum(),
        Value::Object(members) => members.iter().map(|(_, value)| digits(value)).sum(),
        Value::Null | Value::Bool(_) | Value::String(_) => 0,
    }
}
