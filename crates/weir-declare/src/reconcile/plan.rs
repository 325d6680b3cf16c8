//! Plans the smallest actions from live to declared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::action::{ActionKind, Disconnects, EndpointAction, NodeSettings};
use super::bridges::{BridgeAction, Bridges, effective_bridges, plan_bridges};
use super::cluster::{ClusterAction, LiveCluster, plan_cluster};
use super::effective::{Bans, EffectiveEndpoint, FileDigests};
use super::events::{EventsAction, plan_events};
use super::lock_out::LockOut;
use crate::config::{BindAddress, ChangeClass, Declared, Endpoint, EventTopics, FieldChange, Name, PruneGuard};

/// The live endpoints, bridges, events and settings of the cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LiveState {
    /// Endpoints that listen, or should; without those that are only draining.
    pub endpoints: BTreeMap<Name, LiveEndpoint>,
    /// The bridges that run.
    pub bridges: Bridges,
    /// The events that are published; `None`: none are.
    pub events: Option<Arc<EventTopics>>,
    /// The cluster, as far as it is known.
    pub cluster: LiveCluster,
}

/// A live endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveEndpoint {
    /// The declaration that is in force.
    pub effective: EffectiveEndpoint,
    /// Where it listens.
    pub address: BindAddress,
    /// Read from the socket; `false`: the listener was lost.
    pub listening: bool,
    /// Open connections; `None`: not counted, as in a plan against files.
    pub connections: Option<u32>,
}

/// The actions from live to declared: one per endpoint that is declared or live, by name, one per bridge, one for the
/// events, and one for the cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Actions on endpoints, in the order in which they are done.
    pub actions: Vec<EndpointAction>,
    /// Actions on bridges.
    pub bridges: Vec<BridgeAction>,
    /// `None`: there is nothing to do.
    pub events: Option<EventsAction>,
    /// `None`: there is nothing to do.
    pub cluster: Option<ClusterAction>,
}

impl Plan {
    /// Whether there is nothing to do, neither now nor later.
    pub fn is_empty(&self) -> bool {
        let no_endpoint = self.actions.iter().all(|action| action.kind == ActionKind::None);
        no_endpoint && self.due_bridges().next().is_none() && self.events.is_none() && self.cluster.is_none()
    }

    /// The endpoints that will refuse all clients, by name.
    pub fn lock_outs(&self) -> impl Iterator<Item = (&Name, LockOut)> {
        self.actions.iter().filter_map(|action| Some((&action.name, action.lock_out?)))
    }

    /// The actions for bridges.
    pub fn due_bridges(&self) -> impl Iterator<Item = &BridgeAction> {
        self.bridges.iter().filter(|action| action.kind != ActionKind::None)
    }

    /// The actions that do not wait.
    pub fn due(&self) -> impl Iterator<Item = &EndpointAction> {
        self.actions.iter().filter(|action| action.is_due())
    }

    /// Whether an endpoint has an action that does not wait.
    pub fn is_due(&self, name: &str) -> bool {
        self.get(name).is_some_and(EndpointAction::is_due)
    }

    /// The known maximum of clients that it disconnects.
    pub fn disconnects(&self) -> u64 {
        self.due().map(|action| u64::from(action.disconnects.at_most())).sum()
    }

    /// The action for an endpoint.
    pub fn get(&self, name: &str) -> Option<&EndpointAction> {
        let at = self.actions.binary_search_by(|action| action.name.as_str().cmp(name)).ok()?;
        self.actions.get(at)
    }
}

/// Endpoints whose planned action failed, and why: they keep their live declaration and address.
pub type Pinned = BTreeMap<Name, String>;

/// Plans the actions from `live` to `declared` on `node`. `files` holds the digest of every referenced file. The guard
/// has confirmed the deletions in `declared`; see [`super::DeletionGuard`].
pub fn plan(declared: &Declared, live: &LiveState, node: &NodeSettings, files: &FileDigests, pinned: &Pinned) -> Plan {
    let bans = shared_bans(declared, live);
    let names: BTreeSet<&Name> = declared.endpoints.keys().chain(live.endpoints.keys()).collect();
    // An endpoint that cannot move may block another one, which cannot move either.
    let mut unmoved: BTreeSet<Name> = pinned.keys().cloned().collect();
    loop {
        let conflicts = conflicts(declared, live, node, &unmoved);
        let plan_one = |name: &&Name| plan_endpoint(name, declared, live, node, files, &bans, &conflicts);
        let mut actions: Vec<EndpointAction> = names.iter().filter_map(plan_one).collect();
        for action in &mut actions {
            action.waits = pinned.get(&action.name).filter(|_| action.kind != ActionKind::None).cloned();
        }
        hold_disconnects(&mut actions, declared.reconcile.max_disconnects, &declared.reconcile.prune);
        let stays = |action: &&EndpointAction| action.waits.is_some() || action.kind == ActionKind::Conflicted;
        let known = unmoved.len();
        unmoved.extend(actions.iter().filter(stays).map(|action| action.name.clone()));
        if unmoved.len() == known {
            let bridges = plan_bridges(&effective_bridges(declared, node, files), &live.bridges);
            let events = plan_events(declared.events.as_ref(), live.events.as_ref());
            let cluster = plan_cluster(declared.cluster.as_ref(), &live.cluster);
            return Plan { actions, bridges, events, cluster };
        }
    }
}

