//! Renders plans as JSON.

use serde_json::{Value, json};

use super::action::{ActionKind, Disconnects, EndpointAction};
use super::action_groups::{ActionGroup, action_groups};
use super::bridges::BridgeAction;
use super::causes::ChangeCauses;
use super::plan::Plan;
use super::render_text::summary;
use crate::config::DocumentPlace;

/// A plan as JSON, format `weir/plan/v1`.
pub fn json(plan: &Plan, causes: &ChangeCauses, diff: &str) -> Value {
    let listed = plan.actions.iter().filter(|action| action.kind != ActionKind::None);
    let actions: Vec<Value> = listed.map(|action| action_json(action, causes)).collect();
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
    let groups = action_groups(plan, causes);
    let groups: Vec<Value> =
        groups.iter().filter(|group| group.is_several()).filter_map(|group| group_json(group, causes)).collect();
    if let Value::Object(fields) = &mut plain {
        if !groups.is_empty() {
            fields.insert("groups".to_owned(), groups.into());
        }
        if !bridges.is_empty() {
            fields.insert("bridges".to_owned(), bridges.into());
        }
        if let Some(action) = &plan.events {
            let (kind, changes) = (action.kind.as_str(), &action.changes);
            fields.insert("events".to_owned(), json!({"action": kind, "changes": changes, "topics": action.topics}));
        }
        if let Some(action) = &plan.cluster {
            let (kind, changes, effects) = (action.kind.as_str(), &action.changes, &action.effects);
            let cluster =
                json!({"action": kind, "changes": changes, "effects": effects, "disconnects": action.disconnects});
            fields.insert("cluster".to_owned(), cluster);
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

/// Endpoints that shared lines change alike; `actions` has each of them, too.
fn group_json(group: &ActionGroup<'_>, causes: &ChangeCauses) -> Option<Value> {
    let action = group.first()?;
    Some(json!({
        "endpoints": group.names().collect::<Vec<_>>(),
        "action": action.kind.as_str(),
        "changes": changes_json(action, causes),
        "disconnects": disconnects_json(group.disconnects()),
    }))
}

/// The changes of an action, each with its cause where that is known.
fn changes_json(action: &EndpointAction, causes: &ChangeCauses) -> Vec<Value> {
    let changes = action.changes.iter().map(|change| {
        let mut json = json!(change);
        if let (Value::Object(fields), Some(cause)) = (&mut json, causes.get(&action.name, &change.path)) {
            let (document, DocumentPlace { file, line, .. }) = (cause.place.document(), &cause.place);
            let cause = json!({"document": document, "file": file, "line": line, "removed": cause.removed});
            fields.insert("cause".to_owned(), cause);
        }
        json
    });
    changes.collect()
}

fn disconnects_json(disconnects: Disconnects) -> Value {
    let (clients, bound) = match disconnects {
        Disconnects::None => (Some(0), "exactly"),
        Disconnects::Exactly(count) => (Some(count), "exactly"),
        Disconnects::UpTo(count) => (Some(count), "atMost"),
        Disconnects::Uncounted => (None, "unknown"),
    };
    json!({"clients": clients, "bound": bound})
}

fn action_json(action: &EndpointAction, causes: &ChangeCauses) -> Value {
    json!({
        "endpoint": action.name.as_str(),
        "action": action.kind.as_str(),
        "from": action.from.as_ref().map(ToString::to_string),
        "to": action.to.as_ref().map(ToString::to_string),
        "changes": changes_json(action, causes),
        "disconnects": disconnects_json(action.disconnects),
        "waits": action.waits,
        "note": action.note,
    })
}
