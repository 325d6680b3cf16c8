//! Evaluates documents against the schema: the part of JSON Schema (draft-07) that the schema uses. A test compares the
//! result with a complete implementation.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use fancy_regex::Regex;
use serde_json::{Map, Number, Value};

use super::formats::format_problem;
use super::path::{InstancePath, PathSegment};
use super::schema::{deref, schema};

/// One violated keyword.
#[derive(Debug)]
pub(super) struct Violation<'a> {
    /// The value that violates it.
    pub(super) path: InstancePath,
    pub(super) value: &'a Value,
    pub(super) keyword: &'static str,
    /// The keyword's value in the schema.
    pub(super) limit: &'static Value,
    /// The part of the schema that has the keyword.
    pub(super) rule: &'static Value,
    /// The part that describes the fields: for a `then` or `else`, the part that has the `if`.
    pub(super) fields: &'static Value,
    /// The keys that the violation is about: unexpected, missing or invalid ones.
    pub(super) keys: Vec<&'a str>,
}

/// The first `max` violations in `document`.
pub(super) fn violations(document: &Value, max: usize) -> Vec<Violation<'_>> {
    let mut evaluation = Evaluation { found: Vec::new(), max, path: Vec::new() };
    evaluation.check(schema(), document);
    evaluation.found
}

/// The patterns of the schema. JavaScript's `\s`, which editors use, has U+FEFF.
static PATTERNS: LazyLock<HashMap<&'static str, Regex>> = LazyLock::new(|| {
    let mut patterns = HashMap::new();
    collect_patterns(schema(), &mut patterns);
    patterns
});

#[allow(clippy::expect_used)] // compiled in; every test would fail
fn collect_patterns(part: &'static Value, patterns: &mut HashMap<&'static str, Regex>) {
    let mut add = |pattern: &'static str| {
        let compile = || Regex::new(&pattern.replace(r"\s", r"\s\u{FEFF}")).expect("a pattern of the schema");
        patterns.entry(pattern).or_insert_with(compile);
    };
    if let Some(pattern) = part.get("pattern").and_then(Value::as_str) {
        add(pattern);
    }
    for key in part.get("patternProperties").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
        add(key);
    }
    match part {
        Value::Object(fields) => fields.values().for_each(|part| collect_patterns(part, patterns)),
        Value::Array(items) => items.iter().for_each(|part| collect_patterns(part, patterns)),
        _ => {}
    }
}

/// A pattern that takes too many steps does not match.
fn matches(pattern: &str, text: &str) -> bool {
    PATTERNS.get(pattern).is_some_and(|pattern| pattern.is_match(text).unwrap_or(false))
}

/// A step from a value to one inside of it.
#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

struct Evaluation<'a> {
    found: Vec<Violation<'a>>,
    max: usize,
    path: Vec<Step<'a>>,
}

impl<'a> Evaluation<'a> {
    fn check(&mut self, rule: &'static Value, value: &'a Value) {
        let rule = deref(rule);
        self.check_rule(rule, rule, value);
    }

    fn check_rule(&mut self, rule: &'static Value, fields: &'static Value, value: &'a Value) {
        for (keyword, limit) in rule.as_object().into_iter().flatten() {
            if self.found.len() >= self.max {
                return;
            }
            let part = Part { keyword, limit, rule, fields };
            match value {
                Value::Object(object) => self.check_object(part, value, object),
                Value::Array(items) => self.check_array(part, value, items),
                _ => {}
            }
            self.check_value(part, value);
        }
    }

    fn check_inside(&mut self, step: Step<'a>, rule: &'static Value, value: &'a Value) {
        self.path.push(step);
        self.check(rule, value);
        self.path.pop();
    }

    fn check_value(&mut self, part: Part, value: &'a Value) {
        let Part { keyword, limit, rule, fields } = part;
        match keyword {
            "allOf" => limit.as_array().into_iter().flatten().for_each(|rule| self.check(rule, value)),
            "if" => {
                let branch = if is_valid(limit, value) { "then" } else { "else" };
                if let Some(branch) = rule.get(branch) {
                    self.check_rule(deref(branch), fields, value);
                }
            }
            _ if !holds(keyword, limit, value) => self.report(part, value, Vec::new()),
            _ => {}
        }
    }

    fn check_array(&mut self, part: Part, value: &'a Value, items: &'a [Value]) {
        match part.keyword {
            "items" => {
                for (index, item) in items.iter().enumerate() {
                    self.check_inside(Step::Index(index), part.limit, item);
                }
            }
            "uniqueItems" if part.limit == &Value::Bool(true) && !are_unique(items) => {
                self.report(part, value, Vec::new());
            }
            _ => {}
        }
    }

