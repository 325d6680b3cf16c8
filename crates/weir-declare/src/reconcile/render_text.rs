//! What the renderings of a plan have in common.

use std::fmt::Write;

use serde_json::Value;

use super::action::{ActionKind, Disconnects, EndpointAction};
use super::bridges::BridgeAction;
use super::causes::ChangeCauses;
use super::events::EventsAction;
use super::plan::Plan;
use crate::config::{FieldChange, Name};

/// Characters of a value in text and Markdown.
const VALUE_CHARS_MAX: usize = 60;
/// Names of endpoints that are listed; the others are counted.
const NAMES_MAX: usize = 40;
/// Characters of a line of names.
const LINE_CHARS: usize = 90;

/// `2 to add, 1 to change in place, 1 to rebind (37 clients will be disconnected), 1 to remove, 1 waiting, 1 lock-out`.
pub fn summary(plan: &Plan) -> String {
    const KINDS: [(ActionKind, &str); 6] = [
        (ActionKind::Add, "to add"),
        (ActionKind::Update, "to change in place"),
        (ActionKind::Rebind, "to rebind"),
        (ActionKind::Drain, "to drain"),
        (ActionKind::Remove, "to remove"),
        (ActionKind::Conflicted, "in conflict"),
    ];
    let mut parts = Vec::new();
    for (kind, words) in KINDS {
        let of_kind: Vec<&EndpointAction> =
            plan.actions.iter().filter(|a| a.kind == kind && a.waits.is_none()).collect();
        if !of_kind.is_empty() {
            let clients = of_kind.iter().fold(Disconnects::None, |all, action| all.sum(action.disconnects));
            let counted = Some(clients).filter(|clients| *clients != Disconnects::Uncounted);
            let clients = counted.and_then(disconnected).map_or_else(String::new, |text| format!(" ({text})"));
            parts.push(format!("{} {words}{clients}", of_kind.len()));
        }
    }
    let waiting = plan.actions.iter().filter(|action| action.waits.is_some()).count();
    if waiting > 0 {
        parts.push(format!("{waiting} waiting"));
    }
    match plan.lock_outs().count() {
        0 => {}
        1 => parts.push("1 lock-out".to_owned()),
        count => parts.push(format!("{count} lock-outs")),
    }
    for (kind, words) in
        [(ActionKind::Add, "to add"), (ActionKind::Update, "to change"), (ActionKind::Remove, "to remove")]
    {
        match plan.due_bridges().filter(|action| action.kind == kind).count() {
            0 => {}
            1 => parts.push(format!("1 bridge {words}")),
            count => parts.push(format!("{count} bridges {words}")),
        }
    }
    let events = plan.events.as_ref().map(|action| ("events", action.kind));
    let cluster = plan.cluster.as_ref().map(|action| ("cluster", action.kind));
    for (document, kind) in events.into_iter().chain(cluster) {
        let verb = match kind {
            ActionKind::Add => "add",
            ActionKind::Remove => "remove",
            _ => "change",
        };
        parts.push(format!("{document} to {verb}"));
    }
    if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") }
}

/// `37 clients will be disconnected`; `None`: none will be.
pub(super) fn disconnected(clients: Disconnects) -> Option<String> {
    let counted = |count: u32| if count == 1 { "1 client".to_owned() } else { format!("{count} clients") };
    match clients {
        Disconnects::None | Disconnects::Exactly(0) | Disconnects::UpTo(0) => None,
        Disconnects::Uncounted => Some("clients may be disconnected".to_owned()),
        Disconnects::Exactly(count) => Some(format!("{} will be disconnected", counted(count))),
        Disconnects::UpTo(count) => Some(format!("up to {} will be disconnected", counted(count))),
    }
}

