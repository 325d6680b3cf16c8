//! MQTT over one byte stream.
//!
//! [`Connection::publish`] and its like only queue; [`Connection::next`] writes, reads, keeps the connection alive and
//! runs the acknowledgements of QoS 2. So neither side waits for the other.

use std::collections::HashSet;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;
use weir_mqtt::{
    DecodeContext, Decoded, Disconnect, Packet, PacketId, ProtocolVersion, PublishPropsOut, QoS, ReasonCode, Side,
    SubscriptionOptions, UserProperties, decode, encode, encode_publish_parts, pingreq, puback, pubcomp, publish_len,
    pubrec, pubrel,
};

use super::error::ClientError;
use super::packets::{
    BrokerLimits, ConnectOptions, Message, Outgoing, Received, WINDOW, connect_packet, push_filter, received,
};

/// Room for one read, bytes.
const READ_BYTES: usize = 64 << 10;
/// Bytes that may wait for the socket before another message is taken.
const QUEUED_BYTES_MAX: usize = 256 << 10;
/// The largest packet that MQTT has.
const PACKET_BYTES_MAX: u32 = 268_435_460;
/// How long the broker may take to close after a DISCONNECT.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection's bytes in both directions.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for T {}

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Event {
    Message(Message),
    /// A message of QoS 1 or 2 is finished. `Err`: the broker refused it, with the reason's name.
    Published(PacketId, Result<(), String>),
    /// For each filter: `Err`: refused, with the reason's name.
    Subscribed(PacketId, Vec<Result<QoS, String>>),
    /// The broker has removed the subscriptions.
    Unsubscribed(PacketId),
    /// Everything that was queued is written.
    Written,
}

/// A connection that the broker has accepted.
pub(crate) struct Connection {
    stream: Box<dyn ByteStream>,
    version: ProtocolVersion,
    limits: BrokerLimits,
    /// Bytes that were read; those before `taken` are decoded.
    input: Vec<u8>,
    taken: usize,
    /// Bytes to write; those before `written` are written.
    output: Vec<u8>,
    written: usize,
    needs_flush: bool,
    next_id: u16,
    /// Messages that went out and are not finished.
    in_flight: HashSet<PacketId>,
    /// Messages of QoS 2 that came in and are not released.
    unreleased: HashSet<PacketId>,
    /// The topic that the alias is set to.
    aliased: Option<String>,
    keep_alive: Option<Duration>,
    last_written: Instant,
    /// A PINGREQ waits for its answer since then.
    pinged: Option<Instant>,
    /// Whether the broker had a session of this client.
    session_present: bool,
    is_disconnecting: bool,
}

