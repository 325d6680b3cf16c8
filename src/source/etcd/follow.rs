//! Follows a prefix: lists it, watches from there on, and lists again whenever the watch cannot be trusted.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::client::{EtcdResult, connect, describe_error, list, prefix_end, timed_out, with_timeout};
use super::options::EtcdOptions;
use super::replica::{KeyChange, Listing, PriorState, Replica, ReplicaView};
use crate::source::{SourceError, SourceErrorCounts, SourceErrorKind, SourceEvent, SourceHandle, jittered};

/// A silent watch gets a progress request after so long; without an answer for as long again, the session ends.
const WATCHDOG: Duration = Duration::from_secs(5);
/// Between attempts: doubled each time, from the first to the second; each half to one and a half of it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A session of so long was a good one: the next failure is the first again.
const GOOD_SESSION: Duration = Duration::from_secs(10);
/// A push that has not ended after so long is reported as an error.
const PUSH_GRACE: Duration = Duration::from_secs(5);
/// Bytes of one message of a watch.
const EVENT_BYTES_MAX: usize = 192 << 20;

/// Follows an etcd prefix. `known` is the state that an earlier run saved.
pub fn spawn_etcd(options: EtcdOptions, known: Option<PriorState>) -> SourceHandle {
    let (sender, events) = mpsc::channel(1);
    let resync_requested = Arc::new(Notify::new());
    let location = options.location();
    let mut handle = SourceHandle::new("etcd", location.clone(), events, Arc::clone(&resync_requested));
    let incidents = Arc::new(SourceErrorCounts::default());
    handle.incidents = Arc::clone(&incidents);
    let prefix = options.root.documents();
    let replica = Replica::new(&prefix, &format!("etcd {location}"), &options.files, known);
    let follower = Follower {
        prefix,
        replica,
        sender,
        resync_requested,
        incidents,
        sent_any: false,
        push_started: None,
        listed: None,
        next_server: 0,
        options,
    };
    tokio::spawn(follower.run());
    handle
}

struct Follower {
    options: EtcdOptions,
    prefix: String,
    replica: Replica,
    sender: mpsc::Sender<SourceEvent>,
    resync_requested: Arc<Notify>,
    incidents: Arc<SourceErrorCounts>,
    /// Whether a reading was ever sent.
    sent_any: bool,
    /// When the unfinished push was first seen.
    push_started: Option<Instant>,
    /// Begin and end of the last listing, until it is sent.
    listed: Option<(std::time::Instant, std::time::Instant)>,
    /// The index of the server for the next session.
    next_server: usize,
}

/// Why a session ended.
enum SessionEnd {
    ReceiverClosed,
    Failed(SourceError),
}

