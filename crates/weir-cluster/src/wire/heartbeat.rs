//! Heartbeats: what a node says about itself in the stream of members.

use std::sync::Arc;

use super::WireVersions;
use super::field::{FieldError, FieldProblem, text};
use super::record::{RecordError, decode_record, encode_record, number, put_field, put_number};
use crate::Incarnation;

const NODE: u64 = 1;
const INCARNATION: u64 = 2;
const SEQUENCE: u64 = 3;
const WIRE_MIN: u64 = 4;
const WIRE_MAX: u64 = 5;
const WEIR_VERSION: u64 = 6;
const ADDRESS: u64 = 7;
const CLIENTS: u64 = 8;
const SESSIONS: u64 = 9;
const LEAVING: u64 = 10;
const SLOTS: u64 = 11;
const UPTIME: u64 = 12;
const SLOTS_FOUNDED: u64 = 13;
const SLOTS_APPLIED: u64 = 14;
const REPORT: u64 = 15;

/// Flags of `SLOTS`.
const OWNS_SLOTS: u64 = 1;
const HAS_DATA_DIR: u64 = 2;

/// The value of `LEAVING` in a node's last heartbeat.
const GONE: u64 = 2;
/// The value of `LEAVING` of a node that is evacuated. A node that does not know it takes it for one that leaves.
const EVACUATING: u64 = 3;

/// Addresses of a node at most.
const ADDRESSES_MAX: usize = 64;
/// Bytes of a node's report at most. A longer one is not written, and not read.
pub const REPORT_MAX_BYTES: usize = 32 << 10;

/// A node's record in the stream of members. The stream keeps the newest of each node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Name of the node.
    pub node: String,
    /// The start of its process that writes this.
    pub incarnation: Incarnation,
    /// Counts the heartbeats of the incarnation.
    pub sequence: u64,
    /// Versions of the wire format that it reads and writes.
    pub wire: WireVersions,
    /// Version of Weir, as text.
    pub weir_version: String,
    /// Addresses for clients and operators, as text. At most 64 are written.
    pub addresses: Vec<String>,
    /// How much the node serves.
    pub load: Load,
    /// The node is shutting down and hands over its sessions.
    pub leaving: bool,
    /// The last heartbeat of a node that leaves: it serves no client any more, and is not waited for.
    pub gone: bool,
    /// The node is evacuated: it serves no clients, should own no slots, and stays a member.
    pub evacuating: bool,
    /// How long its process has run, in milliseconds of its clock.
    pub uptime_ms: u64,
    /// What it does with slots. `None`: its version does not know them.
    pub slots: Option<HeartbeatSlots>,
    /// What its control plane tells those of the others: opaque here. Empty: nothing.
    pub report: Arc<[u8]>,
}

/// What a node does with slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeartbeatSlots {
    /// It has a data directory: it can own slots of sessions on disk.
    pub has_data_dir: bool,
    /// The slot table that it has applied: the sessions of slots that it had lost by then have ended. Of that founding...
    pub founded: u64,
    /// ... the version. 0: none.
    pub applied: u64,
}

/// How much a node serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Connected clients.
    pub clients: u64,
    /// Persistent sessions.
    pub sessions: u64,
}

impl Heartbeat {
    /// Appends the record's bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_record(out, |out| {
            put_field(out, NODE, self.node.as_bytes());
            put_number(out, INCARNATION, self.incarnation);
            put_number(out, SEQUENCE, self.sequence);
            put_number(out, WIRE_MIN, u64::from(self.wire.min));
            put_number(out, WIRE_MAX, u64::from(self.wire.max));
            put_field(out, WEIR_VERSION, self.weir_version.as_bytes());
            self.addresses.iter().take(ADDRESSES_MAX).for_each(|address| put_field(out, ADDRESS, address.as_bytes()));
            put_number(out, CLIENTS, self.load.clients);
            put_number(out, SESSIONS, self.load.sessions);
            let leaving = match self {
                Self { gone: true, .. } => GONE,
                Self { leaving: true, .. } => 1,
                Self { evacuating: true, .. } => EVACUATING,
                _ => 0,
            };
            put_number(out, LEAVING, leaving);
            if self.uptime_ms > 0 {
                put_number(out, UPTIME, self.uptime_ms);
            }
            if let Some(slots) = &self.slots {
                put_number(out, SLOTS, OWNS_SLOTS | (u64::from(slots.has_data_dir) * HAS_DATA_DIR));
                put_number(out, SLOTS_FOUNDED, slots.founded);
                put_number(out, SLOTS_APPLIED, slots.applied);
            }
            if (1..=REPORT_MAX_BYTES).contains(&self.report.len()) {
                put_field(out, REPORT, &self.report);
            }
        });
    }

    /// Decodes a record. Name, incarnation, sequence and wire versions are required.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (mut node, mut incarnation, mut sequence, mut wire_min, mut wire_max) = (None, None, None, None, None);
        let (mut weir_version, mut addresses, mut load, mut leaving) = ("", Vec::new(), Load::default(), 0);
        let (mut uptime_ms, mut flags, mut founded, mut applied) = (0, 0, 0, 0);
        let mut report: &[u8] = &[];
        for field in decode_record(bytes)? {
            let (tag, value) = field?;
            match tag {
                NODE => node = Some(text(value, "node")?),
                INCARNATION => incarnation = Some(number(value, "incarnation")?),
                SEQUENCE => sequence = Some(number(value, "sequence")?),
                WIRE_MIN => wire_min = Some(wire_version(value)?),
                WIRE_MAX => wire_max = Some(wire_version(value)?),
                WEIR_VERSION => weir_version = text(value, "weir version")?,
                ADDRESS if addresses.len() == ADDRESSES_MAX => return Err(FieldProblem::TooMany.of("address").into()),
                ADDRESS => addresses.push(text(value, "address")?.to_owned()),
                CLIENTS => load.clients = number(value, "clients")?,
                SESSIONS => load.sessions = number(value, "sessions")?,
                LEAVING => leaving = number(value, "leaving")?,
                SLOTS => flags = number(value, "slots")?,
                UPTIME => uptime_ms = number(value, "uptime")?,
                SLOTS_FOUNDED => founded = number(value, "founding of the slots")?,
                SLOTS_APPLIED => applied = number(value, "applied version of the slots")?,
                REPORT if value.len() <= REPORT_MAX_BYTES => report = value,
                _ => {} // of a newer version
            }
        }
        let has_data_dir = flags & HAS_DATA_DIR != 0;
        let missing = |field: &'static str| FieldProblem::Missing.of(field);
        Ok(Self {
            node: node.ok_or(missing("node"))?.to_owned(),
            incarnation: incarnation.ok_or(missing("incarnation"))?,
            sequence: sequence.ok_or(missing("sequence"))?,
            wire: WireVersions {
                min: wire_min.ok_or(missing("least wire version"))?,
                max: wire_max.ok_or(missing("greatest wire version"))?,
            },
            weir_version: weir_version.to_owned(),
            addresses,
            load,
            leaving: !matches!(leaving, 0 | EVACUATING),
            gone: leaving == GONE,
            evacuating: leaving == EVACUATING,
            uptime_ms,
            slots: (flags & OWNS_SLOTS != 0).then_some(HeartbeatSlots { has_data_dir, founded, applied }),
            report: report.into(),
        })
    }
}

fn wire_version(value: &[u8]) -> Result<u8, FieldError> {
    let field = "wire version";
    u8::try_from(number(value, field)?).map_err(|_| FieldProblem::TooLarge.of(field))
}
