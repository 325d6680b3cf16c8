//! Appends to the retained log: many topics at once, each topic one message at a time.
//!
//! The engine stores messages of one connection in their order only while nothing fails: when a leader dies, a message
//! can be lost and the next one stored. So the next message of a topic is sent when the one before is acknowledged, and a
//! failed message takes the waiting ones of its topic with it. Order between topics is not promised.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::header::{NATS_MESSAGE_ID, NATS_MESSAGE_TTL};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::counters::Counters;
use super::events::{EngineEvent, EventSender, ReceiverEnded};
use super::reader::Acknowledged;
use super::store::{self, StoreFailure, Stored};
use super::streams::DUPLICATE_WINDOW;
use super::subjects::{Names, SubjectHash};

/// Topics whose message is sent and not yet acknowledged.
const IN_FLIGHT_MAX: usize = 256;
/// Messages that wait in the appender. The same number may wait in its channel.
pub(super) const WAITING_MAX: usize = 4096;
/// Bytes of all messages that are not yet acknowledged.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;
/// A message is given up while the engine still recognises an earlier attempt.
const STORE_WITHIN: Duration = DUPLICATE_WINDOW.saturating_sub(Duration::from_secs(20));

/// A message for the retained log.
#[derive(Debug, Clone)]
pub struct RetainedAppend {
    /// Comes back with the answer.
    pub token: u64,
    pub subject: SubjectHash,
    /// What the log keeps for the subject. An empty one deletes; give it a time to live.
    pub payload: Bytes,
    /// After so long, in whole seconds, the engine forgets the message.
    pub ttl: Option<Duration>,
    /// The first message of a topic after a failure with `retry`. Until it comes, every message of that topic fails, so
    /// that none overtakes the one that failed first. Send it when no message of the topic is unanswered.
    pub again: bool,
}

/// Runs until the engine drops its sender.
pub(super) struct Appender {
    pub(super) client: Client,
    pub(super) names: Names,
    pub(super) incarnation: u64,
    pub(super) queue: mpsc::Receiver<RetainedAppend>,
    pub(super) queued_bytes: Arc<AtomicUsize>,
    pub(super) acknowledged: Acknowledged,
    pub(super) events: EventSender,
    pub(super) counters: Arc<Counters>,
}

/// A message that was sent.
struct Sent {
    token: u64,
    subject: SubjectHash,
    bytes: usize,
    began: Instant,
    result: Result<Stored, StoreFailure>,
}

/// What waits.
#[derive(Default)]
struct Waiting {
    /// Topics with a message in flight or in `ready`, with the messages that wait for it.
    topics: HashMap<SubjectHash, VecDeque<RetainedAppend>>,
    /// The first message of topics, in the order in which they can be sent.
    ready: VecDeque<RetainedAppend>,
    count: usize,
    /// Topics that failed and wait for the node.
    failed: HashMap<SubjectHash, String>,
}

