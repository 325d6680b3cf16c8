//! Renders plans for a terminal.

use std::fmt;

use super::action_groups::{ActionGroup, action_groups};
use super::causes::ChangeCauses;
use super::plan::Plan;
use super::render_text::{
    bridge_headline, disconnected, events_headline, headline, old_to_new, push_line, remarks, shared_cause, sign,
    summary, wrapped,
};

/// A plan as text, in the parts that a terminal colours differently. [`fmt::Display`] joins them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HumanPlan {
    /// A paragraph for each endpoint, group of endpoints and bridge, for the events and for the cluster. Its first line begins with the sign, in three columns.
    pub actions: String,
    /// The unified diff of the documents.
    pub diff: String,
    /// One line for each endpoint that will refuse all clients.
    pub lock_outs: String,
    /// One line.
    pub summary: String,
}

impl fmt::Display for HumanPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.actions, &self.diff, &self.lock_outs].into_iter().filter(|part| !part.is_empty()) {
            writeln!(f, "{part}")?;
        }
        f.write_str(&self.summary)
    }
}

/// A plan for a terminal; the summary is last.
pub fn human(plan: &Plan, causes: &ChangeCauses, diff: &str) -> HumanPlan {
    let mut actions = String::new();
    for group in action_groups(plan, causes) {
        push_group(&mut actions, &group, causes);
    }
    for action in plan.due_bridges() {
        let (sign, headline) = (sign(action.kind), bridge_headline(action));
        push_line(&mut actions, format_args!("{sign:>3} bridge {}: {headline}", action.name));
        for change in &action.changes {
            push_line(&mut actions, format_args!("      {}: {}  [{}]", change.path, old_to_new(change), change.class));
        }
    }
    if let Some(action) = &plan.events {
        let (sign, headline) = (sign(action.kind), events_headline(action));
        push_line(&mut actions, format_args!("{sign:>3} events: {headline}"));
        for change in &action.changes {
            push_line(&mut actions, format_args!("      {}: {}  [{}]", change.path, old_to_new(change), change.class));
        }
    }
    if let Some(action) = &plan.cluster {
        push_line(&mut actions, format_args!("{:>3} cluster: {}", sign(action.kind), action.kind.as_str()));
        for change in &action.changes {
            push_line(&mut actions, format_args!("      {}: {}  [{}]", change.path, old_to_new(change), change.class));
        }
        for effect in &action.effects {
            push_line(&mut actions, format_args!("      {effect}"));
        }
    }
    let mut lock_outs = String::new();
    for (name, lock_out) in plan.lock_outs() {
        push_line(&mut lock_outs, format_args!("lock-out: {}", lock_out.message(name)));
    }
    let summary = if plan.is_empty() { summary(plan) } else { format!("Plan: {}", summary(plan)) };
    HumanPlan { actions, diff: diff.to_owned(), lock_outs, summary: format!("{summary}\n") }
}

fn push_group(text: &mut String, group: &ActionGroup<'_>, causes: &ChangeCauses) {
    let Some(action) = group.first() else { return };
    let clients = disconnected(group.disconnects()).map_or_else(String::new, |clients| format!(", {clients}"));
    let sign = sign(action.kind);
    if group.is_several() {
        let (count, verb) = (group.actions.len(), action.kind.as_str());
        push_line(text, format_args!("{sign:>3} {count} endpoints: {verb}{clients}"));
        for line in wrapped(group.names()) {
            push_line(text, format_args!("      {line}"));
        }
    } else {
        push_line(text, format_args!("{sign:>3} endpoint {}: {}{clients}", action.name, headline(action)));
    }
    for change in &action.changes {
        let cause = shared_cause(causes, &action.name, change).map_or_else(String::new, |cause| format!("  {cause}"));
        push_line(text, format_args!("      {}: {}  [{}]{cause}", change.path, old_to_new(change), change.class));
    }
    for line in remarks(action) {
        push_line(text, format_args!("      {line}"));
    }
}
