//! Envelopes of node links: core NATS, at most once. Links send again what is lost.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_nats::connection::State;
use async_nats::{Client, PublishErrorKind, Subscriber};
use bytes::Bytes;
use futures_core::Stream as _;

use super::counters::Counters;
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

/// Reports the envelopes of other nodes.
pub(super) async fn receive(
    mut subscriber: Subscriber,
    events: EventSender,
    counters: Arc<Counters>,
) -> Result<(), ReceiverEnded> {
    loop {
        let next = std::future::poll_fn(|cx| std::pin::Pin::new(&mut subscriber).poll_next(cx)).await;
        let Some(message) = next else { return Ok(()) };
        counters.envelopes_received.one();
        counters.envelope_bytes_received.add(message.payload.len() as u64);
        events.message(EngineEvent::Envelope(message.payload)).await?;
    }
}
