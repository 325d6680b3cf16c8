//! `schema/endpoint.schema.json`, the contract between editors, the validator and the broker.

use std::sync::LazyLock;

use serde_json::Value;

use super::Kind;

/// The schema of documents as text, JSON Schema draft-07.
pub const SCHEMA: &str = include_str!("../../schema/endpoint.schema.json");

/// The schema as a JSON value.
pub fn schema() -> &'static Value {
    &SCHEMA_VALUE
}

#[allow(clippy::expect_used)] // compiled in; every test would fail
static SCHEMA_VALUE: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(SCHEMA).expect("the schema is JSON"));

/// The schema of the body of documents of `kind`.
pub(super) fn kind_schema(kind: Kind) -> &'static Value {
    deref(&schema()["properties"][kind.key()])
}

/// Resolves a `$ref`; returns other parts of the schema as they are.
pub(super) fn deref(schema_part: &'static Value) -> &'static Value {
    let target = schema_part.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
    target.and_then(|pointer| schema().pointer(pointer)).unwrap_or(schema_part)
}

/// The schema of a field of `parent`.
pub(super) fn field_schema(parent: &'static Value, field: &str) -> Option<&'static Value> {
    parent.get("properties").and_then(|fields| fields.get(field)).map(deref)
}
