//! For orchestrators: alive, ready.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use hyper::StatusCode;
use hyper::header::HeaderMap;
use tokio::sync::watch;

use super::http::{Answer, TEXT};
use super::query::Query;
use super::router::App;
use crate::state::Phase;

/// The process serves requests, and every shard came round lately.
pub(super) fn livez(app: &App, _: &Query, _: &HeaderMap) -> Answer {
    let silent = app.pulse.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
    if silent < app.options.pulse_timeout {
        return Answer::new(StatusCode::OK, TEXT, "ok\n");
    }
    let why = format!("not alive: a shard has not come round for {} s\n", silent.as_secs());
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, why)
}

/// Asks the shards for a sign of life, over and over. One question at a time: a shard that hangs is asked once.
pub(super) async fn watch(app: Arc<App>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            alive = app.view.pulse() => {
                if alive {
                    *app.pulse.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                }
            }
        }
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(app.options.pulse_interval) => {}
        }
    }
}

/// A first snapshot has been applied. A document refused later does not take a broker out of service.
pub(super) fn readyz(app: &App, _: &Query, _: &HeaderMap) -> Answer {
    let state = app.view.state();
    let why = match (state.phase, &state.source.trouble) {
        (Phase::Serving, _) => return Answer::new(StatusCode::OK, TEXT, "ok\n"),
        (Phase::Draining, _) => "not ready: the broker is shutting down\n".to_owned(),
        (Phase::Starting, None) => "not ready: no declaration is applied yet\n".to_owned(),
        (Phase::Starting, Some(trouble)) => format!("not ready: no declaration is applied yet: {}\n", trouble.message),
    };
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, why)
}
