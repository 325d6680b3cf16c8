//! FluxMQ's write paths: 405, with the document to change instead.

use hyper::StatusCode;
use serde_json::{Value, json};

use super::http::Problem;
use super::{EndpointView, StateView};

/// Refuses `verb` (`add`, `update`, `remove`, `import`), naming the file or key to change; `sent` is the body, read
/// only for the port or name it speaks of.
pub(super) fn refuse(state: &StateView, verb: &'static str, sent: Option<&[u8]>) -> Problem {
    let spoken = sent.and_then(|body| serde_json::from_slice::<Value>(body).ok()).unwrap_or_default();
    let spoken = spoken.get("endpoint").unwrap_or(&spoken);
    let (todo, place) = match existing(state, spoken) {
        Some(endpoint) => (if verb == "remove" { "delete" } else { "edit" }, Some(place_of(state, endpoint))),
        None if matches!(verb, "remove" | "update") => ("find", None),
        None if verb == "import" => ("import", Some(new_place(state, "NAME"))),
        None => ("create", Some(new_place(state, &new_name(spoken)))),
    };
    let doing = match (&place, todo) {
        (None, _) => {
            let naming = naming(spoken);
            format!("no endpoint is declared as {naming} (GET /api/endpoints/list shows those that are)")
        }
        (Some(place), "import") => {
            format!("`weir import FILE` writes it as documents; commit them beside {place}, and every broker follows")
        }
        (Some(place), _) => format!("{todo} {place}, and every broker follows"),
    };
    let message = format!("endpoints are declared in documents: {doing}");
    let data = json!({"readOnly": true, "do": todo, "where": place, "source": state.source.kind});
    Problem { allow: Some("OPTIONS"), ..Problem::new(StatusCode::METHOD_NOT_ALLOWED, message).with_data(data) }
}

fn existing<'a>(state: &'a StateView, spoken: &Value) -> Option<&'a EndpointView> {
    let name = spoken.get("name").and_then(Value::as_str);
    let port = spoken.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    match (name, port) {
        (Some(name), _) => state.endpoints.iter().find(|endpoint| endpoint.name == name),
        (None, Some(port)) => state.endpoints.iter().find(|endpoint| endpoint.has_port(port)),
        (None, None) => None,
    }
}

fn naming(spoken: &Value) -> String {
    match (spoken.get("name").and_then(Value::as_str), spoken.get("port").and_then(Value::as_u64)) {
        (Some(name), _) => format!("{name:?}"),
        (None, Some(port)) => format!("port {port}"),
        (None, None) => "that".to_owned(),
    }
}

fn new_name(spoken: &Value) -> String {
    let websocket = spoken.get("useWebsocket").and_then(Value::as_bool).unwrap_or_default();
    let transport = if websocket { "ws" } else { "mqtt" };
    match spoken.get("port").and_then(Value::as_u64) {
        Some(port) => format!("{transport}-{port}"),
        None => "NAME".to_owned(),
    }
}

fn place_of(state: &StateView, endpoint: &EndpointView) -> String {
    let kind = if state.source.kind == "etcd" { "key " } else { "" };
    format!("{kind}{}", endpoint.origin.file)
}

fn new_place(state: &StateView, name: &str) -> String {
    let location = state.source.location.trim_end_matches('/');
    if state.source.kind == "etcd" {
        format!("a key endpoints/{name}.yaml under the prefix of {location}")
    } else {
        format!("{location}/{name}.yaml")
    }
}
