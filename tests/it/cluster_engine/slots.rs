//! The register of the slot table on one server.

use bytes::Bytes;
use weirmq::cluster::engine::{EngineEvent, SlotsWritten};

use super::nats::{self, Nats};
use super::node::{Node, options, runtime};
use crate::support::until;

fn write(node: &mut Node, expected: u64, table: &'static str) -> SlotsWritten {
    node.engine.write_slots(expected, Bytes::from_static(table.as_bytes())).unwrap();
    match node.expect("the write is answered", |event| matches!(event, EngineEvent::SlotsWritten(_))) {
        EngineEvent::SlotsWritten(written) => written,
        other => panic!("{other:?}"),
    }
}

fn read(node: &mut Node, version: u64) -> String {
    until("the table is read", String::new, || {
        node.pump();
        node.tables.contains_key(&version)
    });
    node.tables[&version].clone()
}

fn head(node: &mut Node, token: u64) -> u64 {
    node.engine.request_slots_head(token).unwrap();
    match node
        .expect("the head is known", |event| matches!(event, EngineEvent::SlotsHead { token: of, .. } if *of == token))
    {
        EngineEvent::SlotsHead { version, .. } => version,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_writer_that_has_read_the_last_slot_table_replaces_it() {
    if !nats::is_there() {
        return;
    }
    let (runtime, mut servers) = (runtime(), [Nats::start()]);
    let mut first = Node::connect(&runtime, options("a", 1, &servers, 1));
    let mut second = Node::connect(&runtime, options("b", 2, &servers, 1));
    assert_eq!(head(&mut first, 7), 0);
    assert_eq!(write(&mut first, 0, "of a"), SlotsWritten::Stored { version: 1 });
    assert_eq!(write(&mut second, 0, "of b, which has not read"), SlotsWritten::Conflict);
    assert_eq!(read(&mut second, 1), "of a");
    assert_eq!(write(&mut second, 1, "of b"), SlotsWritten::Stored { version: 2 });
    assert_eq!(write(&mut first, 1, "of a, which is late"), SlotsWritten::Conflict);
    assert_eq!((read(&mut first, 2), head(&mut first, 8)), ("of b".to_owned(), 2));
    servers[0].kill();
    let mut failed = None;
    until("a write without a server fails", String::new, || {
        failed = Some(write(&mut first, 2, "lost"));
        matches!(failed, Some(SlotsWritten::Failed { .. }))
    });
    servers[0].run();
    until("a table is written again", String::new, || {
        let last = head(&mut second, 9);
        matches!(write(&mut second, last, "of b again"), SlotsWritten::Stored { .. })
    });
    let mut third = Node::connect(&runtime, options("c", 3, &servers, 1));
    let last = head(&mut third, 10);
    assert_eq!(read(&mut third, last), "of b again");
}
