//! Ports for brokers that run as processes: known before the broker binds them.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the system gives to clients and to listeners of port 0, so that no other socket gets one meanwhile.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A port without a listener, and that no other test of this process gets.
pub fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Other processes of this suite begin elsewhere.
    let begin = (std::process::id().wrapping_mul(0x9E37_79B1) >> 16) % u32::from(COUNT);
    for _ in 0..COUNT {
        let offset = (begin + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
        let port = FIRST + offset as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}

/// A free port of 127.0.0.1.
pub fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free()))
}

/// A document for each endpoint, on a free address of its own and without an access list, and the addresses by name.
/// `endpoints`: names, and fields besides host and port.
pub fn endpoint_documents(endpoints: &[(&'static str, &str)]) -> (String, HashMap<&'static str, SocketAddr>) {
    let (mut documents, mut addresses) = (String::new(), HashMap::new());
    for (name, fields) in endpoints {
        let address = free_address();
        let port = address.port();
        documents.push_str(&format!(
            "---\nendpoint: {{name: {name}, host: 127.0.0.1, port: {port}, enableAcl: false, {fields}}}\n"
        ));
        addresses.insert(*name, address);
    }
    (documents, addresses)
}
