//! A trace of the data plane's, in the words of the status server.

use serde_json::json;
use tokio::sync::mpsc;

use super::clients::protocol;
use super::{endpoint_name, names};
use crate::net::{DataPlane, TraceFilter, TraceStep, Traced};
use crate::state::{ControlState, wall_clock};
use crate::status::packets::packets;
use crate::status::{TraceEvent, TraceQuery};
use weir_declare::reconcile::Timestamp;
use weir_mqtt::Side;

/// Events that wait for the stream; the data plane's own bounds stand behind them.
const WAITING_MAX: usize = 16;

/// Begins to follow a client. `None`: the data plane does not answer.
pub(super) async fn begin(
    control: &ControlState,
    plane: DataPlane,
    query: TraceQuery,
) -> Option<mpsc::Receiver<TraceEvent>> {
    let endpoint = query.endpoint.as_ref().and_then(|name| control.endpoints.get(name.as_str())?.id);
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    if query.endpoint.is_some() && endpoint.is_none() {
        // It never had a listener, so no client connects over it.
        tokio::spawn(async move { sender.closed().await });
        return Some(receiver);
    }
    let filter = TraceFilter { client_id: query.client_id, endpoint };
    let mut steps = plane.trace(filter).await.ok()?;
    let names = names(control).into_iter().map(|(id, name)| (id, name.clone())).collect::<Vec<_>>();
    // The wall clock is read once, so that steps keep their order and distance.
    let epoch_ms = wall_clock().unix_ms.saturating_sub(plane.now());
    tokio::spawn(async move {
        loop {
            let step = tokio::select! {
                () = sender.closed() => return,
                step = steps.next() => step,
            };
            let Some(TraceStep { at, what }) = step else { return };
            let at = Timestamp::from_unix_ms(epoch_ms + at);
            let names = names.iter().map(|(id, name)| (*id, name)).collect();
            for event in events(at, what, query.payloads, |id| endpoint_name(&names, id)) {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        }
    });
    Some(receiver)
}

fn events(
    at: Timestamp,
    what: Traced,
    payloads: bool,
    endpoint: impl Fn(weir_broker::EndpointId) -> String,
) -> Vec<TraceEvent> {
    let (version, bytes, side, direction) = match what {
        Traced::Connected { endpoint: id, peer, version } => {
            let protocol = protocol(version as u8);
            let data = json!({"at": at, "endpoint": endpoint(id), "address": peer, "protocol": protocol});
            return vec![TraceEvent { kind: "connected", data }];
        }
        Traced::Ended => return vec![TraceEvent { kind: "ended", data: json!({"at": at}) }],
        Traced::Lost { steps } => return vec![TraceEvent { kind: "lost", data: json!({"at": at, "steps": steps}) }],
        Traced::Received { version, bytes } => (version, bytes, Side::Client, "received"),
        Traced::Sent { version, bytes } => (version, bytes, Side::Server, "sent"),
    };
    let packets = packets(&bytes, version, side, payloads).into_iter();
    let events = packets.map(|mut packet| {
        if let Some(fields) = packet.as_object_mut() {
            fields.shift_insert(0, "at".to_owned(), json!(at));
            fields.shift_insert(1, "direction".to_owned(), json!(direction));
        }
        TraceEvent { kind: "packet", data: packet }
    });
    events.collect()
}
