//! Clients that are asked to leave: drains under way, and endpoints whose listener is closed.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::cluster_document::DisconnectCause;
use super::files::FileContents;
use super::interceptors::InterceptorRegistry;
use super::plane::Plane;
use super::running::RunningEndpoint;
use super::{compile, drain_plan};
use crate::auth::AuthCompiler;
use crate::net::{DrainPlan, DrainWhich, PlaneError};
use weir_broker::EndpointId;
use weir_declare::config::{Declared, Name};
use weir_declare::reconcile::{EffectiveEndpoint, FileReference};

/// How many clients a drain has asked, once it has asked all.
type DrainFuture = Pin<Box<dyn Future<Output = Result<u32, PlaneError>> + Send>>;

/// An endpoint whose listener is closed and that still has clients.
struct ClosedEndpoint {
    name: Name,
    id: EndpointId,
    /// The policy by which its clients are admitted.
    running: RunningEndpoint,
}

/// The result of a drain: it has asked all of its clients.
#[derive(Debug)]
pub struct DrainReport {
    name: Name,
    count: u32,
    /// The cluster wanted it.
    cause: Option<DisconnectCause>,
}

/// All drains of this node.
pub(super) struct Drains<P: Plane> {
    plane: Arc<P>,
    closed: Vec<ClosedEndpoint>,
    /// The number of drains under way, by endpoint.
    active: BTreeMap<Name, u32>,
    reports: mpsc::UnboundedSender<DrainReport>,
}

impl<P: Plane> Drains<P> {
    /// No drains. The receiver yields those that ended, for [`Drains::ended`].
    pub(super) fn new(plane: Arc<P>) -> (Self, mpsc::UnboundedReceiver<DrainReport>) {
        let (reports, ended) = mpsc::unbounded_channel();
        (Self { plane, closed: Vec::new(), active: BTreeMap::new(), reports }, ended)
    }

