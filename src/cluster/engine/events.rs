//! What the engine reports to the node, over two bounded channels: small events first, then messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::options::Wake;
use super::subjects::SubjectHash;

/// Acknowledgements, heartbeats and changes of the connection that wait for the node.
const SMALL_EVENTS_MAX: usize = 1024;
/// Envelopes and retained messages that wait for the node. Behind them the client buffers, and then drops or pauses.
const MESSAGES_MAX: usize = 256;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEvent {
    /// An envelope of another node for this incarnation.
    Envelope(Bytes),
    /// A quorum has stored the heartbeat with this token.
    HeartbeatAcked { token: u64, sequence: u64 },
    /// The heartbeat with this token was not acknowledged; it may still be stored.
    HeartbeatFailed { token: u64, reason: String },
    /// The newest heartbeat of a node, this one included, in the order of the stream.
    Heartbeat { node: String, sequence: u64, bytes: Bytes, server_time_ms: u64 },
    /// This node's own heartbeat was read back from the stream: every heartbeat with a smaller sequence was reported
    /// before this event.
    MembersRead { sequence: u64 },
    /// The stream of members is another one, or has lost its end: sequences begin again.
    MembersReset { last_read: u64 },
    /// The member record of a node is deleted, or could not be.
    MemberPurged { node: String, error: Option<String> },
    /// A quorum has stored the message with this token.
    RetainedAcked { token: u64, sequence: u64 },
    /// The message with this token was not acknowledged. With `retry`, it may be appended again, and all later messages
    /// of its topic fail too, in their order, until that begins: see
    /// [`RetainedAppend::again`](super::RetainedAppend). With `unknown`, the message may be stored all the same.
    RetainedFailed { token: u64, retry: bool, unknown: bool, reason: String },
    /// The last sequence that the log has, which was read after it was asked for with this token, and the time of the server that
    /// stamps its messages. Token 0: nobody has asked yet.
    RetainedHead { token: u64, sequence: u64, server_time_ms: u64 },
    /// A message of the retained log, in the order of the log. An empty payload deletes.
    Retained { sequence: u64, subject: SubjectHash, bytes: Bytes, server_time_ms: u64 },
    /// Messages of a topic that newer ones have replaced are removed, or could not be.
    RetainedPurged { subject: SubjectHash, below: u64, error: Option<String> },
    /// The retained log is another one, or has lost its end: it is read from its beginning again.
    RetainedReset { last_read: u64 },
    /// A slot table, in the order of the register.
    Slots { version: u64, bytes: Bytes },
    /// The last version that the register has, as asked for with this token; 0: it is empty.
    SlotsHead { token: u64, version: u64 },
    /// The answer to a slot table that was to be written.
    SlotsWritten(SlotsWritten),
    /// The register is another one, or has lost its end: versions begin again.
    SlotsReset { last_read: u64 },
    /// A connection to the engine changed.
    Connection { connection: EngineConnection, change: ConnectionChange },
}

/// What became of a slot table that was to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotsWritten {
    Stored {
        version: u64,
    },
    /// Another table was stored before.
    Conflict,
    /// It was not acknowledged; it may be stored all the same.
    Failed {
        reason: String,
    },
}

/// The two connections of a node to the engine: envelopes do not delay heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineConnection {
    /// Carries envelopes.
    Links,
    /// Carries heartbeats and the retained log.
    Streams,
}

impl EngineConnection {
    /// As in metrics and log lines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Streams => "streams",
        }
    }
}

/// How a connection changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionChange {
    Connected {
        server: String,
        version: String,
    },
    Disconnected,
    /// An attempt to connect failed, or the server reported an error; the client tries again.
    Failed {
        reason: String,
    },
}

/// Where the engine's tasks put events. Waits while the channel is full.
#[derive(Clone)]
pub(super) struct EventSender {
    small: mpsc::Sender<EngineEvent>,
    messages: mpsc::Sender<EngineEvent>,
    signal: Arc<Signal>,
}

/// The receiver has ended.
#[derive(Debug)]
pub(super) struct ReceiverEnded;

impl EventSender {
    pub(super) async fn small(&self, event: EngineEvent) -> Result<(), ReceiverEnded> {
        self.small.send(event).await.map_err(|_| ReceiverEnded)?;
        self.signal.raise();
        Ok(())
    }

    pub(super) async fn message(&self, event: EngineEvent) -> Result<(), ReceiverEnded> {
        self.messages.send(event).await.map_err(|_| ReceiverEnded)?;
        self.signal.raise();
        Ok(())
    }
}

/// Wakes a receiver that has found nothing.
struct Signal {
    raised: AtomicBool,
    wake: Option<Wake>,
}

impl Signal {
    fn raise(&self) {
        if !self.raised.swap(true, Ordering::SeqCst)
            && let Some(wake) = &self.wake
        {
            wake();
        }
    }
}

/// The events of an engine.
pub struct EngineEvents {
    small: mpsc::Receiver<EngineEvent>,
    messages: mpsc::Receiver<EngineEvent>,
    signal: Arc<Signal>,
}

impl EngineEvents {
    /// The next event; `None`: the engine has ended.
    pub async fn next(&mut self) -> Option<EngineEvent> {
        tokio::select! {
            biased;
            Some(event) = self.small.recv() => Some(event),
            Some(event) = self.messages.recv() => Some(event),
            else => None,
        }
    }

    /// The next event that is there. After `None`, the next event calls [`EngineOptions::wake`](super::EngineOptions).
    pub fn try_next(&mut self) -> Option<EngineEvent> {
        self.take().or_else(|| {
            // An event that was added before this line has not woken anyone, and is found by the second look.
            self.signal.raised.store(false, Ordering::SeqCst);
            self.take()
        })
    }

    fn take(&mut self) -> Option<EngineEvent> {
        self.small.try_recv().or_else(|_| self.messages.try_recv()).ok()
    }
}

pub(super) fn channel(wake: Option<Wake>) -> (EventSender, EngineEvents) {
    let (small, small_received) = mpsc::channel(SMALL_EVENTS_MAX);
    let (messages, messages_received) = mpsc::channel(MESSAGES_MAX);
    let signal = Arc::new(Signal { raised: AtomicBool::new(false), wake });
    let sender = EventSender { small, messages, signal: Arc::clone(&signal) };
    (sender, EngineEvents { small: small_received, messages: messages_received, signal })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[tokio::test]
    async fn one_wake_for_all_events_until_the_receiver_finds_none() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&woken);
        let (sender, mut events) = channel(Some(Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        })));
        for sequence in [1, 2] {
            sender.small(EngineEvent::MembersRead { sequence }).await.unwrap();
        }
        assert_eq!(woken.load(Ordering::SeqCst), 1);
        while events.try_next().is_some() {}
        sender.message(EngineEvent::Envelope(Bytes::new())).await.unwrap();
        assert_eq!(woken.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn small_events_overtake_messages() {
        let (sender, mut events) = channel(None);
        sender.message(EngineEvent::Envelope(Bytes::new())).await.unwrap();
        sender.small(EngineEvent::MembersRead { sequence: 1 }).await.unwrap();
        assert_eq!(events.next().await, Some(EngineEvent::MembersRead { sequence: 1 }));
        assert_eq!(events.try_next(), Some(EngineEvent::Envelope(Bytes::new())));
        drop(sender);
        assert_eq!(events.next().await, None);
    }
}
