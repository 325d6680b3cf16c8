//! Support for the tests: the built broker as a process, child processes, waiting, a blocking MQTT client, ports.
//!
//! It owns every process that a test starts and ends it by its id. It binds loopback addresses only. It must never judge
//! what the broker does: the areas do that.

pub mod child;
pub mod client;
pub mod ports;
pub mod stream;
pub mod weir;

use std::time::{Duration, Instant};

/// The longest time that an expected event may take on a slow, busy machine. It bounds a failure, it is not a requirement.
pub const GUARD: Duration = Duration::from_secs(120);

/// Time between two checks of a condition.
const INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `condition` holds. Panics with `what` and `log` after [`GUARD`].
pub fn until(what: &str, log: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + GUARD;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {GUARD:?}: {what}\n{}", log());
        std::thread::sleep(INTERVAL);
    }
}
