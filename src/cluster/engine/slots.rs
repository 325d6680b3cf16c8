//! The slot table: a register of one subject. Each message is the whole table, and is stored only where it follows the last
//! one that its writer has read.

use std::sync::Arc;
use std::time::Duration;

use async_nats::header::NATS_EXPECTED_LAST_SEQUENCE;
use async_nats::jetstream::context::Context;
use async_nats::jetstream::stream::LastRawMessageErrorKind;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::counters::Counters;
use super::events::{EngineEvent, EventSender, ReceiverEnded, SlotsWritten};
use super::reader::{Acknowledged, ReadEvent, Reader};
use super::store::{self, Answer};
use super::subjects::Names;

/// How often reading is checked.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Between two questions for the head that got no answer.
const HEAD_PAUSE: Duration = Duration::from_millis(100);
/// What waits for the task.
pub(super) const COMMANDS_MAX: usize = 16;

/// What the node asks for.
pub(super) enum SlotsCommand {
    Write { expected: u64, bytes: Bytes },
    Head { token: u64 },
}

/// Reads the register, until the receiver of events ends.
pub(super) async fn read(mut reader: Reader, events: EventSender) -> Result<(), ReceiverEnded> {
    loop {
        let read = timeout(CHECK_INTERVAL, reader.next()).await;
        reader.check();
        match read {
            Ok(ReadEvent::Message(message)) => {
                let (version, bytes) = (message.sequence, message.payload);
                events.small(EngineEvent::Slots { version, bytes }).await?;
            }
            Ok(ReadEvent::Reset { last_read }) => events.small(EngineEvent::SlotsReset { last_read }).await?,
            Ok(ReadEvent::Opened) | Err(_) => {}
        }
    }
}

/// Writes the register and asks for its head, until the engine drops its sender.
pub(super) struct SlotsWriter {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    pub(super) names: Names,
    pub(super) commands: mpsc::Receiver<SlotsCommand>,
    pub(super) acknowledged: Acknowledged,
    pub(super) events: EventSender,
    pub(super) counters: Arc<Counters>,
}

impl SlotsWriter {
    pub(super) async fn run(mut self) -> Result<(), ReceiverEnded> {
        while let Some(command) = self.commands.recv().await {
            let event = match command {
                SlotsCommand::Write { expected, bytes } => {
                    EngineEvent::SlotsWritten(self.write(expected, &bytes).await)
                }
                SlotsCommand::Head { token } => EngineEvent::SlotsHead { token, version: self.head().await },
            };
            self.events.small(event).await?;
        }
        Ok(())
    }

    /// One attempt: the node decides again what to write when it has read what others wrote.
    async fn write(&self, expected: u64, bytes: &Bytes) -> SlotsWritten {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SEQUENCE, expected.to_string());
        let written = match store::attempt(&self.client, &self.names.slots(), &headers, bytes).await {
            Ok(version) => {
                self.acknowledged.raise(version);
                return SlotsWritten::Stored { version };
            }
            Err(Answer::Conflict) => SlotsWritten::Conflict,
            Err(Answer::Refused { reason, .. } | Answer::Busy(reason) | Answer::None(reason)) => {
                SlotsWritten::Failed { reason }
            }
        };
        self.counters.slots_writes_failed.one();
        written
    }

    /// The version of the last table that the leader of the stream has; 0: none.
    async fn head(&self) -> u64 {
        loop {
            if let Ok(stream) = self.jetstream.get_stream_no_info(self.names.slots_stream()).await {
                match stream.get_last_raw_message_by_subject(&self.names.slots()).await {
                    Ok(message) => return message.sequence,
                    Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return 0,
                    Err(error) => tracing::debug!(%error, "engine head of the slot table is not known"),
                }
            }
            tokio::time::sleep(HEAD_PAUSE).await;
        }
    }
}
