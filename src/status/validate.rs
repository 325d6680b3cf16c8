//! `POST /api/endpoints/validate` and `validate-config`: the validator's static tier, for use before a commit.

use serde_json::json;

use super::ValidateRequest;
use super::http::{Problem, Reply};
use super::router::App;

/// Validates one endpoint, bare or under `endpoint:`, as if it were added to (or replaced in) the declaration.
pub(super) fn endpoint(app: &App, text: &str) -> Reply {
    validate_text(app, text, "an endpoint, as JSON or YAML", ValidateRequest::Endpoint)
}

/// Validates a set of documents by itself.
pub(super) fn set(app: &App, text: &str) -> Reply {
    validate_text(app, text, "documents, as JSON or YAML", ValidateRequest::Set)
}

fn validate_text(app: &App, text: &str, wanted: &str, request: fn(String) -> ValidateRequest) -> Reply {
    if text.trim().is_empty() {
        return Err(Problem::bad_request(format!("the body is empty; send {wanted}")));
    }
    Ok(json!(app.view.validate(request(text.to_owned()))))
}