fn plan_endpoint(
    name: &Name,
    declared: &Declared,
    live: &LiveState,
    node: &NodeSettings,
    files: &FileDigests,
    bans: &Arc<Bans>,
    conflicts: &BTreeMap<Name, Name>,
) -> Option<EndpointAction> {
    let running = live.endpoints.get(name);
    let Some(endpoint) = declared.endpoints.get(name) else {
        return running.map(|running| stop_action(ActionKind::Remove, name, running, None));
    };
    if !runs_on(endpoint, node) {
        return Some(idle_action(endpoint, running, node));
    }
    let effective = EffectiveEndpoint::resolve(endpoint, declared, bans, files);
    let to = endpoint.listen.bind_address(node.default_host);
    Some(match (conflicts.get(name), running) {
        (Some(holder), _) => conflicted_action(effective, to, running, holder),
        (None, Some(running)) => update_action(effective, to, running),
        (None, None) => add_action(effective, to),
    })
}

/// The declared bans. Returns the live map if it is equal, so that later comparisons compare pointers.
fn shared_bans(declared: &Declared, live: &LiveState) -> Arc<Bans> {
    let known = live.endpoints.values().map(|running| &running.effective.bans).find(|bans| ***bans == declared.bans);
    known.map_or_else(|| Arc::new(declared.bans.clone()), Arc::clone)
}

fn runs_on(endpoint: &Endpoint, node: &NodeSettings) -> bool {
    endpoint.enabled && node.holds(endpoint)
}

/// An endpoint's request for an address.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct AddressRequest<'a> {
    /// Whether it does not listen there yet. Listening endpoints sort first and keep the address; then by name.
    newcomer: bool,
    name: &'a Name,
    address: BindAddress,
}

/// Endpoints whose address another endpoint has, with that endpoint. `unmoved` endpoints keep their live address.
fn conflicts(
    declared: &Declared,
    live: &LiveState,
    node: &NodeSettings,
    unmoved: &BTreeSet<Name>,
) -> BTreeMap<Name, Name> {
    let mut requests: Vec<AddressRequest<'_>> = Vec::new();
    for (name, endpoint) in declared.endpoints.iter().filter(|(_, endpoint)| runs_on(endpoint, node)) {
        let address = endpoint.listen.bind_address(node.default_host);
        let held = live.endpoints.get(name).map(|running| &running.address);
        let newcomer = held != Some(&address);
        requests.push(AddressRequest { newcomer, name, address });
    }
    for (name, running) in live.endpoints.iter().filter(|(name, _)| unmoved.contains(*name)) {
        requests.push(AddressRequest { newcomer: false, name, address: running.address.clone() });
    }
    requests.sort();
    let mut taken: BTreeMap<Option<u16>, Vec<(&Name, BindAddress)>> = BTreeMap::new();
    let mut conflicts = BTreeMap::new();
    for AddressRequest { name, address, .. } in requests {
        let port = match &address {
            BindAddress::Tcp(address) => Some(address.port()),
            BindAddress::Unix(_) => None,
        };
        let there = taken.entry(port).or_default();
        let blocks = |other: &Name, taken: &BindAddress| {
            other != name && taken.overlaps(&address) && can_share_node(declared, other, name)
        };
        match there.iter().find(|(other, taken)| blocks(other, taken)) {
            Some((holder, _)) => {
                conflicts.insert(name.clone(), (*holder).clone());
            }
            None => there.push((name, address)),
        }
    }
    conflicts
}

/// Whether one node can run both endpoints. An endpoint that is not declared any more may run on every node.
fn can_share_node(declared: &Declared, a: &Name, b: &Name) -> bool {
    let (Some(a), Some(b)) = (declared.endpoints.get(a), declared.endpoints.get(b)) else { return true };
    a.can_share_node_with(b)
}

fn empty_action(name: &Name, kind: ActionKind) -> EndpointAction {
    EndpointAction {
        name: name.clone(),
        kind,
        changes: Vec::new(),
        from: None,
        to: None,
        disconnects: Disconnects::None,
        lock_out: None,
        waits: None,
        note: None,
        effective: None,
    }
}

/// The action for an endpoint that is declared, but not to run on this node.
fn idle_action(endpoint: &Endpoint, running: Option<&LiveEndpoint>, node: &NodeSettings) -> EndpointAction {
    let note = if !endpoint.enabled {
        "enabled: false".to_owned()
    } else {
        let wanted = endpoint.nodes.iter().find(|(key, value)| {
            node.labels.as_ref().and_then(|labels| labels.get(&***key)).is_none_or(|v| **v != ***value)
        });
        wanted.map_or_else(String::new, |(key, value)| format!("for nodes with {key}: {value}"))
    };
    match running {
        Some(running) => stop_action(ActionKind::Drain, &endpoint.name, running, Some(note)),
        None => EndpointAction { note: Some(note), ..empty_action(&endpoint.name, ActionKind::None) },
    }
}

