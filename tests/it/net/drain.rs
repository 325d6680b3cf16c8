//! Drains and shutdown: which clients are disconnected, when, and with which reason code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_broker::EndpointId;
use weirmq::net::{DrainPlan, DrainWhich, ListenerPolicy, PlaneError};

use super::client::{self, Client, string};
use super::plane::{Plane, endpoint, policy};
use crate::support::stream;

fn plan(which: DrainWhich) -> DrainPlan {
    let (reason_code, handshake_ms) = (0x98, 60_000);
    DrainPlan { which, per_s: None, reason_code, server_reference: None, in_flight_ms: 0, revokes: false, handshake_ms }
}

fn enter(plane: &Plane, id: u32, count: usize, level: u8) -> Vec<Client> {
    let address = plane.listen_tcp(policy(id));
    (0..count).map(|n| Client::enter(stream::tcp(address), level, &format!("{id}-{level}-{n}"))).collect()
}

#[test]
fn a_drain_of_all_disconnects_every_client_with_its_code() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let (mut v5, mut v4) = (enter(&plane, 1, 10, 5), enter(&plane, 1, 10, 4));
        let mut others = enter(&plane, 2, 3, 5);
        let reference =
            DrainPlan { reason_code: 0x9C, server_reference: Some("b:1883".into()), ..plan(DrainWhich::All) };
        assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), reference)), Ok(20));
        let told = [&[0x9C, 9, 0x1C][..], &string("b:1883")].concat();
        for client in &mut v5 {
            assert_eq!(client.receive(), Some((0xE0, told.clone())));
            assert_eq!(client.receive(), None);
        }
        v4.iter_mut().for_each(|client| assert_eq!(client.receive(), None));
        others.iter_mut().for_each(Client::ping);
        drop((v4, v5));
        plane.until(1, "all are gone", |stats| stats.connections_current == 0);
    }
}

#[test]
fn a_drain_of_the_newest_keeps_the_oldest_connections() {
    let plane = Plane::start(3);
    let mut clients = enter(&plane, 1, 10, 5);
    assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), plan(DrainWhich::Newest(4)))), Ok(4));
    for client in clients.drain(6..) {
        let mut client = client;
        assert_eq!(client.receive(), Some((0xE0, vec![0x98])));
    }
    clients.iter_mut().for_each(Client::ping);
    assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), plan(DrainWhich::Newest(0)))), Ok(0));
}

#[test]
fn a_drain_per_address_keeps_the_oldest_of_each_address() {
    let plane = Plane::start(3);
    let address = plane.listen_tcp(policy(1));
    let from = |host: [u8; 4], id: &str| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from((host, 0)).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Client::enter(std::net::TcpStream::from(socket), 5, id)
    };
    let mut clients: Vec<Client> = (0..5).map(|n| from([127, 0, 0, 1], &format!("many{n}"))).collect();
    let mut alone = from([127, 0, 0, 2], "alone");
    assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), plan(DrainWhich::NewestOfAddress(2)))), Ok(3));
    for mut client in clients.drain(2..) {
        assert_eq!(client.receive(), Some((0xE0, vec![0x98])));
    }
    clients.iter_mut().for_each(Client::ping);
    alone.ping();
}

#[test]
fn a_drain_by_predicate_disconnects_only_matching_clients() {
    let plane = Plane::start(2);
    let mut clients = enter(&plane, 1, 10, 5);
    let odd = DrainWhich::Matching(Arc::new(|facts| facts.client_id.ends_with(['1', '3', '5', '7', '9'])));
    assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), plan(odd))), Ok(5));
    for (number, client) in clients.iter_mut().enumerate() {
        if number % 2 == 1 {
            assert_eq!(client.receive(), Some((0xE0, vec![0x98])));
        } else {
            client.ping();
        }
    }
}

#[test]
fn a_drain_rate_limits_disconnects_per_second() {
    let plane = Plane::start(2);
    let _clients = enter(&plane, 1, 20, 5);
    let start = Instant::now();
    let slow = DrainPlan { per_s: Some(40), ..plan(DrainWhich::All) };
    assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), slow)), Ok(20));
    // The two first ones at once; 20 a second on each shard.
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
}

