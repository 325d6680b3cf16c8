//! One bridge's task: connects, relays, and tries again.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;

use super::status::StatusCell;
use super::wire::{Read, Wire};
use super::{BridgePhase, BridgeSettings, Orders, Stop, dial, local_connection};
use crate::net::find::ClientFilter;
use crate::net::plane::DataPlane;
use crate::random;
use weir_bridge::{Backoff, Cause, Failure, Link};
use weir_broker::Millis;

/// How long what is on its way may take to be acknowledged before a link is closed on purpose.
const DRAIN_MS: Millis = 5_000;
/// How long the last words may take to leave.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long this broker may take to let its own bridge in.
const HOME_GUARD: Duration = Duration::from_secs(10);
/// How often counters are shown.
const REPORT_MS: Millis = 250;

pub(super) struct Driver {
    plane: DataPlane,
    orders: watch::Receiver<Orders>,
    settings: Arc<BridgeSettings>,
    status: Arc<StatusCell>,
    link: Link,
    backoff: Backoff,
    /// The address that is tried next.
    next: usize,
    /// The session here has not seen the settings yet.
    is_new: bool,
    /// What the notification topic says.
    told: Option<bool>,
    /// The failure that was logged last.
    said: Option<String>,
}

/// How an attempt ended.
enum Ended {
    /// There are new orders.
    Ordered,
    Failed {
        failure: Failure,
        /// For how long messages were carried.
        was_up_ms: Option<Millis>,
    },
}

/// What a visit to the session here is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BridgeTask {
    /// It is to exist, with the subscriptions and bounds that are declared.
    Settle,
    /// It is to end.
    End,
}

/// A link that is about to be closed on purpose.
struct Stopping {
    until: Millis,
    for_good: bool,
}

impl Driver {
    pub(super) fn new(plane: DataPlane, orders: watch::Receiver<Orders>, status: Arc<StatusCell>) -> Self {
        let settings = Arc::clone(&orders.borrow().settings);
        let link = Link::new(Arc::clone(&settings.spec));
        let backoff = Backoff::new(settings.reconnect_min_ms, settings.reconnect_max_ms);
        Self { plane, orders, settings, status, link, backoff, next: 0, is_new: true, told: None, said: None }
    }

    pub(super) async fn run(mut self) {
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if let Err(failure) = self.adopt(orders.settings).await {
                self.failed(&failure);
            }
            if let Some(stop) = orders.stop {
                return self.stop(stop).await;
            }
            if self.orders.has_changed().is_err() {
                return; // nobody is left to give orders
            }
            if self.is_new
                && let Err(failure) = self.visit(BridgeTask::Settle).await
            {
                self.failed(&failure);
                self.pause().await;
                continue;
            }
            self.is_new = false;
            if !self.settings.enabled {
                self.status.enter(BridgePhase::Disabled, self.plane.now());
                self.tell(false);
                if self.orders.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.attempt().await {
                Ended::Ordered => {}
                Ended::Failed { failure, was_up_ms } => {
                    self.failed(&failure);
                    self.tell(false);
                    if self.choose_next(was_up_ms) {
                        self.pause().await;
                    }
                }
            }
        }
    }

    /// Takes new settings over; open connections get what differs.
    async fn adopt(&mut self, settings: Arc<BridgeSettings>) -> Result<(), Failure> {
        if Arc::ptr_eq(&settings, &self.settings) {
            return Ok(());
        }
        if settings.connection != self.settings.connection {
            self.next = 0;
            self.said = None;
        }
        self.backoff = Backoff::new(settings.reconnect_min_ms, settings.reconnect_max_ms);
        if settings.notification_topic != self.settings.notification_topic {
            self.forget_notification();
        }
        self.settings = settings;
        self.is_new = !self.link.is_up();
        // The data plane answers for as long as it runs; where it does not, nothing else matters either.
        drop(self.plane.set_policy(local_connection::policy(&self.settings)).await);
        self.link.set_spec(Arc::clone(&self.settings.spec), self.plane.now())
    }

