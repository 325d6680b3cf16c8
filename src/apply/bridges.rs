//! Bridges: compiled from their declarations, and run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};

use super::files::{CompileError, FileContents, hex};
use super::running::EndpointIds;
use super::spans::PassTrace;
use crate::authorities::system_authorities;
use crate::net::bridge::{BridgeAddress, BridgeHost, BridgeSettings, RunningBridge};
use crate::random;
use crate::state::{BridgePlacement, BridgeRunner, BridgeState};
use weir_bridge::{BridgeSpec, LOCAL_ID_PREFIX, LoopGuard, TopicRule};
use weir_broker::EndpointId;
use weir_declare::config::{self, Bridge, BridgeRule, BridgeVersion, Declared, FileRef, Name, SecretRef};
use weir_declare::reconcile::{ActionKind, Bridges, EffectiveBridge, NodeSettings, Plan, bridge_files};
use weir_mqtt::{ProtocolVersion, QoS};

/// How long a bridge may take to drain when the broker stops.
const PAUSE_GRACE: Duration = Duration::from_secs(6);

/// The bridges of this node.
#[derive(Default)]
pub struct BridgeManager {
    host: Option<BridgeHost>,
    running: BTreeMap<Name, AppliedBridge>,
    failures: BTreeMap<Name, String>,
    /// `None`: this node is in no cluster, and runs all of its bridges.
    cluster: Option<ClusterPlace>,
    /// The random number in the loop guards of all bridges; drawn for the first one.
    loop_secret: Option<u64>,
}

/// The cluster that runs each bridge on one of its nodes.
struct ClusterPlace {
    name: Arc<str>,
    placement: Arc<BridgePlacement>,
}

struct AppliedBridge {
    effective: EffectiveBridge,
    endpoint: EndpointId,
    generation: u64,
    settings: Arc<BridgeSettings>,
    /// The node that runs it. `None`: this one, which is in no cluster.
    runner: Option<BridgeRunner>,
    /// `None` without a host, and where this node does not run it.
    running: Option<RunningBridge>,
}

impl AppliedBridge {
    /// Starts, stops or changes it as its runner says.
    fn follow_runner(&mut self, host: Option<&BridgeHost>) {
        let run = || host.map(|host| host.run(Arc::clone(&self.settings)));
        match (&self.runner, self.running.take()) {
            (None | Some(BridgeRunner::Here), None) => self.running = run(),
            (None | Some(BridgeRunner::Here), Some(running)) => {
                running.change(Arc::clone(&self.settings));
                running.set_held(false);
                self.running = Some(running);
            }
            (Some(BridgeRunner::Unknown(_)), None) => {}
            (Some(BridgeRunner::Unknown(_)), Some(running)) => {
                running.change(Arc::clone(&self.settings));
                running.set_held(true);
                self.running = Some(running);
            }
            (Some(BridgeRunner::Elsewhere(_)), Some(running)) => running.move_away(),
            // The data directory may have the session of a time when this node ran it.
            (Some(BridgeRunner::Elsewhere(_)), None) if self.effective.durable => {
                run().into_iter().for_each(RunningBridge::move_away);
            }
            (Some(BridgeRunner::Elsewhere(_)), None) => {}
        }
    }
}

impl BridgeManager {
    pub(super) fn run_on(&mut self, host: BridgeHost) {
        self.host = Some(host);
    }

    /// This node is in a cluster, which runs each bridge on one node: none runs before [`BridgeManager::place`].
    #[cfg_attr(not(feature = "cluster"), allow(dead_code))]
    pub(super) fn join_cluster(&mut self, name: Arc<str>) {
        self.cluster = Some(ClusterPlace { name, placement: Arc::default() });
    }

    /// Runs the bridges where the cluster says. Returns whether something has changed.
    pub(super) fn place(&mut self, placement: Arc<BridgePlacement>) -> bool {
        let Some(cluster) = &mut self.cluster else { return false };
        cluster.placement = placement;
        let mut has_changed = false;
        for (name, bridge) in &mut self.running {
            let runner = runner(&cluster.placement, &bridge.effective);
            if bridge.runner.as_ref() == Some(&runner) {
                continue;
            }
            match &runner {
                BridgeRunner::Here => tracing::info!(bridge = %name, "bridge placed: this node runs it"),
                BridgeRunner::Elsewhere(node) => {
                    tracing::info!(bridge = %name, node = %node, "bridge placed: another node runs it")
                }
                BridgeRunner::Unknown(reason) => {
                    tracing::info!(bridge = %name, reason, "bridge not placed: no node runs it now")
                }
            }
            bridge.runner = Some(runner);
            bridge.follow_runner(self.host.as_ref());
            has_changed = true;
        }
        has_changed
    }

