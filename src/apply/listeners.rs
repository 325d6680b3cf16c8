//! The endpoints that listen: prepares, installs and removes their listeners.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::cluster_document::DisconnectCause;
use super::draining::{DrainReport, Drains};
use super::files::{FileContents, hex};
use super::interceptors::InterceptorRegistry;
use super::plane::{Plane, SocketChange};
use super::running::{ActionFailure, EndpointIds, RunningEndpoint};
use super::{compile, drain_plan, tls};
use crate::auth::{AuthCompiler, Authenticators};
use crate::net::{ListenerPolicy, ListenerStatus, SocketKey, SocketOptions};
use crate::references::AllowedVariables;
use crate::telemetry::SpanHandle;
use weir_broker::EndpointId;
use weir_declare::config::{ChangeClass, Declared, Name};
use weir_declare::reconcile::{
    ActionKind, ConditionReason, EffectiveEndpoint, EndpointAction, LiveEndpoint, Plan, Timestamp,
};

/// An action whose socket is bound and whose files are loaded.
pub(super) struct Prepared<S> {
    id: EndpointId,
    key: SocketKey,
    options: SocketOptions,
    policy: Arc<ListenerPolicy>,
    /// `None`: an existing socket gets the policy.
    socket: Option<S>,
    digest: Arc<str>,
    certificate_expires_at: Option<Timestamp>,
    /// The action's span, which ends when it is installed.
    pub(super) step: SpanHandle,
}

/// Prepared actions, by endpoint.
pub(super) type PreparedActions<P> = BTreeMap<Name, Prepared<<P as Plane>::Socket>>;

/// The listeners of this node, and the drains of their clients.
pub(super) struct Listeners<P: Plane> {
    plane: Arc<P>,
    /// Compiles auth documents; remembers failed authentications of clients across policies.
    auth_compiler: AuthCompiler,
    interceptors: InterceptorRegistry,
    running: BTreeMap<Name, RunningEndpoint>,
    /// Counts the applied changes of each endpoint.
    generations: BTreeMap<Name, u64>,
    drains: Drains<P>,
}

impl<P: Plane> Listeners<P> {
    /// Nothing listens yet. The receiver yields the drains that ended.
    pub(super) fn new(plane: Arc<P>, variables: AllowedVariables) -> (Self, mpsc::UnboundedReceiver<DrainReport>) {
        let (drains, ended) = Drains::new(Arc::clone(&plane));
        let (running, generations) = (BTreeMap::new(), BTreeMap::new());
        let auth_compiler = AuthCompiler::new(variables, &plane.auth_counters());
        let interceptors = InterceptorRegistry::default();
        (Self { plane, auth_compiler, interceptors, running, generations, drains }, ended)
    }

    /// Documents may name these authenticators and interceptors.
    pub(super) fn register(&mut self, authenticators: Authenticators, interceptors: InterceptorRegistry) {
        self.auth_compiler.register(authenticators);
        self.interceptors = interceptors;
    }

    pub(super) fn running(&self) -> &BTreeMap<Name, RunningEndpoint> {
        &self.running
    }

    pub(super) fn generations(&self) -> &BTreeMap<Name, u64> {
        &self.generations
    }

    pub(super) fn drains(&self) -> &Drains<P> {
        &self.drains
    }

    pub(super) fn drains_mut(&mut self) -> &mut Drains<P> {
        &mut self.drains
    }

    /// Disconnects the clients of every endpoint, so that they connect to other nodes of the cluster.
    #[cfg(feature = "cluster")]
    pub(super) fn disconnect_all(&mut self, cause: DisconnectCause) {
        for (name, running) in &self.running {
            let connections = self.plane.connections(running.id);
            let drain = &running.effective.endpoint.drain;
            // Nothing that is in flight can be acknowledged by a node that is out, or has no part in the cluster.
            let in_flight = cause == DisconnectCause::Evacuated;
            let plan = drain_plan::to_other_nodes(&running.policy, drain, connections, in_flight);
            self.drains.start_once(name, running.id, plan, cause);
        }
    }

    #[cfg(not(feature = "cluster"))]
    pub(super) fn disconnect_all(&mut self, cause: DisconnectCause) {
        match cause {}
    }

    /// Files that closed listeners refer to.
    pub(super) fn references(&self) -> impl Iterator<Item = PathBuf> {
        self.drains.references().map(|reference| reference.path)
    }

