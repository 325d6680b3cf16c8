//! Clients that mean harm, in a process of their own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::net::client::{connect_with, packet, string};
use crate::net::floods::client_hello;
use crate::support::GUARD;
use crate::support::child::ChildGuard;

/// Bytes of ClientHellos in a second.
const HELLO_BYTES_PER_S: f64 = 160_000.0;
/// What the attacker's process is told by.
const VARIABLE: &str = "WEIR_TEST_ATTACK";
/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Connect, all at once, and stay.
    Storm,
    /// Say what begins well a byte a second.
    SlowConnect,
    SlowTls,
    SlowUpgrade,
    /// Connect with a keep-alive of a second, and are never heard of again.
    Vanish,
    /// Connect and say that nothing more will come.
    HalfClose,
    /// Subscribe to `flood` and read nothing of it.
    NeverRead0,
    NeverRead1,
    /// Ping and read no answer.
    PingFlood,
    /// Try one password after the other.
    WrongPasswords,
    /// Begin TLS handshakes without end, 160 KB a second, and finish none.
    ClientHellos,
    /// Begin a CONNECT that is long, and say nothing more.
    LongConnect,
    /// Connect, begin a long PUBLISH, and say nothing more.
    LongPublish,
}

const KINDS: [Kind; 13] = [
    Kind::Storm,
    Kind::SlowConnect,
    Kind::SlowTls,
    Kind::SlowUpgrade,
    Kind::Vanish,
    Kind::HalfClose,
    Kind::NeverRead0,
    Kind::NeverRead1,
    Kind::PingFlood,
    Kind::WrongPasswords,
    Kind::ClientHellos,
    Kind::LongConnect,
    Kind::LongPublish,
];

