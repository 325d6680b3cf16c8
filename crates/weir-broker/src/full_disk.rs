//! What a core does while the store's disk is full: it takes nothing that would have to be stored. A 5.0 client is told
//! 0x97. A 3.x client cannot be told, it takes any acknowledgement for success: its QoS 1 and 2 publishes wait here, not yet
//! taken, and everything else of it goes on. The client may be the one whose acknowledgements make room.

use std::collections::VecDeque;

use super::core::Core;
use super::limits::{HELD_PUBLISH_BYTES, HELD_PUBLISHES_BYTES, RECORDS_HIGH_BYTES};
use super::{ConnId, Millis};
use weir_mqtt::{DecodeContext, Decoded, Packet, Publish, QoS, Side, decode};

/// Publishes that wait for room on the disk.
#[derive(Debug, Default)]
pub(super) struct HeldPublishes {
    /// Who has some, in the order in which they came.
    connections: VecDeque<ConnId>,
    bytes: usize,
    /// See [`Core::bound_records`].
    records_high_bytes: Option<u64>,
}

impl HeldPublishes {
    /// Bytes of records that are not on disk yet above which publishers that make more pause.
    pub(super) fn records_high_bytes(&self) -> u64 {
        self.records_high_bytes.unwrap_or(RECORDS_HIGH_BYTES)
    }
}

impl Core {
    /// From how many bytes of records that are not on disk yet on publishers that make more pause: what is under way when
    /// the disk becomes full must find room there. Never called, [`RECORDS_HIGH_BYTES`].
    pub fn bound_records(&mut self, bytes: u64) {
        self.held.records_high_bytes = Some(bytes);
    }

    /// Whether a publish would have to be stored. A retained message without a payload only removes.
    pub(super) fn needs_room(&mut self, slot: u32, publish: &Publish<'_>) -> bool {
        let Some(connection) = self.connections.get(slot) else { return false };
        let kept = publish.retain && connection.policy.limits.durable && !publish.payload.is_empty();
        if publish.qos == QoS::AtMostOnce {
            return kept;
        }
        let Some(space) = self.sessions.get(connection.session).map(|session| session.space) else { return false };
        self.wants_record(space, publish.topic, kept)
    }

    /// The disk is full: keeps a publish of a 3.x client that would have to be stored, and those behind it. `false`: it
    /// goes on. A client that sends more than is kept of one pauses.
    pub(super) fn hold_publish(&mut self, id: ConnId, publish: &Publish<'_>, raw: &[u8]) -> bool {
        if publish.qos == QoS::AtMostOnce || self.is_resend(id.slot, publish.packet_id) {
            return false;
        }
        let Some(connection) = self.connections.get(id.slot).filter(|connection| !connection.is_v5()) else {
            return false;
        };
        let has_some = connection.rare.as_ref().is_some_and(|aside| !aside.held_publishes.is_empty());
        if !has_some && !self.needs_room(id.slot, publish) {
            return false;
        }
        let Some(connection) = self.connections.get_mut(id.slot) else { return false };
        let aside = connection.aside();
        if aside.held_publishes.is_empty() {
            self.held.connections.push_back(id);
        }
        aside.held_publishes.extend_from_slice(raw);
        self.held.bytes += raw.len();
        let is_too_much = aside.held_publishes.len() > HELD_PUBLISH_BYTES || self.held.bytes > HELD_PUBLISHES_BYTES;
        if is_too_much && !std::mem::replace(&mut aside.held_pauses, true) {
            connection.pauses += 1;
        }
        true
    }

    /// Takes the publishes that waited, as long as the disk has room and keeps up.
    pub(super) fn release_publishes(&mut self, now: Millis) {
        while !self.journal.full && self.journal.backlog_bytes() <= self.held.records_high_bytes() / 2 {
            let Some(id) = self.held.connections.pop_front() else { return };
            let Some(connection) = self.connections.get_generation(id.slot, id.generation) else { continue };
            let Some(aside) = connection.rare.as_mut() else { continue };
            let (bytes, pauses) = (std::mem::take(&mut aside.held_publishes), std::mem::take(&mut aside.held_pauses));
            let context = DecodeContext { version: connection.version, max_packet_size: u32::MAX, from: Side::Client };
            self.held.bytes -= bytes.len();
            self.begin_prompt();
            let mut at = 0;
            // They decoded when they came.
            while let Ok(Decoded::Packet { packet: Packet::Publish(publish), len }) = &decode(&bytes[at..], &context) {
                if self.connections.get(id.slot).is_none_or(|connection| connection.closing) {
                    break;
                }
                self.on_publish(id, publish, &bytes[at..at + len], now);
                at += len;
            }
            if pauses {
                self.resume_here(id);
            }
        }
    }

    /// A connection has ended: what it sent and was not told of is not taken any more.
    pub(super) fn drop_held_publishes(&mut self, slot: u32) {
        let Some(aside) = self.connections.get_mut(slot).and_then(|connection| connection.rare.as_mut()) else {
            return;
        };
        let bytes = std::mem::take(&mut aside.held_publishes);
        if !bytes.is_empty() {
            self.held.bytes -= bytes.len();
            let generation = self.connections.generation(slot);
            self.held.connections.retain(|id| *id != ConnId { slot, generation });
        }
    }
}
