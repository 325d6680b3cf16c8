//! Memory after a burst: subscribers that do not read for a while, then read it all.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::{Outcome, Settings};
use crate::brokers::Spec;
use crate::engine::{Clients, Engine, Handler, Target};
use crate::ledger::{Faults, Stream};
use crate::process::rss_bytes;
use crate::transport::Listener;
use crate::wire::{self, Frame, PublishTemplate, Version};

const PAIRS: usize = 100;
const PAYLOAD_BYTES: usize = 4096;
/// Messages queued for each subscriber: 800 KiB of payload.
const BURST: u32 = 200;
/// How often the burst comes: what one leaves behind may be kept for the next, what each leaves is a leak.
const BURSTS: u32 = 3;
const SETTLE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);

/// QoS 1 bursts into subscribers whose engine stands still; RSS before, at the height, and after.
pub fn run(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    let broker = settings.start(spec, Listener::Plain)?;
    let target = settings.target(&broker, Listener::Plain);
    let (mut subscribers, mut publishers) = (Engine::new()?, Engine::new()?);
    subscribers.connect(&Target { slow: true, ..target.clone() }, Version::V3_1_1, "sub", PAIRS)?;
    publishers.connect(&target, Version::V3_1_1, "pub", PAIRS)?;
    let packets = (0..PAIRS).map(|pair| (pair, wire::subscribe(Version::V3_1_1, 1, &[topic(pair)], 1)));
    subscribers.acknowledged(Version::V3_1_1, &mut packets.into_iter())?;
    std::thread::sleep(SETTLE);
    let before = rss_bytes(broker.pid())?;

    let mut receiving = Receiving { streams: vec![Stream::default(); PAIRS], faults: Faults::default() };
    let mut height = before;
    for burst in 1..=BURSTS {
        let mut publishing = Publishing { sent: [(burst - 1) * BURST; PAIRS], acknowledged: 0, until: burst * BURST };
        let wanted = |publishing: &Publishing| publishing.acknowledged == PAIRS * BURST as usize;
        let deadline = Instant::now() + PATIENCE;
        ensure!(publishers.run(&mut publishing, deadline, wanted)?, "the burst was not acknowledged");
        height = height.max(rss_bytes(broker.pid())?);
        let deadline = Instant::now() + PATIENCE;
        while receiving.streams.iter().any(|stream| stream.received() < burst * BURST) && Instant::now() < deadline {
            subscribers.turn(Duration::from_millis(20), &mut receiving)?;
        }
    }
    std::thread::sleep(SETTLE);
    let after = rss_bytes(broker.pid())?;
    let mut faults = receiving.faults;
    faults.lost += receiving.streams.iter().map(|stream| stream.lost(BURSTS * BURST)).sum::<u64>();
    let values = vec![
        ("rss_before_bytes", before as f64),
        ("rss_height_bytes", height as f64),
        ("rss_after_bytes", after as f64),
        ("rss_after_over_before", after as f64 / before as f64),
        ("rss_left_kib", after.saturating_sub(before) as f64 / 1024.0),
    ];
    Ok(Outcome { values, faults, ..Outcome::default() })
}

fn topic(pair: usize) -> String {
    format!("burst/{pair}/data")
}

struct Publishing {
    sent: [u32; PAIRS],
    acknowledged: usize,
    until: u32,
}

impl Handler for Publishing {
    fn frame(&mut self, _conn: usize, frame: Frame<'_>, _clients: &mut Clients) -> Result<()> {
        match frame.kind() {
            wire::PUBACK => self.acknowledged += 1,
            kind => bail!("a publisher got a packet of type {kind}"),
        }
        Ok(())
    }

    fn end_of_turn(&mut self, clients: &mut Clients) -> Result<()> {
        for (pair, sent) in self.sent.iter_mut().enumerate() {
            let mut template = PublishTemplate::new(&topic(pair), 1, false, PAYLOAD_BYTES);
            for sequence in *sent..self.until {
                clients.push(pair, template.stamp(sequence as u16 + 1, pair as u32, sequence, 0));
            }
            *sent = self.until;
        }
        Ok(())
    }
}

struct Receiving {
    streams: Vec<Stream>,
    faults: Faults,
}

impl Handler for Receiving {
    fn frame(&mut self, conn: usize, frame: Frame<'_>, clients: &mut Clients) -> Result<()> {
        ensure!(frame.kind() == wire::PUBLISH, "a subscriber got a packet of type {}", frame.kind());
        let delivery = wire::delivery(Version::V3_1_1, frame)?;
        let right = delivery.qos == 1 && delivery.payload_bytes == PAYLOAD_BYTES && delivery.stream as usize == conn;
        self.faults.wrong += u64::from(!right);
        self.streams[conn].record(delivery.sequence, &mut self.faults);
        clients.push(conn, &wire::ack(wire::PUBACK, delivery.packet_id));
        Ok(())
    }
}
