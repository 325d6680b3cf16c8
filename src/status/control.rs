//! The declaration, the plan, the source and the history: `/api/declared`, `/api/plan`, `/api/source`, and FluxMQ's
//! `export` and `history`.

use hyper::StatusCode;
use hyper::header::HeaderMap;
use serde_json::{Map, Value, json};

use super::http::{Answer, Problem, Reply};
use super::query::Query;
use super::router::App;
use super::{DocumentView, StateView, endpoints};
use crate::source::CommitPresence;
use weir_declare::config::{Kind, document_yaml};
use weir_declare::reconcile::{ChangeCauses, render};

const YAML: &str = "application/yaml; charset=utf-8";
/// Entries of `history`: without `limit`, and at most.
const HISTORY_DEFAULT: usize = 50;
const HISTORY_MAX: usize = 1000;
/// A commit's beginning that is shorter than this may be another's.
const COMMIT_CHARS_MIN: usize = 7;

/// `GET /api/declared?kind=&name=`
pub(super) fn declared(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    let kind = known_kind(query)?;
    let name = query.get("name");
    let documents: Vec<&DocumentView> = state
        .documents
        .iter()
        .filter(|document| kind.is_none_or(|kind| document.kind == kind.key()))
        .filter(|document| name.is_none() || document.name.as_deref() == name)
        .collect();
    Ok(json!({
        "documents": documents,
        "total": documents.len(),
        "declarationDigest": state.declaration_digest,
        "diagnostics": state.diagnostics,
    }))
}

fn known_kind(query: &Query) -> Result<Option<Kind>, Problem> {
    let Some(word) = query.get("kind") else { return Ok(None) };
    let kinds = Kind::ALL.map(Kind::key).join(", ");
    Kind::from_key(word)
        .map(Some)
        .ok_or_else(|| Problem::bad_request(format!("there is no kind {word:?}; there are {kinds}")))
}

/// `GET /api/plan`: the last plan (the actions done and the actions that wait), and every difference between declared
/// and live, by endpoint.
pub(super) fn plan(app: &App, _: &Query) -> Reply {
    let state = app.view.state();
    let pending: Vec<Value> = state
        .endpoints
        .iter()
        .filter_map(|endpoint| {
            let differences = endpoints::differences(endpoint);
            let problems: Vec<_> = endpoint.problems().collect();
            let sound = differences.is_empty() && problems.is_empty() && endpoint.pending.is_none();
            (!sound).then(|| {
                json!({
                    "endpoint": endpoint.name,
                    "address": endpoint.address,
                    "origin": endpoint.origin,
                    "state": endpoint.phase(),
                    "pending": endpoint.pending,
                    "differences": differences,
                    "trouble": problems,
                })
            })
        })
        .collect();
    let plan = render::json(&state.plan, &ChangeCauses::default(), "");
    Ok(json!({
        "converged": pending.is_empty(),
        "summary": plan["summary"],
        "actions": plan["actions"],
        "pending": pending,
        "diagnostics": state.diagnostics,
        "suspended": state.suspended,
        "declarationDigest": state.declaration_digest,
        "liveDigest": state.live_digest,
    }))
}

/// `GET /api/source?fresh=true`: requests a reading of the source; `reads` increases when it is done.
pub(super) async fn source(app: &App, query: &Query) -> Reply {
    if query.flag("fresh")? {
        app.view.read_source();
    }
    let state = app.view.state();
    let mut data = json!(state.source);
    if let Value::Object(fields) = &mut data {
        fields.insert("suspended".to_owned(), json!(state.suspended));
        fields.insert("declarationDigest".to_owned(), json!(state.declaration_digest));
        fields.insert("liveDigest".to_owned(), json!(state.live_digest));
        if let Some(commit) = query.get("contains") {
            let presence = presence(app, &state, commit).await?;
            let is_contained = presence.map(|presence| presence != CommitPresence::Absent);
            fields.insert("contains".to_owned(), json!(is_contained));
            let is_rolled_back = presence.map(|presence| presence == CommitPresence::RolledBack);
            fields.insert("rolledBack".to_owned(), json!(is_rolled_back));
        }
    }
    Ok(data)
}

/// Whether `commit` is in the history of the applied revision. `None`: that is not known.
async fn presence(app: &App, state: &StateView, commit: &str) -> Result<Option<CommitPresence>, Problem> {
    let is_id = (COMMIT_CHARS_MIN..=64).contains(&commit.len()) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_id {
        let message =
            format!("contains={commit:?} is not a commit: give at least {COMMIT_CHARS_MIN} hexadecimal digits");
        return Err(Problem::bad_request(message));
    }
    // A work tree with uncommitted changes has no commit.
    let applied = state.source.applied_revision.as_deref().filter(|_| state.source.kind == "git");
    let Some(applied) = applied.filter(|revision| !revision.contains('+')) else { return Ok(None) };
    let answer = app.view.presence(commit.to_ascii_lowercase(), applied.to_owned());
    Ok(tokio::time::timeout(app.options.request_timeout, answer).await.ok().flatten())
}

/// `GET /api/ignite/status`: Weir has no Ignite; names the path to use instead.
pub(super) fn ignite(_: &App, _: &Query) -> Reply {
    Ok(json!({
        "ignite": false,
        "see": "/api/source",
        "why": "declarations come from git or etcd, not from an Ignite cache; /api/source shows the applied revision",
    }))
}

/// `GET /api/endpoints/history?limit=&port=|name=`: newest first.
pub(super) fn history(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    let limit = query.limit(HISTORY_DEFAULT, HISTORY_MAX)?;
    // A removed endpoint has a history too, so an unknown name is no error here.
    let name = match query.get("name") {
        Some(name) if query.get("port").is_none() => Some(name),
        _ => endpoints::select(&state, query)?.map(|endpoint| endpoint.name.as_str()),
    };
    let of_interest = state
        .history
        .iter()
        .rev()
        .filter(|entry| name.is_none_or(|name| entry.actions.iter().any(|action| action.endpoint == name)));
    let entries: Vec<_> = of_interest.clone().take(limit).collect();
    Ok(json!({"entries": entries, "total": of_interest.count()}))
}

/// `GET /api/endpoints/export?format=json|yaml`: every document, ready to be committed.
pub(super) fn export(app: &App, query: &Query, _: &HeaderMap) -> Answer {
    let state = app.view.state();
    match query.get("format") {
        None | Some("json") => {
            let documents: Vec<Value> = state.documents.iter().map(whole).collect();
            Answer::reply(Ok(json!({"apiVersion": "weir/v1", "documents": documents, "total": documents.len()})))
        }
        Some("yaml") => Answer { tagged: true, ..Answer::new(StatusCode::OK, YAML, yaml(&state)) },
        Some(other) => Problem::bad_request(format!("format {other:?} is neither json nor yaml")).into(),
    }
}

/// The document under its kind, with its name.
fn whole(document: &DocumentView) -> Value {
    json!({document.kind: body(document)})
}

fn body(document: &DocumentView) -> Map<String, Value> {
    let mut body = Map::new();
    if let Some(name) = &document.name {
        body.insert("name".to_owned(), json!(name));
    }
    if let Value::Object(fields) = &document.body {
        body.extend(fields.clone());
    }
    body
}

fn yaml(state: &StateView) -> String {
    state.documents.iter().map(|document| document_yaml(document.kind, &body(document))).collect()
}
