//! A data plane under test.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use weir_broker::{EndpointId, EndpointLimits, EndpointPolicy, ProtocolVersions};
use weirmq::auth::{Anonymous, Authenticate};
use weirmq::net::{
    AcceptOverflow, ChildOptions, DataPlane, DataPlaneConfig, EndpointStats, HandshakeLimits, ListenerChange,
    ListenerPolicy, SocketKey, SocketOptions, Transport,
};

use crate::support::{GUARD, until};

pub struct Plane {
    pub plane: DataPlane,
    runtime: tokio::runtime::Runtime,
}

impl Plane {
    pub fn start(shards: u16) -> Plane {
        Self::with(&DataPlaneConfig { shards, ..DataPlaneConfig::default() })
    }

    pub fn with(config: &DataPlaneConfig) -> Plane {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Plane { plane: DataPlane::start(config).unwrap(), runtime }
    }

    pub fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(GUARD, future).await.expect("the data plane answers") })
    }

    pub fn install(&self, changes: Vec<ListenerChange>) {
        self.wait(self.plane.install(changes)).unwrap();
    }

    /// Binds and serves an address; for port 0 the system chooses one.
    pub fn listen(&self, key: &SocketKey, policy: ListenerPolicy) -> SocketKey {
        let socket = self.plane.bind(key, &SocketOptions::default()).unwrap();
        let key = socket.key().clone();
        self.install(vec![ListenerChange::Add { socket, policy: Arc::new(policy) }]);
        key
    }

    /// Serves a free port of 127.0.0.1.
    pub fn listen_tcp(&self, policy: ListenerPolicy) -> SocketAddr {
        address(&self.listen(&loopback(0), policy))
    }

    pub fn stats(&self, endpoint: u32) -> EndpointStats {
        self.plane.endpoint_stats(EndpointId(endpoint)).expect("an endpoint with a listener")
    }

    /// Waits until an endpoint's counters are as wanted.
    pub fn until(&self, endpoint: u32, what: &str, mut holds: impl FnMut(&EndpointStats) -> bool) {
        until(what, || format!("{:?}", self.stats(endpoint)), || holds(&self.stats(endpoint)));
    }
}

pub fn loopback(port: u16) -> SocketKey {
    SocketKey::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
}

pub fn address(key: &SocketKey) -> SocketAddr {
    match key {
        SocketKey::Tcp(address) => *address,
        SocketKey::Unix(path) => panic!("{} is no TCP address", path.display()),
    }
}

pub fn endpoint(id: u32) -> EndpointPolicy {
    EndpointPolicy {
        id: EndpointId(id),
        name: format!("endpoint-{id}").into(),
        generation: 1,
        namespace: "".into(),
        versions: ProtocolVersions::ALL,
        limits: EndpointLimits { message_max_size: 16 << 20, ..EndpointLimits::default() },
        acl: None,
        interceptors: None,
        admission: None,
    }
}

/// Plain TCP, open to all.
pub fn policy(id: u32) -> ListenerPolicy {
    policy_with(id, Arc::new(Anonymous::new()))
}

pub fn policy_with(id: u32, authenticate: Arc<dyn Authenticate>) -> ListenerPolicy {
    ListenerPolicy {
        endpoint: Arc::new(endpoint(id)),
        transport: Transport::Plain,
        websocket: None,
        proxy_protocol: None,
        authenticate,
        max_connections: None,
        max_connections_per_address: None,
        max_pending_connections: None,
        max_pending_per_address: None,
        max_connections_per_s: None,
        accept_overflow: AcceptOverflow::Delay,
        child: ChildOptions::default(),
        handshake: HandshakeLimits::default(),
    }
}
