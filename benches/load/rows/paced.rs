//! Traffic at a fixed rate: CPU per message, and latency. Also the background of the churn row.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use super::pairs::topic;
use super::{Meter, Outcome, Settings};
use crate::brokers::{Running, Spec};
use crate::engine::{Clients, Engine, Handler};
use crate::ledger::{Faults, Stream};
use crate::pacer::{Lane, pace, write_packet};
use crate::stats::percentile;
use crate::transport::Listener;
use crate::wire::{self, Frame, PublishTemplate, Version};

const GIVE_UP: Duration = Duration::from_secs(3);

/// Pairs in turn, `rate` messages a second in all, 64 B.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub pairs: usize,
    pub qos: u8,
    pub rate: u32,
}

/// The two figures of a paced row.
pub fn run(settings: &Settings, spec: &Spec, load: Load) -> Result<Outcome> {
    let broker = settings.start(spec, Listener::Plain)?;
    measure(settings, load, &broker, &broker)
}

/// One stretch of `near`, where the publishers are.
pub fn measure(settings: &Settings, load: Load, near: &Running, far: &Running) -> Result<Outcome> {
    let mut paced = Paced::begin(settings, load, near, far)?;
    paced.stretch(settings.stretch / 4, Vec::new())?;
    paced.latencies_ns.clear();
    let meter = Meter::start(near)?;
    // Percentiles want more samples than a saturated stretch gives.
    let sent = paced.stretch(settings.stretch * 2, Vec::new())?;
    let cost = meter.stop()?;
    let mut values = cost.per_message(sent);
    values.extend(paced.percentiles());
    Ok(Outcome { values, faults: paced.faults, ..Outcome::default() })
}

/// Paced pairs: connections 0..n subscribe, n..2n publish.
pub struct Paced {
    pub engine: Engine,
    pub faults: Faults,
    pub latencies_ns: Vec<u64>,
    load: Load,
    epoch: Instant,
    publishers: Vec<Publisher>,
    streams: Vec<Stream>,
}

struct Publisher {
    socket: TcpStream,
    template: PublishTemplate,
    sent: u32,
}

impl Paced {
    /// Publishers at `near`, subscribers at `far`.
    pub fn begin(settings: &Settings, load: Load, near: &Running, far: &Running) -> Result<Paced> {
        let mut engine = Engine::new()?;
        engine.connect(&settings.target(far, Listener::Plain), Version::V3_1_1, "sub", load.pairs)?;
        engine.connect(&settings.target(near, Listener::Plain), Version::V3_1_1, "pub", load.pairs)?;
        let packets = (0..load.pairs).map(|pair| (pair, wire::subscribe(Version::V3_1_1, 1, &[topic(pair)], load.qos)));
        engine.acknowledged(Version::V3_1_1, &mut packets.into_iter())?;
        let publisher = |pair| -> Result<Publisher> {
            let template = PublishTemplate::new(&topic(pair), load.qos, false, 64);
            Ok(Publisher { socket: engine.second_handle(load.pairs + pair)?, template, sent: 0 })
        };
        let publishers = (0..load.pairs).map(publisher).collect::<Result<Vec<_>>>()?;
        Ok(Paced {
            engine,
            faults: Faults::default(),
            latencies_ns: Vec::new(),
            load,
            epoch: Instant::now(),
            publishers,
            streams: vec![Stream::default(); load.pairs],
        })
    }