/// A client that was sent a message with QoS 1 and has not acknowledged it.
fn with_a_message(plane: &Plane, address: std::net::SocketAddr) -> Client {
    let mut receiver = Client::enter(stream::tcp(address), 5, "receiver");
    receiver.subscribe("t", 1);
    let other = plane.listen_tcp(policy(2));
    Client::enter(stream::tcp(other), 5, "publisher").publish("t", b"m", 1);
    let (first, body) = receiver.receive().unwrap();
    assert_eq!((first, &body[..5]), (0x32, &[0, 1, b't', 0, 1][..]));
    receiver
}

#[test]
fn a_drained_client_may_acknowledge_messages_in_flight() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let address = plane.listen_tcp(policy(1));
        let mut receiver = with_a_message(&plane, address);
        let mut idle = Client::enter(stream::tcp(address), 5, "idle");
        let patient = DrainPlan { in_flight_ms: 600_000, ..plan(DrainWhich::All) };
        assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), patient.clone())), Ok(2));
        assert_eq!(idle.receive(), Some((0xE0, vec![0x98])));
        receiver.ping();
        assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), patient)), Ok(0), "each client is disconnected once");
        receiver.ping();
        receiver.send(&client::packet(0x40, &[0, 1]));
        assert_eq!(receiver.receive(), Some((0xE0, vec![0x98])));
        assert_eq!(receiver.receive(), None);
    }
}

#[test]
fn a_drained_client_that_does_not_acknowledge_is_disconnected_at_the_deadline() {
    let plane = Plane::start(2);
    let address = plane.listen_tcp(policy(1));
    let mut receiver = with_a_message(&plane, address);
    let impatient = DrainPlan { in_flight_ms: 300, ..plan(DrainWhich::All) };
    assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), impatient)), Ok(1));
    assert_eq!(receiver.receive(), Some((0xE0, vec![0x98])));
    assert_eq!(receiver.receive(), None);
}

#[test]
fn a_shutdown_waits_for_acknowledgements_of_messages_in_flight() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let address = plane.listen_tcp(policy(1));
        let mut receiver = with_a_message(&plane, address);
        let mut idle = Client::enter(stream::tcp(address), 5, "idle");
        let acknowledging = std::thread::spawn(move || {
            assert_eq!(idle.receive(), Some((0xE0, vec![0x8B])));
            drop(idle);
            receiver.ping();
            receiver.send(&client::packet(0x40, &[0, 1]));
            assert_eq!(receiver.receive(), Some((0xE0, vec![0x8B])));
        });
        assert_eq!(plane.wait(plane.plane.shutdown(Duration::from_secs(1200))), Ok(()));
        acknowledging.join().unwrap();
    }
}

#[test]
fn a_connection_accepted_before_a_drain_and_admitted_after_it_is_disconnected() {
    for which in [DrainWhich::All, DrainWhich::Before(2)] {
        let plane = Plane::start(3);
        let address = plane.listen_tcp(policy(1));
        let mut dawdlers: Vec<_> = (0..10).map(|_| Client::new(stream::tcp(address), 5)).collect();
        plane.until(1, "all accepted", |stats| stats.connections_pending == 10);
        assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), plan(which))), Ok(0));
        for (number, client) in dawdlers.iter_mut().enumerate() {
            let subscribe = client::packet(0x82, &[&[0, 1, 0][..], &string("t"), &[0]].concat());
            client.send(&[client::connect(5, &format!("late{number}")), subscribe].concat());
            assert_eq!(client.receive().map(|(first, body)| (first, body[1])), Some((0x20, 0)));
            assert_eq!(client.receive(), Some((0xE0, vec![0x98])), "and what it sent besides is not served");
            assert_eq!(client.receive(), None);
        }
        let mut punctual = Client::enter(stream::tcp(address), 5, "punctual");
        punctual.ping();
    }
}

