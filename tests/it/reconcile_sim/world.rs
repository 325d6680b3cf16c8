//! The simulation's stand-ins for sockets, clients and files.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use weir_broker::{EndpointId, Principal};
use weir_mqtt::ProtocolVersion;
use weirmq::apply::{FileError, Plane, ReadFiles, SocketChange};
use weirmq::net::{
    ConnectionFacts, DrainPlan, DrainWhich, ListenerPolicy, ListenerStatus, PlaneError, SocketKey, SocketOptions,
};

/// What a drain by a window of 10 s (the default) leaves to a connection to finish what is in flight.
const IN_FLIGHT_MS: u32 = 2_500;

/// The data plane's model.
#[derive(Clone, Default)]
pub(super) struct World {
    sockets: Arc<Mutex<Sockets>>,
    /// Drains that took their time come to their end.
    turns: Arc<Notify>,
}

#[derive(Default)]
pub(super) struct Sockets {
    pub(super) listeners: BTreeMap<SocketKey, Listener>,
    pub(super) clients: Vec<Client>,
    pub(super) next_client: u64,
    /// Addresses that some other program has.
    pub(super) taken: BTreeSet<SocketKey>,
    /// Drains begun now take their time, into the steps that follow.
    pub(super) slow_drains: bool,
    /// Clients whose turn in a drain is still to come.
    pub(super) doomed: BTreeSet<u64>,
}

pub(super) struct Listener {
    pub(super) policy: Arc<ListenerPolicy>,
    pub(super) alive: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Client {
    pub(super) id: u64,
    pub(super) endpoint: EndpointId,
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) username: Option<Box<str>>,
}

/// Bound and not installed sockets, over all simulations of the process.
pub(super) static BOUND: AtomicUsize = AtomicUsize::new(0);

pub(super) struct Bound(pub(super) SocketKey);

impl Bound {
    pub(super) fn new(key: SocketKey) -> Self {
        BOUND.fetch_add(1, Ordering::SeqCst);
        Self(key)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        BOUND.fetch_sub(1, Ordering::SeqCst);
    }
}

impl World {
    pub(super) fn lock(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap()
    }

    /// Clients that are connected and that no drain means.
    pub(super) fn staying(&self) -> Vec<Client> {
        let world = self.lock();
        world.clients.iter().filter(|client| !world.doomed.contains(&client.id)).cloned().collect()
    }

    /// Lets drains that took their time come to their end.
    pub(super) fn end_drains(&self) {
        self.turns.notify_waiters();
    }

    pub(super) fn connect(&self, key: &SocketKey) {
        let mut world = self.lock();
        let Some(listener) = world.listeners.get(key).filter(|listener| listener.alive) else { return };
        let policy = Arc::clone(&listener.policy);
        if !policy.endpoint.versions.admits(ProtocolVersion::V5) {
            return;
        }
        let open = world.clients.iter().filter(|client| client.endpoint == policy.endpoint.id).count();
        if policy.max_connections.is_some_and(|limit| open >= limit as usize) {
            return;
        }
        world.next_client += 1;
        let client = Client {
            id: world.next_client,
            endpoint: policy.endpoint.id,
            name: policy.endpoint.name.to_string(),
            generation: policy.endpoint.generation,
            username: None,
        };
        world.clients.push(client);
    }
}

impl Sockets {
    /// Whom a drain means, judged when it begins.
    fn meant(&self, endpoint: EndpointId, which: &DrainWhich) -> BTreeSet<u64> {
        let own = self.clients.iter().filter(|client| client.endpoint == endpoint);
        let newest = |count: u32| {
            let mut ids: Vec<u64> = own.clone().map(|client| client.id).collect();
            ids.sort_unstable();
            ids.into_iter().rev().take(count as usize).collect()
        };
        let those = |goes: &dyn Fn(&Client) -> bool| own.clone().filter(|c| goes(c)).map(|c| c.id).collect();
        match which {
            DrainWhich::All => those(&|_| true),
            DrainWhich::Before(generation) => those(&|client| client.generation < *generation),
            DrainWhich::Newest(count) => newest(*count),
            DrainWhich::NewestOfAddress(_) => unreachable!("no limit of an address is declared"),
            DrainWhich::Matching(judge) => those(&|client| judge(&facts(client, &principal(client)))),
        }
    }
}

