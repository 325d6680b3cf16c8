//! Clients that connect without pause are never refused while endpoints move between addresses.
//!
//! `WEIR_MOVES=300` makes as many changes, `WEIR_SIM_SEED=17` chooses them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::broker::{Broker, at, client, endpoint};
use crate::net::client::connect;
use crate::net::tls::Authority;
use crate::seeded_random::{self, SeededRandom};
use crate::support::GUARD;
use crate::support::client::Client;
use crate::support::ports;

/// Stops the loops, also where the test panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Opens a connection, is let in, and leaves.
fn enter(address: SocketAddr, level: u8) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(GUARD))?;
    stream.write_all(&connect(level, ""))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    if (connack[0], connack[2], connack[3]) != (0x20, 0, 0) {
        return Err(std::io::Error::other(format!("CONNACK {connack:02x?}")));
    }
    // It may have been asked to leave already.
    let _ = stream.write_all(&[0xE0, 0]);
    Ok(())
}

/// Does it again and again; how often, or what came in between.
fn forever(stop: &AtomicBool, mut once: impl FnMut() -> std::io::Result<()>) -> Result<u64, String> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        once().map_err(|e| format!("after {count} connections: {e}"))?;
        count += 1;
    }
    Ok(count)
}

/// What is declared on ports that are always declared.
struct Declared {
    /// The endpoints' ports, by the endpoints' numbers.
    ports: Vec<u16>,
    hosts: Vec<&'static str>,
    limits: Vec<u64>,
    restarted: u64,
    secure: u16,
    /// What the secure one is: plain, TLS, WebSocket, or both.
    transport: usize,
    extra: BTreeSet<u16>,
    steady: u16,
}

const TRANSPORTS: [&str; 4] = [
    "",
    ", sslConfig: {certFile: server.pem, keyFile: server.key}",
    ", useWebsocket: true",
    ", useWebsocket: true, sslConfig: {certFile: server.pem, keyFile: server.key}",
];

impl Declared {
    fn new() -> Self {
        let ports: Vec<u16> = (0..4).map(|_| ports::free()).collect();
        Self {
            hosts: vec!["127.0.0.1"; 4],
            limits: vec![1000; 4],
            ports,
            restarted: 0,
            secure: ports::free(),
            transport: 0,
            extra: BTreeSet::new(),
            steady: ports::free(),
        }
    }

    fn change(&mut self, random: &mut SeededRandom, hosts: &[&'static str], spare: &[u16]) {
        let (a, b) = (random.below(4) as usize, random.below(4) as usize);
        match random.below(8) {
            0 | 1 => self.ports.swap(a, b),
            2 | 3 => self.hosts[a] = hosts[random.below(hosts.len() as u64) as usize],
            4 => self.transport = random.below(4) as usize,
            5 => self.restarted += 1,
            6 => self.limits[a] = 500 + random.below(1000),
            _ => {
                let port = spare[random.below(spare.len() as u64) as usize];
                if !self.extra.remove(&port) {
                    self.extra.insert(port);
                }
            }
        }
    }

    fn text(&self, number: usize) -> String {
        let mut text = format!("# change {number}\n{}", endpoint("steady", self.steady, ""));
        for (at, port) in self.ports.iter().enumerate() {
            let restarted = if at == 0 { self.restarted } else { 0 };
            let fields = format!(", maxConnectionSize: {}, restartedAt: '{restarted}'", self.limits[at]);
            let one =
                endpoint(&format!("e{at}"), *port, &fields).replace("127.0.0.1", &format!("'{}'", self.hosts[at]));
            let _ok = write!(text, "---\n{one}");
        }
        let _ok = write!(text, "---\n{}", endpoint("secure", self.secure, TRANSPORTS[self.transport]));
        for port in &self.extra {
            let _ok = write!(text, "---\n{}", endpoint(&format!("extra-{port}"), *port, ""));
        }
        text
    }
}

fn changes(count: usize) {
    let seed = seeded_random::seed();
    println!("WEIR_SIM_SEED={seed}");
    let mut random = SeededRandom::new(seed);
    let ca = Authority::new();
    let server = ca.issue("server", &["localhost"], 1);
    let mut declared = Declared::new();
    let mut hosts = vec!["127.0.0.1", "0.0.0.0"];
    if TcpListener::bind("[::]:0").is_ok() {
        hosts.push("::");
    }
    let spare = [ports::free(), ports::free()];
    let broker = Broker::start(&[
        ("server.pem", &server.chain_pem),
        ("server.key", &server.key_pem),
        ("all.yaml", &declared.text(0)),
    ]);
    ["steady", "secure", "e0", "e1", "e2", "e3"].iter().for_each(|name| broker.until_listening(name));
    let mut residents: Vec<Client> = (0..5).map(|n| client(declared.steady, &format!("resident-{n}"))).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (stop, stopping) = (&stop, Stop(&stop));
        let loops: Vec<_> = [declared.steady]
            .iter()
            .chain(&declared.ports)
            .enumerate()
            .map(|(number, port)| {
                let (address, level) = (at(*port), if number % 2 == 0 { 4 } else { 5 });
                (*port, scope.spawn(move || forever(stop, || enter(address, level))))
            })
            .collect();
        let secure = at(declared.secure);
        // Whatever is spoken there, a connection is accepted.
        let opening = scope.spawn(move || forever(stop, || TcpStream::connect(secure).map(drop)));
        for number in 1..=count {
            declared.change(&mut random, &hosts, &spare);
            broker.apply("all.yaml", &declared.text(number));
            assert!(loops.iter().all(|(_, running)| !running.is_finished()), "a loop ended at change {number}");
        }
        drop(stopping);
        for (port, running) in loops {
            let connected = running.join().unwrap();
            assert!(connected.as_ref().is_ok_and(|count| *count > 0), "port {port}: {connected:?}\n{}", broker.log());
        }
        let opened = opening.join().unwrap();
        assert!(opened.as_ref().is_ok_and(|count| *count > 0), "the secure port: {opened:?}");
    });
    residents.iter_mut().for_each(Client::ping);
    broker.until("live is what is declared", || broker.get("/api/plan")["converged"] == true);
}

#[test]
fn no_client_is_refused_while_ports_move_and_addresses_overlap() {
    changes(20);
}

#[test]
#[ignore = "takes minutes; tests/run --all runs it"]
fn no_client_is_refused_through_hundreds_of_changes() {
    changes(std::env::var("WEIR_MOVES").ok().and_then(|count| count.parse().ok()).unwrap_or(300));
}
