//! Follows a prefix: lists it, watches from there on, and begins anew whenever the watch is no longer to be trusted.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::client::{EtcdResult, answered, connect, explained, list, prefix_end, silent};
use super::options::EtcdOptions;
use super::replica::{Change, Known, Listing, Replica, View};
use crate::source::{Incidents, SourceError, SourceEvent, SourceHandle, TroubleKind, jittered};

/// A watch on which nothing came for so long is asked whether it lives; without an answer for as long again, it does not.
const WATCHDOG: Duration = Duration::from_secs(5);
/// Between attempts: doubled each time, from the first to the second; each half to one and a half of it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A session of so long was a good one: the next failure is the first again.
const GOOD_SESSION: Duration = Duration::from_secs(10);
/// A push takes its time; one that has not ended after so long is trouble.
const PUSH_GRACE: Duration = Duration::from_secs(5);
/// Bytes of one message of a watch.
const EVENT_BYTES_MAX: usize = 192 << 20;

/// Follows an etcd prefix. `known` is what an earlier run left.
pub fn spawn_etcd(options: EtcdOptions, known: Option<Known>) -> SourceHandle {
    let (tell, events) = mpsc::channel(1);
    let nudge = Arc::new(Notify::new());
    let location = options.location();
    let mut handle = SourceHandle::new("etcd", location.clone(), events, Arc::clone(&nudge));
    let incidents = Arc::new(Incidents::default());
    handle.incidents = Arc::clone(&incidents);
    let prefix = options.root.documents();
    let replica = Replica::new(&prefix, &format!("etcd {location}"), &options.files, known);
    let follower = Follower {
        prefix,
        replica,
        tell,
        nudge,
        incidents,
        told_any: false,
        half_since: None,
        listed: None,
        turn: 0,
        options,
    };
    tokio::spawn(follower.run());
    handle
}

struct Follower {
    options: EtcdOptions,
    prefix: String,
    replica: Replica,
    tell: mpsc::Sender<SourceEvent>,
    nudge: Arc<Notify>,
    incidents: Arc<Incidents>,
    /// Whether a reading was ever handed over.
    told_any: bool,
    /// Since when a push has begun and not ended.
    half_since: Option<Instant>,
    /// When everything was listed, where that was not handed over yet.
    listed: Option<(std::time::Instant, std::time::Instant)>,
    /// Whose turn it is among the servers.
    turn: usize,
}

/// Why a session ended.
enum Ended {
    NobodyListens,
    Failed(SourceError),
}

impl From<SourceError> for Ended {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

/// One turn of the session's loop.
enum Step {
    /// What is there can be handed over.
    Tell,
    Watched(Box<WatchResponse>),
    List,
    Watchdog,
    /// A push takes too long.
    HalfPushed,
}

impl Follower {
    /// Until nobody listens.
    async fn run(mut self) {
        let mut failures = 0;
        loop {
            let begun = Instant::now();
            let mut watching = false;
            let error = match self.session(&mut watching).await {
                Ended::NobodyListens => return,
                Ended::Failed(error) => error,
            };
            self.incidents.count(error.kind);
            tracing::debug!(%error, kind = error.kind.as_str(), watching, "a session with etcd ended");
            if begun.elapsed() >= GOOD_SESSION {
                failures = 0;
            }
            failures += 1;
            // A session that broke is no trouble if the next one comes about.
            if (!watching || failures > 1) && self.tell.send(SourceEvent::Trouble(error.clone())).await.is_err() {
                return;
            }
            self.turn = self.turn.wrapping_add(1);
            if !self.rest(backoff(failures), &error).await {
                return;
            }
        }
    }

