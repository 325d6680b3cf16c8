//! The engine of a cluster: NATS. Core NATS carries envelopes between nodes, JetStream holds heartbeats, the slot table
//! and the retained log.
//!
//! It owns the connections, the subjects and the streams, and reports everything as [`EngineEvent`]s. It does not know
//! what envelopes, heartbeats and retained messages mean, and never decides which node is in.
//!
//! | subject | stream | what |
//! | --- | --- | --- |
//! | `weir.CLUSTER.link.INCARNATION` | | envelopes for a node |
//! | `weir.CLUSTER.members.NODE` | `weir_CLUSTER_members` | heartbeats; one kept per node; `=` stands for a dot of the name |
//! | `weir.CLUSTER.slots` | `weir_CLUSTER_slots` | the slot table: which node has which sessions |
//! | `weir.CLUSTER.retained.HASH` | `weir_CLUSTER_retained` | retained messages by topic, with a time to live; the nodes remove what a newer one replaces |
//!
//! A user of the engine needs to publish and subscribe to `weir.CLUSTER.>`, to publish to `$JS.API.>`, and to subscribe to
//! `_INBOX.>`.

mod appender;
mod connect;
mod counters;
mod discovery;
mod error;
mod events;
mod links;
mod members;
mod monitor;
mod options;
mod reader;
mod retained;
mod slots;
mod srv;
mod store;
mod streams;
mod subjects;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use appender::{Appender, WAITING_BYTES_MAX, WAITING_MAX};
use connect::Connected;
use counters::Counters;
use events::{EventSender, ReceiverEnded};
use links::LinkSender;
use members::{Heartbeats, MembersCommand};
use monitor::Monitor;
use reader::{Acknowledged, Reader};
use retained::{HeadSource, Report, RetainedLog};
use slots::{SlotsCommand, SlotsWriter};
use subjects::Names;

pub use appender::RetainedAppend;
pub use counters::EngineCounts;
pub use discovery::Discovery;
pub use error::EngineError;
pub use events::{ConnectionChange, EngineConnection, EngineEvent, EngineEvents, SlotsWritten};
pub use links::SendError;
pub use options::{Credentials, EngineOptions, TlsFiles, Wake};
pub use subjects::{NameError, SubjectHash, check_cluster_name};

/// How long a request to JetStream may take.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);
/// How long closing the connections may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// Heartbeats and purges that wait for their task.
const MEMBERS_COMMANDS_MAX: usize = 64;

/// Why an append or a heartbeat was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("too many messages wait for the engine")]
    Full,
    #[error("the engine was shut down")]
    ShutDown,
}

/// A node's connection to the engine. No method but [`Engine::connect`] and [`Engine::shutdown`] waits.
pub struct Engine {
    links: LinkSender,
    streams: Client,
    members: mpsc::Sender<MembersCommand>,
    appends: mpsc::Sender<RetainedAppend>,
    slots: mpsc::Sender<SlotsCommand>,
    queued_bytes: Arc<AtomicUsize>,
    head_wanted: watch::Sender<u64>,
    counters: Arc<Counters>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    monitors: JoinSet<()>,
}

impl Engine {
    /// Connects, checks the servers, creates the streams where they do not exist, and begins to read them. The server that
    /// it is connected to delivers envelopes to it from here on. All tasks run on `runtime`.
    ///
    /// # Errors
    /// A name is not valid, no server can be reached or is good enough, the credentials are refused, or a stream cannot
    /// be used: see [`EngineError`].
    pub async fn connect(options: EngineOptions, runtime: &Handle) -> Result<(Self, EngineEvents), EngineError> {
        runtime.spawn(start(options)).await.map_err(|_| EngineError::RuntimeEnded)?
    }

    /// Sends an envelope to the node of this incarnation, if that node is there. Nothing tells when it is not.
    ///
    /// # Errors
    /// The buffer is full, there is no connection, or the envelope is larger than [`Engine::envelope_bytes_max`].
    pub fn send(&self, receiver: u64, envelope: Bytes) -> Result<(), SendError> {
        self.links.send(receiver, envelope)
    }

    /// Bytes of an envelope at most, as the server says.
    pub fn envelope_bytes_max(&self) -> usize {
        self.links.client.max_payload()
    }

    /// Stores this node's heartbeat. [`EngineEvent::HeartbeatAcked`] or [`EngineEvent::HeartbeatFailed`] follows. A
    /// heartbeat that is sent while another is not answered may be stored before it.
    ///
    /// # Errors
    /// Too many wait, or the engine was shut down.
    pub fn heartbeat(&self, token: u64, bytes: Bytes) -> Result<(), AppendError> {
        self.members.try_send(MembersCommand::Heartbeat { token, bytes }).map_err(refused)
    }

