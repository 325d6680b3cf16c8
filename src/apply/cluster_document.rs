//! The document `cluster`: its settings go to the node's cluster, which in turn has clients disconnected.

use std::sync::Arc;

use super::declaration::Declaration;
#[cfg(feature = "cluster")]
use crate::cluster::ClusterControl;
#[cfg(not(feature = "cluster"))]
use crate::state::BridgePlacement;
use weir_declare::config::{ClusterSpec, DocumentIdentity, Kind, RefusalReason};
use weir_declare::reconcile::{ConditionReason, ConditionType, Conditions, LiveCluster, Timestamp};

/// What the cluster wants, and why all clients are disconnected.
#[cfg(feature = "cluster")]
pub(super) use crate::cluster::{ClusterRequest, DisconnectCause};

/// Nothing disconnects all clients.
#[cfg(not(feature = "cluster"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DisconnectCause {}

/// There is no cluster that could want something.
#[cfg(not(feature = "cluster"))]
#[allow(dead_code)]
pub(super) enum ClusterRequest {
    Disconnect(DisconnectCause),
    PlaceBridges(Arc<BridgePlacement>),
}

/// The document, the cluster that it is about, and its conditions.
#[derive(Default)]
pub(super) struct ClusterDocument {
    #[cfg(feature = "cluster")]
    control: Option<ClusterControl>,
    /// The settings that hold; the outer `None`: nothing was applied yet.
    live: Option<Option<Arc<ClusterSpec>>>,
    /// How often they changed.
    generation: u64,
    /// `None`: there is no document.
    conditions: Option<Conditions>,
}

impl ClusterDocument {
    /// Has the settings hold in this cluster.
    #[cfg(feature = "cluster")]
    pub(super) fn control(&mut self, control: ClusterControl) {
        self.control = Some(control);
    }

    /// Has the declared settings hold from now on. Returns what was known until now.
    pub(super) fn apply(&mut self, declared: Option<&Arc<ClusterSpec>>) -> LiveCluster {
        let spec = self.live.clone().flatten();
        let is_same = match (&self.live, declared) {
            (Some(Some(live)), Some(declared)) => live.has_same_settings(declared),
            (Some(None), None) => true,
            _ => false,
        };
        if !is_same {
            self.live = Some(declared.cloned());
            self.generation += 1;
            #[cfg(feature = "cluster")]
            if let Some(control) = &self.control {
                control.set_spec(declared.cloned());
            }
        }
        LiveCluster { spec, founded_slots: self.founded_slots(), ..LiveCluster::default() }
    }

    #[cfg(feature = "cluster")]
    fn founded_slots(&self) -> Option<u16> {
        self.control.as_ref().and_then(ClusterControl::founded_slots)
    }

    #[cfg(not(feature = "cluster"))]
    fn founded_slots(&self) -> Option<u16> {
        None
    }

    /// Evaluates the conditions.
    pub(super) fn update_conditions(&mut self, declaration: &Declaration, now: Timestamp) {
        let refusal = declaration.refusals().get(&DocumentIdentity::single(Kind::Cluster));
        let spec = declaration.applied().cluster.as_ref();
        if spec.is_none() && refusal.is_none() {
            self.conditions = None;
            return;
        }
        let (holds, reason, message) = match spec {
            Some(spec) => self.programmed(spec),
            None => (false, ConditionReason::Invalid, "there is no valid document: the defaults hold".to_owned()),
        };
        let kinds = [ConditionType::Accepted, ConditionType::Programmed];
        let conditions = self.conditions.get_or_insert_with(|| Conditions::unknown_of(&kinds, now));
        let (accepted, why, text) = match refusal {
            None => (true, ConditionReason::AsDeclared, String::new()),
            Some(refusal) => {
                let reason = match refusal.reason {
                    RefusalReason::Unreadable => ConditionReason::Unreadable,
                    _ => ConditionReason::Invalid,
                };
                (false, reason, refusal.message.clone())
            }
        };
        conditions.set(ConditionType::Accepted, accepted, why, text, self.generation, now);
        let changed = conditions.set(ConditionType::Programmed, holds, reason, &message, self.generation, now);
        if changed && !holds {
            tracing::warn!(reason = format!("{reason:?}"), "document `cluster` not as declared: {message}");
        }
    }

    #[cfg(not(feature = "cluster"))]
    fn programmed(&self, _spec: &ClusterSpec) -> (bool, ConditionReason, String) {
        let message = "this build of weir cannot be a node of a cluster: the document has no effect";
        (false, ConditionReason::NotInCluster, message.to_owned())
    }

    #[cfg(feature = "cluster")]
    fn programmed(&self, spec: &ClusterSpec) -> (bool, ConditionReason, String) {
        let Some(control) = &self.control else {
            let message = "the broker runs without --cluster: the document has no effect";
            return (false, ConditionReason::NotInCluster, message.to_owned());
        };
        let started = control.replicas();
        if let Some(replicas) = spec.replicas.filter(|replicas| *replicas != started) {
            let message = format!(
                "replicas: {replicas} is declared, and this node was started with --cluster-replicas {started}: change each \
                 stream with `nats stream edit --replicas {replicas}` and restart each node with --cluster-replicas \
                 {replicas}, or declare {started}"
            );
            return (false, ConditionReason::Founded, message);
        }
        if let Some(founded) = control.founded_slots().filter(|founded| *founded != spec.slots) {
            let message = format!(
                "slots: {} is declared, and the cluster was founded with {founded}, which it keeps: declare {founded}, or \
                 start the nodes with another --cluster-name",
                spec.slots
            );
            return (false, ConditionReason::Founded, message);
        }
        (true, ConditionReason::AsDeclared, String::new())
    }

    /// The conditions of the document; `None`: there is none.
    pub(super) fn conditions(&self) -> Option<&Conditions> {
        self.conditions.as_ref()
    }

    /// Yields what the cluster wants next.
    #[cfg(feature = "cluster")]
    pub(super) async fn next_request(&mut self) -> ClusterRequest {
        match &mut self.control {
            Some(control) => control.next_request().await,
            None => std::future::pending().await,
        }
    }

    #[cfg(not(feature = "cluster"))]
    pub(super) async fn next_request(&mut self) -> ClusterRequest {
        std::future::pending().await
    }

    /// So many clients were disconnected.
    #[cfg(feature = "cluster")]
    pub(super) fn count_disconnects(&self, cause: DisconnectCause, clients: u32) {
        if let Some(control) = &self.control {
            control.count_disconnects(cause, clients);
        }
    }

    #[cfg(not(feature = "cluster"))]
    pub(super) fn count_disconnects(&self, cause: DisconnectCause, _clients: u32) {
        match cause {}
    }
}
