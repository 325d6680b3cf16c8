//! The clients of a bench, and what they count.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weir_mqtt::QoS;

use crate::client::{ClientError, Connection, Event, Outgoing, PublishExtras};

/// Latencies that a client keeps before it adds them to the histogram of all.
const LATENCIES_KEPT: usize = 256;
/// Messages that a publisher queues before it looks at its connection.
const BATCH: u32 = 64;
/// How often a publisher looks whether it has to end.
const LOOKS_UP_EVERY: Duration = Duration::from_millis(100);
/// How long a subscriber waits for the next message after the last one was sent.
const GRACE: Duration = Duration::from_secs(2);
/// How long a publisher with one message in flight waits for its arrival.
const ARRIVAL: Duration = Duration::from_secs(5);
/// Longer latencies count as this one: an hour.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
/// Bytes at the start of a payload: the number of the message, and when it was due.
const HEADER: usize = 16;

/// What is common to all clients of a run.
pub(super) struct Load {
    pub(super) start: Instant,
    pub(super) size: usize,
    pub(super) qos: QoS,
    /// How long to publish; `None`: publishers have a count.
    duration: Option<Duration>,
    pub(super) stop: AtomicBool,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// Deliveries that the messages that were sent and not refused make.
    pub(super) expected: AtomicU64,
    pub(super) duplicates: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Nanoseconds from the start to the last message that was sent, and to the last that arrived.
    pub(super) last_sent_ns: AtomicU64,
    pub(super) last_received_ns: AtomicU64,
    /// Nanoseconds.
    pub(super) latencies: Mutex<Histogram<u64>>,
}

