//! Groups the actions of a plan that shared lines cause alike in several endpoints.

use std::collections::{BTreeMap, BTreeSet};

use super::action::{ActionKind, Disconnects, EndpointAction};
use super::causes::ChangeCauses;
use super::plan::Plan;
use crate::config::{CanonicalDocument, Kind, diff_documents};

/// Actions that differ in nothing but the endpoint.
#[derive(Debug)]
pub struct ActionGroup<'a> {
    /// At least one, by name.
    pub actions: Vec<&'a EndpointAction>,
}

impl<'a> ActionGroup<'a> {
    /// The first action: what all of them do.
    pub fn first(&self) -> Option<&'a EndpointAction> {
        self.actions.first().copied()
    }

    /// Whether there are several endpoints.
    pub fn is_several(&self) -> bool {
        self.actions.len() > 1
    }

    /// The clients of all endpoints.
    pub fn disconnects(&self) -> Disconnects {
        self.actions.iter().fold(Disconnects::None, |all, action| all.sum(action.disconnects))
    }

    /// The names of the endpoints.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.actions.iter().map(|action| action.name.as_str())
    }
}

/// The actions of `plan` that do something, in the order of their first endpoint. Those that the same shared lines cause, and
/// nothing else, are in one group.
pub fn action_groups<'a>(plan: &'a Plan, causes: &ChangeCauses) -> Vec<ActionGroup<'a>> {
    let mut groups: Vec<ActionGroup<'a>> = Vec::new();
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for action in plan.actions.iter().filter(|action| action.kind != ActionKind::None) {
        let key = shared_key(action, causes);
        if let Some(group) = key.as_ref().and_then(|key| known.get(key)).and_then(|at| groups.get_mut(*at)) {
            group.actions.push(action);
            continue;
        }
        if let Some(key) = key {
            known.insert(key, groups.len());
        }
        groups.push(ActionGroup { actions: vec![action] });
    }
    groups
}

/// The diff of the documents of two sides of `plan`, with one endpoint of each group: the others differ alike.
pub fn grouped_diff(
    plan: &Plan,
    causes: &ChangeCauses,
    old: &[CanonicalDocument],
    new: &[CanonicalDocument],
) -> String {
    let groups = action_groups(plan, causes);
    let alike: BTreeSet<&str> = groups.iter().flat_map(|group| group.names().skip(1)).collect();
    let is_left_out = |document: &CanonicalDocument| {
        document.identity.kind == Kind::Endpoint && alike.contains(document.identity.name.as_str())
    };
    let shown = |side: &[CanonicalDocument]| -> Vec<CanonicalDocument> {
        side.iter().filter(|document| !is_left_out(document)).cloned().collect()
    };
    let mut diff = diff_documents(&shown(old), &shown(new));
    let own_fields = |group: &&ActionGroup<'_>| {
        group.first().is_some_and(|action| action.changes.iter().any(|change| !change.path.contains(' ')))
    };
    for group in groups.iter().filter(|group| group.is_several()).filter(own_fields) {
        let (first, count) = (group.names().next().unwrap_or_default(), group.actions.len() - 1);
        let more =
            if count == 1 { "1 more endpoint changes".to_owned() } else { format!("{count} more endpoints change") };
        diff.push_str(&format!("# {more} as {first} does\n"));
    }
    diff
}

/// What actions of one group have in common; `None`: the action has something of its own.
fn shared_key(action: &EndpointAction, causes: &ChangeCauses) -> Option<String> {
    let stays = matches!(action.kind, ActionKind::Update | ActionKind::Rebind) && action.from == action.to;
    if !stays || action.changes.is_empty() {
        return None;
    }
    let mut key = format!("{} {:?} {:?}", action.kind.as_str(), action.waits, action.note);
    for change in &action.changes {
        let cause = causes.get(&action.name, &change.path).filter(|cause| cause.is_shared())?;
        // Values are JSON, whose text has no line break.
        let value = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string);
        let (old, new) = (value(&change.old), value(&change.new));
        key.push_str(&format!("\n{} {} {old:?} {new:?} {}", cause.shown(), change.path, change.class));
    }
    Some(key)
}
