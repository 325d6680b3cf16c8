//! Keeps this broker's record in etcd under a lease, and follows the others'.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, EventType, LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper, PutOptions, Txn,
    TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchStream,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::convergence::DuplicateNames;
use crate::source::etcd::{
    EtcdAccess, EtcdResult, EtcdRoot, connect, describe_error, list_values, prefix_end, timed_out, with_timeout,
};
use crate::source::{SourceError, SourceErrorKind};
use crate::state::{ClusterView, NodeFacts, NodeRecord};
use crate::state::{SharedState, wall_clock};

/// The record of a dead broker expires after so long, seconds.
const LEASE_S: i64 = 10;
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Without an answer for so long, the lease counts as lost.
const LEASE_TIMEOUT: Duration = Duration::from_secs(9);
/// How often the number of clients is published where nothing else changes.
const CONNECTIONS_INTERVAL: Duration = Duration::from_secs(15);
/// Between two records, so that a burst of changes is published once.
const PUBLISH_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Between attempts to join: doubled each time.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long leaving may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The parameters of a membership.
pub struct ClusterMember {
    pub access: EtcdAccess,
    pub root: EtcdRoot,
    pub facts: NodeFacts,
    pub shared: Arc<SharedState>,
    /// How many clients there are.
    pub connections: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// Ends the membership.
#[derive(Debug)]
pub struct MemberHandle {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl MemberHandle {
    /// Leaves: deletes the record at once instead of letting its lease expire.
    pub async fn leave(self) {
        let _ended = self.stop.send(()); // it may have ended by itself
        if let Err(error) = tokio::time::timeout(LEAVE_TIMEOUT, self.task).await {
            tracing::debug!(%error, "cluster leave timed out: the record expires with its lease");
        }
    }
}

/// Joins, and stays a member until [`MemberHandle::leave`].
pub fn spawn_member(member: ClusterMember) -> MemberHandle {
    let (stop, mut stopped) = oneshot::channel();
    let joining = Some("this broker has not joined the cluster yet".to_owned());
    member.shared.publish_cluster(ClusterView { error: joining, ..ClusterView::default() });
    let task = tokio::spawn(async move {
        let mut membership = Membership::new(member);
        let mut failures: u32 = 0;
        loop {
            let mut joined = false;
            let error = tokio::select! {
                error = membership.session(&mut joined) => error,
                _ = &mut stopped => return membership.leave().await,
            };
            failures = if joined { 1 } else { failures.saturating_add(1) };
            membership.session_failed(&error, joined);
            let wait = (BACKOFF.0 * 2_u32.saturating_pow(failures.min(8) - 1)).min(BACKOFF.1);
            tokio::select! {
                () = tokio::time::sleep(crate::source::jittered(wait)) => {}
                _ = &mut stopped => return membership.leave().await,
            }
        }
    });
    MemberHandle { stop, task }
}

/// A member's state over its sessions.
struct Membership {
    member: ClusterMember,
    prefix: String,
    next_server: usize,
    lease: Option<(Client, String, i64)>,
    /// By key below `nodes/`; our own is among them.
    records: BTreeMap<String, NodeRecord>,
    duplicates: DuplicateNames,
    reported: BTreeSet<String>,
    error: Option<String>,
}

/// The connection of one session.
struct LeaseSession {
    client: Client,
    url: String,
    lease: i64,
    /// Our key below `nodes/`.
    key: String,
    published: NodeRecord,
    published_at: Instant,
    alive_at: Instant,
}

enum MemberEvent {
    Changed,
    Watched(Option<Box<WatchResponse>>),
    LeaseRenewed(Option<LeaseKeepAliveResponse>),
    Tick,
    FindDuplicateNames,
}

impl Membership {
    fn new(member: ClusterMember) -> Self {
        Self {
            prefix: member.root.nodes(),
            member,
            next_server: 0,
            lease: None,
            records: BTreeMap::new(),
            duplicates: DuplicateNames::default(),
            reported: BTreeSet::new(),
            error: None,
        }
    }

    fn record(&self) -> NodeRecord {
        NodeRecord::new(&self.member.shared.load(), &self.member.facts, (self.member.connections)())
    }

    fn session_failed(&mut self, error: &SourceError, joined: bool) {
        self.next_server = self.next_server.wrapping_add(1);
        // A session that broke is not reported if the next one succeeds.
        if joined || self.error.as_ref() == Some(&error.message) {
            return;
        }
        tracing::warn!("cluster membership lost: {error}");
        self.error = Some(error.message.clone());
        self.publish();
    }

    /// Deletes the record by revoking its lease.
    async fn leave(self) {
        if let Some((client, url, lease)) = self.lease
            && let Err(error) = with_timeout(&url, client.lease_client().revoke(lease)).await
        {
            tracing::debug!(%error, "cluster lease revoke failed: the lease expires");
        }
    }

