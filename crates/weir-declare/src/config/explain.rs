//! Explains violations of the schema: what is wrong, and what to write instead.

use serde_json::Value;

use super::formats::format_problem;
use super::json_schema::Violation;
use super::path::InstancePath;
use super::schema::field_schema;
use super::suggest::did_you_mean;

/// One violation of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) path: InstancePath,
    /// Whether the position is that of the key, not of the value.
    pub(super) at_key: bool,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Finding {
    /// A finding that further findings are not shown.
    pub(super) fn too_many(shown: usize) -> Self {
        let message = format!("more than {shown} errors in one document; weir shows no more");
        Self { path: InstancePath::default(), at_key: false, code: "too-many-errors", message, help: None }
    }

    /// Whether both findings say the same, so that one of them is enough.
    pub(super) fn is_duplicate_of(&self, other: &Self) -> bool {
        self.path == other.path
            && (self.message == other.message || (is_about_text(self.code) && is_about_text(other.code)))
    }
}

fn is_about_text(code: &str) -> bool {
    matches!(code, "format" | "pattern" | "empty" | "too-long")
}

/// The findings of one violation. One about several fields gives a finding each, `max + 1` at most.
pub(super) fn explain(violation: &Violation<'_>, max: usize) -> Vec<Finding> {
    let Violation { path, value, keyword, limit, keys, .. } = violation;
    let rule = SchemaPart(violation.rule);
    if *keyword == "additionalProperties" {
        return keys.iter().take(max + 1).map(|field| unknown_field(path, field, &rule)).collect();
    }
    // The parser counts the top-level keys of a document itself.
    if path.0.is_empty() && matches!(*keyword, "minProperties" | "maxProperties") {
        return Vec::new();
    }
    let key = keys.first().copied().unwrap_or_default();
    let (code, message, help) = match *keyword {
        _ if rule.text("errorMessage").is_some() => {
            ("not-allowed", rule.text("errorMessage").unwrap_or_default().to_owned(), rule.first_sentence())
        }
        "required" | "dependencies" => {
            let field = SchemaPart(violation.fields).property(key);
            let help = field.as_ref().and_then(SchemaPart::first_sentence);
            let allowed = field.and_then(|field| field.allowed());
            let help = help.map(|sentence| format!("{key}: {sentence}{}", allowed.unwrap_or_default()));
            ("missing-field", format!("`{key}` is missing"), help)
        }
        "type" => type_mismatch(path, value, &rule),
        "enum" => not_in_enum(value, limit),
        "const" => (
            "not-allowed",
            format!("{} is not a known value", display_value(value)),
            Some(format!("write {}", display_value(limit))),
        ),
        "maximum" => ("out-of-range", format!("{} is more than {limit}", display_value(value)), rule.range()),
        "minimum" => ("out-of-range", format!("{} is less than {limit}", display_value(value)), rule.range()),
        "format" => {
            let format = limit.as_str().unwrap_or_default();
            invalid_text(value, format_problem(format, value.as_str().unwrap_or_default()), &rule)
        }
        "pattern" => {
            let (_, message, help) = invalid_text(value, None, &rule);
            ("pattern", message, help)
        }
        "propertyNames" => {
            let message = format!("{} is not a valid key here", display_value(&Value::from(key)));
            return vec![Finding { path: path.key(key), at_key: true, code: "bad-key", message, help: None }];
        }
        _ => explain_keyword(keyword, limit, &rule),
    };
    let at_key = matches!(*keyword, "required" | "dependencies");
    vec![Finding { path: path.clone(), at_key, code, message, help }]
}

fn explain_keyword(keyword: &str, limit: &Value, rule: &SchemaPart) -> (&'static str, String, Option<String>) {
    match keyword {
        "minItems" => ("too-few", format!("at least {limit} must be given"), rule.if_absent()),
        "maxItems" => ("too-many", format!("at most {limit} are allowed"), None),
        "uniqueItems" => ("duplicate-item", "an item is given twice".into(), None),
        "minLength" => ("empty", "must not be empty".into(), rule.first_sentence()),
        "maxLength" => ("too-long", format!("has more than {limit} characters"), None),
        "minProperties" => ("empty", "is empty".into(), rule.fields().map(|f| format!("give one of {f}"))),
        "maxProperties" => (
            "too-many",
            format!("has more than {limit} field{}", if limit == 1 { "" } else { "s" }),
            rule.fields().map(|fields| format!("give one of {fields}; begin the next item with `- `")),
        ),
        // `not` and `anyOf`, which the schema explains by `errorMessage`.
        keyword => ("not-allowed", format!("the schema's `{keyword}` is violated"), rule.first_sentence()),
    }
}