    /// Applies revocations to the clients of closed listeners.
    pub(super) async fn apply_revocations(&mut self, declared: &Declared, contents: &FileContents) {
        self.drains.apply_revocations(declared, (&self.auth_compiler, &self.interceptors), contents).await;
    }

    /// Records which endpoints listen, as the sockets report it.
    pub(super) fn refresh(&mut self) -> Vec<ListenerStatus> {
        let statuses = self.plane.listeners();
        let alive: HashSet<&SocketKey> =
            statuses.iter().filter(|status| status.alive).map(|status| &status.key).collect();
        for running in self.running.values_mut() {
            running.listening = alive.contains(&running.key);
        }
        statuses
    }

    /// Records which of the planned endpoints listen after the commit.
    pub(super) fn refresh_planned(&mut self, plan: &Plan) {
        for action in plan.due() {
            if let Some(running) = self.running.get_mut(&action.name) {
                running.listening = self.plane.listener(&running.key).is_some_and(|status| status.alive);
            }
        }
    }

    /// The live endpoints that the plan starts from.
    pub(super) fn live(&self) -> impl Iterator<Item = (Name, LiveEndpoint)> {
        self.running.iter().map(|(name, running)| {
            let live = LiveEndpoint {
                effective: running.effective.clone(),
                address: running.address.clone(),
                listening: running.listening,
                connections: Some(self.plane.connections(running.id)),
            };
            (name.clone(), live)
        })
    }

    /// Binds the socket and loads the files of an action.
    pub(super) fn prepare(
        &mut self,
        action: &EndpointAction,
        files: &FileContents,
        has_store: bool,
        ids: &mut EndpointIds,
        step: SpanHandle,
    ) -> Result<Prepared<P::Socket>, ActionFailure> {
        let (Some(effective), Some(to)) = (&action.effective, &action.to) else {
            return Err(ActionFailure {
                reason: ConditionReason::Pending,
                message: "there is nothing to prepare".into(),
            });
        };
        if effective.endpoint.limits.is_durable() && !has_store {
            let message = "`durability: disk` needs a data directory (`weir run --data-dir`, `ServerBuilder::data_dir`); or declare \
                           `durability: memory`";
            return Err(ActionFailure { reason: ConditionReason::NoStore, message: message.into() });
        }
        let known = self.running.get(&action.name).map(|running| running.id);
        let id = known.unwrap_or_else(|| ids.peek());
        let generation = self.generations.get(&action.name).copied().unwrap_or_default() + 1;
        let policy = compile::policy(id, generation, effective, &self.auth_compiler, &self.interceptors, files)
            .map_err(ActionFailure::of_compilation)?;
        // An unchanged address keeps the port that the system picked for 0.
        let unchanged = self.running.get(&action.name).filter(|running| running.address == *to);
        let key = unchanged.map_or_else(|| compile::socket_key(to), |running| running.key.clone());
        let options = compile::socket_options(&effective.endpoint);
        let socket = if !is_restart(action) && self.has_socket(&key, &options) || self.keeps_unix_socket(&key) {
            None
        } else {
            Some(self.bind(&key, &options)?)
        };
        Ok(Prepared {
            id: known.unwrap_or_else(|| ids.allocate()),
            key: socket.as_ref().map_or_else(|| key.clone(), |socket| P::key_of(socket, &key)),
            options,
            policy: Arc::new(policy),
            socket,
            digest: digest_of(effective),
            certificate_expires_at: tls::expires_at(&effective.endpoint, files),
            step,
        })
    }

