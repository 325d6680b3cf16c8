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

use super::convergence::Coexistence;
use crate::source::etcd::{
    EtcdAccess, EtcdResult, EtcdRoot, answered, connect, explained, list_values, prefix_end, silent,
};
use crate::source::{SourceError, TroubleKind};
use crate::state::{ClusterView, NodeFacts, NodeRecord};
use crate::state::{SharedState, wall_clock};

/// A broker that died is gone after so long, seconds.
const LEASE_S: i64 = 10;
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Without an answer for so long, the lease is as good as gone.
const LEASE_SILENCE: Duration = Duration::from_secs(9);
/// How often the number of clients is told where nothing else changes.
const CONNECTIONS_EVERY: Duration = Duration::from_secs(15);
/// Between two records, so that a burst of changes is told once.
const PAUSE: Duration = Duration::from_millis(50);
/// Between attempts to come in: doubled each time.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long leaving may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// What makes a broker a member.
pub struct Member {
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
    /// Leaves: the record goes at once, and not when its lease ends.
    pub async fn leave(self) {
        let _ended = self.stop.send(()); // it may have ended by itself
        if let Err(error) = tokio::time::timeout(LEAVE_WITHIN, self.task).await {
            tracing::debug!(%error, "leaving took too long; the record goes with its lease");
        }
    }
}

/// Comes in, and stays until told to leave.
pub fn spawn_member(member: Member) -> MemberHandle {
    let (stop, mut stopped) = oneshot::channel();
    let joining = Some("this broker has yet to meet the others".to_owned());
    member.shared.publish_cluster(ClusterView { trouble: joining, ..ClusterView::default() });
    let task = tokio::spawn(async move {
        let mut stay = Stay::new(member);
        let mut failures: u32 = 0;
        loop {
            let mut inside = false;
            let error = tokio::select! {
                error = stay.session(&mut inside) => error,
                _ = &mut stopped => return stay.leave().await,
            };
            failures = if inside { 1 } else { failures.saturating_add(1) };
            stay.trouble(&error, inside);
            let wait = (BACKOFF.0 * 2_u32.saturating_pow(failures.min(8) - 1)).min(BACKOFF.1);
            tokio::select! {
                () = tokio::time::sleep(crate::source::jittered(wait)) => {}
                _ = &mut stopped => return stay.leave().await,
            }
        }
    });
    MemberHandle { stop, task }
}

/// A member's state over its sessions.
struct Stay {
    member: Member,
    prefix: String,
    turn: usize,
    lease: Option<(Client, String, i64)>,
    /// By key below `nodes/`; our own is among them.
    records: BTreeMap<String, NodeRecord>,
    coexistence: Coexistence,
    reported: BTreeSet<String>,
    trouble: Option<String>,
}

/// What a session works with.
struct Session {
    client: Client,
    url: String,
    lease: i64,
    /// Our key below `nodes/`.
    key: String,
    told: NodeRecord,
    told_at: Instant,
    alive_at: Instant,
}

enum Step {
    Changed,
    Watched(Option<Box<WatchResponse>>),
    Kept(Option<LeaseKeepAliveResponse>),
    Tick,
    LookForTwins,
}

impl Stay {
    fn new(member: Member) -> Self {
        Self {
            prefix: member.root.nodes(),
            member,
            turn: 0,
            lease: None,
            records: BTreeMap::new(),
            coexistence: Coexistence::default(),
            reported: BTreeSet::new(),
            trouble: None,
        }
    }

    fn record(&self) -> NodeRecord {
        NodeRecord::of(&self.member.shared.load(), &self.member.facts, (self.member.connections)())
    }

    fn trouble(&mut self, error: &SourceError, inside: bool) {
        self.turn = self.turn.wrapping_add(1);
        // A session that broke is no trouble if the next one comes about.
        if inside || self.trouble.as_ref() == Some(&error.message) {
            return;
        }
        tracing::warn!("the other brokers are not seen, nor is this one by them: {error}");
        self.trouble = Some(error.message.clone());
        self.publish();
    }

    /// The record goes at once.
    async fn leave(self) {
        if let Some((client, url, lease)) = self.lease
            && let Err(error) = answered(&url, client.lease_client().revoke(lease)).await
        {
            tracing::debug!(%error, "the lease was not revoked; it ends by itself");
        }
    }

