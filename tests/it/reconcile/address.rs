//! Ports in use, ports that become free, and listeners that end.

use std::net::TcpListener;

use super::broker::{Broker, at, client, endpoint};
use crate::support::ports;

#[test]
fn a_port_in_use_is_reported_with_its_process_and_bound_once_free() {
    let (port, other) = (ports::free(), ports::free());
    let foreign = TcpListener::bind(at(port)).unwrap();
    let documents = (endpoint("taken", port, ""), endpoint("other", other, ""));
    let documents = [("taken.yaml", &*documents.0), ("other.yaml", &*documents.1)];
    let broker = Broker::start_with(&documents, &["--resync-s", "3600"]);
    let told = broker.until_condition("taken", "Programmed", false, "AddressInUse");
    let holder = format!("process {} (", std::process::id());
    for words in [format!("127.0.0.1:{port}"), holder] {
        assert!(told.message.contains(&words), "{words} is not in {told:?}");
    }
    assert!(broker.log().contains(&told.message), "the log has it, too");
    // No other endpoint is affected.
    broker.until_listening("other");
    client(other, "c").ping();
    let accepted = broker.condition("taken", "Accepted").unwrap();
    assert!(accepted.holds, "{accepted:?}");
    drop(foreign);
    broker.until_listening("taken");
    client(port, "c").ping();
}

#[test]
fn an_endpoint_that_cannot_move_keeps_its_listener() {
    let (from, to) = (ports::free(), ports::free());
    let foreign = TcpListener::bind(at(to)).unwrap();
    let broker = Broker::start(&[("e.yaml", &endpoint("e", from, ""))]);
    broker.until_listening("e");
    let mut resident = client(from, "resident");
    broker.write("e.yaml", &endpoint("e", to, ", drain: {windowS: 0}"));
    let told = broker.until_condition("e", "Programmed", false, "AddressInUse");
    assert!(told.message.contains("the former declaration stays applied"), "{told:?}");
    resident.ping();
    client(from, "newcomer").ping();
    drop(foreign);
    broker.until_listening("e");
    client(to, "newcomer").ping();
    assert!(matches!(resident.receive(), Some(crate::wire::Packet::Disconnect { code: 0x98, .. })));
    assert!(std::net::TcpStream::connect(at(from)).is_err(), "the old port is given back");
}

#[test]
fn two_endpoints_with_one_address_conflict_and_name_each_other() {
    let port = ports::free();
    let broker = Broker::start(&[("a.yaml", &endpoint("a", port, ""))]);
    broker.until_listening("a");
    let mut resident = client(port, "resident");
    broker.write("b.yaml", &endpoint("b", port, "").replace("127.0.0.1", "0.0.0.0"));
    let told = broker.until_condition("b", "Conflicted", true, "PortHeld");
    assert!(told.message.contains('a'), "{told:?}");
    resident.ping();
    broker.apply("a.yaml", &endpoint("a", ports::free(), ""));
    broker.until_listening("b");
    client(port, "newcomer").ping();
}
