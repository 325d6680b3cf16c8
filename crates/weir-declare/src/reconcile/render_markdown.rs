//! Renders plans as Markdown, for a comment in a pull request.

use super::action::EndpointAction;
use super::action_groups::action_groups;
use super::causes::ChangeCauses;
use super::plan::Plan;
use super::render_text::{
    bridge_headline, disconnected, events_headline, headline, listed, old_to_new, push_line, remarks, shared_cause,
    sign, summary,
};
use crate::config::FieldChange;

/// A plan as Markdown: the summary is the heading, and the diff is folded.
pub fn markdown(plan: &Plan, causes: &ChangeCauses, diff: &str) -> String {
    let mut text = String::new();
    push_line(&mut text, format_args!("### Plan: {}", summary(plan)));
    for (name, lock_out) in plan.lock_outs() {
        push_line(&mut text, format_args!("\nlock-out: {}", escaped(&lock_out.message(name))));
    }
    let groups = action_groups(plan, causes);
    if !groups.is_empty() {
        push_line(
            &mut text,
            format_args!("\n| | endpoint | action | what changes | clients |\n| --- | --- | --- | --- | --- |"),
        );
    }
    for group in groups {
        let Some(action) = group.first() else { continue };
        let (endpoint, verb) = if group.is_several() {
            let names = listed(group.names());
            (format!("{} endpoints: {names}", group.actions.len()), action.kind.as_str().to_owned())
        } else {
            (action.name.to_string(), headline(action))
        };
        let changes = changes_cell(action, causes);
        let clients = disconnected(group.disconnects()).unwrap_or_default();
        let (sign, endpoint, verb) = (sign(action.kind), escaped(&endpoint), escaped(&verb));
        push_line(&mut text, format_args!("| `{sign}` | {endpoint} | {verb} | {changes} | {clients} |"));
    }
    push_bridges(&mut text, plan);
    push_events(&mut text, plan);
    push_cluster(&mut text, plan);
    if !diff.is_empty() {
        // The fence must be longer than any run of backticks in the diff.
        let fence = "`".repeat(longest_run(diff, '`').max(2) + 1);
        push_line(&mut text, format_args!("\n<details><summary>Diff</summary>\n\n{fence}diff"));
        text.push_str(diff);
        push_line(&mut text, format_args!("{fence}\n\n</details>"));
    }
    text
}

fn push_bridges(text: &mut String, plan: &Plan) {
    if plan.due_bridges().next().is_some() {
        push_line(text, format_args!("\n| | bridge | action | what changes |\n| --- | --- | --- | --- |"));
    }
    for action in plan.due_bridges() {
        let changes: Vec<String> = action.changes.iter().map(change_text).collect();
        let (name, headline) = (escaped(action.name.as_str()), escaped(&bridge_headline(action)));
        push_line(text, format_args!("| `{}` | {name} | {headline} | {} |", sign(action.kind), changes.join("<br>")));
    }
}

fn push_events(text: &mut String, plan: &Plan) {
    let Some(action) = &plan.events else { return };
    let changes: Vec<String> = action.changes.iter().map(change_text).collect();
    let (sign, headline, changes) = (sign(action.kind), escaped(&events_headline(action)), changes.join("<br>"));
    push_line(text, format_args!("\n| | document | action | what changes |\n| --- | --- | --- | --- |"));
    push_line(text, format_args!("| `{sign}` | events | {headline} | {changes} |"));
}

fn push_cluster(text: &mut String, plan: &Plan) {
    let Some(action) = &plan.cluster else { return };
    let changes = action.changes.iter().map(change_text).chain(action.effects.iter().map(|effect| escaped(effect)));
    let (sign, verb, changes) = (sign(action.kind), action.kind.as_str(), changes.collect::<Vec<_>>().join("<br>"));
    push_line(text, format_args!("\n| | document | action | what changes |\n| --- | --- | --- | --- |"));
    push_line(text, format_args!("| `{sign}` | cluster | {verb} | {changes} |"));
}

fn changes_cell(action: &EndpointAction, causes: &ChangeCauses) -> String {
    let changes = action.changes.iter().map(|change| {
        let cause = shared_cause(causes, &action.name, change);
        let cause = cause.map_or_else(String::new, |cause| format!(", {}", escaped(&cause)));
        format!("{}{cause}", change_text(change))
    });
    let lines: Vec<String> = changes.chain(remarks(action).iter().map(|line| escaped(line))).collect();
    lines.join("<br>")
}

fn change_text(change: &FieldChange) -> String {
    format!("`{}`: {} ({})", change.path, escaped(&old_to_new(change)), change.class)
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
