//! What the service manager is told, by the built broker.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long something that must happen may take on a slow machine.
const GUARD: Duration = Duration::from_secs(60);

/// Ended when dropped.
struct Broker(Child);

impl Broker {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads what is told until something begins with `start`.
fn until(told: &UnixDatagram, start: &str) -> String {
    let mut message = [0; 4096];
    loop {
        let length = told.recv(&mut message).unwrap_or_else(|error| panic!("{start} was not told: {error}"));
        let text = String::from_utf8_lossy(&message[..length]).into_owned();
        if text.starts_with(start) {
            return text;
        }
    }
}

#[test]
fn systemd_is_notified_of_ready_watchdog_reloading_and_stopping() {
    let directory = tempfile::tempdir().unwrap();
    let declared = directory.path().join("endpoints.d");
    std::fs::create_dir(&declared).unwrap();
    let address = format!("unix:{}", directory.path().join("weir.sock").display());
    let document = format!("endpoint: {{host: \"{address}\", enableAuth: false, enableAcl: false}}\n");
    std::fs::write(declared.join("local.yaml"), document).unwrap();
    let path = directory.path().join("notify");
    let told = UnixDatagram::bind(&path).unwrap();
    told.set_read_timeout(Some(GUARD)).unwrap();
    let broker = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["run", "--status-addr", "none", "--shards", "1", "--endpoints"])
        .arg(&declared)
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut broker = Broker(broker);
    let ready = until(&told, "READY=1\n");
    assert!(ready.contains(": 1 endpoint listens"), "{ready}");
    until(&told, "WATCHDOG=1");
    broker.signal(Signal::HUP);
    assert!(until(&told, "RELOADING=1\n").contains("\nMONOTONIC_USEC="));
    until(&told, "READY=1\n");
    broker.signal(Signal::TERM);
    until(&told, "STOPPING=1\n");
    assert!(broker.0.wait().unwrap().success());
}
