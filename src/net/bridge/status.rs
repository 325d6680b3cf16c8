//! The status of a bridge.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::BridgeSettings;
use crate::net::plane::DataPlane;
use weir_bridge::{BridgeCounters, BridgeFailure};
use weir_broker::Millis;

/// The phase of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgePhase {
    /// Declared with `enabled: false`.
    Disabled,
    Connecting,
    /// Messages are relayed.
    Connected,
    /// The last attempt failed; the next one follows after a pause.
    Waiting,
    /// Stopping, or stopped.
    Stopped,
}

/// A snapshot of a bridge's status. Totals count from the start of the process.
#[derive(Debug, Clone)]
pub struct BridgeStatus {
    pub phase: BridgePhase,
    /// How long it has been in this phase, milliseconds; attempts and the pauses between them count as one.
    pub since_ms: Millis,
    /// The address of the connection, or of the last attempt.
    pub address: Option<String>,
    /// The last failure.
    pub last_failure: Option<BridgeFailure>,
    /// Number of successful connections.
    pub connects_total: u64,
    pub failures_total: u64,
    pub counters: BridgeCounters,
    /// Messages in the local session's queue, and their bytes.
    pub queued: u64,
    pub queued_bytes: u64,
    /// Messages sent and not yet acknowledged by the remote broker.
    pub inflight: u64,
    /// How long the queue or the window has been non-empty without a break, milliseconds; 0: both are empty.
    pub lag_ms: Millis,
    /// Filters that the remote broker refused, with the reason code.
    pub refused: Vec<(String, u8)>,
}

pub(super) struct StatusCell {
    status: Mutex<Inner>,
}

struct Inner {
    status: BridgeStatus,
    since: Millis,
    /// When the queue and the window were last empty.
    empty_at: Millis,
}

impl StatusCell {
    pub(super) fn new(now: Millis) -> Self {
        let status = BridgeStatus {
            phase: BridgePhase::Connecting,
            since_ms: 0,
            address: None,
            last_failure: None,
            connects_total: 0,
            failures_total: 0,
            counters: BridgeCounters::default(),
            queued: 0,
            queued_bytes: 0,
            inflight: 0,
            lag_ms: 0,
            refused: Vec::new(),
        };
        Self { status: Mutex::new(Inner { status, since: now, empty_at: now }) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every write is a single assignment, so a panic leaves no partial change.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, now: Millis) -> BridgeStatus {
        let inner = self.lock();
        let lag_ms =
            if inner.status.queued + inner.status.inflight == 0 { 0 } else { now.saturating_sub(inner.empty_at) };
        BridgeStatus { since_ms: now.saturating_sub(inner.since), lag_ms, ..inner.status.clone() }
    }

    /// Sets the phase; returns whether it changed.
    pub(super) fn set_phase(&self, phase: BridgePhase, now: Millis) -> bool {
        let mut inner = self.lock();
        let is_connecting = |phase| matches!(phase, BridgePhase::Connecting | BridgePhase::Waiting);
        let moved = inner.status.phase != phase;
        if moved && !(is_connecting(phase) && is_connecting(inner.status.phase)) {
            inner.since = now;
        }
        inner.status.connects_total += u64::from(moved && phase == BridgePhase::Connected);
        inner.status.phase = phase;
        moved
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut BridgeStatus)) {
        change(&mut self.lock().status);
    }

    /// Updates the queue's size.
    fn set_queue(&self, queued: u64, queued_bytes: u64, inflight: u64, now: Millis) {
        let mut inner = self.lock();
        (inner.status.queued, inner.status.queued_bytes, inner.status.inflight) = (queued, queued_bytes, inflight);
        if queued + inflight == 0 {
            inner.empty_at = now;
        }
    }
}

/// Interval at which the session's queue is polled.
const QUEUE_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Polls the session's queue until the data plane stops.
pub(super) async fn poll_queue(plane: DataPlane, settings: Arc<BridgeSettings>, status: Arc<StatusCell>) {
    let mut interval = tokio::time::interval(QUEUE_POLL_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match plane.waiting_for(&settings.namespace, &settings.spec.local_id).await {
            Ok(waiting) => {
                let waiting = waiting.unwrap_or_default();
                status.set_queue(waiting.queued, waiting.queued_bytes, waiting.inflight, plane.now());
            }
            Err(_stopped) => return,
        }
    }
}
