//! For orchestrators: alive, ready.

use hyper::StatusCode;
use hyper::header::HeaderMap;

use super::http::{Answer, TEXT};
use super::query::Query;
use super::router::App;

/// The process serves requests.
pub(super) fn livez(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    Answer::new(StatusCode::OK, TEXT, "ok\n")
}

/// A first snapshot has been applied. A document refused later does not take a broker out of service.
pub(super) fn readyz(app: &App, _: &Query, _: &HeaderMap) -> Answer {
    let state = app.view.state();
    if state.synced {
        return Answer::new(StatusCode::OK, TEXT, "ok\n");
    }
    let why = match &state.source.error {
        Some(error) => format!("not ready: {} cannot be read: {error}\n", state.source.kind),
        None => "not ready: the first snapshot is not applied yet\n".to_owned(),
    };
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, why)
}
