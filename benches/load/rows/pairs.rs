//! Publishers with a subscriber each, as fast as their windows allow.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{Meter, Outcome, Settings};
use crate::brokers::{Running, Spec};
use crate::engine::{Clients, Engine, Handler};
use crate::ledger::{Faults, Stream};
use crate::transport::Listener;
use crate::wire::{self, Frame, PublishTemplate, Version};

/// Unacknowledged QoS 1 and 2 messages of one publisher.
const UNACKED: u32 = 50;
/// Nothing arrived for so long: what is missing is lost.
const GIVE_UP: Duration = Duration::from_secs(5);

/// The shape of a pairs row.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub pairs: usize,
    pub qos: u8,
    pub payload_bytes: usize,
    pub version: Version,
    pub listener: Listener,
    /// Messages a publisher may be ahead of its subscriber; `None`: by the window in bytes.
    pub ahead: Option<u32>,
}

impl Load {
    /// 50 pairs, 3.1.1, plain TCP.
    pub fn new(qos: u8, payload_bytes: usize) -> Load {
        let (version, listener) = (Version::V3_1_1, Listener::Plain);
        Load { pairs: 50, qos, payload_bytes, version, listener, ahead: None }
    }

    /// Starts the broker and measures one stretch.
    pub fn run(&self, settings: &Settings, spec: &Spec) -> Result<Outcome> {
        let broker = settings.start(spec, self.listener)?;
        self.measure(settings, &[&broker], &[&broker], &[broker.pid()])
    }

    /// Measures one stretch of the processes `pids`. Publishers and subscribers are spread over `near` and `far`, which have
    /// the same length: the subscribers of the publishers of one are at the other with its index.
    pub fn measure(&self, settings: &Settings, near: &[&Running], far: &[&Running], pids: &[u32]) -> Result<Outcome> {
        let mut engine = Engine::new()?;
        for (kind, brokers) in [("sub", far), ("pub", near)] {
            for (at, broker) in brokers.iter().enumerate() {
                let count = (at + 1) * self.pairs / brokers.len() - at * self.pairs / brokers.len();
                let target = settings.target(broker, self.listener);
                engine.connect(&target, self.version, &format!("{kind}-{at}"), count)?;
            }
        }
        let packets = (0..self.pairs).map(|pair| (pair, wire::subscribe(self.version, 1, &[topic(pair)], self.qos)));
        engine.acknowledged(self.version, &mut packets.into_iter())?;

        let mut traffic = Traffic::new(*self, settings);
        traffic.publish_for(&mut engine, settings.stretch / 4)?;
        let before = traffic.delivered();
        let meter = Meter::of(pids)?;
        traffic.publish_for(&mut engine, settings.stretch)?;
        let cost = meter.stop()?;
        Ok(Outcome {
            values: cost.per_message(traffic.delivered() - before),
            faults: traffic.faults,
            ..Outcome::default()
        })
    }
}

/// The topic of a pair.
pub fn topic(pair: usize) -> String {
    format!("pairs/{pair}/data")
}

struct Pair {
    stream: Stream,
    sent: u32,
    completed: u32,
    first: Option<PublishTemplate>,
    template: PublishTemplate,
    ready: bool,
}

/// Connections 0..n subscribe, n..2n publish.
struct Traffic {
    load: Load,
    ahead: u32,
    pairs: Vec<Pair>,
    ready: Vec<usize>,
    publishing: bool,
    progress: u64,
    faults: Faults,
}

impl Traffic {
    fn new(load: Load, settings: &Settings) -> Traffic {
        let pair = |index| match load.version {
            Version::V3_1_1 => (None, PublishTemplate::new(&topic(index), load.qos, false, load.payload_bytes)),
            Version::V5 => (
                Some(PublishTemplate::v5(&topic(index), load.qos, load.payload_bytes)),
                PublishTemplate::v5("", load.qos, load.payload_bytes),
            ),
        };
        let pairs: Vec<Pair> = (0..load.pairs)
            .map(pair)
            .map(|(first, template)| Pair {
                stream: Stream::default(),
                sent: 0,
                completed: 0,
                first,
                template,
                ready: false,
            })
            .collect();
        let ahead = load.ahead.unwrap_or_else(|| settings.window(pairs[0].template.len(), load.pairs));
        let ready = Vec::with_capacity(load.pairs);
        Traffic { load, ahead, pairs, ready, publishing: false, progress: 0, faults: Faults::default() }
    }

    fn delivered(&self) -> u64 {
        self.pairs.iter().map(|pair| u64::from(pair.stream.received())).sum()
    }