impl Plane for World {
    type Socket = Bound;

    fn bind(&self, key: &SocketKey, _: &SocketOptions) -> io::Result<Bound> {
        if self.lock().taken.iter().any(|taken| taken.overlaps(key)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        Ok(Bound::new(key.clone()))
    }

    fn key_of(socket: &Bound, _: &SocketKey) -> SocketKey {
        socket.0.clone()
    }

    fn holder(&self, _: &SocketKey) -> Option<String> {
        None
    }

    async fn install(&self, changes: Vec<SocketChange<Bound>>) -> Result<(), PlaneError> {
        let mut world = self.lock();
        for change in changes {
            match change {
                SocketChange::Add { socket, policy } => {
                    world.listeners.insert(socket.0.clone(), Listener { policy, alive: true });
                }
                SocketChange::SetPolicy { key, policy } => {
                    world.listeners.get_mut(&key).expect("a policy for a listener that is there").policy = policy;
                }
                SocketChange::Remove { key } => {
                    world.listeners.remove(&key).expect("a listener that is there is removed");
                }
            }
        }
        let keys: Vec<_> = world.listeners.keys().collect();
        for (at, key) in keys.iter().enumerate() {
            let other = keys.iter().skip(at + 1).find(|other| other.overlaps(key));
            assert!(other.is_none(), "{key} and {other:?} listen beside each other");
        }
        Ok(())
    }

    async fn set_policy(&self, _: Arc<ListenerPolicy>) -> Result<(), PlaneError> {
        Ok(())
    }

    fn drain(
        &self,
        endpoint: EndpointId,
        plan: DrainPlan,
    ) -> impl Future<Output = Result<u32, PlaneError>> + Send + 'static {
        assert_eq!(plan.in_flight_ms, if plan.revokes { 0 } else { IN_FLIGHT_MS });
        assert!(!plan.revokes || plan.per_s.is_none(), "what was revoked is gone at once");
        let world = self.clone();
        async move {
            let (targets, slow) = {
                let mut sockets = world.lock();
                let targets = sockets.meant(endpoint, &plan.which);
                sockets.doomed.extend(&targets);
                (targets, sockets.slow_drains && !plan.revokes)
            };
            if slow {
                world.turns.notified().await;
            }
            let mut sockets = world.lock();
            let before = sockets.clients.len();
            sockets.clients.retain(|client| !targets.contains(&client.id));
            sockets.doomed.retain(|id| !targets.contains(id));
            Ok((before - sockets.clients.len()) as u32)
        }
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let world = self.lock();
        let status = |(key, listener): (&SocketKey, &Listener)| ListenerStatus {
            key: key.clone(),
            alive: listener.alive,
            error: (!listener.alive).then(|| "it died".to_owned()),
        };
        world.listeners.iter().map(status).collect()
    }

    fn connections(&self, endpoint: EndpointId) -> u32 {
        self.lock().clients.iter().filter(|client| client.endpoint == endpoint).count() as u32
    }

    fn forget(&self, endpoint: EndpointId) {
        assert_eq!(self.connections(endpoint), 0, "an endpoint with clients is forgotten");
    }
}

pub(super) fn principal(client: &Client) -> Principal {
    Principal {
        username: client.username.clone(),
        address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        admitted_by: Arc::from("anonymous"),
        claims_acl: None,
        expires_at: None,
    }
}

pub(super) fn facts<'a>(client: &'a Client, principal: &'a Principal) -> ConnectionFacts<'a> {
    ConnectionFacts {
        client_id: "c",
        principal,
        peer: None,
        version: ProtocolVersion::V5,
        generation: client.generation,
        certificates: &[],
    }
}

/// No declaration of the simulation refers to a file that is there.
pub(super) struct NoFiles;

impl ReadFiles for NoFiles {
    fn read(&mut self, _: &Path) -> Result<Vec<u8>, FileError> {
        Err(FileError::NotFound)
    }
}
