//! One pass from declared to live: plan, prepare everything, then commit it at once.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::files::{Contents, ReadFiles, hex};
use super::leave::Leaving;
use super::plane::{Plane, SocketChange};
use super::reconciler::{Reconciler, Running};
use super::{compile, drain, tls};
use crate::net::{ListenerPolicy, ListenerStatus, SocketKey, SocketOptions};
use crate::telemetry::{PASS, SpanHandle};
use weir_broker::EndpointId;
use weir_declare::config::{ChangeClass, Name};
use weir_declare::reconcile::{
    self, Action, ActionKind, EffectiveEndpoint, Live, LiveEndpoint, Pinned, Plan, Reason, Timestamp,
};

/// Why an action could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// What came of a pass.
#[derive(Debug, Default)]
pub(super) struct Converged {
    /// What was planned, with what had to wait.
    pub(super) plan: Plan,
    pub(super) failures: BTreeMap<Name, Failure>,
    /// What could not be read of what the endpoints refer to.
    pub(super) unreadable: BTreeMap<Name, String>,
}

/// An action whose sockets are bound and whose files are loaded.
struct Prepared<S> {
    id: EndpointId,
    key: SocketKey,
    options: SocketOptions,
    policy: Arc<ListenerPolicy>,
    /// `None`: a socket that is there already takes the policy.
    socket: Option<S>,
    digest: Arc<str>,
    certificate_expires_at: Option<Timestamp>,
    /// The action's span, which ends when it is in force.
    step: SpanHandle,
}

impl<P: Plane, F: ReadFiles> Reconciler<P, F> {
    /// Brings live to what is applied, as far as it can be done; an action that fails concerns its endpoint alone.
    pub(super) async fn converge(&mut self, now: Timestamp) -> Converged {
        self.forget_the_gone();
        let planning = self.tracer.step(PASS, "plan");
        let mut applying = None;
        let referenced = self.referenced();
        let contents = Contents::read(&mut self.files, referenced.iter());
        self.judge_the_leaving(&contents).await;
        let statuses = self.plane.listeners();
        self.note_listeners(&statuses);
        let live = self.live();
        let mut pinned = Pinned::new();
        let mut failures = BTreeMap::new();
        let mut prepared: BTreeMap<Name, Prepared<P::Socket>> = BTreeMap::new();
        let plan = loop {
            let plan = reconcile::plan(&self.applied, &live, &self.options.node, &contents.digests, &pinned);
            let applying = *applying.get_or_insert_with(|| self.planned(planning, &plan));
            prepared.retain(|name, _| plan.is_due(name.as_str()));
            let mut failed = false;
            for action in plan.due().filter(|action| needs_preparation(action)) {
                if prepared.contains_key(&action.name) {
                    continue;
                }
                let step = self.begin_action(applying, action);
                match self.prepare(action, &live, &contents, step) {
                    Ok(ready) => drop(prepared.insert(action.name.clone(), ready)),
                    Err(failure) => {
                        self.tracer.fail(step, failure.message.as_str());
                        self.tracer.end(step);
                        failed = true;
                        pinned.insert(action.name.clone(), failure.message.clone());
                        failures.insert(action.name.clone(), failure);
                    }
                }
            }
            if !failed {
                break plan;
            }
        };
        let unreadable = self.unreadable(&contents);
        let mut converged = Converged { plan, failures, unreadable };
        let applying = applying.unwrap_or(PASS);
        self.commit(&mut converged, prepared, &statuses, (applying, now)).await;
        for action in converged.plan.due() {
            if let Some(running) = self.running.get_mut(&action.name) {
                running.listening = self.plane.listener(&running.key).is_some_and(|status| status.alive);
            }
        }
        self.commit_bridges(&converged.plan, &contents, applying);
        self.tracer.end(applying);
        converged
    }

    /// Files that what is applied refers to.
    fn referenced(&self) -> BTreeSet<PathBuf> {
        let endpoints = self.applied.endpoints.values().filter(|endpoint| self.options.node.holds(endpoint));
        endpoints
            .flat_map(|endpoint| {
                let auth = endpoint.enable_auth.then(|| self.applied.auths.get(endpoint.auth_name())).flatten();
                reconcile::file_references(endpoint, auth.map(|auth| &**auth))
            })
            .chain(self.leaving.iter().flat_map(|leaving| leaving.running.effective.file_references()))
            .map(|reference| reference.path)
            .chain(self.bridge_files())
            .collect()
    }

    fn unreadable(&self, contents: &Contents) -> BTreeMap<Name, String> {
        let mut found = BTreeMap::new();
        for (name, endpoint) in self.applied.endpoints.iter().filter(|(_, endpoint)| endpoint.enabled) {
            let auth = endpoint.enable_auth.then(|| self.applied.auths.get(endpoint.auth_name())).flatten();
            for reference in reconcile::file_references(endpoint, auth.map(|auth| &**auth)) {
                if let Some(Err(message)) = contents.digests.get(&reference.path) {
                    found.entry(name.clone()).or_insert_with(|| format!("{}: {message}", reference.path.display()));
                }
            }
        }
        found
    }

