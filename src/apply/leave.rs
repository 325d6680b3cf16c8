//! Clients on their way out: drains under way, and endpoints that listen no more.

use std::sync::Arc;
use std::time::Duration;

use super::files::ReadFiles;
use super::plane::Plane;
use super::reconciler::{Reconciler, Running};
use crate::broker::EndpointId;
use crate::config::Name;
use crate::net::{DrainPlan, DrainWhich};

/// An endpoint that listens no more and still has clients.
#[derive(Debug, Clone)]
pub(super) struct Leaving {
    pub(super) name: Name,
    pub(super) id: EndpointId,
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

    pub(super) fn start_drain(&mut self, name: &Name, running: &Running, plan: DrainPlan) {
        *self.draining.entry(name.clone()).or_default() += 1;
        let handshake_ms = u64::from(running.policy.handshake.time_ms);
        // Those over a limit were counted once; a second look would count others.
        let again =
            (!matches!(plan.which, DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_))).then(|| plan.clone());
        let first = self.plane.drain(running.id, plan);
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