    /// Waits; a nudge is answered by what is known. `false`: nobody listens any more.
    async fn rest(&self, wait: Duration, error: &SourceError) -> bool {
        let until = Instant::now() + jittered(wait);
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                () = self.tell.closed() => return false,
                () = self.nudge.notified() => {
                    if self.tell.send(SourceEvent::Trouble(error.clone())).await.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    async fn session(&mut self, watching: &mut bool) -> Ended {
        match self.follow(watching).await {
            Ok(()) => Ended::NobodyListens,
            Err(ended) => ended,
        }
    }

    /// Lists and watches, until something fails or nobody listens.
    async fn follow(&mut self, watching: &mut bool) -> Result<(), Ended> {
        let (client, url) = connect(&self.options.access, self.turn).await?;
        let mut stream = self.list_and_watch(&client, &url).await?;
        *watching = true;
        let (tell, nudge) = (self.tell.clone(), Arc::clone(&self.nudge));
        let mut untold = true;
        let mut asked = false;
        let mut check_at = Instant::now() + WATCHDOG;
        let mut list_at = Instant::now() + jittered(self.options.resync);
        loop {
            let half_at = self.half_since.map(|since| since + PUSH_GRACE).filter(|at| *at > Instant::now());
            let step = tokio::select! {
                biased;
                permit = tell.reserve(), if untold => match permit {
                    Ok(_unused) => Step::Tell,
                    Err(_) => return Ok(()),
                },
                () = tell.closed() => return Ok(()),
                message = stream.message() => match message {
                    Ok(Some(response)) => Step::Watched(Box::new(response)),
                    Ok(None) => return Err(Ended::Failed(watch_ended(&url, "the stream ended"))),
                    Err(error) => return Err(Ended::Failed(explained(&url, &error))),
                },
                () = nudge.notified() => Step::List,
                () = tokio::time::sleep_until(list_at) => Step::List,
                () = tokio::time::sleep_until(check_at) => Step::Watchdog,
                () = due(half_at) => Step::HalfPushed,
            };
            match step {
                Step::HalfPushed => untold = true,
                Step::Tell => {
                    untold = false;
                    if !self.hand_over(&client, &url).await {
                        return Ok(());
                    }
                }
                Step::Watched(response) => {
                    asked = false;
                    check_at = Instant::now() + WATCHDOG;
                    untold |= self.note(&url, &response)?;
                }
                Step::List => {
                    list_at = Instant::now() + jittered(self.options.resync);
                    let listing = self.list(&client, &url).await?;
                    // What the watch has not told is either under way, or it never will: it begins anew in both cases.
                    if self.adopt(&client, &url, listing).await? {
                        stream = self.watch(&client, &url).await?;
                        asked = false;
                        check_at = Instant::now() + WATCHDOG;
                    }
                    untold = true;
                }
                Step::Watchdog => {
                    if asked {
                        return Err(Ended::Failed(silent(&url)));
                    }
                    asked = true;
                    check_at = Instant::now() + WATCHDOG;
                    stream.request_progress().await.map_err(|error| explained(&url, &error))?;
                }
            }
        }
    }

    async fn list_and_watch(&mut self, client: &Client, url: &str) -> EtcdResult<WatchStream> {
        let listing = self.list(client, url).await?;
        self.adopt(client, url, listing).await?;
        self.watch(client, url).await
    }

    async fn list(&mut self, client: &Client, url: &str) -> EtcdResult<Listing> {
        let begun = std::time::Instant::now();
        let listing = list(client, url, &self.prefix, None).await?;
        self.listed = Some((begun, std::time::Instant::now()));
        Ok(listing)
    }

    /// Says whether anything differs from what the watch has told.
    async fn adopt(&mut self, client: &Client, url: &str, listing: Listing) -> EtcdResult<bool> {
        let is_another = match self.replica.doubt(&listing) {
            None => false,
            Some(revision) => match list(client, url, &self.prefix, Some(revision)).await {
                Ok(past) => !self.replica.is_borne_out(&past),
                // Nobody can tell any longer, and deletions are meant more often than stores are restored.
                Err(error) if error.kind == TroubleKind::Compacted => false,
                Err(error) => return Err(error),
            },
        };
        let adopted = self.replica.adopt(listing, is_another);
        if adopted.went_back {
            self.incidents.count(TroubleKind::WentBack);
            tracing::error!(
                source = self.prefix,
                "the store is behind what it told before: it was wiped, restored, or is another one; nothing is deleted for it"
            );
        }
        Ok(adopted.changed)
    }

    async fn watch(&self, client: &Client, url: &str) -> EtcdResult<WatchStream> {
        let options =
            WatchOptions::new().with_range(prefix_end(&self.prefix)).with_start_revision(self.replica.watch_from());
        let mut watcher = client.watch_client().max_decoding_message_size(EVENT_BYTES_MAX);
        answered(url, watcher.watch(self.prefix.as_bytes(), Some(options))).await
    }

    /// What a message of the watch means; whether there is something new to tell.
    fn note(&mut self, url: &str, response: &WatchResponse) -> EtcdResult<bool> {
        if response.canceled() {
            if response.compact_revision() > 0 {
                let message = format!("{url}: the watch fell behind: its revision was compacted");
                return Err(SourceError { kind: TroubleKind::Compacted, message });
            }
            return Err(watch_ended(url, response.cancel_reason()));
        }
        if let Some(header) = response.header()
            && self.replica.is_behind(header.cluster_id(), header.revision())
        {
            return Err(watch_ended(url, "the store is behind what it told before"));
        }
        let changes = response.events().iter().filter_map(|event| {
            let pair = event.kv()?;
            let key = pair.key().strip_prefix(self.prefix.as_bytes())?.to_vec();
            let value = (event.event_type() == EventType::Put).then(|| pair.value().to_vec());
            Some(Change { key, revision: pair.mod_revision(), value })
        });
        let changes: Vec<Change> = changes.collect();
        Ok(self.replica.apply(changes))
    }

    /// Tells what is there now. `false`: nobody listens.
    async fn hand_over(&mut self, client: &Client, url: &str) -> bool {
        let (error, base) = match self.replica.view() {
            View::Whole(mut reading) => {
                reading.read = self.listed.take();
                self.told_any = true;
                self.half_since = None;
                return self.tell.send(SourceEvent::Read(reading)).await.is_ok();
            }
            View::Half { error, base } => (error, base),
        };
        let since = *self.half_since.get_or_insert_with(Instant::now);
        if self.told_any && since.elapsed() < PUSH_GRACE {
            return true;
        }
        self.incidents.count(error.kind);
        if !self.told_any
            && let Some(reading) = before_push(client, url, &self.prefix, base, &self.options.files).await
        {
            self.told_any = true;
            if self.tell.send(SourceEvent::Read(reading)).await.is_err() {
                return false;
            }
        }
        self.tell.send(SourceEvent::Trouble(error)).await.is_ok()
    }
}

/// What held before a push that has not ended: a broker that starts meanwhile has nothing else to serve. `None` where the
/// store no longer knows it.
async fn before_push(
    client: &Client,
    url: &str,
    prefix: &str,
    base: i64,
    files: &Path,
) -> Option<Box<crate::source::Reading>> {
    let listing = match list(client, url, prefix, Some(base)).await {
        Ok(listing) => listing,
        Err(error) => {
            tracing::warn!(%error, revision = base, "what was declared before the push that has not ended is not known");
            return None;
        }
    };
    let mut replica = Replica::new(prefix, &format!("etcd {url}"), files, None);
    replica.adopt(listing, false);
    match replica.view() {
        View::Whole(reading) => Some(reading),
        View::Half { .. } => None,
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
    SourceError { kind: TroubleKind::WatchEnded, message }
}

fn backoff(failures: u32) -> Duration {
    (BACKOFF.0 * 2_u32.saturating_pow(failures.saturating_sub(1).min(10))).min(BACKOFF.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_grow_rarer_up_to_a_bound() {
        let waits: Vec<u128> = [1, 2, 3, 7, 1000].map(|failures| backoff(failures).as_millis()).to_vec();
        assert_eq!(waits, [100, 200, 400, 5000, 5000]);
    }
}
