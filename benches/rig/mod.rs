//! A core without sockets, on one shard, and packets for it.

#![allow(clippy::expect_used)] // what the rig sends is right, or the figures mean nothing

use std::hint::black_box;
use std::sync::Arc;

use weir_broker::{
    Admission, Authorize, Batch, ConnId, Core, CoreConfig, Driver, EndpointId, EndpointLimits, EndpointPolicy,
    Interceptors, Principal, ProtocolVersions, Reauthentication, RecordBatch, ShardId, WorkBudget, drive,
};
use weir_mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, Side, decode};

pub(crate) const MESSAGES_PER_READ: usize = 500;

/// A core, and what waits to be written there.
pub(crate) struct Rig {
    pub(crate) core: Core,
    policy: Arc<EndpointPolicy>,
    acks: Vec<u8>,
}

impl Rig {
    pub(crate) fn new(acl: Option<Arc<dyn Authorize>>) -> Self {
        Self::with_interceptors(acl, None)
    }

    pub(crate) fn with_interceptors(acl: Option<Arc<dyn Authorize>>, interceptors: Option<Interceptors>) -> Self {
        let policy = EndpointPolicy {
            id: EndpointId(1),
            name: "bench".into(),
            generation: 1,
            namespace: "".into(),
            versions: ProtocolVersions::ALL,
            limits: EndpointLimits::default(),
            acl,
            interceptors,
            admission: None,
        };
        let policy = Arc::new(policy);
        let mut core =
            Core::new(CoreConfig { shard: ShardId(0), shards: 1, hash_seed: 0, work: WorkBudget::default() });
        core.register_policy(&policy, 0);
        Self { core, policy, acks: Vec::new() }
    }

    pub(crate) fn connect(&mut self, client_id: &str) -> ConnId {
        let length = client_id.len() as u8;
        let mut bytes = vec![0x10, 12 + length, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, length];
        bytes.extend_from_slice(client_id.as_bytes());
        let context = DecodeContext { version: ProtocolVersion::V3_1_1, max_packet_size: 1 << 20, from: Side::Client };
        let Ok(Decoded::Packet { packet: Packet::Connect(connect), .. }) = decode(&bytes, &context) else {
            panic!("a CONNECT")
        };
        let principal = Principal {
            username: Some("user7".into()),
            address: None,
            admitted_by: "anonymous".into(),
            claims_acl: None,
            expires_at: None,
        };
        let policy = Arc::clone(&self.policy);
        let (assigned, authentication_data) = (false, None);
        let admission = Admission { policy, connect: &connect, client_id, assigned, principal, authentication_data };
        self.core.admit(admission, 0).expect("admitted")
    }

    /// Takes everything that waits to be written, as a socket would; answers PUBLISHes of QoS 1 with PUBACK.
    pub(crate) fn drain(&mut self) {
        drive(self);
    }
}

impl Driver for Rig {
    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn flush(&mut self, conn: ConnId) {
        let mut acks = std::mem::take(&mut self.acks);
        if let Some(out) = self.core.out(conn) {
            let mut bytes = black_box(out.first());
            while bytes.first().is_some_and(|b| b & 0xf6 == 0x32) {
                let (length, header) = match bytes[1] {
                    short @ ..128 => (usize::from(short), 2),
                    low => (usize::from(low & 127) + usize::from(bytes[2]) * 128, 3),
                };
                let at = header + 2 + usize::from(bytes[header + 1]);
                acks.extend_from_slice(&[0x40, 2, bytes[at], bytes[at + 1]]);
                bytes = &bytes[header + length..];
            }
            let n = out.len();
            out.advance(n);
        }
        self.core.written(conn, 0);
        if !acks.is_empty() {
            self.core.receive(conn, &acks, 0);
            acks.clear();
        }
        self.acks = acks;
    }

    fn reauthenticate(&mut self, _: Reauthentication) {}
    fn store(&mut self, _: RecordBatch) {}
    fn send(&mut self, _: ShardId, _: Batch) {}
    fn close(&mut self, _: ConnId) {}
    fn resume(&mut self, _: ConnId) {}
}

/// A PUBLISH of 3.1.1.
pub(crate) fn publish(topic: &str, qos: u8, payload: usize, id: u16) -> Vec<u8> {
    let remaining = 2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload;
    let mut bytes = vec![0x30 | qos << 1];
    if remaining < 128 {
        bytes.push(remaining as u8);
    } else {
        bytes.extend_from_slice(&[(remaining % 128) as u8 | 128, (remaining / 128) as u8]);
    }
    bytes.extend_from_slice(&[0, topic.len() as u8]);
    bytes.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        bytes.extend_from_slice(&id.to_be_bytes());
    }
    bytes.resize(bytes.len() + payload, b'x');
    bytes
}
