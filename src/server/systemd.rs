//! Notifies systemd (`Type=notify-reload`, `WatchdogSec=`): ready, reloading, stopping, watchdog. Without
//! `NOTIFY_SOCKET` it does nothing. The protocol is a datagram per message; the socket may have an abstract name.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::error::ServerError;
use crate::net::DataPlane;
use crate::state::{ControlState, Phase, SharedState};

/// A reload without a pass for so long is reported as done, with a status that says so: systemd would kill the process.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The notification socket of the service manager.
#[derive(Debug)]
pub(super) struct Manager {
    socket: UnixDatagram,
    /// The interval of watchdog messages.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The service manager that started this process; `None` where `NOTIFY_SOCKET` is not set.
    ///
    /// # Errors
    /// `NOTIFY_SOCKET` cannot be used.
    pub(super) fn from_environment() -> Result<Option<Self>, ServerError> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(None) };
        let name = name.into_string().map_err(|_| ServerError::NotifySocketName)?;
        let for_us = std::env::var("WATCHDOG_PID").map_or(true, |pid| pid == std::process::id().to_string());
        let every_us: Option<u64> = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        let watchdog = every_us.filter(|us| for_us && *us > 0).map(|us| Duration::from_micros(us) / 2);
        let manager = Self::connect(&name, watchdog);
        manager.map(Some).map_err(|source| ServerError::NotifySocket { name, source })
    }

    /// `name` is a path, or `@` and an abstract name.
    fn connect(name: &str, watchdog: Option<Duration>) -> std::io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // The control plane must not wait for a busy manager.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, watchdog })
    }

    fn notify(&self, message: &str) {
        if let Err(error) = self.socket.send(message.as_bytes()) {
            let message = message.lines().next().unwrap_or_default();
            tracing::warn!(%error, message, "service manager notification failed");
        }
    }

    pub(super) fn stopping(&self) {
        self.notify("STOPPING=1\nSTATUS=disconnecting clients");
    }
}

/// Notifies the manager of every change until dropped. `reloads` yields for each SIGHUP.
pub(super) async fn follow(
    manager: Arc<Manager>,
    control: Arc<SharedState>,
    plane: DataPlane,
    mut reloads: mpsc::Receiver<()>,
) {
    let mut changes = control.subscribe();
    let mut alive = tokio::time::interval(manager.watchdog.unwrap_or(Duration::from_secs(3600)));
    alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut ready, mut last_status) = (false, String::new());
    // The number of passes before the reload, and when it times out.
    let mut reloading: Option<(u64, tokio::time::Instant)> = None;
    loop {
        let state = control.load();
        let passed = match reloading {
            Some((before, until)) => state.passes > before || tokio::time::Instant::now() >= until,
            None => !ready && state.passes > 0,
        };
        let status = status_line(&state);
        if passed {
            (ready, reloading) = (true, None);
            manager.notify(&format!("READY=1\nSTATUS={status}"));
        } else if ready && last_status != status {
            manager.notify(&format!("STATUS={status}"));
        }
        last_status = status;
        let give_up = reloading.map(|(_, until)| until);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            Some(()) = reloads.recv() => {
                reloading = Some((control.load().passes, tokio::time::Instant::now() + RELOAD_TIMEOUT));
                manager.notify(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_us()));
            }
            () = at(give_up) => {}
            _ = alive.tick(), if manager.watchdog.is_some() => {
                // A shard that hangs keeps this task here, so that the watchdog expires.
                if plane.ping_shards().await.is_ok() {
                    manager.notify("WATCHDOG=1");
                }
            }
        }
    }
}

async fn at(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// The line that `systemctl status` shows.
fn status_line(state: &ControlState) -> String {
    let revision = match (&state.source.applied_revision, &state.source.last_known_good) {
        (Some(revision), _) => revision.clone(),
        (None, Some(good)) => format!("the last known good ({})", good.revision),
        (None, None) => "nothing yet".to_owned(),
    };
    let live = state.endpoints.values().filter(|endpoint| endpoint.live.is_some()).count();
    let errors = state.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let mut line = match state.phase {
        Phase::Starting => format!("waiting for a declaration in {}", state.source.location),
        Phase::Serving if live == 1 => format!("serving {revision}: 1 endpoint listens"),
        Phase::Serving => format!("serving {revision}: {live} endpoints listen"),
        Phase::Draining => "disconnecting clients".to_owned(),
    };
    if errors > 0 {
        let plural = if errors == 1 { "" } else { "s" };
        line.push_str(&format!(", {errors} error{plural} in the declaration"));
    }
    if let Some(error) = &state.source.error {
        line.push_str(&format!(", the source cannot be read: {}", error.message));
    }
    line.replace(char::is_control, " ")
}

/// Microseconds of CLOCK_MONOTONIC, by which systemd distinguishes this reload from an older one.
fn monotonic_us() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_notified_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("weir-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&abstract_address).unwrap();
        for (name, receiver) in [(path.to_str().unwrap().to_owned(), by_path), (format!("@{name}"), by_name)] {
            Manager::connect(&name, None).unwrap().stopping();
            let mut message = [0; 100];
            let length = receiver.recv(&mut message).unwrap();
            assert!(message[..length].starts_with(b"STOPPING=1\n"));
        }
        assert!(Manager::connect("/nowhere/at/all", None).is_err());
    }
}