/// The part of the schema that contains the violated keyword.
struct SchemaPart(&'static Value);

impl SchemaPart {
    fn get(&self, key: &str) -> Option<&'static Value> {
        self.0.get(key)
    }

    fn text(&self, key: &str) -> Option<&'static str> {
        self.get(key)?.as_str()
    }

    fn property(&self, name: &str) -> Option<SchemaPart> {
        field_schema(self.0, name).map(SchemaPart)
    }

    fn first_sentence(&self) -> Option<String> {
        let text = self.text("description")?;
        Some(text.split_inclusive(". ").next().unwrap_or(text).trim().trim_end_matches('.').to_owned())
    }

    /// `; allowed: ...` for enumerations.
    fn allowed(&self) -> Option<String> {
        let values = self.get("enum")?.as_array()?.iter().filter_map(Value::as_str);
        Some(format!("; allowed: {}", values.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")))
    }

    /// The meaning of an absent field.
    fn if_absent(&self) -> Option<String> {
        let (_, absent) = self.text("description")?.split_once("Absent: ")?;
        Some(format!("or leave it out: {}", absent.trim_end_matches('.')))
    }

    /// `allowed: 1 to 65535 connections`.
    fn range(&self) -> Option<String> {
        let unit = self.text("x-unit").map(|unit| format!(" {unit}")).unwrap_or_default();
        match (self.get("minimum"), self.get("maximum")) {
            (Some(min), Some(max)) => Some(format!("allowed: {min} to {max}{unit}")),
            (Some(min), None) => Some(format!("allowed: {min}{unit} or more")),
            (None, Some(max)) => Some(format!("allowed: up to {max}{unit}")),
            (None, None) => None,
        }
    }

    fn field_names(&self) -> impl Iterator<Item = &'static str> {
        self.get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|fields| fields.keys().map(String::as_str))
    }

    fn fields(&self) -> Option<String> {
        let names: Vec<_> = self.field_names().map(|name| format!("`{name}`")).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

/// Names of other brokers for weir's fields.
const ALIASES: &[(&str, &str)] = &[
    ("acl_file", "acl"),
    ("address", "host"),
    ("allowAnonymous", "enableAuth"),
    ("bind", "host"),
    ("bindAddress", "host"),
    ("listener", "port"),
    ("maxConnections", "maxConnectionSize"),
    ("maxKeepalive", "keepAliveMaxS"),
    ("maxMessageSize", "messageMaxSize"),
    ("maxPacketSize", "messageMaxSize"),
    ("maxQos", "maximumQos"),
    ("mount_point", "mountpoint"),
    ("protocol", "useWebsocket"),
    ("ssl", "sslConfig"),
    ("tls", "sslConfig"),
    ("topic", "topics"),
    ("websocketPath", "path"),
    ("ws", "useWebsocket"),
];

/// Names of other brokers for weir's values.
const VALUE_ALIASES: &[(&str, &str)] =
    &[("pubsub", "all"), ("both", "all"), ("readwrite", "all"), ("read", "subscribe"), ("write", "publish")];

fn unknown_field(parent: &InstancePath, field: &str, rule: &SchemaPart) -> Finding {
    let alias = ALIASES.iter().find(|(alias, ours)| *alias == field && rule.property(ours).is_some());
    let near = alias.map(|(_, ours)| *ours).or_else(|| did_you_mean(field, rule.field_names()));
    let inner =
        rule.field_names().find(|name| rule.property(name).is_some_and(|inner| inner.property(field).is_some()));
    let version = env!("CARGO_PKG_VERSION");
    if parent.to_string() == "defaults.endpoint" && matches!(field, "name" | "port" | "isDefault") {
        let message = format!("`{field}` cannot be a default");
        let help = Some("set it in each endpoint".to_owned());
        return Finding { path: parent.key(field), at_key: true, code: "unknown-field", message, help };
    }
    let help = if let Some(near) = near {
        format!("did you mean `{near}`?")
    } else if let Some(inner) = inner {
        format!("it belongs in `{inner}`")
    } else if rule.field_names().count() > 12 {
        format!("weir {version} does not know it; `weir schema` lists all fields")
    } else {
        let fields = rule.fields().unwrap_or_else(|| "none".to_owned());
        format!("weir {version} knows here: {fields}")
    };
    let message = format!("unknown field `{}`", field.escape_debug());
    Finding { path: parent.key(field), at_key: true, code: "unknown-field", message, help: Some(help) }
}

fn type_mismatch(path: &InstancePath, value: &Value, rule: &SchemaPart) -> (&'static str, String, Option<String>) {
    let code = "wrong-type";
    let wanted = rule.get("type");
    let name = path.last_key().unwrap_or_default();
    if value.is_null() {
        let help = match wanted.and_then(Value::as_str) {
            Some("object") => format!("write `{name}: {{}}`, or indent its fields below it"),
            Some("array") => format!("write `{name}: []`, or begin its items with `- `"),
            _ => "give it a value, or remove the line".into(),
        };
        return (code, format!("`{name}` has no value"), Some(help));
    }
    let wanted_in_words = match wanted {
        Some(Value::String(wanted)) => type_name(wanted).to_owned(),
        Some(Value::Array(several)) => {
            let several: Vec<_> = several.iter().filter_map(Value::as_str).map(type_name).collect();
            several.join(" or ")
        }
        _ => "something else".into(),
    };
    if rule.get("x-secret").is_some() {
        return (code, format!("must be {wanted_in_words}"), rule.text("patternErrorMessage").map(str::to_owned));
    }
    let message = format!("must be {wanted_in_words}, not {}", describe_value(value));
    let help = wanted.and_then(Value::as_str).and_then(|wanted| type_help(wanted, value, rule));
    (code, message, help.or_else(|| rule.range()))
}

fn type_help(wanted: &str, value: &Value, rule: &SchemaPart) -> Option<String> {
    match (wanted, value) {
        ("integer", Value::String(text)) => {
            if text.parse::<i64>().is_ok() {
                return Some("remove the quotes".into());
            }
            let number = parse_with_suffix(text, rule.text("x-unit")?)?;
            Some(format!("in {}: {number}", rule.text("x-unit")?))
        }
        ("string", Value::Number(_) | Value::Bool(_)) => Some(format!("put it in quotes: \"{value}\"")),
        ("boolean", Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" | "1" => Some("write true".into()),
            "no" | "off" | "false" | "0" => Some("write false".into()),
            _ => Some("write true or false".into()),
        },
        ("array", _) => Some("put it in brackets: [...], or begin each item with `- `".into()),
        ("object", Value::String(text)) if text.contains(':') => Some("put a space after the colon".into()),
        ("object", Value::Array(_)) => Some("remove the `- ` or the brackets".into()),
        _ => None,
    }
}

/// Parses a number with a suffix: `4MiB` in bytes, `10s` in seconds or milliseconds, whichever `unit` is.
fn parse_with_suffix(text: &str, unit: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, suffix) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let suffix = suffix.trim().to_ascii_lowercase();
    let factor = match (unit.split(' ').next()?, suffix.as_str()) {
        ("bytes", "b") | ("seconds", "s") | ("milliseconds", "ms") => 1,
        ("bytes", "k" | "kb" | "kib") => 1 << 10,
        ("bytes", "m" | "mb" | "mib") => 1 << 20,
        ("bytes", "g" | "gb" | "gib") => 1 << 30,
        ("milliseconds", "s") => 1000,
        ("seconds", "m" | "min") => 60,
        ("milliseconds", "m" | "min") => 60_000,
        ("seconds", "h") => 3600,
        ("seconds", "d") => 86_400,
        _ => return None,
    };
    number.checked_mul(factor)
}

