//! Plans the action from the live to the declared settings of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::action::ActionKind;
use crate::config::{self, ClusterSpec, FieldChange, Kind};

/// What is known of a running cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LiveCluster {
    /// The settings that hold; `None`: the defaults, without a document.
    pub spec: Option<Arc<ClusterSpec>>,
    /// The slots with which it was founded; `None`: not known.
    pub founded_slots: Option<u16>,
    /// The clients of each node; a node that is not in it is not known.
    pub clients: BTreeMap<Arc<str>, u64>,
}

/// The action for the document `cluster`.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterAction {
    /// `Add`, `Update` or `Remove`.
    pub kind: ActionKind,
    /// Of `Update`.
    pub changes: Vec<FieldChange>,
    /// What it does, a sentence for each node and each setting that cannot change.
    pub effects: Vec<String>,
    /// Clients of nodes that are evacuated or removed by it, as far as they are known.
    pub disconnects: u64,
}

/// Plans the action from `live` to `wanted`; `None`: there is nothing to do.
pub(super) fn plan_cluster(wanted: Option<&Arc<ClusterSpec>>, live: &LiveCluster) -> Option<ClusterAction> {
    let (kind, changes) = match (&live.spec, wanted) {
        (None, None) => return None,
        (None, Some(_)) => (ActionKind::Add, Vec::new()),
        (Some(_), None) => (ActionKind::Remove, Vec::new()),
        (Some(live), Some(wanted)) if Arc::ptr_eq(live, wanted) => return None,
        (Some(live), Some(wanted)) => {
            let (from, to) = (config::fields_of(&**live), config::fields_of(&**wanted));
            let changes = config::field_changes(Kind::Cluster, &from, &to);
            if changes.is_empty() {
                return None;
            }
            (ActionKind::Update, changes)
        }
    };
    let mut action = ClusterAction { kind, changes, effects: Vec::new(), disconnects: 0 };
    let default = ClusterSpec::default();
    let before = live.spec.as_deref().unwrap_or(&default);
    let after = wanted.map_or(&default, |wanted| &**wanted);
    for name in added(&before.evacuate, &after.evacuate).filter(|name| !after.removes(name)) {
        let clients = action.clients_of(name, live);
        action.effects.push(format!("{name} is evacuated: it accepts no new clients, {clients}, and stays a member"));
    }
    for name in added(&before.removed, &after.removed) {
        let clients = action.clients_of(name, live);
        action.effects.push(format!("{name} is removed: it takes part no more, {clients}, and its record is deleted"));
    }
    for name in added(&after.evacuate, &before.evacuate).filter(|name| !after.removes(name)) {
        action.effects.push(format!("{name} accepts clients again"));
    }
    for name in added(&after.removed, &before.removed).filter(|name| !after.evacuates(name)) {
        action.effects.push(format!("{name} may take part again"));
    }
    action.effects.extend(fixed_slots(before, after, live));
    if let Some(replicas) = after.replicas.filter(|replicas| before.replicas.is_some_and(|was| was != *replicas)) {
        action.effects.push(format!(
            "replicas is fixed when the cluster is founded, so this change does nothing by itself: change each stream with \
             `nats stream edit --replicas {replicas}`, then restart each node with --cluster-replicas {replicas}"
        ));
    }
    Some(action)
}

/// The names of `after` that are not in `before`.
fn added<'a>(before: &'a [Arc<str>], after: &'a [Arc<str>]) -> impl Iterator<Item = &'a Arc<str>> {
    after.iter().filter(|name| !before.contains(name))
}

/// Why the number of slots stays; `None`: it does not change, or the cluster is not founded yet, as far as it is known.
fn fixed_slots(before: &ClusterSpec, after: &ClusterSpec, live: &LiveCluster) -> Option<String> {
    let was = live.founded_slots.or_else(|| live.spec.is_some().then_some(before.slots))?;
    (was != after.slots && (before.slots != after.slots || live.founded_slots.is_some())).then(|| {
        format!(
            "slots is fixed when the cluster is founded: a cluster that runs keeps {was}; for {slots}, start its nodes with \
             another --cluster-name, or declare {was}",
            slots = after.slots
        )
    })
}

impl ClusterAction {
    /// What happens to the clients of a node, which are counted.
    fn clients_of(&mut self, name: &Arc<str>, live: &LiveCluster) -> String {
        let Some(clients) = live.clients.get(name) else { return "disconnects its clients".to_owned() };
        self.disconnects += clients;
        match clients {
            0 => "has no clients".to_owned(),
            1 => "disconnects its 1 client".to_owned(),
            clients => format!("disconnects its {clients} clients"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(evacuate: &[&str], removed: &[&str], slots: u16) -> Arc<ClusterSpec> {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        Arc::new(ClusterSpec { evacuate: names(evacuate), removed: names(removed), slots, ..ClusterSpec::default() })
    }

    fn effects(before: Option<Arc<ClusterSpec>>, after: Option<Arc<ClusterSpec>>) -> Vec<String> {
        let clients = [("a".into(), 3), ("b".into(), 0)].into();
        let live = LiveCluster { spec: before, founded_slots: None, clients };
        plan_cluster(after.as_ref(), &live).map(|action| action.effects).unwrap_or_default()
    }

    #[test]
    fn nodes_that_are_evacuated_or_removed_are_named_with_their_clients() {
        assert_eq!(
            effects(None, Some(spec(&["a", "c"], &["b"], 16))),
            [
                "a is evacuated: it accepts no new clients, disconnects its 3 clients, and stays a member",
                "c is evacuated: it accepts no new clients, disconnects its clients, and stays a member",
                "b is removed: it takes part no more, has no clients, and its record is deleted",
            ]
        );
        assert_eq!(
            effects(Some(spec(&["a", "c"], &["b"], 16)), Some(spec(&[], &["c"], 16))),
            [
                "c is removed: it takes part no more, disconnects its clients, and its record is deleted",
                "a accepts clients again",
                "b may take part again",
            ]
        );
        assert_eq!(effects(Some(spec(&["a"], &[], 16)), None), ["a accepts clients again"]);
    }

    #[test]
    fn slots_of_a_founded_cluster_do_not_change() {
        let message = "slots is fixed when the cluster is founded: a cluster that runs keeps 16; for 32, start its nodes \
                       with another --cluster-name, or declare 16";
        assert_eq!(effects(Some(spec(&[], &[], 16)), Some(spec(&[], &[], 32))), [message]);
        // Nothing is known of a cluster without a document.
        assert_eq!(effects(None, Some(spec(&[], &[], 32))), [""; 0]);
        let live = LiveCluster { founded_slots: Some(16), ..LiveCluster::default() };
        assert_eq!(plan_cluster(Some(&spec(&[], &[], 32)), &live).unwrap().effects, [message]);
        assert_eq!(plan_cluster(Some(&spec(&[], &[], 16)), &live).unwrap().effects, [""; 0]);
    }
}
