//! Clients on their way out: drains under way, and endpoints that listen no more.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::files::{Contents, ReadFiles};
use super::plane::Plane;
use super::reconciler::{Reconciler, Running};
use super::{compile, drain};
use crate::net::{DrainPlan, DrainWhich, PlaneError};
use weir_broker::EndpointId;
use weir_declare::config::Name;
use weir_declare::reconcile::EffectiveEndpoint;

/// How many clients a drain has asked, once it has asked all.
type Asking = Pin<Box<dyn Future<Output = Result<u32, PlaneError>> + Send>>;

/// An endpoint that listens no more and still has clients.
pub(super) struct Leaving {
    pub(super) name: Name,
    pub(super) id: EndpointId,
    /// What its clients are judged by.
    pub(super) running: Running,
}

/// A drain that has asked everyone it meant.
#[derive(Debug)]
pub struct Drained {
    pub(super) name: Name,
    pub(super) count: u32,
}

impl<P: Plane, F: ReadFiles> Reconciler<P, F> {
    /// A drain has come to its end.
    pub fn drain_ended(&mut self, drained: &Drained) {
        if let Some(count) = self.draining.get_mut(&drained.name) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.draining.remove(&drained.name);
            }
        }
        if drained.count > 0 {
            tracing::info!(endpoint = %drained.name, clients = drained.count, "clients were asked to leave");
        }
        self.observe();
    }

    /// Whether clients are still being asked to leave.
    pub fn is_draining(&self) -> bool {
        !self.draining.is_empty() || !self.leaving.is_empty()
    }

    /// Asks clients to leave. Those that lost their right are gone when this returns, the others go at their pace.
    pub(super) async fn start_drain(&mut self, name: &Name, running: &Running, plan: DrainPlan) {
        *self.draining.entry(name.clone()).or_default() += 1;
        let handshake_ms = u64::from(running.policy.handshake.time_ms);
        // Those over a limit were counted once; a second look would count others.
        let again =
            (!matches!(plan.which, DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_))).then(|| plan.clone());
        let revokes = plan.revokes;
        let mut first: Asking = Box::pin(self.plane.drain(running.id, plan));
        if revokes {
            first = Box::pin(std::future::ready(first.await));
        }
        let (plane, id, name, tell) = (Arc::clone(&self.plane), running.id, name.clone(), self.drained.clone());
        tokio::spawn(async move {
            let mut count = 0;
            match first.await {
                Ok(asked) => count += asked,
                Err(error) => tracing::error!(endpoint = %name, %error, "clients were not asked to leave"),
            }
            // Nobody listens once the broker has stopped.
            drop(tell.send(Drained { name: name.clone(), count }));
            let Some(again) = again else { return };
            // Who was shaking hands by the old policy is in by now.
            tokio::time::sleep(Duration::from_millis(handshake_ms)).await;
            if let Ok(late) = plane.drain(id, again).await
                && late > 0
            {
                tracing::info!(endpoint = %name, clients = late, "late clients were asked to leave");
            }
        });
    }

    /// Clients of endpoints that listen no more lose their rights as all others do, however slowly they are asked to leave.
    /// What the endpoint referred to may have gone together with it: then that holds as it was.
    pub(super) async fn judge_the_leaving(&mut self, contents: &Contents) {
        let bans = Arc::new(self.applied.bans.clone());
        for mut leaving in std::mem::take(&mut self.leaving) {
            let was = &leaving.running.effective;
            let endpoint = &was.endpoint;
            let auth = endpoint.enable_auth.then(|| self.applied.auths.get(endpoint.auth_name())).flatten();
            let acl = endpoint.enable_acl.then(|| self.applied.acls.get(endpoint.acl_name())).flatten();
            let now = EffectiveEndpoint {
                endpoint: Arc::clone(endpoint),
                auth: auth.or(was.auth.as_ref()).cloned(),
                acl: acl.or(was.acl.as_ref()).cloned(),
                bans: Arc::clone(&bans),
                files: contents.digests.clone(),
            };
            let changes = was.changes(&now);
            let generation = leaving.running.policy.endpoint.generation + 1;
            // A file that cannot be read takes no right away; it is read again in the next pass.
            if !changes.is_empty()
                && let Ok(policy) = compile::policy(leaving.id, generation, &now, &self.auth_compiler, contents)
            {
                let policy = Arc::new(policy);
                (leaving.running.effective, leaving.running.policy) = (now, Arc::clone(&policy));
                if let Err(error) = self.plane.set_policy(Arc::clone(&policy)).await {
                    tracing::error!(endpoint = %leaving.name, %error, "open connections did not get the new policy");
                }
                if let Some(plan) = drain::revoked_by(&changes, &policy) {
                    self.start_drain(&leaving.name, &leaving.running, plan).await;
                }
            }
            self.leaving.push(leaving);
        }
    }

    pub(super) fn forget_the_gone(&mut self) {
        let plane = &self.plane;
        self.leaving.retain(|leaving| {
            let connected = plane.connections(leaving.id) > 0;
            if !connected {
                plane.forget(leaving.id);
            }
            connected
        });
    }
}