    /// The bridges that run, on this node or another one.
    pub(super) fn live(&self) -> Bridges {
        self.running.iter().map(|(name, live)| (name.clone(), live.effective.clone())).collect()
    }

    /// Whether a bridge's newest declaration cannot be run.
    pub(super) fn is_failing(&self, name: &Name) -> bool {
        self.failures.contains_key(name)
    }

    /// The state of every bridge, declared or running.
    pub(super) fn states(&self, declared: &Declared) -> BTreeMap<String, BridgeState> {
        let all = declared.bridges.iter();
        let running = self.running.iter().map(|(name, live)| (name, &live.effective.bridge));
        let mut states = BTreeMap::new();
        for (name, bridge) in all.chain(running) {
            states.entry(name.to_string()).or_insert_with(|| {
                let live = self.running.get(name);
                let names_it =
                    |endpoint: &&Arc<config::Endpoint>| endpoint.enable_bridge && endpoint.bridges.contains(name);
                BridgeState {
                    origin: format!("{}:{}", bridge.origin.file, bridge.origin.position.line),
                    declared: Arc::clone(bridge),
                    endpoints: declared.endpoints.values().filter(names_it).map(|e| e.name.to_string()).collect(),
                    generation: live.map_or(0, |live| live.generation),
                    endpoint: live.map(|live| live.endpoint),
                    failure: self.failures.get(name).cloned(),
                    runner: live.and_then(|live| live.runner.clone()),
                    live: live.and_then(|live| live.running.as_ref()).map(RunningBridge::status_reader),
                }
            });
        }
        states
    }

    /// Drains and disconnects all of them; their sessions stay.
    pub(super) async fn pause(&mut self) {
        let running = std::mem::take(&mut self.running).into_values().filter_map(|live| live.running);
        let pauses: Vec<_> = running.map(|bridge| tokio::spawn(bridge.pause(PAUSE_GRACE))).collect();
        for pause in pauses {
            // One that panicked has nothing left to drain.
            let _ended = pause.await;
        }
    }

    /// Files that this node's bridges refer to.
    pub(super) fn files(declared: &Declared, node: &NodeSettings) -> Vec<PathBuf> {
        let wanted = weir_declare::reconcile::effective_bridges(declared, node, &Default::default());
        wanted.values().flat_map(|wanted| bridge_files(&wanted.bridge)).map(|(path, _)| path).collect()
    }

    /// Applies the planned actions of bridges. A bridge that cannot be compiled keeps running as before.
    pub(super) fn apply(
        &mut self,
        plan: &Plan,
        node_name: &str,
        contents: &FileContents,
        ids: &mut EndpointIds,
        trace: &mut PassTrace,
    ) {
        let declared: Vec<&Name> = plan.bridges.iter().map(|action| &action.name).collect();
        self.failures.retain(|name, _| declared.contains(&name));
        for action in &plan.bridges {
            let step = trace.begin_bridge_action(action);
            match (action.kind, &action.effective) {
                (ActionKind::Remove, _) | (_, None) => self.remove(&action.name),
                (ActionKind::None, _) => drop(self.failures.remove(&action.name)),
                (_, Some(effective)) => {
                    let live = self.running.get(&action.name);
                    if live.is_some_and(|live| live.effective.namespace != effective.namespace) {
                        // Another namespace's session is another session.
                        self.remove(&action.name);
                    }
                    match self.start_or_change(effective, node_name, contents, ids) {
                        Ok(()) => drop(self.failures.remove(&action.name)),
                        Err(error) => {
                            let failure = error.to_string();
                            trace.fail(step, &failure);
                            if self.failures.get(&action.name) != Some(&failure) {
                                tracing::error!(bridge = %action.name, "bridge apply failed: {failure}");
                            }
                            self.failures.insert(action.name.clone(), failure);
                        }
                    }
                }
            }
            trace.end_action(step);
        }
    }

