//! The task of one bridge: connects, relays messages, and reconnects.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;

use super::status::StatusCell;
use super::wire::{Read, Wire};
use super::{BridgePhase, BridgeSettings, DesiredState, Stop, dial, local_connection};
use crate::net::find::ClientFilter;
use crate::net::plane::DataPlane;
use crate::random;
use weir_bridge::{Backoff, Cause, Failure, Link};
use weir_broker::Millis;

/// How long messages in flight may take to be acknowledged before a link is closed on purpose, milliseconds.
const DRAIN_MS: Millis = 5_000;
/// Timeout of writing the final packets.
const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of work on the local session.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which counters are published, milliseconds.
const REPORT_MS: Millis = 250;

pub(super) struct Driver {
    plane: DataPlane,
    desired: watch::Receiver<DesiredState>,
    settings: Arc<BridgeSettings>,
    status: Arc<StatusCell>,
    link: Link,
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
enum Outcome {
    /// The desired state has changed.
    DesiredStateChanged,
    Failed {
        failure: Failure,
        /// How long messages were relayed; `None`: the link did not come up.
        was_up_ms: Option<Millis>,
    },
}

/// Work on the local session while there is no link.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LocalTask {
    /// Create it, with the declared subscriptions and limits.
    Subscribe,
    /// End it.
    EndSession,
}

/// A link that drains before it is closed on purpose.
struct DrainingLink {
    until: Millis,
    end_session: bool,
}

