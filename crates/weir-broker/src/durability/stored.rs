//! The records of an earlier process, as the store gives them back.

use std::ops::Range;
use std::sync::Arc;

use crate::Principal;
use crate::durability::recording::WILL_FORM;
use crate::ids::RecordId;
use crate::values::message::Message;
use crate::values::publisher::{PublisherIdentity, read_identity};
use crate::values::record::{RecordKey, RecordKind, ValueReader};
use weir_mqtt::QoS;

/// A store's records, each key's newest, in the order of the keys.
#[derive(Debug, Default)]
pub struct StoredRecords {
    records: Vec<(RecordKey, Box<[u8]>)>,
}

/// The numbers of restored objects of a core.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoredCounts {
    /// Sessions.
    pub sessions: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Messages owed to sessions.
    pub deliveries: usize,
    /// Retained messages.
    pub retained: usize,
}

impl RestoredCounts {
    /// Counts another core's part in.
    pub fn add(&mut self, part: RestoredCounts) {
        self.sessions += part.sessions;
        self.subscriptions += part.subscriptions;
        self.deliveries += part.deliveries;
        self.retained += part.retained;
    }
}

/// The content of a record of [`RecordKind::Session`], for tools that read a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession<'a> {
    /// The namespace of the session.
    pub namespace: &'a str,
    /// The client id of the session.
    pub client_id: &'a str,
    /// Name of the endpoint it was last connected to.
    pub endpoint: &'a str,
    /// `u32::MAX`: never.
    pub expiry_s: u32,
    /// When it ends, by the wall clock, ms since 1970; 0: its client was connected.
    pub ends_at_unix_ms: u64,
}

impl<'a> StoredSession<'a> {
    /// `None`: damaged, or of a newer version.
    pub fn read(value: &'a [u8]) -> Option<Self> {
        Self::read_fields(&mut ValueReader(value))
    }

    pub(crate) fn read_fields(value: &mut ValueReader<'a>) -> Option<Self> {
        Some(Self {
            namespace: value.text()?,
            client_id: value.text()?,
            endpoint: value.text()?,
            expiry_s: value.u32()?,
            ends_at_unix_ms: value.u64()?,
        })
    }
}

/// A record that this version cannot interpret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record {key:?} cannot be understood: it is damaged, or of a newer version")]
pub struct BadRecord {
    /// The key of the record.
    pub key: RecordKey,
}

impl StoredRecords {
    /// Takes records in any order; of several with one key the caller gives the newest alone.
    pub fn new(mut records: Vec<(RecordKey, Box<[u8]>)>) -> Self {
        records.sort_unstable_by_key(|(key, _)| *key);
        Self { records }
    }

    /// The records, by key.
    pub fn records(&self) -> &[(RecordKey, Box<[u8]>)] {
        &self.records
    }

    /// Larger than any number that was given to a record.
    pub fn next_id(&self) -> u64 {
        let numbered = |(key, value): &(RecordKey, Box<[u8]>)| match key.kind() {
            // Their items are packet identifiers.
            Some(RecordKind::Released | RecordKind::Received) => key.parent().0,
            Some(RecordKind::Node) => 0,
            Some(RecordKind::Session) => key.parent().0.max(will_of_session(ValueReader(value)).unwrap_or(0)),
            _ => key.parent().0.max(key.item()),
        };
        self.records.iter().map(numbered).max().unwrap_or(0) + 1
    }

    /// Whether any of it was written by another number of shards.
    pub(crate) fn is_of_other_shards(&self, shards: u16) -> bool {
        self.of_kind(RecordKind::Node).iter().any(|(_, value)| ValueReader(value).u16() != Some(shards))
    }

    /// The value of a record.
    pub(crate) fn value(&self, key: RecordKey) -> Option<&[u8]> {
        let index = self.records.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        Some(&self.records[index].1)
    }

    pub(crate) fn has_session(&self, id: RecordId) -> bool {
        self.records.binary_search_by_key(&RecordKey::new(RecordKind::Session, id, 0), |(key, _)| *key).is_ok()
    }

    pub(crate) fn of_kind(&self, kind: RecordKind) -> &[(RecordKey, Box<[u8]>)] {
        let bound = |kind: u8| RecordKey::first_of(kind);
        let range: Range<usize> = self.records.partition_point(|(key, _)| *key < bound(kind as u8))
            ..self.records.partition_point(|(key, _)| *key < bound(kind as u8 + 1));
        &self.records[range]
    }
}

/// The number that names the will of a stored session.
fn will_of_session(mut value: ValueReader<'_>) -> Option<u64> {
    StoredSession::read_fields(&mut value)?;
    if value.u8()? == WILL_FORM { value.u64() } else { None }
}

/// Reads the principal of a will from a session's record of that form. `None`: it is not understood.
pub(crate) fn read_principal(form: u8, value: &mut ValueReader<'_>) -> Option<Principal> {
    let ((username, address), admitted_by) = match form {
        // It is not known which authenticator admitted it: none confirms it.
        1 => ((None, None), ""),
        WILL_FORM => (read_identity(value)?, value.text()?),
        _ => return None,
    };
    Some(Principal { username, address, admitted_by: admitted_by.into(), claims_acl: None, expires_at: None })
}

/// Reads what `write_message` wrote; its expiry as it was written.
pub(crate) fn read_message(mut value: ValueReader<'_>) -> Option<Message> {
    let (flags, expires_at) = (value.u8()?, value.u64()?);
    let publisher = if flags & 1 << 3 != 0 { Some(Arc::new(PublisherIdentity::read(&mut value)?)) } else { None };
    let (topic_len, properties_len) = (value.u16()?, value.u32()?);
    let topic = std::str::from_utf8(value.bytes(usize::from(topic_len))?).ok()?;
    let properties = value.bytes(properties_len as usize)?;
    let qos = QoS::from_bits(flags & 3)?;
    let mut message = Message::from_parts(topic, properties, value.0, qos, flags & 1 << 2 != 0);
    (message.expires_at, message.publisher) = (expires_at, publisher);
    Some(message)
}
