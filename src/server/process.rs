//! A server that has the process for itself, as `weir run` starts it: signals, systemd, levels of the log.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::ServerError;
use super::handle::{ServerHandle, listens};
use super::logging::{self, LogControl};
use super::options::ServerOptions;
use super::parts::check_directory;
use super::signals::{self, next_stop};
use super::systemd;
use crate::apply::Signal;

/// Called once with the running server, when all declared endpoints listen.
pub(crate) type OnListening = Box<dyn FnOnce(&ServerHandle) + Send>;

/// Serves until SIGTERM or SIGINT. SIGHUP reads the source; a second SIGTERM ends without waiting for clients. `log`
/// follows the levels that endpoints declare.
///
/// # Errors
/// See [`ServerError`].
pub(crate) fn run(
    options: ServerOptions,
    log: Arc<LogControl>,
    on_listening: Option<OnListening>,
) -> Result<(), ServerError> {
    // Before a runtime logs anything.
    check_directory(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("weir-control")
        .enable_all()
        .build()
        .map_err(ServerError::Runtime)?;
    let options = ServerOptions { owns_process: true, ..options };
    let served = runtime.block_on(async {
        let signals = signals::receive().map_err(ServerError::Signals)?;
        let server = ServerHandle::launch(options).await?;
        serve(server, signals, log, on_listening).await
    });
    // The process ends: nothing that still blocks is waited for.
    runtime.shutdown_background();
    served
}

async fn serve(
    mut server: ServerHandle,
    mut signals: mpsc::Receiver<Signal>,
    log: Arc<LogControl>,
    mut on_listening: Option<OnListening>,
) -> Result<(), ServerError> {
    let mut background = JoinSet::new();
    background.spawn(logging::follow_levels(log, server.control()));
    let manager = systemd::Manager::from_environment()?.map(Arc::new);
    let (reload, reloads) = mpsc::channel(4);
    if let Some(manager) = &manager {
        background.spawn(systemd::follow(manager.clone(), server.control(), server.plane(), reloads));
    }
    let state = server.control();
    let listening = async move { listens(&state).await };
    tokio::pin!(listening);
    loop {
        tokio::select! {
            () = &mut listening, if on_listening.is_some() => {
                if let Some(announce) = on_listening.take() {
                    announce(&server);
                }
            }
            signal = signals.recv() => match signal {
                Some(Signal::Reload) => {
                    // Several reloads at once are one; without a service manager the channel is closed.
                    let _full_or_closed = reload.try_send(());
                    server.reload().await;
                }
                Some(Signal::Stop) | None => break,
            },
            ended = server.ended() => return ended,
        }
    }
    if let Some(manager) = &manager {
        manager.stopping();
    }
    tokio::select! {
        ended = server.shutdown() => ended,
        () = next_stop(signals) => {
            tracing::warn!("shutdown aborted by a second signal: ending at once");
            Ok(())
        }
    }
}