impl From<SourceError> for SessionEnd {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

/// What ends one wait of the session.
enum FollowEvent {
    /// The receiver has room for a reading.
    Send,
    Watched(Box<WatchResponse>),
    List,
    Watchdog,
    /// An unfinished push has lasted longer than [`PUSH_GRACE`].
    PushOverdue,
}

impl Follower {
    /// Runs until the receiver is closed.
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let mut watching = false;
            let error = match self.session(&mut watching).await {
                SessionEnd::ReceiverClosed => return,
                SessionEnd::Failed(error) => error,
            };
            self.incidents.count(error.kind);
            tracing::debug!(%error, kind = error.kind.as_str(), watching, "etcd session ended");
            if begun.elapsed() >= GOOD_SESSION {
                failures = 0;
            }
            failures += 1;
            // A session that broke is not reported if the next one succeeds.
            if (!watching || failures > 1) && self.sender.send(SourceEvent::Failed(error.clone())).await.is_err() {
                return;
            }
            self.next_server = self.next_server.wrapping_add(1);
            if !self.back_off(backoff(failures), &error).await {
                return;
            }
        }
    }

    /// Waits; answers requests with the last error. `false`: the receiver is closed.
    async fn back_off(&self, wait: Duration, error: &SourceError) -> bool {
        let until = Instant::now() + jittered(wait);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                () = self.sender.closed() => return false,
                () = self.resync_requested.notified() => {
                    if self.sender.send(SourceEvent::Failed(error.clone())).await.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    async fn session(&mut self, watching: &mut bool) -> SessionEnd {
        match self.follow(watching).await {
            Ok(()) => SessionEnd::ReceiverClosed,
            Err(ended) => ended,
        }
    }

    /// Lists and watches until an error occurs or the receiver is closed.
    async fn follow(&mut self, watching: &mut bool) -> Result<(), SessionEnd> {
        let (client, url) = connect(&self.options.access, self.next_server).await?;
        let mut stream = self.list_and_watch(&client, &url).await?;
        *watching = true;
        let (sender, resync_requested) = (self.sender.clone(), Arc::clone(&self.resync_requested));
        let mut unsent = true;
        let mut asked = false;
        let mut check_at = Instant::now() + WATCHDOG;
        let mut list_at = Instant::now() + jittered(self.options.resync);
        loop {
            let push_overdue_at = self.push_started.map(|since| since + PUSH_GRACE).filter(|at| *at > Instant::now());
            let event = tokio::select! {
                biased;
                permit = sender.reserve(), if unsent => match permit {
                    Ok(_unused) => FollowEvent::Send,
                    Err(_) => return Ok(()),
                },
                () = sender.closed() => return Ok(()),
                message = stream.message() => match message {
                    Ok(Some(response)) => FollowEvent::Watched(Box::new(response)),
                    Ok(None) => return Err(SessionEnd::Failed(watch_ended(&url, "the stream ended"))),
                    Err(error) => return Err(SessionEnd::Failed(describe_error(&url, &error))),
                },
                () = resync_requested.notified() => FollowEvent::List,
                () = tokio::time::sleep_until(list_at) => FollowEvent::List,
                () = tokio::time::sleep_until(check_at) => FollowEvent::Watchdog,
                () = due(push_overdue_at) => FollowEvent::PushOverdue,
            };
            match event {
                FollowEvent::PushOverdue => unsent = true,
                FollowEvent::Send => {
                    unsent = false;
                    if !self.send_reading(&client, &url).await {
                        return Ok(());
                    }
                }
                FollowEvent::Watched(response) => {
                    asked = false;
                    check_at = Instant::now() + WATCHDOG;
                    unsent |= self.apply_watch(&url, &response)?;
                }
                FollowEvent::List => {
                    list_at = Instant::now() + jittered(self.options.resync);
                    let listing = self.list(&client, &url).await?;
                    // The missing changes are still under way, or the watch lost them: it is restarted in both cases.
                    if self.apply_listing(&client, &url, listing).await? {
                        stream = self.watch(&client, &url).await?;
                        asked = false;
                        check_at = Instant::now() + WATCHDOG;
                    }
                    unsent = true;
                }
                FollowEvent::Watchdog => {
                    if asked {
                        return Err(SessionEnd::Failed(timed_out(&url)));
                    }
                    asked = true;
                    check_at = Instant::now() + WATCHDOG;
                    stream.request_progress().await.map_err(|error| describe_error(&url, &error))?;
                }
            }
        }
    }

    async fn list_and_watch(&mut self, client: &Client, url: &str) -> EtcdResult<WatchStream> {
        let listing = self.list(client, url).await?;
        self.apply_listing(client, url, listing).await?;
        self.watch(client, url).await
    }

    async fn list(&mut self, client: &Client, url: &str) -> EtcdResult<Listing> {
        let begun = std::time::Instant::now();
        let listing = list(client, url, &self.prefix, None).await?;
        self.listed = Some((begun, std::time::Instant::now()));
        Ok(listing)
    }

    /// Applies a listing; whether it differs from the changes that the watch reported.
    async fn apply_listing(&mut self, client: &Client, url: &str, listing: Listing) -> EtcdResult<bool> {
        let is_another = match self.replica.revision_to_verify(&listing) {
            None => false,
            Some(revision) => match list(client, url, &self.prefix, Some(revision)).await {
                Ok(past) => !self.replica.confirms(&past),
                // The past is compacted; a deletion is more likely than a restored store.
                Err(error) if error.kind == SourceErrorKind::Compacted => false,
                Err(error) => return Err(error),
            },
        };
        let outcome = self.replica.apply_listing(listing, is_another);
        if outcome.rolled_back {
            self.incidents.count(SourceErrorKind::WentBack);
            tracing::error!(
                source = self.prefix,
                "etcd store went back: it was wiped, restored or replaced; nothing is deleted because of it"
            );
        }
        Ok(outcome.changed)
    }

    async fn watch(&self, client: &Client, url: &str) -> EtcdResult<WatchStream> {
        let options =
            WatchOptions::new().with_range(prefix_end(&self.prefix)).with_start_revision(self.replica.watch_from());
        let mut watcher = client.watch_client().max_decoding_message_size(EVENT_BYTES_MAX);
        with_timeout(url, watcher.watch(self.prefix.as_bytes(), Some(options))).await
    }

    /// Applies a message of the watch; whether there is a new reading.
    fn apply_watch(&mut self, url: &str, response: &WatchResponse) -> EtcdResult<bool> {
        if response.canceled() {
            if response.compact_revision() > 0 {
                let message = format!("{url}: the watch fell behind: its revision was compacted");
                return Err(SourceError { kind: SourceErrorKind::Compacted, message });
            }
            return Err(watch_ended(url, response.cancel_reason()));
        }
        if let Some(header) = response.header()
            && self.replica.is_behind(header.cluster_id(), header.revision())
        {
            return Err(watch_ended(url, "the store went back to an older revision, or is another one"));
        }
        let changes = response.events().iter().filter_map(|event| {
            let pair = event.kv()?;
            let key = pair.key().strip_prefix(self.prefix.as_bytes())?.to_vec();
            let value = (event.event_type() == EventType::Put).then(|| pair.value().to_vec());
            Some(KeyChange { key, revision: pair.mod_revision(), value })
        });
        let changes: Vec<KeyChange> = changes.collect();
        Ok(self.replica.apply(changes))
    }

    /// Sends the current content. `false`: the receiver is closed.
    async fn send_reading(&mut self, client: &Client, url: &str) -> bool {
        let (error, base) = match self.replica.view() {
            ReplicaView::Complete(mut reading) => {
                reading.read = self.listed.take();
                self.sent_any = true;
                self.push_started = None;
                return self.sender.send(SourceEvent::Read(reading)).await.is_ok();
            }
            ReplicaView::PushInProgress { error, base } => (error, base),
        };
        let since = *self.push_started.get_or_insert_with(Instant::now);
        if self.sent_any && since.elapsed() < PUSH_GRACE {
            return true;
        }
        self.incidents.count(error.kind);
        if !self.sent_any
            && let Some(reading) = before_push(client, url, &self.prefix, base, &self.options.files).await
        {
            self.sent_any = true;
            if self.sender.send(SourceEvent::Read(reading)).await.is_err() {
                return false;
            }
        }
        self.sender.send(SourceEvent::Failed(error)).await.is_ok()
    }
}

/// The content before an unfinished push, for a broker that starts meanwhile. `None` where the store has compacted it.
async fn before_push(
    client: &Client,
    url: &str,
    prefix: &str,
    base: i64,
    files: &Path,
) -> Option<Box<crate::source::SourceReading>> {
    let listing = match list(client, url, prefix, Some(base)).await {
        Ok(listing) => listing,
        Err(error) => {
            tracing::warn!(%error, revision = base, "etcd read failed: the declaration before the unfinished push is unknown");
            return None;
        }
    };
    let mut replica = Replica::new(prefix, &format!("etcd {url}"), files, None);
    replica.apply_listing(listing, false);
    match replica.view() {
        ReplicaView::Complete(reading) => Some(reading),
        ReplicaView::PushInProgress { .. } => None,
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn watch_ended(url: &str, why: &str) -> SourceError {
    let message = format!("{url}: the watch ended{}{why}", if why.is_empty() { "" } else { ": " });
    SourceError { kind: SourceErrorKind::WatchEnded, message }
}

fn backoff(failures: u32) -> Duration {
    (BACKOFF.0 * 2_u32.saturating_pow(failures.saturating_sub(1).min(10))).min(BACKOFF.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_up_to_its_maximum() {
        let waits: Vec<u128> = [1, 2, 3, 7, 1000].map(|failures| backoff(failures).as_millis()).to_vec();
        assert_eq!(waits, [100, 200, 400, 5000, 5000]);
    }
}