    fn remove(&mut self, name: &Name) {
        if let Some(running) = self.running.remove(name).and_then(|live| live.running) {
            running.remove();
        }
    }

    fn start_or_change(
        &mut self,
        effective: &EffectiveBridge,
        node_name: &str,
        contents: &FileContents,
        ids: &mut EndpointIds,
    ) -> Result<(), CompileError> {
        let name = &effective.bridge.name;
        let known = self.running.get(name);
        let endpoint = known.map_or(ids.peek(), |live| live.endpoint);
        let generation = known.map_or(0, |live| live.generation) + 1;
        let loop_secret = match self.loop_secret {
            Some(secret) => secret,
            None => random::number().map_err(|error| CompileError::Content(error.to_string()))?,
        };
        self.loop_secret = Some(loop_secret);
        let identity = Identity {
            node: node_name,
            client_prefix: self.cluster.as_ref().map_or(node_name, |cluster| &cluster.name),
            loop_secret,
        };
        let compiled = Arc::new(settings(effective, endpoint, generation, &identity, contents)?);
        let runner = self.cluster.as_ref().map(|cluster| runner(&cluster.placement, effective));
        match self.running.get_mut(name) {
            Some(live) => {
                (live.effective, live.generation) = (effective.clone(), generation);
                (live.settings, live.runner) = (compiled, runner);
                live.follow_runner(self.host.as_ref());
            }
            None => {
                let endpoint = ids.allocate();
                let effective = effective.clone();
                let mut live =
                    AppliedBridge { effective, endpoint, generation, settings: compiled, runner, running: None };
                live.follow_runner(self.host.as_ref());
                self.running.insert(name.clone(), live);
            }
        }
        tracing::info!(bridge = %name, generation, "bridge applied");
        Ok(())
    }
}

/// The node that runs a bridge.
fn runner(placement: &BridgePlacement, bridge: &EffectiveBridge) -> BridgeRunner {
    let name = &bridge.bridge.name;
    placement.runner(name.as_str(), &bridge.namespace, &local_id(name), bridge.durable)
}

/// The client id of a bridge's local session.
fn local_id(name: &Name) -> String {
    format!("{LOCAL_ID_PREFIX}{name}")
}

/// As whom a bridge appears.
pub(super) struct Identity<'a> {
    /// This node, in loop guards.
    pub(super) node: &'a str,
    /// The beginning of its client id at the remote broker: the name of the node, or of its cluster, whose nodes continue one
    /// session there.
    pub(super) client_prefix: &'a str,
    pub(super) loop_secret: u64,
}

/// Compiles a bridge and the files it refers to into its settings.
///
/// # Errors
/// Which file or variable cannot be used, and why.
pub(super) fn settings(
    effective: &EffectiveBridge,
    endpoint: EndpointId,
    generation: u64,
    identity: &Identity<'_>,
    contents: &FileContents,
) -> Result<BridgeSettings, CompileError> {
    let EffectiveBridge { bridge, namespace, .. } = effective;
    let password = password(bridge, contents)?;
    let tls = match bridge.address.iter().any(|address| address.tls) {
        true => Some(Arc::new(client_tls(bridge, contents)?)),
        false => None,
    };
    let client_id = match &bridge.client_id {
        Some(client_id) => client_id.to_string(),
        None if namespace.is_empty() => format!("{}-{}", identity.client_prefix, bridge.name),
        None => format!("{}-{}-{namespace}", identity.client_prefix, bridge.name),
    };
    let connection = connection(effective, &client_id, password.as_deref());
    let mark = LoopGuard::new(identity.node, namespace, identity.loop_secret)
        .map_err(|error| CompileError::Content(format!("the node's name: {error}")))?;
    let spec = BridgeSpec {
        version: match bridge.protocol_version {
            BridgeVersion::V3_1_1 => ProtocolVersion::V3_1_1,
            BridgeVersion::V5 => ProtocolVersion::V5,
        },
        client_id: client_id.into(),
        username: bridge.username.as_deref().map(Into::into),
        password,
        keep_alive_s: bridge.keep_alive_s,
        clean_start: bridge.clean_start,
        session_expiry_s: bridge.session_expiry_s,
        local_id: local_id(&bridge.name).into(),
        mark,
        out: bridge.out.iter().map(rule).collect(),
        inward: bridge.inward.iter().map(rule).collect(),
    };
    let address = |a: &config::RemoteAddress| BridgeAddress { tls: a.tls, host: Arc::clone(&a.host), port: a.port };
    Ok(BridgeSettings {
        name: bridge.name.to_arc(),
        namespace: Arc::clone(namespace),
        durable: effective.durable,
        endpoint,
        generation,
        spec: Arc::new(spec),
        addresses: bridge.address.iter().map(address).collect(),
        tls,
        server_name: bridge.tls.server_name.clone(),
        connection,
        queue_max_messages: bridge.queue.max_messages,
        queue_max_bytes: bridge.queue.max_bytes,
        queue_overflow: bridge.queue.overflow,
        reconnect_min_ms: bridge.reconnect.min_ms,
        reconnect_max_ms: bridge.reconnect.max_ms,
        notification_topic: bridge.notification_topic.clone(),
        enabled: bridge.enabled,
    })
}