    /// Comes in and stays until something fails.
    async fn session(&mut self, joined: &mut bool) -> SourceError {
        match self.join(joined).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn join(&mut self, joined: &mut bool) -> EtcdResult<std::convert::Infallible> {
        let (client, url) = connect(&self.member.access, self.next_server).await?;
        let granted = with_timeout(&url, client.lease_client().grant(LEASE_S, None)).await?;
        let lease = granted.id();
        self.lease = Some((client.clone(), url.clone(), lease));
        let mut changes = self.member.shared.subscribe();
        let (key, published) = self.claim(&client, &url, lease).await?;
        let (keeper, renewals) = with_timeout(&url, client.lease_client().keep_alive(lease)).await?;
        let now = Instant::now();
        let mut session = LeaseSession { client, url, lease, key, published, published_at: now, alive_at: now };
        let watch = self.list_and_watch(&session).await?;
        *joined = true;
        if self.error.take().is_some() {
            tracing::info!("cluster membership restored");
        }
        self.publish();
        self.maintain(&mut session, &mut changes, watch, keeper, renewals).await
    }

    async fn maintain(
        &mut self,
        session: &mut LeaseSession,
        changes: &mut tokio::sync::watch::Receiver<u64>,
        mut watch: WatchStream,
        mut keeper: LeaseKeeper,
        mut renewals: LeaseKeepAliveStream,
    ) -> EtcdResult<std::convert::Infallible> {
        let mut tick = tokio::time::interval(KEEP_ALIVE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let duplicate_names = self.find_duplicate_names();
            let event = tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => MemberEvent::Changed,
                    Err(_) => std::future::pending().await,
                },
                message = watch.message() => MemberEvent::Watched(
                    message.map_err(|error| describe_error(&session.url, &error))?.map(Box::new),
                ),
                message = renewals.message() => MemberEvent::LeaseRenewed(message.map_err(|error| describe_error(&session.url, &error))?),
                _ = tick.tick() => MemberEvent::Tick,
                () = duplicate_names => MemberEvent::FindDuplicateNames,
            };
            match event {
                MemberEvent::Changed => self.publish_record(session, false).await?,
                MemberEvent::Watched(Some(response)) => self.apply_watch(session, &response).await?,
                MemberEvent::LeaseRenewed(Some(response)) if response.ttl() > 0 => session.alive_at = Instant::now(),
                MemberEvent::Watched(None) => return Err(ended(&session.url, "the watch on the brokers ended")),
                MemberEvent::LeaseRenewed(_) => return Err(ended(&session.url, "the lease has ended")),
                MemberEvent::Tick => {
                    if session.alive_at.elapsed() > LEASE_TIMEOUT {
                        return Err(timed_out(&session.url));
                    }
                    keeper.keep_alive().await.map_err(|error| describe_error(&session.url, &error))?;
                    self.publish_record(session, session.published_at.elapsed() >= CONNECTIONS_INTERVAL).await?;
                }
                MemberEvent::FindDuplicateNames => self.publish(),
            }
        }
    }

    /// Takes the key of this broker's name; where another broker has it, a key beside it.
    async fn claim(&self, client: &Client, url: &str, lease: i64) -> EtcdResult<(String, NodeRecord)> {
        let record = self.record();
        let name = record.name.clone();
        let first = self.try_claim(client, url, lease, &name, &record).await?;
        let holder = match first {
            KeyClaim::Acquired => return Ok((name, record)),
            KeyClaim::Held(holder) => holder,
        };
        let beside = format!("{name}~{}", record.instance);
        if holder.as_ref() == Some(&record.instance) {
            // Our own, of a lease that we lost sight of.
            self.put(client, url, lease, &name, &record).await?;
            return Ok((name, record));
        }
        self.put(client, url, lease, &beside, &record).await?;
        Ok((beside, record))
    }

    async fn try_claim(
        &self,
        client: &Client,
        url: &str,
        lease: i64,
        key: &str,
        record: &NodeRecord,
    ) -> EtcdResult<KeyClaim> {
        let whole = format!("{}{key}", self.prefix);
        let options = PutOptions::new().with_lease(lease);
        let transaction = Txn::new()
            .when(vec![Compare::create_revision(whole.as_str(), CompareOp::Equal, 0)])
            .and_then(vec![TxnOp::put(whole.as_str(), record.to_bytes(), Some(options))])
            .or_else(vec![TxnOp::get(whole.as_str(), None)]);
        let response = with_timeout(url, client.kv_client().txn(transaction)).await?;
        if response.succeeded() {
            return Ok(KeyClaim::Acquired);
        }
        let holder = response.op_responses().into_iter().find_map(|operation| match operation {
            TxnOpResponse::Get(got) => Some(NodeRecord::parse(got.kvs().first()?.value()).ok()?.instance),
            _ => None,
        });
        Ok(KeyClaim::Held(holder))
    }

    async fn put(&self, client: &Client, url: &str, lease: i64, key: &str, record: &NodeRecord) -> EtcdResult<()> {
        let options = PutOptions::new().with_lease(lease);
        let key = format!("{}{key}", self.prefix);
        with_timeout(url, client.kv_client().put(key, record.to_bytes(), Some(options))).await.map(drop)
    }

