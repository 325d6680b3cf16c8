//! The relay of an open link: reads and writes both connections until the link ends.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Stop;
use super::driver::BridgeDriver;
use super::wire::{Wire, WireRead};
use crate::net::plane::DataPlane;
use weir_bridge::{BridgeFailure, BridgeLink, FailureCause};
use weir_broker::Millis;

/// How long messages in flight may take to be acknowledged before a link is closed on purpose, milliseconds.
const DRAIN_MS: Millis = 5_000;
/// Timeout of writing the final packets.
const FINAL_WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval at which counters are published, milliseconds.
const REPORT_MS: Millis = 250;

/// A link that drains before it is closed on purpose.
struct DrainingLink {
    until: Millis,
    end_session: bool,
}

impl BridgeDriver {
    /// Relays messages. Returns `Ok` when the desired state needs another link.
    pub(super) async fn relay(
        &mut self,
        mut remote: Wire,
        address: &str,
        up_since: &mut Option<Millis>,
    ) -> Result<(), BridgeFailure> {
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
    async fn on_desired_state_changed(&mut self, draining: &mut Option<DrainingLink>) -> Result<(), BridgeFailure> {
        let desired = self.desired.borrow_and_update().clone();
        let stays = desired.stop.is_none()
            && !desired.held
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
}

/// Conditions of the link that the driver acts on.
fn driver_events(link: &BridgeLink, has_local: bool) -> (bool, bool, bool, bool, bool) {
    let drained = link.is_drained();
    (link.is_up(), link.is_local_up(), link.needs_local_subscriptions(), link.wants_local() && !has_local, drained)
}

/// Reads and writes both connections until a condition changes that the driver acts on.
fn poll_both(
    link: &mut BridgeLink,
    remote: &mut Wire,
    mut local: Option<&mut Wire>,
    plane: &DataPlane,
    cx: &mut Context<'_>,
) -> Poll<Result<(), BridgeFailure>> {
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

fn poll_remote(
    link: &mut BridgeLink,
    wire: &mut Wire,
    plane: &DataPlane,
    cx: &mut Context<'_>,
) -> Result<bool, BridgeFailure> {
    let lost = |error: std::io::Error| BridgeFailure::new(FailureCause::Lost, error.to_string());
    let mut moved = false;
    if link.reads_remote() {
        // Bytes that were not consumed before come first.
        let taken = link.from_remote(wire.input(), plane.now())?;
        wire.consume(taken);
        moved |= taken > 0;
    }
    if link.reads_remote() {
        match wire.poll_read(cx).map_err(lost)? {
            WireRead::Nothing => {}
            WireRead::Closed => {
                return Err(BridgeFailure::new(FailureCause::Lost, "the remote broker closed the connection"));
            }
            WireRead::Some => {
                let taken = link.from_remote(wire.input(), plane.now())?;
                wire.consume(taken);
                moved = true;
            }
        }
    }
    Ok(wire.poll_write(cx, link.to_remote()).map_err(lost)? || moved)
}

pub(super) fn poll_local(
    link: &mut BridgeLink,
    wire: &mut Wire,
    plane: &DataPlane,
    cx: &mut Context<'_>,
) -> Result<bool, BridgeFailure> {
    let lost =
        |error: std::io::Error| BridgeFailure::new(FailureCause::Local, format!("local connection failed: {error}"));
    let mut moved = false;
    if link.reads_local() {
        let taken = link.from_local(wire.input(), plane.now())?;
        wire.consume(taken);
        moved |= taken > 0;
    }
    if link.reads_local() {
        match wire.poll_read(cx).map_err(lost)? {
            WireRead::Nothing => {}
            WireRead::Closed => {
                return Err(BridgeFailure::new(
                    FailureCause::Local,
                    "this broker closed the local connection of its bridge",
                ));
            }
            WireRead::Some => {
                let taken = link.from_local(wire.input(), plane.now())?;
                wire.consume(taken);
                moved = true;
            }
        }
    }
    Ok(wire.poll_write(cx, link.to_local()).map_err(lost)? || moved)
}
