//! What is planned: nodes leave by SIGTERM, join again, and are evacuated. Sessions move, and nothing of them is lost.

use weir_cluster::slots::{SlotOwner, SlotsWrite};
use weir_cluster::wire::SlotTable;

use super::World;
use crate::cluster_sim::client::Role;
use crate::cluster_sim::planted::Fault;

/// How long a node that leaves may take for its slots, and then to end.
const LEAVE_MS: u64 = 12_000;
const END_MS: u64 = 1000;
/// How long its clients are gone before it ends.
const QUIET_MS: u64 = 300;
/// A failure so long before a client was last connected may be why its session is gone.
const FAILURE_MS: u64 = 6000;

impl World {
    /// A node is stopped with SIGTERM.
    pub(super) fn leave(&mut self, number: usize) {
        let (host, now) = (&mut self.hosts[number], self.now);
        if host.leaves_until.is_some() || !host.is_ready(now) {
            return;
        }
        let Some(process) = &mut host.process else { return };
        let local = process.local(now);
        process.node.gateway().leave(local);
        host.leaves_until = Some(now + LEAVE_MS);
        self.note(|| format!("n{number} leaves"));
    }

    /// The document evacuates a node for a while.
    pub(super) fn evacuate(&mut self, number: usize) {
        let (host, now) = (&mut self.hosts[number], self.now);
        let Some(process) = &mut host.process else { return };
        let local = process.local(now);
        process.node.gateway().set_evacuating(true, local);
        host.evacuated_until = now + 4000 + self.rng.below(8000) as u64;
        self.note(|| format!("n{number} is evacuated"));
    }

    /// A node that leaves ends when it has given its slots; evacuations end.
    pub(super) fn advance_planned(&mut self, number: usize) {
        let (host, now) = (&mut self.hosts[number], self.now);
        if !host.runs(now) {
            return;
        }
        let Some(process) = &mut host.process else { return };
        let local = process.local(now);
        if host.evacuated_until > 0 && now >= host.evacuated_until {
            host.evacuated_until = 0;
            process.node.gateway().set_evacuating(false, local);
        }
        while let Some(event) = process.node.gateway().next_move_event() {
            self.log.push(format!("{now:>6} n{number}: {event:?}"));
        }
        self.write_early(number);
        self.end_leave(number);
    }

    fn end_leave(&mut self, number: usize) {
        let (host, now) = (&mut self.hosts[number], self.now);
        let Some(until) = host.leaves_until else { return };
        let Some(process) = &mut host.process else { return };
        // One that is out, or late, loses its slots as if it had died: no node could take them in time.
        let is_out = !process.is_in(now);
        // Its shards end before its gateway.
        process.node.now = process.local(now);
        process.node.advance(0);
        let gateway = process.node.gateway();
        let is_late = now >= until;
        if gateway.is_giving_slots() && !is_late {
            return;
        }
        if !gateway.is_flushed() && now < until + END_MS {
            return;
        }
        let view = gateway.slot_view();
        let owns = (0..view.per_class * 2).any(|slot| view.owner(slot) == SlotOwner::Here);
        if is_late || is_out || owns {
            return self.crash(number);
        }
        let incarnation = process.incarnation;
        let clients = (0..self.clients.len()).filter(|client| self.clients[*client].host == number);
        for client in clients.collect::<Vec<_>>() {
            if self.clients[client].role == Role::Testator && self.clients[client].is_connected {
                // Its will is published here, and takes its way before the node ends.
                self.hosts[number].ends_at = None;
                return self.lose_connection(client);
            }
        }
        let host = &mut self.hosts[number];
        if now < *host.ends_at.get_or_insert(now + QUIET_MS) {
            return;
        }
        host.ends_at = None;
        let local = self.hosts[number].process.as_ref().map_or(0, |process| process.local(now));
        let host = &mut self.hosts[number];
        if let Some(process) = &mut host.process {
            process.node.gateway().end(local);
            while let Some((_, bytes)) = process.node.gateway().next_heartbeat(local) {
                self.engine.heartbeat((number, incarnation), bytes, now, &mut self.rng);
            }
        }
        host.left(now);
        host.leaves_until = None;
        host.restart_at = now + self.rng.below(4000) as u64;
        self.engine.forget(number, incarnation);
        for client in self.clients.iter_mut().filter(|client| client.host == number) {
            client.disconnected();
            let next = (number + 1) % self.hosts.len();
            client.host = next;
        }
        self.note(|| format!("n{number} has left"));
    }

    /// The session of a client is gone: that is a defect, unless a node has failed.
    pub(super) fn check_loss(&mut self, number: usize) -> Result<(), String> {
        let client = &self.clients[number];
        let Some(session) = client.sessions.last().filter(|session| session.subscribed_at.is_some()) else {
            return Ok(());
        };
        let from = client.last_connected.saturating_sub(FAILURE_MS);
        if self.hosts.iter().all(|host| host.did_not_fail(from, self.now)) {
            let (name, served) = (&client.name, &session.hosts);
            return Err(format!("{name} has lost its session, which was on {served:?}, and no node has failed"));
        }
        Ok(())
    }

    /// The planted fault: a node that moves slots writes the table before the copy is there.
    fn write_early(&mut self, number: usize) {
        if self.planted.fault != Some(Fault::TableBeforeCopy) {
            return;
        }
        let (host, now) = (&mut self.hosts[number], self.now);
        let Some(process) = &mut host.process else { return };
        let local = process.local(now);
        let status = process.node.gateway().status(local).slots;
        let moving: Vec<(usize, String)> =
            status.slots.iter().filter_map(|slot| Some((usize::from(slot.number), slot.moves_to.clone()?))).collect();
        let last = self.engine.slots.stored.last().and_then(|(_, bytes)| SlotTable::decode(bytes).ok());
        let Some(mut table) = last.filter(|_| !moving.is_empty()) else { return };
        for (slot, node) in moving {
            let target = status.slots.iter().find(|other| other.node.as_ref() == Some(&node));
            let Some(target) = target.map(|target| target.incarnation) else { continue };
            let row = &mut table.rows[slot];
            if row.incarnation == process.incarnation {
                (row.from, row.node, row.incarnation) = (row.incarnation, node, target);
                (row.since, row.transfer) = (status.version + 1, 1);
            }
        }
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        let from = (number, process.incarnation);
        self.engine.write_slots(from, SlotsWrite { expected: status.version, bytes }, now, &mut self.rng);
    }
}