/// A process of attackers; it ends with the value.
pub struct Attack {
    _child: ChildGuard,
    stdin: Option<ChildStdin>,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Attack {
    /// `count` clients, from an address that `number` tells apart.
    pub fn start(kind: Kind, address: SocketAddr, count: usize, number: u8) -> Attack {
        // Attackers have machines of their own: what they compute is not to be the broker's loss.
        let mut command = Command::new("nice");
        command
            .args(["-n", "19"])
            .arg(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "adversary::attacker::process"])
            .env(VARIABLE, format!("{kind:?} {address} {count} {number}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = ChildGuard::spawn(&mut command);
        let lines = BufReader::new(child.take_stdout()).lines();
        Attack { stdin: Some(child.take_stdin()), _child: child, lines }
    }

    /// What it says after `word`.
    pub fn hears(&mut self, word: &str) -> String {
        let mut lines = self.lines.by_ref().map(Result::unwrap);
        let said = lines.find_map(|line| line.strip_prefix(word).map(|rest| rest.trim().to_owned()));
        said.unwrap_or_else(|| panic!("the attacker ended before it said {word:?}"))
    }

    pub fn stop(&mut self) {
        self.stdin = None;
    }
}

#[test]
#[ignore = "run by the adversarial run"]
fn process() {
    let Ok(order) = std::env::var(VARIABLE) else { return };
    let words: Vec<&str> = order.split(' ').collect();
    let kind = KINDS.into_iter().find(|kind| format!("{kind:?}") == words[0]).unwrap();
    let (address, count) = (words[1].parse().unwrap(), words[2].parse().unwrap());
    let flood = Flood { address, count, number: words[3].parse().unwrap() };
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    std::thread::spawn(move || {
        // Until the other end closes.
        let _ = std::io::stdin().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    println!();
    match kind {
        Kind::Storm => flood.storm(&over),
        Kind::SlowConnect => flood.slow(&flood.connect_packet(0, 0)),
        Kind::SlowTls => flood.slow(&[&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3][..], &[7; 500]].concat()),
        Kind::SlowUpgrade => flood.slow(format!("GET /mqtt HTTP/1.1\r\nHost: {}", "x".repeat(500)).as_bytes()),
        Kind::Vanish => flood.vanish(false),
        Kind::HalfClose => flood.vanish(true),
        Kind::NeverRead0 => flood.never_read(0, &over),
        Kind::NeverRead1 => flood.never_read(1, &over),
        Kind::PingFlood => flood.ping(&over),
        Kind::WrongPasswords => flood.guess(&over),
        Kind::ClientHellos => flood.client_hellos(&over),
        Kind::LongConnect => flood.long_connect(&over),
        Kind::LongPublish => flood.long_publish(&over),
    }
}

struct Flood {
    address: SocketAddr,
    count: usize,
    number: u8,
}

impl Flood {
    /// From an address of this flood's own: one has ports for 28,000 connections only.
    fn open(&self, receive_buffer: Option<usize>) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 1, self.number + 1), 0)).into()).unwrap();
        if let Some(bytes) = receive_buffer {
            socket.set_recv_buffer_size(bytes).unwrap();
        }
        socket.connect(&self.address.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream
    }

    /// CONNECT of the client with that index.
    fn connect_packet(&self, index: usize, keep_alive_s: u8) -> Vec<u8> {
        let mut bytes = connect_with(4, &format!("attacker-{}-{index}", self.number), &[], None);
        bytes[11] = keep_alive_s;
        bytes
    }

    fn all(&self) -> Vec<TcpStream> {
        (0..self.count).map(|_| self.open(None)).collect()
    }

    /// Those that are let in.
    fn enter(&self, keep_alive_s: u8, receive_buffer: Option<usize>) -> Vec<TcpStream> {
        let connect = |index| {
            let mut stream = self.open(receive_buffer);
            // Who is refused is counted below.
            let _ = stream.write_all(&self.connect_packet(index, keep_alive_s));
            stream
        };
        let mut streams: Vec<TcpStream> = (0..self.count).map(connect).collect();
        streams.retain_mut(|stream| {
            let mut connack = [0; 4];
            // Admitted, to a session of an earlier attack or to a new one.
            stream.read_exact(&mut connack).is_ok() && connack[0] == 0x20 && connack[3] == 0
        });
        streams
    }

    fn storm(&self, over: &AtomicBool) {
        let streams = self.enter(0, None);
        println!("admitted {}", streams.len());
        wait(over);
        drop(streams);
    }

    fn slow(&self, words: &[u8]) {
        let mut streams = self.all();
        let mut left = streams.len();
        for byte in words.chunks(1) {
            for stream in &mut streams {
                // Who is closed is counted below.
                let _ = stream.write_all(byte);
            }
            std::thread::sleep(Duration::from_secs(1));
            streams.retain(is_open);
            left = streams.len();
            if left == 0 {
                break;
            }
        }
        println!("closed {}", self.count - left);
    }

    fn vanish(&self, half_close: bool) {
        let mut streams = self.enter(1, None);
        if half_close {
            streams.iter().for_each(|stream| stream.shutdown(Shutdown::Write).unwrap());
        }
        let silent = streams.len();
        for _ in 0..60 {
            std::thread::sleep(Duration::from_secs(1));
            streams.retain(is_open);
            if streams.is_empty() {
                break;
            }
        }
        println!("closed {}", silent - streams.len());
    }

    fn never_read(&self, qos: u8, over: &AtomicBool) {
        let mut streams = self.enter(0, Some(4096));
        for stream in &mut streams {
            stream.write_all(&packet(0x82, &[&[0, 1][..], &string("flood"), &[qos]].concat())).unwrap();
        }
        for stream in &mut streams {
            stream.read_exact(&mut [0; 5]).unwrap();
        }
        println!("ready {}", streams.len());
        wait(over);
    }

    fn ping(&self, over: &AtomicBool) {
        let mut streams = self.enter(0, Some(4096));
        streams.iter().for_each(|stream| stream.set_nonblocking(true).unwrap());
        println!("ready {}", streams.len());
        let pings = [0xC0, 0].repeat(32_768);
        while !over.load(Ordering::Relaxed) {
            for stream in &mut streams {
                // What does not fit, or comes too late, is no loss.
                let _ = stream.write(&pings[..pings.len() & !1]);
            }
        }
    }

    fn client_hellos(&self, over: &AtomicBool) {
        let hello = client_hello();
        let pause = Duration::from_secs_f64(hello.len() as f64 / HELLO_BYTES_PER_S);
        let (start, mut sent) = (Instant::now(), 0_u32);
        while !over.load(Ordering::Relaxed) {
            // At its limits the broker closes before it has read anything.
            let _ = self.open(None).write_all(&hello);
            sent += 1;
            std::thread::sleep((start + pause * sent).saturating_duration_since(Instant::now()));
        }
        println!("sent {sent}");
    }

    fn long_connect(&self, over: &AtomicBool) {
        let connect = connect_with(5, "c", &[], Some(("u", &"p".repeat(60_000))));
        let begin = |_| {
            let mut stream = self.open(None);
            let _ = stream.write_all(&connect[..connect.len() - 1]);
            stream
        };
        let streams: Vec<TcpStream> = (0..self.count).map(begin).collect();
        println!("ready {}", streams.len());
        wait(over);
    }

    fn long_publish(&self, over: &AtomicBool) {
        let mut streams = self.enter(0, None);
        // 4,000,000 bytes are announced, 200 KB are sent.
        let begin = [&[0x30, 0x80, 0x92, 0xF4, 0x01][..], &string("t"), &[0; 200_000]].concat();
        for stream in &mut streams {
            let _ = stream.write_all(&begin);
        }
        println!("ready {}", streams.len());
        wait(over);
    }

    /// `count` threads, each trying one password after the other.
    fn guess(&self, over: &AtomicBool) {
        let codes = std::sync::Mutex::new(BTreeMap::<String, usize>::new());
        std::thread::scope(|scope| {
            for number in 0..self.count {
                let codes = &codes;
                scope.spawn(move || {
                    for guess in 0.. {
                        if over.load(Ordering::Relaxed) {
                            return;
                        }
                        let mut stream = self.open(None);
                        let login = format!("{number}-{guess}");
                        let hello = connect_with(5, &format!("g{number}"), &[], Some(("alice", &login)));
                        let mut answer = [0; 4];
                        let answered = stream.write_all(&hello).is_ok() && stream.read_exact(&mut answer).is_ok();
                        let code = if answered { format!("{:#04x}", answer[3]) } else { "none".to_owned() };
                        *codes.lock().unwrap().entry(code).or_default() += 1;
                    }
                });
            }
        });
        println!("codes {:?}", codes.into_inner().unwrap());
    }
}

fn wait(over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether the broker has not closed it yet.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut reader = stream;
    let open = loop {
        match reader.read(&mut [0; 64]) {
            Ok(0) => break false,
            Ok(_) => {}
            Err(error) => break error.kind() == ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false).unwrap();
    open
}