/// `update, reconnects`; `add, mqtts://a.example.com:8883`.
pub(super) fn bridge_headline(action: &BridgeAction) -> String {
    let verb = action.kind.as_str();
    match (action.kind, &action.effective) {
        (ActionKind::Add, Some(effective)) => {
            let addresses: Vec<String> = effective.bridge.address.iter().cloned().map(String::from).collect();
            let disabled = if effective.bridge.enabled { "" } else { ", disabled" };
            format!("{verb}, {}{disabled}", addresses.join(" "))
        }
        _ if action.reconnects => format!("{verb}, reconnects"),
        _ => verb.to_owned(),
    }
}

/// `add, client/# message/dropped`; `update`; `remove`.
pub(super) fn events_headline(action: &EventsAction) -> String {
    let verb = action.kind.as_str();
    if action.kind == ActionKind::Add { format!("{verb}, {}", action.topics.join(" ")) } else { verb.to_owned() }
}

/// The sign of an action: `-/+` closes a listener and binds another one.
pub(super) fn sign(kind: ActionKind) -> &'static str {
    match kind {
        ActionKind::Add => "+",
        ActionKind::Update => "~",
        ActionKind::Rebind => "-/+",
        ActionKind::Drain | ActionKind::Remove => "-",
        ActionKind::Conflicted => "!",
        ActionKind::None => " ",
    }
}

/// `rebind, 0.0.0.0:1883 -> 0.0.0.0:1884`.
pub(super) fn headline(action: &EndpointAction) -> String {
    let verb = action.kind.as_str();
    match (&action.from, &action.to) {
        (Some(from), Some(to)) if from != to => format!("{verb}, {from} -> {to}"),
        (_, Some(at)) | (Some(at), None) => format!("{verb}, {at}"),
        (None, None) => verb.to_owned(),
    }
}

/// `a, b, c and 4 more`.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown: Vec<&str> = names.iter().take(NAMES_MAX).copied().collect();
    let more = names.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Names as lines, separated by commas, of about [`LINE_CHARS`].
pub(super) fn wrapped<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in listed(names).split_inclusive(", ") {
        if let Some(line) = lines.last_mut().filter(|line| line.is_empty() || line.len() + word.len() <= LINE_CHARS) {
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// The note of an action, and why it waits.
pub(super) fn remarks(action: &EndpointAction) -> Vec<String> {
    let mut lines: Vec<String> = action.note.iter().cloned().collect();
    lines.extend(action.waits.iter().map(|why| format!("waits: {why}")));
    lines
}

/// Where a change is made, if that is not the endpoint's own document: `defaults.yaml:3`.
pub(super) fn shared_cause(causes: &ChangeCauses, endpoint: &Name, change: &FieldChange) -> Option<String> {
    causes.get(endpoint, &change.path).filter(|cause| cause.is_shared()).map(super::causes::ChangeCause::shown)
}

/// `100 -> 200`; of a mapping, the keys that differ: `tier: gold -> silver`; of a whole document: `added`, `removed`.
pub(super) fn old_to_new(change: &FieldChange) -> String {
    match (&change.old, &change.new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let added = new.keys().filter(|key| !old.contains_key(*key));
            let differing = old.keys().chain(added).filter(|key| old.get(*key) != new.get(*key));
            let each = differing.map(|key| format!("{key}: {} -> {}", value(old.get(key)), value(new.get(key))));
            each.collect::<Vec<_>>().join(", ")
        }
        (None, Some(Value::Object(_))) if change.path.contains(' ') => "added".to_owned(),
        (Some(Value::Object(_)), None) if change.path.contains(' ') => "removed".to_owned(),
        (old, new) => format!("{} -> {}", value(old.as_ref()), value(new.as_ref())),
    }
}

fn value(value: Option<&Value>) -> String {
    let text = match value {
        None => return "(absent)".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    if text.chars().count() <= VALUE_CHARS_MAX {
        return text;
    }
    text.chars().take(VALUE_CHARS_MAX).chain("...".chars()).collect()
}

/// Appends a line.
pub(super) fn push_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ok = writeln!(text, "{line}");
}
