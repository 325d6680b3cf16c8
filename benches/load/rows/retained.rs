//! Retained messages delivered to a new subscriber.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Meter, Outcome, Settings};
use crate::brokers::Spec;
use crate::engine::{Clients, Engine, Handler};
use crate::ledger::Faults;
use crate::process::rss_bytes;
use crate::transport::Listener;
use crate::wire::{self, Frame, PublishTemplate, Version};

const UNACKED: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

/// `topics` retained messages of 64 B, then one subscriber of them all.
pub fn run(settings: &Settings, spec: &Spec, topics: usize) -> Result<Outcome> {
    let topics = topics / settings.divisor;
    let broker = settings.start(spec, Listener::Plain)?;
    let target = settings.target(&broker, Listener::Plain);
    let mut engine = Engine::new()?;
    engine.connect(&target, Version::V3_1_1, "retain", 2)?;
    let rss_before = rss_bytes(broker.pid())?;
    let mut storing = Storing { topics, published: 0, acknowledged: 0 };
    let deadline = Instant::now() + PATIENCE;
    if !engine.run(&mut storing, deadline, |storing| storing.acknowledged == storing.topics)? {
        bail!("only {} of {topics} retained messages were acknowledged", storing.acknowledged);
    }
    let grown = rss_bytes(broker.pid())?.saturating_sub(rss_before);

    let meter = Meter::start(&broker)?;
    engine.clients.push(1, &wire::subscribe(Version::V3_1_1, 1, &["site/+/device/#"], 0));
    let mut fetching = Fetching { seen: vec![false; topics], received: 0, granted: false, faults: Faults::default() };
    let done = |fetching: &Fetching| fetching.granted && fetching.received >= fetching.seen.len();
    // The first turn sends the SUBSCRIBE.
    engine.turn(Duration::ZERO, &mut fetching)?;
    engine.run(&mut fetching, Instant::now() + PATIENCE, done)?;
    let cost = meter.stop()?;
    let mut faults = fetching.faults;
    faults.lost += fetching.seen.iter().filter(|&&seen| !seen).count() as u64;
    let mut values = cost.per_message(fetching.received as u64);
    values.push(("rss_bytes_per_retained", grown as f64 / topics as f64));
    Ok(Outcome { values, faults, ..Outcome::default() })
}

struct Storing {
    topics: usize,
    published: usize,
    acknowledged: usize,
}

impl Handler for Storing {
    fn frame(&mut self, _conn: usize, frame: Frame<'_>, _clients: &mut Clients) -> Result<()> {
        match frame.kind() {
            wire::PUBACK => self.acknowledged += 1,
            kind => bail!("the publisher got a packet of type {kind}"),
        }
        Ok(())
    }

    fn end_of_turn(&mut self, clients: &mut Clients) -> Result<()> {
        while self.published < self.topics && self.published - self.acknowledged < UNACKED {
            let topic = format!("site/{}/device/{}/state", self.published % 100, self.published / 100);
            let mut template = PublishTemplate::new(&topic, 1, true, 64);
            let packet_id = (self.published % 65_535) as u16 + 1;
            clients.push(0, template.stamp(packet_id, 0, self.published as u32, 0));
            self.published += 1;
        }
        Ok(())
    }
}

struct Fetching {
    seen: Vec<bool>,
    received: usize,
    granted: bool,
    faults: Faults,
}

impl Handler for Fetching {
    fn frame(&mut self, _conn: usize, frame: Frame<'_>, _clients: &mut Clients) -> Result<()> {
        match frame.kind() {
            wire::SUBACK => self.granted = wire::suback_granted(Version::V3_1_1, frame),
            wire::PUBLISH => {
                let delivery = wire::delivery(Version::V3_1_1, frame)?;
                let retained = frame.first & 1 == 1;
                self.received += 1;
                match self.seen.get_mut(delivery.sequence as usize) {
                    Some(seen) if !*seen && retained && delivery.payload_bytes == 64 => *seen = true,
                    Some(seen) if *seen => self.faults.duplicated += 1,
                    _ => self.faults.wrong += 1,
                }
            }
            kind => bail!("the subscriber got a packet of type {kind}"),
        }
        Ok(())
    }
}
