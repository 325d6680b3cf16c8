//! Comparing what came with what a script expects.
//!
//! A PUBLISH must agree in everything: what the script leaves out must have its default, and there must be no property
//! that the script does not name (but a topic alias, which is the server's choice). Of other packets only the properties
//! that the script names are compared, and those it lists under `absent` must not be there.

use serde_json::Value;

use super::fields::Fields;
use super::packets;
use super::transport::Names;
use crate::wire::*;

/// Whether `packet` is what `expected` says; the error says how it differs.
pub fn matches(packet: &Packet, expected: &Value, version: Version, names: &Names) -> Result<(), String> {
    let expected = if expected.is_null() { Value::Object(serde_json::Map::new()) } else { expected.clone() };
    let mut fields = Fields::new("expected", expected)?;
    let wanted = fields.optional::<Value>("properties")?;
    let absent: Vec<String> = fields.optional("absent")?.unwrap_or_default();
    let found = match packet {
        Packet::Publish(publish) => {
            match_publish(publish, &mut fields, version, names)?;
            &publish.properties
        }
        Packet::ConnAck { session_present, code, properties } => {
            same("session_present", *session_present, fields.optional("session_present")?.unwrap_or(*session_present))?;
            same("code", *code, fields.optional("code")?.unwrap_or(0))?;
            properties
        }
        Packet::Ack(ack) => {
            same("id", ack.id, fields.required("id")?)?;
            // 0x10, no matching subscribers, is a success too, at the server's choice.
            let default = if ack.code == 0x10 { 0x10 } else { 0 };
            same("code", ack.code, fields.optional("code")?.unwrap_or(default))?;
            &ack.properties
        }
        Packet::SubAck { id, properties, codes } => {
            same("id", *id, fields.required("id")?)?;
            same("codes", codes.clone(), fields.required("codes")?)?;
            properties
        }
        Packet::UnsubAck { id, properties, codes } => {
            same("id", *id, fields.required("id")?)?;
            let wanted: Vec<u8> = fields.optional("codes")?.unwrap_or_default();
            if version.is_v5() {
                same("codes", codes.clone(), wanted)?;
            }
            properties
        }
        Packet::Disconnect { code, properties } | Packet::Auth { code, properties } => {
            same("code", *code, fields.required("code")?)?;
            properties
        }
        Packet::PingResp => return fields.finish(),
        other => return Err(format!("a server does not send {other:?}")),
    };
    fields.finish()?;
    if let Some(name) = absent.iter().find(|name| values_of(found, name).next().is_some()) {
        return Err(format!("property {name} should be absent"));
    }
    match_properties(found, wanted, matches!(packet, Packet::Publish(_)), version, names)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found:?}, not {wanted:?}")) }
}

fn match_publish(publish: &Publish, fields: &mut Fields, version: Version, names: &Names) -> Result<(), String> {
    let topic = packets::text(&fields.required("topic")?, version, names)?;
    same("topic", publish.topic.clone(), names.topic(&topic))?;
    let payload = fields.optional("payload")?.unwrap_or(Value::Null);
    let any = payload.get("any").is_some();
    let payload = if any { publish.payload.clone() } else { packets::binary(&payload, version, names)? };
    if publish.payload != payload {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        return Err(format!("payload is {:?}, not {:?}", shown(&publish.payload), shown(&payload)));
    }
    same("qos", publish.qos, fields.optional("qos")?.unwrap_or(0))?;
    let retain = fields.optional::<Value>("retain")?.unwrap_or(Value::Bool(false));
    if retain.as_str() != Some("any") {
        same("retain", Value::Bool(publish.retain), retain)?;
    }
    same("dup", publish.dup, fields.optional("dup")?.unwrap_or(false))?;
    match fields.optional::<u16>("id")? {
        Some(id) => same("id", publish.id, Some(id)),
        None => Ok(()),
    }
}

fn values_of<'a>(properties: &'a Properties, name: &str) -> impl Iterator<Item = &'a PropertyValue> {
    let id = PropertyRow::by_name(name).map(|row| row.id);
    properties.iter().filter(move |(found, _)| Some(*found) == id).map(|(_, value)| value)
}

/// `exact`: nothing may be there that is not named.
fn match_properties(
    found: &Properties,
    wanted: Option<Value>,
    exact: bool,
    version: Version,
    names: &Names,
) -> Result<(), String> {
    let wanted = wanted.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let map = wanted.as_object().ok_or_else(|| format!("properties: a map is wanted, not {wanted}"))?;
    for (name, value) in map {
        let found: Vec<_> = values_of(found, name).cloned().collect();
        match_property(name, found, value, version, names)?;
    }
    let unnamed = found.iter().filter_map(|(id, _)| PropertyRow::by_id(*id)).map(|row| row.name);
    match unnamed.into_iter().find(|name| exact && *name != "topic_alias" && !map.contains_key(*name)) {
        Some(name) => Err(format!("property {name} was not expected: {found:?}")),
        None => Ok(()),
    }
}

/// `value`: what the property must be; `any`; `{between: [low, high]}`; for subscription identifiers in any order.
fn match_property(
    name: &str,
    mut found: Vec<PropertyValue>,
    value: &Value,
    version: Version,
    names: &Names,
) -> Result<(), String> {
    if value.as_str() == Some("any") {
        return if found.is_empty() { Err(format!("property {name} is absent")) } else { Ok(()) };
    }
    if let Some(bounds) = value.get("between").and_then(Value::as_array) {
        let bounds: Vec<u64> = bounds.iter().filter_map(Value::as_u64).collect();
        return match (&found[..], &bounds[..]) {
            ([PropertyValue::Number(number)], [low, high]) if (*low..=*high).contains(&u64::from(*number)) => Ok(()),
            _ => Err(format!("property {name} is {found:?}, not between {bounds:?}")),
        };
    }
    let one = Value::Object([(name.to_owned(), value.clone())].into_iter().collect());
    let mut wanted: Vec<_> =
        packets::properties(Some(one), version, names)?.into_iter().map(|(_, value)| value).collect();
    if name == "subscription_identifier" {
        let number = |value: &PropertyValue| if let PropertyValue::Number(number) = value { *number } else { 0 };
        wanted.sort_by_key(number);
        found.sort_by_key(number);
    }
    same(&format!("property {name}"), found, wanted)
}
