//! The text of a schema → its compiled form: each subschema once, with its references resolved.

mod keyword;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use url::Url;
use writ_verifier::json::Value;

use self::keyword::Keyword;
use super::pattern::Pattern;
use super::{DRAFT, SchemaError};
use crate::policy::number::Decimal;

/// The index of a subschema in the list of all.
pub(super) type Index = usize;

/// The base URI of a document without `$id`.
const DEFAULT_BASE_URI: &str = "json-schema:///";

/// The maximum number of subschemas that apply to one value, and of references in a chain.
const MAX_SUBSCHEMAS: usize = 1000;
const MAX_CHAIN: usize = 64;

/// The maximum number of units of all patterns of a schema.
const MAX_PATTERN_UNITS: usize = 1024;

/// Keywords whose value is a schema, a list of schemas, or an object of them.
const ONE: [&str; 12] = [
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "additionalItems",
];
/// Keywords of JSON Schema 2020-12 that identify or annotate a schema and refuse nothing.
const ANNOTATIONS: [&str; 17] = [
    "$schema",
    "$id",
    "$anchor",
    "$dynamicAnchor",
    "$comment",
    "$vocabulary",
    "title",
    "description",
    "default",
    "deprecated",
    "readOnly",
    "writeOnly",
    "examples",
    "format",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
];
const SEVERAL: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
const NAMED: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];

/// A compiled schema.
pub(super) struct Compiled {
    pub(super) subschemas: Vec<Subschema>,
    /// JSON pointers to keywords that JSON Schema does not define.
    pub(super) ignored: Vec<String>,
}

/// A subschema.
pub(super) enum Subschema {
    /// `true` or `false`.
    Any(bool),
    Keywords(Box<Keywords>),
}

/// The keywords of a subschema.
#[derive(Default)]
pub(super) struct Keywords {
    /// JSON pointer to it.
    pub(super) place: String,
    pub(super) references: Vec<Index>,
    pub(super) types: Option<Vec<Type>>,
    /// What `enum` and `const` allow, in canonical form.
    pub(super) one_of_values: Option<HashSet<String>>,
    pub(super) constant: Option<String>,
    pub(super) multiple_of: Option<Decimal>,
    pub(super) minimum: Option<Decimal>,
    pub(super) maximum: Option<Decimal>,
    pub(super) exclusive_minimum: Option<Decimal>,
    pub(super) exclusive_maximum: Option<Decimal>,
    pub(super) min_length: Option<usize>,
    pub(super) max_length: Option<usize>,
    pub(super) pattern: Option<Pattern>,
    pub(super) prefix_items: Vec<Index>,
    pub(super) items: Option<Index>,
    pub(super) contains: Option<Index>,
    pub(super) min_contains: Option<usize>,
    pub(super) max_contains: Option<usize>,
    pub(super) min_items: Option<usize>,
    pub(super) max_items: Option<usize>,
    pub(super) unique_items: bool,
    pub(super) properties: HashMap<String, Index>,
    pub(super) pattern_properties: Vec<(Pattern, Index)>,
    pub(super) additional_properties: Option<Index>,
    pub(super) property_names: Option<Index>,
    pub(super) min_properties: Option<usize>,
    pub(super) max_properties: Option<usize>,
    pub(super) required: Vec<String>,
    pub(super) dependent_required: Vec<(String, Vec<String>)>,
    pub(super) dependent_schemas: Vec<(String, Index)>,
    pub(super) all_of: Vec<Index>,
    pub(super) any_of: Option<Vec<Index>>,
    pub(super) one_of: Option<Vec<Index>>,
    pub(super) not: Option<Index>,
    pub(super) condition: Option<Index>,
    pub(super) then: Option<Index>,
    pub(super) otherwise: Option<Index>,
    pub(super) unevaluated_items: Option<Index>,
    pub(super) unevaluated_properties: Option<Index>,
}

impl Keywords {
    /// The subschemas that apply to the same value as this one.
    fn beside(&self) -> impl Iterator<Item = Index> {
        let lists = [&self.references, &self.all_of].into_iter().chain(&self.any_of).chain(&self.one_of).flatten();
        let single = [self.not, self.condition, self.then, self.otherwise].into_iter().flatten();
        lists.copied().chain(single).chain(self.dependent_schemas.iter().map(|&(_, index)| index))
    }
}

/// A word of `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

