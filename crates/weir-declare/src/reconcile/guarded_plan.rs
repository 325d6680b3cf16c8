//! A plan with the guard's decisions: what the reconciler will do, and what it will hold.

use std::collections::BTreeMap;

use super::action::{ActionKind, EndpointAction, NodeSettings};
use super::effective::FileDigests;
use super::guard::{DeletionGuard, Guarded};
use super::plan::{LiveState, Pinned, Plan, plan};
use crate::config::{Declared, DocumentIdentity, Held, Kind};

/// Plans the actions from `live`, which runs by `last`, to `wanted`. Actions that the guard holds wait. `held`: what it
/// holds already.
pub fn plan_guarded(
    last: &Declared,
    wanted: &Declared,
    held: &BTreeMap<DocumentIdentity, Held>,
    live: &LiveState,
    node: &NodeSettings,
) -> Plan {
    let (files, pinned) = (FileDigests::new(), Pinned::new());
    let guarded = DeletionGuard::resume(held).preview(last, wanted);
    let mut made = plan(&guarded.declared, live, node, &files, &pinned);
    if guarded.held.is_empty() {
        return made;
    }
    let asked = plan(wanted, live, node, &files, &pinned);
    for action in &mut made.actions {
        let Some(asked) = asked.get(action.name.as_str()) else { continue };
        let Some(why) = why_held(&guarded, action, asked) else { continue };
        if action.kind == ActionKind::None {
            *action = EndpointAction { waits: Some(why), ..asked.clone() };
        } else {
            // Its other changes do not wait.
            action.lock_out = asked.lock_out;
            let note = action.note.take().map_or_else(String::new, |note| format!("{note}; "));
            action.note = Some(format!("{note}held: {why}"));
        }
    }
    made
}

/// Why the requested action of an endpoint is held; `None`: it is not.
fn why_held(guarded: &Guarded, action: &EndpointAction, asked: &EndpointAction) -> Option<String> {
    if let Some(held) = guarded.held.get(&DocumentIdentity::new(Kind::Endpoint, action.name.clone())) {
        return (asked.kind != ActionKind::None).then(|| held.why.clone());
    }
    if action.lock_out == asked.lock_out {
        return None;
    }
    let endpoint = &asked.effective.as_ref()?.endpoint;
    let (auth, acl) =
        (endpoint.enable_auth.then(|| endpoint.auth_name()), endpoint.enable_acl.then(|| endpoint.acl_name()));
    let is_used = |identity: &DocumentIdentity| match identity.kind {
        Kind::Auth => auth == Some(identity.name.as_str()),
        Kind::Acl => acl == Some(identity.name.as_str()),
        _ => false,
    };
    guarded.held.iter().find(|(identity, _)| is_used(identity)).map(|(_, held)| held.why.clone())
}
