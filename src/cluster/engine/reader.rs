//! Reads a stream from its beginning, in order and without a gap, through failures of servers and connections.
//!
//! Each reading is a consumer of its own that begins after the last message that was read. It ends, and another begins,
//! when the engine is silent, when a message is missing (consumer sequences are consecutive), and when a message that
//! this node knows to be stored is not read: the consumer's server may be cut off from the others.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::context::{Context, GetStreamErrorKind};
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use futures_core::Stream as _;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::counters::Counters;
use super::streams;

/// The engine says at this interval that a consumer without messages is alive; it is left after two intervals.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long one request for messages lasts; the client makes the next one before.
const REQUEST_LASTS: Duration = Duration::from_secs(10);
/// Messages of one request. A subscription holds more than two of them.
const REQUEST_MESSAGES: usize = 256;
/// A consumer without a reader is deleted after so long.
const CONSUMER_LASTS: Duration = Duration::from_secs(20);
/// Between two attempts to open.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));
/// How long a stored message may stay unread.
const UNREAD_MAX: Duration = Duration::from_secs(3);
/// How often a stream must be found shorter than what was read, before that is believed.
const SHORTER_SEEN: u32 = 3;

/// What reading found.
pub(super) enum ReadEvent {
    Message(ReadMessage),
    /// A consumer is there.
    Opened,
    /// The stream is another one, or has lost its end. It is read from its beginning again.
    Reset {
        last_read: u64,
    },
}

pub(super) struct ReadMessage {
    pub(super) sequence: u64,
    pub(super) subject: String,
    pub(super) headers: Option<HeaderMap>,
    pub(super) payload: Bytes,
    pub(super) server_time_ms: u64,
}

/// The highest sequence that the engine has acknowledged to this node in one stream.
#[derive(Clone, Default)]
pub(super) struct Acknowledged(Arc<AtomicU64>);