    /// Records that a drain has ended. Returns how many clients were disconnected, where the cluster wanted it.
    pub(super) fn ended(&mut self, report: &DrainReport) -> Option<(DisconnectCause, u32)> {
        debug_assert!(self.active.contains_key(&report.name), "{}: no drain is in progress", report.name);
        if let Some(count) = self.active.get_mut(&report.name) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.active.remove(&report.name);
            }
        }
        if report.count > 0 {
            tracing::info!(endpoint = %report.name, clients = report.count, "drain finished: clients were disconnected");
        }
        report.cause.map(|cause| (cause, report.count))
    }

    /// Whether clients are still being asked to leave.
    pub(super) fn is_draining(&self) -> bool {
        !self.active.is_empty() || !self.closed.is_empty()
    }

    /// Whether a drain of this endpoint is under way.
    pub(super) fn is_active(&self, name: &Name) -> bool {
        self.active.contains_key(name)
    }

    /// The endpoints whose listener is closed.
    pub(super) fn closed(&self) -> impl DoubleEndedIterator<Item = (&Name, EndpointId)> {
        self.closed.iter().map(|closed| (&closed.name, closed.id))
    }

    /// Clients of closed listeners of this endpoint.
    pub(super) fn clients_left(&self, name: &Name) -> u32 {
        let closed = self.closed.iter().filter(|closed| closed.name == *name);
        closed.map(|closed| self.plane.connections(closed.id)).sum()
    }

    /// Files that the policies of closed listeners refer to.
    pub(super) fn references(&self) -> impl Iterator<Item = FileReference> {
        self.closed.iter().flat_map(|closed| closed.running.effective.file_references())
    }

    /// Keeps an endpoint whose listener is closed until its clients have left.
    pub(super) fn add_closed(&mut self, name: Name, running: RunningEndpoint) {
        self.closed.push(ClosedEndpoint { name, id: running.id, running });
    }

    /// Starts a drain. Revoked clients are disconnected when this returns, the others at the rate of the drain.
    pub(super) async fn start(&mut self, name: &Name, running: &RunningEndpoint, plan: DrainPlan) {
        *self.active.entry(name.clone()).or_default() += 1;
        let handshake_ms = u64::from(running.policy.handshake.time_ms);
        // Clients over a limit were counted once; a second pass would drain others.
        let again =
            (!matches!(plan.which, DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_))).then(|| plan.clone());
        let revokes = plan.revokes;
        let mut first: DrainFuture = Box::pin(self.plane.drain(running.id, plan));
        if revokes {
            first = Box::pin(std::future::ready(first.await));
        }
        let (plane, id, name, reports) = (Arc::clone(&self.plane), running.id, name.clone(), self.reports.clone());
        tokio::spawn(async move {
            let mut count = 0;
            match first.await {
                Ok(asked) => count += asked,
                Err(error) => {
                    tracing::error!(endpoint = %name, %error, "drain failed: clients were not disconnected")
                }
            }
            // Fails where the reconciler has ended.
            drop(reports.send(DrainReport { name: name.clone(), count, cause: None }));
            let Some(again) = again else { return };
            // By then, clients that were in their handshake under the former policy are connected.
            tokio::time::sleep(Duration::from_millis(handshake_ms)).await;
            if let Ok(late) = plane.drain(id, again).await
                && late > 0
            {
                tracing::info!(endpoint = %name, clients = late, "drain finished for clients that connected meanwhile");
            }
        });
    }

    /// Starts a drain that the cluster wants, of the clients of this moment.
    #[cfg(feature = "cluster")]
    pub(super) fn start_once(&mut self, name: &Name, id: EndpointId, plan: DrainPlan, cause: DisconnectCause) {
        *self.active.entry(name.clone()).or_default() += 1;
        let (drain, name, reports) = (self.plane.drain(id, plan), name.clone(), self.reports.clone());
        tokio::spawn(async move {
            let count = drain.await.unwrap_or_else(|error| {
                tracing::error!(endpoint = %name, %error, "drain failed: clients were not disconnected");
                0
            });
            // Fails where the reconciler has ended.
            drop(reports.send(DrainReport { name, count, cause: Some(cause) }));
        });
    }

    /// Applies revocations to the clients of closed listeners, as to all others. A document that was deleted together with
    /// the endpoint applies as it was.
    pub(super) async fn apply_revocations(
        &mut self,
        declared: &Declared,
        (auth_compiler, interceptors): (&AuthCompiler, &InterceptorRegistry),
        contents: &FileContents,
    ) {
        let bans = Arc::new(declared.bans.clone());
        for mut closed in std::mem::take(&mut self.closed) {
            let was = &closed.running.effective;
            let endpoint = &was.endpoint;
            let auth = endpoint.enable_auth.then(|| declared.auths.get(endpoint.auth_name())).flatten();
            let acl = endpoint.enable_acl.then(|| declared.acls.get(endpoint.acl_name())).flatten();
            let now = EffectiveEndpoint {
                endpoint: Arc::clone(endpoint),
                auth: auth.or(was.auth.as_ref()).cloned(),
                acl: acl.or(was.acl.as_ref()).cloned(),
                bans: Arc::clone(&bans),
                files: contents.digests.clone(),
            };
            let changes = was.changes(&now);
            let generation = closed.running.policy.endpoint.generation + 1;
            // A file that cannot be read revokes nothing; it is read again in the next pass.
            if !changes.is_empty()
                && let Ok(policy) = compile::policy(closed.id, generation, &now, auth_compiler, interceptors, contents)
            {
                let policy = Arc::new(policy);
                (closed.running.effective, closed.running.policy) = (now, Arc::clone(&policy));
                if let Err(error) = self.plane.set_policy(Arc::clone(&policy)).await {
                    tracing::error!(
                        endpoint = %closed.name, %error, "policy update failed: open connections keep the former policy"
                    );
                }
                if let Some(plan) = drain_plan::revoked_by(&changes, &policy) {
                    self.start(&closed.name, &closed.running, plan).await;
                }
            }
            self.closed.push(closed);
        }
    }

    /// Removes closed endpoints without clients.
    pub(super) fn remove_drained(&mut self) {
        let plane = &self.plane;
        self.closed.retain(|closed| {
            let connected = plane.connections(closed.id) > 0;
            if !connected {
                plane.forget(closed.id);
            }
            connected
        });
    }
}
