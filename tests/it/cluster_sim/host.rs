//! A node of the simulated cluster: real cores and a real `ClusterNode`, driven as a server drives them.

use weir_broker::placement::session_slot;
use weir_broker::{Durability, WorkBudget};
use weir_cluster::node::{ClusterNode, NodeConfig};
use weir_cluster::slots::{SlotOwner, SlotsWritten};
use weir_cluster::wire::WIRE_VERSIONS;
use weir_cluster::{MemberEvent, MembersConfig};

use super::engine::Engine;
use super::planted::Planted;
use crate::broker_sim::rng::Rng;
use crate::node::Node;

const MAX_ENVELOPE: usize = 2000;
/// After this time, the answer to a write to the register of slots is lost.
const WRITE_MS: u64 = 1500;

/// A process. A new one has another incarnation.
pub struct Process {
    pub node: Node,
    pub incarnation: u64,
    /// Its clock differs from the others'.
    clock: u64,
    members_read: u64,
    /// The end of the stream of members when it started.
    members_head: Option<u64>,
    is_caught_up: bool,
    log_read: u64,
    slots_read: u64,
    /// The question for the head of the register of slots that was asked last.
    slots_head: u64,
    /// When the register was written; the answer is not there.
    slots_write: Option<u64>,
}

/// The place of a process.
pub struct Host {
    pub number: usize,
    pub process: Option<Process>,
    pub restart_at: u64,
    pub paused_until: u64,
    /// It leaves by SIGTERM, and ends by then at the latest.
    pub leaves_until: Option<u64>,
    /// It ends then, if nothing more happens.
    pub ends_at: Option<u64>,
    /// The document names it until then.
    pub evacuated_until: u64,
    /// Times in which it was not in, or did not run, and whether that was planned; the last may be open.
    outages: Vec<(u64, Option<u64>, bool)>,
}

impl Process {
    pub fn new(number: usize, incarnation: u64, shards: u16, work: WorkBudget, now: u64) -> Self {
        let clock = 1_000_000 + incarnation * 1_003;
        let members = MembersConfig {
            node: format!("n{number}"),
            incarnation,
            wire: WIRE_VERSIONS,
            weir_version: String::new(),
            addresses: Vec::new(),
            has_data_dir: false,
        };
        let config = NodeConfig {
            members,
            shards,
            hash_seed: 0,
            max_frame: 1 << 16,
            receive_limit: 1 << 16,
            link_high_bytes: 1 << 15,
            slots_per_class: 8,
        };
        let gateway = ClusterNode::new(config, clock + now);
        let mut node = Node::of_cluster(shards, work, gateway);
        node.now = clock + now;
        let (members_head, is_caught_up, log_read) = (None, false, 0);
        Self {
            node,
            incarnation,
            clock,
            members_read: 0,
            members_head,
            is_caught_up,
            log_read,
            slots_read: 0,
            slots_head: 0,
            slots_write: None,
        }
    }

    /// Whether it may acknowledge at that moment.
    pub fn is_in(&mut self, now: u64) -> bool {
        let local = self.clock + now;
        self.node.gateway().members_mut().is_in(local)
    }

    /// The node that serves a client's session, as this one sees it.
    pub fn owner_of(&mut self, client_id: &str) -> SlotOwner {
        let view = self.node.gateway().slot_view();
        view.owner(session_slot(Durability::Memory, "", client_id, view.per_class))
    }

    /// Its clock.
    pub fn local(&self, now: u64) -> u64 {
        self.clock + now
    }

    /// Takes the engine's answers to what it has appended.
    pub fn take_answers(&mut self, number: usize, engine: &mut Engine, now: u64) {
        let clock = self.clock;
        let gateway = self.node.gateway();
        for answer in engine.members.take_answers(self.incarnation, now) {
            gateway.members_mut().on_heartbeat_acked(clock + answer.sent, clock + now);
        }
        for answer in engine.log.take_answers(self.incarnation, now) {
            if let Some(bytes) = engine.acknowledged(number, answer.what.number) {
                gateway.on_append_stored(answer.what.number, Some(answer.sequence), bytes);
            }
            gateway.members_mut().on_append_acked(clock + answer.sent, clock + now);
        }
        let answers = engine.slots.take_answers(self.incarnation, now);
        let result = answers.into_iter().rfind(|answer| Some(answer.sent) == self.slots_write).map(|answer| {
            if answer.sequence == 0 { SlotsWritten::Conflict } else { SlotsWritten::Stored(answer.sequence) }
        });
        let is_lost = self.slots_write.is_some_and(|sent| now > sent + WRITE_MS);
        if let Some(result) = result.or(is_lost.then_some(SlotsWritten::Failed)) {
            self.slots_write = None;
            gateway.on_slots_written(result, clock + now);
        }
    }

