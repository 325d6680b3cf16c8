//! `GET /api/events`: server-sent events. `state` reports a new state (clients fetch it with entity tags); `traffic`
//! carries rates, the last few minutes first.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::budget::Charge;
use super::connections::Activity;
use super::counters::Refused;
use super::http::{Body, Problem, common_headers};
use super::router::App;
use weir_declare::reconcile::Timestamp;

/// A comment is sent after so long without an event, so that proxies keep the stream and dead peers are noticed.
pub(super) const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// A client that reads nothing for so long is disconnected.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens the stream of changes and traffic, where there is a place for one.
pub(super) fn open(app: &Arc<App>, activity: Arc<Activity>, head: bool) -> Result<Response<Body>, Problem> {
    let (sender, receiver) = mpsc::channel(4);
    let response = stream(app, activity, (!head).then_some(receiver))?;
    if !head {
        tokio::spawn(feed(app.clone(), sender));
    }
    Ok(response)
}

/// A response that streams `events`, within the limit of streams; without `events`, its headers only.
pub(super) fn stream(
    app: &App,
    activity: Arc<Activity>,
    events: Option<mpsc::Receiver<Bytes>>,
) -> Result<Response<Body>, Problem> {
    let mut place = app.streams.open(activity.source);
    if !place.extend(1) {
        app.counters.count(Refused::StreamLimit);
        let most = app.options.max_streams;
        let message = format!("too many event streams are open: {most} at most, and a quarter of them for one address");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, message));
    }
    let body = match events {
        None => http_body_util::Empty::new().boxed_unsync(),
        Some(receiver) => EventBody { receiver, _open: Open::new(activity), _place: place }.boxed_unsync(),
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    common_headers(headers);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Keeps the connection from counting as idle.
struct Open(Arc<Activity>);

impl Open {
    fn new(activity: Arc<Activity>) -> Self {
        activity.streams.fetch_add(1, Ordering::Relaxed);
        Self(activity)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

struct EventBody {
    receiver: mpsc::Receiver<Bytes>,
    _open: Open,
    _place: Charge,
}

impl hyper::body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.receiver.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Sends until the client disconnects or is too slow, or the server stops.
async fn feed(app: Arc<App>, sender: mpsc::Sender<Bytes>) {
    let (mut changes, mut samples, mut stopping) = (app.view.changes(), app.sampled.subscribe(), app.stopping.clone());
    changes.mark_changed();
    samples.mark_changed();
    let mut shown = Timestamp::from_unix_ms(0);
    let mut event = Bytes::from_static(b"retry: 2000\n\n");
    loop {
        match tokio::time::timeout(SEND_TIMEOUT, sender.send(event)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => return tracing::debug!("event stream closed: the client does not read it"),
        }
        event = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return,
            () = sender.closed() => return,
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                let version = *changes.borrow_and_update();
                format_event("state", Some(version), &state(&app, version))
            }
            changed = samples.changed() => {
                if changed.is_err() {
                    return;
                }
                let _ = samples.borrow_and_update();
                let (points, last) = traffic(&app, shown);
                shown = last;
                format_event("traffic", None, &points)
            }
            () = tokio::time::sleep(KEEP_ALIVE_INTERVAL) => Bytes::from_static(b": still here\n\n"),
        };
    }
}

pub(super) fn format_event(kind: &str, id: Option<u64>, data: &Value) -> Bytes {
    // JSON has no line breaks, so one `data:` line is enough.
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {kind}\n{id}data: {data}\n\n").into()
}

fn state(app: &App, version: u64) -> Value {
    let state = app.view.state();
    json!({
        "version": version,
        "phase": state.phase,
        "appliedRevision": state.source.applied_revision,
        "attemptedRevision": state.source.attempted_revision,
        "declarationDigest": state.declaration_digest,
        "liveDigest": state.live_digest,
    })
}

/// The samples after `since`, and the time of the last one.
fn traffic(app: &App, since: Timestamp) -> (Value, Timestamp) {
    let series = app.sampler.series(since);
    let last = series.last().map_or(since, |(at, _)| *at);
    let points = series.into_iter().map(|(at, endpoints)| {
        let endpoints: serde_json::Map<String, Value> = endpoints
            .into_iter()
            .map(|(name, rates)| {
                let rates = json!({
                    "connections": rates.connections,
                    "messagesReceivedPerS": rates.messages_received,
                    "messagesSentPerS": rates.messages_sent,
                    "messagesDroppedPerS": rates.messages_dropped,
                    "bytesReceivedPerS": rates.bytes_received,
                    "bytesSentPerS": rates.bytes_sent,
                });
                (name, rates)
            })
            .collect();
        json!({"at": at, "endpoints": endpoints})
    });
    (points.collect(), last)
}
