//! Plans the actions from live to declared bridges.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::action::{ActionKind, NodeSettings};
use super::effective::FileDigests;
use crate::config::{self, Bridge, ChangeClass, Declared, FieldChange, Kind, Name, SecretRef};

/// A bridge to run, and the files that it refers to.
#[derive(Debug, Clone, PartialEq)]
pub struct EffectiveBridge {
    /// The declaration.
    pub bridge: Arc<Bridge>,
    /// The mountpoint of the endpoints that name it; empty: the shared namespace.
    pub namespace: Arc<str>,
    /// Whether one of these endpoints has `durability: disk`: queued messages survive a restart. Applies when the
    /// bridge's local session begins.
    pub durable: bool,
    /// The files that it reads, as of the time of [`effective_bridges`].
    pub files: FileDigests,
}

/// Live or declared bridges.
pub type Bridges = BTreeMap<Name, EffectiveBridge>;

/// The action for one bridge.
#[derive(Debug, Clone, PartialEq)]
pub struct BridgeAction {
    /// The bridge.
    pub name: Name,
    /// `Add`, `Update`, `Remove` or `None`.
    pub kind: ActionKind,
    /// The fields that change.
    pub changes: Vec<FieldChange>,
    /// Whether the bridge disconnects and connects again.
    pub reconnects: bool,
    /// The bridge to run; `None` for `Remove`.
    pub effective: Option<EffectiveBridge>,
}

/// The files that a bridge reads: resolved path, and path as written.
pub fn bridge_files(bridge: &Bridge) -> impl Iterator<Item = (PathBuf, &Arc<str>)> {
    let secret = match &bridge.password {
        Some(SecretRef::File(file)) => Some(file),
        Some(SecretRef::Env(_)) | None => None,
    };
    let tls = [&bridge.tls.ca_file, &bridge.tls.cert_file, &bridge.tls.key_file];
    tls.into_iter().flatten().chain(secret).map(|file| (bridge.origin.resolve(file), &file.0))
}

/// The bridges that the endpoints of this node name. A bridge has the mountpoint of the first such endpoint by name;
/// the validator refuses endpoints with another one.
pub fn effective_bridges(declared: &Declared, node: &NodeSettings, files: &FileDigests) -> Bridges {
    let mut found = Bridges::new();
    for endpoint in declared.endpoints.values() {
        if !endpoint.enabled || !endpoint.enable_bridge || !node.holds(endpoint) {
            continue;
        }
        for bridge in endpoint.bridges.iter().filter_map(|name| declared.bridges.get(name)) {
            let effective = found.entry(bridge.name.clone()).or_insert_with(|| EffectiveBridge {
                bridge: Arc::clone(bridge),
                namespace: endpoint.mountpoint.clone().unwrap_or_default(),
                durable: false,
                files: bridge_files(bridge)
                    .filter_map(|(path, _)| files.get_key_value(&path))
                    .map(|(path, digest)| (path.clone(), digest.clone()))
                    .collect(),
            });
            effective.durable |= endpoint.limits.is_durable();
        }
    }
    found
}

/// Plans the actions from `live` to `wanted`, one per bridge of either.
pub(super) fn plan_bridges(wanted: &Bridges, live: &Bridges) -> Vec<BridgeAction> {
    let names: BTreeSet<&Name> = wanted.keys().chain(live.keys()).collect();
    let action = |name: &Name| {
        let (from, to) = (live.get(name), wanted.get(name));
        let changes = match (from, to) {
            (Some(from), Some(to)) => from.changes(to),
            _ => Vec::new(),
        };
        let kind = match (from, to) {
            (None, _) => ActionKind::Add,
            (Some(_), None) => ActionKind::Remove,
            (Some(_), Some(_)) if changes.is_empty() => ActionKind::None,
            (Some(_), Some(_)) => ActionKind::Update,
        };
        let reconnects = changes.iter().any(|change| change.class >= ChangeClass::Drain);
        BridgeAction { name: name.clone(), kind, changes, reconnects, effective: to.cloned() }
    };
    names.into_iter().map(action).collect()
}

impl EffectiveBridge {
    /// The differences between `self` and `to`.
    fn changes(&self, to: &Self) -> Vec<FieldChange> {
        let mut found = Vec::new();
        if !Arc::ptr_eq(&self.bridge, &to.bridge) {
            let (from, to) = (config::fields_of(&*self.bridge), config::fields_of(&*to.bridge));
            found.extend(config::field_changes(Kind::Bridge, &from, &to));
        }
        if self.namespace != to.namespace {
            let text = |namespace: &Arc<str>| (!namespace.is_empty()).then(|| Value::from(&**namespace));
            found.push(FieldChange {
                path: "mountpoint".to_owned(),
                old: text(&self.namespace),
                new: text(&to.namespace),
                class: ChangeClass::Drain,
            });
        }
        for (path, written) in bridge_files(&to.bridge) {
            let (Some(was), Some(Ok(is))) = (self.files.get(&path), to.files.get(&path)) else { continue };
            let was = was.as_ref().ok();
            if was != Some(is) {
                let short = |digest: &Arc<str>| Value::from(digest.get(..12).unwrap_or(digest));
                let (old, new) = (was.map(short), Some(short(is)));
                found.push(FieldChange { path: format!("file {written}"), old, new, class: ChangeClass::Drain });
            }
        }
        found
    }
}
