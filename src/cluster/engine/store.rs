//! Stores one message in a stream: tries again until it is acknowledged, refused, or too old.
//!
//! Each message has an id, so an attempt whose answer was lost stores nothing twice while the engine remembers the id
//! ([`streams::DUPLICATE_WINDOW`](super::streams::DUPLICATE_WINDOW)). Attempts end before that.

use std::time::Duration;

use async_nats::client::{Request, RequestErrorKind};
use async_nats::connection::State;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use tokio::time::{Instant, timeout};

/// How long one attempt waits for its acknowledgement.
const ACK_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(800));
/// How often a lost connection is looked at.
const CONNECTION_CHECK: Duration = Duration::from_millis(50);

/// Why a message is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoreFailure {
    /// The same message may be stored later.
    pub(super) retry: bool,
    /// An attempt without an answer was made: the message may be stored.
    pub(super) unknown: bool,
    pub(super) reason: String,
}

/// The sequence of a stored message, and how many attempts were made again.
pub(super) struct Stored {
    pub(super) sequence: u64,
    pub(super) retries: u64,
}

/// Stores a message in `within`.
pub(super) async fn store(
    client: &Client,
    subject: &str,
    headers: &HeaderMap,
    payload: &Bytes,
    within: Duration,
) -> Result<Stored, StoreFailure> {
    let deadline = Instant::now() + within;
    let (mut retries, mut pause, mut unknown) = (0, PAUSES.0, false);
    loop {
        let reason = if is_connected(client) {
            match attempt(client, subject, headers, payload).await {
                Ok(sequence) => return Ok(Stored { sequence, retries }),
                Err(Answer::Refused { retry, reason }) => return Err(StoreFailure { retry, unknown, reason }),
                Err(Answer::None(reason)) => {
                    unknown = true;
                    reason
                }
                Err(Answer::Conflict) => "another message was stored before".to_owned(),
                Err(Answer::Busy(reason)) => reason,
            }
        } else {
            "no connection to the engine".to_owned()
        };
        if Instant::now() + pause >= deadline {
            return Err(StoreFailure { retry: true, unknown, reason });
        }
        if is_connected(client) {
            retries += 1;
            tokio::time::sleep(pause).await;
            pause = PAUSES.1.min(pause * 2);
        } else {
            pause = PAUSES.0;
            tokio::time::sleep(CONNECTION_CHECK).await;
        }
    }
}

fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

/// Why one attempt did not store, or did not say so.
pub(super) enum Answer {
    /// The stream's last sequence is another one than was expected.
    Conflict,
    Refused {
        retry: bool,
        reason: String,
    },
    Busy(String),
    None(String),
}

/// Makes one attempt to store a message; returns its sequence.
pub(super) async fn attempt(
    client: &Client,
    subject: &str,
    headers: &HeaderMap,
    payload: &Bytes,
) -> Result<u64, Answer> {
    let request = Request::new().headers(headers.clone()).payload(payload.clone()).timeout(None);
    let answer = match timeout(ACK_WITHIN, client.send_request(subject.to_owned(), request)).await {
        Ok(Ok(answer)) => answer.payload,
        Ok(Err(error)) => {
            let reason = error.to_string();
            return Err(match error.kind() {
                RequestErrorKind::MaxPayloadExceeded => Answer::Refused { retry: false, reason },
                // No server takes messages for the subject.
                RequestErrorKind::NoResponders => Answer::Busy("the stream has no leader".to_owned()),
                _ => Answer::None(reason),
            });
        }
        Err(_) => return Err(Answer::None(format!("no acknowledgement in {} s", ACK_WITHIN.as_secs()))),
    };
    match serde_json::from_slice::<Response<PublishAck>>(&answer) {
        Ok(Response::Ok(ack)) => Ok(ack.sequence),
        Ok(Response::Err { error }) => Err(classify(error.error_code(), error.to_string())),
        Err(error) => Err(Answer::None(format!("the acknowledgement cannot be read: {error}"))),
    }
}

fn classify(code: ErrorCode, reason: String) -> Answer {
    if code == ErrorCode::STREAM_WRONG_LAST_SEQUENCE {
        Answer::Conflict
    } else if is_full(code) {
        Answer::Refused { retry: true, reason }
    } else if is_invalid(code) {
        Answer::Refused { retry: false, reason }
    } else {
        // Also: another attempt with the same id is being stored.
        Answer::Busy(reason)
    }
}

fn is_full(code: ErrorCode) -> bool {
    [
        ErrorCode::STREAM_STORE_FAILED,
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ErrorCode::STORAGE_RESOURCES_EXCEEDED,
        ErrorCode::MEMORY_RESOURCES_EXCEEDED,
        ErrorCode::INSUFFICIENT_RESOURCES,
    ]
    .contains(&code)
}

fn is_invalid(code: ErrorCode) -> bool {
    [
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM,
        ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM,
        ErrorCode::MESSAGE_TTL_INVALID,
        ErrorCode::MESSAGE_TTL_DISABLED,
    ]
    .contains(&code)
}
