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

/// Whether a path answers orchestrators, who call the broker by any name and have no credentials.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz")
}

/// A probe's answer without the reason.
pub(super) fn brief(app: &App, path: &str) -> Answer {
    let whole = match path {
        "/readyz" => readyz(app, &Query::default(), &HeaderMap::new()),
        _ => livez(app, &Query::default(), &HeaderMap::new()),
    };
    let text = if whole.status == StatusCode::OK { "ok\n" } else { "not ok\n" };
    Answer::new(whole.status, TEXT, text)
}

/// The process serves requests, and every shard has answered within the time-out.
pub(super) fn livez(app: &App, _: &Query, _: &HeaderMap) -> Answer {
    let since_ping = app.last_ping.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
    if since_ping < app.options.ping_timeout {
        return Answer::new(StatusCode::OK, TEXT, "ok\n");
    }
    let why = format!("not alive: a shard has not answered for {} s\n", since_ping.as_secs());
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, why)
}

/// Asks the shards for a sign of life, over and over. One question at a time: a shard that hangs is asked once.
pub(super) async fn watch(app: Arc<App>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            alive = app.view.ping_shards() => {
                if alive {
                    *app.last_ping.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                }
            }
        }
        tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(app.options.ping_interval) => {}
        }
    }
}

/// A declaration is applied, which may be the last known good one, and a node of a cluster may serve clients. A document
/// refused later does not take a broker out of service.
pub(super) fn readyz(app: &App, _: &Query, _: &HeaderMap) -> Answer {
    let state = app.view.state();
    let why = match (state.phase, &state.source.error) {
        (Phase::Serving, _) => match app.view.cluster_members().and_then(|members| members.not_ready) {
            None => return Answer::new(StatusCode::OK, TEXT, "ok\n"),
            Some(reason) => format!("not ready: {reason}\n"),
        },
        (Phase::Draining, _) => "not ready: the broker is shutting down\n".to_owned(),
        (Phase::Starting, None) => "not ready: no declaration is applied yet\n".to_owned(),
        (Phase::Starting, Some(error)) => format!("not ready: no declaration is applied yet: {}\n", error.message),
    };
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, why)
}
