//! PROXY protocol: trusted sources, and the effect of headers.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use weir_broker::{EndpointId, Principal};
use weirmq::auth::{Anonymous, Authenticate, Credentials, Decision};
use weirmq::net::{IpRange, ListenerPolicy, ProxyProtocolPolicy};

use super::client::{Client, connect};
use super::plane::{Plane, policy, policy_with};
use crate::support::stream;

fn behind_proxy(id: u32, sources: &[(&str, u8)]) -> ListenerPolicy {
    let sources = sources
        .iter()
        .map(|(network, prefix_bits)| IpRange { network: network.parse().unwrap(), prefix_bits: *prefix_bits });
    let proxy = ProxyProtocolPolicy { sources: sources.collect(), client_certificate: true };
    ListenerPolicy { proxy_protocol: Some(proxy), ..policy(id) }
}

fn v2(source: [u8; 4], port: u16, tlvs: &[u8]) -> Vec<u8> {
    let addresses = [&source[..], &[127, 0, 0, 1], &port.to_be_bytes(), &[0, 1]].concat();
    let length = u16::try_from(addresses.len() + tlvs.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length, &addresses, tlvs].concat()
}

fn enter_behind(address: SocketAddr, header: &[u8], id: &str) -> Client {
    let mut stream = stream::tcp(address);
    stream.write_all(header).unwrap();
    Client::enter(stream, 4, id)
}

#[test]
fn a_proxy_header_sets_the_client_address() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let address = plane.listen_tcp(behind_proxy(1, &[("127.0.0.0", 8)]));
        let _first = enter_behind(address, b"PROXY TCP4 192.0.2.1 127.0.0.1 4000 1883\r\n", "v1");
        let _second = enter_behind(address, &v2([192, 0, 2, 2], 4001, &[]), "v2");
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        let _third = enter_behind(address, local, "health check");
        let rows = plane.wait(plane.plane.clients(EndpointId(1), 0, 10)).unwrap();
        let peers: Vec<String> = rows.iter().map(|row| row.peer.unwrap().to_string()).collect();
        assert_eq!(peers[..2], ["192.0.2.1:4000", "192.0.2.2:4001"]);
        assert!(peers[2].starts_with("127.0.0.1:"));
        // Header and CONNECT in one piece, and in single bytes.
        let together = [&v2([192, 0, 2, 3], 4002, &[])[..], &connect(4, "together")].concat();
        for size in [together.len(), 1] {
            let mut stream = stream::tcp(address);
            for piece in together.chunks(size) {
                stream.write_all(piece).unwrap();
            }
            let mut connack = [0; 4];
            stream.read_exact(&mut connack).unwrap();
            assert_eq!(connack, [0x20, 2, 0, 0]);
        }
    }
}

#[test]
fn connections_without_a_trusted_proxy_header_are_closed() {
    let plane = Plane::start(1);
    let trusted = plane.listen_tcp(behind_proxy(1, &[("127.0.0.1", 32)]));
    let untrusted = plane.listen_tcp(behind_proxy(2, &[("192.0.2.0", 24)]));
    let header = v2([192, 0, 2, 9], 1, &[]);
    let direct = plane.listen_tcp(policy(3));
    for (address, bytes) in [(untrusted, &header), (trusted, &connect(4, "no header")), (direct, &header)] {
        let mut stream = stream::tcp(address);
        stream.write_all(bytes).unwrap();
        stream.write_all(&connect(4, "c")).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"");
    }
    plane.until(1, "a refusal", |stats| stats.refused.proxy_protocol == 1);
    plane.until(2, "a refusal", |stats| stats.refused.proxy_protocol == 1);
    plane.until(3, "a refusal", |stats| stats.refused.protocol == 1);
}

#[test]
fn the_address_limit_counts_the_address_of_the_proxy_header() {
    let plane = Plane::start(2);
    let limited = ListenerPolicy { max_connections_per_address: Some(1), ..behind_proxy(1, &[("127.0.0.1", 32)]) };
    let address = plane.listen_tcp(limited);
    let _one = enter_behind(address, &v2([192, 0, 2, 1], 1, &[]), "one");
    let _two = enter_behind(address, &v2([192, 0, 2, 2], 1, &[]), "two");
    let mut third = stream::tcp(address);
    third.write_all(&v2([192, 0, 2, 1], 2, &[])).unwrap();
    assert!(matches!(third.read(&mut [0]), Ok(0) | Err(_)));
    plane.until(1, "a refusal", |stats| stats.refused.address_limit == 1);
}

/// Keeps the common names clients came with.
#[derive(Default)]
struct Names(Mutex<Vec<Option<String>>>);

impl Authenticate for Names {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        let name = credentials.certificate.and_then(|certificate| certificate.common_name.clone());
        self.0.lock().unwrap().push(name);
        Anonymous::new().authenticate(credentials)
    }
    fn still_valid(&self, _principal: &Principal, _client_id: &str) -> bool {
        true
    }
}

#[test]
fn a_proxy_verified_common_name_is_used_if_declared() {
    let plane = Plane::start(1);
    let names = Arc::new(Names::default());
    let listen = |id, client_certificate| {
        let mut policy = policy_with(id, Arc::clone(&names) as Arc<dyn Authenticate>);
        let sources = vec![IpRange { network: [127, 0, 0, 1].into(), prefix_bits: 32 }];
        policy.proxy_protocol = Some(ProxyProtocolPolicy { sources, client_certificate });
        plane.listen_tcp(policy)
    };
    let ssl = [&[0x20, 0, 13][..], &[0x07, 0, 0, 0, 0], &[0x22, 0, 5], b"dev-1"].concat();
    for (id, takes) in [(1, true), (2, false)] {
        enter_behind(listen(id, takes), &v2([192, 0, 2, 1], 1, &ssl), "c");
    }
    assert_eq!(*names.0.lock().unwrap(), [Some("dev-1".to_owned()), None]);
}

#[test]
fn pending_connections_are_bounded_by_the_address_of_the_proxy_header() {
    let plane = Plane::start(1);
    let limited = ListenerPolicy { max_pending_per_address: Some(2), ..behind_proxy(1, &[("127.0.0.0", 8)]) };
    let address = plane.listen_tcp(limited);
    let silent = |last| {
        let mut stream = stream::tcp(address);
        stream.write_all(&v2([192, 0, 2, last], 4000, &[])).unwrap();
        stream
    };
    let _first = [silent(1), silent(1)];
    let _unknown: Vec<_> = (0..5).map(|_| stream::tcp(address)).collect();
    assert_eq!(silent(1).read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(plane.stats(1).refused.pending_address_limit, 1);
    enter_behind(address, &v2([192, 0, 2, 2], 4001, &[]), "another client");
}
