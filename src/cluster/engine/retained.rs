//! Reads the retained log, and tells when all of it was read.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use tokio::time::timeout;

use super::counters::Counters;
use super::events::{EngineEvent, EventSender, ReceiverEnded};
use super::reader::{ReadEvent, ReadMessage, Reader};
use super::subjects::Names;

/// How often reading is checked, and the head is asked for while it is not reached.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Reads the log until the receiver of events ends.
pub(super) struct RetainedLog {
    pub(super) source: HeadSource,
    pub(super) reader: Reader,
    /// The token of the node's last question for the head.
    pub(super) head_wanted: watch::Receiver<u64>,
    pub(super) report: Report,
}

/// Tells where the log ends.
pub(super) struct HeadSource {
    pub(super) jetstream: Context,
    pub(super) names: Names,
}

/// Reports what was read.
pub(super) struct Report {
    pub(super) events: EventSender,
    pub(super) counters: Arc<Counters>,
}

/// How far the log must be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// It is not known yet.
    Unknown,
    At(u64),
    Reached,
}

impl RetainedLog {
    pub(super) async fn run(self) -> Result<(), ReceiverEnded> {
        let Self { source, mut reader, mut head_wanted, report } = self;
        let (mut head, mut token) = (Head::Unknown, 0);
        loop {
            let wanted = *head_wanted.borrow_and_update();
            if std::mem::replace(&mut token, wanted) != wanted {
                head = Head::Unknown;
            }
            if head == Head::Unknown
                && let Some((sequence, server_time_ms)) = source.head().await
            {
                head = Head::At(sequence);
                report.events.message(EngineEvent::RetainedHead { token, sequence, server_time_ms }).await?;
            }
            if matches!(head, Head::At(sequence) if reader.last() >= sequence) {
                head = Head::Reached;
            }
            let read = tokio::select! {
                read = timeout(CHECK_INTERVAL, reader.next()) => read,
                // An engine that is dropped asks no more.
                Ok(()) = head_wanted.changed() => continue,
            };
            reader.check();
            match read {
                Ok(ReadEvent::Message(message)) => report.message(message).await?,
                Ok(ReadEvent::Reset { last_read }) => {
                    head = Head::Unknown;
                    report.events.message(EngineEvent::RetainedReset { last_read }).await?;
                }
                Ok(ReadEvent::Opened) => {}
                // The message at the head may have expired meanwhile: then there is nothing to read up to it.
                Err(_) if matches!(head, Head::At(_)) => {
                    if let Some((sequence, server_time_ms)) = source.head().await
                        && sequence <= reader.last()
                    {
                        head = Head::At(sequence);
                        report.events.message(EngineEvent::RetainedHead { token, sequence, server_time_ms }).await?;
                    }
                }
                Err(_) => {}
            }
        }
    }
}

/// What is needed of the answer to a request for a stream's information.
#[derive(Deserialize)]
struct Answered {
    /// The time of the stream's leader, as RFC 3339.
    ts: String,
}

impl HeadSource {
    /// The sequence of the last message that the leader of the stream has, 0 if the log is empty, and the leader's time.
    async fn head(&self) -> Option<(u64, u64)> {
        match self.read().await {
            Ok(head) => Some(head),
            Err(reason) => {
                tracing::debug!(reason, "engine head of the retained log is not known");
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }

    async fn read(&self) -> Result<(u64, u64), String> {
        let name = self.names.retained_stream();
        let info = format!("STREAM.INFO.{name}");
        let answered: Answered = self.jetstream.request(info, &()).await.map_err(|error| error.to_string())?;
        let time = OffsetDateTime::parse(&answered.ts, &Rfc3339).map_err(|error| error.to_string())?;
        let server_time_ms = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let stream = self.jetstream.get_stream_no_info(name).await.map_err(|error| error.to_string())?;
        // The last sequence of the stream may be of a message that has expired.
        match stream.get_last_raw_message_by_subject(&self.names.all_retained()).await {
            Ok(message) => Ok((message.sequence, server_time_ms)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok((0, server_time_ms)),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Report {
    async fn message(&self, message: ReadMessage) -> Result<(), ReceiverEnded> {
        let ReadMessage { sequence, subject, payload: bytes, server_time_ms, .. } = message;
        let Some(subject) = Names::hash_of(&subject) else {
            tracing::warn!(subject, "engine message of no topic ignored");
            return Ok(());
        };
        self.counters.retained_read.one();
        self.counters.retained_bytes_read.add(bytes.len() as u64);
        self.events.message(EngineEvent::Retained { sequence, subject, bytes, server_time_ms }).await
    }
}