impl Acknowledged {
    pub(super) fn raise(&self, sequence: u64) {
        self.0.fetch_max(sequence, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

type Opening = Pin<Box<dyn Future<Output = Result<Found, String>> + Send>>;

/// What an attempt to open found.
enum Found {
    Consumer { messages: Box<pull::Stream>, created: OffsetDateTime },
    Shorter { last_sequence: u64 },
    Another { created: OffsetDateTime },
}

enum State {
    Opening(Opening),
    Open(Box<pull::Stream>),
}

/// Reads one stream.
pub(super) struct Reader {
    jetstream: Context,
    config: Config,
    name: String,
    serial: u64,
    state: State,
    /// The creation of the stream that is read.
    created: Option<OffsetDateTime>,
    /// The last sequence that was read.
    last: u64,
    /// The last sequence of the consumer.
    consumed: u64,
    failures: u32,
    shorter: u32,
    acknowledged: Acknowledged,
    /// Acknowledged sequences up to here are not expected any more: they have expired, or the stream was reset.
    excused: u64,
    unread_since: Option<Instant>,
    counters: Arc<Counters>,
}

impl Reader {
    /// A reader whose consumers begin with `name`.
    pub(super) fn new(
        jetstream: Context,
        config: Config,
        name: String,
        acknowledged: Acknowledged,
        counters: Arc<Counters>,
    ) -> Self {
        let state = State::Opening(Box::pin(std::future::ready(Err("not opened yet".to_owned()))));
        let mut reader = Self {
            jetstream,
            config,
            name,
            serial: 0,
            state,
            created: None,
            last: 0,
            consumed: 0,
            failures: 0,
            shorter: 0,
            acknowledged,
            excused: 0,
            unread_since: None,
            counters,
        };
        reader.open(Duration::ZERO);
        reader
    }

    /// The last sequence that was read.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// What comes next. It may be dropped and called again.
    pub(super) async fn next(&mut self) -> ReadEvent {
        loop {
            let event = match &mut self.state {
                State::Opening(opening) => {
                    let found = opening.as_mut().await;
                    self.opened(found)
                }
                State::Open(messages) => {
                    let messages = Pin::new(&mut **messages);
                    let mut messages = messages;
                    let next = std::future::poll_fn(|cx| messages.as_mut().poll_next(cx)).await;
                    match next {
                        Some(Ok(message)) => self.received(message),
                        Some(Err(error)) => self.fail(&error.to_string()),
                        None => self.fail("the consumer has ended"),
                    }
                }
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// Leaves a consumer that does not deliver what the engine has acknowledged. Called at least once per second.
    pub(super) fn check(&mut self) {
        let acknowledged = self.acknowledged.get();
        if acknowledged <= self.last.max(self.excused) || !matches!(self.state, State::Open(_)) {
            self.unread_since = None;
            return;
        }
        let since = *self.unread_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= UNREAD_MAX {
            // A message that has expired is never read: each is waited for once.
            self.excused = acknowledged;
            self.fail("a stored message is not delivered");
        }
    }

    fn fail(&mut self, reason: &str) -> Option<ReadEvent> {
        self.failures = self.failures.saturating_add(1);
        tracing::debug!(stream = self.config.name, reason, after = self.last, "engine stream read failed");
        let pause = PAUSES.0.saturating_mul(1 << self.failures.min(5)).min(PAUSES.1);
        self.open(pause);
        None
    }

    fn open(&mut self, pause: Duration) {
        self.serial += 1;
        self.unread_since = None;
        let attempt = Attempt {
            jetstream: self.jetstream.clone(),
            config: self.config.clone(),
            name: format!("{}-{}", self.name, self.serial),
            created: self.created,
            last: self.last,
        };
        self.state = State::Opening(Box::pin(async move {
            tokio::time::sleep(pause).await;
            attempt.run().await
        }));
    }

    fn opened(&mut self, found: Result<Found, String>) -> Option<ReadEvent> {
        match found {
            Ok(Found::Consumer { messages, created }) => {
                self.state = State::Open(messages);
                self.created = Some(created);
                self.consumed = 0;
                self.shorter = 0;
                self.counters.readers_opened.one();
                Some(ReadEvent::Opened)
            }
            // A leader that has just been elected may not have applied everything yet.
            Ok(Found::Shorter { last_sequence }) if self.shorter + 1 < SHORTER_SEEN => {
                self.shorter += 1;
                self.fail(&format!("the stream ends at {last_sequence}"))
            }
            Ok(Found::Shorter { .. }) => Some(self.reset(self.created)),
            Ok(Found::Another { created }) => Some(self.reset(Some(created))),
            Err(reason) => self.fail(&reason),
        }
    }

    fn reset(&mut self, created: Option<OffsetDateTime>) -> ReadEvent {
        let last_read = std::mem::take(&mut self.last);
        tracing::warn!(
            stream = self.config.name,
            last_read,
            "engine stream lost its end: reading it from its beginning"
        );
        self.created = created;
        self.shorter = 0;
        self.acknowledged.0.store(0, Ordering::Relaxed);
        self.excused = 0;
        self.open(Duration::ZERO);
        ReadEvent::Reset { last_read }
    }

    fn received(&mut self, message: jetstream::Message) -> Option<ReadEvent> {
        let (sequence, consumed, published) = match message.info() {
            Ok(info) => (info.stream_sequence, info.consumer_sequence, info.published),
            Err(error) => return self.fail(&error.to_string()),
        };
        if consumed != self.consumed + 1 || sequence <= self.last {
            return self.fail("a message is missing");
        }
        self.consumed = consumed;
        self.last = sequence;
        self.failures = 0;
        let message = message.message;
        Some(ReadEvent::Message(ReadMessage {
            sequence,
            subject: message.subject.to_string(),
            headers: message.headers,
            payload: message.payload,
            server_time_ms: u64::try_from(published.unix_timestamp_nanos() / 1_000_000).unwrap_or_default(),
        }))
    }
}

struct Attempt {
    jetstream: Context,
    config: Config,
    name: String,
    created: Option<OffsetDateTime>,
    last: u64,
}

impl Attempt {
    async fn run(self) -> Result<Found, String> {
        let stream = match self.jetstream.get_stream(&self.config.name).await {
            Ok(stream) => stream,
            Err(error) => {
                let kind = error.kind();
                if matches!(&kind, GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND) {
                    tracing::warn!(stream = self.config.name, "engine stream is missing: creating it");
                    streams::ensure(&self.jetstream, &self.config, Instant::now()).await.map_err(|e| e.to_string())?;
                }
                return Err(error.to_string());
            }
        };
        let info = stream.cached_info();
        if self.created.is_some_and(|created| created != info.created) {
            return Ok(Found::Another { created: info.created });
        }
        if info.state.last_sequence < self.last {
            return Ok(Found::Shorter { last_sequence: info.state.last_sequence });
        }
        let deliver_policy = match self.last {
            0 => DeliverPolicy::All,
            last => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
        };
        let config = pull::Config {
            name: Some(self.name),
            deliver_policy,
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold: CONSUMER_LASTS,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| error.to_string())?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(REQUEST_MESSAGES)
            .expires(REQUEST_LASTS)
            .heartbeat(ALIVE_INTERVAL)
            .messages();
        let messages = messages.await.map_err(|error| error.to_string())?;
        Ok(Found::Consumer { messages: Box::new(messages), created: info.created })
    }
}
