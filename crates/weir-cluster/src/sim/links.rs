//! Two nodes and their link, over a network that loses, repeats, reorders, damages and cuts.

use weir_broker::Millis;
use weir_broker::gateway::{PeerMessage, PeerPublish};
use weir_mqtt::ProtocolVersion;

use super::{Fault, Rng};
use crate::link::{LinkConfig, LinkEvent, PeerLink};
use crate::wire::{Envelope, Frame, RelayFrame};

const MAX_ENVELOPE: usize = 1500;
const TROUBLE: Millis = 10_000;
const QUIET: Millis = 8_000;

/// What the receiver of one stream knows: incarnation and generation of the stream, and frames so far.
#[derive(Debug, Default)]
struct Taken {
    /// Known as soon as a message of the generation was taken.
    generation: Option<u32>,
    frames: u64,
    processed: u64,
    stored: u64,
}

struct Node {
    incarnation: u64,
    link: PeerLink,
    generation: u32,
    taken: Taken,
    paused_until: Millis,
    out: Vec<u8>,
}

impl Node {
    fn new(incarnation: u64, peer: u64, fault: Option<Fault>) -> Self {
        let config = LinkConfig { own: incarnation, peer, max_frame: 6000, receive_limit: 8000 };
        let mut link = PeerLink::new(config);
        if let Some(fault) = fault {
            link.plant(fault);
        }
        Self { incarnation, link, generation: 1, taken: Taken::default(), paused_until: 0, out: Vec::new() }
    }

    fn push(&mut self, rng: &mut Rng) {
        let mut packet = self.incarnation.to_le_bytes().to_vec();
        packet.extend(self.generation.to_le_bytes());
        packet.extend((self.link.pushed() + 1).to_le_bytes());
        let filler = if rng.one_in(50) { 5000 } else { rng.below(200) };
        packet.resize(packet.len() + filler as usize, 7);
        if rng.one_in(3) {
            assert!(self.link.push_relay(&RelayFrame::Data { relay: 9, from_opener: true, bytes: &packet }));
        } else {
            let publish = PeerPublish { namespace: 1, version: ProtocolVersion::V5, expires_in: None, packet: &packet };
            self.link.push(&PeerMessage::Publish(publish));
        }
    }

    /// Takes the next message, which must be the next one of the peer's stream.
    fn take(&mut self) -> Result<bool, String> {
        let peer = self.link.config().peer;
        let Some((number, frame)) = self.link.next_frame() else { return Ok(false) };
        let (packet, is_relay) = match frame {
            Frame::Message(PeerMessage::Publish(PeerPublish { packet, .. })) => (packet, false),
            Frame::Relay(RelayFrame::Data { bytes, .. }) => (bytes, true),
            other => return Err(format!("{other:?}")),
        };
        let (incarnation, rest) = packet.split_first_chunk().ok_or("too short")?;
        let (generation, rest) = rest.split_first_chunk().ok_or("too short")?;
        let (frame, _) = rest.split_first_chunk().ok_or("too short")?;
        let frame = u64::from_le_bytes(*frame);
        let generation = u32::from_le_bytes(*generation);
        if u64::from_le_bytes(*incarnation) != peer {
            return Err(format!("a message of {incarnation:?} instead of {peer}"));
        }
        if *self.taken.generation.get_or_insert(generation) != generation {
            return Err(format!("a message of generation {generation} instead of {:?}", self.taken.generation));
        }
        if frame != self.taken.frames + 1 || number != frame {
            return Err(format!("message {frame} as number {number} after {}", self.taken.frames));
        }
        self.taken.frames = frame;
        for watermark in [&mut self.taken.processed, &mut self.taken.stored] {
            if is_relay && *watermark == frame - 1 {
                *watermark = frame; // it is acknowledged with the message before it
            }
        }
        Ok(true)
    }
}

struct Flight {
    at: Millis,
    to: usize,
    bytes: Vec<u8>,
}

struct Network {
    loss: u64,
    /// Until when each direction is cut.
    cut: [Millis; 2],
    flights: Vec<Flight>,
    /// Some of what was sent, to arrive again at any time.
    history: Vec<(usize, Vec<u8>)>,
}

