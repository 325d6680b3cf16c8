//! What clients see of listeners: answers, refusals, dropped connections.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::brokers::{Kind, loopback};

/// Between two attempts of one client.
const PAUSE: Duration = Duration::from_micros(300);
/// A listener that takes so long to answer does not.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Which of two kinds of listener answers: one that admits a client, and one that does not (brokers), or one that says
/// `first` and one that says `second`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    First,
    Second,
}

impl Answer {
    pub fn word(self) -> &'static str {
        match self {
            Answer::First => "first",
            Answer::Second => "second",
        }
    }
}

/// How to talk to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Talk {
    Mqtt,
    Http,
    /// It speaks first.
    Listen,
}

impl Talk {
    pub fn with(kind: &Kind) -> Talk {
        match kind {
            Kind::Nginx => Talk::Listen,
            Kind::Haproxy => Talk::Http,
            _ => Talk::Mqtt,
        }
    }

    /// The answer at a port; `None`: none, or none that is understood.
    pub fn probe(self, port: u16) -> Option<Answer> {
        let mut stream = TcpStream::connect(loopback(port)).ok()?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).ok()?;
        match self {
            Talk::Mqtt => stream.write_all(CONNECT).ok()?,
            Talk::Http => stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?,
            Talk::Listen => {}
        }
        let mut bytes = Vec::new();
        if self == Talk::Mqtt {
            bytes.resize(4, 0);
            stream.read_exact(&mut bytes).ok()?;
            return Some(if bytes[3] == 0 { Answer::First } else { Answer::Second });
        }
        stream.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        [Answer::First, Answer::Second].into_iter().find(|answer| text.ends_with(answer.word()))
    }
}

/// MQTT 3.1.1, a clean session, no keep-alive, an empty client id.
const CONNECT: &[u8] = &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0];

/// Waits until `port` answers so; milliseconds since `since`.
pub fn until(talk: Talk, port: u16, wanted: Answer, since: Instant, patience: Duration) -> Option<f64> {
    while since.elapsed() < patience {
        if TcpStream::connect(loopback(port)).is_ok() && talk.probe(port) == Some(wanted) {
            return Some(since.elapsed().as_secs_f64() * 1e3);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

/// Clients that connect to a port again and again.
pub struct Hammer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Attempts>,
}

/// What clients that connected again and again saw.
#[derive(Debug, Default, Clone, Copy)]
pub struct Attempts {
    pub refused: u64,
    /// The longest time without an admitted client.
    pub longest_gap: Duration,
}

impl Hammer {
    pub fn on(port: u16) -> Hammer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Attempts::default();
            let mut last = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                if TcpStream::connect(loopback(port)).is_ok() {
                    seen.longest_gap = seen.longest_gap.max(last.elapsed());
                    last = Instant::now();
                } else {
                    seen.refused += 1;
                }
                std::thread::sleep(PAUSE);
            }
            seen.longest_gap = seen.longest_gap.max(last.elapsed());
            seen
        });
        Hammer { stop, thread }
    }

    pub fn stop(self) -> Result<Attempts> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a client panicked"))
    }
}

/// Stops the hammers; all that they saw together.
pub fn stop_all(hammers: Vec<Hammer>) -> Result<Attempts> {
    let mut all = Attempts::default();
    for hammer in hammers {
        let seen = hammer.stop()?;
        all.refused += seen.refused;
        all.longest_gap = all.longest_gap.max(seen.longest_gap);
    }
    Ok(all)
}

/// Clients that stay.
pub struct Held(Vec<TcpStream>);

impl Held {
    /// Connects `count` clients; MQTT ones are admitted.
    pub fn connect(talk: Talk, port: u16, count: usize) -> Result<Held> {
        let mut held = Vec::with_capacity(count);
        for _ in 0..count {
            let mut stream = TcpStream::connect(loopback(port))?;
            if talk == Talk::Mqtt {
                let mut connack = [0; 4];
                stream.write_all(CONNECT)?;
                stream.read_exact(&mut connack)?;
                ensure!(connack[3] == 0, "a client to be held was not admitted");
            }
            stream.set_nonblocking(true)?;
            held.push(stream);
        }
        Ok(Held(held))
    }

    /// How many were dropped.
    pub fn dropped(&mut self) -> usize {
        let is_gone = |stream: &mut TcpStream| match stream.read(&mut [0; 16]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        self.0.iter_mut().map(is_gone).filter(|gone| *gone).count()
    }
}