    /// Publishes the record if it changed; with `with_connections`, also if only the number of clients changed.
    async fn publish_record(&mut self, session: &mut LeaseSession, with_connections: bool) -> EtcdResult<()> {
        let record = self.record();
        let differs = !record.is_same(&session.published) || (with_connections && record != session.published);
        if !differs {
            return Ok(());
        }
        if session.published_at.elapsed() < PUBLISH_INTERVAL_MIN {
            tokio::time::sleep(PUBLISH_INTERVAL_MIN).await;
        }
        let record = self.record();
        self.put(&session.client, &session.url, session.lease, &session.key, &record).await?;
        session.published = record;
        session.published_at = Instant::now();
        Ok(())
    }

    /// Reads all records, and watches from there on.
    async fn list_and_watch(&mut self, session: &LeaseSession) -> EtcdResult<WatchStream> {
        let (revision, values) = list_values(&session.client, &session.url, &self.prefix).await?;
        self.records.clear();
        for (key, value) in values {
            self.store_record(key, &value);
        }
        let options = WatchOptions::new().with_range(prefix_end(&self.prefix)).with_start_revision(revision + 1);
        let mut watcher = session.client.watch_client();
        with_timeout(&session.url, watcher.watch(self.prefix.as_bytes(), Some(options))).await
    }

    fn store_record(&mut self, key: String, value: &[u8]) {
        match NodeRecord::parse(value) {
            Ok(record) => drop(self.records.insert(key, record)),
            Err(why) => {
                tracing::warn!(key, "cluster record unreadable: {why}");
                self.records.remove(&key);
            }
        }
    }

    async fn apply_watch(&mut self, session: &mut LeaseSession, response: &WatchResponse) -> EtcdResult<()> {
        if response.canceled() {
            return Err(ended(&session.url, "the watch on the brokers was canceled"));
        }
        let mut name_is_free = false;
        for event in response.events() {
            let Some(pair) = event.kv() else { continue };
            let Some(key) = pair.key().strip_prefix(self.prefix.as_bytes()) else { continue };
            let key = String::from_utf8_lossy(key).into_owned();
            if event.event_type() == EventType::Put {
                self.store_record(key, pair.value());
            } else {
                name_is_free |= key == session.published.name;
                if key == session.key {
                    return Err(ended(&session.url, "this broker's record was deleted"));
                }
                self.records.remove(&key);
            }
        }
        if name_is_free && session.key != session.published.name {
            self.take_over_name(session).await?;
        }
        if !response.events().is_empty() {
            self.publish();
        }
        Ok(())
    }

    /// Takes the key of this broker's name after its former holder has left.
    async fn take_over_name(&mut self, session: &mut LeaseSession) -> EtcdResult<()> {
        let record = self.record();
        let claim = self.try_claim(&session.client, &session.url, session.lease, &record.name, &record).await?;
        if matches!(claim, KeyClaim::Held(_)) {
            return Ok(());
        }
        let beside = std::mem::replace(&mut session.key, record.name.clone());
        session.published = record;
        let old = format!("{}{beside}", self.prefix);
        with_timeout(&session.url, session.client.kv_client().delete(old, None)).await.map(drop)
    }

    /// Resolves when the set of duplicate names has changed.
    fn find_duplicate_names(&mut self) -> impl Future<Output = ()> + use<> {
        let now = wall_clock();
        let (duplicates, next) = self.duplicates.observe(self.records.values(), now);
        // A name may have passed the grace time since the last check.
        let next = if duplicates == self.reported { next } else { Some(now) };
        async move {
            match next {
                Some(at) => tokio::time::sleep(Duration::from_millis(at.since_ms(now).max(1))).await,
                None => std::future::pending().await,
            }
        }
    }

    fn publish(&mut self) {
        let (duplicates, _) = self.duplicates.observe(self.records.values(), wall_clock());
        for name in duplicates.difference(&self.reported) {
            let places: Vec<String> = self
                .records
                .values()
                .filter(|record| record.name == *name)
                .map(|record| format!("{} ({})", record.instance, record.status_url.as_deref().unwrap_or("no status")))
                .collect();
            tracing::error!(name, "duplicate node name: {}; give each broker its own --node-name", places.join(", "));
        }
        self.reported.clone_from(&duplicates);
        let instance = &self.member.facts.instance;
        let others = self.records.values().filter(|record| record.instance != *instance).cloned().collect();
        let view = ClusterView { others, duplicates, error: self.error.clone() };
        self.member.shared.publish_cluster(view);
    }
}

/// The holder of a key.
enum KeyClaim {
    Acquired,
    /// By the broker of this instance, where its record is understood.
    Held(Option<String>),
}

fn ended(url: &str, what: &str) -> SourceError {
    SourceError { kind: SourceErrorKind::WatchEnded, message: format!("{url}: {what}") }
}
