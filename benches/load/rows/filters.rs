//! Many filters: publishing into them, and what each costs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Meter, Outcome, Settings};
use crate::brokers::{Running, Spec};
use crate::engine::{Clients, Engine, Handler, Target};
use crate::ledger::{Faults, Stream};
use crate::process::rss_bytes;
use crate::transport::Listener;
use crate::wire::{self, Frame, PublishTemplate, Version};

const SUBSCRIBERS: usize = 100;
const PUBLISHERS: usize = 10;
/// Filters in one SUBSCRIBE.
const PER_SUBSCRIBE: usize = 100;
const GIVE_UP: Duration = Duration::from_secs(5);

/// The topic that only the filter `index` of `subscriber` matches.
fn topic(subscriber: usize, index: usize) -> String {
    format!("site/{subscriber}/device/{index}/state")
}

/// Seven of ten filters without a wildcard, two with `+`, one with `#`: one half of these at the front, one at the end.
fn filter(subscriber: usize, index: usize) -> String {
    match index % 20 {
        7 | 8 | 17 => format!("site/{subscriber}/+/{index}/state"),
        18 => format!("+/{subscriber}/device/{index}/state"),
        9 | 19 => format!("site/{subscriber}/device/{index}/#"),
        _ => topic(subscriber, index),
    }
}

/// All of them, by the first connections.
pub fn subscribe_all(engine: &mut Engine, filters: usize) -> Result<()> {
    let each = filters / SUBSCRIBERS;
    let mut packets = (0..each.div_ceil(PER_SUBSCRIBE)).flat_map(|block| {
        (0..SUBSCRIBERS).map(move |subscriber| {
            let indices = block * PER_SUBSCRIBE..each.min((block + 1) * PER_SUBSCRIBE);
            let names: Vec<String> = indices.map(|index| filter(subscriber, index)).collect();
            (subscriber, wire::subscribe(Version::V3_1_1, block as u16 + 1, &names, 0))
        })
    });
    engine.acknowledged(Version::V3_1_1, &mut packets)
}

fn begin(settings: &Settings, spec: &Spec) -> Result<(Running, Engine)> {
    let broker = settings.start(spec, Listener::Plain)?;
    let engine = clients(&settings.target(&broker, Listener::Plain))?;
    Ok((broker, engine))
}

/// Subscribers and publishers, connected.
pub fn clients(target: &Target) -> Result<Engine> {
    let mut engine = Engine::new()?;
    engine.connect(target, Version::V3_1_1, "sub", SUBSCRIBERS)?;
    engine.connect(target, Version::V3_1_1, "pub", PUBLISHERS)?;
    Ok(engine)
}

/// Memory and CPU of `filters` subscriptions.
pub fn cost(settings: &Settings, spec: &Spec, filters: usize) -> Result<Outcome> {
    let (broker, mut engine) = begin(settings, spec)?;
    let rss_before = rss_bytes(broker.pid())?;
    let meter = Meter::start(&broker)?;
    subscribe_all(&mut engine, filters)?;
    let cost = meter.stop()?;
    let grown = rss_bytes(broker.pid())?.saturating_sub(rss_before);
    let values = vec![
        ("rss_bytes_per_filter", grown as f64 / filters as f64),
        ("cpu_us_per_subscribe", cost.cpu_s * 1e6 / filters as f64),
    ];
    Ok(Outcome { values, ..Outcome::default() })
}

/// QoS 0, 64 B, into `filters` filters, each message matching one. `topics`: how many of the filters are published to.
pub fn publish(settings: &Settings, spec: &Spec, filters: usize, topics: usize) -> Result<Outcome> {
    let (broker, mut engine) = begin(settings, spec)?;
    subscribe_all(&mut engine, filters)?;
    let mut traffic = Traffic::new(settings, topics);
    traffic.publish_for(&mut engine, settings.stretch / 4)?;
    let before = traffic.delivered();
    let meter = Meter::start(&broker)?;
    traffic.publish_for(&mut engine, settings.stretch)?;
    let cost = meter.stop()?;
    Ok(Outcome { values: cost.per_message(traffic.delivered() - before), faults: traffic.faults, ..Outcome::default() })
}

/// Each (publisher, subscriber) is a stream of its own: MQTT promises order within it.
struct Traffic {
    templates: Vec<PublishTemplate>,
    streams: Vec<Stream>,
    sent: Vec<u32>,
    published: [u64; PUBLISHERS],
    received: [u64; PUBLISHERS],
    ahead: u64,
    publishing: bool,
    faults: Faults,
}

impl Traffic {
    fn new(settings: &Settings, topics: usize) -> Traffic {
        let templates: Vec<PublishTemplate> = (0..topics)
            .map(|at| PublishTemplate::new(&topic(at % SUBSCRIBERS, at / SUBSCRIBERS), 0, false, 64))
            .collect();
        let ahead = u64::from(settings.window(templates[0].len(), PUBLISHERS));
        Traffic {
            templates,
            streams: vec![Stream::default(); PUBLISHERS * SUBSCRIBERS],
            sent: vec![0; PUBLISHERS * SUBSCRIBERS],
            published: [0; PUBLISHERS],
            received: [0; PUBLISHERS],
            ahead,
            publishing: false,
            faults: Faults::default(),
        }
    }

    fn delivered(&self) -> u64 {
        self.received.iter().sum()
    }

    fn publish_for(&mut self, engine: &mut Engine, stretch: Duration) -> Result<()> {
        let end = Instant::now() + stretch;
        self.publishing = true;
        while Instant::now() < end {
            engine.turn(Duration::from_millis(20), self)?;
        }
        self.publishing = false;
        let (mut seen, mut deadline) = (self.delivered(), Instant::now() + GIVE_UP);
        while self.delivered() < self.published.iter().sum() && Instant::now() < deadline {
            engine.turn(Duration::from_millis(20), self)?;
            if self.delivered() != seen {
                (seen, deadline) = (self.delivered(), Instant::now() + GIVE_UP);
            }
        }
        let lost = self.streams.iter().zip(&self.sent).map(|(stream, &sent)| stream.lost(sent));
        self.faults.lost += lost.sum::<u64>();
        Ok(())
    }
}

impl Handler for Traffic {
    fn frame(&mut self, conn: usize, frame: Frame<'_>, _clients: &mut Clients) -> Result<()> {
        ensure!(frame.kind() == wire::PUBLISH, "a subscriber got a packet of type {}", frame.kind());
        let delivery = wire::delivery(Version::V3_1_1, frame)?;
        let stream = delivery.stream as usize;
        if stream >= self.streams.len() || stream % SUBSCRIBERS != conn || delivery.payload_bytes != 64 {
            self.faults.wrong += 1;
            return Ok(());
        }
        self.streams[stream].record(delivery.sequence, &mut self.faults);
        self.received[stream / SUBSCRIBERS] += 1;
        Ok(())
    }

    fn end_of_turn(&mut self, clients: &mut Clients) -> Result<()> {
        let topics = self.templates.len();
        for publisher in 0..PUBLISHERS {
            while self.publishing && self.published[publisher] - self.received[publisher] < self.ahead {
                // A stride that shares no factor with the count visits every topic, neighbours far apart.
                let at = (self.published[publisher] as usize * 7_919 + publisher * 1_013) % topics;
                let stream = publisher * SUBSCRIBERS + at % SUBSCRIBERS;
                let packet = self.templates[at].stamp(0, stream as u32, self.sent[stream], 0);
                clients.push(SUBSCRIBERS + publisher, packet);
                self.sent[stream] += 1;
                self.published[publisher] += 1;
            }
        }
        Ok(())
    }
}
