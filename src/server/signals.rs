//! The process's signals, as what the control plane does about them.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

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

/// Returns at the next [`Signal::Stop`]; never, where the signals end.
pub(super) async fn next_stop(mut signals: mpsc::Receiver<Signal>) {
    while let Some(signal) = signals.recv().await {
        if signal == Signal::Stop {
            return;
        }
    }
    std::future::pending().await
}
