//! Output that waits until an epoch is settled: what is behind a gate, and acknowledgements.

use std::collections::VecDeque;

use weir_mqtt::{PacketId, ProtocolVersion, QoS, ReasonCode};

use super::OutBuf;

/// Fields that few buffers use: an idle connection pays only for the box.
#[derive(Debug, Default)]
pub(super) struct Gates {
    pub(super) list: VecDeque<Gate>,
    /// Not in `buf` before their epochs are settled, so that nothing else waits behind them; their epochs grow.
    pub(super) acknowledgements: VecDeque<Acknowledgement>,
}

#[derive(Debug)]
pub(super) struct Gate {
    /// Bytes of `buf` at or after this index wait.
    pub(super) at: usize,
    epoch: u64,
    /// The output after the gate begins with CONNACK: nothing is sent before it.
    is_connack: bool,
}

/// PUBACK or PUBREC for a PUBLISH that was accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledgement {
    /// The epoch that has to be settled before.
    pub(crate) epoch: u64,
    pub(crate) qos: QoS,
    pub(crate) packet_id: PacketId,
    pub(crate) code: ReasonCode,
}

impl Acknowledgement {
    fn write(self, into: &mut Vec<u8>, version: ProtocolVersion) {
        match self.qos {
            QoS::ExactlyOnce => weir_mqtt::pubrec(into, version, self.packet_id, self.code),
            _ => weir_mqtt::puback(into, version, self.packet_id, self.code),
        }
    }
}

impl OutBuf {
    /// Gates further output until epoch `epoch` is settled; `is_connack`: it begins with CONNACK. `false`: the buffer
    /// already waits for that epoch.
    pub(crate) fn gate(&mut self, epoch: u64, is_connack: bool) -> bool {
        let (at, is_new) = (self.buf.len(), self.latest() < epoch);
        let gates = &mut self.gates.get_or_insert_default().list;
        if gates.back().is_none_or(|gate| gate.epoch < epoch) {
            gates.push_back(Gate { at, epoch, is_connack });
        }
        is_new
    }

    /// Appends an acknowledgement once its epoch is settled. `false`: the buffer waits for that epoch already.
    pub(crate) fn acknowledge(&mut self, acknowledgement: Acknowledgement) -> bool {
        let is_new = self.latest() < acknowledgement.epoch;
        self.gates.get_or_insert_default().acknowledgements.push_back(acknowledgement);
        is_new
    }

    /// The newest epoch that something waits for; 0: none.
    fn latest(&self) -> u64 {
        let Some(gates) = &self.gates else { return 0 };
        let gate = gates.list.back().map_or(0, |gate| gate.epoch);
        gate.max(gates.acknowledgements.back().map_or(0, |acknowledgement| acknowledgement.epoch))
    }

    /// The epoch that the last acknowledgement of a QoS waits for.
    pub(crate) fn acknowledges(&self, qos: QoS) -> Option<u64> {
        let mut waiting = self.gates.iter().flat_map(|gates| gates.acknowledgements.iter().rev());
        waiting.find(|waiting| waiting.qos == qos).map(|waiting| waiting.epoch)
    }

    /// Every epoch up to `epoch` is settled. PUBREC goes out before what the gates held back: a client that subscribes to its
    /// own topic sees it before its message. PUBACK comes after that.
    pub(crate) fn release(&mut self, epoch: u64, version: ProtocolVersion) {
        let Some(gates) = &mut self.gates else { return };
        let settled = gates.acknowledgements.partition_point(|waiting| waiting.epoch <= epoch);
        let start = self.buf.len();
        let pubrecs = gates.acknowledgements.range(..settled).filter(|waiting| waiting.qos == QoS::ExactlyOnce);
        pubrecs.for_each(|waiting| waiting.write(&mut self.buf, version));
        self.move_before_gates(start, usize::MAX);
        let Some(gates) = &mut self.gates else { return };
        while gates.list.front().is_some_and(|gate| gate.epoch <= epoch) {
            gates.list.pop_front();
        }
        let start = self.buf.len();
        let pubacks = gates.acknowledgements.drain(..settled).filter(|waiting| waiting.qos != QoS::ExactlyOnce);
        pubacks.for_each(|waiting| waiting.write(&mut self.buf, version));
        self.move_before_gates(start, usize::MAX);
        self.drop_empty_gates();
    }

    /// Answers the QoS 1 PUBLISHes of a 5.0 client whose acknowledgements wait with `code` instead.
    pub(crate) fn refuse(&mut self, code: ReasonCode) {
        let Some(gates) = &mut self.gates else { return };
        let start = self.buf.len();
        gates.acknowledgements.retain(|waiting| {
            if waiting.qos == QoS::AtLeastOnce {
                Acknowledgement { code, ..*waiting }.write(&mut self.buf, ProtocolVersion::V5);
            }
            waiting.qos != QoS::AtLeastOnce
        });
        self.move_before_gates(start, usize::MAX);
        self.drop_empty_gates();
    }

    fn drop_empty_gates(&mut self) {
        if self.gates.as_ref().is_some_and(|gates| gates.list.is_empty() && gates.acknowledgements.is_empty()) {
            self.gates = None;
        }
    }

    /// Lets what was appended from `start` on go out before what is gated, unless that is CONNACK, and before what has been
    /// appended from `before` on.
    pub(crate) fn move_before_gates(&mut self, start: usize, before: usize) {
        let added = self.buf.len() - start;
        let gate = self.gates.as_ref().and_then(|gates| gates.list.front()).filter(|gate| !gate.is_connack);
        let at = gate.map_or(before, |gate| gate.at.min(before));
        if added == 0 || at >= start {
            return;
        }
        self.buf[at..].rotate_right(added);
        let gates = self.gates.iter_mut().flat_map(|gates| &mut gates.list);
        gates.filter(|gate| gate.at >= at && !gate.is_connack).for_each(|gate| gate.at += added);
        let pieces = self.shared.iter_mut().flat_map(|shared| &mut shared.pieces);
        pieces.filter(|piece| piece.at > at).for_each(|piece| piece.at += added);
    }

    /// Gates what has been appended from `start` on, if anything, until epoch `epoch` is settled. The buffer waits for that
    /// epoch already, and `epoch` is not older than that of any gate added since.
    pub(crate) fn gate_from(&mut self, start: usize, epoch: u64) {
        if self.buf.len() <= start {
            return;
        }
        let gates = &mut self.gates.get_or_insert_default().list;
        while gates.back().is_some_and(|gate| gate.at > start) {
            gates.pop_back();
        }
        if gates.back().is_none_or(|gate| gate.epoch < epoch) {
            gates.push_back(Gate { at: start, epoch, is_connack: false });
        }
    }

    /// Moves the acknowledgements that wait into the buffer, so that they go out before what is appended from now on.
    pub(crate) fn append_acknowledgements(&mut self, version: ProtocolVersion) {
        let Some(gates) = &mut self.gates else { return };
        for waiting in std::mem::take(&mut gates.acknowledgements) {
            if gates.list.back().is_none_or(|gate| gate.epoch < waiting.epoch) {
                gates.list.push_back(Gate { at: self.buf.len(), epoch: waiting.epoch, is_connack: false });
            }
            waiting.write(&mut self.buf, version);
        }
    }
}