    /// Notes who listens, as the sockets themselves say.
    pub(super) fn note_listeners(&mut self, statuses: &[ListenerStatus]) {
        let alive: HashSet<&SocketKey> =
            statuses.iter().filter(|status| status.alive).map(|status| &status.key).collect();
        for running in self.running.values_mut() {
            running.listening = alive.contains(&running.key);
        }
    }

    /// What runs.
    fn live(&self) -> Live {
        let endpoints = self.running.iter().map(|(name, running)| {
            let live = LiveEndpoint {
                effective: running.effective.clone(),
                address: running.address.clone(),
                listening: running.listening,
                connections: Some(self.plane.connections(running.id)),
            };
            (name.clone(), live)
        });
        Live { endpoints: endpoints.collect(), bridges: self.bridges.live() }
    }

    fn prepare(
        &mut self,
        action: &Action,
        live: &Live,
        files: &Contents,
        step: SpanHandle,
    ) -> Result<Prepared<P::Socket>, Failure> {
        let (Some(effective), Some(to)) = (&action.effective, &action.to) else {
            return Err(Failure { reason: Reason::Pending, message: "there is nothing to prepare".into() });
        };
        if effective.endpoint.limits.is_durable() && !self.options.has_store {
            let message =
                "`durability: disk` needs a place: start weir with --data-dir, or declare `durability: memory`";
            return Err(Failure { reason: Reason::NoStore, message: message.into() });
        }
        let bad_file = |message| Failure { reason: Reason::BadFile, message };
        let known = self.running.get(&action.name);
        let id = known.map_or(EndpointId(self.next_id), |running| running.id);
        let generation = self.generations.get(&action.name).copied().unwrap_or_default() + 1;
        let policy = compile::policy(id, generation, effective, &self.auth_compiler, files).map_err(bad_file)?;
        let key = compile::socket_key(to);
        let options = compile::socket_options(&effective.endpoint);
        let restarts = action.changes.iter().any(|change| change.path == "restartedAt");
        let socket = if !restarts && self.has_socket(&key, &options, live) || self.keeps_unix_socket(&key, live) {
            None
        } else {
            Some(self.bind(&key, &options)?)
        };
        if known.is_none() {
            self.next_id += 1;
        }
        Ok(Prepared {
            id,
            key,
            options,
            policy: Arc::new(policy),
            socket,
            digest: digest_of(effective),
            certificate_expires_at: tls::expires_at(&effective.endpoint, files),
            step,
        })
    }