    fn bind(&self, key: &SocketKey, options: &SocketOptions) -> Result<P::Socket, ActionFailure> {
        let error = match self.plane.bind(key, options) {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        let in_use = error.kind() == std::io::ErrorKind::AddrInUse;
        let holder = if in_use { self.plane.holder(key) } else { None };
        match holder {
            // The holder may have closed the socket meanwhile.
            None if in_use => self.plane.bind(key, options).map_err(|error| bind_failure(key, &error, None)),
            holder => Err(bind_failure(key, &error, holder.as_deref())),
        }
    }

    /// Whether one of the live sockets, of any endpoint, fits.
    fn has_socket(&self, key: &SocketKey, options: &SocketOptions) -> bool {
        let mut live = self.running.values().filter(|running| running.listening);
        live.any(|running| running.key == *key && running.options == *options)
    }

    /// A Unix socket's path cannot be bound twice: a live one stays, whatever its options.
    fn keeps_unix_socket(&self, key: &SocketKey) -> bool {
        let mut live = self.running.values().filter(|running| running.listening);
        matches!(key, SocketKey::Unix(_)) && live.any(|running| running.key == *key)
    }

    /// Installs all prepared actions between two accepts, and removes the listeners of `closing`.
    ///
    /// # Errors
    /// The data plane refuses the change; nothing is installed. With the failure, the actions that were to be installed.
    #[allow(clippy::type_complexity)] // pairs, taken apart at once
    pub(super) async fn install(
        &self,
        closing: &[EndpointAction],
        prepared: PreparedActions<P>,
        statuses: &[ListenerStatus],
    ) -> Result<Vec<(Name, Prepared<()>)>, (ActionFailure, Vec<(Name, Prepared<()>)>)> {
        let (changes, installed) = self.changes(closing, prepared, statuses);
        if changes.is_empty() {
            return Ok(installed);
        }
        match self.plane.install(changes).await {
            Ok(()) => Ok(installed),
            Err(error) => {
                tracing::error!(%error, "listener change failed: the next pass retries");
                Err((ActionFailure { reason: ConditionReason::BindFailed, message: error.to_string() }, installed))
            }
        }
    }

    /// The changes for the acceptor, and the actions that they install.
    #[allow(clippy::type_complexity)] // a pair of lists, taken apart at once
    fn changes(
        &self,
        closing: &[EndpointAction],
        prepared: PreparedActions<P>,
        statuses: &[ListenerStatus],
    ) -> (Vec<SocketChange<P::Socket>>, Vec<(Name, Prepared<()>)>) {
        let closing: BTreeSet<&Name> = closing.iter().map(|action| &action.name).collect();
        let mut wanted: BTreeSet<SocketKey> = prepared.values().map(|new| new.key.clone()).collect();
        let staying = |name: &Name| !closing.contains(name) && !prepared.contains_key(name);
        wanted.extend(self.running.iter().filter(|(name, _)| staying(name)).map(|(_, running)| running.key.clone()));
        let unwanted: BTreeSet<&SocketKey> =
            self.running.values().map(|running| &running.key).filter(|key| !wanted.contains(*key)).collect();
        let unwanted: Vec<SocketKey> = unwanted.into_iter().cloned().collect();
        let mut changes = Vec::new();
        let mut installed = Vec::new();
        for (name, new) in prepared {
            let Prepared { id, key, options, policy, socket, digest, certificate_expires_at, step } = new;
            changes.push(match socket {
                Some(socket) => SocketChange::Add { socket, policy: Arc::clone(&policy) },
                None => SocketChange::SetPolicy { key: key.clone(), policy: Arc::clone(&policy) },
            });
            let new = Prepared { id, key, options, policy, socket: None, digest, certificate_expires_at, step };
            installed.push((name, new));
        }
        let present: BTreeSet<&SocketKey> = statuses.iter().map(|status| &status.key).collect();
        changes
            .extend(unwanted.into_iter().filter(|key| present.contains(key)).map(|key| SocketChange::Remove { key }));
        (changes, installed)
    }

    /// Forgets an endpoint whose listener was removed, and drains its clients.
    pub(super) async fn close(&mut self, action: &EndpointAction) {
        let Some(running) = self.running.remove(&action.name) else {
            debug_assert!(false, "{}: an endpoint that does not listen was planned to close", action.name);
            return;
        };
        let connections = self.plane.connections(running.id);
        let for_good = action.kind == ActionKind::Remove;
        let plan = drain_plan::all_clients(&running.policy, &running.effective.endpoint.drain, connections, for_good);
        self.drains.start(&action.name, &running, plan).await;
        tracing::info!(endpoint = %action.name, address = %running.address, connections, "listener closed");
        self.drains.add_closed(action.name.clone(), running);
    }

    /// Records an endpoint whose listener was installed, and drains clients that its change concerns.
    pub(super) async fn activate(&mut self, action: &EndpointAction, new: Prepared<()>) {
        let (Some(effective), Some(address)) = (action.effective.clone(), action.to.clone()) else {
            debug_assert!(false, "{}: an action without effect was prepared", action.name);
            return;
        };
        let endpoint = Arc::clone(&effective.endpoint);
        let policy = new.policy;
        *self.generations.entry(action.name.clone()).or_default() = policy.endpoint.generation;
        let moved = action.from.as_ref().is_some_and(|from| *from != address);
        let running = RunningEndpoint {
            id: new.id,
            effective,
            shown_address: Arc::from(new.key.to_string()),
            address,
            key: new.key,
            listening: false,
            options: new.options,
            policy: Arc::clone(&policy),
            digest: new.digest,
            certificate_expires_at: new.certificate_expires_at,
        };
        if action.kind == ActionKind::Add {
            tracing::info!(
                endpoint = %action.name, address = %running.key, protocol = protocol(&policy), "listener bound"
            );
            self.running.insert(action.name.clone(), running);
            return;
        }
        if let Err(error) = self.plane.set_policy(Arc::clone(&policy)).await {
            tracing::error!(
                endpoint = %action.name, %error, "policy update failed: open connections keep the former policy"
            );
        }
        let connections = self.plane.connections(running.id);
        let is_new_socket = moved || is_restart(action);
        for plan in drain_plan::after_change(&action.changes, is_new_socket, &policy, &endpoint.drain, connections) {
            self.drains.start(&action.name, &running, plan).await;
        }
        let changed: Vec<&str> = action.changes.iter().map(|change| change.path.as_str()).collect();
        tracing::info!(
            endpoint = %action.name, address = %running.address, changed = changed.join(", "), "endpoint changed"
        );
        self.running.insert(action.name.clone(), running);
    }

    /// Records a change that concerns neither the listener nor its clients.
    pub(super) fn note_cosmetic(&mut self, action: &EndpointAction) {
        if let (Some(running), Some(effective)) = (self.running.get_mut(&action.name), &action.effective) {
            running.effective = effective.clone();
            running.digest = digest_of(effective);
        }
    }

    /// The digest of all listeners.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"weir live v1\n");
        for (name, running) in &self.running {
            for part in [name.as_str(), " ", &running.shown_address, " ", &running.digest, "\n"] {
                hash.update(part);
            }
        }
        format!("v1-{}", hex(&hash.finalize()))
    }
}

