//! Scripts against the core in memory.

use std::collections::HashMap;
use std::sync::Arc;

use weir_broker::placement::slot_of;
use weir_broker::{Authorize, EndpointLimits, EndpointPolicy, Subject, WorkBudget, home_shard};
use weir_mqtt::QoS;

use crate::cluster::SLOTS;
use crate::node::{Node, policy};
use crate::script::{Patience, Transport, TransportEvent};

/// The endpoints that scripts name, as the core knows them. `process.rs` declares the same ones.
fn endpoint(name: &str) -> Option<Arc<EndpointPolicy>> {
    let limits = EndpointLimits { session_expiry_max_s: None, ..EndpointLimits::default() };
    Some(match name {
        "default" => policy(1, limits),
        "small" => {
            policy(2, EndpointLimits { receive_maximum: 2, message_max_size: 1024, topic_alias_maximum: 3, ..limits })
        }
        "limited" => {
            let limits = EndpointLimits {
                keep_alive_max_s: Some(60),
                session_expiry_max_s: Some(100),
                maximum_qos: QoS::AtLeastOnce,
                retain_available: false,
                topic_alias_maximum: 0,
                ..limits
            };
            policy(3, limits)
        }
        "rules" => {
            let plain = Arc::into_inner(policy(4, limits))?;
            Arc::new(EndpointPolicy { acl: Some(Arc::new(DeniedTopics)), ..plain })
        }
        _ => return None,
    })
}

/// Nothing of `denied/` may be published or subscribed to.
#[derive(Debug)]
struct DeniedTopics;

impl Authorize for DeniedTopics {
    fn may_publish(&self, _: Subject<'_>, topic: &str, _: QoS, _: bool) -> bool {
        !topic.starts_with("denied/")
    }

    fn may_subscribe(&self, _: Subject<'_>, filter: &str, _: QoS) -> bool {
        !filter.starts_with("denied/")
    }

    fn may_receive(&self, _: Subject<'_>, _: &str) -> bool {
        true
    }
}

/// A [`Node`] of its own for each script.
pub struct MemoryTransport {
    node: Node,
    /// How many places sessions have: shards of a broker, or nodes of a cluster.
    places: u16,
    is_cluster: bool,
    opened: usize,
    client_ids: HashMap<String, String>,
}

impl MemoryTransport {
    /// A broker of `shards` shards.
    pub fn new(shards: u16) -> MemoryTransport {
        Self { node: Node::new(shards), places: shards, is_cluster: false, opened: 0, client_ids: HashMap::new() }
    }

    /// A cluster of `nodes` nodes with one shard each. Each connection is to the next node.
    pub fn cluster(nodes: u16) -> MemoryTransport {
        let node = Node::cluster(nodes, 1, WorkBudget::default());
        Self { node, places: nodes, is_cluster: true, opened: 0, client_ids: HashMap::new() }
    }
}

impl Transport for MemoryTransport {
    fn open(&mut self, endpoint: &str) -> Result<usize, String> {
        let policy = self::endpoint(endpoint).ok_or_else(|| format!("no endpoint is named {endpoint:?}"))?;
        self.opened += 1;
        Ok(if self.is_cluster {
            self.node.open_at(self.opened % usize::from(self.places), policy)
        } else {
            self.node.open(policy)
        })
    }

    fn send(&mut self, link: usize, bytes: &[u8]) {
        self.node.send(link, bytes);
        self.node.settle();
    }

    fn poll(&mut self, link: usize, _: Patience) -> TransportEvent {
        let bytes = self.node.take_output(link);
        match (bytes.is_empty(), self.node.is_closed(link)) {
            (false, _) => TransportEvent::Bytes(bytes),
            (true, true) => TransportEvent::Closed,
            (true, false) => TransportEvent::Nothing,
        }
    }

    fn close(&mut self, link: usize) {
        self.node.close(link);
        self.node.settle();
    }

    fn advance(&mut self, millis: u64) {
        self.node.advance(millis);
    }

    fn settle(&mut self) {}

    fn is_synchronous(&self) -> bool {
        true
    }

    /// The session of each further client of a script lives on the next shard, or node.
    fn client_id(&mut self, id: &str) -> String {
        let (places, is_cluster) = (self.places, self.is_cluster);
        let next = (self.client_ids.len() % usize::from(places)) as u16;
        let chosen = self.client_ids.entry(id.to_owned()).or_insert_with(|| {
            let place =
                |id: &str| if is_cluster { slot_of("", id, SLOTS) % places } else { home_shard("", id, places).0 };
            let lives_there = |candidate: &String| place(candidate) == next;
            (0..1000).map(|salt| format!("{id}{}", "z".repeat(salt))).find(lives_there).expect("some salt fits")
        });
        chosen.clone()
    }
}