impl Load {
    pub(super) fn new(size: usize, qos: QoS, duration: Option<Duration>) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            start: Instant::now(),
            size,
            qos,
            duration,
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            last_sent_ns: AtomicU64::new(0),
            last_received_ns: AtomicU64::new(0),
            latencies: Mutex::new(Histogram::new_with_max(LATENCY_MAX_NS, 3)?),
        })
    }

    fn elapsed_ns(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What one publisher does.
pub(super) struct Publisher {
    pub(super) topic: String,
    /// `None`: until the time is over.
    pub(super) count: Option<u64>,
    /// Time between two messages.
    pub(super) interval: Option<Duration>,
    /// Arrivals of its messages: the next is sent after that of the last.
    pub(super) answers: Option<mpsc::Receiver<u64>>,
    /// Gets the number of messages that were sent and not refused.
    pub(super) end: watch::Sender<Option<u64>>,
}

/// Publishes until its count or the time is over, and all messages are acknowledged.
pub(super) async fn publish(
    mut connection: Connection,
    load: Arc<Load>,
    mut publisher: Publisher,
) -> Result<(), ClientError> {
    let extras = PublishExtras::default();
    let mut payload = vec![0; load.size.max(HEADER)];
    let (mut number, mut refused) = (0_u64, 0_u64);
    // The number of the message whose arrival is waited for, and until when.
    let mut awaited: Option<(u64, Instant)> = None;
    loop {
        let now = Instant::now();
        let is_over = load.stop.load(Ordering::Relaxed)
            || publisher.count.is_some_and(|count| number >= count)
            || load.duration.is_some_and(|duration| now >= load.start + duration);
        if is_over && awaited.is_none() && connection.is_idle() {
            break;
        }
        awaited = awaited.filter(|(_, until)| now < *until);
        let mut queued = 0;
        while !is_over
            && queued < BATCH
            && awaited.is_none()
            && connection.may_publish()
            && publisher.count.is_none_or(|count| number < count)
            && due(&load, &publisher, number) <= Instant::now()
        {
            let at = if publisher.interval.is_some() { due(&load, &publisher, number) } else { Instant::now() };
            payload[..8].copy_from_slice(&number.to_be_bytes());
            payload[8..HEADER].copy_from_slice(&load.elapsed_ns(at).to_be_bytes());
            let (topic, qos) = (&publisher.topic, load.qos);
            connection.publish(&Outgoing { topic, payload: &payload, qos, retain: false, extras: &extras })?;
            if publisher.answers.is_some() {
                awaited = Some((number, Instant::now() + ARRIVAL));
            }
            number += 1;
            queued += 1;
            load.sent.fetch_add(1, Ordering::Relaxed);
        }
        if queued > 0 {
            load.last_sent_ns.fetch_max(load.elapsed_ns(Instant::now()), Ordering::Relaxed);
        }
        let wake = match awaited {
            Some((_, until)) => Some(until),
            None if is_over || !connection.may_publish() => None,
            // The end of the time, or a signal, must not wait for a message that is due later.
            None => Some(due(&load, &publisher, number).min(now + LOOKS_UP_EVERY)),
        };
        tokio::select! {
            event = connection.next() => if let Event::Published(_, Err(_)) = event? {
                refused += 1;
                load.refused.fetch_add(1, Ordering::Relaxed);
                awaited = None;
            },
            arrived = arrival(&mut publisher.answers), if awaited.is_some() => {
                awaited = awaited.filter(|(number, _)| arrived != Some(*number));
            }
            () = at(wake) => {}
        }
    }
    // A publisher whose subscribers have failed has none to report to; their error ends the run.
    let _unheard = publisher.end.send(Some(number - refused));
    connection.close().await;
    Ok(())
}

/// When a message is due.
fn due(load: &Load, publisher: &Publisher, number: u64) -> Instant {
    let Some(interval) = publisher.interval else { return load.start };
    let nanoseconds = interval.as_nanos().saturating_mul(number.into());
    load.start + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn arrival(answers: &mut Option<mpsc::Receiver<u64>>) -> Option<u64> {
    match answers {
        Some(answers) => answers.recv().await,
        None => std::future::pending().await,
    }
}

/// What one subscriber does.
pub(super) struct Subscriber {
    /// The number of messages to expect, once it is known.
    pub(super) ended: watch::Receiver<Option<u64>>,
    pub(super) arrived: Option<mpsc::Sender<u64>>,
}

/// Counts messages until all came in, or none does any more.
pub(super) async fn subscribe(
    mut connection: Connection,
    load: Arc<Load>,
    mut subscriber: Subscriber,
) -> Result<(), ClientError> {
    let (mut next, mut received) = (0_u64, 0_u64);
    let mut kept = Vec::with_capacity(LATENCIES_KEPT);
    let mut active = Instant::now();
    let expected = loop {
        let expected = *subscriber.ended.borrow_and_update();
        if let Some(expected) = expected.filter(|&expected| received >= expected || active.elapsed() >= GRACE) {
            break expected;
        }
        let event = tokio::select! {
            event = connection.next() => event?,
            changed = subscriber.ended.changed(), if expected.is_none() => {
                // The publisher failed; its error ends the run.
                if changed.is_err() {
                    return Ok(());
                }
                active = Instant::now();
                continue;
            }
            () = at(expected.map(|_| active + GRACE)) => continue,
        };
        let Event::Message(message) = event else { continue };
        connection.acknowledge(&message);
        let Some((number, sent_ns)) = header(&message.payload) else { continue };
        active = Instant::now();
        let now_ns = load.elapsed_ns(active);
        // The messages of a topic keep their order: a smaller number came twice.
        if number < next {
            load.duplicates.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        next = number + 1;
        received += 1;
        load.received.fetch_add(1, Ordering::Relaxed);
        load.last_received_ns.fetch_max(now_ns, Ordering::Relaxed);
        kept.push(now_ns.saturating_sub(sent_ns));
        if kept.len() == LATENCIES_KEPT {
            record(&load, &mut kept);
        }
        if let Some(arrived) = &subscriber.arrived {
            // Full: the publisher does not wait for this one.
            let _late = arrived.try_send(number);
        }
    };
    record(&load, &mut kept);
    load.expected.fetch_add(expected, Ordering::Relaxed);
    connection.close().await;
    Ok(())
}

fn record(load: &Load, kept: &mut Vec<u64>) {
    let mut latencies = load.latencies.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for latency in kept.drain(..) {
        // 0 is not a value of the histogram.
        latencies.saturating_record(latency.max(1));
    }
}

fn header(payload: &[u8]) -> Option<(u64, u64)> {
    let (number, rest) = payload.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), u64::from_be_bytes(*rest.first_chunk::<8>()?)))
}
