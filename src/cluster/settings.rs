//! What the document `cluster` makes a node do: evacuation, removal, isolation, and the removal of old records.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::driver::Driver;
use weir_broker::Millis;
use weir_cluster::members::{PEER_TIMEOUT, PeerState, Refusal};
use weir_declare::config::ClusterSpec;

/// How often records are looked through.
const CLEAN_EVERY_MS: Millis = 1000;
/// How long the removal of a record waits for its answer until it is asked for again.
const PURGE_AGAIN_MS: Millis = 30_000;

/// Why a node disconnects all of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectCause {
    /// It is out for longer than the document allows.
    Isolated,
    /// The document evacuates it.
    Evacuated,
    /// The document removes it.
    Removed,
}

impl DisconnectCause {
    /// All causes.
    pub const ALL: [Self; 3] = [Self::Isolated, Self::Evacuated, Self::Removed];

    /// As in metrics and log lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Evacuated => "evacuated",
            Self::Removed => "removed",
        }
    }
}

impl fmt::Display for DisconnectCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Clients that were disconnected, by cause.
#[derive(Debug, Default)]
pub(super) struct DisconnectCounts([AtomicU64; DisconnectCause::ALL.len()]);

impl DisconnectCounts {
    pub(super) fn add(&self, cause: DisconnectCause, clients: u64) {
        self.0[cause as usize].fetch_add(clients, Ordering::Relaxed);
    }

    fn read(&self) -> [u64; DisconnectCause::ALL.len()] {
        DisconnectCause::ALL.map(|cause| self.0[cause as usize].load(Ordering::Relaxed))
    }
}

/// What the document makes of this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// It serves clients.
    #[default]
    Member,
    /// It serves no clients, owns no slots, and stays a member.
    Evacuated,
    /// It takes part no more.
    Removed,
}

/// What operators see of the document's effects.
#[derive(Debug, Clone, Default)]
pub struct SettingsView {
    /// This node.
    pub role: Role,
    /// It has disconnected its clients because it is out.
    pub is_isolated: bool,
    /// The nodes that the document removes.
    pub removed: Vec<Arc<str>>,
    /// Clients of this node.
    pub clients: u64,
    /// Clients that it disconnected, in the order of [`DisconnectCause::ALL`].
    pub disconnects: [u64; DisconnectCause::ALL.len()],
}

/// The document as this node has it, and how far it is carried out.
pub(super) struct Settings {
    node: String,
    spec: Arc<ClusterSpec>,
    role: Role,
    was_in: bool,
    out_since: Option<Millis>,
    is_isolated: bool,
    clean_at: Millis,
    /// Records whose removal is asked for, and when.
    purging: BTreeMap<String, Millis>,
    requests: mpsc::UnboundedSender<DisconnectCause>,
    counts: Arc<DisconnectCounts>,
}

impl Settings {
    /// The defaults, until [`Driver::apply_spec`]. What is to be disconnected goes to `requests`.
    pub(super) fn new(
        node: &str,
        requests: mpsc::UnboundedSender<DisconnectCause>,
        counts: Arc<DisconnectCounts>,
    ) -> Self {
        Self {
            node: node.to_owned(),
            spec: Arc::default(),
            role: Role::Member,
            was_in: false,
            out_since: None,
            is_isolated: false,
            clean_at: 0,
            purging: BTreeMap::new(),
            requests,
            counts,
        }
    }

    /// Whether this node may accept clients, as far as the document is concerned.
    pub(super) fn admits_clients(&self) -> bool {
        self.role == Role::Member
    }

    /// Whether this node tells the others that it leaves: one that is removed tells them nothing.
    pub(super) fn is_member(&self) -> bool {
        self.role != Role::Removed
    }

    pub(super) fn view(&self, clients: u64) -> SettingsView {
        SettingsView {
            role: self.role,
            is_isolated: self.is_isolated,
            removed: self.spec.removed.clone(),
            clients,
            disconnects: self.counts.read(),
        }
    }

    /// Whether this node's clients are to be disconnected now, because it is out for too long.
    fn check_isolation(&mut self, is_in: bool, now: Millis) -> bool {
        if is_in {
            self.was_in = true;
            self.out_since = None;
            self.is_isolated = false;
            return false;
        }
        if !self.was_in {
            return false; // it has no clients yet
        }
        let since = *self.out_since.get_or_insert(now);
        let is_over = now >= since + Millis::from(self.spec.isolation.disconnect_after_s) * 1000;
        is_over && !std::mem::replace(&mut self.is_isolated, true)
    }

    /// Whether a record is to be removed, of a peer in this state that has not moved for so long.
    fn is_to_be_purged(&self, node: &str, state: PeerState, silent: Millis) -> bool {
        let clean_after = Millis::from(self.spec.autoclean_s) * 1000;
        match state {
            PeerState::Refused(Refusal::Removed) => silent >= PEER_TIMEOUT,
            PeerState::Out | PeerState::Left if self.spec.removes(node) => silent >= PEER_TIMEOUT,
            PeerState::Out | PeerState::Left => clean_after > 0 && silent >= clean_after,
            _ => false,
        }
    }

