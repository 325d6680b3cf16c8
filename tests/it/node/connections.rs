//! The connections of a [`Node`]: what a shard does with a client before and after CONNECT.

use std::sync::Arc;

use super::Node;
use crate::cluster::SLOTS;
use weir_broker::placement::{needs_owner, session_slot};
use weir_broker::{Admission, ConnId, EndpointPolicy, Principal, ReadAction, home_shard};
use weir_mqtt::{ConnAck, ConnAckProperties, ConnAckRefusal, Decoded, Packet, ReasonCode, decode_connect, encode};

/// A connection of a [`Node`].
pub type LinkId = usize;

/// Where a connection stands.
enum Stage {
    /// CONNECT has not come.
    Waiting(Vec<u8>),
    /// A core serves it. `kept` is the partial packet, or what came while reading was paused.
    Admitted {
        shard: usize,
        id: ConnId,
        kept: Vec<u8>,
        paused: bool,
    },
    Closed,
}

pub(super) struct Link {
    policy: Arc<EndpointPolicy>,
    /// The node of a cluster that the client has chosen; `None`: by its name.
    node: Option<usize>,
    stage: Stage,
    to_client: Vec<u8>,
    /// Whether the client reads: what it does not take stays with the core.
    reads: bool,
}

impl Node {
    /// A client opens a connection to an endpoint.
    pub fn open(&mut self, policy: Arc<EndpointPolicy>) -> LinkId {
        self.cores.iter_mut().for_each(|core| core.register_policy(&policy, self.now));
        let stage = Stage::Waiting(Vec::new());
        self.links.push(Link { policy, node: None, stage, to_client: Vec::new(), reads: true });
        self.links.len() - 1
    }

    /// A client opens a connection to a node of a cluster.
    pub fn open_at(&mut self, node: usize, policy: Arc<EndpointPolicy>) -> LinkId {
        let link = self.open(policy);
        self.links[link].node = Some(node);
        link
    }

    /// A client sends bytes. What the core answers is only there after [`Node::settle`] or [`Node::step`].
    pub fn send(&mut self, link: LinkId, bytes: &[u8]) {
        match &mut self.links[link].stage {
            Stage::Closed => {}
            Stage::Waiting(buffer) => {
                buffer.extend_from_slice(bytes);
                self.try_connect(link);
            }
            Stage::Admitted { kept, paused, .. } => {
                kept.extend_from_slice(bytes);
                if !*paused {
                    self.feed(link);
                }
            }
        }
    }

    /// Takes what was sent to a client.
    pub fn take_output(&mut self, link: LinkId) -> Vec<u8> {
        std::mem::take(&mut self.links[link].to_client)
    }

    /// Whether the broker closed the connection, or the client did.
    pub fn is_closed(&self, link: LinkId) -> bool {
        matches!(self.links[link].stage, Stage::Closed)
    }

    /// The client closes, or the network fails.
    pub fn close(&mut self, link: LinkId) {
        if let Stage::Admitted { shard, id, .. } = self.links[link].stage {
            self.cores[shard].connection_closed(id, self.now);
        }
        self.links[link].stage = Stage::Closed;
    }

    pub(super) fn link_of(&self, shard: usize, id: ConnId) -> Option<LinkId> {
        self.links.iter().rposition(
            |link| matches!(link.stage, Stage::Admitted { shard: on, id: found, .. } if on == shard && found == id),
        )
    }

    /// Writes what waits to the client, a part at a time as a socket would take it.
    pub(super) fn flush(&mut self, shard: usize, id: ConnId, link: LinkId) {
        while self.links[link].reads {
            let Some(out) = self.cores[shard].out(id) else { return };
            if out.ready() == 0 {
                return;
            }
            let part = out.first().len().min(1000);
            let bytes = out.first()[..part].to_vec();
            out.advance(part);
            self.links[link].to_client.extend_from_slice(&bytes);
            if let Some(transcript) = &mut self.transcript {
                transcript.push((link, bytes));
            }
            self.cores[shard].written(id, self.now);
        }
    }

