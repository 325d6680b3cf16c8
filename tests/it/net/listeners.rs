//! Listeners change without a refused connection.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use socket2::{Domain, Socket, Type};
use weirmq::net::{ListenerChange, ListenerPolicy, PlaneError, SocketKey, SocketOptions};

use super::client::{Client, connect};
use super::plane::{Plane, address, loopback, policy};
use crate::support::GUARD;
use crate::support::ports;
use crate::support::stream;

/// Stops the threads that check it, also if the test panics.
struct Stop(AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

struct Stopping<'a>(&'a Stop);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many connections were admitted by an endpoint.
fn admitted(plane: &Plane, endpoint: u32) -> u64 {
    plane.stats(endpoint).admitted_total
}

#[test]
fn two_listeners_swap_policies_under_a_connect_loop() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let policies: Vec<Arc<ListenerPolicy>> = (1..=2).map(|id| Arc::new(policy(id))).collect();
        let keys: Vec<SocketKey> = (0..2).map(|n| plane.listen(&loopback(0), policy(n + 1))).collect();
        let stop = Stop(AtomicBool::new(false));
        let start = Instant::now();
        thread::scope(|scope| {
            let stopping = Stopping(&stop);
            let connecting: Vec<_> = keys
                .iter()
                .enumerate()
                .map(|(index, key)| {
                    let (address, stop) = (address(key), &stop);
                    scope.spawn(move || {
                        let mut count = 0_u64;
                        while !stop.is_set() {
                            let mut client = Client::enter(stream::tcp(address), 4, &format!("c{index}"));
                            client.send(&[0xE0, 0]);
                            count += 1;
                        }
                        count
                    })
                })
                .collect();
            let served = || admitted(&plane, 1) > 0 && admitted(&plane, 2) > 0;
            for round in 0.. {
                let swap = |index: usize| ListenerChange::SetPolicy {
                    key: keys[index].clone(),
                    policy: Arc::clone(&policies[(index + round) % 2]),
                };
                plane.install(vec![swap(0), swap(1)]);
                thread::yield_now();
                assert!(start.elapsed() < GUARD, "one of them never admitted anybody");
                if round >= 200 && served() {
                    break;
                }
            }
            drop(stopping);
            let connected: u64 = connecting.into_iter().map(|thread| thread.join().unwrap()).sum();
            assert_eq!(connected, admitted(&plane, 1) + admitted(&plane, 2));
        });
    }
}

#[test]
fn an_installed_policy_applies_from_the_next_connection_on() {
    let plane = Plane::start(2);
    let key = plane.listen(&loopback(0), policy(1));
    for id in 2..20 {
        plane.install(vec![ListenerChange::SetPolicy { key: key.clone(), policy: Arc::new(policy(id)) }]);
        Client::enter(stream::tcp(address(&key)), 4, "c");
        assert_eq!(admitted(&plane, id), 1);
    }
}

#[test]
fn a_removed_listener_accepts_its_queue_and_releases_the_port() {
    let plane = Plane::start(1);
    // A rate that lets one in: the others wait in the queue.
    let key = plane.listen(&loopback(ports::free()), ListenerPolicy { max_connections_per_s: Some(1), ..policy(1) });
    let mut clients: Vec<_> = (0..10).map(|_| Client::new(stream::tcp(address(&key)), 4)).collect();
    plane.install(vec![ListenerChange::Remove { key: key.clone() }]);
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&connect(4, &format!("c{number}")));
        assert_eq!(client.receive(), Some((0x20, vec![0, 0])));
    }
    assert!(plane.plane.listeners().is_empty());
    assert!(std::net::TcpStream::connect(address(&key)).is_err());
    TcpListener::bind(address(&key)).expect("the port is free");
}

#[test]
fn an_install_applies_all_changes_or_none() {
    let plane = Plane::start(1);
    let key = plane.listen(&loopback(0), policy(1));
    let socket = plane.plane.bind(&loopback(0), &SocketOptions::default()).unwrap();
    let new = socket.key().clone();
    let changes = vec![
        ListenerChange::SetPolicy { key: key.clone(), policy: Arc::new(policy(2)) },
        ListenerChange::Add { socket, policy: Arc::new(policy(3)) },
        ListenerChange::Remove { key: loopback(1) },
    ];
    assert_eq!(plane.wait(plane.plane.install(changes)), Err(PlaneError::NoSuchListener { index: 2 }));
    Client::enter(stream::tcp(address(&key)), 4, "c");
    assert_eq!(admitted(&plane, 1), 1);
    assert!(std::net::TcpStream::connect(address(&new)).is_err(), "the prepared socket is closed again");
}