    /// The newest heartbeat of a node, read from the leader of the stream; `None`: it has none.
    ///
    /// # Errors
    /// The stream, and why it cannot be read.
    pub async fn newest_heartbeat(&self, node: &str) -> Result<Option<Bytes>, (String, String)> {
        let jetstream = ContextBuilder::new().timeout(REQUEST_WITHIN).build(self.streams.clone());
        members::newest(&jetstream, &self.links.names, node).await
    }

    /// Deletes the member record of a node. [`EngineEvent::MemberPurged`] follows.
    ///
    /// # Errors
    /// Too many wait, or the engine was shut down.
    pub fn purge_member(&self, node: &str) -> Result<(), AppendError> {
        self.members.try_send(MembersCommand::Purge { node: node.to_owned() }).map_err(refused)
    }

    /// Removes the messages of a topic with a sequence lower than `below` from the retained log.
    /// [`EngineEvent::RetainedPurged`] follows.
    ///
    /// # Errors
    /// Too many wait, or the engine was shut down.
    pub fn purge_retained(&self, subject: SubjectHash, below: u64) -> Result<(), AppendError> {
        self.members.try_send(MembersCommand::PurgeRetained { subject, below }).map_err(refused)
    }

    /// Appends to the retained log. Messages of one topic are stored in the order of the calls;
    /// [`EngineEvent::RetainedAcked`] or [`EngineEvent::RetainedFailed`] follows.
    ///
    /// # Errors
    /// Too many messages or bytes wait, or the engine was shut down.
    pub fn append_retained(&self, append: RetainedAppend) -> Result<(), AppendError> {
        let bytes = append.payload.len();
        let before = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        // One message is taken whatever its size.
        let fits = before == 0 || before + bytes <= WAITING_BYTES_MAX;
        let taken = if fits { self.appends.try_send(append).map_err(refused) } else { Err(AppendError::Full) };
        if taken.is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Asks for the head of the retained log: [`EngineEvent::RetainedHead`] with that token follows, unless a later question does.
    pub fn request_retained_head(&self, token: u64) {
        self.head_wanted.send_replace(token);
    }

    /// Writes the slot table, if the register's last version is `expected`. [`EngineEvent::SlotsWritten`] follows.
    ///
    /// # Errors
    /// Too many wait, or the engine was shut down.
    pub fn write_slots(&self, expected: u64, bytes: Bytes) -> Result<(), AppendError> {
        self.slots.try_send(SlotsCommand::Write { expected, bytes }).map_err(refused)
    }

    /// Asks for the last version of the slot table. [`EngineEvent::SlotsHead`] with the same token follows.
    ///
    /// # Errors
    /// Too many wait, or the engine was shut down.
    pub fn request_slots_head(&self, token: u64) -> Result<(), AppendError> {
        self.slots.try_send(SlotsCommand::Head { token }).map_err(refused)
    }

    /// What was counted since the start.
    pub fn counts(&self) -> EngineCounts {
        self.counters.read()
    }

    /// Closes the connections and ends all tasks. What is not acknowledged may be stored or not.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        let Self { links, streams, appends, members, slots, mut monitors, .. } = self;
        drop((links, streams, appends, members, slots));
        // A monitor ends when its client has. A client without a connection ends only when it gets one.
        let ended = async { while monitors.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE_WITHIN, ended).await.is_err() {
            tracing::debug!("engine connection not closed: the engine cannot be reached");
        }
    }
}

fn refused<T>(error: mpsc::error::TrySendError<T>) -> AppendError {
    match error {
        mpsc::error::TrySendError::Full(_) => AppendError::Full,
        mpsc::error::TrySendError::Closed(_) => AppendError::ShutDown,
    }
}

/// What the connection of an engine has found to be there.
struct Ready {
    names: Names,
    links: Connected,
    streams: Connected,
    jetstream: Context,
    envelopes: Subscriber,
}

async fn start(options: EngineOptions) -> Result<(Engine, EngineEvents), EngineError> {
    let ready = prepare(&options).await?;
    let counters = Arc::new(Counters::default());
    let (events, received) = events::channel(options.wake.clone());
    Ok((assemble(&options, ready, &events, &counters), received))
}