    /// Flushes and closes a connection that the core is done with.
    pub(super) fn finish(&mut self, link: LinkId) {
        let Stage::Admitted { shard, id, .. } = self.links[link].stage else { return };
        self.links[link].reads = true;
        self.flush(shard, id, link);
        self.links[link].stage = Stage::Closed;
        self.cores[shard].connection_closed(id, self.now);
    }

    /// The core reads the connection again.
    pub(super) fn resume(&mut self, link: LinkId) {
        if let Stage::Admitted { paused, .. } = &mut self.links[link].stage {
            *paused = false;
        }
        self.feed(link);
    }

    fn feed(&mut self, link: LinkId) {
        let Stage::Admitted { shard, id, kept, .. } = &mut self.links[link].stage else { return };
        let (shard, id, bytes) = (*shard, *id, std::mem::take(kept));
        if bytes.is_empty() {
            return;
        }
        let received = self.cores[shard].receive(id, &bytes, self.now);
        if received.action == ReadAction::Close {
            return self.finish(link);
        }
        if let Stage::Admitted { kept, paused, .. } = &mut self.links[link].stage {
            *paused = received.action == ReadAction::Pause;
            *kept = bytes[received.consumed..].to_vec();
        }
    }

    fn refuse(&mut self, link: LinkId, connack: Vec<u8>) {
        self.links[link].to_client.extend_from_slice(&connack);
        self.links[link].stage = Stage::Closed;
    }

    /// What a shard does with a connection that is not admitted yet.
    fn try_connect(&mut self, link: LinkId) {
        let Stage::Waiting(buffer) = &mut self.links[link].stage else { return };
        let bytes = std::mem::take(buffer);
        let policy = Arc::clone(&self.links[link].policy);
        let (connect, len) = match decode_connect(&bytes, policy.limits.message_max_size) {
            Ok(Decoded::Packet { packet, len }) => (packet, len),
            Ok(Decoded::Incomplete { .. }) => {
                self.links[link].stage = Stage::Waiting(bytes);
                return;
            }
            Err(error) => return self.refuse(link, error.refusal.map(connack).unwrap_or_default()),
        };
        if connect.properties.authentication_method.is_some() {
            let code = ReasonCode::BadAuthenticationMethod as u8;
            return self.refuse(link, connack(ConnAckRefusal { version: connect.version, code }));
        }
        let assigned = connect.client_id.is_empty();
        let client_id = if assigned {
            self.assigned += 1;
            format!("assigned-{}", self.assigned)
        } else {
            connect.client_id.to_owned()
        };
        let home = |shards: usize| usize::from(home_shard(&policy.namespace, &client_id, shards as u16).0);
        // The number of nodes and that of shards must not select by the same bits.
        let nodes = self.cores.len() / self.shards;
        let by_name = usize::from(home_shard("node", &client_id, nodes as u16).0);
        let owner = || {
            let slot = session_slot(policy.limits.durability, &policy.namespace, &client_id, SLOTS);
            self.cluster.as_ref()?.owner(slot).filter(|_| needs_owner(&connect, &client_id))
        };
        let node = owner().unwrap_or_else(|| self.links[link].node.unwrap_or(by_name));
        let shard = node * self.shards + home(self.shards);
        let principal = Principal {
            username: connect.username.map(Into::into),
            address: None,
            admitted_by: "test".into(),
            claims_acl: None,
            expires_at: None,
        };
        let admission = Admission {
            policy,
            connect: &connect,
            client_id: &client_id,
            assigned,
            principal,
            authentication_data: None,
        };
        match self.cores[shard].admit(admission, self.now) {
            Err(connack) => self.refuse(link, connack),
            Ok(id) => {
                self.links[link].stage = Stage::Admitted { shard, id, kept: bytes[len..].to_vec(), paused: false };
                self.feed(link);
            }
        }
    }
}

fn connack(refusal: ConnAckRefusal) -> Vec<u8> {
    let mut bytes = Vec::new();
    let connack = ConnAck { session_present: false, code: refusal.code, properties: ConnAckProperties::default() };
    encode(&Packet::ConnAck(Box::new(connack)), refusal.version, &mut bytes).expect("a CONNACK of two bytes");
    bytes
}