    /// Comes in and stays until something fails.
    async fn session(&mut self, inside: &mut bool) -> SourceError {
        match self.stay(inside).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn stay(&mut self, inside: &mut bool) -> EtcdResult<std::convert::Infallible> {
        let (client, url) = connect(&self.member.access, self.turn).await?;
        let granted = answered(&url, client.lease_client().grant(LEASE_S, None)).await?;
        let lease = granted.id();
        self.lease = Some((client.clone(), url.clone(), lease));
        let mut changes = self.member.shared.subscribe();
        let (key, told) = self.claim(&client, &url, lease).await?;
        let (keeper, kept) = answered(&url, client.lease_client().keep_alive(lease)).await?;
        let now = Instant::now();
        let mut session = Session { client, url, lease, key, told, told_at: now, alive_at: now };
        let watch = self.look_around(&session).await?;
        *inside = true;
        if self.trouble.take().is_some() {
            tracing::info!("the other brokers are seen again");
        }
        self.publish();
        self.attend(&mut session, &mut changes, watch, keeper, kept).await
    }

    async fn attend(
        &mut self,
        session: &mut Session,
        changes: &mut tokio::sync::watch::Receiver<u64>,
        mut watch: WatchStream,
        mut keeper: LeaseKeeper,
        mut kept: LeaseKeepAliveStream,
    ) -> EtcdResult<std::convert::Infallible> {
        let mut tick = tokio::time::interval(KEEP_ALIVE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let twins = self.look_for_twins();
            let step = tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => Step::Changed,
                    Err(_) => std::future::pending().await,
                },
                message = watch.message() => Step::Watched(
                    message.map_err(|error| explained(&session.url, &error))?.map(Box::new),
                ),
                message = kept.message() => Step::Kept(message.map_err(|error| explained(&session.url, &error))?),
                _ = tick.tick() => Step::Tick,
                () = twins => Step::LookForTwins,
            };
            match step {
                Step::Changed => self.tell(session, false).await?,
                Step::Watched(Some(response)) => self.note(session, &response).await?,
                Step::Kept(Some(response)) if response.ttl() > 0 => session.alive_at = Instant::now(),
                Step::Watched(None) => return Err(ended(&session.url, "the watch on the brokers ended")),
                Step::Kept(_) => return Err(ended(&session.url, "the lease has ended")),
                Step::Tick => {
                    if session.alive_at.elapsed() > LEASE_SILENCE {
                        return Err(silent(&session.url));
                    }
                    keeper.keep_alive().await.map_err(|error| explained(&session.url, &error))?;
                    self.tell(session, session.told_at.elapsed() >= CONNECTIONS_EVERY).await?;
                }
                Step::LookForTwins => self.publish(),
            }
        }
    }

    /// Takes the key of our name; where somebody else has it, one beside it.
    async fn claim(&self, client: &Client, url: &str, lease: i64) -> EtcdResult<(String, NodeRecord)> {
        let record = self.record();
        let name = record.name.clone();
        let first = self.try_claim(client, url, lease, &name, &record).await?;
        let holder = match first {
            Claim::Ours => return Ok((name, record)),
            Claim::Held(holder) => holder,
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
    ) -> EtcdResult<Claim> {
        let whole = format!("{}{key}", self.prefix);
        let options = PutOptions::new().with_lease(lease);
        let transaction = Txn::new()
            .when(vec![Compare::create_revision(whole.as_str(), CompareOp::Equal, 0)])
            .and_then(vec![TxnOp::put(whole.as_str(), record.to_bytes(), Some(options))])
            .or_else(vec![TxnOp::get(whole.as_str(), None)]);
        let response = answered(url, client.kv_client().txn(transaction)).await?;
        if response.succeeded() {
            return Ok(Claim::Ours);
        }
        let holder = response.op_responses().into_iter().find_map(|operation| match operation {
            TxnOpResponse::Get(got) => Some(NodeRecord::parse(got.kvs().first()?.value()).ok()?.instance),
            _ => None,
        });
        Ok(Claim::Held(holder))
    }

    async fn put(&self, client: &Client, url: &str, lease: i64, key: &str, record: &NodeRecord) -> EtcdResult<()> {
        let options = PutOptions::new().with_lease(lease);
        let key = format!("{}{key}", self.prefix);
        answered(url, client.kv_client().put(key, record.to_bytes(), Some(options))).await.map(drop)
    }

    /// Tells what changed; with `with_connections`, how many clients there are, too.
    async fn tell(&mut self, session: &mut Session, with_connections: bool) -> EtcdResult<()> {
        let record = self.record();
        let differs = !record.is_same(&session.told) || (with_connections && record != session.told);
        if !differs {
            return Ok(());
        }
        if session.told_at.elapsed() < PAUSE {
            tokio::time::sleep(PAUSE).await;
        }
        let record = self.record();
        self.put(&session.client, &session.url, session.lease, &session.key, &record).await?;
        session.told = record;
        session.told_at = Instant::now();
        Ok(())
    }

    /// Reads all records, and watches from there on.
    async fn look_around(&mut self, session: &Session) -> EtcdResult<WatchStream> {
        let (revision, values) = list_values(&session.client, &session.url, &self.prefix).await?;
        self.records.clear();
        for (key, value) in values {
            self.take(key, &value);
        }
        let options = WatchOptions::new().with_range(prefix_end(&self.prefix)).with_start_revision(revision + 1);
        let mut watcher = session.client.watch_client();
        answered(&session.url, watcher.watch(self.prefix.as_bytes(), Some(options))).await
    }

    fn take(&mut self, key: String, value: &[u8]) {
        match NodeRecord::parse(value) {
            Ok(record) => drop(self.records.insert(key, record)),
            Err(why) => {
                tracing::warn!(key, "not a broker's record: {why}");
                self.records.remove(&key);
            }
        }
    }

    async fn note(&mut self, session: &mut Session, response: &WatchResponse) -> EtcdResult<()> {
        if response.canceled() {
            return Err(ended(&session.url, "the watch on the brokers was ended"));
        }
        let mut name_is_free = false;
        for event in response.events() {
            let Some(pair) = event.kv() else { continue };
            let Some(key) = pair.key().strip_prefix(self.prefix.as_bytes()) else { continue };
            let key = String::from_utf8_lossy(key).into_owned();
            if event.event_type() == EventType::Put {
                self.take(key, pair.value());
            } else {
                name_is_free |= key == session.told.name;
                if key == session.key {
                    return Err(ended(&session.url, "this broker's record was deleted"));
                }
                self.records.remove(&key);
            }
        }
        if name_is_free && session.key != session.told.name {
            self.take_over_name(session).await?;
        }
        if !response.events().is_empty() {
            self.publish();
        }
        Ok(())
    }

    /// Whoever had our name is gone: its key is ours.
    async fn take_over_name(&mut self, session: &mut Session) -> EtcdResult<()> {
        let record = self.record();
        let claim = self.try_claim(&session.client, &session.url, session.lease, &record.name, &record).await?;
        if matches!(claim, Claim::Held(_)) {
            return Ok(());
        }
        let beside = std::mem::replace(&mut session.key, record.name.clone());
        session.told = record;
        let old = format!("{}{beside}", self.prefix);
        answered(&session.url, session.client.kv_client().delete(old, None)).await.map(drop)
    }

    /// Comes when what is to be said of names that are taken twice has changed.
    fn look_for_twins(&mut self) -> impl Future<Output = ()> + use<> {
        let now = wall_clock();
        let (duplicates, next) = self.coexistence.observe(self.records.values(), now);
        // It may have become long since it was looked at last.
        let next = if duplicates == self.reported { next } else { Some(now) };
        async move {
            match next {
                Some(at) => tokio::time::sleep(Duration::from_millis(at.since_ms(now).max(1))).await,
                None => std::future::pending().await,
            }
        }
    }

    fn publish(&mut self) {
        let (duplicates, _) = self.coexistence.observe(self.records.values(), wall_clock());
        for name in duplicates.difference(&self.reported) {
            let places: Vec<String> = self
                .records
                .values()
                .filter(|record| record.name == *name)
                .map(|record| format!("{} ({})", record.instance, record.status_url.as_deref().unwrap_or("no status")))
                .collect();
            tracing::error!(name, "two brokers have one name: {}; give one another --node-name", places.join(", "));
        }
        self.reported.clone_from(&duplicates);
        let instance = &self.member.facts.instance;
        let others = self.records.values().filter(|record| record.instance != *instance).cloned().collect();
        let view = ClusterView { others, duplicates, trouble: self.trouble.clone() };
        self.member.shared.publish_cluster(view);
    }
}

/// Who has a key.
enum Claim {
    Ours,
    /// By the broker of this instance, where its record is understood.
    Held(Option<String>),
}

fn ended(url: &str, what: &str) -> SourceError {
    SourceError { kind: TroubleKind::WatchEnded, message: format!("{url}: {what}") }
}