pub(super) struct LinkSim {
    rng: Rng,
    now: Millis,
    nodes: [Node; 2],
    network: Network,
    incarnations: u64,
    fault: Option<Fault>,
    /// A node that learns later that its peer has a new incarnation.
    news: Option<(Millis, usize, u64)>,
    consumes: u64,
}

impl LinkSim {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = [Node::new(1, 2, fault), Node::new(2, 1, fault)];
        let network = Network { loss: 3 + rng.below(60), cut: [0; 2], flights: Vec::new(), history: Vec::new() };
        let consumes = 1 + rng.below(20);
        Self { rng, now: 0, nodes, network, incarnations: 2, fault, news: None, consumes }
    }

    pub(super) fn run(mut self) -> Result<(), String> {
        while self.now < TROUBLE {
            self.trouble();
            self.step(true)?;
        }
        self.network.cut = [0; 2];
        self.nodes.iter_mut().for_each(|node| node.paused_until = 0);
        while self.now < TROUBLE + QUIET {
            self.step(false)?;
        }
        self.is_quiet()
    }

    /// Cuts, pauses, resets and crashes, each now and then.
    fn trouble(&mut self) {
        let node = self.rng.below(2) as usize;
        match self.rng.below(4000) {
            0..4 => self.network.cut[node] = self.now + self.rng.below(3000),
            4 => self.network.cut = [self.now + self.rng.below(4000); 2],
            5..8 => self.nodes[node].paused_until = self.now + self.rng.below(3000),
            8..16 => {
                self.nodes[node].link.reset(self.now);
                self.nodes[node].generation += 1;
                self.nodes[node].push(&mut self.rng);
            }
            16 if self.news.is_none() => self.crash(node),
            17..40 => (0..200).for_each(|_| self.nodes[node].push(&mut self.rng)),
            40..400 => self.nodes[node].push(&mut self.rng),
            400..600 if !self.network.history.is_empty() => {
                let old = self.rng.below(self.network.history.len() as u64) as usize;
                let (to, bytes) = self.network.history[old].clone();
                self.network.flights.push(Flight { at: self.now, to, bytes });
            }
            600..620 => self.nodes[node].link.request_acknowledgement(),
            _ => {}
        }
    }

    fn crash(&mut self, node: usize) {
        self.incarnations += 1;
        let peer = self.nodes[1 - node].incarnation;
        self.nodes[node] = Node::new(self.incarnations, peer, self.fault);
        self.nodes[node].push(&mut self.rng);
        self.news = Some((self.now + self.rng.below(4000), 1 - node, self.incarnations));
    }

    fn step(&mut self, troubled: bool) -> Result<(), String> {
        self.now += 1 + self.rng.below(9);
        if let Some((at, node, peer)) = self.news
            && at <= self.now
        {
            let paused_until = self.nodes[node].paused_until;
            self.nodes[node] = Node::new(self.nodes[node].incarnation, peer, self.fault);
            self.nodes[node].paused_until = paused_until;
            self.nodes[node].push(&mut self.rng);
            self.news = None;
        }
        let (ready, waiting) = std::mem::take(&mut self.network.flights)
            .into_iter()
            .partition(|flight| flight.at <= self.now && self.nodes[flight.to].paused_until <= self.now);
        self.network.flights = waiting;
        let ready: Vec<Flight> = ready;
        for flight in ready {
            self.deliver(&flight)?;
        }
        for node in 0..2 {
            if self.nodes[node].paused_until <= self.now {
                self.turn(node, troubled)?;
            }
        }
        Ok(())
    }

    fn deliver(&mut self, flight: &Flight) -> Result<(), String> {
        let Ok(envelope) = Envelope::decode(&flight.bytes) else { return Ok(()) };
        let node = &mut self.nodes[flight.to];
        if node.link.receive(&envelope, self.now) == Some(LinkEvent::Reset) {
            node.taken = Taken::default();
        }
        self.check_watermarks(flight.to)
    }

    /// A node acknowledges no more than its application has taken, and its peer believes no more.
    fn check_watermarks(&self, sender: usize) -> Result<(), String> {
        let (sender, receiver) = (&self.nodes[sender], &self.nodes[1 - sender]);
        let (processed, stored) = (sender.link.peer_processed(), sender.link.peer_stored());
        let is_pair = sender.link.config().peer == receiver.incarnation
            && receiver.link.config().peer == sender.incarnation
            && receiver.taken.generation.is_none_or(|generation| generation == sender.generation);
        let taken = &receiver.taken;
        if is_pair && (processed > taken.processed || stored > taken.stored) {
            return Err(format!("acknowledged {processed} and {stored} of {taken:?}"));
        }
        Ok(())
    }

    fn turn(&mut self, at: usize, troubled: bool) -> Result<(), String> {
        let node = &mut self.nodes[at];
        let consumes = if troubled { self.rng.below(self.consumes + 1) } else { 1000 };
        for _ in 0..consumes {
            if !node.take()? {
                break;
            }
        }
        if let Some(failure) = node.link.failure() {
            return Err(failure.to_string());
        }
        if node.link.untaken_bytes() > 8000 {
            return Err(format!("{} bytes wait", node.link.untaken_bytes()));
        }
        if !troubled || self.rng.one_in(3) {
            let taken = &mut node.taken;
            taken.processed = taken.frames;
            taken.stored = if troubled && self.rng.one_in(3) { taken.stored } else { taken.frames };
            node.link.acknowledge(taken.processed, taken.stored, self.now);
        }
        for _ in 0..40 {
            let node = &mut self.nodes[at];
            let mut out = std::mem::take(&mut node.out);
            let is_due = node.link.next_deadline().is_some_and(|deadline| deadline <= self.now);
            let sends = node.link.poll(self.now, MAX_ENVELOPE, &mut out);
            if is_due != sends && self.fault.is_none() {
                return Err(format!("due {is_due}, but sends {sends}"));
            }
            if sends {
                if out.len() > MAX_ENVELOPE {
                    return Err(format!("an envelope of {} bytes", out.len()));
                }
                self.send(at, &out, troubled);
            }
            self.nodes[at].out = out;
            if !sends {
                break;
            }
        }
        Ok(())
    }

    fn send(&mut self, from: usize, bytes: &[u8], troubled: bool) {
        let mut fly = |rng: &mut Rng, delay: Millis, bytes: Vec<u8>| {
            let at = self.now + delay + rng.below(3);
            self.network.flights.push(Flight { at, to: 1 - from, bytes });
        };
        if !troubled {
            return fly(&mut self.rng, 0, bytes.to_vec());
        }
        if self.network.cut[from] > self.now || self.rng.one_in(self.network.loss) {
            return;
        }
        let mut bytes = bytes.to_vec();
        if self.network.history.len() < 100 {
            self.network.history.push((1 - from, bytes.clone()));
        } else if self.rng.one_in(5) {
            let old = self.rng.below(100) as usize;
            self.network.history[old] = (1 - from, bytes.clone());
        }
        if self.rng.one_in(50) {
            let at = self.rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.rng.below(8);
        }
        let delay = if self.rng.one_in(20) { self.rng.below(50) } else { 0 };
        fly(&mut self.rng, delay, bytes);
    }

    /// Everything has arrived and is acknowledged, and nothing is sent any more.
    fn is_quiet(&self) -> Result<(), String> {
        for (node, peer) in [(0, 1), (1, 0)].map(|(a, b)| (&self.nodes[a], &self.nodes[b])) {
            let pushed = node.link.pushed();
            if peer.taken.frames != pushed {
                return Err(format!("{} of {pushed} messages arrived", peer.taken.frames));
            }
            let known = (node.link.peer_processed(), node.link.peer_stored(), node.link.unacknowledged_bytes());
            if known != (pushed, pushed, 0) || node.link.buffered_bytes() > 0 {
                return Err(format!("{known:?} is known of {pushed} messages"));
            }
            if node.link.next_deadline().is_some() {
                return Err("the link is not quiet".into());
            }
        }
        Ok(())
    }
}
