//! What wakes the thread of the gateway: batches of shards, events of the engine, and commands.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::net::GatewayPort;
use crate::net::relay::RelayMessage;
use weir_broker::{Batch, ShardId};
use weir_declare::config::ClusterSpec;

/// Settings of the document `cluster`; `None`: there is none.
type DeclaredSpec = Option<Arc<ClusterSpec>>;

#[derive(Debug, Default)]
struct Contents {
    batches: Vec<(ShardId, Batch)>,
    /// Messages about relayed connections, for peers.
    relays: Vec<(u64, RelayMessage)>,
    /// The engine has events.
    engine: bool,
    leave: bool,
    stop: bool,
    spec: Option<DeclaredSpec>,
    report: Option<Arc<[u8]>>,
    sleeping: bool,
}

/// The inbox of the gateway's thread.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    contents: Mutex<Contents>,
    filled: Condvar,
}

/// What has come since the last look.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) batches: Vec<(ShardId, Batch)>,
    pub(super) relays: Vec<(u64, RelayMessage)>,
    /// The node is to leave its cluster.
    pub(super) leave: bool,
    /// The thread is to end.
    pub(super) stop: bool,
    /// The declared settings have changed.
    pub(super) spec: Option<DeclaredSpec>,
    /// What the next heartbeats tell the control planes of the other nodes.
    pub(super) report: Option<Arc<[u8]>>,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Contents> {
        // Each change is whole.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Contents)) {
        let mut contents = self.lock();
        change(&mut contents);
        let sleeping = std::mem::take(&mut contents.sleeping);
        drop(contents);
        if sleeping {
            self.filled.notify_one();
        }
    }

    /// The engine has events.
    pub(super) fn wake(&self) {
        self.change(|contents| contents.engine = true);
    }

    pub(super) fn relay(&self, peer: u64, message: RelayMessage) {
        self.change(|contents| contents.relays.push((peer, message)));
    }

    pub(super) fn leave(&self) {
        self.change(|contents| contents.leave = true);
    }

    pub(super) fn set_spec(&self, spec: DeclaredSpec) {
        self.change(|contents| contents.spec = Some(spec));
    }

    /// Goes with the next heartbeat: nothing is waked for it.
    pub(super) fn set_report(&self, report: Arc<[u8]>) {
        self.lock().report = Some(report);
    }

    pub(super) fn stop(&self) {
        self.change(|contents| contents.stop = true);
    }

    /// Waits until something has come, at most for a time, and takes it.
    pub(super) fn receive(&self, within: Duration) -> Received {
        let mut contents = self.lock();
        let is_empty = |c: &Contents| {
            c.batches.is_empty() && c.relays.is_empty() && !c.engine && !c.leave && !c.stop && c.spec.is_none()
        };
        if is_empty(&contents) && !within.is_zero() {
            contents.sleeping = true;
            let waited = self.filled.wait_timeout_while(contents, within, |contents| is_empty(contents));
            contents = waited.unwrap_or_else(PoisonError::into_inner).0;
            contents.sleeping = false;
        }
        contents.engine = false;
        let leave = std::mem::take(&mut contents.leave);
        let (batches, relays) = (std::mem::take(&mut contents.batches), std::mem::take(&mut contents.relays));
        let (stop, spec) = (std::mem::take(&mut contents.stop), contents.spec.take());
        Received { batches, relays, leave, stop, spec, report: contents.report.take() }
    }
}

/// Where shards send what is for the gateway.
#[derive(Debug)]
pub(super) struct Port(pub(super) Arc<Inbox>);

impl GatewayPort for Port {
    fn deliver(&self, from: ShardId, batch: Batch) {
        self.0.change(|contents| contents.batches.push((from, batch)));
    }
}
