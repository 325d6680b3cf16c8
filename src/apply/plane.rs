//! The interface of the data plane to the control plane; a simulation implements it too.

use std::future::Future;
use std::io;
use std::sync::Arc;

use super::port_holder;
use crate::auth::AuthCounters;
use crate::net::{
    BoundSocket, DataPlane, DrainPlan, ListenerChange, ListenerPolicy, ListenerStatus, PlaneError, SocketKey,
    SocketOptions,
};
use weir_broker::EndpointId;

/// A data plane. [`DataPlane`] documents the methods.
pub trait Plane: Send + Sync + 'static {
    /// A socket that is bound and not yet accepted from.
    type Socket: Send;

    fn bind(&self, key: &SocketKey, options: &SocketOptions) -> io::Result<Self::Socket>;
    /// The address that a socket has: that of `wanted`, or with port 0 the one that the system picked.
    fn key_of(socket: &Self::Socket, wanted: &SocketKey) -> SocketKey;
    /// The process that holds an address, where it can be found.
    fn holder(&self, key: &SocketKey) -> Option<String>;
    fn install(&self, changes: Vec<SocketChange<Self::Socket>>) -> impl Future<Output = Result<(), PlaneError>> + Send;
    fn set_policy(&self, policy: Arc<ListenerPolicy>) -> impl Future<Output = Result<(), PlaneError>> + Send;
    fn drain(
        &self,
        endpoint: EndpointId,
        plan: DrainPlan,
    ) -> impl Future<Output = Result<u32, PlaneError>> + Send + 'static;
    fn listeners(&self) -> Vec<ListenerStatus>;
    /// One of them.
    fn listener(&self, key: &SocketKey) -> Option<ListenerStatus> {
        self.listeners().into_iter().find(|status| status.key == *key)
    }
    /// Open connections of an endpoint.
    fn connections(&self, endpoint: EndpointId) -> u32;
    /// What its authentication counts in.
    fn auth_counters(&self) -> AuthCounters {
        AuthCounters::default()
    }
    fn forget(&self, endpoint: EndpointId);
}

/// [`ListenerChange`], whatever a socket is.
pub enum SocketChange<S> {
    Add { socket: S, policy: Arc<ListenerPolicy> },
    SetPolicy { key: SocketKey, policy: Arc<ListenerPolicy> },
    Remove { key: SocketKey },
}

impl Plane for DataPlane {
    type Socket = BoundSocket;

    fn bind(&self, key: &SocketKey, options: &SocketOptions) -> io::Result<BoundSocket> {
        DataPlane::bind(self, key, options)
    }

    fn key_of(socket: &BoundSocket, _wanted: &SocketKey) -> SocketKey {
        socket.key().clone()
    }

    fn holder(&self, key: &SocketKey) -> Option<String> {
        port_holder::describe(key)
    }

    async fn install(&self, changes: Vec<SocketChange<BoundSocket>>) -> Result<(), PlaneError> {
        let changes = changes.into_iter().map(|change| match change {
            SocketChange::Add { socket, policy } => ListenerChange::Add { socket, policy },
            SocketChange::SetPolicy { key, policy } => ListenerChange::SetPolicy { key, policy },
            SocketChange::Remove { key } => ListenerChange::Remove { key },
        });
        DataPlane::install(self, changes.collect()).await
    }

    async fn set_policy(&self, policy: Arc<ListenerPolicy>) -> Result<(), PlaneError> {
        DataPlane::set_policy(self, policy).await
    }

    fn drain(
        &self,
        endpoint: EndpointId,
        plan: DrainPlan,
    ) -> impl Future<Output = Result<u32, PlaneError>> + Send + 'static {
        let plane = self.clone();
        async move { DataPlane::drain(&plane, endpoint, plan).await }
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        DataPlane::listeners(self)
    }

    fn listener(&self, key: &SocketKey) -> Option<ListenerStatus> {
        DataPlane::listener(self, key)
    }

    fn connections(&self, endpoint: EndpointId) -> u32 {
        self.endpoint_stats(endpoint).map_or(0, |stats| stats.connections_current)
    }

    fn auth_counters(&self) -> AuthCounters {
        DataPlane::auth_counters(self).clone()
    }

    fn forget(&self, endpoint: EndpointId) {
        self.forget_endpoint(endpoint);
    }
}