/// All subschemas; the first is the schema itself.
pub(super) fn compile(document: &Value) -> Result<Compiled, SchemaError> {
    let base = Url::parse(DEFAULT_BASE_URI).map_err(|_| SchemaError::Form)?;
    let mut names = Names::default();
    names.collect(document, "", &base, true)?;
    let mut compiler = Compiler {
        document,
        names,
        found: HashMap::new(),
        subschemas: Vec::new(),
        waiting: VecDeque::new(),
        units: 0,
        ignored: Vec::new(),
    };
    let base = compiler.names.base(&base, "");
    compiler.index(document, String::new(), &base);
    while let Some((schema, place, base)) = compiler.waiting.pop_front() {
        let subschema = compiler.subschema(schema, &place, &base)?;
        compiler.subschemas.push(subschema);
    }
    bounded(&compiler.subschemas)?;
    Ok(Compiled { subschemas: compiler.subschemas, ignored: compiler.ignored })
}

/// Refuses a subschema that applies itself, or very many others, to one value.
fn bounded(subschemas: &[Subschema]) -> Result<(), SchemaError> {
    fn count(all: &[Subschema], index: Index, chain: usize, counted: &mut HashMap<Index, usize>) -> Option<usize> {
        if let Some(count) = counted.get(&index) {
            return Some(*count);
        }
        let mut sum = 1_usize;
        if let Some(Subschema::Keywords(keywords)) = all.get(index) {
            for beside in keywords.beside() {
                let chain = (chain < MAX_CHAIN).then_some(chain + 1)?;
                sum = sum.saturating_add(count(all, beside, chain, counted)?);
            }
        }
        counted.insert(index, sum);
        (sum <= MAX_SUBSCHEMAS).then_some(sum)
    }
    let mut counted = HashMap::new();
    for (index, subschema) in subschemas.iter().enumerate() {
        if let (Subschema::Keywords(keywords), None) = (subschema, count(subschemas, index, 0, &mut counted)) {
            return Err(SchemaError::Boundless(keywords.place.clone()));
        }
    }
    Ok(())
}

/// The targets of references.
#[derive(Default)]
struct Names {
    /// The embedded documents, by URI and by JSON pointer.
    resources: HashMap<String, String>,
    bases: BTreeMap<String, Url>,
    anchors: HashMap<(String, String), String>,
    dynamic: HashMap<String, usize>,
}

impl Names {
    fn collect(&mut self, schema: &Value, place: &str, base: &Url, is_root: bool) -> Result<(), SchemaError> {
        let Value::Object(members) = schema else { return Ok(()) };
        let text = |name: &str| match schema.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(unsound(place, &format!("{name} must be a string"))),
        };
        if schema
            .get("$schema")
            .is_some_and(|draft| draft.as_str().map(|draft| draft.trim_end_matches('#')) != Some(DRAFT))
        {
            return Err(SchemaError::Draft);
        }
        let mut base = base.clone();
        if let Some(id) = text("$id")? {
            let named = base.join(id).ok().filter(|url| url.fragment().is_none_or(str::is_empty));
            base = named.ok_or_else(|| unsound(place, "$id is not the URI of a document"))?;
            base.set_fragment(None);
        }
        if is_root || text("$id")?.is_some() {
            if self.resources.insert(base.to_string(), place.to_owned()).is_some() {
                return Err(unsound(place, "its $id is not unique"));
            }
            self.bases.insert(place.to_owned(), base.clone());
        }
        for name in ["$anchor", "$dynamicAnchor"] {
            let Some(anchor) = text(name)? else { continue };
            let other = self.anchors.insert((base.to_string(), anchor.clone()), place.to_owned());
            if other.is_some_and(|other| other != place) {
                return Err(unsound(place, &format!("its {name} is not unique")));
            }
            if name == "$dynamicAnchor" {
                *self.dynamic.entry(anchor.clone()).or_default() += 1;
            }
        }
        for (name, value) in members {
            let place = format!("{place}/{}", escaped(name));
            if ONE.contains(&name.as_str()) {
                self.collect(value, &place, &base, false)?;
            } else if let (true, Value::Array(elements)) = (SEVERAL.contains(&name.as_str()), value) {
                for (number, element) in elements.iter().enumerate() {
                    self.collect(element, &format!("{place}/{number}"), &base, false)?;
                }
            } else if let (true, Value::Object(members)) = (NAMED.contains(&name.as_str()), value) {
                for (name, value) in members {
                    self.collect(value, &format!("{place}/{}", escaped(name)), &base, false)?;
                }
            }
        }
        Ok(())
    }

    /// The base URI at a place.
    fn base(&self, outer: &Url, place: &str) -> Url {
        self.bases.get(place).unwrap_or(outer).clone()
    }
}

struct Compiler<'a> {
    document: &'a Value,
    names: Names,
    found: HashMap<String, Index>,
    subschemas: Vec<Subschema>,
    waiting: VecDeque<(&'a Value, String, Url)>,
    /// The units of all patterns so far.
    units: usize,
    ignored: Vec<String>,
}

