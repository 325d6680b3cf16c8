//! Attacks on a broker with default declarations and 1 GiB of memory, each by a test of its own: the broker must survive,
//! pings elsewhere stay short, right passwords get in, memory is bounded and comes back.
//!
//! `tests/all/attacks` builds the release and runs them one after the other; `tests/all/attacks login` only one module.
//! `WEIR_ATTACK_BROKER` names another build of the broker, `WEIR_ATTACK_SCALE=10` divides the attacks' counts. This folder owns attackers and probes; it must never set a bound of an endpoint: the defaults are tested.

mod client;
mod http_service;
mod login;
mod memory;
mod probe;
mod retained;
mod run;
mod status;
mod subscriptions;
mod target;
mod tls;

/// `count` of an attack, divided by `WEIR_ATTACK_SCALE` for a quick run.
fn scaled(count: usize) -> usize {
    let divisor = std::env::var("WEIR_ATTACK_SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    (count / divisor).max(1)
}