fn stop_action(kind: ActionKind, name: &Name, running: &LiveEndpoint, note: Option<String>) -> EndpointAction {
    let from = Some(running.address.clone());
    EndpointAction { from, disconnects: all_connections(running), note, ..empty_action(name, kind) }
}

fn add_action(effective: EffectiveEndpoint, to: BindAddress) -> EndpointAction {
    let name = effective.endpoint.name.clone();
    EndpointAction { to: Some(to), effective: Some(effective), ..empty_action(&name, ActionKind::Add) }
}

fn conflicted_action(
    effective: EffectiveEndpoint,
    to: BindAddress,
    running: Option<&LiveEndpoint>,
    holder: &Name,
) -> EndpointAction {
    let name = effective.endpoint.name.clone();
    let note = format!("{to} is held by endpoint {holder}");
    let from = running.map(|running| running.address.clone());
    let changes = running.map_or_else(Vec::new, |running| running.effective.changes(&effective));
    EndpointAction {
        from,
        to: Some(to),
        note: Some(note),
        changes,
        effective: Some(effective),
        ..empty_action(&name, ActionKind::Conflicted)
    }
}

fn update_action(effective: EffectiveEndpoint, to: BindAddress, running: &LiveEndpoint) -> EndpointAction {
    let mut changes = running.effective.changes(&effective);
    let moves = to != running.address;
    if !moves {
        // The same socket: `host` is written out, or is the node's.
        for change in changes.iter_mut().filter(|change| matches!(change.path.as_str(), "host" | "port")) {
            change.class = ChangeClass::Cosmetic;
        }
    }
    let rebinds = moves || !running.listening || changes.iter().any(|change| change.class == ChangeClass::Rebind);
    let kind = match () {
        () if rebinds => ActionKind::Rebind,
        () if changes.is_empty() => ActionKind::None,
        () => ActionKind::Update,
    };
    let restarts = changes.iter().any(|change| change.path == "restartedAt");
    let disconnects = if moves || restarts {
        all_connections(running)
    } else {
        changes.iter().fold(Disconnects::None, |all, change| all.larger(disconnects_of(change, running)))
    };
    let name = effective.endpoint.name.clone();
    EndpointAction {
        kind,
        changes,
        from: Some(running.address.clone()),
        to: Some(to),
        disconnects,
        lock_out: LockOut::between(&running.effective, &effective),
        note: (!running.listening).then(|| "its listener was lost".to_owned()),
        effective: Some(effective),
        ..empty_action(&name, kind)
    }
}

fn all_connections(running: &LiveEndpoint) -> Disconnects {
    match running.connections {
        None => Disconnects::Uncounted,
        Some(0) => Disconnects::None,
        Some(count) => Disconnects::Exactly(count),
    }
}

/// The clients that a change without a new socket disconnects.
fn disconnects_of(change: &FieldChange, running: &LiveEndpoint) -> Disconnects {
    if change.class != ChangeClass::Drain {
        return Disconnects::None;
    }
    let Some(connections) = running.connections else { return Disconnects::Uncounted };
    if change.path == "maxConnectionSize" {
        let limit = change.new.as_ref().and_then(serde_json::Value::as_u64).unwrap_or(u64::MAX);
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        return match connections.saturating_sub(limit) {
            0 => Disconnects::None,
            over => Disconnects::Exactly(over),
        };
    }
    // These fields are the same for all connections, and without an auth document none of them is valid any more. All
    // other changes are checked per connection.
    let is_same_for_all = matches!(change.path.as_str(), "useWebsocket" | "sslConfig" | "mountpoint" | "proxyProtocol")
        || change.path.starts_with("auth ") && change.new.is_none();
    match connections {
        0 => Disconnects::None,
        count if is_same_for_all => Disconnects::Exactly(count),
        count => Disconnects::UpTo(count),
    }
}

/// Makes all actions that disconnect clients wait, if together they disconnect more than `limit`. Endpoints in
/// `prune.confirm` are confirmed.
fn hold_disconnects(actions: &mut [EndpointAction], limit: Option<u32>, prune: &PruneGuard) {
    let Some(limit) = limit else { return };
    let unconfirmed =
        |action: &EndpointAction| action.disconnects.at_most() > 0 && !prune.confirm.contains(&action.name);
    let total: u64 = actions.iter().filter(|a| unconfirmed(a)).map(|a| u64::from(a.disconnects.at_most())).sum();
    if total <= u64::from(limit) {
        return;
    }
    for action in actions.iter_mut().filter(|action| unconfirmed(action)) {
        action.waits = Some(format!(
            "{total} clients would be disconnected, reconcile.maxDisconnects allows {limit}; name the endpoint in \
             reconcile.prune.confirm, or raise the limit"
        ));
    }
}
