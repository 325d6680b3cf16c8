//! Renders plans for a terminal, as JSON and as Markdown. The output is deterministic to the byte.

use std::fmt::Write;

use serde_json::{Value, json};

use super::action::{ActionKind, Disconnects, EndpointAction};
use super::bridges::BridgeAction;
use super::plan::Plan;
use crate::config::FieldChange;

/// Characters of a value in text and Markdown.
const VALUE_CHARS_MAX: usize = 60;

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
            let clients = disconnected(clients).map_or_else(String::new, |text| format!(" ({text})"));
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
    if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") }
}

/// `37 clients will be disconnected`; `None`: none will be, or the number is unknown.
fn disconnected(clients: Disconnects) -> Option<String> {
    let counted = |count: u32| if count == 1 { "1 client".to_owned() } else { format!("{count} clients") };
    match clients {
        Disconnects::None | Disconnects::Uncounted | Disconnects::Exactly(0) | Disconnects::UpTo(0) => None,
        Disconnects::Exactly(count) => Some(format!("{} will be disconnected", counted(count))),
        Disconnects::UpTo(count) => Some(format!("up to {} will be disconnected", counted(count))),
    }
}

/// A plan for a terminal: a paragraph per endpoint, the summary, the diff.
pub fn human(plan: &Plan, diff: &str) -> String {
    let mut text = String::new();
    for action in plan.actions.iter().filter(|action| action.kind != ActionKind::None) {
        push_line(&mut text, format_args!("{} endpoint {}: {}", sign(action.kind), action.name, headline(action)));
        for change in &action.changes {
            push_line(&mut text, format_args!("    {}: {}  [{}]", change.path, old_to_new(change), change.class));
        }
        for line in remarks(action) {
            push_line(&mut text, format_args!("    {line}"));
        }
    }
    for action in plan.due_bridges() {
        push_line(&mut text, format_args!("{} bridge {}: {}", sign(action.kind), action.name, bridge_headline(action)));
        for change in &action.changes {
            push_line(&mut text, format_args!("    {}: {}  [{}]", change.path, old_to_new(change), change.class));
        }
    }
    if !text.is_empty() {
        text.push('\n');
    }
    for (name, lock_out) in plan.lock_outs() {
        push_line(&mut text, format_args!("lock-out: {}", lock_out.message(name)));
    }
    if plan.lock_outs().next().is_some() {
        text.push('\n');
    }
    push_line(&mut text, format_args!("{}", summary(plan)));
    if !diff.is_empty() {
        text.push('\n');
        text.push_str(diff);
    }
    text
}

/// A plan as Markdown, for a comment in a pull request.
pub fn markdown(plan: &Plan, diff: &str) -> String {
    let mut text = String::new();
    push_line(&mut text, format_args!("### Plan: {}", summary(plan)));
    for (name, lock_out) in plan.lock_outs() {
        push_line(&mut text, format_args!("\nlock-out: {}", escaped(&lock_out.message(name))));
    }
    let actions: Vec<&EndpointAction> = plan.actions.iter().filter(|action| action.kind != ActionKind::None).collect();
    if !actions.is_empty() {
        push_line(
            &mut text,
            format_args!("\n| | endpoint | action | what changes | clients |\n| --- | --- | --- | --- | --- |"),
        );
    }
    for action in actions {
        let changes: Vec<String> = action
            .changes
            .iter()
            .map(|change| format!("`{}`: {} ({})", change.path, escaped(&old_to_new(change)), change.class))
            .chain(remarks(action).iter().map(|line| escaped(line)))
            .collect();
        let clients = disconnected(action.disconnects).unwrap_or_default();
        push_line(
            &mut text,
            format_args!(
                "| `{}` | {} | {} | {} | {clients} |",
                sign(action.kind),
                escaped(action.name.as_str()),
                escaped(&headline(action)),
                changes.join("<br>")
            ),
        );
    }
    if plan.due_bridges().next().is_some() {
        push_line(&mut text, format_args!("\n| | bridge | action | what changes |\n| --- | --- | --- | --- |"));
    }
    for action in plan.due_bridges() {
        let changes: Vec<String> = action
            .changes
            .iter()
            .map(|change| format!("`{}`: {} ({})", change.path, escaped(&old_to_new(change)), change.class))
            .collect();
        let (name, headline) = (escaped(action.name.as_str()), escaped(&bridge_headline(action)));
        push_line(
            &mut text,
            format_args!("| `{}` | {name} | {headline} | {} |", sign(action.kind), changes.join("<br>")),
        );
    }
    if !diff.is_empty() {
        // The fence must be longer than any run of backticks in the diff.
        let fence = "`".repeat(longest_run(diff, '`').max(2) + 1);
        push_line(&mut text, format_args!("\n<details><summary>Diff</summary>\n\n{fence}diff"));
        text.push_str(diff);
        push_line(&mut text, format_args!("{fence}\n\n</details>"));
    }
    text
}

