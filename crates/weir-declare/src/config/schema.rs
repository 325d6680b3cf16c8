//! A document against `schema/endpoint.schema.json`, the one contract of editors, the validator and the broker.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

use super::explain::{Finding, explain};
use super::{Cidr, FileRef, Host, Kind, Name, RemoteAddress, SecretRef, UnixMode, check_filter, check_topic};

/// The schema of a document, JSON Schema draft-07, as text.
pub const SCHEMA: &str = include_str!("../../schema/endpoint.schema.json");

/// The schema as a value.
pub fn schema() -> &'static Value {
    &SCHEMA_VALUE
}

#[allow(clippy::expect_used)] // compiled in; every test would fail
static SCHEMA_VALUE: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(SCHEMA).expect("the schema is JSON"));

#[allow(clippy::expect_used)] // compiled in; every test would fail
static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let mut options = jsonschema::options().with_draft(jsonschema::Draft::Draft7).should_validate_formats(true);
    for &(format, check) in FORMATS {
        options = options.with_format(format, move |text: &str| check(text).is_ok());
    }
    options.build(&SCHEMA_VALUE).expect("the schema is a schema")
});

/// The schema of a kind's body.
pub(super) fn kind_schema(kind: Kind) -> &'static Value {
    deref(&schema()["properties"][kind.key()])
}

/// The schema that a reference means.
pub(super) fn deref(schema_part: &'static Value) -> &'static Value {
    let target = schema_part.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
    target.and_then(|pointer| schema().pointer(pointer)).unwrap_or(schema_part)
}

/// The schema of a field.
pub(super) fn field_schema(parent: &'static Value, field: &str) -> Option<&'static Value> {
    parent.get("properties").and_then(|fields| fields.get(field)).map(deref)
}

/// Checks a text; the error is a phrase.
type Check = fn(&str) -> Result<(), String>;

/// What a pattern cannot say, or says less well. The document's types parse with the same functions, so that what the
/// schema accepts parses.
const FORMATS: &[(&str, Check)] = &[
    ("weir-name", |text| Name::parse(text).map(drop)),
    ("weir-host", |text| Host::parse(text).map(drop)),
    ("weir-cidr", |text| Cidr::parse(text).map(drop)),
    ("weir-file", |text| FileRef::parse(text).map(drop)),
    ("weir-secret", |text| SecretRef::parse(text).map(drop)),
    ("weir-topic-filter", check_filter),
    ("weir-topic", check_topic),
    ("weir-bridge-address", |text| RemoteAddress::parse(text).map(drop)),
    ("weir-unix-mode", |text| UnixMode::try_from(text.to_owned()).map(drop)),
    ("weir-http-url", check_http_url),
    ("date-time", |text| {
        let parsed = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        parsed.map(drop).map_err(|_| format!("{text:?} is no time"))
    }),
];

fn check_http_url(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let rest = rest.ok_or_else(|| format!("{text:?} is no http:// or https:// address"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("a user and a password do not belong into an address; send them by `headers`".into());
    }
    if authority.is_empty() { Err(format!("{text:?} names no host")) } else { Ok(()) }
}

/// What is wrong with a text of a format, as a phrase.
pub(super) fn format_problem(format: &str, text: &str) -> Option<String> {
    FORMATS.iter().find(|(name, _)| *name == format).and_then(|(_, check)| check(text).err())
}

/// Findings of one document; who has made more mistakes mends these first.
const FINDINGS_MAX: usize = 100;

/// Everything in which `document` is not as the schema wants it.
pub(super) fn check(document: &Value) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for error in VALIDATOR.iter_errors(document) {
        for finding in explain(&error, FINDINGS_MAX) {
            if findings.len() >= FINDINGS_MAX {
                findings.push(Finding::too_many(FINDINGS_MAX));
                return findings;
            }
            // A pattern and a format about one value: the format says it better.
            if let Some(known) = findings.iter_mut().find(|known| known.is_duplicate_of(&finding)) {
                if finding.code == "format" {
                    *known = finding;
                }
            } else {
                findings.push(finding);
            }
        }
    }
    for finding in findings.iter_mut().filter(|finding| finding.code == "pattern") {
        finding.code = "format";
    }
    findings
}
