//! A whole core, on one shard and on two, fed with hostile bytes from several connections while time passes: nothing
//! panics, and what waits for a connection stays within its bound.
#![no_main]

use std::io::IoSlice;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use weir_broker::{
    Admission, Batch, ConnId, Core, CoreConfig, Driver, EndpointId, EndpointLimits, EndpointPolicy, Principal,
    ProtocolVersions, ReadAction, Reauthentication, RecordBatch, ShardId, WorkBudget, drive, home_shard, limits,
};
use weir_mqtt::decode_connect;

const CONNECTIONS: usize = 4;

/// Packets worth mutating from: what the bytes of the input name by one number.
const SEEDS: [&[u8]; 12] = [
    b"\x82\x06\x00\x01\x00\x01#\x01",
    b"\x82\x0e\x00\x02\x00\x09$share/g/+\x02",
    b"\x32\x06\x00\x01a\x00\x07x",
    b"\x35\x05\x00\x01a\x00\x08",
    b"\x31\x04\x00\x01ax",
    b"\x62\x02\x00\x08",
    b"\x40\x02\x00\x01",
    b"\x50\x02\x00\x01",
    b"\xa2\x05\x00\x03\x00\x01#",
    b"\xe0\x00",
    b"\xf0\x06\x19\x04\x15\x00\x01M",
    b"\xf0\x0a\x18\x08\x15\x00\x01M\x16\x00\x01x",
];

fn anonymous() -> Principal {
    Principal { username: None, address: None, admitted_by: "anonymous".into(), claims_acl: None, expires_at: None }
}

struct Node {
    cores: Vec<Core>,
    connections: [Option<(usize, ConnId)>; CONNECTIONS],
    policy: Arc<EndpointPolicy>,
    batches: Vec<(ShardId, ShardId, Batch)>,
    now: u64,
}

impl Node {
    fn new(shards: u16) -> Self {
        let limits = EndpointLimits { max_queued_messages: 8, receive_maximum: 4, ..EndpointLimits::default() };
        let policy = EndpointPolicy {
            id: EndpointId(0),
            name: "fuzz".into(),
            generation: 0,
            namespace: "".into(),
            versions: ProtocolVersions::ALL,
            limits,
            acl: None,
            interceptors: None,
            admission: None,
        };
        let policy = Arc::new(policy);
        let core = |shard| {
            let mut core =
                Core::new(CoreConfig { shard: ShardId(shard), shards, hash_seed: 0, work: WorkBudget::default() });
            core.register_policy(&policy, 0);
            core
        };
        Self {
            cores: (0..shards).map(core).collect(),
            connections: [None; CONNECTIONS],
            policy,
            batches: Vec::new(),
            now: 0,
        }
    }

    fn connect(&mut self, connection: usize, bytes: &[u8]) {
        self.close_connection(connection);
        let Ok(weir_mqtt::Decoded::Packet { packet: connect, .. }) = decode_connect(bytes, u32::MAX) else {
            return;
        };
        let client_id = if connect.client_id.is_empty() { "assigned" } else { connect.client_id };
        let shard = usize::from(home_shard("", client_id, self.cores.len() as u16).0);
        let principal = anonymous();
        let policy = Arc::clone(&self.policy);
        let admission =
            Admission { policy, connect: &connect, client_id, assigned: false, principal, authentication_data: None };
        self.connections[connection] = self.cores[shard].admit(admission, self.now).ok().map(|id| (shard, id));
    }

    fn receive(&mut self, connection: usize, bytes: &[u8]) {
        let Some((shard, id)) = self.connections[connection] else { return };
        let received = self.cores[shard].receive(id, bytes, self.now);
        assert!(received.consumed <= bytes.len());
        if received.action == ReadAction::Close {
            self.close_connection(connection);
        }
    }

    fn close_connection(&mut self, connection: usize) {
        if let Some((shard, id)) = self.connections[connection].take() {
            self.cores[shard].connection_closed(id, self.now);
        }
    }

    /// Writes all that waits and carries batches until none is left.
    fn settle(&mut self) {
        for _ in 0..64 {
            for shard in 0..self.cores.len() {
                drive(&mut Shard { node: self, shard });
            }
            if self.batches.is_empty() {
                return;
            }
            for (from, to, batch) in std::mem::take(&mut self.batches) {
                self.cores[usize::from(to.0)].deliver_batch(from, batch, self.now);
            }
        }
    }

    /// No core has found an internal inconsistency.
    fn check(&self) {
        assert!(self.cores.iter().all(|core| core.gauges().internal_errors.total() == 0));
    }
}

struct Shard<'a> {
    node: &'a mut Node,
    shard: usize,
}

impl Driver for Shard<'_> {
    fn core(&mut self) -> &mut Core {
        &mut self.node.cores[self.shard]
    }

    fn reauthenticate(&mut self, request: Reauthentication) {
        let Reauthentication { connection, begins, data } = request;
        let now = self.node.now;
        if begins && data.is_none() {
            self.core().continue_authentication(connection, b"more", now);
        } else {
            self.core().reauthenticated(connection, anonymous(), data.as_deref(), now);
        }
    }

    fn store(&mut self, _: RecordBatch) {}

    fn send(&mut self, to: ShardId, batch: Batch) {
        self.node.batches.push((ShardId(self.shard as u16), to, batch));
    }

    fn flush(&mut self, conn: ConnId) {
        let now = self.node.now;
        if let Some(out) = self.core().out(conn) {
            assert!(out.len() <= limits::PENDING_WRITE_MAX_BYTES + (1 << 20));
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = out.fill_slices(&mut slices);
            let taken = slices[..filled].iter().map(|s| s.len()).sum();
            out.advance(taken);
        }
        self.core().written(conn, now);
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(connection) = self.node.connections.iter().position(|c| *c == Some((self.shard, conn))) {
            self.node.close_connection(connection);
        }
    }

    fn resume(&mut self, _: ConnId) {}
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, mut rest)) = data.split_first() else { return };
    let mut node = Node::new(1 + u16::from(choice & 1));
    while let [what, length, bytes @ ..] = rest {
        let (bytes, after) = bytes.split_at(usize::from(*length).min(bytes.len()));
        let connection = usize::from(what & 3);
        match what >> 2 & 7 {
            0 | 1 => node.connect(connection, bytes),
            2 => {
                let version = if what & 0x80 == 0 { 4 } else { 5 };
                let properties: &[u8] = if version == 5 { b"\x04\x15\x00\x01M" } else { &[] };
                let mut connect = vec![0x10, 13 + properties.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', version];
                connect.extend_from_slice(&[what & 0x40 >> 5, 0, 30]);
                connect.extend_from_slice(properties);
                connect.extend_from_slice(&[0, 1, b'a' + connection as u8]);
                node.connect(connection, &connect);
            }
            3 => node.close_connection(connection),
            4 => node.now += u64::from(*length) * 1000,
            5 => node.receive(connection, SEEDS[usize::from(*length) % SEEDS.len()]),
            _ => node.receive(connection, bytes),
        }
        node.cores.iter_mut().for_each(|core| core.tick(node.now));
        node.settle();
        node.check();
        rest = after;
    }
});