    async fn stop(&mut self, stop: Stop) {
        self.status.enter(BridgePhase::Stopped, self.plane.now());
        self.tell(false);
        if stop == Stop::Remove {
            if let Err(failure) = self.visit(BridgeTask::End).await {
                tracing::error!(bridge = %self.settings.name, "its session here does not end: {}", failure.message);
            }
            self.forget_notification();
            self.plane.publish("", &self.state_topic(), Vec::new(), true);
            tracing::info!(bridge = %self.settings.name, "removed");
        }
    }

    /// Which address is next; whether to wait before it.
    fn choose_next(&mut self, was_up_ms: Option<Millis>) -> bool {
        if let Some(was_up_ms) = was_up_ms {
            // One that was up and falls at once is treated like one that does not come up.
            if was_up_ms >= Millis::from(self.settings.reconnect_min_ms) {
                self.backoff.reset();
            }
            self.next = 0;
            return true;
        }
        self.next = (self.next + 1) % self.settings.addresses.len().max(1);
        self.next == 0
    }

    fn failed(&mut self, failure: &Failure) {
        let now = self.plane.now();
        self.status.enter(BridgePhase::Waiting, now);
        self.status.update(|status| {
            status.failures_total += 1;
            status.last_failure = Some(failure.clone());
        });
        if self.said.as_ref() != Some(&failure.message) {
            tracing::warn!(bridge = %self.settings.name, "not connected: {}; it is tried again", failure.message);
            self.said = Some(failure.message.clone());
        }
    }

    /// Waits for the time of the next attempt, or for orders.
    async fn pause(&mut self) {
        // Without randomness there is no jitter.
        let pause = Duration::from_millis(self.backoff.pause_ms(random::number().unwrap_or_default()));
        // Without a sender the next look at the orders ends the task.
        drop(tokio::time::timeout(pause, self.orders.changed()).await);
    }

    /// Connects to one address, and relays for as long as it lasts.
    async fn attempt(&mut self) -> Ended {
        let Some(address) = self.settings.addresses.get(self.next).cloned() else {
            let failure = Failure::new(Cause::Unreachable, "no address is declared");
            return Ended::Failed { failure, was_up_ms: None };
        };
        let shown = address.to_string();
        self.status.enter(BridgePhase::Connecting, self.plane.now());
        self.status.update(|status| status.address = Some(shown.clone()));
        let settings = Arc::clone(&self.settings);
        let opened = tokio::select! {
            opened = dial::open(&address, settings.tls.as_ref(), settings.server_name.as_deref()) => opened,
            // Also where nobody can give orders any more: the loop sees to it.
            _ = self.orders.changed() => return Ended::Ordered,
        };
        let carrier = match opened {
            Ok(carrier) => carrier,
            Err(error) => {
                let failure = Failure::new(Cause::Unreachable, format!("{shown}: {error}"));
                return Ended::Failed { failure, was_up_ms: None };
            }
        };
        let mut up_since = None;
        let result = self.relay(Wire::new(carrier), &shown, &mut up_since).await;
        self.report();
        self.link.closed();
        match result {
            Ok(()) => Ended::Ordered,
            Err(failure) => {
                let was_up_ms = up_since.map(|since: Millis| self.plane.now().saturating_sub(since));
                let failure = Failure { message: format!("{shown}: {}", failure.message), ..failure };
                Ended::Failed { failure, was_up_ms }
            }
        }
    }

