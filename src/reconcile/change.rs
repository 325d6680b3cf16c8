//! What differs between two declarations of an endpoint, and what each difference does to whom.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::config::Endpoint;

/// What a change does, least first. The schema documents it per field (`x-change-class`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeClass {
    /// Nothing happens.
    Cosmetic,
    /// Applies at once, to open connections too.
    Live,
    /// Applies to connections accepted from now on.
    NewConnections,
    /// Open connections that the new declaration would not have admitted are closed gradually.
    Drain,
    /// The socket is bound anew.
    Rebind,
}

impl fmt::Display for ChangeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cosmetic => "cosmetic",
            Self::Live => "live",
            Self::NewConnections => "new-connections",
            Self::Drain => "drain",
            Self::Rebind => "rebind",
        })
    }
}

/// One field, or one thing that is referred to, that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// `maxConnectionSize`, `sslConfig.certFile`; of what is referred to: `acl default: rules`, `file tls/server.pem`.
    pub path: String,
    /// `None`: not there before. Where a file's content differs, both are short digests.
    pub from: Option<Value>,
    pub to: Option<Value>,
    pub class: ChangeClass,
}

/// The fields in which two declarations of one endpoint differ, in the schema's order.
pub fn endpoint_changes(from: &Endpoint, to: &Endpoint) -> Vec<Change> {
    let (from, to) = (fields(from), fields(to));
    let mut changes = Vec::new();
    differences("", &from, &to, &mut |path, from, to| {
        let class = class_of(path, from, to);
        changes.push(Change { path: path.to_owned(), from: from.cloned(), to: to.cloned(), class });
    });
    changes
}

/// The class of a change of the field at `path` from one value to the other (`None`: absent).
pub fn class_of(path: &str, from: Option<&Value>, to: Option<&Value>) -> ChangeClass {
    use ChangeClass::{Cosmetic, Drain, Live, NewConnections, Rebind};
    match path {
        "name" | "description" | "isDefault" | "prune" => Cosmetic,
        "port" | "host" | "restartedAt" | "serverOptions.reusePort" => Rebind,
        "enabled" => by_flag(to, Live, Drain),
        "enableAuth" => by_flag(to, Drain, NewConnections),
        "retainAvailable" => by_flag(to, Live, NewConnections),
        "maxConnectionSize" | "maxConnectionPerAddress" => by_size(from, to, Live, Drain),
        "messageMaxSize" | "maximumQos" => by_size(from, to, Live, NewConnections),
        "protocolVersions" => by_set(from, to, Live, Drain),
        "useWebsocket" | "mountpoint" | "auth" => Drain,
        "path" | "connectTimeoutMs" | "keepAliveMaxS" | "sessionExpiryMaxS" | "receiveMaximum"
        | "topicAliasMaximum" | "durability" => NewConnections,
        "sslConfig.certFile" | "sslConfig.keyFile" => NewConnections,
        "serverOptions.backlog" | "serverOptions.unixMode" => Live,
        _ => class_below(path),
    }
}

/// The class of whatever is below a field.
fn class_below(path: &str) -> ChangeClass {
    match path.split('.').next().unwrap_or(path) {
        "labels" => ChangeClass::Cosmetic,
        "sslConfig" if path.starts_with("sslConfig.sni") => ChangeClass::NewConnections,
        "sslConfig" | "websocket" | "proxyProtocol" => ChangeClass::Drain,
        "serverOptions" | "childOptions" => ChangeClass::NewConnections,
        _ => ChangeClass::Live,
    }
}

fn by_flag(to: Option<&Value>, on: ChangeClass, off: ChangeClass) -> ChangeClass {
    if to.and_then(Value::as_bool) == Some(true) { on } else { off }
}

/// An absent limit is the highest.
fn by_size(from: Option<&Value>, to: Option<&Value>, raised: ChangeClass, lowered: ChangeClass) -> ChangeClass {
    let size = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(u64::MAX);
    if size(to) >= size(from) { raised } else { lowered }
}

fn by_set(from: Option<&Value>, to: Option<&Value>, grown: ChangeClass, shrunk: ChangeClass) -> ChangeClass {
    let elements = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let to = elements(to);
    if elements(from).iter().all(|element| to.contains(element)) { grown } else { shrunk }
}

fn fields(endpoint: &Endpoint) -> Value {
    // Plain data with text keys: serialisation has nothing to refuse. Were it to, both sides would be equal, and a
    // debug build would tell.
    serde_json::to_value(endpoint).unwrap_or_else(|e| {
        debug_assert!(false, "an endpoint does not serialise: {e}");
        Value::Null
    })
}

/// Calls `each` with every path at which the two differ. Objects are compared field by field, except that one that comes
/// or goes as a whole is one difference; everything else is compared whole.
pub(super) fn differences(
    path: &str,
    from: &Value,
    to: &Value,
    each: &mut impl FnMut(&str, Option<&Value>, Option<&Value>),
) {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        if from != to {
            each(path, present(from), present(to));
        }
        return;
    };
    let mut seen = BTreeSet::new();
    for key in from.keys().chain(to.keys()) {
        if !seen.insert(key) {
            continue;
        }
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let (from, to) = (from.get(key).unwrap_or(&Value::Null), to.get(key).unwrap_or(&Value::Null));
        differences(&below, from, to, each);
    }
}

fn present(value: &Value) -> Option<&Value> {
    (!value.is_null()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_class_depends_on_the_direction() {
        use ChangeClass::{Drain, Live, NewConnections, Rebind};
        let cases = [
            ("maxConnectionSize", json!(100), json!(200), Live),
            ("maxConnectionSize", json!(200), json!(100), Drain),
            ("maxConnectionSize", json!(200), Value::Null, Live),
            ("maxConnectionSize", Value::Null, json!(200), Drain),
            ("messageMaxSize", json!(2048), json!(1024), NewConnections),
            ("enableAuth", json!(false), json!(true), Drain),
            ("enableAuth", json!(true), json!(false), NewConnections),
            ("protocolVersions", json!(["5"]), json!(["5", "3.1.1"]), Live),
            ("protocolVersions", json!(["5", "3.1.1"]), json!(["5"]), Drain),
            ("sslConfig.certFile", json!("a"), json!("b"), NewConnections),
            ("sslConfig", Value::Null, json!({}), Drain),
            ("port", json!(1), json!(2), Rebind),
        ];
        for (path, from, to, class) in cases {
            assert_eq!(class_of(path, present(&from), present(&to)), class, "{path} {from} {to}");
        }
    }

    #[test]
    fn differences_name_the_deepest_field_that_both_have() {
        let from = json!({"a": {"b": 1, "c": [1]}, "d": null, "e": 1});
        let to = json!({"a": {"b": 2, "c": [1, 2]}, "d": {"x": 1}, "e": 1});
        let mut found = vec![];
        differences("", &from, &to, &mut |path, _, _| found.push(path.to_owned()));
        assert_eq!(found, ["a.b", "a.c", "d"]);
    }
}
