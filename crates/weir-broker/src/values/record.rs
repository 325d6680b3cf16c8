//! Records: the form in which a core's state outlives the process.
//!
//! A record is a key and a value; a later one of the same key replaces an earlier one, or removes it. What one
//! [`RecordBatch`] holds becomes durable together, and batches of a shard in their order. (On a full disk a batch that only
//! removes may become durable before earlier ones that name none of its records; it is reported in its turn.)

use crate::ids::{RecordId, ShardId};
use crate::limits::RECORDS_HIGH_BYTES;

/// The kind of a record. The numbers are part of the stored format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// A session: its client, its expiry, its will.
    Session = 1,
    /// One of its subscriptions.
    Subscription = 2,
    /// A message that several deliveries share.
    Message = 3,
    /// A message for one session, queued or sent.
    Delivery = 4,
    /// A QoS 2 message that the receiver has, and that waits for PUBCOMP.
    Released = 5,
    /// The packet identifier of a QoS 2 PUBLISH whose message was taken, and that waits for PUBREL.
    Received = 6,
    /// A retained message.
    Retained = 7,
    /// How many shards the process had that wrote the others.
    Node = 8,
    /// A message that its shard has given up, until another shard has it.
    Outbox = 9,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Session,
        Self::Subscription,
        Self::Message,
        Self::Delivery,
        Self::Released,
        Self::Received,
        Self::Retained,
        Self::Node,
        Self::Outbox,
    ];

    /// Its name in `weir store`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Subscription => "subscription",
            Self::Message => "message",
            Self::Delivery => "delivery",
            Self::Released => "released",
            Self::Received => "received",
            Self::Retained => "retained",
            Self::Node => "node",
            Self::Outbox => "outbox",
        }
    }
}

/// Bits of [`RecordKey::parent`] that number the parent; the kind is in the bits above them.
const PARENT_BITS: u32 = 56;

/// Names a record. Keys sort by kind, then parent, then item: the deliveries of a session in the order they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordKey {
    parent: u64,
    item: u64,
}

impl RecordKey {
    /// Bytes of its stored form.
    pub const BYTES: usize = 16;

    /// The record `item` of `parent`: both are numbers the core gave, or 0.
    pub(crate) fn new(kind: RecordKind, parent: RecordId, item: u64) -> Self {
        debug_assert!(parent.0 >> PARENT_BITS == 0);
        Self { parent: u64::from(kind as u8) << PARENT_BITS | parent.0, item }
    }

    /// Sorts before every key of the kind with that number.
    pub(crate) fn first_of(kind: u8) -> Self {
        Self { parent: u64::from(kind) << PARENT_BITS, item: 0 }
    }

    /// `None`: of a kind this version does not know.
    pub fn kind(self) -> Option<RecordKind> {
        let number = self.parent >> PARENT_BITS;
        RecordKind::ALL.into_iter().find(|kind| u64::from(*kind as u8) == number)
    }

    /// The number of the session (or message) that it belongs to.
    pub fn parent(self) -> RecordId {
        RecordId(self.parent & ((1 << PARENT_BITS) - 1))
    }

    /// Which of the parent's records of that kind it is.
    pub fn item(self) -> u64 {
        self.item
    }

    /// Its stored form.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.parent.to_be_bytes());
        bytes[8..].copy_from_slice(&self.item.to_be_bytes());
        bytes
    }

    /// From its stored form.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let number = |at: usize| bytes[at..at + 8].iter().fold(0, |n, b| n << 8 | u64::from(*b));
        Self { parent: number(0), item: number(8) }
    }
}

/// The length of a value in a batch that means: the record is removed.
const REMOVED: u32 = u32::MAX;

/// Records of one turn of a shard, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch {
    /// Counts the shard's batches; not every number comes.
    pub number: u64,
    /// Key, length of the value, value, and so on.
    pub(crate) bytes: Vec<u8>,
}

impl RecordBatch {
    /// A batch of bytes that [`append_record`] wrote.
    pub fn new(number: u64, bytes: Vec<u8>) -> Self {
        Self { number, bytes }
    }

    /// Bytes it holds.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Its records; `None` for a value means that the record is removed.
    pub fn records(&self) -> RecordIter<'_> {
        RecordIter { bytes: &self.bytes }
    }
}

/// Appends a record to bytes in a batch's form; `None` removes.
pub fn append_record(into: &mut Vec<u8>, key: RecordKey, value: Option<&[u8]>) {
    into.extend_from_slice(&key.to_bytes());
    match value {
        Some(value) => {
            into.extend_from_slice(&(value.len() as u32).to_le_bytes());
            into.extend_from_slice(value);
        }
        None => into.extend_from_slice(&REMOVED.to_le_bytes()),
    }
}

/// Records in a batch's form.
#[derive(Debug, Clone)]
pub struct RecordIter<'a> {
    bytes: &'a [u8],
}

impl<'a> RecordIter<'a> {
    /// Reads what [`append_record`] wrote. What is cut short ends it.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Bytes that are not read yet; not empty after the last record: the bytes are damaged.
    pub fn rest(&self) -> usize {
        self.bytes.len()
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = (RecordKey, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = self.bytes.split_first_chunk::<{ RecordKey::BYTES }>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let key = RecordKey::from_bytes(*key);
        match u32::from_le_bytes(*length) {
            REMOVED => {
                self.bytes = rest;
                Some((key, None))
            }
            length => {
                let (value, rest) = rest.split_at_checked(length as usize)?;
                self.bytes = rest;
                Some((key, Some(value)))
            }
        }
    }
}

/// A report of the store to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreAck {
    /// Its batches up to this number are durable.
    UpTo(u64),
    /// The disk is full (`true`), or no longer is. Batches are still written, into a reserve: those that free
    /// space, and those that add little. The core accepts no PUBLISH that adds records meanwhile.
    Full(bool),
}

/// Makes records durable. Handing over never blocks.
pub trait RecordSink: Send + Sync {
    /// Sets what is called with the store's reports; once, before the first batch.
    fn on_ack(&self, on_ack: Box<dyn Fn(ShardId, StoreAck) + Send + Sync>);
    /// Takes a shard's batch; numbers grow.
    fn append(&self, from: ShardId, batch: RecordBatch);
    /// Bytes that all shards together may have handed over and not stored: more may find no room when the disk becomes full.
    fn backlog_bytes(&self) -> u64 {
        RECORDS_HIGH_BYTES
    }
}

/// Writes numbers and bytes into a value.
pub(crate) struct ValueWriter<'a>(pub(crate) &'a mut Vec<u8>);

impl ValueWriter<'_> {
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Bytes whose length is known from elsewhere.
    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.extend_from_slice(value);
        self
    }

    /// Bytes after their length.
    pub(crate) fn sized(&mut self, value: &[u8]) -> &mut Self {
        self.u32(value.len() as u32).bytes(value)
    }
}

/// Reads what [`ValueWriter`] wrote. Everything is `None` where the value is shorter.
#[derive(Clone, Copy)]
pub(crate) struct ValueReader<'a>(pub(crate) &'a [u8]);

impl<'a> ValueReader<'a> {
    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*chunk)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.chunk::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.chunk().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_le_bytes)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.bytes(length as usize)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.sized()?).ok()
    }
}
