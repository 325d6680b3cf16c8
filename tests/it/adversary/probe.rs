//! What others notice: how long a message takes, and how long it takes to get in.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::net::client::{connect as connect_bytes, packet, string};
use crate::support::GUARD;

const MESSAGE_EVERY: Duration = Duration::from_millis(2);
/// A connection for so many messages.
const CONNECT_EVERY: usize = 50;

/// Times of one stretch.
#[derive(Default)]
pub struct Latency {
    messages: Vec<Duration>,
    connects: Vec<Duration>,
    refused: usize,
    began: Option<Instant>,
    /// The longest message, and when in the stretch it was sent.
    worst: Option<(Duration, Duration)>,
}

pub struct Probe {
    stretch: Arc<Mutex<Latency>>,
    ended: Arc<AtomicBool>,
    connects: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Probe {
    /// Publishes to itself with QoS 1, and connects anew now and then, until it is dropped.
    pub fn start(address: SocketAddr) -> Probe {
        let stretch: Arc<Mutex<Latency>> = Arc::default();
        let (ended, connects) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        let mut stream = connect(address, "probe").expect("the probe gets in");
        stream.write_all(&packet(0x82, &[&[0, 1][..], &string("probe"), &[0]].concat())).unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        let (times, over, may_connect) = (Arc::clone(&stretch), Arc::clone(&ended), Arc::clone(&connects));
        let thread = std::thread::spawn(move || {
            let publish = packet(0x32, &[&string("probe")[..], &[0, 1], b"x"].concat());
            let mut answer = vec![0; 4 + packet(0x30, &[&string("probe")[..], b"x"].concat()).len()];
            for n in 1.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let start = Instant::now();
                stream.write_all(&publish).unwrap();
                stream.read_exact(&mut answer).expect("PUBLISH and PUBACK");
                times.lock().unwrap().message_took(start, start.elapsed());
                if n % CONNECT_EVERY == 0 && may_connect.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let entered = connect(address, "probe-2").is_some();
                    let mut times = times.lock().unwrap();
                    times.connects.push(start.elapsed());
                    times.refused += usize::from(!entered);
                }
                std::thread::sleep(MESSAGE_EVERY);
            }
        });
        Probe { stretch, ended, connects, thread: Some(thread) }
    }

    /// The times while `what` goes on.
    pub fn during(&self, what: impl FnOnce()) -> Latency {
        *self.stretch.lock().unwrap() = Latency { began: Some(Instant::now()), ..Latency::default() };
        what();
        let latency = std::mem::take(&mut *self.stretch.lock().unwrap());
        let is_well = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        assert!(is_well && latency.refused == 0, "the probe lost its connection, or got none: {latency}");
        latency
    }

    /// The same, while no client can connect.
    pub fn during_messages(&self, what: impl FnOnce()) -> Latency {
        self.connects.store(false, Ordering::Relaxed);
        std::thread::sleep(10 * MESSAGE_EVERY);
        self.stretch.lock().unwrap().refused = 0;
        let latency = self.during(what);
        self.connects.store(true, Ordering::Relaxed);
        latency
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has said why already.
            let _ = thread.join();
        }
    }
}

impl Latency {
    fn message_took(&mut self, sent: Instant, time: Duration) {
        self.messages.push(time);
        let at = self.began.map_or(Duration::ZERO, |began| sent.saturating_duration_since(began));
        if self.worst.is_none_or(|(worst, _)| worst < time) {
            self.worst = Some((time, at));
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = |times: &[Duration]| {
            let mut sorted = times.to_vec();
            sorted.sort_unstable();
            let at = |share: f64| sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().max(1) - 1));
            let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
            format!("{:.1}/{:.1}/{:.1}", ms(at(0.5)), ms(at(0.99)), ms(sorted.last()))
        };
        let (messages, connects) = (figures(&self.messages), figures(&self.connects));
        let worst_at_s = self.worst.map_or(0.0, |(_, at)| at.as_secs_f64());
        let count = self.messages.len();
        write!(f, "message {messages} ms (median/p99/most of {count}; the worst after {worst_at_s:.1} s), ")?;
        write!(f, "connect {connects} ms")
    }
}

/// A client of 3.1.1 that was let in.
pub fn connect(address: SocketAddr, id: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(GUARD)).ok()?;
    stream.set_write_timeout(Some(GUARD)).ok()?;
    stream.write_all(&connect_bytes(4, id)).ok()?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).ok()?;
    (connack == [0x20, 2, 0, 0]).then_some(stream)
}

/// Publishes to `flood` as fast as it is let, small and large, QoS 0 and 1; how many messages.
pub fn flood(address: SocketAddr, time: Duration) -> usize {
    let mut stream = connect(address, "publisher").expect("the publisher gets in");
    let mut reader = stream.try_clone().unwrap();
    std::thread::spawn(move || while reader.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {});
    let message = |first: u8, size: usize| {
        let id: &[u8] = if first & 6 > 0 { &[0, 1] } else { &[] };
        packet(first, &[&string("flood")[..], id, &vec![b'x'; size]].concat())
    };
    let burst = [message(0x30, 64), message(0x32, 64), message(0x30, 1000), message(0x32, 1000), message(0x30, 20_000)];
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < time && stream.write_all(&burst.concat()).is_ok() {
        count += burst.len();
    }
    // The rest of a packet that was cut off is discarded.
    let _ = stream.shutdown(std::net::Shutdown::Both);
    count
}
