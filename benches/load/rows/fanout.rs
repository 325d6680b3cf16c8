//! One publisher, many subscribers of the same topic.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Meter, Outcome, Settings};
use crate::brokers::Spec;
use crate::engine::{Clients, Engine, Handler};
use crate::ledger::{Faults, Stream};
use crate::transport::Listener;
use crate::wire::{self, Frame, PublishTemplate, Version};

const TOPIC: &str = "fanout/news";
const GIVE_UP: Duration = Duration::from_secs(5);

/// QoS 0, 64 B, to `subscribers`.
pub fn run(settings: &Settings, spec: &Spec, subscribers: usize) -> Result<Outcome> {
    let broker = settings.start(spec, Listener::Plain)?;
    let target = settings.target(&broker, Listener::Plain);
    let mut engine = Engine::new()?;
    engine.connect(&target, Version::V3_1_1, "sub", subscribers)?;
    engine.connect(&target, Version::V3_1_1, "pub", 1)?;
    let packet = wire::subscribe(Version::V3_1_1, 1, &[TOPIC], 0);
    engine.acknowledged(Version::V3_1_1, &mut (0..subscribers).map(|conn| (conn, packet.clone())))?;

    let template = PublishTemplate::new(TOPIC, 0, false, 64);
    let ahead = settings.window(template.len(), subscribers);
    let streams = vec![Stream::default(); subscribers];
    let mut fanout = Fanout { streams, sent: 0, ahead, template, publishing: false, faults: Faults::default() };
    fanout.publish_for(&mut engine, settings.stretch / 4)?;
    let before = fanout.delivered();
    let meter = Meter::start(&broker)?;
    fanout.publish_for(&mut engine, settings.stretch)?;
    let cost = meter.stop()?;
    Ok(Outcome { values: cost.per_message(fanout.delivered() - before), faults: fanout.faults, ..Outcome::default() })
}

struct Fanout {
    streams: Vec<Stream>,
    sent: u32,
    ahead: u32,
    template: PublishTemplate,
    publishing: bool,
    faults: Faults,
}

impl Fanout {
    fn delivered(&self) -> u64 {
        self.streams.iter().map(|stream| u64::from(stream.received())).sum()
    }

    fn slowest(&self) -> u32 {
        self.streams.iter().map(Stream::received).min().unwrap_or(0)
    }

    fn publish_for(&mut self, engine: &mut Engine, stretch: Duration) -> Result<()> {
        let end = Instant::now() + stretch;
        self.publishing = true;
        while Instant::now() < end {
            engine.turn(Duration::from_millis(20), self)?;
        }
        self.publishing = false;
        let (mut seen, mut deadline) = (self.delivered(), Instant::now() + GIVE_UP);
        while self.slowest() < self.sent && Instant::now() < deadline {
            engine.turn(Duration::from_millis(20), self)?;
            let now = self.delivered();
            if now != seen {
                (seen, deadline) = (now, Instant::now() + GIVE_UP);
            }
        }
        self.faults.lost += self.streams.iter().map(|stream| stream.lost(self.sent)).sum::<u64>();
        Ok(())
    }
}

impl Handler for Fanout {
    fn frame(&mut self, conn: usize, frame: Frame<'_>, _clients: &mut Clients) -> Result<()> {
        ensure!(frame.kind() == wire::PUBLISH, "a subscriber got a packet of type {}", frame.kind());
        let delivery = wire::delivery(Version::V3_1_1, frame)?;
        self.faults.wrong += u64::from(delivery.qos != 0 || delivery.payload_bytes != 64);
        self.streams[conn].record(delivery.sequence, &mut self.faults);
        Ok(())
    }

    fn end_of_turn(&mut self, clients: &mut Clients) -> Result<()> {
        if !self.publishing {
            return Ok(());
        }
        let limit = self.slowest() + self.ahead;
        while self.sent < limit {
            let packet = self.template.stamp(0, 0, self.sent, 0);
            clients.push(self.streams.len(), packet);
            self.sent += 1;
        }
        Ok(())
    }
}