/// Whether an action needs more than to be recorded.
pub(super) fn needs_preparation(action: &EndpointAction) -> bool {
    match action.kind {
        ActionKind::Add | ActionKind::Rebind => true,
        ActionKind::Update => action.changes.iter().any(|change| change.class > ChangeClass::Cosmetic),
        ActionKind::Drain | ActionKind::Remove | ActionKind::Conflicted | ActionKind::None => false,
    }
}

fn is_restart(action: &EndpointAction) -> bool {
    action.changes.iter().any(|change| change.path == "restartedAt")
}

fn bind_failure(key: &SocketKey, e: &std::io::Error, holder: Option<&str>) -> ActionFailure {
    let (reason, cause) = match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            let holder = holder.map_or_else(String::new, |holder| format!(" by {holder}"));
            (ConditionReason::AddressInUse, format!("the address is in use{holder}; retrying until it is free"))
        }
        std::io::ErrorKind::AddrNotAvailable => {
            (ConditionReason::BindFailed, "this machine has no such address".to_owned())
        }
        std::io::ErrorKind::PermissionDenied => {
            (ConditionReason::BindFailed, "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".to_owned())
        }
        _ => (ConditionReason::BindFailed, e.to_string()),
    };
    ActionFailure { reason, message: format!("cannot listen on {key}: {cause}") }
}

fn protocol(policy: &ListenerPolicy) -> &'static str {
    let tls = matches!(policy.transport, crate::net::Transport::Tls(_));
    match (tls, policy.websocket.is_some()) {
        (false, false) => "mqtt",
        (true, false) => "mqtts",
        (false, true) => "ws",
        (true, true) => "wss",
    }
}

/// The digest of an endpoint, the documents it refers to and the contents of its files.
fn digest_of(effective: &EffectiveEndpoint) -> Arc<str> {
    let mut hash = Sha256::new();
    let mut add = |value: Result<String, serde_json::Error>| {
        hash.update(value.unwrap_or_default());
        hash.update([0]);
    };
    add(serde_json::to_string(&*effective.endpoint));
    add(serde_json::to_string(&effective.auth));
    add(serde_json::to_string(&effective.acl));
    add(serde_json::to_string(&effective.bans));
    for digest in effective.files.values() {
        hash.update(digest.as_ref().map_or("-", |digest| digest));
        hash.update([0]);
    }
    hex(&hash.finalize())
}
