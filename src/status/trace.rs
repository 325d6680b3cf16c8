//! `GET /api/clients/trace`: the packets of one client as server-sent events, bounded in time and number.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::connections::Activity;
use super::events::{self, KEEP_ALIVE_INTERVAL, format_event};
use super::http::{Body, Problem};
use super::query::Query;
use super::router::App;
use super::{TraceQuery, endpoints};

/// Parameters of `GET /api/clients/trace`.
pub(super) const PARAMETERS: &[&str] = &["clientId", "port", "name", "payloads", "limit"];

/// Traces at a time.
pub(super) const TRACES_MAX: usize = 8;
/// Packets of a trace: without `limit`, and at most.
const PACKETS_DEFAULT: usize = 1000;
const PACKETS_MAX: usize = 100_000;
/// A trace ends after so long.
const TRACE_DURATION_MAX: Duration = Duration::from_secs(600);

/// Opens a trace, where there is a place for one.
pub(super) async fn open(
    app: &Arc<App>,
    query: &Query,
    activity: Arc<Activity>,
    head: bool,
) -> Result<Response<Body>, Problem> {
    let client_id =
        query.get("clientId").ok_or_else(|| Problem::bad_request("clientId is missing: ?clientId=sensor-7"))?;
    let payloads = match query.get("payloads") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(Problem::bad_request(format!("payloads {other:?} is neither true nor false"))),
    };
    let limit = query.limit(PACKETS_DEFAULT, PACKETS_MAX)?;
    let state = app.view.state();
    let endpoint = endpoints::select(&state, query)?.map(|endpoint| endpoint.name.clone());
    let place = place(&app.traces)?;
    let wanted = TraceQuery { client_id: client_id.to_owned(), endpoint, payloads };
    let traced = app.ask_shards(app.view.trace(wanted)).await?;
    let (sender, receiver) = mpsc::channel(16);
    if !head {
        tokio::spawn(feed(app.clone(), traced, limit, sender, place));
    }
    events::stream(app, activity, (!head).then_some(receiver))
}

fn place(traces: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Problem> {
    traces.clone().try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{TRACES_MAX} traces are running, the maximum"))
    })
}

/// Sends the client's events until the reader disconnects, or a limit of the trace is reached.
async fn feed(
    app: Arc<App>,
    mut traced: mpsc::Receiver<super::TraceEvent>,
    limit: usize,
    sender: mpsc::Sender<Bytes>,
    _place: OwnedSemaphorePermit,
) {
    let mut stopping = app.stopping.clone();
    let over = tokio::time::sleep(TRACE_DURATION_MAX);
    tokio::pin!(over);
    let mut packets = 0;
    let why = loop {
        let event = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => break "the broker shuts down",
            () = sender.closed() => return,
            () = &mut over => break "the time limit of ten minutes is reached",
            event = traced.recv() => match event {
                Some(event) => {
                    packets += usize::from(event.kind == "packet");
                    format_event(event.kind, None, &event.data)
                }
                None => break "the data plane has stopped",
            },
            () = tokio::time::sleep(KEEP_ALIVE_INTERVAL) => Bytes::from_static(b": still here\n\n"),
        };
        if sender.send(event).await.is_err() {
            return;
        }
        if packets >= limit {
            break "the limit of packets is reached";
        }
    };
    let last: Value = json!({"why": why, "packets": packets});
    // Fails if the reader has disconnected.
    let _gone = sender.send(format_event("end", None, &last)).await;
}