#[test]
fn a_pending_connection_that_matches_a_drain_is_refused() {
    let plane = Plane::start(3);
    let address = plane.listen_tcp(policy(1));
    let mut dawdlers: Vec<_> = (0..10).map(|_| Client::new(stream::tcp(address), 5)).collect();
    plane.until(1, "all accepted", |stats| stats.connections_pending == 10);
    let odd = DrainWhich::Matching(Arc::new(|facts| facts.client_id.ends_with(['1', '3', '5', '7', '9'])));
    assert_eq!(plane.wait(plane.plane.drain(EndpointId(1), plan(odd))), Ok(0));
    for (number, client) in dawdlers.iter_mut().enumerate() {
        client.send(&client::connect(5, &format!("c{number}")));
        let code = client.receive().map(|(_, body)| body[1]);
        if number % 2 == 1 {
            assert_eq!(code, Some(0x89), "server busy");
            assert_eq!(client.receive(), None);
        } else {
            assert_eq!(code, Some(0));
            client.ping();
        }
    }
    assert_eq!(plane.stats(1).admitted_total, 5);
}

#[test]
fn a_new_policy_applies_to_open_and_pending_connections() {
    let plane = Plane::start(2);
    let address = plane.listen_tcp(policy(1));
    let mut open = Client::enter(stream::tcp(address), 5, "open");
    let mut dawdler = Client::new(stream::tcp(address), 5);
    plane.until(1, "accepted", |stats| stats.connections_pending == 1);
    let mut tighter = endpoint(1);
    tighter.generation = 2;
    tighter.limits.message_max_size = 1024;
    let tighter = ListenerPolicy { endpoint: Arc::new(tighter), ..policy(1) };
    plane.wait(plane.plane.set_policy(Arc::new(tighter))).unwrap();
    dawdler.send(&client::connect(5, "late"));
    assert_eq!(dawdler.receive().unwrap().1[1], 0);
    for mut client in [open, dawdler] {
        client.send(&client.publish_bytes("t", &[0; 2000], 0));
        assert_eq!(client.receive(), Some((0xE0, vec![0x95])), "packet too large");
    }
    open = Client::enter(stream::tcp(address), 5, "again");
    open.ping();
}

#[test]
fn a_shutdown_disconnects_all_clients_and_stops_the_threads() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let (mut v5, mut v4) = (enter(&plane, 1, 10, 5), enter(&plane, 2, 10, 4));
        let reading = std::thread::spawn(move || {
            for client in &mut v5 {
                assert_eq!(client.receive(), Some((0xE0, vec![0x8B])));
                assert_eq!(client.receive(), None);
            }
            v4.iter_mut().for_each(|client| assert_eq!(client.receive(), None));
        });
        assert_eq!(plane.wait(plane.plane.shutdown(Duration::from_secs(10))), Ok(()));
        reading.join().unwrap();
        assert_eq!(plane.wait(plane.plane.install(Vec::new())), Err(PlaneError::Stopped));
        assert!(plane.plane.listeners().is_empty());
    }
}

#[test]
fn a_shutdown_does_not_wait_for_clients_that_never_read() {
    let plane = Plane::start(2);
    let deaf = enter(&plane, 1, 3, 5);
    let start = Instant::now();
    assert_eq!(plane.wait(plane.plane.shutdown(Duration::from_millis(300))), Ok(()));
    assert!(start.elapsed() < Duration::from_secs(10));
    drop(deaf);
}

#[test]
fn clients_are_listed_in_the_order_of_acceptance() {
    let plane = Plane::start(3);
    let _clients = enter(&plane, 1, 12, 5);
    let other = ListenerPolicy { ..policy(2) };
    let address = plane.listen_tcp(other);
    let mut named = Client::new(stream::tcp(address), 4);
    named.send(&client::connect_with(4, "named", &[], Some(("alice", "secret"))));
    assert_eq!(named.receive(), Some((0x20, vec![0, 0])));
    let rows = plane.wait(plane.plane.clients(EndpointId(1), 0, 100)).unwrap();
    let ids: Vec<_> = rows.iter().map(|row| row.client_id.clone()).collect();
    let expected: Vec<_> = (0..12).map(|n| format!("1-5-{n}")).collect();
    assert_eq!(ids, expected);
    let page = plane.wait(plane.plane.clients(EndpointId(1), 4, 3)).unwrap();
    let sequences = |rows: &[_]| rows.iter().map(|row: &weirmq::net::ClientRow| row.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(&page), sequences(&rows[4..7]));
    let rows = plane.wait(plane.plane.clients(EndpointId(2), 0, 100)).unwrap();
    assert_eq!((rows.len(), rows[0].username.as_deref(), rows[0].protocol_level), (1, Some("alice"), 4));
    assert!(rows[0].peer.is_some() && !rows[0].tls && !rows[0].websocket);
}
