//! A YAML map that is taken apart field by field, so that nothing unknown is passed over in silence.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What is left of a map.
pub struct Fields {
    what: String,
    map: Map<String, Value>,
}

impl Fields {
    /// `what` names the map in errors.
    pub fn new(what: &str, value: Value) -> Result<Fields, String> {
        match value {
            Value::Object(map) => Ok(Fields { what: what.to_owned(), map }),
            other => Err(format!("{what}: a map is wanted, not {other}")),
        }
    }

    /// Takes a field that must be there.
    pub fn required<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, String> {
        self.optional(key)?.ok_or_else(|| format!("{}: {key} is missing", self.what))
    }

    /// Takes a field if it is there.
    pub fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, String> {
        match self.map.shift_remove(key) {
            None => Ok(None),
            Some(value) => {
                serde_json::from_value(value).map(Some).map_err(|error| format!("{}.{key}: {error}", self.what))
            }
        }
    }

    /// Takes the only field that is left, with its name.
    pub fn last(mut self) -> Result<(String, Value), String> {
        let key = self.map.keys().next().cloned().ok_or_else(|| format!("{}: nothing in it", self.what))?;
        let value = self.map.shift_remove(&key).unwrap_or(Value::Null);
        self.finish()?;
        Ok((key, value))
    }

    /// Everything that is left.
    pub fn rest(self) -> Map<String, Value> {
        self.map
    }

    /// Every field must have been taken.
    pub fn finish(self) -> Result<(), String> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("{}: unknown field {key:?}", self.what)),
        }
    }
}