/// A plan as JSON, format `weir/plan/v1`.
pub fn json(plan: &Plan, diff: &str) -> Value {
    let listed = plan.actions.iter().filter(|action| action.kind != ActionKind::None);
    let actions: Vec<Value> = listed.map(action_json).collect();
    let lock_outs =
        plan.lock_outs().map(|(name, lock_out)| json!({"endpoint": name.as_str(), "message": lock_out.message(name)}));
    let mut plain = json!({
        "format": "weir/plan/v1",
        "summary": summary(plan),
        "unchanged": plan.actions.len() - actions.len(),
        "actions": actions,
        "lockOuts": lock_outs.collect::<Vec<_>>(),
    });
    let bridges: Vec<Value> = plan.due_bridges().map(bridge_json).collect();
    if let Value::Object(fields) = &mut plain {
        if !bridges.is_empty() {
            fields.insert("bridges".to_owned(), bridges.into());
        }
        fields.insert("diff".to_owned(), diff.into());
    }
    plain
}

fn bridge_json(action: &BridgeAction) -> Value {
    json!({
        "bridge": action.name.as_str(),
        "action": action.kind.as_str(),
        "changes": action.changes,
        "reconnects": action.reconnects,
    })
}

/// `update, reconnects`; `add, mqtts://a.example.com:8883`.
fn bridge_headline(action: &BridgeAction) -> String {
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

fn action_json(action: &EndpointAction) -> Value {
    let (clients, bound) = match action.disconnects {
        Disconnects::None => (Some(0), "exactly"),
        Disconnects::Exactly(count) => (Some(count), "exactly"),
        Disconnects::UpTo(count) => (Some(count), "atMost"),
        Disconnects::Uncounted => (None, "unknown"),
    };
    json!({
        "endpoint": action.name.as_str(),
        "action": action.kind.as_str(),
        "from": action.from.as_ref().map(ToString::to_string),
        "to": action.to.as_ref().map(ToString::to_string),
        "changes": action.changes,
        "disconnects": {"clients": clients, "bound": bound},
        "waits": action.waits,
        "note": action.note,
    })
}

fn push_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ok = writeln!(text, "{line}");
}

fn sign(kind: ActionKind) -> &'static str {
    match kind {
        ActionKind::Add => "+",
        ActionKind::Update | ActionKind::Rebind => "~",
        ActionKind::Drain | ActionKind::Remove => "-",
        ActionKind::Conflicted => "!",
        ActionKind::None => " ",
    }
}

/// `rebind, 0.0.0.0:1883 -> 0.0.0.0:1884`.
fn headline(action: &EndpointAction) -> String {
    let verb = action.kind.as_str();
    match (&action.from, &action.to) {
        (Some(from), Some(to)) if from != to => format!("{verb}, {from} -> {to}"),
        (_, Some(at)) | (Some(at), None) => format!("{verb}, {at}"),
        (None, None) => verb.to_owned(),
    }
}

fn remarks(action: &EndpointAction) -> Vec<String> {
    let mut lines: Vec<String> = action.note.iter().cloned().collect();
    lines.extend(disconnected(action.disconnects));
    lines.extend(action.waits.iter().map(|why| format!("waits: {why}")));
    lines
}

fn old_to_new(change: &FieldChange) -> String {
    format!("{} -> {}", value(change.old.as_ref()), value(change.new.as_ref()))
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

fn escaped(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('<', "&lt;")
}

fn longest_run(text: &str, wanted: char) -> usize {
    let (mut longest, mut run) = (0, 0);
    for c in text.chars() {
        run = if c == wanted { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}
