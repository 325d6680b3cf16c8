//! What is told of a bridge.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::BridgeSettings;
use crate::net::plane::DataPlane;
use weir_bridge::{Counters, Failure};
use weir_broker::Millis;

/// Where a bridge stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BridgePhase {
    /// Declared with `enabled: false`.
    Disabled,
    Connecting,
    /// Messages are carried.
    Connected,
    /// The last attempt failed; the next one comes by itself.
    Waiting,
    /// Ends, or has ended.
    Stopped,
}

/// A bridge at one moment. Totals count from the process's start.
#[derive(Debug, Clone)]
pub struct BridgeStatus {
    pub phase: BridgePhase,
    /// How long it has been in that phase; attempts and the pauses between them are one.
    pub since_ms: Millis,
    /// The address it is connected to, or was tried last.
    pub address: Option<String>,
    /// Why it was last not connected.
    pub last_failure: Option<Failure>,
    /// How often it was connected.
    pub connects_total: u64,
    pub failures_total: u64,
    pub counters: Counters,
    /// Messages that wait here, and their bytes.
    pub queued: u64,
    pub queued_bytes: u64,
    /// Messages sent and not yet acknowledged by the other broker.
    pub inflight: u64,
    /// For how long something has been waiting or on its way without a break; 0: nothing is.
    pub lag_ms: Millis,
    /// Filters that the other broker refused, with the reason code.
    pub refused: Vec<(String, u8)>,
}

pub(super) struct StatusCell {
    status: Mutex<Known>,
}

struct Known {
    status: BridgeStatus,
    since: Millis,
    /// When nothing was last waiting.
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
            counters: Counters::default(),
            queued: 0,
            queued_bytes: 0,
            inflight: 0,
            lag_ms: 0,
            refused: Vec::new(),
        };
        Self { status: Mutex::new(Known { status, since: now, empty_at: now }) }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every write is whole: a panic while it was held left nothing half done.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, now: Millis) -> BridgeStatus {
        let known = self.lock();
        let lag_ms =
            if known.status.queued + known.status.inflight == 0 { 0 } else { now.saturating_sub(known.empty_at) };
        BridgeStatus { since_ms: now.saturating_sub(known.since), lag_ms, ..known.status.clone() }
    }

    /// Where it stands from now on; whether that is news.
    pub(super) fn enter(&self, phase: BridgePhase, now: Millis) -> bool {
        let mut known = self.lock();
        let away = |phase| matches!(phase, BridgePhase::Connecting | BridgePhase::Waiting);
        let moved = known.status.phase != phase;
        if moved && !(away(phase) && away(known.status.phase)) {
            known.since = now;
        }
        known.status.connects_total += u64::from(moved && phase == BridgePhase::Connected);
        known.status.phase = phase;
        moved
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut BridgeStatus)) {
        change(&mut self.lock().status);
    }

    /// What waits now.
    fn note_queue(&self, queued: u64, queued_bytes: u64, inflight: u64, now: Millis) {
        let mut known = self.lock();
        (known.status.queued, known.status.queued_bytes, known.status.inflight) = (queued, queued_bytes, inflight);
        if queued + inflight == 0 {
            known.empty_at = now;
        }
    }
}

/// How often the session's queue is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks at the session's queue until the data plane stops.
pub(super) async fn watch_queue(plane: DataPlane, settings: Arc<BridgeSettings>, status: Arc<StatusCell>) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match plane.waiting_for(&settings.namespace, &settings.spec.local_id).await {
            Ok(waiting) => {
                let waiting = waiting.unwrap_or_default();
                status.note_queue(waiting.queued, waiting.queued_bytes, waiting.inflight, plane.now());
            }
            Err(_stopped) => return,
        }
    }
}
