//! The task of one bridge: connects, relays messages, and reconnects.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::local_task::LocalTask;
use super::status::StatusCell;
use super::wire::Wire;
use super::{BridgePhase, BridgeSettings, DesiredState, Stop, dial, local_connection};
use crate::net::plane::DataPlane;
use crate::random;
use weir_bridge::{Backoff, BridgeFailure, BridgeLink, FailureCause};
use weir_broker::Millis;

pub(super) struct BridgeDriver {
    pub(super) plane: DataPlane,
    pub(super) desired: watch::Receiver<DesiredState>,
    pub(super) settings: Arc<BridgeSettings>,
    pub(super) status: Arc<StatusCell>,
    pub(super) link: BridgeLink,
    backoff: Backoff,
    /// Index of the next address.
    next: usize,
    /// The local session does not have the present settings yet.
    needs_local_setup: bool,
    /// The state that the notification topic has.
    published_state: Option<bool>,
    /// The message of the last logged failure.
    last_logged: Option<String>,
}

/// How a connection attempt ended.
enum AttemptOutcome {
    /// The desired state has changed.
    DesiredStateChanged,
    Failed {
        failure: BridgeFailure,
        /// How long messages were relayed; `None`: the link did not come up.
        was_up_ms: Option<Millis>,
    },
}