impl<'a> Compiler<'a> {
    /// The index of the schema at a place, which is compiled later if it is new.
    fn index(&mut self, schema: &'a Value, place: String, outer: &Url) -> Index {
        if let Some(index) = self.found.get(&place) {
            return *index;
        }
        let index = self.found.len();
        self.found.insert(place.clone(), index);
        let base = self.names.base(outer, &place);
        self.waiting.push_back((schema, place, base));
        index
    }

    fn subschema(&mut self, schema: &'a Value, place: &str, base: &Url) -> Result<Subschema, SchemaError> {
        match schema {
            Value::Bool(any) => Ok(Subschema::Any(*any)),
            Value::Object(members) => {
                let mut keywords = Keywords { place: place.to_owned(), ..Keywords::default() };
                for (name, value) in members {
                    let keyword = Keyword { name, value, place, base };
                    self.keyword(&keyword, &mut keywords)?;
                }
                Ok(Subschema::Keywords(Box::new(keywords)))
            }
            _ => Err(unsound(place, "a schema is an object, true or false")),
        }
    }

    fn keyword(&mut self, keyword: &Keyword<'a, '_>, keywords: &mut Keywords) -> Result<(), SchemaError> {
        match keyword.name {
            "$ref" => keywords.references.push(self.reference(keyword)?),
            "$dynamicRef" => keywords.references.push(self.dynamic_reference(keyword)?),
            "type" => keywords.types = Some(keyword.types()?),
            "enum" => {
                let Value::Array(values) = keyword.value else { return Err(keyword.must_be("a list of values")) };
                keywords.one_of_values =
                    Some(values.iter().map(|value| keyword.canonical(value)).collect::<Result<_, _>>()?);
            }
            "const" => keywords.constant = Some(keyword.canonical(keyword.value)?),
            "multipleOf" => {
                let step = keyword.number()?;
                if step.is_zero() || step.is_negative() {
                    return Err(keyword.must_be("a number above 0"));
                }
                keywords.multiple_of = Some(step);
            }
            "minimum" => keywords.minimum = Some(keyword.number()?),
            "maximum" => keywords.maximum = Some(keyword.number()?),
            "exclusiveMinimum" => keywords.exclusive_minimum = Some(keyword.number()?),
            "exclusiveMaximum" => keywords.exclusive_maximum = Some(keyword.number()?),
            "minLength" => keywords.min_length = Some(keyword.count()?),
            "maxLength" => keywords.max_length = Some(keyword.count()?),
            "minItems" => keywords.min_items = Some(keyword.count()?),
            "maxItems" => keywords.max_items = Some(keyword.count()?),
            "minContains" => keywords.min_contains = Some(keyword.count()?),
            "maxContains" => keywords.max_contains = Some(keyword.count()?),
            "minProperties" => keywords.min_properties = Some(keyword.count()?),
            "maxProperties" => keywords.max_properties = Some(keyword.count()?),
            "uniqueItems" => {
                let Value::Bool(unique) = keyword.value else { return Err(keyword.must_be("true or false")) };
                keywords.unique_items = *unique;
            }
            "pattern" => {
                let Value::String(pattern) = keyword.value else { return Err(keyword.must_be("a string")) };
                keywords.pattern = Some(self.pattern(keyword, pattern)?);
            }
            "required" => keywords.required = keyword.names(keyword.value)?,
            "dependentRequired" => {
                for (name, value) in keyword.members()? {
                    keywords.dependent_required.push((name.clone(), keyword.names(value)?));
                }
            }
            "dependencies" => {
                for (name, value) in keyword.members()? {
                    if matches!(value, Value::Array(_)) {
                        keywords.dependent_required.push((name.clone(), keyword.names(value)?));
                    } else {
                        let index = self.index(value, keyword.inside(name), keyword.base);
                        keywords.dependent_schemas.push((name.clone(), index));
                    }
                }
            }
            _ => self.applicator(keyword, keywords)?,
        }
        Ok(())
    }

