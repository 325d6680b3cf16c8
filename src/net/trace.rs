//! Traces one client: the whole packets that it sends and receives, while a subscriber of the trace listens.
//!
//! On the message path this costs one check whether any trace is active. A subscriber that falls behind loses packets
//! and gets their number; the client is never delayed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::plane::{DataPlane, PlaneError};
use super::shard::Control;
use weir_broker::{ConnId, EndpointId, Millis, OutBuf};
use weir_mqtt::ProtocolVersion;

/// Maximum of steps in the queue of a subscriber.
const STEPS_MAX: usize = 1024;
/// Maximum of packet bytes in the queue of a subscriber.
const BYTES_MAX: usize = 4 << 20;

/// The client to trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceFilter {
    pub client_id: String,
    /// `None`: any endpoint.
    pub endpoint: Option<EndpointId>,
}

/// One event of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// Time by the data plane's clock, milliseconds.
    pub at: Millis,
    pub what: Traced,
}

/// The kinds of trace events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traced {
    /// The client has connected, or was connected when the trace began.
    Connected { endpoint: EndpointId, peer: Option<SocketAddr>, version: ProtocolVersion },
    /// Whole packets received from the client.
    Received { version: ProtocolVersion, bytes: Vec<u8> },
    /// Whole packets to the client, as they are written to its socket.
    Sent { version: ProtocolVersion, bytes: Vec<u8> },
    /// Its connection has ended.
    Ended,
    /// The subscriber fell behind: the number of steps that are missing here.
    Lost { steps: u64 },
}

impl Traced {
    fn bytes(&self) -> usize {
        match self {
            Self::Received { bytes, .. } | Self::Sent { bytes, .. } => bytes.len(),
            Self::Connected { .. } | Self::Ended | Self::Lost { .. } => 0,
        }
    }
}

/// The receiving end of a trace. Dropping it ends the trace.
#[derive(Debug)]
pub struct TraceSteps {
    steps: mpsc::Receiver<TraceStep>,
    waiting_bytes: Arc<AtomicUsize>,
}

impl TraceSteps {
    /// The next step; `None`: the data plane has stopped.
    pub async fn next(&mut self) -> Option<TraceStep> {
        let step = self.steps.recv().await?;
        self.waiting_bytes.fetch_sub(step.what.bytes(), Ordering::Relaxed);
        Some(step)
    }
}

/// The sending end of a trace, in a shard.
#[derive(Debug, Clone)]
pub(super) struct ClientTracer {
    filter: Arc<TraceFilter>,
    steps: mpsc::Sender<TraceStep>,
    waiting_bytes: Arc<AtomicUsize>,
    lost: u64,
    /// The client's connection here, while it has one.
    connection: Option<ConnId>,
    version: ProtocolVersion,
    /// Bytes at the front of its out buffer that were traced already.
    traced_bytes: usize,
}

impl ClientTracer {
    pub(super) fn is_closed(&self) -> bool {
        self.steps.is_closed()
    }

    pub(super) fn follows(&self, id: ConnId) -> bool {
        self.connection == Some(id)
    }

    pub(super) fn matches(&self, endpoint: EndpointId, client_id: &str) -> bool {
        self.filter.client_id == client_id && self.filter.endpoint.is_none_or(|wanted| wanted == endpoint)
    }

    /// Begins to trace a connection; the first `waiting` bytes of its out buffer are not traced.
    pub(super) fn follow(&mut self, id: ConnId, waiting: usize, connected: Traced, at: Millis) {
        if let Traced::Connected { version, .. } = &connected {
            self.version = *version;
        }
        (self.connection, self.traced_bytes) = (Some(id), waiting);
        self.send_step(at, connected);
    }

    pub(super) fn received(&mut self, bytes: &[u8], at: Millis) {
        if !bytes.is_empty() {
            self.send_step(at, Traced::Received { version: self.version, bytes: bytes.to_vec() });
        }
    }

    /// Called before the out buffer is written.
    pub(super) fn sending(&mut self, out: &OutBuf, at: Millis) {
        if out.ready() > self.traced_bytes {
            self.send_step(at, Traced::Sent { version: self.version, bytes: out.ready_from(self.traced_bytes) });
        }
    }

    /// Called after a write, with the number of writable bytes that remain.
    pub(super) fn after_write(&mut self, unwritten: usize) {
        self.traced_bytes = unwritten;
    }

    pub(super) fn ended(&mut self, at: Millis) {
        self.connection = None;
        self.send_step(at, Traced::Ended);
    }

    fn send_step(&mut self, at: Millis, what: Traced) {
        if self.lost > 0 {
            let steps = self.lost;
            if self.steps.try_send(TraceStep { at, what: Traced::Lost { steps } }).is_err() {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        let bytes = what.bytes();
        if self.waiting_bytes.load(Ordering::Relaxed) + bytes > BYTES_MAX {
            self.lost += 1;
            return;
        }
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.steps.try_send(TraceStep { at, what }).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.lost += 1;
        }
    }
}

impl DataPlane {
    /// Traces a client, connected or not yet, until the returned value is dropped.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn trace(&self, filter: TraceFilter) -> Result<TraceSteps, PlaneError> {
        let (sender, steps) = mpsc::channel(STEPS_MAX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let tracer = ClientTracer {
            filter: Arc::new(filter),
            steps: sender,
            waiting_bytes: Arc::clone(&waiting_bytes),
            lost: 0,
            connection: None,
            version: ProtocolVersion::V5,
            traced_bytes: 0,
        };
        self.ask_all(|reply| Control::Trace { tracer: Box::new(tracer.clone()), reply }).await?;
        Ok(TraceSteps { steps, waiting_bytes })
    }
}
