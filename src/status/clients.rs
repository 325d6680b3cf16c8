//! `/api/clients`: connected clients. Clients choose their ids: every reader must escape them.

use std::net::IpAddr;

use serde_json::json;

use super::ClientQuery;
use super::http::{Problem, Reply};
use super::query::Query;
use super::router::App;

/// Clients a page: without `limit`, and at most.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// Parameters of `GET /api/clients`.
pub(super) const PARAMETERS: &[&str] = &["port", "name", "clientId", "clientIdPrefix", "address", "after", "limit"];

/// `GET /api/clients?port=|name=&clientId=&clientIdPrefix=&address=&after=&limit=`: in the order of their connects;
/// `next` is the `after` of the next page.
pub(super) async fn list(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    let endpoint = super::endpoints::select(&state, query)?.map(|endpoint| endpoint.name.clone());
    let address = match query.get("address") {
        None => None,
        Some(text) => Some(
            text.parse::<IpAddr>().map_err(|_| Problem::bad_request(format!("address {text:?} is no IP address")))?,
        ),
    };
    let wanted = ClientQuery {
        endpoint,
        client_id: query.get("clientId").map(str::to_owned),
        client_id_prefix: query.get("clientIdPrefix").map(str::to_owned),
        address,
        after: query.number("after")?,
        limit: query.limit(PAGE_DEFAULT, PAGE_MAX)?,
    };
    let page = app.ask_shards(app.view.clients(wanted)).await?;
    let next = page.clients.last().filter(|_| page.more).map(|client| client.sequence);
    Ok(json!({"clients": page.clients, "next": next}))
}

/// Sessions in `GET /api/clients/slowest`: without `limit`, and at most.
const SLOWEST_DEFAULT: usize = 20;
const SLOWEST_MAX: usize = 200;

/// `GET /api/clients/slowest?limit=`: sessions with most bytes waiting for them, or most messages lost, worst first;
/// those of clients that are away included.
pub(super) async fn slowest(app: &App, query: &Query) -> Reply {
    let limit = query.limit(SLOWEST_DEFAULT, SLOWEST_MAX)?;
    Ok(json!({"sessions": app.ask_shards(app.view.backlogs(limit)).await?}))
}
