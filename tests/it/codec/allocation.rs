//! Decoding allocates nothing, but for CONNECT's and CONNACK's box.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use weir_mqtt::{DecodeContext, Decoded, Packet, ProtocolVersion, Side, decode, decode_connect};

use super::generate::{self, Choices};

/// The system's allocator, counting this thread's allocations.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: passes every call on to the system's allocator as it came.
#[expect(unsafe_code, reason = "an allocator that counts")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // a thread that is ending has no counter any more
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise, passed on
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `run` allocated on this thread.
pub fn allocations(run: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(black_box(Box::new(1u64)))), 1);
    assert_eq!(allocations(|| {}), 0);
}

#[test]
fn decoding_allocates_nothing_but_a_box_for_connect_and_connack() {
    for seed in 0..2000 {
        let entropy = generate::bytes_of_seed(seed, 400);
        let mut choices = Choices::new(&entropy);
        let (version, from) = (generate::version(&mut choices), generate::side(&mut choices));
        let mut bytes = generate::packet(&mut choices, version, from);
        if seed % 4 == 3 {
            bytes = generate::spoil(&mut choices, &bytes); // refusing allocates nothing either
        }
        let context = DecodeContext { version, max_packet_size: u32::MAX, from };
        let boxed = matches!(
            decode(&bytes, &context),
            Ok(Decoded::Packet { packet: Packet::Connect(_) | Packet::ConnAck(_), .. })
        );
        let counted = allocations(|| drop(black_box(decode(black_box(&bytes), &context))));
        assert_eq!(counted, usize::from(boxed), "seed {seed}: {bytes:02x?}");
        let counted = allocations(|| drop(black_box(decode_connect(black_box(&bytes), u32::MAX))));
        assert_eq!(counted, 0, "seed {seed}: a first packet");
    }
}

#[test]
fn walking_a_packet_allocates_nothing() {
    let bytes = generate::frame(0x30, b"\x00\x01a\x0E\x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x01vpayload");
    let context = DecodeContext { version: ProtocolVersion::V5, max_packet_size: 1000, from: Side::Client };
    let counted = allocations(|| {
        let Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) = decode(&bytes, &context) else { return };
        black_box(publish.properties.user_properties().iter().count());
        black_box(publish.properties.forwardable().count());
        black_box(publish.properties.has_unforwardable());
    });
    assert_eq!(counted, 0);
}
