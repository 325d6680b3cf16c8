//! mosquitto's `acl_file`: `user NAME`, `topic [read|write|readwrite|deny] FILTER`, `pattern ... FILTER`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::draft::{Document, Draft};
use super::mosquitto::Setting;
use weir_declare::config::Kind;

/// Denials decide before everything else, as in mosquitto.
const DENY_PRIORITY: i64 = 1;

/// Whom lines are about.
enum Who {
    /// Before the first `user`: clients without a username.
    Anonymous,
    User(String),
}

/// Carries an ACL file over as the document `name`. `nobody_named`: no client has a username that was checked.
pub(super) fn import(
    path: &Path,
    setting: &Setting,
    name: &str,
    nobody_named: bool,
    anonymous: bool,
    draft: &mut Draft,
) {
    let mut document = Document::new(Kind::Acl, name);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            draft.leave(setting.line, "acl_file", format!("{}: {error}", path.display()));
            document.decide(format!("the rules of {}; until they are here, every topic is refused", setting.value));
            document.set("rules", json!([]));
            return draft.add(document);
        }
    };
    carry_over(Some(path), &text, nobody_named, anonymous, document, draft);
}

/// An ACL file by itself: whom its endpoints admit is not known, so nothing is said of those.
pub(super) fn import_alone(text: &str) -> Draft {
    let mut draft = Draft::default();
    carry_over(None, text, false, true, Document::new(Kind::Acl, "default"), &mut draft);
    draft
}

/// Whether it is an ACL file and no mosquitto.conf, which has `topic` lines for bridges, and a `user`.
pub(super) fn is_alone(text: &str) -> bool {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut keys = lines().filter_map(|line| line.split_whitespace().next());
    keys.all(|key| matches!(key, "user" | "topic" | "pattern")) && lines().any(|line| !line.starts_with("user"))
}

/// `named`: the file, where it is not the one that is imported.
fn carry_over(
    named: Option<&Path>,
    text: &str,
    nobody_named: bool,
    anonymous: bool,
    mut document: Document,
    draft: &mut Draft,
) {
    let mut rules = Vec::new();
    let mut who = Who::Anonymous;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let outcome = match (key, &who) {
            ("user", _) => {
                who = Who::User(value.trim().to_owned());
                continue;
            }
            ("topic", Who::User(user)) => rule(value, Some(user)),
            ("topic", Who::Anonymous) if nobody_named => rule(value, None),
            ("topic", Who::Anonymous) if !anonymous => Err("it is about anonymous clients, and none are admitted"),
            ("topic", Who::Anonymous) => Err("it is about anonymous clients only; no rule can say that"),
            ("pattern", _) => rule(value, None),
            _ => Err("neither user, topic nor pattern"),
        };
        match outcome {
            Ok(rule) => rules.push(rule),
            Err(why) => {
                if value.trim_start().starts_with("deny") {
                    document.decide(format!("a rule that denies is missing here: {line}"));
                }
                match named {
                    Some(path) => draft.leave(None, format!("{}:{}: {line}", path.display(), index + 1), why),
                    None => draft.leave(Some(index + 1), line, why),
                }
            }
        }
    }
    document.note("a subscription that is wider than the rules: mosquitto admits it and holds back what is not");
    document.note("permitted, Weir refuses it");
    document.set("rules", rules);
    draft.add(document);
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
    let filter = filter.replace("%c", "${clientid}").replace("%u", "${username}");
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
