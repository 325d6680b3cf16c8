//! The page at `/`: seven embedded files, without a build step. `http::common_headers` holds their security policy.

use hyper::StatusCode;
use hyper::header::HeaderMap;

use super::http::Answer;
use super::query::Query;
use super::router::App;

fn file(content_type: &'static str, text: &'static str) -> Answer {
    Answer { tagged: true, ..Answer::new(StatusCode::OK, content_type, text) }
}

/// `GET /`
pub(super) fn index(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

/// `GET /app.css`
pub(super) fn style(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    file("text/css; charset=utf-8", include_str!("page/app.css"))
}

/// `GET /app.js`
pub(super) fn script(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    file("text/javascript; charset=utf-8", include_str!("page/app.js"))
}

/// `GET /access.js`
pub(super) fn access_script(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    file("text/javascript; charset=utf-8", include_str!("page/access.js"))
}

/// `GET /elements.js`
pub(super) fn elements_script(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    file("text/javascript; charset=utf-8", include_str!("page/elements.js"))
}

/// `GET /lists.js`
pub(super) fn lists_script(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    file("text/javascript; charset=utf-8", include_str!("page/lists.js"))
}

/// `GET /favicon.svg`
pub(super) fn icon(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    file("image/svg+xml", include_str!("page/favicon.svg"))
}

/// `GET /openapi.json`
pub(super) fn openapi(_: &App, _: &Query, _: &HeaderMap) -> Answer {
    file(super::http::JSON, include_str!("openapi.json"))
}