impl Waiting {
    /// `Err`: the topic has failed, and the node has not answered to that yet.
    fn add(&mut self, append: RetainedAppend) -> Result<(), (RetainedAppend, String)> {
        if append.again {
            self.failed.remove(&append.subject);
        } else if let Some(reason) = self.failed.get(&append.subject) {
            let reason = reason.clone();
            return Err((append, reason));
        }
        self.count += 1;
        match self.topics.get_mut(&append.subject) {
            Some(behind) => behind.push_back(append),
            None => {
                self.topics.insert(append.subject, VecDeque::new());
                self.ready.push_back(append);
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Option<RetainedAppend> {
        let append = self.ready.pop_front()?;
        self.count -= 1;
        Some(append)
    }

    /// The message in flight was stored: the next one of its topic can be sent.
    fn advance(&mut self, subject: SubjectHash) {
        let Some(behind) = self.topics.get_mut(&subject) else { return };
        match behind.pop_front() {
            Some(next) => self.ready.push_back(next),
            None => {
                self.topics.remove(&subject);
            }
        }
    }

    /// The message in flight failed: what waited behind it.
    fn abandon(&mut self, subject: SubjectHash, reason: &str) -> VecDeque<RetainedAppend> {
        self.failed.insert(subject, reason.to_owned());
        let behind = self.topics.remove(&subject).unwrap_or_default();
        self.count -= behind.len();
        behind
    }
}

impl Appender {
    pub(super) async fn run(mut self) -> Result<(), ReceiverEnded> {
        let mut waiting = Waiting::default();
        let mut in_flight = JoinSet::new();
        let mut number: u64 = 0;
        loop {
            while in_flight.len() < IN_FLIGHT_MAX
                && let Some(append) = waiting.take()
            {
                number += 1;
                in_flight.spawn(self.send(append, number));
            }
            tokio::select! {
                Some(sent) = in_flight.join_next() => match sent {
                    Ok(sent) => self.sent(&mut waiting, sent).await?,
                    Err(error) => tracing::error!(%error, "engine append task failed"),
                },
                append = self.queue.recv(), if waiting.count < WAITING_MAX => match append {
                    Some(append) => {
                        if let Err((append, reason)) = waiting.add(append) {
                            self.not_sent(&append, &reason).await?;
                        }
                    }
                    None => return Ok(()),
                },
            }
        }
    }

    /// Sends one message; the future owns all that it needs.
    fn send(&self, append: RetainedAppend, number: u64) -> impl Future<Output = Sent> + use<> {
        let client = self.client.clone();
        let subject = self.names.retained(append.subject);
        let id = format!("{:016x}-{number}", self.incarnation);
        async move {
            let began = Instant::now();
            let bytes = append.payload.len();
            let mut headers = HeaderMap::new();
            headers.insert(NATS_MESSAGE_ID, id);
            if let Some(ttl) = append.ttl {
                // In whole seconds, at least one; a message never goes too early.
                let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
                headers.insert(NATS_MESSAGE_TTL, seconds.max(1).to_string());
            }
            let result = store::store(&client, &subject, &headers, &append.payload, STORE_WITHIN).await;
            Sent { token: append.token, subject: append.subject, bytes, began, result }
        }
    }

    async fn sent(&self, waiting: &mut Waiting, sent: Sent) -> Result<(), ReceiverEnded> {
        self.queued_bytes.fetch_sub(sent.bytes, Ordering::Relaxed);
        match sent.result {
            Ok(stored) => {
                self.counters.retained_acked.one();
                self.counters.retained_bytes_acked.add(sent.bytes as u64);
                self.counters.retained_retries.add(stored.retries);
                self.counters.retained_us_sum.micros(sent.began.elapsed());
                self.acknowledged.raise(stored.sequence);
                waiting.advance(sent.subject);
                self.events.small(EngineEvent::RetainedAcked { token: sent.token, sequence: stored.sequence }).await
            }
            Err(StoreFailure { retry, unknown, reason }) => {
                self.failed(sent.token, retry, unknown, reason.clone()).await?;
                if !retry {
                    waiting.advance(sent.subject);
                    return Ok(());
                }
                for behind in waiting.abandon(sent.subject, &reason) {
                    self.not_sent(&behind, &reason).await?;
                }
                Ok(())
            }
        }
    }

    async fn not_sent(&self, append: &RetainedAppend, reason: &str) -> Result<(), ReceiverEnded> {
        self.queued_bytes.fetch_sub(append.payload.len(), Ordering::Relaxed);
        self.failed(append.token, true, false, reason.to_owned()).await
    }

    async fn failed(&self, token: u64, retry: bool, unknown: bool, reason: String) -> Result<(), ReceiverEnded> {
        self.counters.retained_failed.one();
        self.events.small(EngineEvent::RetainedFailed { token, retry, unknown, reason }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(token: u64, topic: u8) -> RetainedAppend {
        RetainedAppend { token, subject: SubjectHash([topic; 16]), payload: Bytes::new(), ttl: None, again: false }
    }

    fn tokens(waiting: &mut Waiting) -> Vec<u64> {
        std::iter::from_fn(|| waiting.take()).map(|append| append.token).collect()
    }

    #[test]
    fn a_topic_has_one_message_in_flight_and_keeps_its_order() {
        let mut waiting = Waiting::default();
        for (token, topic) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
            waiting.add(append(token, topic)).unwrap();
        }
        assert_eq!(tokens(&mut waiting), [1, 3]);
        waiting.advance(SubjectHash([1; 16]));
        assert_eq!(tokens(&mut waiting), [2]);
        waiting.add(append(5, 1)).unwrap();
        waiting.advance(SubjectHash([1; 16]));
        waiting.advance(SubjectHash([2; 16]));
        assert_eq!(tokens(&mut waiting), [4]);
        waiting.advance(SubjectHash([1; 16]));
        assert_eq!(tokens(&mut waiting), [5]);
        waiting.advance(SubjectHash([1; 16]));
        assert!(waiting.topics.is_empty() && waiting.count == 0);
    }

    #[test]
    fn a_failed_message_takes_those_behind_it_along_in_their_order() {
        let mut waiting = Waiting::default();
        for (token, topic) in [(1, 1), (2, 1), (3, 2), (4, 1)] {
            waiting.add(append(token, topic)).unwrap();
        }
        assert_eq!(tokens(&mut waiting), [1, 3]);
        let behind: Vec<u64> =
            waiting.abandon(SubjectHash([1; 16]), "full").iter().map(|append| append.token).collect();
        assert_eq!(behind, [2, 4]);
        assert_eq!(waiting.count, 0);
        // The node did not know of the failure yet.
        assert!(waiting.add(append(5, 1)).is_err());
        waiting.add(append(6, 2)).unwrap();
        for (token, again) in [(1, true), (2, false), (4, false), (5, false)] {
            waiting.add(RetainedAppend { again, ..append(token, 1) }).unwrap();
        }
        assert_eq!(tokens(&mut waiting), [1]);
    }
}