    fn bind(&self, key: &SocketKey, options: &SocketOptions) -> Result<P::Socket, Failure> {
        let error = match self.plane.bind(key, options) {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        let in_use = error.kind() == std::io::ErrorKind::AddrInUse;
        let holder = if in_use { self.plane.holder(key) } else { None };
        match holder {
            // Who had it may have gone while it was looked for.
            None if in_use => self.plane.bind(key, options).map_err(|error| bind_failure(key, &error, None)),
            holder => Err(bind_failure(key, &error, holder.as_deref())),
        }
    }

    /// Whether a live socket of ours, whoever has it now, is what is wanted.
    fn has_socket(&self, key: &SocketKey, options: &SocketOptions, live: &Live) -> bool {
        self.running.iter().any(|(name, running)| {
            let listening = live.endpoints.get(name).is_some_and(|live| live.listening);
            running.key == *key && running.options == *options && listening
        })
    }

    /// A Unix socket's path cannot be bound twice: a live one stays, whatever its options.
    fn keeps_unix_socket(&self, key: &SocketKey, live: &Live) -> bool {
        matches!(key, SocketKey::Unix(_))
            && self.running.iter().any(|(name, running)| {
                running.key == *key && live.endpoints.get(name).is_some_and(|live| live.listening)
            })
    }

    /// Puts everything prepared in force between two accepts, then deals with who is connected.
    async fn commit(
        &mut self,
        converged: &mut Converged,
        prepared: BTreeMap<Name, Prepared<P::Socket>>,
        statuses: &[ListenerStatus],
        (applying, now): (SpanHandle, Timestamp),
    ) {
        let leaving: Vec<Action> = converged
            .plan
            .due()
            .filter(|action| matches!(action.kind, ActionKind::Remove | ActionKind::Drain))
            .cloned()
            .collect();
        let (changes, installed) = self.changes(&leaving, prepared, statuses);
        if !changes.is_empty()
            && let Err(error) = self.plane.install(changes).await
        {
            tracing::error!(%error, "the data plane refused a change; the next pass begins with what it has");
            for (name, new) in installed {
                let failure = Failure { reason: Reason::BindFailed, message: error.to_string() };
                self.tracer.fail(new.step, failure.message.as_str());
                converged.failures.insert(name, failure);
            }
            return;
        }
        for action in &leaving {
            let step = self.begin_action(applying, action);
            self.let_go(action, now).await;
            self.tracer.end(step);
        }
        for (name, new) in installed {
            if let Some(action) = converged.plan.get(name.as_str()).cloned() {
                let step = new.step;
                self.put_in_force(&action, new).await;
                self.tracer.end(step);
            }
        }
        for action in converged.plan.due().filter(|action| !needs_preparation(action)) {
            let step = self.begin_action(applying, action);
            if let (Some(running), Some(effective)) = (self.running.get_mut(&action.name), &action.effective) {
                running.effective = effective.clone(); // cosmetic
                running.digest = digest_of(effective);
            }
            self.tracer.end(step);
        }
    }

    /// What to tell the acceptor, and what it puts in force.
    #[allow(clippy::type_complexity)] // a pair of lists, taken apart at once
    fn changes(
        &self,
        leaving: &[Action],
        prepared: BTreeMap<Name, Prepared<P::Socket>>,
        statuses: &[ListenerStatus],
    ) -> (Vec<SocketChange<P::Socket>>, Vec<(Name, Prepared<()>)>) {
        let going: BTreeSet<&Name> = leaving.iter().map(|action| &action.name).collect();
        let mut wanted: BTreeSet<SocketKey> = prepared.values().map(|new| new.key.clone()).collect();
        let staying = |name: &Name| !going.contains(name) && !prepared.contains_key(name);
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
        let installed_here: BTreeSet<&SocketKey> = statuses.iter().map(|status| &status.key).collect();
        changes.extend(
            unwanted.into_iter().filter(|key| installed_here.contains(key)).map(|key| SocketChange::Remove { key }),
        );
        (changes, installed)
    }

    /// An endpoint's listener is gone; its clients are asked to leave.
    async fn let_go(&mut self, action: &Action, _now: Timestamp) {
        let Some(running) = self.running.remove(&action.name) else { return };
        let connections = self.plane.connections(running.id);
        let for_good = action.kind == ActionKind::Remove;
        let plan = drain::everybody(&running.policy, &running.effective.endpoint.drain, connections, for_good);
        self.start_drain(&action.name, &running, plan).await;
        tracing::info!(endpoint = %action.name, address = %running.address, connections, "listener closed");
        self.leaving.push(Leaving { name: action.name.clone(), id: running.id, running });
    }

    async fn put_in_force(&mut self, action: &Action, new: Prepared<()>) {
        let Some(effective) = action.effective.clone() else { return };
        let Some(address) = action.to.clone() else { return };
        let endpoint = Arc::clone(&effective.endpoint);
        let policy = new.policy;
        *self.generations.entry(action.name.clone()).or_default() = policy.endpoint.generation;
        let moved = action.from.as_ref().is_some_and(|from| *from != address);
        let restarts = action.changes.iter().any(|change| change.path == "restartedAt");
        let running = Running {
            id: new.id,
            effective,
            shown_address: Arc::from(address.to_string()),
            address,
            key: new.key,
            listening: false,
            options: new.options,
            policy: Arc::clone(&policy),
            digest: new.digest,
            certificate_expires_at: new.certificate_expires_at,
        };
        if action.kind == ActionKind::Add {
            tracing::info!(endpoint = %action.name, address = %running.address, protocol = protocol(&policy), "listening");
            self.running.insert(action.name.clone(), running);
            return;
        }
        if let Err(error) = self.plane.set_policy(Arc::clone(&policy)).await {
            tracing::error!(endpoint = %action.name, %error, "open connections did not get the new policy");
        }
        let connections = self.plane.connections(running.id);
        let anew = moved || restarts;
        for plan in drain::after_change(&action.changes, anew, &policy, &endpoint.drain, connections) {
            self.start_drain(&action.name, &running, plan).await;
        }
        let changed: Vec<&str> = action.changes.iter().map(|change| change.path.as_str()).collect();
        tracing::info!(
            endpoint = %action.name, address = %running.address, changed = changed.join(", "), "changed"
        );
        self.running.insert(action.name.clone(), running);
    }
}

/// Whether an action needs more than to be noted.
fn needs_preparation(action: &Action) -> bool {
    match action.kind {
        ActionKind::Add | ActionKind::Rebind => true,
        ActionKind::Update => action.changes.iter().any(|change| change.class > ChangeClass::Cosmetic),
        ActionKind::Drain | ActionKind::Remove | ActionKind::Conflicted | ActionKind::None => false,
    }
}

fn bind_failure(key: &SocketKey, e: &std::io::Error, holder: Option<&str>) -> Failure {
    let (reason, cause) = match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            let holder = holder.map_or_else(String::new, |holder| format!(" by {holder}"));
            (Reason::AddressInUse, format!("the address is in use{holder}; it is tried again until it is free"))
        }
        std::io::ErrorKind::AddrNotAvailable => (Reason::BindFailed, "this machine has no such address".to_owned()),
        std::io::ErrorKind::PermissionDenied => {
            (Reason::BindFailed, "permission denied (ports below 1024 need CAP_NET_BIND_SERVICE)".to_owned())
        }
        _ => (Reason::BindFailed, e.to_string()),
    };
    Failure { reason, message: format!("cannot listen on {key}: {cause}") }
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

/// Over what an endpoint runs by: itself, the documents it refers to, the contents of its files.
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