impl Connection {
    /// Connects over `stream`; `unreleased` has the messages of QoS 2 that an earlier connection of the session left.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub(crate) async fn open(
        stream: Box<dyn ByteStream>,
        options: &ConnectOptions,
        unreleased: HashSet<PacketId>,
    ) -> Result<Self, ClientError> {
        let mut connection = Self {
            stream,
            version: options.version,
            limits: BrokerLimits {
                receive_maximum: WINDOW,
                maximum_qos: QoS::ExactlyOnce,
                retain: true,
                maximum_packet_size: None,
                topic_alias_maximum: 0,
            },
            input: Vec::new(),
            taken: 0,
            output: Vec::new(),
            written: 0,
            needs_flush: false,
            next_id: 0,
            in_flight: HashSet::new(),
            unreleased,
            aliased: None,
            keep_alive: None,
            last_written: Instant::now(),
            pinged: None,
            session_present: false,
            is_disconnecting: false,
        };
        encode(&connect_packet(options), options.version, &mut connection.output)?;
        let keep_alive_s = loop {
            match connection.receive()? {
                Some(Received::ConnAck(Ok((limits, keep_alive_s, session_present)))) => {
                    connection.limits = limits;
                    connection.session_present = session_present;
                    break keep_alive_s.unwrap_or(options.keep_alive_s);
                }
                Some(Received::ConnAck(Err(reason))) => return Err(ClientError::Refused(reason)),
                Some(_) => return Err(ClientError::Protocol("a packet before CONNACK [MQTT-3.2.0-1]".to_owned())),
                None => poll_fn(|cx| connection.poll_io(cx)).await.map(drop)?,
            }
        };
        connection.keep_alive = (keep_alive_s > 0).then(|| Duration::from_secs(keep_alive_s.into()));
        if !connection.session_present {
            connection.unreleased.clear();
        }
        Ok(connection)
    }

    /// Whether another message may be queued: the broker's window and the buffer have room.
    pub(crate) fn may_publish(&self) -> bool {
        self.in_flight.len() < self.limits.receive_maximum.min(WINDOW) && self.output.len() < QUEUED_BYTES_MAX
    }

    /// Whether everything is written, and all messages of QoS 1 and 2 are finished.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.output.is_empty() && !self.needs_flush
    }

    /// Queues a message. QoS 1 and 2 have an identifier, and are followed by an [`Event::Published`] with it.
    ///
    /// # Errors
    /// The broker does not accept such messages, or it cannot be encoded.
    pub(crate) fn publish(&mut self, message: &Outgoing<'_>) -> Result<Option<PacketId>, ClientError> {
        let limits = self.limits;
        if message.qos > limits.maximum_qos {
            let maximum = limits.maximum_qos as u8;
            return Err(ClientError::Unsupported(format!("this broker accepts QoS {maximum} at most")));
        }
        if message.retain && !limits.retain {
            return Err(ClientError::Unsupported("this broker keeps no retained messages".to_owned()));
        }
        let alias = message.extras.topic_alias;
        if alias.is_some_and(|alias| alias > limits.topic_alias_maximum) {
            let maximum = limits.topic_alias_maximum;
            return Err(ClientError::Unsupported(format!("this broker accepts topic aliases up to {maximum}")));
        }
        let is_aliased = alias.is_some() && self.aliased.as_deref() == Some(message.topic);
        let topic = if is_aliased { "" } else { message.topic };
        let properties = PublishPropsOut {
            pieces: &[&message.extras.block],
            message_expiry_s: message.extras.message_expiry_s,
            topic_alias: alias,
            subscription_identifiers: &[],
        };
        let length = publish_len(self.version, message.qos, topic.len(), &properties, message.payload.len());
        if let Some(maximum) = limits.maximum_packet_size.filter(|&maximum| length > maximum as usize) {
            let text = format!("the packet has {length} bytes, and this broker accepts {maximum} at most");
            return Err(ClientError::Unsupported(text));
        }
        let id = (message.qos != QoS::AtMostOnce).then(|| self.allocate_id());
        let (out, version) = (&mut self.output, self.version);
        let (qos, retain) = (message.qos, message.retain);
        encode_publish_parts(out, version, false, qos, retain, topic, id, &properties, message.payload)?;
        self.in_flight.extend(id);
        if alias.is_some() && !is_aliased {
            self.aliased = Some(message.topic.to_owned());
        }
        Ok(id)
    }

    /// Queues a SUBSCRIBE; an [`Event::Subscribed`] with the returned identifier follows.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub(crate) fn subscribe(&mut self, filters: &[(String, SubscriptionOptions)]) -> Result<PacketId, ClientError> {
        let mut raw = Vec::new();
        for (filter, options) in filters {
            push_filter(&mut raw, filter)?;
            let mut bits = options.qos as u8;
            if self.version == ProtocolVersion::V5 {
                bits |= u8::from(options.no_local) << 2
                    | u8::from(options.retain_as_published) << 3
                    | (options.retain_handling as u8) << 4;
            }
            raw.push(bits);
        }
        let packet_id = self.allocate_id();
        let packet = Packet::Subscribe(weir_mqtt::Subscribe {
            packet_id,
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            raw_filters: &raw,
            count: filters.len(),
        });
        encode(&packet, self.version, &mut self.output)?;
        Ok(packet_id)
    }

    /// Queues an UNSUBSCRIBE; an [`Event::Unsubscribed`] with the returned identifier follows.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub(crate) fn unsubscribe(&mut self, filter: &str) -> Result<PacketId, ClientError> {
        let mut raw = Vec::new();
        push_filter(&mut raw, filter)?;
        let packet_id = self.allocate_id();
        let user_properties = UserProperties::default();
        let packet =
            Packet::Unsubscribe(weir_mqtt::Unsubscribe { packet_id, user_properties, raw_filters: &raw, count: 1 });
        encode(&packet, self.version, &mut self.output)?;
        Ok(packet_id)
    }

    /// Queues a DISCONNECT; the broker closes after it.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub(crate) fn disconnect(&mut self) -> Result<(), ClientError> {
        self.is_disconnecting = true;
        Ok(encode(&Packet::Disconnect(Disconnect::default()), self.version, &mut self.output)?)
    }

    /// Whether a DISCONNECT was queued.
    pub(crate) fn is_disconnecting(&self) -> bool {
        self.is_disconnecting
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_written(&self) -> bool {
        self.output.is_empty() && !self.needs_flush
    }

    /// Whether the broker had a session of this client.
    pub(crate) fn session_present(&self) -> bool {
        self.session_present
    }

    /// Queues the acknowledgement of a message that is dealt with.
    pub(crate) fn acknowledge(&mut self, message: &Message) {
        if let Some(id) = message.packet_id {
            self.acknowledge_id(message.qos, id);
        }
    }

    /// As [`Connection::acknowledge`], for a message of this QoS and identifier.
    pub(crate) fn acknowledge_id(&mut self, qos: QoS, id: PacketId) {
        match qos {
            QoS::AtLeastOnce => puback(&mut self.output, self.version, id, ReasonCode::Success),
            QoS::ExactlyOnce => pubrec(&mut self.output, self.version, id, ReasonCode::Success),
            QoS::AtMostOnce => {}
        }
    }

    /// The next event, without a keep-alive; writes what is queued meanwhile.
    ///
    /// # Errors
    /// The connection ended.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, ClientError>> {
        loop {
            if let Some(received) = self.receive()? {
                if let Some(event) = self.handle(received) {
                    return Poll::Ready(Ok(event));
                }
            } else if ready!(self.poll_io(cx))? {
                return Poll::Ready(Ok(Event::Written));
            }
        }
    }

    /// Writes what is queued, and reads nothing.
    ///
    /// # Errors
    /// The connection ended.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        self.poll_output(cx)
    }

    /// The next event; writes what is queued meanwhile. Nothing is lost where the future is dropped.
    ///
    /// # Errors
    /// The connection ended.
    pub(crate) async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            let due = self.keep_alive.map(|keep_alive| match self.pinged {
                Some(pinged) => pinged + keep_alive,
                None => self.last_written + keep_alive * 3 / 4,
            });
            let next = poll_fn(|cx| self.poll_next(cx));
            let Some(due) = due else { return next.await };
            if let Ok(event) = tokio::time::timeout_at(due, next).await {
                return event;
            }
            if self.pinged.is_some() {
                return Err(ClientError::Lost("no answer to PINGREQ".to_owned()));
            }
            pingreq(&mut self.output);
            self.pinged = Some(Instant::now());
        }
    }

    /// Sends DISCONNECT, and waits until the broker closes. Returns what [`Connection::open`] takes.
    pub(crate) async fn close(mut self) -> HashSet<PacketId> {
        // Best effort: the connection ends either way.
        let closed = async {
            encode(&Packet::Disconnect(Disconnect::default()), self.version, &mut self.output)
                .map_err(io::Error::other)?;
            self.stream.write_all(&self.output[self.written..]).await?;
            self.stream.shutdown().await?;
            // Unread bytes would reset the connection, and the broker could lose what it has not read.
            let mut rest = vec![0; READ_BYTES];
            while self.stream.read(&mut rest).await? > 0 {}
            Ok::<(), io::Error>(())
        };
        let _ended = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
        self.unreleased
    }

    /// The messages of QoS 2 that a later connection of the session has to know.
    pub(crate) fn into_unreleased(self) -> HashSet<PacketId> {
        self.unreleased
    }

    fn allocate_id(&mut self) -> PacketId {
        // The window is smaller than the number of identifiers.
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.next_id).filter(|id| !self.in_flight.contains(id)) {
                return id;
            }
        }
    }

    /// Reads and writes; `true`: everything is written, `false`: there is input.
    fn poll_io(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ClientError>> {
        let wrote = !self.is_written();
        if self.poll_output(cx)?.is_ready() && wrote {
            return Poll::Ready(Ok(true));
        }
        self.poll_read(cx)
    }

    /// Writes; ready when everything is written.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while self.written < self.output.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output[self.written..]) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ClientError::lost(&error))),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ClientError::Lost("nothing can be written".to_owned()))),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.needs_flush = true;
                    self.last_written = Instant::now();
                }
            }
        }
        if self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        if self.needs_flush {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ClientError::lost(&error))),
                Poll::Ready(Ok(())) => self.needs_flush = false,
            }
        }
        if self.is_written() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ClientError>> {
        if self.taken > 0 {
            self.input.drain(..self.taken);
            self.taken = 0;
        }
        let held = self.input.len();
        self.input.resize(held + READ_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut self.input[held..]);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        let read = buffer.filled().len();
        self.input.truncate(held + read);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(ClientError::lost(&error))),
            Poll::Ready(Ok(())) if read == 0 => {
                Poll::Ready(Err(ClientError::Lost("the broker closed the connection".to_owned())))
            }
            Poll::Ready(Ok(())) => {
                self.pinged = None;
                Poll::Ready(Ok(false))
            }
        }
    }

    /// The next packet of the input.
    fn receive(&mut self) -> Result<Option<Received>, ClientError> {
        let context = DecodeContext { version: self.version, max_packet_size: PACKET_BYTES_MAX, from: Side::Server };
        match decode(&self.input[self.taken..], &context)? {
            Decoded::Incomplete { .. } => Ok(None),
            Decoded::Packet { packet, len } => {
                let received = received(&packet, self.version)?;
                self.taken += len;
                Ok(Some(received))
            }
        }
    }

    fn handle(&mut self, received: Received) -> Option<Event> {
        match received {
            Received::Message(message) => {
                if let (QoS::ExactlyOnce, Some(id)) = (message.qos, message.packet_id)
                    && !self.unreleased.insert(id)
                {
                    // A repetition [MQTT-4.3.3-10].
                    self.acknowledge(&message);
                    return None;
                }
                Some(Event::Message(message))
            }
            Received::PubRec(id, Ok(())) => {
                pubrel(&mut self.output, self.version, id, ReasonCode::Success);
                None
            }
            Received::PubAck(id, outcome) | Received::PubRec(id, outcome) => {
                self.in_flight.remove(&id).then_some(Event::Published(id, outcome))
            }
            Received::PubComp(id) => self.in_flight.remove(&id).then_some(Event::Published(id, Ok(()))),
            Received::PubRel(id) => {
                self.unreleased.remove(&id);
                pubcomp(&mut self.output, self.version, id, ReasonCode::Success);
                None
            }
            Received::SubAck(id, codes) => Some(Event::Subscribed(id, codes)),
            Received::UnsubAck(id) => Some(Event::Unsubscribed(id)),
            Received::ConnAck(_) | Received::Nothing => None,
        }
    }
}