    /// Publishes at the rate for `stretch`, with `others` beside it whose answers are counted; how many it published.
    pub fn stretch(&mut self, stretch: Duration, others: Vec<Lane<'_>>) -> Result<u64> {
        let (epoch, load) = (self.epoch, self.load);
        let publishers = &mut self.publishers;
        let mut turn = 0;
        let publish = move |now_ns| {
            let publisher = &mut publishers[turn];
            let packet_id = (publisher.sent % 65_535) as u16 + 1;
            let packet = publisher.template.stamp(packet_id, turn as u32, publisher.sent, now_ns);
            write_packet(&publisher.socket, packet)?;
            publisher.sent += 1;
            turn = (turn + 1) % load.pairs;
            Ok(())
        };
        let mut lanes = vec![Lane { interval: Duration::from_secs(1) / load.rate, send: Box::new(publish) }];
        lanes.extend(others);
        let mut receiver = Receiver {
            load,
            epoch,
            streams: &mut self.streams,
            latencies_ns: &mut self.latencies_ns,
            faults: &mut self.faults,
            received: 0,
            acknowledged: 0,
            answered: 0,
        };
        let engine = &mut self.engine;
        let expected = std::thread::scope(|scope| -> Result<Vec<u64>> {
            let pacer = scope.spawn(move || pace(&mut lanes, epoch, stretch));
            while !pacer.is_finished() {
                engine.turn(Duration::from_millis(5), &mut receiver)?;
            }
            pacer.join().map_err(|_| anyhow!("the pacing thread died"))?
        })?;
        let (sent, asked) = (expected[0], expected[1..].iter().sum::<u64>());
        let acknowledgements = if load.qos == 0 { 0 } else { sent };
        let mut deadline = Instant::now() + GIVE_UP;
        while Instant::now() < deadline {
            let before = receiver.progress();
            if before >= sent + acknowledgements + asked {
                break;
            }
            engine.turn(Duration::from_millis(5), &mut receiver)?;
            if receiver.progress() > before {
                deadline = Instant::now() + GIVE_UP;
            }
        }
        let (acknowledged, answered) = (receiver.acknowledged, receiver.answered);
        self.faults.misacknowledged += acknowledgements.abs_diff(acknowledged) + asked.abs_diff(answered);
        let lost = self.streams.iter().zip(&self.publishers).map(|(stream, publisher)| stream.lost(publisher.sent));
        self.faults.lost += lost.sum::<u64>();
        Ok(sent)
    }

    /// p50, p99 and p99.9 from write to read, in milliseconds.
    pub fn percentiles(&mut self) -> Vec<(&'static str, f64)> {
        let samples = &mut self.latencies_ns;
        [("p50_ms", 0.5), ("p99_ms", 0.99), ("p999_ms", 0.999)]
            .map(|(key, fraction)| (key, percentile(samples, fraction) as f64 / 1e6))
            .to_vec()
    }
}

struct Receiver<'a> {
    load: Load,
    epoch: Instant,
    streams: &'a mut Vec<Stream>,
    latencies_ns: &'a mut Vec<u64>,
    faults: &'a mut Faults,
    received: u64,
    acknowledged: u64,
    answered: u64,
}

impl Receiver<'_> {
    fn progress(&self) -> u64 {
        self.received + self.acknowledged + self.answered
    }
}

impl Handler for Receiver<'_> {
    fn frame(&mut self, conn: usize, frame: Frame<'_>, clients: &mut Clients) -> Result<()> {
        match frame.kind() {
            wire::PUBLISH => {
                let now_ns = self.epoch.elapsed().as_nanos() as u64;
                let delivery = wire::delivery(Version::V3_1_1, frame)?;
                self.faults.wrong += u64::from(delivery.qos != self.load.qos || delivery.stream as usize != conn);
                self.latencies_ns.push(now_ns.saturating_sub(delivery.sent_ns));
                self.streams[conn].record(delivery.sequence, self.faults);
                if delivery.qos == 1 {
                    clients.push(conn, &wire::ack(wire::PUBACK, delivery.packet_id));
                }
                self.received += 1;
            }
            wire::PUBACK => self.acknowledged += 1,
            wire::SUBACK | wire::UNSUBACK => {
                let granted = frame.kind() == wire::UNSUBACK || wire::suback_granted(Version::V3_1_1, frame);
                self.faults.wrong += u64::from(!granted);
                self.answered += 1;
            }
            kind => bail!("a packet of type {kind} came"),
        }
        Ok(())
    }
}
