//! What a copy of sessions is worth, as the table decides.

use super::*;

const SLOTS: u128 = 0b11;
const MOVE: u64 = 5;

/// A node that has a copy of two slots of n1, which is complete or not.
fn receiver(is_complete: bool) -> (Bench, SlotTable) {
    let of_n1 = table(&[("n1", 1, MEMORY)]);
    let mut bench = Bench::reader(false, 3, &of_n1, &[peer("n1", 1, 60_000, 3)]);
    bench.is_ready = false;
    assert!(!bench.slots.begin_import(SLOTS, MOVE, 9), "n1 is another incarnation");
    assert!(bench.slots.begin_import(SLOTS, MOVE, 1));
    bench.step();
    assert_eq!((bench.cores.sets.importing.0, bench.cores.owned), (SLOTS, 0));
    if is_complete {
        bench.slots.complete_import();
    }
    (bench, of_n1)
}

/// The table in which n1 has given the slots to this node, with that move.
fn given(of_n1: &SlotTable, transfer: u64) -> SlotTable {
    let mut given = of_n1.clone();
    let row = SlotRow { node: "own".into(), incarnation: OWN, from: 1, since: 4, transfer };
    given.rows[..2].fill(row);
    given
}

#[test]
fn copy_is_used_by_the_row_of_its_move_alone_and_when_it_is_complete() {
    for (is_complete, transfer, is_used) in
        [(true, MOVE, true), (false, MOVE, false), (true, 4, false), (true, 0, false)]
    {
        let (mut bench, of_n1) = receiver(is_complete);
        bench.read(4, &given(&of_n1, transfer));
        // n1 has not applied it.
        bench.pass(500, &[peer("n1", 1, 60_000, 3)]);
        let importing = if is_used { SLOTS } else { 0 };
        assert_eq!((bench.cores.sets.importing.0, bench.cores.owned), (importing, 0), "{is_complete} {transfer}");
        assert_eq!(bench.cores.dropped, SLOTS & !importing, "{is_complete} {transfer}");
        bench.pass(500, &[peer("n1", 1, 60_000, 4)]);
        assert_eq!((bench.cores.owned, bench.cores.sets.importing.0), (SLOTS, 0), "{is_complete} {transfer}");
        assert!(!bench.slots.has_import());
    }
}

#[test]
fn slot_that_this_node_claims_itself_begins_without_the_copy() {
    let (mut bench, _) = receiver(true);
    bench.is_ready = true;
    // n1 is out.
    bench.pass(15_000, &[]);
    let (_, table) = bench.write().unwrap();
    assert_eq!(owned(&table, "own"), MEMORY);
    assert!(table.rows.iter().all(|row| row.transfer == 0));
    assert_eq!((bench.cores.dropped, bench.slots.has_import()), (SLOTS, false));
}

#[test]
fn frozen_slots_are_given_when_the_copy_is_complete_and_dropped_when_the_table_says_so() {
    let others = [peer("n1", 1, 60_000, 3)];
    let mut bench = Bench::founder(false, 20_000);
    bench.cores.sessions = MEMORY;
    bench.pass(500, &others);
    let (slots, node, incarnation) = bench.slots.next_move(&bench.members, bench.now, 2).unwrap();
    assert_eq!((slots.count_ones(), node.as_str(), incarnation), (2, "n1", 1));
    bench.slots.freeze(slots);
    bench.pass(200, &others);
    assert_eq!((bench.here() & slots, bench.cores.sets.frozen.0, bench.write()), (0, slots, None));
    bench.slots.give_copied(Given { slots, number: MOVE, node: node.clone(), incarnation });
    bench.pass(200, &others);
    let (expected, table) = bench.write().unwrap();
    assert_eq!((expected, owned(&table, "n1")), (1, slots));
    assert!(table.rows.iter().filter(|row| row.node == "n1").all(|row| row.transfer == MOVE && row.from == OWN));
    assert!(bench.slots.may_be_given(slots) && !bench.slots.is_transferred(slots));
    bench.stored(2);
    bench.pass(200, &others);
    assert!(bench.slots.is_transferred(slots));
    assert_eq!((bench.cores.dropped, bench.cores.sets.frozen.0, bench.here() & slots), (slots, 0, 0));
}

#[test]
fn abandoned_move_is_not_written_and_the_slots_are_served_again() {
    let others = [peer("n1", 1, 60_000, 3)];
    let mut bench = Bench::founder(false, 20_000);
    bench.cores.sessions = MEMORY;
    bench.pass(500, &others);
    let (slots, node, incarnation) = bench.slots.next_move(&bench.members, bench.now, 8).unwrap();
    bench.slots.freeze(slots);
    bench.slots.give_copied(Given { slots, number: MOVE, node, incarnation });
    bench.pass(200, &others);
    bench.write().unwrap();
    bench.slots.on_written(SlotsWritten::Failed);
    bench.slots.cancel_given();
    bench.pass(200, &others);
    // The write may still be stored: the slots stay closed until another one is.
    assert!(bench.slots.may_be_given(slots));
    let (expected, table) = bench.write().unwrap();
    assert_eq!((expected, owned(&table, "own")), (1, MEMORY));
    bench.stored(2);
    bench.pass(200, &others);
    assert!(!bench.slots.may_be_given(slots) && !bench.slots.is_transferred(slots));
    bench.slots.thaw(slots, bench.now + 60_000);
    bench.pass(200, &others);
    assert_eq!((bench.here(), bench.cores.dropped), (MEMORY, 0));
}
