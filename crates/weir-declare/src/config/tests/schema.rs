//! The schema and the types agree: the same fields, the same defaults; and every field is described.

use serde_json::{Map, Value, json};

use super::super::item::fields_of;
use super::super::schema::{deref, field_schema, kind_schema};
use super::*;

/// Every field of a part of the schema, with its path.
fn fields(path: &str, part: &'static Value, visit: &mut dyn FnMut(&str, &'static Value)) {
    for (name, _) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let Some(field) = field_schema(part, name) else { continue };
        let path = format!("{path}.{name}");
        visit(&path, field);
        fields(&path, field, visit);
    }
    if let Some(items) = part.get("items") {
        fields(&format!("{path}[]"), deref(items), visit);
    }
}

fn every_field(visit: &mut dyn FnMut(&str, &'static Value)) {
    for kind in Kind::ALL {
        fields(kind.key(), kind_schema(kind), visit);
    }
}

#[test]
fn every_field_is_described() {
    let mut wrong = Vec::new();
    every_field(&mut |path, field| {
        let text = |key: &str| field.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("description").len() < 10 || !text("description").ends_with('.') {
            wrong.push(format!("{path}: no sentence describes it"));
        }
        let integer = text("type") == "integer";
        let unitless = ["maximumQos", "qos", "port", "priority"].iter().any(|name| path.ends_with(name));
        if integer && !unitless && text("x-unit").is_empty() {
            wrong.push(format!("{path}: no unit"));
        }
        if integer && (field.get("minimum").is_none() || field.get("maximum").is_none()) {
            wrong.push(format!("{path}: no range"));
        }
        let in_list = path.contains("[]") || path.starts_with("defaults.endpoint");
        // A changed name is another declaration.
        let classless = in_list || path == "defaults.endpoint" || path.ends_with(".name");
        if !classless && field.get("x-change-class").is_none() {
            wrong.push(format!("{path}: no change class"));
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The facts that an editor shows after the description: range, unit, default, effect of a change.
fn facts(field: &Value) -> String {
    let text = |key: &str| field.get(key).and_then(Value::as_str);
    let mut parts = Vec::new();
    if let Some(values) = field.get("enum").and_then(Value::as_array) {
        let mut names: Vec<String> = Vec::new();
        for value in values {
            let name = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if !names.contains(&name) && name != "5.0" {
                names.push(name);
            }
        }
        parts.push(names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "));
    }
    if let (Some(minimum), Some(maximum)) = (field.get("minimum"), field.get("maximum")) {
        let unit = text("x-unit").map(|unit| format!(" {unit}")).unwrap_or_default();
        parts.push(format!("{minimum} to {maximum}{unit}"));
    }
    if let Some(default) = field.get("default").filter(|default| !default.is_object() && **default != json!([])) {
        let shown = default.as_str().map_or_else(|| default.to_string().replace(',', ", "), str::to_owned);
        parts.push(format!("default `{shown}`"));
    }
    let mut sentences = Vec::new();
    if !parts.is_empty() {
        let joined = parts.join("; ");
        let (first, rest) = joined.split_at(1);
        sentences.push(format!("{}{rest}.", first.to_uppercase()));
    }
    let effect = |class: &str| match class {
        "cosmetic" => "does nothing to clients",
        "live" => "applies at once",
        "new-connections" => "applies to new connections",
        "drain" => "closes the connections that are no longer admitted",
        _ => "binds the socket again, and closes its connections gradually",
    };
    match field.get("x-change-class") {
        Some(Value::String(class)) => sentences.push(format!("A change {}.", effect(class))),
        Some(Value::Object(directions)) => {
            let begins = [
                ("raise", "Raising it"),
                ("lower", "lowering it"),
                ("enable", "Switching it on"),
                ("disable", "switching it off"),
            ];
            let parts = begins.iter().filter_map(|(direction, begin)| {
                Some(format!("{begin} {}", effect(directions.get(*direction)?.as_str()?)))
            });
            sentences.push(format!("{}.", parts.collect::<Vec<_>>().join("; ")));
        }
        _ => {}
    }
    sentences.join(" ")
}

#[test]
fn hover_texts_state_range_default_and_effect() {
    let mut wrong = Vec::new();
    every_field(&mut |path, field| {
        let facts = facts(field);
        let description = field.get("description").and_then(Value::as_str).unwrap_or_default();
        let expected = (!facts.is_empty()).then(|| format!("{description}\n\n{facts}"));
        if field.get("markdownDescription").and_then(Value::as_str) != expected.as_deref() {
            wrong.push(format!("{path}: \"markdownDescription\": {}", json!(expected)));
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_code_is_documented() {
    let page = include_str!("../../../../../docs/validate.md");
    for (code, meaning) in CODES {
        assert!(page.contains(&format!("| `{code}` | {meaning} |")), "| `{code}` | {meaning} |");
    }
    assert!(CODES.is_sorted());
}

#[test]
fn the_schema_has_each_kind_of_event_and_each_group() {
    let listed = field_schema(kind_schema(Kind::Events), "topics").unwrap()["items"]["enum"].as_array().unwrap();
    let listed: Vec<&str> = listed.iter().filter_map(Value::as_str).collect();
    let topics: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.topic()).collect();
    let mut groups: Vec<String> =
        topics.iter().map(|topic| format!("{}/#", topic.split('/').next().unwrap())).collect();
    groups.dedup();
    assert_eq!(listed, ["#"].into_iter().chain(groups.iter().map(String::as_str)).chain(topics).collect::<Vec<_>>());
    assert!(listed.iter().all(|topic| EventPattern::parse(topic).is_ok()));
}

#[test]
fn the_schema_uses_known_change_classes() {
    let known: Vec<&str> = ChangeClass::ALL.iter().map(|class| class.as_str()).collect();
    every_field(&mut |path, field| match field.get("x-change-class") {
        None => {}
        Some(Value::String(class)) => assert!(known.contains(&class.as_str()), "{path}: {class}"),
        Some(Value::Object(directions)) => {
            let keys: Vec<&str> = directions.keys().map(String::as_str).collect();
            let numeric = field.get("type") == Some(&"integer".into());
            assert_eq!(keys, if numeric { ["raise", "lower"] } else { ["enable", "disable"] }, "{path}");
            assert!(directions.values().all(|class| known.contains(&class.as_str().unwrap_or_default())), "{path}");
        }
        Some(other) => panic!("{path}: {other}"),
    });
}

/// The fields of a minimal document of each kind, with the defaults of its type.
fn minimal(kind: Kind) -> Map<String, Value> {
    let text = match kind {
        Kind::Endpoint => "endpoint: {name: x, port: 1}",
        Kind::Auth => {
            "auth: {name: x, chain: [{http: {url: 'http://a'}}, {jwt: {algorithm: RS256, keyFile: k}}, {clientCertificate: {}}, {anonymous: {}}]}"
        }
        Kind::Acl => "acl: {name: x, rules: [{permission: allow}]}",
        Kind::Bridge => "bridge: {name: x, address: ['mqtt://a'], in: [{filter: a}], out: [{filter: a}]}",
        Kind::Ban => "ban: {name: x, entries: [{clientId: a}], flapping: {}}",
        Kind::Reconcile => "reconcile: {}",
        Kind::Events => "events: {topics: ['#']}",
        Kind::Cluster => "cluster: {}",
        Kind::Defaults => "defaults: {endpoint: {}}",
    };
    let loaded = first(&[("x.yaml", text)]);
    let declared = &loaded.declared;
    match kind {
        Kind::Endpoint => declared.endpoints.values().map(|endpoint| fields_of(&**endpoint)).next(),
        Kind::Auth => declared.auths.values().map(|auth| fields_of(&**auth)).next(),
        Kind::Acl => declared.acls.values().map(|acl| fields_of(&**acl)).next(),
        Kind::Bridge => declared.bridges.values().map(|bridge| fields_of(&**bridge)).next(),
        Kind::Ban => declared.bans.values().map(|ban| fields_of(&**ban)).next(),
        Kind::Reconcile => Some(fields_of(&*declared.reconcile)),
        Kind::Events => declared.events.as_ref().map(|events| fields_of(&**events)),
        Kind::Cluster => declared.cluster.as_ref().map(|cluster| fields_of(&**cluster)),
        Kind::Defaults => Some(Map::new()),
    }
    .unwrap_or_else(|| panic!("{text}: {:?}", codes(&loaded)))
}

/// Compares the values that the types fill in with the schema's defaults.
fn compare(path: &str, part: &'static Value, body: &Map<String, Value>, wrong: &mut Vec<String>) {
    for (field, value) in body {
        let path = format!("{path}.{field}");
        let Some(rule) = field_schema(part, field) else {
            wrong.push(format!("{path}: not in the schema"));
            continue;
        };
        match value {
            Value::Object(inner) if rule.get("properties").is_some() => compare(&path, rule, inner, wrong),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                let rule = rule.get("items").map_or(&Value::Null, deref);
                for item in items.iter().filter_map(Value::as_object) {
                    compare(&path, rule, item, wrong);
                }
            }
            value => {
                let given = ["x", "mqtt://a:1883", "http://a", "RS256", "k", "a", "allow"];
                let lists = [serde_json::json!(["mqtt://a:1883"]), serde_json::json!(["#"])];
                let given = given.iter().any(|text| value == text) || lists.contains(value);
                if rule.get("default") != Some(value) && !(given || path == "endpoint.port") {
                    wrong
                        .push(format!("{path}: the schema's default is {:?}, the type's {value}", rule.get("default")));
                }
            }
        }
    }
    for (field, _) in part.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let rule = field_schema(part, field).unwrap_or(&Value::Null);
        let scalar = rule.get("default").is_some_and(|default| !default.is_object());
        if scalar && !body.contains_key(field) {
            wrong.push(format!("{path}.{field}: the type fills nothing in, the schema says {:?}", rule.get("default")));
        }
    }
}

#[test]
fn the_schemas_defaults_equal_the_types_defaults() {
    let mut wrong = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Defaults) {
        compare(kind.key(), kind_schema(kind), &minimal(kind), &mut wrong);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_types_have_the_schemas_fields_in_its_order() {
    let everything = include_str!("../../../../../tests/golden/validate/every-field/in/a.yaml");
    let loaded = first(&[("a.yaml", everything), ("r.yaml", "reconcile: {maxDisconnects: 1}")]);
    assert_eq!(codes(&loaded), [""; 0]);
    for document in canonical(&loaded.declared, BuiltInDefaults::WrittenOut) {
        let kind = document.identity.kind;
        let fields: Vec<&String> = document.body.keys().collect();
        let known: Vec<&String> = kind_schema(kind)["properties"].as_object().unwrap().keys().collect();
        assert_eq!(fields, known, "{kind}: the golden case every-field gives every field");
    }
}

#[test]
fn defaults_may_have_every_field_of_an_endpoint_but_three() {
    let keys = |part: &'static Value| -> Vec<&String> { part["properties"].as_object().unwrap().keys().collect() };
    let own = ["name", "port", "isDefault"];
    let wanted: Vec<&String> =
        keys(kind_schema(Kind::Endpoint)).into_iter().filter(|field| !own.contains(&field.as_str())).collect();
    assert_eq!(keys(field_schema(kind_schema(Kind::Defaults), "endpoint").unwrap()), wanted);
}

#[test]
fn examples_in_the_schema_are_valid() {
    let mut wrong = Vec::new();
    every_field(&mut |path, field| {
        let options = jsonschema::options();
        let mut own = field.clone();
        own["definitions"] = schema()["definitions"].clone();
        let validator = options.with_draft(jsonschema::Draft::Draft7).build(&own).unwrap();
        for example in field.get("examples").and_then(Value::as_array).into_iter().flatten() {
            if !validator.is_valid(example) {
                wrong.push(format!("{path}: {example}"));
            }
        }
        // A default is a valid value, too.
        if let Some(default) = field.get("default").filter(|default| !validator.is_valid(default)) {
            wrong.push(format!("{path}: default {default}"));
        }
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}
