//! A run of one attack: broker and probes, the measurement, the bounds.

use std::io::Result;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::probe::{Measured, Probes};
use super::target::Target;

/// The median and the longest of pings, without the time that their threads waited for a processor.
const PING_MEDIAN_MAX: Duration = Duration::from_millis(5);
const PING_MAX: Duration = Duration::from_millis(100);
/// The longest it may take to get in with the right password.
const LOGIN_MAX: Duration = Duration::from_secs(2);
/// Resident memory, above that of the idle broker, that must not be reached at the peak.
pub const GROWTH_MAX_BYTES: usize = 128 << 20;
/// Resident memory after the attacker has gone, above that of the broker before any client: 64 MiB, and what the allocator
/// keeps of the probe's own password hashes, which take 19 MiB each; and how soon.
const KEPT_MAX_BYTES: usize = 96 << 20;
const RETURN_WITHIN: Duration = Duration::from_secs(30);
/// Attackers have machines of their own: what they compute must not slow the broker.
const ATTACKER_NICENESS: i32 = 5;
/// How long the idle broker is measured before an attack, and how long after its end the probes go on.
const BASELINE_TIME: Duration = Duration::from_secs(3);
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// An attack's name, where right passwords are tried meanwhile, and the growth of resident memory that it may cause.
pub struct Attack {
    pub name: &'static str,
    pub logins_at: &'static str,
    pub growth_max_bytes: usize,
}

impl Attack {
    /// Tries right passwords at the probe's endpoint, and allows [`GROWTH_MAX_BYTES`].
    pub fn new(name: &'static str) -> Attack {
        Attack { name, logins_at: "probe", growth_max_bytes: GROWTH_MAX_BYTES }
    }

    /// Runs `attack` on a thread of its own with a low priority. Prints what was measured and panics where a bound was
    /// exceeded. The attack returns what it achieved; its error says where the broker stopped it, which is no failure.
    pub fn run(self, attack: impl FnOnce(&Target) -> Result<String> + Send) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut target = Target::start();
        let start_bytes = target.resident_bytes().unwrap_or_default();
        let probes = Probes::start(target.id(), target.address("probe"), target.address(self.logins_at));
        std::thread::sleep(BASELINE_TIME);
        let idle = probes.take();
        // With the memory that hashing the probe's own passwords takes.
        let idle_bytes = target.take_peak_bytes();
        let mut outcome = String::new();
        std::thread::scope(|scope| {
            let result = scope.spawn(|| {
                rustix::process::setpriority_process(None, ATTACKER_NICENESS).unwrap();
                attack(&target)
            });
            outcome = match result.join().expect("the attack does not panic") {
                Ok(achieved) => achieved,
                Err(error) => format!("stopped by the broker: {error}"),
            };
        });
        let attack_ended = Instant::now();
        std::thread::sleep(SETTLE_TIME);
        let attacked = probes.finish();
        let peak_bytes = target.take_peak_bytes();
        let returned = || target.resident_bytes().is_none_or(|bytes| bytes < start_bytes + KEPT_MAX_BYTES);
        while attack_ended.elapsed() < RETURN_WITHIN && !returned() {
            std::thread::sleep(Duration::from_millis(100));
        }
        let returned_after = attack_ended.elapsed();
        let kept_bytes = target.resident_bytes().unwrap_or_default();
        println!("{}:\n  idle: {idle}; resident at most {} MiB", self.name, idle_bytes >> 20);
        println!("  attacked: {attacked}; resident at most {} MiB", peak_bytes >> 20);
        println!("  {} MiB after {:.0} s; {outcome}", kept_bytes >> 20, returned_after.as_secs_f64());
        let mut exceeded = exceeded_times(&idle, &attacked);
        if target.has_ended() {
            exceeded.push("the broker has ended".to_owned());
        }
        if peak_bytes > idle_bytes + self.growth_max_bytes {
            exceeded.push(format!("resident memory grew by {} MiB", (peak_bytes - idle_bytes) >> 20));
        }
        if kept_bytes > start_bytes + KEPT_MAX_BYTES {
            exceeded
                .push(format!("{} MiB more are resident {RETURN_WITHIN:?} later", (kept_bytes - start_bytes) >> 20));
        }
        assert!(exceeded.is_empty(), "{}: {}", self.name, exceeded.join("; "));
    }
}

/// The bounds of time that were exceeded. The idle broker's longest login shows what the machine takes for it.
fn exceeded_times(idle: &Measured, attacked: &Measured) -> Vec<String> {
    let mut exceeded = Vec::new();
    if attacked.pings_on_cpu.median() > PING_MEDIAN_MAX {
        exceeded.push(format!("the median of pings is {:?}", attacked.pings_on_cpu.median()));
    }
    if attacked.pings_on_cpu.max() > PING_MAX {
        exceeded.push(format!("a ping took {:?}", attacked.pings_on_cpu.max()));
    }
    if attacked.logins.max() > LOGIN_MAX + idle.logins.max() {
        exceeded.push(format!("a login took {:?}", attacked.logins.max()));
    }
    if let Some(error) = &attacked.lost {
        exceeded.push(format!("the probe lost its connection: {error}"));
    }
    exceeded
}