fn rule(rule: &BridgeRule) -> TopicRule {
    let text = |prefix: &Option<Arc<str>>| prefix.as_deref().unwrap_or_default().into();
    TopicRule {
        filter: (*rule.filter).into(),
        strip: text(&rule.strip_prefix),
        add: text(&rule.add_prefix),
        qos: QoS::from_bits(rule.qos).unwrap_or_default(),
        retain: rule.retain,
        share: rule.share.as_deref().map(Into::into),
    }
}

/// Over all that a connection depends on.
fn connection(effective: &EffectiveBridge, client_id: &str, password: Option<&[u8]>) -> Arc<str> {
    let bridge = &effective.bridge;
    let mut hash = Sha256::new();
    let parts = format!(
        "{:?} {:?} {client_id:?} {:?} {} {} {} {:?} {:?}",
        bridge.address,
        bridge.protocol_version,
        bridge.username,
        bridge.keep_alive_s,
        bridge.clean_start,
        bridge.session_expiry_s,
        bridge.tls,
        effective.files,
    );
    hash.update(parts);
    hash.update(password.unwrap_or_default());
    hex(&hash.finalize())
}

fn password(bridge: &Bridge, contents: &FileContents) -> Result<Option<Box<[u8]>>, CompileError> {
    match &bridge.password {
        None => Ok(None),
        Some(SecretRef::File(file)) => {
            let bytes = contents.get(&bridge.origin.resolve(file))?;
            let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
            Ok(Some(text.strip_suffix(b"\r").unwrap_or(text).into()))
        }
        Some(SecretRef::Env(name)) => Ok(Some(contents.variable(name)?.into_bytes().into())),
    }
}

fn client_tls(bridge: &Bridge, contents: &FileContents) -> Result<ClientConfig, CompileError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let read = |file: &FileRef| contents.get(&bridge.origin.resolve(file));
    let mut roots = RootCertStore::empty();
    match &bridge.tls.ca_file {
        Some(file) => {
            for certificate in certificates(&read(file)?, &file.0)? {
                let bad = |error| CompileError::Content(format!("{}: {error}", file.0));
                roots.add(certificate).map_err(bad)?;
            }
        }
        None => {
            let missing = "this system has no certificate authorities; name a `tls.caFile`";
            let bundle = system_authorities().ok_or_else(|| CompileError::content(missing))?;
            // A bundle may hold certificates that are too old to be used.
            roots.add_parsable_certificates(certificates(&bundle, "the system's authorities")?);
        }
    }
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| CompileError::Content(format!("TLS cannot be set up: {error}")))?
        .with_root_certificates(roots);
    let (Some(cert_file), Some(key_file)) = (&bridge.tls.cert_file, &bridge.tls.key_file) else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&read(cert_file)?, &cert_file.0)?;
    let key = PrivateKeyDer::from_pem_slice(&read(key_file)?)
        .map_err(|error| CompileError::Content(format!("{}: no private key in PEM: {error}", key_file.0)))?;
    let mismatch = |error| format!("{} and {} do not match: {error}", cert_file.0, key_file.0);
    builder.with_client_auth_cert(chain, key).map_err(|error| CompileError::Content(mismatch(error)))
}

fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>, CompileError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| CompileError::Content(format!("{name}: not PEM: {error}")))?;
    if found.is_empty() { Err(CompileError::Content(format!("{name}: it contains no certificate"))) } else { Ok(found) }
}
