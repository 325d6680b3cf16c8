//! What others notice: pings on another endpoint, logins with the right password. The time that the threads of a ping
//! waited for a processor, which other programs of the machine cause, is told apart.

use std::fmt;
use std::fs;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{PROBE, open_from};
use crate::net::client::{connect_with, packet, string};
use crate::support::GUARD;

/// The probe's user and password.
pub const USER: &str = "probe";
pub const PASSWORD: &str = "correct-horse";

const PING_EVERY: Duration = Duration::from_millis(5);
const LOGIN_EVERY: Duration = Duration::from_millis(100);
/// A refused login is tried again after so long.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// A login that takes longer counts with this time.
const LOGIN_MAX: Duration = Duration::from_secs(40);

/// Measured durations.
#[derive(Debug, Default, Clone)]
pub struct Times(Vec<Duration>);

impl Times {
    fn at(&self, part: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let index = (sorted.len() as f64 * part) as usize;
        sorted.get(index.min(sorted.len().max(1) - 1)).copied().unwrap_or_default()
    }

    pub fn median(&self) -> Duration {
        self.at(0.5)
    }

    pub fn max(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }
}

/// Median / 99th percentile / longest, in milliseconds.
impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(f, "{:.1}/{:.1}/{:.1}", ms(self.at(0.5)), ms(self.at(0.99)), ms(self.max()))
    }
}

/// What was measured while something went on.
#[derive(Debug, Default, Clone)]
pub struct Measured {
    /// A publish to itself with QoS 1 and a PINGREQ, until all three answers are there.
    pub pings: Times,
    /// The same without the time that the broker's event loop and the probe were ready to run, and had no processor.
    pub pings_on_cpu: Times,
    /// From the first attempt to the CONNACK with code 0, later attempts included.
    pub logins: Times,
    /// Attempts that were not admitted.
    pub logins_refused: usize,
    /// Why the ping's connection ended, where it did.
    pub lost: Option<String>,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ping {} ms ({} on a processor), ", self.pings, self.pings_on_cpu)?;
        write!(f, "login {} ms ({} refused)", self.logins, self.logins_refused)
    }
}

/// Probes that run until the value is dropped.
pub struct Probes {
    measured: Arc<Mutex<Measured>>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Probes {
    /// Pings at one endpoint of the broker with that process id, and logs in at `login_address`.
    pub fn start(broker: u32, ping_address: SocketAddr, login_address: SocketAddr) -> Probes {
        let measured: Arc<Mutex<Measured>> = Arc::default();
        let ended: Arc<AtomicBool> = Arc::default();
        let mut stream = enter(ping_address, "ping").expect("the probe is admitted");
        stream.write_all(&packet(0x82, &[&[0, 1][..], &string("probe/ping"), &[0]].concat())).unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        let event_loop = event_loop_schedstat(broker);
        let ping = {
            let (ended, measured) = (Arc::clone(&ended), Arc::clone(&measured));
            std::thread::spawn(move || {
                let result = ping_until(&ended, &mut stream, &event_loop, &measured);
                lock(&measured).lost = result.err().map(|error| error.to_string());
            })
        };
        let log_in = {
            let (ended, measured) = (Arc::clone(&ended), Arc::clone(&measured));
            std::thread::spawn(move || log_in_until(&ended, login_address, &measured))
        };
        Probes { measured, ended, threads: vec![ping, log_in] }
    }

    /// What was measured since the last call.
    pub fn take(&self) -> Measured {
        std::mem::take(&mut lock(&self.measured))
    }

    /// Ends the probes once their last answers are there, and returns what they measured.
    pub fn finish(mut self) -> Measured {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a probe does not panic");
        }
        self.take()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ping_until(ended: &AtomicBool, stream: &mut TcpStream, event_loop: &Path, measured: &Mutex<Measured>) -> Result<()> {
    let message = packet(0x32, &[&string("probe/ping")[..], &[0, 1], b"x"].concat());
    let question = [&message[..], &[0xC0, 0]].concat();
    // PUBLISH with QoS 0 is two bytes shorter; PUBACK and PINGRESP.
    let mut answers = vec![0; (message.len() - 2) + 4 + 2];
    let waited = || run_queue_time(event_loop) + run_queue_time(Path::new("/proc/thread-self/schedstat"));
    while !ended.load(Ordering::Relaxed) {
        let (start, waited_before) = (Instant::now(), waited());
        stream.write_all(&question)?;
        stream.read_exact(&mut answers)?;
        let time = start.elapsed();
        let on_cpu = time.saturating_sub(waited().saturating_sub(waited_before));
        let mut measured = lock(measured);
        measured.pings.0.push(time);
        measured.pings_on_cpu.0.push(on_cpu);
        drop(measured);
        std::thread::sleep(PING_EVERY);
    }
    Ok(())
}

/// The scheduler's account of the thread that serves the connections of a broker with one shard.
fn event_loop_schedstat(broker: u32) -> PathBuf {
    let tasks = fs::read_dir(format!("/proc/{broker}/task")).unwrap().map(|entry| entry.unwrap().path());
    let is_event_loop =
        |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "weir-shard-0");
    tasks.into_iter().find(is_event_loop).expect("a thread weir-shard-0").join("schedstat")
}

/// How long a thread has been ready to run without a processor, in all; zero where the system does not say.
fn run_queue_time(schedstat: &Path) -> Duration {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    Duration::from_nanos(text.split(' ').nth(1).and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or_default())
}

/// Logs in with MQTT 3.1.1 and the right password.
fn enter(address: SocketAddr, client_id: &str) -> Result<TcpStream> {
    let mut stream = open_from(PROBE, address)?;
    stream.set_read_timeout(Some(LOGIN_MAX))?;
    stream.write_all(&connect_with(4, client_id, &[], Some((USER, PASSWORD))))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    stream.set_read_timeout(Some(GUARD))?;
    if connack == [0x20, 2, 0, 0] { Ok(stream) } else { Err(Error::other(format!("CONNACK {connack:02x?}"))) }
}

fn log_in_until(ended: &AtomicBool, address: SocketAddr, measured: &Mutex<Measured>) {
    for n in 0.. {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let start = Instant::now();
        // A client id for each: those that connect often are banned.
        while let Err(error) = enter(address, &format!("login-{n}")) {
            lock(measured).logins_refused += 1;
            if error.kind() == ErrorKind::ConnectionRefused || start.elapsed() > LOGIN_MAX {
                break;
            }
            std::thread::sleep(RETRY_AFTER);
        }
        lock(measured).logins.0.push(start.elapsed());
        std::thread::sleep(LOGIN_EVERY);
    }
}
