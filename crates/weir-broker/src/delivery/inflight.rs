//! Messages sent to a client and not yet acknowledged, in the order of sending.

use crate::values::delivery::{Delivery, Sent};
use crate::values::memory::ByteCount;
use std::collections::VecDeque;

use weir_mqtt::PacketId;

/// The window of one session.
#[derive(Debug)]
pub(crate) struct Inflight {
    sent: VecDeque<Sent>,
    next: PacketId,
    /// Identifiers wrapped around past one still in use: they are no longer in order.
    wrapped: bool,
    unsent: usize,
    /// Memory of what is kept to be sent again; and that of all windows and queues.
    memory_bytes: usize,
    total: ByteCount,
}

impl Drop for Inflight {
    fn drop(&mut self) {
        self.total.subtract(self.memory_bytes);
    }
}

impl Inflight {
    /// An empty one, counted in `total`.
    pub(crate) fn new(total: ByteCount) -> Self {
        Self { sent: VecDeque::new(), next: PacketId::MIN, wrapped: false, unsent: 0, memory_bytes: 0, total }
    }

    /// Bytes of what is kept to be sent again.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    /// Whether nothing has to be sent again.
    pub(crate) fn all_sent(&self) -> bool {
        self.unsent == 0
    }

    /// How many were sent in this connection.
    pub(crate) fn outstanding(&self) -> usize {
        self.sent.len() - self.unsent
    }

    /// The oldest that still has to be sent again, which is for the caller to do.
    pub(crate) fn next_unsent(&mut self) -> Option<Sent> {
        let next = self.sent.iter_mut().find(|sent| sent.unsent)?;
        next.unsent = false;
        self.unsent -= 1;
        Some(next.clone())
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Sent> + '_ {
        self.unsent = 0;
        self.total.subtract(std::mem::take(&mut self.memory_bytes));
        self.sent.drain(..)
    }

    /// The next unused packet identifier: 1, 2, 3, ... [MQTT-2.2.1-3]. There is one while fewer than 65,535 are in use.
    pub(crate) fn allocate(&mut self) -> PacketId {
        let mut id = self.next;
        if self.sent.is_empty() {
            self.wrapped = false;
        } else if self.wrapped || self.sent.front().is_some_and(|oldest| oldest.packet_id == id) {
            self.wrapped = true;
            while self.sent.iter().any(|s| s.packet_id == id) {
                id = after(id);
            }
        }
        self.next = after(id);
        id
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sent> {
        self.sent.iter()
    }

    pub(crate) fn deliveries_mut(&mut self) -> impl Iterator<Item = &mut Delivery> {
        self.sent.iter_mut().map(|sent| &mut sent.delivery)
    }

    /// Puts back what an earlier process had sent: its identifiers may be in any order.
    pub(crate) fn restore(&mut self, sent: Sent) {
        self.wrapped = true;
        self.next = after(self.next.max(sent.packet_id));
        self.push(sent);
    }

    pub(crate) fn push(&mut self, sent: Sent) {
        self.unsent += usize::from(sent.unsent);
        if sent.memory_bytes > 0 {
            self.memory_bytes += sent.memory_bytes as usize;
            self.total.add(sent.memory_bytes as usize);
        }
        self.sent.push_back(sent);
    }

    fn index_of(&self, id: PacketId) -> Option<usize> {
        let oldest = self.sent.front()?.packet_id;
        if oldest == id {
            return Some(0);
        }
        if self.wrapped {
            return self.sent.iter().position(|s| s.packet_id == id);
        }
        let distance = |id: PacketId| id.get().wrapping_sub(oldest.get());
        // Identifiers skip 0, so a distance across it is one too large for all that lie behind it alike: order holds.
        self.sent.binary_search_by_key(&distance(id), |s| distance(s.packet_id)).ok()
    }

    pub(crate) fn get_mut(&mut self, id: PacketId) -> Option<&mut Sent> {
        self.index_of(id).and_then(|index| self.sent.get_mut(index))
    }

    pub(crate) fn remove(&mut self, id: PacketId) -> Option<Sent> {
        let removed = match self.index_of(id)? {
            0 => self.sent.pop_front(),
            index => self.sent.remove(index),
        };
        if let Some(sent) = &removed {
            self.unsent -= usize::from(sent.unsent);
            if sent.memory_bytes > 0 {
                self.memory_bytes -= sent.memory_bytes as usize;
                self.total.subtract(sent.memory_bytes as usize);
            }
        }
        removed
    }

    /// Frees what an emptied window holds.
    pub(crate) fn release(&mut self) {
        if self.sent.is_empty() && self.sent.capacity() > 0 {
            self.sent = VecDeque::new();
        }
    }
}

fn after(id: PacketId) -> PacketId {
    id.checked_add(1).unwrap_or(PacketId::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::delivery::Awaits;

    fn send(window: &mut Inflight) -> u16 {
        let packet_id = window.allocate();
        window.push(Sent::new(packet_id, Awaits::PubAck, None, Delivery::default(), 1));
        packet_id.get()
    }

    fn ack(window: &mut Inflight, id: u16) -> bool {
        PacketId::new(id).and_then(|id| window.remove(id)).is_some()
    }

    #[test]
    fn identifiers_count_up_and_skip_those_in_use() {
        let mut window = Inflight::new(ByteCount::default());
        assert_eq!((send(&mut window), send(&mut window), send(&mut window)), (1, 2, 3));
        assert!(ack(&mut window, 1) && ack(&mut window, 3) && !ack(&mut window, 3));
        for _ in 4..=65535u32 {
            let id = send(&mut window);
            assert!(ack(&mut window, id));
        }
        // 2 was never acknowledged.
        assert_eq!((send(&mut window), send(&mut window)), (1, 3));
        assert!(ack(&mut window, 2) && ack(&mut window, 3) && ack(&mut window, 1));
        assert_eq!(window.len(), 0);
        assert_eq!(send(&mut window), 4);
    }

    #[test]
    fn an_acknowledgement_is_found_across_the_wrap() {
        let mut window = Inflight::new(ByteCount::default());
        for _ in 0..65530 {
            let id = send(&mut window);
            assert!(ack(&mut window, id));
        }
        let ids: Vec<u16> = (0..10).map(|_| send(&mut window)).collect();
        assert_eq!(ids, [65531, 65532, 65533, 65534, 65535, 1, 2, 3, 4, 5]);
        for id in [3, 65534, 1, 65531, 5, 2, 65535, 4, 65532, 65533] {
            assert!(ack(&mut window, id), "{id}");
        }
    }
}
