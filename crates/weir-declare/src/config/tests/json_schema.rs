//! The evaluation of the schema agrees with a complete implementation of JSON Schema.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::formats::FORMATS;
use super::super::json_schema::violations;
use super::super::path::{InstancePath, PathSegment};
use super::generate::Generator;
use super::*;

static COMPLETE: LazyLock<Validator> = LazyLock::new(|| {
    let mut options = jsonschema::options().with_draft(jsonschema::Draft::Draft7).should_validate_formats(true);
    for &(format, check) in FORMATS {
        options = options.with_format(format, move |text: &str| check(text).is_none());
    }
    options.build(schema()).unwrap()
});

/// The JSON pointer and the keyword of each violation.
type Violations = BTreeSet<(String, String)>;

fn of_the_complete_one(document: &Value) -> Violations {
    let violation = |error: jsonschema::ValidationError<'_>| {
        let keyword = match error.kind().keyword() {
            // An absent field that another one needs.
            "required" if error.schema_path().as_str().contains("/dependencies") => "dependencies",
            keyword => keyword,
        };
        (error.instance_path().to_string(), keyword.to_owned())
    };
    COMPLETE.iter_errors(document).map(violation).collect()
}

fn of_ours(document: &Value) -> Violations {
    let found = violations(document, usize::MAX);
    found.iter().map(|violation| (pointer(&violation.path), violation.keyword.to_owned())).collect()
}

/// A JSON pointer.
fn pointer(path: &InstancePath) -> String {
    let step = |segment: &PathSegment| match segment {
        PathSegment::Key(key) => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        PathSegment::Index(index) => format!("/{index}"),
    };
    path.0.iter().map(step).collect()
}

/// Replaces one value somewhere in `document`.
fn replace(document: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *document = with.clone();
        return;
    }
    *at -= 1;
    let inner: Vec<&mut Value> = match document {
        Value::Object(fields) => fields.values_mut().collect(),
        Value::Array(items) => items.iter_mut().collect(),
        _ => return,
    };
    for value in inner {
        let size = size_of(value);
        if *at < size {
            return replace(value, at, with);
        }
        *at -= size;
    }
}

fn size_of(value: &Value) -> usize {
    1 + match value {
        Value::Object(fields) => fields.values().map(size_of).sum(),
        Value::Array(items) => items.iter().map(size_of).sum(),
        _ => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn violations_are_those_of_a_complete_implementation(seed: u64, wrong in 0_u64..6, at: prop::sample::Index, with in 0_usize..16) {
        let mut document = Generator::new(seed, wrong).document();
        let replacements = [
            json!(null), json!(true), json!(0), json!(-1), json!(1.0), json!(1.5), json!(1e300), json!(u64::MAX), json!(""), json!("a b"),
            json!("x".repeat(9000)), json!("\u{feff}\u{85}"), json!([]), json!([1, 1.0]), json!(["a", "a"]), json!({"": 1, "unix:x": {}}),
        ];
        let mut at = at.index(size_of(&document));
        replace(&mut document, &mut at, &replacements[with]);
        prop_assert_eq!(of_ours(&document), of_the_complete_one(&document), "{}", document);
    }
}

/// Keywords that describe.
const ANNOTATIONS: [&str; 15] = [
    "$id",
    "$schema",
    "default",
    "definitions",
    "description",
    "else",
    "errorMessage",
    "examples",
    "markdownDescription",
    "patternErrorMessage",
    "then",
    "title",
    "x-change-class",
    "x-secret",
    "x-unit",
];
/// Keywords that are evaluated.
const EVALUATED: [&str; 26] = [
    "$ref",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "dependencies",
    "enum",
    "format",
    "if",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "not",
    "pattern",
    "patternProperties",
    "properties",
    "propertyNames",
    "required",
    "type",
    "uniqueItems",
];

fn unknown_keywords(part: &Value, unknown: &mut BTreeSet<String>) {
    for (keyword, value) in part.as_object().into_iter().flatten() {
        if !ANNOTATIONS.contains(&keyword.as_str()) && !EVALUATED.contains(&keyword.as_str()) {
            unknown.insert(keyword.clone());
        }
        match (keyword.as_str(), value) {
            ("properties" | "patternProperties" | "definitions", Value::Object(parts)) => {
                parts.values().for_each(|part| unknown_keywords(part, unknown));
            }
            ("allOf" | "anyOf", Value::Array(parts)) => parts.iter().for_each(|part| unknown_keywords(part, unknown)),
            ("items" | "additionalProperties" | "not" | "if" | "then" | "else" | "propertyNames", part) => {
                unknown_keywords(part, unknown);
            }
            _ => {}
        }
    }
}

#[test]
fn every_keyword_of_the_schema_is_evaluated() {
    let mut unknown = BTreeSet::new();
    unknown_keywords(schema(), &mut unknown);
    assert_eq!(unknown, BTreeSet::new());
    let empty = Map::new();
    assert!(!violations(&Value::Object(empty), 1).is_empty());
}
