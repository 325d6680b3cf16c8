//! `weir schema`

use std::collections::BTreeSet;

use serde_json::Value;

use super::Exit;
use super::print::print;
use weir_declare::config::schema;

/// Print the JSON Schema of the documents, or a reference of their fields made from it.
///
/// For editors: save it, and begin each document with the line
/// `# yaml-language-server: $schema=endpoint.schema.json`. Exits with 0.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir schema > endpoint.schema.json\n  weir schema --format markdown")]
pub(super) struct Args {
    /// `markdown`: a table of fields for each kind of document, to read
    #[arg(long, value_enum, default_value_t = SchemaFormat::Json)]
    format: SchemaFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SchemaFormat {
    Json,
    Markdown,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    match args.format {
        SchemaFormat::Json => print(weir_declare::config::SCHEMA)?,
        SchemaFormat::Markdown => print(&markdown())?,
    }
    Ok(Exit::Success)
}

const HEAD: &str = "\
# Every field of every document

Made by `weir schema --format markdown`; `weir schema` prints the schema itself, for editors.

*A change* is the effect of a change of the field on connected clients: `cosmetic` has none; `live` applies at once and closes no
connection; `new-connections` applies to connections from then on; `drain` closes the connections that the new declaration would
not admit: at once where the client lost its right to connect (`auth`, `enableAuth`, bans, files of credentials, `caFile`,
`crlFile`, `clientAuth`), otherwise at the rate of the endpoint's `drain`; `rebind` binds a new socket and closes all connections
of the former one at that rate. `weir plan` shows the effect of your change.
";

fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for (kind, body) in fields(schema()).filter(|(kind, _)| *kind != "apiVersion") {
        let body = deref(body);
        text.push_str(&format!("\n## {kind}\n\n{}\n", description(body)));
        if let Some(example) = body["examples"].get(0) {
            text.push_str(&format!("\nExample: `{example}`\n"));
        }
        text.push_str("\n| field | type and range | default | a change | meaning |\n| --- | --- | --- | --- | --- |\n");
        rows(&mut text, "", body, 0);
    }
    text
}

/// Objects within objects beyond this are no part of any document.
pub(super) const DEPTH_MAX: usize = 8;

fn rows(text: &mut String, prefix: &str, parent: &Value, depth: usize) {
    for (name, field) in fields(parent) {
        let path = format!("{prefix}{name}");
        let default = match default_of(field) {
            Some(default) => format!("`{default}`"),
            None if required(parent, name) => "(required)".to_owned(),
            None => String::new(),
        };
        let (class, meaning) = (class(field), cell(description(field)));
        text.push_str(&format!("| `{path}` | {} | {} | {class} | {meaning} |\n", cell(&range(field)), cell(&default)));
        if depth < DEPTH_MAX {
            rows(text, &format!("{path}."), deref(field), depth + 1);
            rows(text, &format!("{path}[]."), deref(&deref(field)["items"]), depth + 1);
        }
    }
}

/// The default of a field, as JSON.
pub(super) fn default_of(field: &Value) -> Option<&Value> {
    field.get("default").or_else(|| deref(field).get("default"))
}

/// Whether `parent` must have the field `name`.
pub(super) fn required(parent: &Value, name: &str) -> bool {
    parent["required"].as_array().into_iter().flatten().any(|each| each == name)
}

/// The effect of a change: `live`; `raise: live, lower: drain`.
pub(super) fn class(field: &Value) -> String {
    match &field["x-change-class"] {
        Value::Object(ways) => {
            ways.iter().map(|(way, class)| format!("{way}: {}", bare(class))).collect::<Vec<_>>().join(", ")
        }
        class => class.as_str().unwrap_or_default().to_owned(),
    }
}

/// The fields of an object, in the schema's order.
pub(super) fn fields(parent: &Value) -> impl Iterator<Item = (&str, &Value)> {
    parent["properties"].as_object().into_iter().flatten().map(|(name, field)| (name.as_str(), field))
}

/// The target of a reference, alone or wrapped in `allOf` beside a description.
pub(super) fn deref(part: &Value) -> &Value {
    let reference = part.get("$ref").or_else(|| part["allOf"].get(0)?.get("$ref"));
    let pointer = reference.and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
    pointer.and_then(|pointer| schema().pointer(pointer)).unwrap_or(part)
}

/// The description of a field, its own or that of its type.
pub(super) fn description(field: &Value) -> &str {
    field["description"].as_str().or_else(|| deref(field)["description"].as_str()).unwrap_or_default()
}

/// Type and bounds: `integer, 1 to 65535`.
pub(super) fn range(field: &Value) -> String {
    let own = deref(field);
    let of = |key: &str| field.get(key).or_else(|| own.get(key)).filter(|value| !value.is_null());
    if let Some(values) = of("enum").and_then(Value::as_array) {
        let mut words: Vec<String> = values.iter().map(|value| format!("`{}`", bare(value))).collect();
        // A value that may be a number or a text is listed once.
        let mut seen = BTreeSet::new();
        words.retain(|word| seen.insert(word.clone()));
        return words.join(", ");
    }
    let mut range = match of("type") {
        Some(Value::String(kind)) if kind == "array" => match range(&own["items"]).as_str() {
            "" => "list".to_owned(),
            "object" => "list of objects".to_owned(),
            item => format!("list of: {item}"),
        },
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(kinds)) => kinds.iter().map(bare).collect::<Vec<_>>().join(" or "),
        _ => String::new(),
    };
    if let Some(words) = of("patternErrorMessage").and_then(Value::as_str) {
        range = words.to_owned();
    }
    let bounds = match (of("minimum"), of("maximum")) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", at least {least}"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    };
    range.push_str(&bounds);
    range
}

fn bare(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// As a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('<', "&lt;")
}
