//! Behaviour on a full store disk: the core accepts no PUBLISH that must be stored. A 5.0 client gets 0x97. A 3.x
//! client takes any acknowledgement as success, so its QoS 1 and 2 publishes wait here, not yet accepted; its other
//! packets are handled, since its acknowledgements may free space.

use std::sync::Arc;

use crate::Core;
use crate::delivery::out_buffer::REFUSAL_BYTES;
use crate::ids::{ConnId, ConnectionSlot, Millis};
use crate::limits::HELD_PUBLISH_BYTES;
use crate::routing::matches::Matches;
use weir_mqtt::{DecodeContext, Decoded, Packet, Publish, QoS, ReasonCode, Side, decode};

impl Core {
    /// Sets the bytes of unsynced records above which publishers that add records are paused, so that they fit into the
    /// reserve of a disk that becomes full. Never called, [`RECORDS_HIGH_BYTES`](crate::limits::RECORDS_HIGH_BYTES).
    pub fn bound_records(&mut self, bytes: u64) {
        self.journal.bound(bytes);
    }

    /// Whether a publish would have to be stored; `known`: its receivers, if they were found already. A retained message without a payload only removes.
    pub(crate) fn needs_room(
        &mut self,
        slot: ConnectionSlot,
        topic: &str,
        publish: &Publish<'_>,
        known: Option<&Arc<Matches>>,
    ) -> bool {
        let Some(connection) = self.clients.connection(slot) else { return false };
        let retained_on_disk = publish.retain && connection.policy.limits.is_durable() && !publish.payload.is_empty();
        if publish.qos == QoS::AtMostOnce {
            return retained_on_disk;
        }
        let Some(namespace) = self.clients.session(connection.session).map(|session| session.namespace) else {
            return false;
        };
        self.wants_record(namespace, topic, retained_on_disk, known)
    }

    /// Keeps a publish of a 3.x client that would have to be stored, and those behind it. `false`: it goes on. A client
    /// that sends more than is kept of one pauses.
    pub(crate) fn hold_publish(&mut self, id: ConnId, publish: &Publish<'_>, raw: &[u8]) -> bool {
        if publish.qos == QoS::AtMostOnce || self.is_resend(id.slot, publish.packet_id) {
            return false;
        }
        let Some(connection) = self.clients.connection(id.slot).filter(|connection| !connection.is_v5()) else {
            return false;
        };
        let has_some = connection.cold.as_ref().is_some_and(|cold| !cold.held_publishes.is_empty());
        if !has_some && !self.needs_room(id.slot, publish.topic, publish, None) {
            return false;
        }
        let Some(connection) = self.clients.connection_mut(id.slot) else { return false };
        let cold = connection.cold_mut();
        if cold.held_publishes.is_empty() {
            self.held_publishes.add_connection(id);
        }
        cold.held_publishes.extend_from_slice(raw);
        let all_hold_too_much = self.held_publishes.add_bytes(raw.len());
        let holds_too_much = all_hold_too_much || cold.held_publishes.len() > HELD_PUBLISH_BYTES;
        if holds_too_much && !std::mem::replace(&mut cold.held_pauses, true) {
            connection.pauses += 1;
        }
        true
    }

    /// Handles the publishes that waited, as long as the disk has room and keeps up.
    pub(crate) fn release_publishes(&mut self, now: Millis) {
        while !self.journal.is_full() && self.journal.has_caught_up() && !self.moves.is_held() {
            let Some(id) = self.held_publishes.next_connection() else { return };
            let Some(connection) = self.clients.open(id) else { continue };
            let version = connection.version;
            let Some(cold) = connection.cold.as_mut() else { continue };
            let (bytes, pauses) = (std::mem::take(&mut cold.held_publishes), std::mem::take(&mut cold.held_pauses));
            let context = DecodeContext { version, max_packet_size: u32::MAX, from: Side::Client };
            self.held_publishes.subtract_bytes(bytes.len());
            self.scheduler.refill_priority_budget();
            let mut at = 0;
            // They decoded when they came.
            while let Ok(Decoded::Packet { packet: Packet::Publish(publish), len }) = &decode(&bytes[at..], &context) {
                if self.clients.connection(id.slot).is_none_or(|connection| connection.closing) {
                    break;
                }
                self.on_publish(id, publish, &bytes[at..at + len], now);
                at += len;
            }
            if pauses {
                self.clients.resume(id);
            }
        }
    }

    /// A connection has ended: its publishes that were not accepted are dropped.
    pub(crate) fn drop_held_publishes(&mut self, id: ConnId) {
        let Some(cold) = self.clients.open(id).and_then(|connection| connection.cold.as_mut()) else { return };
        let bytes = std::mem::take(&mut cold.held_publishes);
        if !bytes.is_empty() {
            self.held_publishes.subtract_bytes(bytes.len());
            self.held_publishes.remove_connection(id);
        }
    }

    /// The disk is full, and may stay so: 5.0 clients whose acknowledgements wait get 0x97. What they published may come to
    /// be stored and delivered all the same; a QoS 2 message can only be refused before it is accepted, or it could come
    /// twice.
    pub(crate) fn refuse_waiting(&mut self) {
        for id in self.journal.gated() {
            if let Some(connection) = self.clients.open(id)
                && connection.is_v5()
                && connection.maximum_packet_size >= REFUSAL_BYTES
            {
                connection.outlet.out.refuse(ReasonCode::QuotaExceeded);
                self.scheduler.appended(id, &mut connection.outlet);
            }
        }
        // Their further publishes are refused when they arrive: reading need not pause.
        self.resume_disk_waiters();
    }
}