impl Driver {
    pub(super) fn new(plane: DataPlane, desired: watch::Receiver<DesiredState>, status: Arc<StatusCell>) -> Self {
        let settings = Arc::clone(&desired.borrow().settings);
        let link = Link::new(Arc::clone(&settings.spec));
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
            if !self.settings.enabled {
                self.status.set_phase(BridgePhase::Disabled, self.plane.now());
                self.publish_state(false);
                if self.desired.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.attempt().await {
                Outcome::DesiredStateChanged => {}
                Outcome::Failed { failure, was_up_ms } => {
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
    async fn apply_settings(&mut self, settings: Arc<BridgeSettings>) -> Result<(), Failure> {
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
        self.publish_state(false);
        if stop == Stop::Remove {
            if let Err(failure) = self.run_local_task(LocalTask::EndSession).await {
                tracing::error!(bridge = %self.settings.name, error = failure.message, "bridge session on this broker not removed");
            }
            self.clear_notification();
            self.plane.publish("", &self.state_topic(), Vec::new(), true);
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

    fn on_failure(&mut self, failure: &Failure) {
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
    async fn attempt(&mut self) -> Outcome {
        let Some(address) = self.settings.addresses.get(self.next).cloned() else {
            let failure = Failure::new(Cause::Unreachable, "no address is declared");
            return Outcome::Failed { failure, was_up_ms: None };
        };
        let shown = address.to_string();
        self.status.set_phase(BridgePhase::Connecting, self.plane.now());
        self.status.update(|status| status.address = Some(shown.clone()));
        let settings = Arc::clone(&self.settings);
        let opened = tokio::select! {
            opened = dial::open(&address, settings.tls.as_ref(), settings.server_name.as_deref()) => opened,
            // Also if the sender is gone: the loop handles that.
            _ = self.desired.changed() => return Outcome::DesiredStateChanged,
        };
        let transport = match opened {
            Ok(transport) => transport,
            Err(error) => {
                let failure = Failure::new(Cause::Unreachable, format!("{shown}: {error}"));
                return Outcome::Failed { failure, was_up_ms: None };
            }
        };
        let mut up_since = None;
        let result = self.relay(Wire::new(transport), &shown, &mut up_since).await;
        self.report();
        self.link.closed();
        match result {
            Ok(()) => Outcome::DesiredStateChanged,
            Err(failure) => {
                let was_up_ms = up_since.map(|since: Millis| self.plane.now().saturating_sub(since));
                let failure = Failure { message: format!("{shown}: {}", failure.message), ..failure };
                Outcome::Failed { failure, was_up_ms }
            }
        }
    }

    /// Relays messages. Returns `Ok` when the desired state needs another link.
    async fn relay(&mut self, mut remote: Wire, address: &str, up_since: &mut Option<Millis>) -> Result<(), Failure> {
        self.link.remote_opened(self.plane.now())?;
        let mut local: Option<Wire> = None;
        let mut draining: Option<DrainingLink> = None;
        let mut next_report = self.plane.now() + REPORT_MS;
        loop {
            if local.is_none() && self.link.wants_local() {
                local = Some(self.open_local()?);
            }
            if self.link.needs_local_subscriptions() {
                let filters = self.local_subscriptions().await;
                self.link.set_local_subscriptions(filters)?;
            }
            if self.link.is_up() && up_since.is_none() {
                *up_since = Some(self.plane.now());
                self.on_connected(address);
            }
            if let Some(draining) = &draining
                && (self.link.is_drained() || draining.until <= self.plane.now())
            {
                self.link.disconnect_remote(draining.end_session)?;
                self.write_final_packets(remote, local).await;
                return Ok(());
            }
            let due = self.link.deadline().min(next_report).min(draining.as_ref().map_or(Millis::MAX, |l| l.until));
            let wait = Duration::from_millis(due.saturating_sub(self.plane.now()));
            let (link, plane) = (&mut self.link, &self.plane);
            tokio::select! {
                // The relay comes last, since it can use up the task's turn.
                biased;
                // A draining link no longer follows changes, and its sender may be gone.
                changed = self.desired.changed(), if draining.is_none() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.on_desired_state_changed(&mut draining).await?;
                }
                () = tokio::time::sleep(wait) => {
                    let now = self.plane.now();
                    self.link.tick(now)?;
                    if next_report <= now {
                        self.report();
                        next_report = now + REPORT_MS;
                    }
                }
                turned = poll_fn(|cx| poll_both(link, &mut remote, local.as_mut(), plane, cx)) => turned?,
            }
        }
    }

    /// Applies a new desired state to an open link.
    async fn on_desired_state_changed(&mut self, draining: &mut Option<DrainingLink>) -> Result<(), Failure> {
        let desired = self.desired.borrow_and_update().clone();
        let stays = desired.stop.is_none()
            && desired.settings.enabled
            && desired.settings.connection == self.settings.connection;
        if stays && draining.is_none() {
            return self.apply_settings(desired.settings).await;
        }
        self.link.drain();
        let end_session = desired.stop == Some(Stop::Remove);
        *draining = Some(DrainingLink { until: self.plane.now() + DRAIN_MS, end_session });
        Ok(())
    }

    /// Writes the remaining output to both sides.
    async fn write_final_packets(&mut self, mut remote: Wire, mut local: Option<Wire>) {
        let link = &mut self.link;
        let written = poll_fn(|cx| {
            let there = remote.poll_write(cx, link.to_remote());
            let here = local.as_mut().map_or(Ok(false), |local| local.poll_write(cx, link.to_local()));
            let waits = !link.to_remote().waiting().is_empty() || !remote.is_flushed();
            let waits = waits || local.is_some() && !link.to_local().waiting().is_empty();
            if there.is_err() || here.is_err() || !waits { Poll::Ready(()) } else { Poll::Pending }
        });
        // A peer that does not read loses the final packets.
        drop(tokio::time::timeout(FINAL_WRITE_TIMEOUT, written).await);
    }

    fn on_connected(&mut self, address: &str) {
        self.status.set_phase(BridgePhase::Connected, self.plane.now());
        self.last_logged = None;
        self.report();
        self.publish_state(true);
        tracing::info!(bridge = %self.settings.name, address, "bridge connected");
    }

    fn report(&self) {
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

    /// Opens the connection to this broker.
    fn open_local(&mut self) -> Result<Wire, Failure> {
        let pair = local_connection::pair();
        let (ours, theirs) =
            pair.map_err(|error| Failure::new(Cause::Local, format!("local socket pair failed: {error}")))?;
        self.plane.open_internal(theirs, local_connection::policy(&self.settings), &self.settings.spec.local_id);
        self.link.local_opened(self.plane.now())?;
        Ok(Wire::new(Box::new(ours)))
    }

    /// Connects to the local session for a task while there is no link.
    async fn run_local_task(&mut self, task: LocalTask) -> Result<(), Failure> {
        let wire = self.open_local()?;
        let timed_out = || Failure::new(Cause::Local, "this broker did not answer its bridge in time");
        let run = self.drive_local_task(wire, task);
        let result = tokio::time::timeout(LOCAL_TIMEOUT, run).await.unwrap_or_else(|_| Err(timed_out()));
        self.link.closed();
        result
    }

    async fn drive_local_task(&mut self, mut wire: Wire, task: LocalTask) -> Result<(), Failure> {
        let mut disconnect_sent = false;
        loop {
            if self.link.needs_local_subscriptions() {
                let filters = self.local_subscriptions().await;
                self.link.set_local_subscriptions(filters)?;
            }
            if self.link.is_local_up() {
                match task {
                    LocalTask::Subscribe if !self.link.wants_local() => return Ok(()),
                    LocalTask::Subscribe => {}
                    LocalTask::EndSession if disconnect_sent && self.link.to_local().waiting().is_empty() => {
                        return Ok(());
                    }
                    LocalTask::EndSession if disconnect_sent => {}
                    LocalTask::EndSession => {
                        self.link.end_local_session()?;
                        disconnect_sent = true;
                    }
                }
            }
            let (link, plane) = (&mut self.link, &self.plane);
            poll_fn(|cx| poll_local_only(link, &mut wire, plane, cx)).await?;
        }
    }

    /// The subscriptions of the local session.
    async fn local_subscriptions(&self) -> Vec<String> {
        let client_id = Some(self.settings.spec.local_id.to_string());
        let filter = ClientFilter { endpoint: Some(self.settings.endpoint), client_id, limit: 1, ..Default::default() };
        let found = self.plane.find_clients(filter).await.unwrap_or_default();
        found.into_iter().filter_map(|client| client.detail).flat_map(|detail| detail.subscriptions).collect()
    }
}

/// Conditions of the link that the driver acts on.
fn driver_events(link: &Link, has_local: bool) -> (bool, bool, bool, bool, bool) {
    let drained = link.is_drained();
    (link.is_up(), link.is_local_up(), link.needs_local_subscriptions(), link.wants_local() && !has_local, drained)
}

/// Reads and writes both connections until a condition changes that the driver acts on.
fn poll_both(
    link: &mut Link,
    remote: &mut Wire,
    mut local: Option<&mut Wire>,
    plane: &DataPlane,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Failure>> {
    let before = driver_events(link, local.is_some());
    loop {
        let mut moved = match poll_remote(link, remote, plane, cx) {
            Ok(moved) => moved,
            Err(failure) => return Poll::Ready(Err(failure)),
        };
        if let Some(local) = &mut local {
            match poll_local(link, local, plane, cx) {
                Ok(also) => moved |= also,
                Err(failure) => return Poll::Ready(Err(failure)),
            }
        }
        if driver_events(link, local.is_some()) != before {
            return Poll::Ready(Ok(()));
        }
        if !moved {
            return Poll::Pending;
        }
    }
}

/// Reads and writes the local connection, when there is no remote one.
fn poll_local_only(
    link: &mut Link,
    wire: &mut Wire,
    plane: &DataPlane,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Failure>> {
    match poll_local(link, wire, plane, cx) {
        Ok(true) => Poll::Ready(Ok(())),
        Ok(false) => Poll::Pending,
        Err(failure) => Poll::Ready(Err(failure)),
    }
}

fn poll_remote(link: &mut Link, wire: &mut Wire, plane: &DataPlane, cx: &mut Context<'_>) -> Result<bool, Failure> {
    let lost = |error: std::io::Error| Failure::new(Cause::Lost, error.to_string());
    let mut moved = false;
    if link.reads_remote() {
        // Bytes that were not consumed before come first.
        let taken = link.from_remote(wire.input(), plane.now())?;
        wire.consume(taken);
        moved |= taken > 0;
    }
    if link.reads_remote() {
        match wire.poll_read(cx).map_err(lost)? {
            Read::Nothing => {}
            Read::Closed => return Err(Failure::new(Cause::Lost, "the remote broker closed the connection")),
            Read::Some => {
                let taken = link.from_remote(wire.input(), plane.now())?;
                wire.consume(taken);
                moved = true;
            }
        }
    }
    Ok(wire.poll_write(cx, link.to_remote()).map_err(lost)? || moved)
}

fn poll_local(link: &mut Link, wire: &mut Wire, plane: &DataPlane, cx: &mut Context<'_>) -> Result<bool, Failure> {
    let lost = |error: std::io::Error| Failure::new(Cause::Local, format!("local connection failed: {error}"));
    let mut moved = false;
    if link.reads_local() {
        let taken = link.from_local(wire.input(), plane.now())?;
        wire.consume(taken);
        moved |= taken > 0;
    }
    if link.reads_local() {
        match wire.poll_read(cx).map_err(lost)? {
            Read::Nothing => {}
            Read::Closed => {
                return Err(Failure::new(Cause::Local, "this broker closed the local connection of its bridge"));
            }
            Read::Some => {
                let taken = link.from_local(wire.input(), plane.now())?;
                wire.consume(taken);
                moved = true;
            }
        }
    }
    Ok(wire.poll_write(cx, link.to_local()).map_err(lost)? || moved)
}
