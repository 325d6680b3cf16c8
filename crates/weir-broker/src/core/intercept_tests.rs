//! The cost of interceptors.

use std::sync::Arc;
use std::time::Instant;

use crate::core::tests::{admitted_to, core, policy};
use crate::{Core, EndpointPolicy, Interceptor, Interceptors};

/// Does nothing.
struct Nothing;

impl Interceptor for Nothing {}

/// Nanoseconds per message of 16 bytes at QoS 0 without a subscriber.
fn publish_ns(interceptors: Option<Interceptors>) -> f64 {
    const MESSAGES: usize = 512;
    const ROUNDS: usize = 2000;
    let mut core: Core = core();
    let publisher = admitted_to(&mut core, EndpointPolicy { interceptors, ..policy() }, "publisher", true);
    let packet = [&[0x30, 19, 0, 1, b't'][..], &[b'x'; 16]].concat();
    let packets = packet.repeat(MESSAGES);
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let mut at = 0;
        while at < packets.len() {
            at += core.receive(publisher, &packets[at..], 0).consumed;
            core.run_deferred(0);
        }
    }
    begun.elapsed().as_nanos() as f64 / (MESSAGES * ROUNDS) as f64
}

#[test]
#[ignore = "a measurement, for an optimized build: cargo test -p weir-broker --release -- --ignored --nocapture interceptor"]
fn an_interceptor_that_does_nothing_costs_little_per_message() {
    let of = |count: usize| Interceptors::new(vec![Arc::new(Nothing) as Arc<dyn Interceptor>; count]);
    let least = |count| (0..9).map(|_| publish_ns(of(count))).fold(f64::INFINITY, f64::min);
    let (none, one, four) = (least(0), least(1), least(4));
    println!("ns per message: {none:.1} without, {one:.1} with one, {four:.1} with four interceptors");
    println!("one costs {:.1} ns", one - none);
}
