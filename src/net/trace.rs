//! Looking over one client's shoulder: what it sends and is sent, as whole packets, while somebody listens.
//!
//! Nothing of it is on the message path but a look at whether anybody is traced. Who listens and falls behind loses
//! packets, and is told how many; the client never waits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::plane::{DataPlane, PlaneError};
use super::shard::Control;
use weir_broker::{ConnId, EndpointId, Millis, OutBuf};
use weir_mqtt::ProtocolVersion;

/// Steps that wait for a listener.
const STEPS_MAX: usize = 1024;
/// Bytes of packets that wait for a listener.
const BYTES_MAX: usize = 4 << 20;

/// Which client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceFilter {
    pub client_id: String,
    /// `None`: of any endpoint.
    pub endpoint: Option<EndpointId>,
}

/// What happened to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStep {
    /// By the data plane's clock.
    pub at: Millis,
    pub what: Traced,
}

/// What of a connection is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traced {
    /// It is connected: now, or already when the trace began.
    Connected { endpoint: EndpointId, peer: Option<SocketAddr>, version: ProtocolVersion },
    /// Whole packets that came from it.
    Received { version: ProtocolVersion, bytes: Vec<u8> },
    /// Whole packets for it, as they are handed to its socket.
    Sent { version: ProtocolVersion, bytes: Vec<u8> },
    /// Its connection has ended.
    Ended,
    /// The listener fell behind: so many steps are missing here.
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

/// The listener's end. Dropping it ends the trace.
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

/// A shard's end.
#[derive(Debug, Clone)]
pub(super) struct Tracer {
    filter: Arc<TraceFilter>,
    steps: mpsc::Sender<TraceStep>,
    waiting_bytes: Arc<AtomicUsize>,
    lost: u64,
    /// The client's connection here, while it has one.
    connection: Option<ConnId>,
    version: ProtocolVersion,
    /// Bytes in front of its out buffer that were told already.
    told: usize,
}

impl Tracer {
    pub(super) fn is_over(&self) -> bool {
        self.steps.is_closed()
    }

    pub(super) fn follows(&self, id: ConnId) -> bool {
        self.connection == Some(id)
    }

    pub(super) fn wants(&self, endpoint: EndpointId, client_id: &str) -> bool {
        self.filter.client_id == client_id && self.filter.endpoint.is_none_or(|wanted| wanted == endpoint)
    }

    /// Follows a connection from now on; `waiting` bytes of its out buffer are none of ours.
    pub(super) fn follow(&mut self, id: ConnId, waiting: usize, connected: Traced, at: Millis) {
        if let Traced::Connected { version, .. } = &connected {
            self.version = *version;
        }
        (self.connection, self.told) = (Some(id), waiting);
        self.tell(at, connected);
    }

    pub(super) fn received(&mut self, bytes: &[u8], at: Millis) {
        if !bytes.is_empty() {
            self.tell(at, Traced::Received { version: self.version, bytes: bytes.to_vec() });
        }
    }

    /// The out buffer is about to be written.
    pub(super) fn sending(&mut self, out: &OutBuf, at: Millis) {
        if out.ready() > self.told {
            self.tell(at, Traced::Sent { version: self.version, bytes: out.ready_from(self.told) });
        }
    }

    /// So many bytes that could have been written were left.
    pub(super) fn left(&mut self, bytes: usize) {
        self.told = bytes;
    }

    pub(super) fn ended(&mut self, at: Millis) {
        self.connection = None;
        self.tell(at, Traced::Ended);
    }

    fn tell(&mut self, at: Millis, what: Traced) {
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
    /// Follows a client, connected or yet to connect, until the answer is dropped.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn trace(&self, filter: TraceFilter) -> Result<TraceSteps, PlaneError> {
        let (tell, steps) = mpsc::channel(STEPS_MAX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let tracer = Tracer {
            filter: Arc::new(filter),
            steps: tell,
            waiting_bytes: Arc::clone(&waiting_bytes),
            lost: 0,
            connection: None,
            version: ProtocolVersion::V5,
            told: 0,
        };
        self.ask_all(|reply| Control::Trace { tracer: Box::new(tracer.clone()), reply }).await?;
        Ok(TraceSteps { steps, waiting_bytes })
    }
}
