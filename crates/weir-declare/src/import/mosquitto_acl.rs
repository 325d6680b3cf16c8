//! mosquitto's `acl_file`: `user NAME`, `topic [read|write|readwrite|deny] FILTER`, `pattern ... FILTER`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::ImportFiles;
use super::draft::{Draft, DraftDocument};
use super::mosquitto_conf::Setting;
use crate::config::{Kind, touching_placeholders};

/// Deny rules are evaluated first, as in mosquitto.
const DENY_PRIORITY: i64 = 1;

/// The clients that lines apply to.
enum AclSubject {
    /// Before the first `user`: clients without a username.
    Anonymous,
    User(String),
}

/// Imports the ACL file of a listener as the document `name`. `no_usernames`: the listener checks no usernames.
pub(super) fn import(
    path: &Path,
    files: &dyn ImportFiles,
    setting: &Setting,
    name: &str,
    no_usernames: bool,
    anonymous: bool,
    draft: &mut Draft,
) {
    let mut document = DraftDocument::new(Kind::Acl, name);
    let text = match files.read(path) {
        Ok(text) => text,
        Err(error) => {
            draft.omit(setting.line, "acl_file", format!("{}: {error}", path.display()));
            document.add_decision(format!("the rules of {}; without rules, every topic is refused", setting.value));
            document.set("rules", json!([]));
            return draft.add(document);
        }
    };
    import_rules(Some(path), &text, no_usernames, anonymous, document, draft);
}

/// Imports an ACL file without its `mosquitto.conf`, so without endpoints.
pub(super) fn import_acl_file(text: &str) -> Draft {
    let mut draft = Draft::default();
    import_rules(None, text, false, true, DraftDocument::new(Kind::Acl, "default"), &mut draft);
    draft
}

/// Whether `text` is an ACL file, not a `mosquitto.conf`, which has `topic` and `user` lines among others.
pub(super) fn is_acl_file(text: &str) -> bool {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut keys = lines().filter_map(|line| line.split_whitespace().next());
    keys.all(|key| matches!(key, "user" | "topic" | "pattern")) && lines().any(|line| !line.starts_with("user"))
}

/// `named`: the ACL file, if it is not the imported file itself.
fn import_rules(
    named: Option<&Path>,
    text: &str,
    no_usernames: bool,
    anonymous: bool,
    mut document: DraftDocument,
    draft: &mut Draft,
) {
    let mut rules = Vec::new();
    let mut subject = AclSubject::Anonymous;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let outcome = match (key, &subject) {
            ("user", _) => {
                subject = AclSubject::User(value.trim().to_owned());
                continue;
            }
            ("topic", AclSubject::User(user)) => rule(value, Some(user)),
            ("topic", AclSubject::Anonymous) if no_usernames => rule(value, None),
            ("topic", AclSubject::Anonymous) if !anonymous => {
                Err("it applies to anonymous clients, and the listener admits none")
            }
            ("topic", AclSubject::Anonymous) => Err("it applies to anonymous clients only; Weir has no such rule"),
            ("pattern", _) => rule(value, None),
            _ => Err("neither user, topic nor pattern"),
        };
        match outcome {
            Ok(rule) => rules.push(rule),
            Err(why) => {
                if value.trim_start().starts_with("deny") {
                    document.add_decision(format!("a deny rule is missing here: {line}"));
                }
                match named {
                    Some(path) => draft.omit(None, format!("{}:{}: {line}", path.display(), index + 1), why),
                    None => draft.omit(Some(index + 1), line, why),
                }
            }
        }
    }
    document.add_note("mosquitto accepts a subscription that is wider than the rules and filters its messages;");
    document.add_note("Weir refuses the subscription");
    document.set("rules", rules);
    draft.add(document);
}

/// The filter with Weir's placeholders. Two of them in one level need a character between them, or clients could choose
/// values that join to another client's.
pub(super) fn with_placeholders(filter: &str) -> Result<String, &'static str> {
    let filter = filter.replace("%c", "${clientid}").replace("%u", "${username}");
    match touching_placeholders(&filter) {
        None => Ok(filter),
        Some(_) => {
            Err("%c and %u have nothing between them: clients could choose values that join to another client's; \
             write them in levels of their own")
        }
    }
}

fn rule(value: &str, username: Option<&str>) -> Result<Value, &'static str> {
    let value = value.trim();
    let (access, filter) = match value.split_once(char::is_whitespace) {
        Some((access @ ("read" | "write" | "readwrite" | "deny"), filter)) => (access, filter.trim()),
        _ => ("readwrite", value),
    };
    if filter.is_empty() {
        return Err("it names no topic");
    }
    let filter = with_placeholders(filter)?;
    let mut rule = Map::new();
    rule.insert("permission".into(), if access == "deny" { "deny" } else { "allow" }.into());
    match access {
        "read" => drop(rule.insert("action".into(), "subscribe".into())),
        "write" => drop(rule.insert("action".into(), "publish".into())),
        _ => {}
    }
    if let Some(username) = username {
        rule.insert("username".into(), username.into());
    }
    rule.insert("topics".into(), json!([filter]));
    if access == "deny" {
        rule.insert("priority".into(), DENY_PRIORITY.into());
    }
    Ok(Value::Object(rule))
}
