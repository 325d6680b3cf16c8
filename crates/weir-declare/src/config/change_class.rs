//! The effect of a changed field on connected clients. The class of each field is in the schema, `x-change-class`;
//! there is no second table.

use std::cmp::Ordering;

use serde::Serialize;
use serde_json::{Map, Value};

use super::item::fields_of;
use super::schema::{field_schema, kind_schema};
use super::{Endpoint, Kind};

/// The effect of a change, from the smallest to the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeClass {
    /// No effect on clients.
    Cosmetic,
    /// Applies at once, also to open connections. No connection is closed.
    Live,
    /// Applies to new connections. Open ones keep the values that CONNACK gave them.
    NewConnections,
    /// Connections that the new declaration does not admit are closed: at once where the client lost the right to be
    /// connected, otherwise at the endpoint's drain rate.
    Drain,
    /// The socket is bound again, and open connections are closed gradually.
    Rebind,
}

impl ChangeClass {
    /// Every class.
    pub const ALL: [Self; 5] = [Self::Cosmetic, Self::Live, Self::NewConnections, Self::Drain, Self::Rebind];

    /// The name in the schema and in plans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cosmetic => "cosmetic",
            Self::Live => "live",
            Self::NewConnections => "new-connections",
            Self::Drain => "drain",
            Self::Rebind => "rebind",
        }
    }

    fn from_schema(class: &Value) -> Option<Self> {
        Self::ALL.into_iter().find(|known| class.as_str() == Some(known.as_str()))
    }
}

impl std::fmt::Display for ChangeClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A field that differs between two declarations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FieldChange {
    /// `sslConfig.certFile`.
    pub path: String,
    /// `None`: absent.
    pub old: Option<Value>,
    /// The value after the change; `None`: absent.
    pub new: Option<Value>,
    /// What the change does to clients.
    pub class: ChangeClass,
}

/// The differences of two endpoints, in the schema's order. A default that is written out is not a difference.
pub fn changes(old: &Endpoint, new: &Endpoint) -> Vec<FieldChange> {
    field_changes(Kind::Endpoint, &fields_of(old), &fields_of(new))
}

/// The differences of two declarations of `kind`, given with all their fields.
pub fn field_changes(kind: Kind, old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<FieldChange> {
    let mut found = Vec::new();
    compare(kind_schema(kind), "", old, new, &mut found);
    found
}

fn compare(
    parent: &'static Value,
    prefix: &str,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    found: &mut Vec<FieldChange>,
) {
    let fields = parent.get("properties").and_then(Value::as_object);
    for field in fields.into_iter().flat_map(Map::keys) {
        let (was, is) = (old.get(field), new.get(field));
        if was == is {
            continue;
        }
        let path = if prefix.is_empty() { field.clone() } else { format!("{prefix}.{field}") };
        let Some(rule) = field_schema(parent, field) else { continue };
        if let (Some(Value::Object(was)), Some(Value::Object(is)), true) = (was, is, rule.get("properties").is_some()) {
            compare(rule, &path, was, is, found);
            continue;
        }
        let class = class_of(rule, was, is);
        found.push(FieldChange { path, old: was.cloned(), new: is.cloned(), class });
    }
}

fn class_of(rule: &Value, old: Option<&Value>, new: Option<&Value>) -> ChangeClass {
    let class = rule.get("x-change-class").unwrap_or(&Value::Null);
    let directed = match (old, new) {
        (_, Some(Value::Bool(on))) => class.get(if *on { "enable" } else { "disable" }),
        // An absent limit is unlimited.
        _ => match limit_order(old, new) {
            Ordering::Less => class.get("raise"),
            _ => class.get("lower"),
        },
    };
    // A test holds that every field has a class; without one, assume the largest effect.
    ChangeClass::from_schema(directed.unwrap_or(class)).unwrap_or(ChangeClass::Rebind)
}

fn limit_order(old: Option<&Value>, new: Option<&Value>) -> Ordering {
    let number = |value: Option<&Value>| value.and_then(Value::as_f64).unwrap_or(f64::INFINITY);
    number(old).total_cmp(&number(new))
}
