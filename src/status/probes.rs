//! For orchestrators: alive, ready.

use hyper::StatusCode;
use hyper::header::HeaderMap;

use super::http::{Answer, TEXT};
use super::query::Query;
use super::router::App;
use crate::apply::Phase;

/// The process serves requests.
pub(super) fn livez(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    Answer::new(StatusCode::OK, TEXT, "ok\n")
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