fn type_name(json_type: &str) -> &str {
    match json_type {
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "text",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

fn describe_value(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(_) => format!("{value}"),
        Value::Number(_) => format!("the number {value}"),
        Value::String(_) => format!("the text {}", display_value(value)),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a mapping".into(),
    }
}

/// A value for a message: on one line, shortened.
fn display_value(value: &Value) -> String {
    const MAX_CHARS: usize = 60;
    let text = value.to_string();
    if text.chars().count() <= MAX_CHARS {
        return text;
    }
    let cut: String = text.chars().take(MAX_CHARS).collect();
    format!("{cut}…")
}

fn not_in_enum(value: &Value, options: &Value) -> (&'static str, String, Option<String>) {
    let mut names: Vec<String> = Vec::new();
    for option in options.as_array().into_iter().flatten() {
        // The schema lists versions as text, and as the numbers that YAML reads.
        let name = option.as_str().map_or_else(|| option.to_string(), str::to_owned);
        if !names.contains(&name) && name != "5.0" {
            names.push(name);
        }
    }
    let names_as_str = || names.iter().map(String::as_str);
    let alias = VALUE_ALIASES.iter().find(|(alias, ours)| value == alias && names_as_str().any(|name| name == *ours));
    let near = alias.map(|(_, ours)| *ours).or_else(|| did_you_mean(value.as_str()?, names_as_str()));
    let allowed = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let help =
        near.map_or_else(|| format!("allowed: {allowed}"), |near| format!("did you mean `{near}`? allowed: {allowed}"));
    ("not-allowed", format!("{} is not allowed", display_value(value)), Some(help))
}

fn invalid_text(value: &Value, problem: Option<String>, rule: &SchemaPart) -> (&'static str, String, Option<String>) {
    let wanted = rule.text("patternErrorMessage");
    let secret = rule.get("x-secret").is_some();
    let message = match problem {
        Some(problem) => problem,
        None if secret => "a secret must not stand in a declaration".into(),
        None => format!("{} is not allowed", display_value(value)),
    };
    let hint = match value.as_str().unwrap_or_default() {
        "localhost" => Some("write 127.0.0.1".to_owned()),
        "*" => Some("write 0.0.0.0 for all of IPv4, :: for all addresses".to_owned()),
        _ => wanted.map(|wanted| format!("allowed: {wanted}")),
    };
    ("format", message, hint)
}