    fn check_object(&mut self, part: Part, value: &'a Value, object: &'a Map<String, Value>) {
        let Part { keyword, limit, rule, .. } = part;
        match keyword {
            "properties" => {
                for (key, field) in object {
                    if let Some(rule) = limit.get(key) {
                        self.check_inside(Step::Key(key), rule, field);
                    }
                }
            }
            "patternProperties" => {
                for (pattern, rule) in limit.as_object().into_iter().flatten() {
                    for (key, field) in object.iter().filter(|(key, _)| matches(pattern, key)) {
                        self.check_inside(Step::Key(key), rule, field);
                    }
                }
            }
            "additionalProperties" => {
                let others = object.iter().filter(|(key, _)| !is_described(rule, key));
                if limit == &Value::Bool(false) {
                    let unexpected: Vec<&str> = others.map(|(key, _)| key.as_str()).collect();
                    if !unexpected.is_empty() {
                        self.report(part, value, unexpected);
                    }
                } else {
                    others.for_each(|(key, field)| self.check_inside(Step::Key(key), limit, field));
                }
            }
            "propertyNames" => {
                for key in object.keys() {
                    if !is_valid(limit, &Value::String(key.clone())) {
                        self.report(part, value, vec![key]);
                    }
                }
            }
            "required" => self.check_required(part, value, object, limit),
            "dependencies" => {
                for (_, required) in
                    limit.as_object().into_iter().flatten().filter(|(key, _)| object.contains_key(*key))
                {
                    self.check_required(part, value, object, required);
                }
            }
            _ => {}
        }
    }

    fn check_required(
        &mut self,
        part: Part,
        value: &'a Value,
        object: &'a Map<String, Value>,
        required: &'static Value,
    ) {
        for key in strings(required).filter(|key| !object.contains_key(*key)) {
            self.report(part, value, vec![key]);
        }
    }

    fn report(&mut self, part: Part, value: &'a Value, keys: Vec<&'a str>) {
        if self.found.len() < self.max {
            let Part { keyword, limit, rule, fields } = part;
            let segments = self.path.iter().map(|step| match step {
                Step::Key(key) => PathSegment::Key((*key).to_owned()),
                Step::Index(index) => PathSegment::Index(*index),
            });
            let path = InstancePath(segments.collect());
            self.found.push(Violation { path, value, keyword, limit, rule, fields, keys });
        }
    }
}

/// A keyword and the part of the schema that has it.
#[derive(Clone, Copy)]
struct Part {
    keyword: &'static str,
    limit: &'static Value,
    rule: &'static Value,
    fields: &'static Value,
}

fn is_valid(rule: &'static Value, value: &Value) -> bool {
    let mut evaluation = Evaluation { found: Vec::new(), max: 1, path: Vec::new() };
    evaluation.check(rule, value);
    evaluation.found.is_empty()
}

/// Whether `properties` or `patternProperties` have a rule for a key.
fn is_described(rule: &Value, key: &str) -> bool {
    let has = |keyword| rule.get(keyword).and_then(Value::as_object);
    has("properties").is_some_and(|fields| fields.contains_key(key))
        || has("patternProperties").is_some_and(|patterns| patterns.keys().any(|pattern| matches(pattern, key)))
}

/// Whether a keyword about the value itself holds. Keywords about other types hold, and so do those that describe.
fn holds(keyword: &str, limit: &'static Value, value: &Value) -> bool {
    let size = limit.as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    match (keyword, value) {
        ("type", _) => limit.as_str().into_iter().chain(strings(limit)).any(|name| has_type(name, value)),
        ("enum", _) => limit.as_array().into_iter().flatten().any(|known| equal(known, value)),
        ("const", _) => equal(limit, value),
        ("not", _) => !is_valid(limit, value),
        ("anyOf", _) => limit.as_array().into_iter().flatten().any(|rule| is_valid(rule, value)),
        ("minimum", Value::Number(number)) => limit.as_number().is_none_or(|limit| !less(number, limit)),
        ("maximum", Value::Number(number)) => limit.as_number().is_none_or(|limit| !less(limit, number)),
        ("minLength", Value::String(text)) => text.chars().count() >= size,
        ("maxLength", Value::String(text)) => text.len() <= size || text.chars().count() <= size,
        ("pattern", Value::String(text)) => limit.as_str().is_none_or(|pattern| matches(pattern, text)),
        ("format", Value::String(text)) => limit.as_str().is_none_or(|name| format_problem(name, text).is_none()),
        ("minItems", Value::Array(items)) => items.len() >= size,
        ("maxItems", Value::Array(items)) => items.len() <= size,
        ("minProperties", Value::Object(object)) => object.len() >= size,
        ("maxProperties", Value::Object(object)) => object.len() <= size,
        _ => true,
    }
}

fn strings(list: &'static Value) -> impl Iterator<Item = &'static str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn has_type(name: &str, value: &Value) -> bool {
    match (name, value) {
        ("null", Value::Null)
        | ("boolean", Value::Bool(_))
        | ("string", Value::String(_))
        | ("array", Value::Array(_))
        | ("object", Value::Object(_))
        | ("number", Value::Number(_)) => true,
        // 1.0 is an integer.
        ("integer", Value::Number(number)) => {
            !number.is_f64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        _ => false,
    }
}

/// Equality of JSON Schema: 1 is 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => !less(a, b) && !less(b, a),
        _ => a == b,
    }
}

fn less(a: &Number, b: &Number) -> bool {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a < b,
        _ => a.as_f64() < b.as_f64(),
    }
}

fn are_unique(items: &[Value]) -> bool {
    let mut seen = HashSet::new();
    items.iter().all(|item| {
        seen.insert(match item.as_f64() {
            Some(number) => number.to_string(),
            None => item.to_string(),
        })
    })
}