    fn applicator(&mut self, keyword: &Keyword<'a, '_>, keywords: &mut Keywords) -> Result<(), SchemaError> {
        let name = keyword.name;
        if let Some(place) = match name {
            "items" => Some(&mut keywords.items),
            "contains" => Some(&mut keywords.contains),
            "additionalProperties" => Some(&mut keywords.additional_properties),
            "propertyNames" => Some(&mut keywords.property_names),
            "not" => Some(&mut keywords.not),
            "if" => Some(&mut keywords.condition),
            "then" => Some(&mut keywords.then),
            "else" => Some(&mut keywords.otherwise),
            "unevaluatedItems" => Some(&mut keywords.unevaluated_items),
            "unevaluatedProperties" => Some(&mut keywords.unevaluated_properties),
            _ => None,
        } {
            *place = Some(self.index(keyword.value, format!("{}/{name}", keyword.place), keyword.base));
        } else if SEVERAL.contains(&name) {
            let Value::Array(elements) = keyword.value else { return Err(keyword.must_be("a list of schemas")) };
            if elements.is_empty() {
                return Err(keyword.must_be("a list of schemas"));
            }
            let inside = |number: usize| keyword.inside(&number.to_string());
            let schemas: Vec<_> =
                elements.iter().enumerate().map(|(number, schema)| (schema, inside(number))).collect();
            let indices = schemas.into_iter().map(|(schema, place)| self.index(schema, place, keyword.base)).collect();
            match name {
                "allOf" => keywords.all_of = indices,
                "anyOf" => keywords.any_of = Some(indices),
                "oneOf" => keywords.one_of = Some(indices),
                _ => keywords.prefix_items = indices,
            }
        } else if NAMED.contains(&name) {
            for (member, schema) in keyword.members()? {
                let index = self.index(schema, keyword.inside(member), keyword.base);
                match name {
                    "properties" => drop(keywords.properties.insert(member.clone(), index)),
                    "patternProperties" => keywords.pattern_properties.push((self.pattern(keyword, member)?, index)),
                    "dependentSchemas" => keywords.dependent_schemas.push((member.clone(), index)),
                    _ => {} // definitions are compiled so that errors in them are found
                }
            }
        } else if !ANNOTATIONS.contains(&name) && !name.starts_with("x-") {
            self.ignored.push(format!("{}/{name}", keyword.place));
        }
        Ok(())
    }

    fn pattern(&mut self, keyword: &Keyword<'_, '_>, pattern: &str) -> Result<Pattern, SchemaError> {
        let what = "has a regular expression that ECMA-262 does not have (with `u`), is too large, sets modifiers, or looks around or back";
        let pattern = Pattern::compile(pattern).ok_or_else(|| keyword.unsound(what))?;
        self.units += pattern.weight;
        if self.units > MAX_PATTERN_UNITS {
            return Err(keyword.unsound("and the other regular expressions of the schema are too large together"));
        }
        Ok(pattern)
    }

    fn reference(&mut self, keyword: &Keyword<'a, '_>) -> Result<Index, SchemaError> {
        self.target(keyword).map(|(index, _)| index)
    }

    /// Resolves to an anchor that exists once, so that it is not dynamic.
    fn dynamic_reference(&mut self, keyword: &Keyword<'a, '_>) -> Result<Index, SchemaError> {
        let (index, anchor) = self.target(keyword)?;
        if anchor.and_then(|anchor| self.names.dynamic.get(&anchor).copied()).unwrap_or(0) > 1 {
            return Err(keyword.unsound("with several anchors of its name is not supported"));
        }
        Ok(index)
    }

    /// The target of a reference, and the anchor if it uses one.
    fn target(&mut self, keyword: &Keyword<'a, '_>) -> Result<(Index, Option<String>), SchemaError> {
        let Value::String(reference) = keyword.value else { return Err(keyword.must_be("a string")) };
        let outside = || keyword.unsound("does not refer to anything in this file, and nothing is fetched");
        let mut url = keyword.base.join(reference).map_err(|_| outside())?;
        let fragment = decoded(url.fragment().unwrap_or_default()).ok_or_else(outside)?;
        url.set_fragment(None);
        let resource = self.names.resources.get(url.as_str()).cloned().ok_or_else(outside)?;
        let (place, anchor) = if fragment.is_empty() {
            (resource, None)
        } else if fragment.starts_with('/') {
            (resource + &fragment, None)
        } else {
            let place = self.names.anchors.get(&(url.into(), fragment.clone())).cloned().ok_or_else(outside)?;
            (place, Some(fragment))
        };
        // An `$id` on the path changes the base URI of the schemas inside.
        let mut schema = self.document;
        let mut passed = String::new();
        let mut base = self.names.base(keyword.base, "");
        for part in place.split('/').skip(1) {
            let name = part.replace("~1", "/").replace("~0", "~");
            schema = match schema {
                Value::Object(_) => schema.get(&name),
                Value::Array(elements) => name.parse::<usize>().ok().and_then(|number| elements.get(number)),
                _ => None,
            }
            .ok_or_else(outside)?;
            passed = format!("{passed}/{}", escaped(&name));
            base = self.names.base(&base, &passed);
        }
        Ok((self.index(schema, passed, &base), anchor))
    }
}

fn unsound(place: &str, what: &str) -> SchemaError {
    SchemaError::Unsound(format!("#{place}: {what}"))
}

/// A name as a part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A fragment of a URI as text.
fn decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = fragment.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}
