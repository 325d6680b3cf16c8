//! SIGINT and SIGTERM for the verbs that are clients: they disconnect in order.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::ClientError;

/// The signals that end a verb.
pub(super) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// # Errors
    /// The system refuses a handler.
    pub(super) fn new() -> Result<Self, ClientError> {
        let handler = |kind| signal(kind).map_err(|error| ClientError::Unsupported(format!("signals: {error}")));
        Ok(Self { interrupt: handler(SignalKind::interrupt())?, terminate: handler(SignalKind::terminate())? })
    }

    /// Returns at the next one. Nothing is lost where the future is dropped.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