    /// Takes what has arrived from the engine.
    pub fn take_inputs(&mut self, number: usize, engine: &mut Engine, planted: &mut Planted, now: u64, rng: &mut Rng) {
        self.node.now = self.clock + now;
        let local = self.node.now;
        for (from, bytes) in engine.network.arrive(self.incarnation, now) {
            let bytes = planted.arriving((from, number), bytes);
            self.node.gateway().on_envelope(&bytes, local);
        }
        for bytes in planted.forged(number, self.incarnation) {
            self.node.gateway().on_envelope(&bytes, local);
        }
        if engine.members.can_read(number, now) {
            let head = *self.members_head.get_or_insert(engine.members.head());
            let delay = if rng.one_in(8) { rng.below(120) } else { rng.below(10) };
            let (end, heartbeats) = engine.read_members(self.members_read, now.saturating_sub(delay as u64));
            self.members_read = end;
            let gateway = self.node.gateway();
            for bytes in heartbeats {
                gateway.on_heartbeat(&bytes, local);
            }
            if !self.is_caught_up && end >= head {
                self.is_caught_up = true;
                gateway.members_mut().on_caught_up();
            }
            gateway.members_mut().on_read(local);
        }
        if engine.log.can_read(number, now) {
            if let Some(request) = self.node.gateway().log_head_wanted() {
                self.node.gateway().on_log_head(request, engine.log.head());
            }
            let delay = if rng.one_in(8) { rng.below(120) } else { rng.below(10) };
            let (end, messages) = engine.read_log(self.log_read, now.saturating_sub(delay as u64), now);
            self.log_read = end;
            messages.into_iter().for_each(|message| self.node.gateway().on_log_message(message));
        }
        if engine.slots.can_read(number, now) {
            let gateway = self.node.gateway();
            if let Some(request) = gateway.slots_head_wanted().filter(|request| *request != self.slots_head) {
                self.slots_head = request;
                gateway.on_slots_head(request, engine.slots.head());
            }
            let delay = if rng.one_in(8) { rng.below(120) } else { rng.below(10) };
            for bytes in engine.read_slots(self.slots_read, now.saturating_sub(delay as u64)) {
                self.slots_read += 1;
                gateway.on_slots(self.slots_read, bytes, local);
            }
        }
        self.node.collect();
    }

    /// Does what can be done now: everything, or a few steps in a random order.
    pub fn work(&mut self, now: u64, rng: &mut Rng) {
        self.node.now = self.clock + now;
        if rng.one_in(4) {
            for _ in 0..rng.below(12) {
                let choice = rng.below(1000);
                self.node.step(|count| choice % count);
            }
        } else {
            self.node.advance(0);
        }
    }

    /// Carries out what the node asks for.
    pub fn take_outputs(
        &mut self,
        number: usize,
        (engine, incarnations): (&mut Engine, &[u64]),
        planted: &mut Planted,
        now: u64,
        rng: &mut Rng,
    ) -> Vec<MemberEvent> {
        let local = self.clock + now;
        let from = (number, self.incarnation);
        let gateway = self.node.gateway();
        while let Some((_, bytes)) = gateway.next_heartbeat(local) {
            engine.heartbeat(from, bytes, now, rng);
        }
        let mut out = Vec::new();
        while let Some(to) = gateway.next_envelope(MAX_ENVELOPE, &mut out, local) {
            let Some(at) = incarnations.iter().position(|incarnation| *incarnation == to) else { continue };
            let bytes = planted.leaving((number, at), &out);
            engine.network.send((number, at), to, &bytes, now, rng);
        }
        while let Some(append) = gateway.next_append() {
            engine.append(number, planted.append(append));
        }
        while let Some(purge) = gateway.next_purge(local) {
            engine.purge(purge);
        }
        if self.slots_write.is_none()
            && let Some(write) = gateway.next_slots_write()
        {
            self.slots_write = Some(now);
            engine.write_slots(from, write, now, rng);
        }
        let events: Vec<MemberEvent> = std::iter::from_fn(|| gateway.next_event()).collect();
        engine.send_appends(number, self.incarnation, now, rng);
        events
    }
}

impl Host {
    pub fn new(number: usize) -> Self {
        Self {
            number,
            process: None,
            restart_at: 0,
            paused_until: 0,
            leaves_until: None,
            ends_at: None,
            evacuated_until: 0,
            outages: vec![(0, None, false)],
        }
    }

    pub fn runs(&self, now: u64) -> bool {
        self.process.is_some() && now >= self.paused_until
    }

    /// Whether clients are accepted.
    pub fn is_ready(&mut self, now: u64) -> bool {
        self.runs(now) && self.process.as_mut().is_some_and(|process| process.node.gateway().is_ready())
    }

    /// Keeps when the node was not in.
    pub fn observe(&mut self, now: u64) {
        let is_in = self.process.as_mut().is_some_and(|process| process.is_in(now));
        match self.outages.last_mut() {
            Some((_, end @ None, _)) if is_in => *end = Some(now),
            Some((_, Some(_), _)) | None if !is_in => self.outages.push((now, None, false)),
            _ => {}
        }
    }

    /// It has left, as was planned, with all of its slots.
    pub fn left(&mut self, now: u64) {
        self.process = None;
        self.observe(now);
        if let Some((_, None, is_planned)) = self.outages.last_mut() {
            *is_planned = true;
        }
    }

    /// Whether it lived and was in all the time.
    pub fn was_in(&self, from: u64, to: u64) -> bool {
        self.outages.iter().all(|(begin, end, _)| *begin > to || end.is_some_and(|end| end < from))
    }

    /// Whether it lived and was in all the time, but for the times after it had left.
    pub fn did_not_fail(&self, from: u64, to: u64) -> bool {
        let mut failures = self.outages.iter().filter(|(_, _, is_planned)| !is_planned);
        failures.all(|(begin, end, _)| *begin > to || end.is_some_and(|end| end < from))
    }
}
