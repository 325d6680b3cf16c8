//! Conformance scripts: YAML to steps, and the steps played against a broker behind a [`Transport`].
//!
//! `tests/conformance/README.md` describes the format.

mod bytes;
mod expect;
mod fields;
mod packets;
mod player;
mod step;
mod transport;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::wire::Version;
use fields::Fields;
pub use player::play;
pub use step::Step;
pub use transport::{Names, Patience, Transport, TransportEvent};

/// One script: a document of a file under `tests/conformance`.
#[derive(Debug, Clone)]
pub struct Script {
    /// The file's name without its extension.
    pub file: String,
    pub title: String,
    /// Statement numbers by version, as in `3.1.1: [3.1.2-24]`.
    pub clauses: BTreeMap<Version, Vec<String>>,
    /// The versions it is played in.
    pub versions: Vec<Version>,
    /// Which of the runner's endpoints its clients connect to.
    pub endpoint: String,
    /// Needs injected time or the like: not played over TCP; why.
    pub memory_only: Option<String>,
    /// Needs a socket: not played in memory; why.
    pub tcp_only: Option<String>,
    /// Sees all topics: gets a broker of its own over TCP.
    pub exclusive: bool,
    /// Each case plays the steps once, with its values for the `${names}` in them.
    pub cases: Vec<Map<String, Value>>,
    steps: Vec<Value>,
}

impl Script {
    /// The steps of one case, its variables filled in.
    pub fn steps(&self, case: &Map<String, Value>) -> Result<Vec<Step>, String> {
        self.steps.iter().map(|step| Step::parse(substitute(step, case))).collect()
    }

    /// What a report calls a case.
    pub fn case_name(&self, case: &Map<String, Value>) -> String {
        match case.get("case").and_then(Value::as_str) {
            Some(name) => format!("{}: {} [{name}]", self.file, self.title),
            None => format!("{}: {}", self.file, self.title),
        }
    }
}

/// Reads every script of a directory, in order of file names.
pub fn load_directory(directory: &Path) -> Result<Vec<Script>, String> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .map_err(|error| format!("{}: {error}", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()).map_err(|error| error.to_string()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut scripts = Vec::new();
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_script =
            path.extension().is_some_and(|extension| extension == "yaml") && !name.starts_with("statements-");
        if is_script {
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            scripts.extend(load_text(&name, &text).map_err(|error| format!("{}: {error}", path.display()))?);
        }
    }
    Ok(scripts)
}

fn load_text(file: &str, text: &str) -> Result<Vec<Script>, String> {
    let mut scripts = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let value: Value = serde::Deserialize::deserialize(document).map_err(|error| error.to_string())?;
        scripts.push(parse_script(file, value).map_err(|error| format!("document {}: {error}", index + 1))?);
    }
    Ok(scripts)
}

fn parse_script(file: &str, value: Value) -> Result<Script, String> {
    let mut fields = Fields::new("script", value)?;
    let named: BTreeMap<String, Vec<String>> = fields.required("clauses")?;
    let mut clauses = BTreeMap::new();
    for (name, ids) in named {
        clauses.insert(version(&name)?, ids);
    }
    let versions = match fields.optional::<Vec<String>>("versions")? {
        Some(names) => names.iter().map(|name| version(name)).collect::<Result<_, _>>()?,
        None => clauses.keys().copied().collect(),
    };
    let script = Script {
        file: file.to_owned(),
        title: fields.required("title")?,
        clauses,
        versions,
        endpoint: fields.optional("endpoint")?.unwrap_or_else(|| "default".to_owned()),
        memory_only: fields.optional("memory_only")?,
        tcp_only: fields.optional("tcp_only")?,
        exclusive: fields.optional("exclusive")?.unwrap_or(false),
        cases: fields.optional("cases")?.unwrap_or_else(|| vec![Map::new()]),
        steps: fields.required("steps")?,
    };
    fields.finish()?;
    for case in &script.cases {
        script.steps(case)?;
    }
    Ok(script)
}

fn version(name: &str) -> Result<Version, String> {
    Version::from_name(name).ok_or_else(|| format!("version {name:?}: \"3.1\", \"3.1.1\" or \"5\""))
}

/// Puts a case's values in place of `${name}`: the value itself where a string is nothing else, its text within one.
fn substitute(value: &Value, case: &Map<String, Value>) -> Value {
    match value {
        Value::String(text) => {
            if let Some(whole) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))
                && let Some(value) = case.get(whole)
            {
                return value.clone();
            }
            let mut text = text.clone();
            for (name, value) in case {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                text = text.replace(&format!("${{{name}}}"), &value);
            }
            Value::String(text)
        }
        Value::Array(values) => Value::Array(values.iter().map(|value| substitute(value, case)).collect()),
        Value::Object(map) => {
            let key = |key: &String| substitute(&Value::String(key.clone()), case).as_str().unwrap_or(key).to_owned();
            Value::Object(map.iter().map(|(name, value)| (key(name), substitute(value, case))).collect())
        }
        other => other.clone(),
    }
}
