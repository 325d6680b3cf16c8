//! The task that moves an in-process client's bytes, and the state that it shares with the client's handles.
//!
//! The lock belongs to one client; it is held while a packet is encoded or decoded, and never across an await.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::{Notify, oneshot};
use weir_mqtt::{PacketId, QoS, SubscriptionOptions};

use super::connection::{Connection, Event};
use super::error::ClientError;
use super::message::{Message, Publish};
use super::packets::{self, Outgoing};

/// Messages that wait for the program; more stay with the broker.
const WAITING_MESSAGES_MAX: usize = 256;
/// Their payloads together, bytes.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// A connection, and what its handles wait for.
pub(super) struct Driven {
    state: Mutex<State>,
    /// There may be room for another message.
    room: Notify,
    /// The connection has ended.
    ended: Notify,
}

struct State {
    connection: Connection,
    /// What waits for the acknowledgement of a packet.
    pending: HashMap<PacketId, Pending>,
    /// Messages for the program.
    messages: VecDeque<packets::Message>,
    message_bytes: usize,
    /// Messages of QoS 1 and 2 in the order in which they came, which is that of their acknowledgements [MQTT-4.6.0-2], and
    /// whether the program has acknowledged them.
    unacknowledged: VecDeque<(PacketId, QoS, bool)>,
    driver: Option<Waker>,
    reader: Option<Waker>,
    closing: bool,
    /// `Some(None)`: closed as intended.
    ended: Option<Option<ClientError>>,
}

enum Pending {
    Publish(oneshot::Sender<Result<(), String>>),
    Subscribe(oneshot::Sender<Result<QoS, String>>),
    Unsubscribe(oneshot::Sender<()>),
}

impl std::fmt::Debug for Driven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("ended", &self.lock().ended).finish_non_exhaustive()
    }
}

impl Driven {
    pub(super) fn new(connection: Connection) -> Self {
        let state = State {
            connection,
            pending: HashMap::new(),
            messages: VecDeque::new(),
            message_bytes: 0,
            unacknowledged: VecDeque::new(),
            driver: None,
            reader: None,
            closing: false,
            ended: None,
        };
        Self { state: Mutex::new(state), room: Notify::new(), ended: Notify::new() }
    }

