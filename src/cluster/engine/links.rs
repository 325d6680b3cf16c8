//! Envelopes of node links: core NATS, at most once. Links send again what is lost.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_nats::connection::State;
use async_nats::{Client, Message, PublishErrorKind, Subscriber};
use bytes::Bytes;
use futures_core::Stream as _;
use tokio::time::{Instant, timeout};

use super::REQUEST_WITHIN;
use super::connect::server_of;
use super::counters::Counters;
use super::error::EngineError;
use super::events::{EngineEvent, EventSender, ReceiverEnded};
use super::subjects::Names;

/// Why an envelope was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("the buffer of the engine's client is full")]
    Full,
    #[error("there is no connection to the engine")]
    Disconnected,
    #[error("the envelope is larger than the {max} bytes that the server takes")]
    TooLarge { max: usize },
}

/// Sends envelopes to other nodes.
pub(super) struct LinkSender {
    pub(super) client: Client,
    pub(super) names: Names,
    pub(super) counters: Arc<Counters>,
}

impl LinkSender {
    /// Hands an envelope to the client. It never waits.
    pub(super) fn send(&self, receiver: u64, envelope: Bytes) -> Result<(), SendError> {
        let bytes = envelope.len() as u64;
        let sent = self.try_send(receiver, envelope);
        match sent {
            Ok(()) => {
                self.counters.envelopes_sent.one();
                self.counters.envelope_bytes_sent.add(bytes);
            }
            Err(_) => self.counters.envelopes_refused.one(),
        }
        sent
    }

    fn try_send(&self, receiver: u64, envelope: Bytes) -> Result<(), SendError> {
        if self.client.connection_state() != State::Connected {
            return Err(SendError::Disconnected);
        }
        // The client's only wait is for room in its channel: the first poll finds it, or there is none.
        let publish = pin!(self.client.publish(self.names.link(receiver), envelope));
        match publish.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(error)) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(SendError::TooLarge { max: self.client.max_payload() })
            }
            Poll::Ready(Err(_)) => Err(SendError::Disconnected),
            Poll::Pending => Err(SendError::Full),
        }
    }
}

/// Subscribes to the envelopes for a node, and waits until the server has the subscription: a message that the client sends
/// to itself comes back, and the server takes what a connection sends in its order. A flush of the client only writes.
///
/// # Errors
/// Nothing comes back until the deadline.
pub(super) async fn subscribe(client: &Client, subject: &str, deadline: Instant) -> Result<Subscriber, EngineError> {
    let echo = format!("{subject}.echo");
    let fails = |reason: String| EngineError::Links { server: server_of(client), subject: subject.to_owned(), reason };
    let envelopes = client.subscribe(subject.to_owned()).await.map_err(|error| fails(error.to_string()))?;
    let mut echoes = client.subscribe(echo.clone()).await.map_err(|error| fails(error.to_string()))?;
    loop {
        client.publish(echo.clone(), Bytes::new()).await.map_err(|error| fails(error.to_string()))?;
        match timeout(REQUEST_WITHIN, next(&mut echoes)).await {
            Ok(Some(_)) => return Ok(envelopes),
            Ok(None) => return Err(fails("the connection was closed".to_owned())),
            // The connection was lost meanwhile, or the user may not do this.
            Err(_) if Instant::now() < deadline => {}
            Err(_) => return Err(fails(format!("no message came back in {} s", REQUEST_WITHIN.as_secs()))),
        }
    }
}

async fn next(subscriber: &mut Subscriber) -> Option<Message> {
    std::future::poll_fn(|cx| std::pin::Pin::new(&mut *subscriber).poll_next(cx)).await
}

/// Reports the envelopes of other nodes.
pub(super) async fn receive(
    mut subscriber: Subscriber,
    events: EventSender,
    counters: Arc<Counters>,
) -> Result<(), ReceiverEnded> {
    loop {
        let Some(message) = next(&mut subscriber).await else { return Ok(()) };
        counters.envelopes_received.one();
        counters.envelope_bytes_received.add(message.payload.len() as u64);
        events.message(EngineEvent::Envelope(message.payload)).await?;
    }
}