    fn disconnect(&self, cause: DisconnectCause) {
        // Fails where nothing reconciles any more: the node is shutting down, and disconnects all clients.
        let _ = self.requests.send(cause);
    }
}

impl Driver {
    /// The document that holds from now on; `None`: there is none, and the defaults hold.
    pub(super) fn apply_spec(&mut self, spec: Option<Arc<ClusterSpec>>) {
        let settings = &mut self.settings;
        settings.spec = spec.unwrap_or_default();
        let role = match &settings.spec {
            spec if spec.removes(&settings.node) => Role::Removed,
            spec if spec.evacuates(&settings.node) => Role::Evacuated,
            _ => Role::Member,
        };
        self.node.set_slots_per_class(settings.spec.slots);
        self.node.set_removed(settings.spec.removed.iter().map(ToString::to_string));
        self.node.set_evacuating(role == Role::Evacuated, self.now);
        if role != std::mem::replace(&mut settings.role, role) {
            self.reporter.role(role);
            match role {
                Role::Member => {}
                Role::Evacuated => settings.disconnect(DisconnectCause::Evacuated),
                Role::Removed => settings.disconnect(DisconnectCause::Removed),
            }
        }
        self.has_left |= self.leaving && role == Role::Removed;
        self.publish_soon();
    }

    /// Does what is due.
    pub(super) fn run_settings(&mut self) {
        let now = self.now;
        if self.settings.check_isolation(self.node.is_in(), now) && !self.leaving && self.settings.admits_clients() {
            let after_s = self.settings.spec.isolation.disconnect_after_s;
            tracing::warn!(after_s, "cluster node isolated: its clients are disconnected, to connect to other nodes");
            self.settings.disconnect(DisconnectCause::Isolated);
            self.publish_soon();
        }
        if now >= self.settings.clean_at {
            self.settings.clean_at = now + CLEAN_EVERY_MS;
            self.purge_records();
        }
    }

    /// Asks the engine to remove records of nodes that are removed, or out for too long.
    fn purge_records(&mut self) {
        if !self.node.is_in() {
            return;
        }
        let (settings, now) = (&mut self.settings, self.now);
        settings.purging.retain(|_, asked| now < *asked + PURGE_AGAIN_MS);
        for peer in self.node.members_mut().peers() {
            let (name, silent) = (&peer.heartbeat.node, now.saturating_sub(peer.moved_at));
            let is_asked = settings.purging.contains_key(name);
            if !is_asked && settings.is_to_be_purged(name, peer.state, silent) && self.engine.purge_member(name).is_ok()
            {
                settings.purging.insert(name.clone(), now);
            }
        }
    }

    /// The engine has removed a record.
    pub(super) fn on_member_purged(&mut self, node: &str) {
        self.settings.purging.remove(node);
        let state = self.node.members_mut().peer(node).map(|peer| peer.state);
        // One that moves again has a newer record.
        if let Some(PeerState::Out | PeerState::Left | PeerState::Refused(_)) = state {
            self.node.members_mut().on_removed(node);
            let removed = self.settings.spec.removes(node);
            let reason = if removed { "the cluster document removes it" } else { "it was gone for cluster.autocleanS" };
            tracing::info!(peer = node, reason, "cluster member record removed");
            self.publish_soon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_declare::config::Isolation;

    fn settings(spec: ClusterSpec) -> Settings {
        let mut settings = Settings::new("n1", mpsc::unbounded_channel().0, Arc::default());
        settings.spec = Arc::new(spec);
        settings
    }

    #[test]
    fn a_node_is_isolated_once_after_the_declared_time_and_again_after_it_was_in() {
        let isolation = Isolation { disconnect_after_s: 5 };
        let mut settings = settings(ClusterSpec { isolation, ..ClusterSpec::default() });
        let mut at = |is_in, now| settings.check_isolation(is_in, now);
        assert!(!at(false, 0) && !at(false, 60_000), "it was never in");
        assert!(!at(true, 60_100) && !at(false, 61_000) && !at(false, 65_999));
        assert!(at(false, 66_000));
        assert!(!at(false, 66_100) && !at(true, 67_000) && !at(false, 70_000) && !at(false, 74_999));
        assert!(at(false, 75_000));
    }

    #[test]
    fn records_of_nodes_that_are_gone_for_long_enough_are_removed() {
        let settings =
            settings(ClusterSpec { removed: vec!["gone".into()], autoclean_s: 60, ..ClusterSpec::default() });
        let purged = |node, state, silent| settings.is_to_be_purged(node, state, silent);
        assert!(!purged("a", PeerState::Out, 59_999) && purged("a", PeerState::Out, 60_000));
        assert!(purged("a", PeerState::Left, 60_000) && !purged("a", PeerState::In, 60_000));
        assert!(
            purged("gone", PeerState::Out, PEER_TIMEOUT) && !purged("gone", PeerState::Refused(Refusal::Removed), 0)
        );
        let never = self::settings(ClusterSpec { autoclean_s: 0, ..ClusterSpec::default() });
        assert!(!never.is_to_be_purged("a", PeerState::Out, Millis::MAX));
    }
}