    /// Ends well where there are orders that the present link cannot follow.
    async fn relay(&mut self, mut remote: Wire, address: &str, up_since: &mut Option<Millis>) -> Result<(), Failure> {
        self.link.remote_opened(self.plane.now())?;
        let mut local: Option<Wire> = None;
        let mut leaving: Option<Stopping> = None;
        let mut next_report = self.plane.now() + REPORT_MS;
        loop {
            if local.is_none() && self.link.wants_local() {
                local = Some(self.open_home()?);
            }
            if self.link.asks_found() {
                let filters = self.filters_here().await;
                self.link.found_here(filters)?;
            }
            if self.link.is_up() && up_since.is_none() {
                *up_since = Some(self.plane.now());
                self.connected(address);
            }
            if let Some(leaving) = &leaving
                && (self.link.is_drained() || leaving.until <= self.plane.now())
            {
                self.link.leave_remote(leaving.for_good)?;
                self.last_words(remote, local).await;
                return Ok(());
            }
            let due = self.link.deadline().min(next_report).min(leaving.as_ref().map_or(Millis::MAX, |l| l.until));
            let wait = Duration::from_millis(due.saturating_sub(self.plane.now()));
            let (link, plane) = (&mut self.link, &self.plane);
            tokio::select! {
                // The busy one comes last: it uses up the task's turn.
                biased;
                // Once it is leaving, nothing else can be ordered; and who gave the order may be gone.
                changed = self.orders.changed(), if leaving.is_none() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.handle_orders(&mut leaving).await?;
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

    /// New orders for a link that is there.
    async fn handle_orders(&mut self, leaving: &mut Option<Stopping>) -> Result<(), Failure> {
        let orders = self.orders.borrow_and_update().clone();
        let stays =
            orders.stop.is_none() && orders.settings.enabled && orders.settings.connection == self.settings.connection;
        if stays && leaving.is_none() {
            return self.adopt(orders.settings).await;
        }
        self.link.drain();
        let for_good = orders.stop == Some(Stop::Remove);
        *leaving = Some(Stopping { until: self.plane.now() + DRAIN_MS, for_good });
        Ok(())
    }

    /// Writes what still waits, on both sides.
    async fn last_words(&mut self, mut remote: Wire, mut local: Option<Wire>) {
        let link = &mut self.link;
        let written = poll_fn(|cx| {
            let there = remote.poll_write(cx, link.to_remote());
            let here = local.as_mut().map_or(Ok(false), |local| local.poll_write(cx, link.to_local()));
            let waits = !link.to_remote().waiting().is_empty() || !remote.is_flushed();
            let waits = waits || local.is_some() && !link.to_local().waiting().is_empty();
            if there.is_err() || here.is_err() || !waits { Poll::Ready(()) } else { Poll::Pending }
        });
        // Who does not take them is told nothing.
        drop(tokio::time::timeout(GOODBYE, written).await);
    }

    fn connected(&mut self, address: &str) {
        self.status.enter(BridgePhase::Connected, self.plane.now());
        self.said = None;
        self.report();
        self.tell(true);
        tracing::info!(bridge = %self.settings.name, address, "connected");
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

    /// Tells the clients here whether the link is up.
    fn tell(&mut self, up: bool) {
        if self.told == Some(up) {
            return;
        }
        self.told = Some(up);
        let value = if up { b"1" } else { b"0" };
        self.plane.publish("", &self.state_topic(), value.to_vec(), true);
        if let Some(topic) = &self.settings.notification_topic {
            self.plane.publish(&self.settings.namespace, topic, value.to_vec(), true);
        }
    }

    /// Nobody tells the state on the declared topic any more.
    fn forget_notification(&mut self) {
        self.told = None;
        if let Some(topic) = &self.settings.notification_topic {
            self.plane.publish(&self.settings.namespace, topic, Vec::new(), true);
        }
    }

    /// Opens a connection to this broker.
    fn open_home(&mut self) -> Result<Wire, Failure> {
        let pair = local_connection::pair();
        let (ours, theirs) = pair
            .map_err(|error| Failure::new(Cause::Local, format!("no socket for the way into this broker: {error}")))?;
        self.plane.open_internal(theirs, local_connection::policy(&self.settings), &self.settings.spec.local_id);
        self.link.local_opened(self.plane.now())?;
        Ok(Wire::new(Box::new(ours)))
    }

    /// Goes to the session here while there is no link.
    async fn visit(&mut self, task: BridgeTask) -> Result<(), Failure> {
        let wire = self.open_home()?;
        let late = || Failure::new(Cause::Local, "this broker does not answer its own bridge");
        let run = self.run_task(wire, task);
        let result = tokio::time::timeout(HOME_GUARD, run).await.unwrap_or_else(|_| Err(late()));
        self.link.closed();
        result
    }

    async fn run_task(&mut self, mut wire: Wire, task: BridgeTask) -> Result<(), Failure> {
        let mut said = false;
        loop {
            if self.link.asks_found() {
                let filters = self.filters_here().await;
                self.link.found_here(filters)?;
            }
            if self.link.is_local_up() {
                match task {
                    BridgeTask::Settle if !self.link.wants_local() => return Ok(()),
                    BridgeTask::Settle => {}
                    BridgeTask::End if said && self.link.to_local().waiting().is_empty() => return Ok(()),
                    BridgeTask::End if said => {}
                    BridgeTask::End => {
                        self.link.end_local()?;
                        said = true;
                    }
                }
            }
            let (link, plane) = (&mut self.link, &self.plane);
            poll_fn(|cx| poll_home(link, &mut wire, plane, cx)).await?;
        }
    }

    /// What the session here is subscribed to.
    async fn filters_here(&self) -> Vec<String> {
        let client_id = Some(self.settings.spec.local_id.to_string());
        let filter = ClientFilter { endpoint: Some(self.settings.endpoint), client_id, limit: 1, ..Default::default() };
        let found = self.plane.find_clients(filter).await.unwrap_or_default();
        found.into_iter().filter_map(|client| client.detail).flat_map(|detail| detail.subscriptions).collect()
    }
}

/// What a driver has to see to.
fn milestones(link: &Link, has_local: bool) -> (bool, bool, bool, bool, bool) {
    let drained = link.is_drained();
    (link.is_up(), link.is_local_up(), link.asks_found(), link.wants_local() && !has_local, drained)
}

/// Reads and writes both connections until there is something for the driver to see to.
fn poll_both(
    link: &mut Link,
    remote: &mut Wire,
    mut local: Option<&mut Wire>,
    plane: &DataPlane,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Failure>> {
    let before = milestones(link, local.is_some());
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
        if milestones(link, local.is_some()) != before {
            return Poll::Ready(Ok(()));
        }
        if !moved {
            return Poll::Pending;
        }
    }
}

/// The same, while there is only the connection to this broker.
fn poll_home(link: &mut Link, wire: &mut Wire, plane: &DataPlane, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
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
        // What was held back goes first.
        let taken = link.from_remote(wire.input(), plane.now())?;
        wire.take(taken);
        moved |= taken > 0;
    }
    if link.reads_remote() {
        match wire.poll_read(cx).map_err(lost)? {
            Read::Nothing => {}
            Read::Closed => return Err(Failure::new(Cause::Lost, "the other broker closed the connection")),
            Read::Some => {
                let taken = link.from_remote(wire.input(), plane.now())?;
                wire.take(taken);
                moved = true;
            }
        }
    }
    Ok(wire.poll_write(cx, link.to_remote()).map_err(lost)? || moved)
}

fn poll_local(link: &mut Link, wire: &mut Wire, plane: &DataPlane, cx: &mut Context<'_>) -> Result<bool, Failure> {
    let lost = |error: std::io::Error| Failure::new(Cause::Local, format!("the way into this broker: {error}"));
    let mut moved = false;
    if link.reads_local() {
        let taken = link.from_local(wire.input(), plane.now())?;
        wire.take(taken);
        moved |= taken > 0;
    }
    if link.reads_local() {
        match wire.poll_read(cx).map_err(lost)? {
            Read::Nothing => {}
            Read::Closed => return Err(Failure::new(Cause::Local, "this broker closed its bridge's connection")),
            Read::Some => {
                let taken = link.from_local(wire.input(), plane.now())?;
                wire.take(taken);
                moved = true;
            }
        }
    }
    Ok(wire.poll_write(cx, link.to_local()).map_err(lost)? || moved)
}
