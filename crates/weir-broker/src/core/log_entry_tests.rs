//! What is to be retained in a cluster, and is larger than an entry of its log.

use super::slots_tests::Bench;
use crate::Durability;
use crate::ids::ConnId;

fn retained(bench: &mut Bench, conn: ConnId, first: u8, size: usize) -> bool {
    let length = size + if first & 6 == 0 { 3 } else { 5 };
    let mut packet = vec![first, (length % 128) as u8 | 0x80, (length / 128) as u8, 0, 1, b'r'];
    if first & 6 != 0 {
        packet.extend_from_slice(&[0, 9]);
    }
    packet.resize(packet.len() + size, b'x');
    bench.core.receive(conn, &packet, bench.now);
    bench.run();
    bench.closed.iter().any(|(closed, _)| *closed == conn)
}

#[test]
fn message_that_the_log_cannot_take_is_not_acknowledged() {
    let mut bench = Bench::of_all(Durability::Memory);
    bench.gateway.set_log_entry_max(6000);
    bench.run();
    let publisher = bench.connect("p", true, false).expect("it is admitted");
    bench.run();
    bench.flush(publisher);
    assert!(!retained(&mut bench, publisher, 0x33, 1000), "it fits");
    assert!(!retained(&mut bench, publisher, 0x31, 3000), "of QoS 0 it is dropped");
    assert!(retained(&mut bench, publisher, 0x33, 3000), "3.1.1 has no other answer than the end of the connection");
    assert!(bench.flush(publisher).is_empty());
}
