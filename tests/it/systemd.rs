//! Notifications of the built broker to systemd.

use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::support::GUARD;
use crate::support::weir::Weir;

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
    let weir = Weir::new().with_shards(1);
    let (path, socket) = (weir.directory().join("notify"), weir.directory().join("weir.sock"));
    let document = format!("endpoint: {{host: \"unix:{}\", enableAuth: false, enableAcl: false}}\n", socket.display());
    let told = UnixDatagram::bind(&path).unwrap();
    told.set_read_timeout(Some(GUARD)).unwrap();
    let broker = weir.with_file("local.yaml", &document).with_variable("NOTIFY_SOCKET", &path);
    let mut broker = broker.with_variable("WATCHDOG_USEC", "200000").without_variable("WATCHDOG_PID");
    broker.run();
    let ready = until(&told, "READY=1\n");
    assert!(ready.contains(": 1 endpoint listens"), "{ready}");
    until(&told, "WATCHDOG=1");
    broker.signal(Signal::HUP);
    assert!(until(&told, "RELOADING=1\n").contains("\nMONOTONIC_USEC="));
    until(&told, "READY=1\n");
    broker.signal(Signal::TERM);
    until(&told, "STOPPING=1\n");
    assert!(broker.wait().success());
}