/// Tries to bind as another process of the same user would, hoping for a shared port.
fn intruder(address: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

type Address = fn(u16) -> SocketKey;

fn any(port: u16) -> SocketKey {
    SocketKey::Tcp(SocketAddr::from(([0, 0, 0, 0], port)))
}

fn any_6(port: u16) -> SocketKey {
    SocketKey::Tcp(SocketAddr::from(([0_u16; 8], port)))
}

/// What takes over from what.
const OVERLAPPING: [(&str, Address, Address); 5] = [
    ("narrow to wide", loopback, any),
    ("wide to narrow", any, loopback),
    ("wide to dual-stack", any, any_6),
    ("dual-stack to narrow", any_6, loopback),
    ("the same again", loopback, loopback),
];

/// Instead of `old`.
fn take_over(plane: &Plane, old: &SocketKey, to: Address) -> SocketKey {
    let socket = plane.plane.bind(&to(address(old).port()), &SocketOptions::default()).unwrap();
    let new = socket.key().clone();
    let mut changes = vec![ListenerChange::Add { socket, policy: Arc::new(policy(2)) }];
    if new != *old {
        changes.push(ListenerChange::Remove { key: old.clone() });
    }
    plane.install(changes);
    new
}

#[test]
fn a_tcp_handshake_in_progress_completes_when_another_address_takes_over() {
    for (name, from, to) in OVERLAPPING {
        let plane = Plane::start(1);
        // The handshake is not over for the kernel until the first bytes come.
        let defers = SocketOptions { defer_accept_s: Some(30), ..SocketOptions::default() };
        let socket = plane.plane.bind(&from(ports::free()), &defers).unwrap();
        let old = socket.key().clone();
        plane.install(vec![ListenerChange::Add { socket, policy: Arc::new(policy(1)) }]);
        let target = SocketAddr::from(([127, 0, 0, 1], address(&old).port()));
        let mut early: Vec<_> = (0..3).map(|_| Client::new(stream::tcp(target), 4)).collect();
        let new = take_over(&plane, &old, to);
        Client::enter(stream::tcp(target), 4, "late").ping();
        for (number, client) in early.iter_mut().enumerate() {
            client.send(&connect(4, &format!("early{number}")));
            assert_eq!(client.receive(), Some((0x20, vec![0, 0])), "{name}");
            client.ping();
        }
        assert_eq!((admitted(&plane, 1), admitted(&plane, 2)), (0, 4), "{name}: all by what is declared now");
        // There and back again, with the former socket still there.
        take_over(&plane, &new, from);
        Client::enter(stream::tcp(target), 4, "back").ping();
        plane.install(vec![ListenerChange::Remove { key: from(target.port()) }]);
        TcpListener::bind(target).unwrap_or_else(|e| panic!("{name}: nothing is left behind: {e}"));
    }
}

#[test]
fn an_overlapping_address_takes_over_without_a_gap() {
    for (name, from, to) in OVERLAPPING {
        let plane = Plane::start(2);
        let old = plane.listen(&from(ports::free()), policy(1));
        let port = address(&old).port();
        let target = SocketAddr::from(([127, 0, 0, 1], port));
        let stop = Stop(AtomicBool::new(false));
        thread::scope(|scope| {
            let (stop, stopping) = (&stop, Stopping(&stop));
            let connecting = scope.spawn(move || {
                let mut count = 0_u64;
                while !stop.is_set() {
                    Client::enter(stream::tcp(target), 4, "c").send(&[0xE0, 0]);
                    count += 1;
                }
                count
            });
            let socket = plane.plane.bind(&to(port), &SocketOptions::default()).expect(name);
            // With `::` bound there is no address to tell the kernel by that the port is no longer shared.
            let closed = |key: SocketKey| !address(&key).ip().is_ipv6();
            if closed(from(port)) && closed(to(port)) {
                assert!(intruder(target).is_err(), "{name}: the port was left open to others");
            }
            let mut changes = vec![ListenerChange::Add { socket, policy: Arc::new(policy(2)) }];
            if from(port) != to(port) {
                changes.push(ListenerChange::Remove { key: old });
            }
            plane.install(changes);
            if closed(to(port)) {
                assert!(intruder(target).is_err(), "{name}: the port was left open to others");
            }
            plane.until(2, "the new one serves", |stats| stats.admitted_total > 10);
            drop(stopping);
            let count = connecting.join().unwrap();
            assert_eq!(count, admitted(&plane, 1) + admitted(&plane, 2), "{name}");
        });
        assert_eq!(plane.plane.listeners().len(), 1, "{name}");
    }
}

#[test]
fn a_port_of_another_process_is_not_bound() {
    let plane = Plane::start(1);
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = foreign.local_addr().unwrap();
    let error = plane.plane.bind(&SocketKey::Tcp(address), &SocketOptions::default()).err().expect("it is taken");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn a_port_with_reuse_port_is_shared() {
    let plane = Plane::start(1);
    let shared = SocketOptions { reuse_port: true, ..SocketOptions::default() };
    let socket = plane.plane.bind(&loopback(0), &shared).unwrap();
    let key = socket.key().clone();
    plane.install(vec![ListenerChange::Add { socket, policy: Arc::new(policy(1)) }]);
    intruder(address(&key)).expect("the port is shared by declaration");
}

#[test]
fn a_unix_socket_replaces_only_stale_files() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let key = SocketKey::Unix(path.clone());
    let plane = Plane::start(1);
    // A process that died leaves its file behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let options = SocketOptions { unix_mode: Some(0o640), ..SocketOptions::default() };
    let socket = plane.plane.bind(&key, &options).expect("no listener has the address");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    plane.install(vec![ListenerChange::Add { socket, policy: Arc::new(policy(1)) }]);
    Client::enter(stream::unix(&path), 4, "c").ping();
    let error = Plane::start(1).plane.bind(&key, &options).err().expect("another process has the address");
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    plane.install(vec![ListenerChange::Remove { key: key.clone() }]);
    assert!(!path.exists(), "the file goes with the listener");
    std::fs::write(&path, "precious").unwrap();
    let error = plane.plane.bind(&key, &options).err().expect("a file that is not a socket");
    assert!(error.to_string().contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