    /// Publishes for `stretch`, then waits for what is under way; what never comes is counted as lost.
    fn publish_for(&mut self, engine: &mut Engine, stretch: Duration) -> Result<()> {
        let end = Instant::now() + stretch;
        self.publishing = true;
        (0..self.load.pairs).for_each(|pair| self.mark(pair));
        while Instant::now() < end {
            // Nothing to read at the very start: the first turn only publishes.
            engine.turn(Duration::from_millis(20), self)?;
        }
        self.publishing = false;
        let (mut seen, mut deadline) = (self.progress, Instant::now() + GIVE_UP);
        while !self.complete() && Instant::now() < deadline {
            engine.turn(Duration::from_millis(20), self)?;
            if self.progress != seen {
                (seen, deadline) = (self.progress, Instant::now() + GIVE_UP);
            }
        }
        for pair in &self.pairs {
            self.faults.lost += pair.stream.lost(pair.sent);
            self.faults.misacknowledged += u64::from(pair.unacknowledged(self.load.qos));
        }
        Ok(())
    }

    fn complete(&self) -> bool {
        self.pairs.iter().all(|pair| pair.stream.received() == pair.sent && pair.unacknowledged(self.load.qos) == 0)
    }

    fn mark(&mut self, pair: usize) {
        if !std::mem::replace(&mut self.pairs[pair].ready, true) {
            self.ready.push(pair);
        }
    }

    fn subscriber(&mut self, pair: usize, frame: Frame<'_>, clients: &mut Clients) -> Result<()> {
        match frame.kind() {
            wire::PUBLISH => {
                let delivery = wire::delivery(self.load.version, frame)?;
                let right = delivery.qos == self.load.qos
                    && delivery.payload_bytes == self.load.payload_bytes.max(wire::STAMP_BYTES)
                    && delivery.stream as usize == pair;
                self.faults.wrong += u64::from(!right);
                self.pairs[pair].stream.record(delivery.sequence, &mut self.faults);
                match delivery.qos {
                    1 => clients.push(pair, &wire::ack(wire::PUBACK, delivery.packet_id)),
                    2 => clients.push(pair, &wire::ack(wire::PUBREC, delivery.packet_id)),
                    _ => {}
                }
                self.mark(pair);
            }
            wire::PUBREL => clients.push(pair, &wire::ack(wire::PUBCOMP, frame.packet_id()?)),
            kind => bail!("a subscriber got a packet of type {kind}"),
        }
        Ok(())
    }

    fn publisher(&mut self, index: usize, frame: Frame<'_>, clients: &mut Clients) -> Result<()> {
        let packet_id = frame.packet_id()?;
        let pair = &mut self.pairs[index];
        match (frame.kind(), self.load.qos) {
            (wire::PUBREC, 2) => {
                clients.push(self.load.pairs + index, &wire::ack(wire::PUBREL, packet_id));
                return Ok(());
            }
            (wire::PUBACK, 1) | (wire::PUBCOMP, 2) => {
                ensure!(pair.completed < pair.sent, "an acknowledgement for nothing");
                self.faults.misacknowledged += u64::from(packet_id != packet_id_of(pair.completed));
                pair.completed += 1;
            }
            (kind, _) => bail!("a publisher got a packet of type {kind}"),
        }
        self.mark(index);
        Ok(())
    }
}

impl Pair {
    fn unacknowledged(&self, qos: u8) -> u32 {
        if qos == 0 { 0 } else { self.sent - self.completed }
    }
}

/// Packet identifiers go round 1 to 65,535.
fn packet_id_of(sequence: u32) -> u16 {
    (sequence % 65_535) as u16 + 1
}

impl Handler for Traffic {
    fn frame(&mut self, conn: usize, frame: Frame<'_>, clients: &mut Clients) -> Result<()> {
        self.progress += 1;
        match conn.checked_sub(self.load.pairs) {
            None => self.subscriber(conn, frame, clients),
            Some(pair) => self.publisher(pair, frame, clients),
        }
    }

    fn end_of_turn(&mut self, clients: &mut Clients) -> Result<()> {
        for index in self.ready.drain(..) {
            let pair = &mut self.pairs[index];
            pair.ready = false;
            let limit = if self.load.qos == 0 { u32::MAX } else { UNACKED };
            while self.publishing
                && pair.sent - pair.stream.received() < self.ahead
                && pair.unacknowledged(self.load.qos) < limit
            {
                let first = if pair.sent == 0 { pair.first.as_mut() } else { None };
                let template = first.unwrap_or(&mut pair.template);
                let packet = template.stamp(packet_id_of(pair.sent), index as u32, pair.sent, 0);
                clients.push(self.load.pairs + index, packet);
                pair.sent += 1;
            }
        }
        Ok(())
    }
}