    /// A panic while the lock is held ends the connection with its task.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn publish(&self, message: &Publish<'_>) -> Result<(), ClientError> {
        if let Some(invalid) = message.invalid {
            return Err(ClientError::Unsupported(format!("a property is {invalid}")));
        }
        let outgoing = Outgoing {
            topic: message.topic,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            extras: &message.extras,
        };
        let outcome = loop {
            let room = self.room.notified();
            {
                let mut state = self.lock();
                state.check_open()?;
                if state.connection.may_publish() {
                    let Some(id) = state.connection.publish(&outgoing)? else {
                        state.wake_driver();
                        return Ok(());
                    };
                    let (sender, outcome) = oneshot::channel();
                    state.pending.insert(id, Pending::Publish(sender));
                    state.wake_driver();
                    break outcome;
                }
            }
            room.await;
        };
        self.outcome(outcome).await?.map_err(ClientError::Rejected)
    }

    pub(super) async fn subscribe(&self, filter: &str, options: SubscriptionOptions) -> Result<QoS, ClientError> {
        weir_mqtt::validate_topic_filter(filter)
            .map_err(|problem| ClientError::Unsupported(format!("topic filter {filter:?} {problem}")))?;
        let outcome = {
            let mut state = self.lock();
            state.check_open()?;
            let id = state.connection.subscribe(&[(filter.to_owned(), options)])?;
            let (sender, outcome) = oneshot::channel();
            state.pending.insert(id, Pending::Subscribe(sender));
            state.wake_driver();
            outcome
        };
        self.outcome(outcome).await?.map_err(ClientError::Rejected)
    }

    pub(super) async fn unsubscribe(&self, filter: &str) -> Result<(), ClientError> {
        let outcome = {
            let mut state = self.lock();
            state.check_open()?;
            let id = state.connection.unsubscribe(filter)?;
            let (sender, outcome) = oneshot::channel();
            state.pending.insert(id, Pending::Unsubscribe(sender));
            state.wake_driver();
            outcome
        };
        self.outcome(outcome).await
    }

    /// Waits for an acknowledgement; its sender is dropped when the connection ends.
    async fn outcome<T>(&self, outcome: oneshot::Receiver<T>) -> Result<T, ClientError> {
        outcome.await.map_err(|_| self.error().unwrap_or(ClientError::Closed))
    }

    /// Acknowledges the message, and those before and after it whose turn it is.
    pub(super) fn acknowledge(&self, id: PacketId) {
        let mut state = self.lock();
        if let Some(entry) = state.unacknowledged.iter_mut().find(|(other, ..)| *other == id) {
            entry.2 = true;
        }
        while let Some(&(id, qos, true)) = state.unacknowledged.front() {
            state.unacknowledged.pop_front();
            state.connection.acknowledge_id(qos, id);
        }
        state.wake_driver();
    }

    pub(super) fn poll_message(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut state = self.lock();
        match state.messages.pop_front() {
            Some(message) => {
                let was_full = state.is_full();
                state.message_bytes -= message.payload.len();
                if was_full || state.message_bytes == 0 {
                    state.wake_driver();
                }
                drop(state);
                Poll::Ready(Some(Message::new(message, Arc::clone(self))))
            }
            None if state.ended.is_some() => Poll::Ready(None),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn error(&self) -> Option<ClientError> {
        self.lock().ended.clone().flatten()
    }

    /// Sends DISCONNECT when everything before it is written.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.wake_driver();
    }

    pub(super) async fn ended(&self) {
        loop {
            let ended = self.ended.notified();
            if self.lock().ended.is_some() {
                return;
            }
            ended.await;
        }
    }

    /// One round of the task; ready when the connection has ended.
    fn poll_drive(&self, cx: &mut Context<'_>) -> Poll<Option<ClientError>> {
        let mut state = self.lock();
        if state.driver.as_ref().is_none_or(|driver| !driver.will_wake(cx.waker())) {
            state.driver = Some(cx.waker().clone());
        }
        loop {
            if state.closing {
                return state.poll_close(cx);
            }
            let polled = if state.is_full() {
                state.connection.poll_write(cx).map_ok(|()| None)
            } else {
                state.connection.poll_next(cx).map_ok(Some)
            };
            match polled {
                Poll::Ready(Ok(Some(event))) => state.on_event(event),
                Poll::Ready(Err(error)) => return Poll::Ready(Some(error)),
                Poll::Ready(Ok(None)) | Poll::Pending => break,
            }
        }
        if state.connection.may_publish() {
            self.room.notify_waiters();
        }
        Poll::Pending
    }

    fn end(&self, error: Option<ClientError>) {
        let mut state = self.lock();
        state.ended = Some(error);
        state.pending.clear();
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        drop(state);
        self.room.notify_waiters();
        self.ended.notify_waiters();
    }
}

impl State {
    fn check_open(&self) -> Result<(), ClientError> {
        match &self.ended {
            None if !self.closing => Ok(()),
            Some(Some(error)) => Err(error.clone()),
            _ => Err(ClientError::Closed),
        }
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= WAITING_MESSAGES_MAX || self.message_bytes >= WAITING_BYTES_MAX
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Message(message) => {
                if let Some(id) = message.packet_id {
                    self.unacknowledged.push_back((id, message.qos, false));
                }
                self.message_bytes += message.payload.len();
                self.messages.push_back(message);
                if let Some(reader) = self.reader.take() {
                    reader.wake();
                }
            }
            // A receiver that is gone does not wait any more.
            Event::Published(id, outcome) => {
                if let Some(Pending::Publish(sender)) = self.pending.remove(&id) {
                    let _gone = sender.send(outcome);
                }
            }
            Event::Subscribed(id, codes) => {
                if let Some(Pending::Subscribe(sender)) = self.pending.remove(&id) {
                    let outcome = codes.into_iter().next().unwrap_or_else(|| Err("SUBACK without a code".to_owned()));
                    let _gone = sender.send(outcome);
                }
            }
            Event::Unsubscribed(id) => {
                if let Some(Pending::Unsubscribe(sender)) = self.pending.remove(&id) {
                    let _gone = sender.send(());
                }
            }
            Event::Written => {}
        }
    }

    /// Writes everything and DISCONNECT, and waits until the broker closes.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<ClientError>> {
        if !self.connection.is_disconnecting()
            && let Err(error) = self.connection.disconnect()
        {
            return Poll::Ready(Some(error));
        }
        loop {
            match self.connection.poll_next(cx) {
                // What comes now is not read: the broker keeps it, if the session is persistent.
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// The task of a client.
pub(super) async fn drive(driven: Arc<Driven>) {
    let error = poll_fn(|cx| driven.poll_drive(cx)).await;
    driven.end(error);
}
