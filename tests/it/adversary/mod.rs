//! The adversarial run: clients that mean harm on some endpoints, each kind in turn, while a probe on another endpoint
//! measures how long a message and a connection take, and the broker's memory is watched.
//!
//! `cargo test --test it adversary -- --ignored --nocapture --test-threads 1` prints the figures that `docs/security.md` has;
//! with `WEIR_ADVERSARY_BROKER=target/release/weir`, those of the release build. The attackers are processes of their own
//! (this binary again): none of them has to share file descriptors with another.

mod attacker;
mod probe;
mod small;
mod target;

use std::time::Duration;

use self::attacker::{Attack, Kind};
use self::probe::Probe;
use self::target::Target;

/// Resident memory the broker must stay under, whatever comes; `docs/security.md` says what it is made of.
const RESIDENT_MAX_BYTES: usize = 1 << 30;
/// Part of the names of the attacks to run.
const ATTACKS: &str = "WEIR_ADVERSARY_ATTACKS";
/// What it must come down to when all is over; it looks for memory to give back every five seconds.
const RESIDENT_AFTER_BYTES: usize = 128 << 20;
/// How long an attack that does not end by itself goes on.
const ATTACK_TIME: Duration = Duration::from_secs(10);

#[test]
#[ignore = "minutes, and twenty thousand sockets"]
fn other_endpoints_keep_working() {
    let target = Target::start();
    let probe = Probe::start(target.address("probe"));
    let quiet = probe.during(|| std::thread::sleep(Duration::from_secs(3)));
    println!("quiet: {quiet}; resident {} MiB", target.resident_bytes() >> 20);
    let mut worst = 0;
    let chosen = std::env::var(ATTACKS).unwrap_or_default();
    let mut round = |what: &str, attack: &dyn Fn() -> String| {
        if !what.contains(&chosen) {
            return;
        }
        target.forget_peak();
        let mut outcome = String::new();
        let latency = probe.during(|| outcome = attack());
        let peak = target.peak_bytes();
        worst = worst.max(peak);
        println!("{what}: {latency}; resident at most {} MiB; {outcome}", peak >> 20);
        assert!(peak < RESIDENT_MAX_BYTES, "{what}: {peak} bytes resident");
    };
    round("20,000 clients connect at once", &|| {
        let mut attacks: Vec<Attack> =
            (0..4).map(|n| Attack::start(Kind::Storm, target.address("storm"), 5000, n)).collect();
        let told: Vec<String> = attacks.iter_mut().map(|attack| attack.hears("admitted")).collect();
        format!("admitted {}", told.join(" + "))
    });
    for (what, kind, endpoint) in [
        ("3,000 CONNECTs, a byte a second", Kind::SlowConnect, "slow"),
        ("3,000 ClientHellos, a byte a second", Kind::SlowTls, "tls"),
        ("3,000 WebSocket requests, a byte a second", Kind::SlowUpgrade, "websocket"),
        ("3,000 clients that vanish after CONNECT", Kind::Vanish, "slow"),
        ("3,000 that only close their sending side", Kind::HalfClose, "slow"),
    ] {
        round(what, &|| {
            let mut attack = Attack::start(kind, target.address(endpoint), 3000, 0);
            format!("the broker closed {} of 3000", attack.hears("closed"))
        });
    }
    for (what, kind) in [
        ("10,000 clients that never read, QoS 0", Kind::NeverRead0),
        ("10,000 clients that never read, QoS 1", Kind::NeverRead1),
        ("1,000 clients that ping and never read", Kind::PingFlood),
    ] {
        let each = if matches!(kind, Kind::PingFlood) { 250 } else { 2500 };
        round(what, &|| {
            let mut attacks: Vec<Attack> =
                (0..4).map(|n| Attack::start(kind, target.address("readers"), each, n)).collect();
            attacks.iter_mut().for_each(|attack| drop(attack.hears("ready")));
            if matches!(kind, Kind::PingFlood) {
                std::thread::sleep(ATTACK_TIME);
                return String::new();
            }
            let published = probe::flood(target.address("readers"), ATTACK_TIME);
            format!("{published} messages published to them")
        });
    }
    for (what, endpoint) in
        [("wrong passwords, limited by address", "guarded"), ("wrong passwords, none of them limited", "passwords")]
    {
        round(what, &|| {
            let mut attack = Attack::start(Kind::WrongPasswords, target.address(endpoint), 64, 0);
            std::thread::sleep(ATTACK_TIME);
            attack.stop();
            format!("answers by code: {}", attack.hears("codes"))
        });
    }
    for (what, kind, endpoint) in [
        ("3,000 CONNECTs that stop at 60 KB", Kind::LongConnect, "slow"),
        ("3,000 PUBLISH packets that stop at 200 KB", Kind::LongPublish, "readers"),
        ("160 KB/s of ClientHellos, RSA", Kind::ClientHellos, "rsa"),
    ] {
        round(what, &|| {
            let mut attack = Attack::start(kind, target.address(endpoint), 3000, 0);
            if kind == Kind::ClientHellos {
                std::thread::sleep(ATTACK_TIME);
                attack.stop();
                return format!("{} sent", attack.hears("sent"));
            }
            let ready = attack.hears("ready");
            std::thread::sleep(Duration::from_secs(2));
            format!("{ready} sent")
        });
    }
    let after = probe.during(|| {
        std::thread::sleep(Duration::from_secs(3));
        target.until_resident_below(RESIDENT_AFTER_BYTES);
    });
    println!("quiet again: {after}; resident {} MiB, at most {} MiB", target.resident_bytes() >> 20, worst >> 20);
    target.serves_everywhere();
}

/// File descriptors run out: connected clients stay, and new ones are admitted as soon as there is room.
#[test]
#[ignore = "with the rest of the adversarial run"]
fn a_broker_without_descriptors_recovers_by_itself() {
    let target = Target::with_descriptors(256);
    let probe = Probe::start(target.address("probe"));
    let mut attack = Attack::start(Kind::Storm, target.address("storm"), 1000, 0);
    let admitted = attack.hears("admitted");
    let amid = probe.during_messages(|| std::thread::sleep(Duration::from_secs(2)));
    drop(attack);
    target.serves_everywhere();
    println!("256 descriptors, 1,000 clients: admitted {admitted}; {amid}");
}