impl BridgeDriver {
    pub(super) fn new(plane: DataPlane, desired: watch::Receiver<DesiredState>, status: Arc<StatusCell>) -> Self {
        let settings = Arc::clone(&desired.borrow().settings);
        let link = BridgeLink::new(Arc::clone(&settings.spec));
        let backoff = Backoff::new(settings.reconnect_min_ms, settings.reconnect_max_ms);
        Self {
            plane,
            desired,
            settings,
            status,
            link,
            backoff,
            next: 0,
            needs_local_setup: true,
            published_state: None,
            last_logged: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let desired = self.desired.borrow_and_update().clone();
            if let Err(failure) = self.apply_settings(desired.settings).await {
                self.on_failure(&failure);
            }
            if let Some(stop) = desired.stop {
                return self.stop(stop).await;
            }
            if self.desired.has_changed().is_err() {
                return; // the handle was dropped
            }
            if self.needs_local_setup
                && let Err(failure) = self.run_local_task(LocalTask::Subscribe).await
            {
                self.on_failure(&failure);
                self.wait_backoff().await;
                continue;
            }
            self.needs_local_setup = false;
            if !self.settings.enabled || desired.held {
                self.status.set_phase(BridgePhase::Disabled, self.plane.now());
                if self.settings.enabled {
                    // The node that runs it next publishes its state.
                    self.published_state = None;
                } else {
                    self.publish_state(false);
                }
                if self.desired.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.attempt().await {
                AttemptOutcome::DesiredStateChanged => {}
                AttemptOutcome::Failed { failure, was_up_ms } => {
                    self.on_failure(&failure);
                    self.publish_state(false);
                    if self.select_next_address(was_up_ms) {
                        self.wait_backoff().await;
                    }
                }
            }
        }
    }

    /// Applies new settings; open connections get the differences.
    pub(super) async fn apply_settings(&mut self, settings: Arc<BridgeSettings>) -> Result<(), BridgeFailure> {
        if Arc::ptr_eq(&settings, &self.settings) {
            return Ok(());
        }
        if settings.connection != self.settings.connection {
            self.next = 0;
            self.last_logged = None;
        }
        self.backoff = Backoff::new(settings.reconnect_min_ms, settings.reconnect_max_ms);
        if settings.notification_topic != self.settings.notification_topic {
            self.clear_notification();
        }
        self.settings = settings;
        self.needs_local_setup = !self.link.is_up();
        // An error means that the data plane has stopped, and the bridge with it.
        drop(self.plane.set_policy(local_connection::policy(&self.settings)).await);
        self.link.set_spec(Arc::clone(&self.settings.spec), self.plane.now())
    }

    async fn stop(&mut self, stop: Stop) {
        self.status.set_phase(BridgePhase::Stopped, self.plane.now());
        if stop != Stop::Move {
            self.publish_state(false);
        }
        if stop == Stop::Pause {
            return;
        }
        if let Err(failure) = self.run_local_task(LocalTask::EndSession).await {
            tracing::error!(bridge = %self.settings.name, error = failure.message, "bridge session on this broker not removed");
        }
        self.plane.publish("", &self.state_topic(), Vec::new(), true);
        if stop == Stop::Remove {
            self.clear_notification();
            tracing::info!(bridge = %self.settings.name, "bridge removed");
        }
    }

    /// Selects the next address; returns whether to wait before connecting.
    fn select_next_address(&mut self, was_up_ms: Option<Millis>) -> bool {
        if let Some(was_up_ms) = was_up_ms {
            // A link that fails right after it came up counts as one that did not come up.
            if was_up_ms >= Millis::from(self.settings.reconnect_min_ms) {
                self.backoff.reset();
            }
            self.next = 0;
            return true;
        }
        self.next = (self.next + 1) % self.settings.addresses.len().max(1);
        self.next == 0
    }

    fn on_failure(&mut self, failure: &BridgeFailure) {
        let now = self.plane.now();
        self.status.set_phase(BridgePhase::Waiting, now);
        self.status.update(|status| {
            status.failures_total += 1;
            status.last_failure = Some(failure.clone());
        });
        if self.last_logged.as_ref() != Some(&failure.message) {
            tracing::warn!(bridge = %self.settings.name, error = failure.message, "bridge connection failed: retrying");
            self.last_logged = Some(failure.message.clone());
        }
    }

    /// Waits for the next attempt, or for a change of the desired state.
    async fn wait_backoff(&mut self) {
        // Without random bytes the pause has no jitter.
        let pause = Duration::from_millis(self.backoff.pause_ms(random::number().unwrap_or_default()));
        // If the sender is gone, the loop ends the task.
        drop(tokio::time::timeout(pause, self.desired.changed()).await);
    }

    /// Connects to one address, and relays messages until the link ends.
    async fn attempt(&mut self) -> AttemptOutcome {
        let Some(address) = self.settings.addresses.get(self.next).cloned() else {
            let failure = BridgeFailure::new(FailureCause::Unreachable, "no address is declared");
            return AttemptOutcome::Failed { failure, was_up_ms: None };
        };
        let shown = address.to_string();
        self.status.set_phase(BridgePhase::Connecting, self.plane.now());
        self.status.update(|status| status.address = Some(shown.clone()));
        let settings = Arc::clone(&self.settings);
        let opened = tokio::select! {
            opened = dial::open(&address, settings.tls.as_ref(), settings.server_name.as_deref()) => opened,
            // Also if the sender is gone: the loop handles that.
            _ = self.desired.changed() => return AttemptOutcome::DesiredStateChanged,
        };
        let transport = match opened {
            Ok(transport) => transport,
            Err(error) => {
                let failure = BridgeFailure::new(FailureCause::Unreachable, format!("{shown}: {error}"));
                return AttemptOutcome::Failed { failure, was_up_ms: None };
            }
        };
        let mut up_since = None;
        let result = self.relay(Wire::new(transport), &shown, &mut up_since).await;
        self.report();
        self.link.closed();
        match result {
            Ok(()) => AttemptOutcome::DesiredStateChanged,
            Err(failure) => {
                let was_up_ms = up_since.map(|since: Millis| self.plane.now().saturating_sub(since));
                let failure = BridgeFailure { message: format!("{shown}: {}", failure.message), ..failure };
                AttemptOutcome::Failed { failure, was_up_ms }
            }
        }
    }

    pub(super) fn on_connected(&mut self, address: &str) {
        self.status.set_phase(BridgePhase::Connected, self.plane.now());
        self.last_logged = None;
        self.report();
        self.publish_state(true);
        tracing::info!(bridge = %self.settings.name, address, "bridge connected");
    }

    pub(super) fn report(&self) {
        let counters = self.link.counters();
        let refused: Vec<(String, u8)> = self.link.refused().map(|(filter, code)| (filter.to_owned(), code)).collect();
        self.status.update(|status| {
            status.counters = counters;
            status.refused = refused;
        });
    }

    fn state_topic(&self) -> String {
        format!("$SYS/broker/bridges/{}/state", self.settings.name)
    }

    /// Publishes the state of the link to local clients.
    fn publish_state(&mut self, up: bool) {
        if self.published_state == Some(up) {
            return;
        }
        self.published_state = Some(up);
        let value = if up { b"1" } else { b"0" };
        self.plane.publish("", &self.state_topic(), value.to_vec(), true);
        if let Some(topic) = &self.settings.notification_topic {
            self.plane.publish(&self.settings.namespace, topic, value.to_vec(), true);
        }
    }

    /// Clears the retained state on the notification topic.
    fn clear_notification(&mut self) {
        self.published_state = None;
        if let Some(topic) = &self.settings.notification_topic {
            self.plane.publish(&self.settings.namespace, topic, Vec::new(), true);
        }
    }
}
