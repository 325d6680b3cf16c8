//! Heartbeats: stores this node's, and reads those of all nodes.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::counters::Counters;
use super::events::{EngineEvent, EventSender, ReceiverEnded};
use super::reader::{Acknowledged, ReadEvent, ReadMessage, Reader};
use super::store::{self, StoreFailure, Stored};
use super::subjects::{Names, SubjectHash};

/// The header of a heartbeat that names the incarnation that sent it, in hexadecimal.
const INCARNATION: &str = "Weir-Incarnation";
/// How long a heartbeat is tried. A later one is worth more.
const HEARTBEAT_WITHIN: Duration = Duration::from_millis(2500);
/// Heartbeats that are not yet acknowledged. One more fails at once.
const IN_FLIGHT_MAX: usize = 4;
/// How often reading is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// What the node asks for.
pub(super) enum MembersCommand {
    Heartbeat { token: u64, bytes: Bytes },
    Purge { node: String },
    PurgeRetained { subject: SubjectHash, below: u64 },
}

/// Stores heartbeats, until the engine drops its sender.
pub(super) struct Heartbeats {
    pub(super) jetstream: Context,
    pub(super) names: Names,
    pub(super) node: String,
    pub(super) incarnation: u64,
    pub(super) commands: mpsc::Receiver<MembersCommand>,
    pub(super) acknowledged: Acknowledged,
    pub(super) events: EventSender,
    pub(super) counters: Arc<Counters>,
}

type Sent = (u64, Instant, Result<Stored, StoreFailure>);

impl Heartbeats {
    pub(super) async fn run(mut self) -> Result<(), ReceiverEnded> {
        let mut in_flight: JoinSet<Sent> = JoinSet::new();
        let mut purges: JoinSet<EngineEvent> = JoinSet::new();
        loop {
            tokio::select! {
                Some(sent) = in_flight.join_next() => match sent {
                    Ok(sent) => self.sent(sent).await?,
                    Err(error) => tracing::error!(%error, "engine heartbeat task failed"),
                },
                Some(purged) = purges.join_next() => match purged {
                    Ok(event) => self.events.small(event).await?,
                    Err(error) => tracing::error!(%error, "engine purge task failed"),
                },
                command = self.commands.recv() => match command {
                    Some(MembersCommand::Heartbeat { token, .. }) if in_flight.len() >= IN_FLIGHT_MAX => {
                        self.failed(token, "earlier heartbeats are not acknowledged".to_owned()).await?;
                    }
                    Some(MembersCommand::Heartbeat { token, bytes }) => {
                        in_flight.spawn(self.send(token, bytes));
                    }
                    Some(MembersCommand::PurgeRetained { subject, below }) => {
                        purges.spawn(purge_retained(self.jetstream.clone(), self.names.clone(), subject, below));
                    }
                    Some(MembersCommand::Purge { node }) => {
                        purges.spawn(purge(self.jetstream.clone(), self.names.clone(), node));
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    fn send(&self, token: u64, bytes: Bytes) -> impl Future<Output = Sent> + use<> {
        let client = self.jetstream.client();
        let subject = self.names.member(&self.node);
        let mut headers = HeaderMap::new();
        headers.insert(INCARNATION, incarnation_header(self.incarnation));
        async move {
            let began = Instant::now();
            let result = store::store(&client, &subject, &headers, &bytes, HEARTBEAT_WITHIN).await;
            (token, began, result)
        }
    }

    async fn sent(&self, (token, began, result): Sent) -> Result<(), ReceiverEnded> {
        match result {
            Ok(stored) => {
                self.counters.heartbeats_acked.one();
                self.counters.heartbeat_us_sum.micros(began.elapsed());
                self.acknowledged.raise(stored.sequence);
                self.events.small(EngineEvent::HeartbeatAcked { token, sequence: stored.sequence }).await
            }
            Err(failure) => self.failed(token, failure.reason).await,
        }
    }

    async fn failed(&self, token: u64, reason: String) -> Result<(), ReceiverEnded> {
        self.counters.heartbeats_failed.one();
        self.events.small(EngineEvent::HeartbeatFailed { token, reason }).await
    }
}

fn incarnation_header(incarnation: u64) -> String {
    format!("{incarnation:016x}")
}

/// The newest heartbeat of a node, with the stream and the reason where it cannot be read.
pub(super) async fn newest(jetstream: &Context, names: &Names, node: &str) -> Result<Option<Bytes>, (String, String)> {
    let name = names.members_stream();
    let failed = |reason: String| (name.clone(), reason);
    let stream = jetstream.get_stream_no_info(&name).await.map_err(|error| failed(error.to_string()))?;
    match stream.get_last_raw_message_by_subject(&names.member(node)).await {
        Ok(message) => Ok(Some(message.payload)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn purge(jetstream: Context, names: Names, node: String) -> EngineEvent {
    let purged = async {
        let stream = jetstream.get_stream_no_info(names.members_stream()).await.map_err(|error| error.to_string())?;
        stream.purge().filter(names.member(&node)).await.map_err(|error| error.to_string())
    };
    let error = purged.await.err();
    EngineEvent::MemberPurged { node, error }
}

/// Removes messages of a topic that newer ones have replaced.
async fn purge_retained(jetstream: Context, names: Names, subject: SubjectHash, below: u64) -> EngineEvent {
    let purged = async {
        let stream = jetstream.get_stream_no_info(names.retained_stream()).await.map_err(|error| error.to_string())?;
        let purge = stream.purge().filter(names.retained(subject)).sequence(below);
        purge.await.map_err(|error| error.to_string())
    };
    let error = purged.await.err();
    EngineEvent::RetainedPurged { subject, below, error }
}

/// Reports the heartbeats of all nodes.
pub(super) async fn read(mut reader: Reader, incarnation: u64, events: EventSender) -> Result<(), ReceiverEnded> {
    let own = incarnation_header(incarnation);
    loop {
        let read = timeout(CHECK_INTERVAL, reader.next()).await;
        reader.check();
        match read {
            Ok(ReadEvent::Message(message)) => report(message, &own, &events).await?,
            Ok(ReadEvent::Reset { last_read }) => events.small(EngineEvent::MembersReset { last_read }).await?,
            Ok(ReadEvent::Opened) | Err(_) => {}
        }
    }
}

async fn report(message: ReadMessage, own: &str, events: &EventSender) -> Result<(), ReceiverEnded> {
    let ReadMessage { sequence, subject, headers, payload: bytes, server_time_ms } = message;
    let is_own = headers.as_ref().and_then(|headers| headers.get(INCARNATION)).is_some_and(|of| of.as_str() == own);
    let Some(node) = Names::node_of(&subject) else {
        tracing::warn!(subject, "engine message of no node ignored");
        return Ok(());
    };
    events.small(EngineEvent::Heartbeat { node, sequence, bytes, server_time_ms }).await?;
    if is_own {
        events.small(EngineEvent::MembersRead { sequence }).await?;
    }
    Ok(())
}