async fn prepare(options: &EngineOptions) -> Result<Ready, EngineError> {
    let names = Names::new(&options.cluster)?;
    subjects::check_node(&options.node)?;
    if ![1, 3, 5].contains(&options.replicas) {
        return Err(EngineError::Replicas(options.replicas));
    }
    let deadline = Instant::now() + options.ready_within;
    let servers = connect::addresses(&options.servers.urls().await?)?;
    let streams = connect::connect(options, EngineConnection::Streams, &servers).await?;
    let links = connect::connect(options, EngineConnection::Links, &servers).await?;
    let jetstream = ContextBuilder::new().timeout(REQUEST_WITHIN).build(streams.client.clone());
    streams::check_jetstream(&jetstream).await?;
    streams::ensure(&jetstream, &streams::members(&names, options), deadline).await?;
    streams::ensure(&jetstream, &streams::slots(&names, options), deadline).await?;
    streams::ensure(&jetstream, &streams::retained(&names, options), deadline).await?;
    let envelopes = links::subscribe(&links.client, &names.link(options.incarnation), deadline).await?;
    Ok(Ready { names, links, streams, jetstream, envelopes })
}

fn assemble(options: &EngineOptions, ready: Ready, events: &EventSender, counters: &Arc<Counters>) -> Engine {
    let Ready { names, links, streams, jetstream, envelopes } = ready;
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Tasks { set: JoinSet::new(), stopped };
    let (members, commands) = mpsc::channel(MEMBERS_COMMANDS_MAX);
    let (appends, queue) = mpsc::channel(WAITING_MAX);
    let (slots, slots_commands) = mpsc::channel(slots::COMMANDS_MAX);
    let slots_acknowledged = Acknowledged::default();
    let (heartbeats_acknowledged, appends_acknowledged) = (Acknowledged::default(), Acknowledged::default());
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let (head_wanted, head_question) = watch::channel(0);
    let reader = |config, what: &str, acknowledged: &Acknowledged| {
        let name = format!("weir-{:016x}-{what}", options.incarnation);
        Reader::new(jetstream.clone(), config, name, acknowledged.clone(), Arc::clone(counters))
    };
    let heartbeats = reader(streams::members(&names, options), "members", &heartbeats_acknowledged);
    let retained = reader(streams::retained(&names, options), "retained", &appends_acknowledged);
    let tables = reader(streams::slots(&names, options), "slots", &slots_acknowledged);

    tasks.spawn(links::receive(envelopes, events.clone(), Arc::clone(counters)));
    tasks.spawn(members::read(heartbeats, options.incarnation, events.clone()));
    let heartbeats = Heartbeats {
        jetstream: jetstream.clone(),
        names: names.clone(),
        node: options.node.clone(),
        incarnation: options.incarnation,
        commands,
        acknowledged: heartbeats_acknowledged,
        events: events.clone(),
        counters: Arc::clone(counters),
    };
    tasks.spawn(heartbeats.run());
    tasks.spawn(slots::read(tables, events.clone()));
    let writer = SlotsWriter {
        client: streams.client.clone(),
        jetstream: jetstream.clone(),
        names: names.clone(),
        commands: slots_commands,
        acknowledged: slots_acknowledged,
        events: events.clone(),
        counters: Arc::clone(counters),
    };
    tasks.spawn(writer.run());
    let log = RetainedLog {
        source: HeadSource { jetstream: jetstream.clone(), names: names.clone() },
        reader: retained,
        head_wanted: head_question,
        report: Report { events: events.clone(), counters: Arc::clone(counters) },
    };
    tasks.spawn(log.run());
    let appender = Appender {
        client: streams.client.clone(),
        names: names.clone(),
        incarnation: options.incarnation,
        queue,
        queued_bytes: Arc::clone(&queued_bytes),
        acknowledged: appends_acknowledged,
        events: events.clone(),
        counters: Arc::clone(counters),
    };
    tasks.spawn(appender.run());
    let mut monitors = JoinSet::new();
    for (connection, Connected { client, reports }) in [
        (EngineConnection::Links, Connected { client: links.client.clone(), reports: links.reports }),
        (EngineConnection::Streams, Connected { client: streams.client.clone(), reports: streams.reports }),
    ] {
        let monitor = Monitor { connection, client, events: events.clone(), counters: Arc::clone(counters) };
        monitors.spawn(monitor.run(reports, tasks.stopped.clone()));
    }
    Engine {
        links: LinkSender { client: links.client, names, counters: Arc::clone(counters) },
        streams: streams.client,
        members,
        appends,
        slots,
        queued_bytes,
        head_wanted,
        counters: Arc::clone(counters),
        stop,
        tasks: tasks.set,
        monitors,
    }
}

/// Tasks that end when the engine is shut down.
struct Tasks {
    set: JoinSet<()>,
    stopped: watch::Receiver<bool>,
}

impl Tasks {
    fn spawn(&mut self, task: impl Future<Output = Result<(), ReceiverEnded>> + Send + 'static) {
        let mut stopped = self.stopped.clone();
        self.set.spawn(async move {
            tokio::select! {
                biased;
                // An engine that was dropped ends too.
                _ = stopped.wait_for(|stopped| *stopped) => {}
                _ = task => {}
            }
        });
    }
}
