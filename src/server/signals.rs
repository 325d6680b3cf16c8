//! The process's signals, as what the control plane does about them.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::apply::Signal;

/// SIGHUP, SIGTERM and SIGINT from now on. Must be called within a tokio runtime.
///
/// # Errors
/// The system refuses a handler.
pub(super) fn receive() -> std::io::Result<mpsc::Receiver<Signal>> {
    let (sender, signals) = mpsc::channel(4);
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let received = tokio::select! {
                _ = hang_up.recv() => Signal::Reload,
                _ = terminate.recv() => Signal::Stop,
                _ = interrupt.recv() => Signal::Stop,
            };
            if sender.send(received).await.is_err() {
                return;
            }
        }
    });
    Ok(signals)
}

/// The signals of a server that runs, for its two readers.
pub(super) struct Forwarded {
    /// For the reconciler: all of them, up to the first [`Signal::Stop`].
    pub(super) control: mpsc::Receiver<Signal>,
    /// For the service manager: one per reload.
    pub(super) reloads: mpsc::Receiver<()>,
    /// Yields what comes after the first [`Signal::Stop`].
    pub(super) rest: JoinHandle<mpsc::Receiver<Signal>>,
}

/// Hands `signals` on until the first [`Signal::Stop`].
pub(super) fn forward(mut signals: mpsc::Receiver<Signal>) -> Forwarded {
    let (reload, reloads) = mpsc::channel(4);
    let (sender, control) = mpsc::channel(4);
    let rest = tokio::spawn(async move {
        while let Some(signal) = signals.recv().await {
            if signal == Signal::Reload {
                // Several reloads at once are one; without a service manager the channel is closed.
                let _full_or_closed = reload.try_send(());
            }
            if signal == Signal::Stop || sender.send(signal).await.is_err() {
                break;
            }
        }
        // Fails where the reconciler has ended by itself.
        let _ended = sender.send(Signal::Stop).await;
        signals
    });
    Forwarded { control, reloads, rest }
}

/// Returns at the next [`Signal::Stop`]; never, where the signals end.
pub(super) async fn next_stop(mut signals: mpsc::Receiver<Signal>) {
    while let Some(signal) = signals.recv().await {
        if signal == Signal::Stop {
            return;
        }
    }
    std::future::pending().await
}
