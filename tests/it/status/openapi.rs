//! `/openapi.json` describes every path, and every path answers as described.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::{get, request};
use super::fake;

async fn document(addr: std::net::SocketAddr) -> Value {
    get(addr, "/openapi.json").await.json()
}

#[tokio::test]
async fn every_described_path_answers_as_described() {
    let server = fake::serve(&fake::Fake::new());
    let addr = server.local_addr();
    let document = document(addr).await;
    let mut checked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            // A path without operations has a summary and a description only; a stream has no end.
            if path == "/api/events" || path == "/api/clients/trace" || !operation.is_object() {
                continue;
            }
            let target = if path.ends_with("check-port") { format!("{path}?port=1883") } else { path.clone() };
            let headers = [("Content-Type", "application/json"), ("Accept", "application/openmetrics-text")];
            let body = if method == "post" { "{\"port\": 1}" } else { "" };
            let answer = request(addr, &method.to_uppercase(), &target, &headers, body).await;
            let status = answer.status.to_string();
            let response = resolve(&document, &operation["responses"][&status]);
            assert!(response.is_object(), "{method} {path}: {status} is not described");
            let content_type = answer.header("content-type").unwrap().split(';').next().unwrap();
            let schema = &response["content"][content_type]["schema"];
            assert!(schema.is_object(), "{method} {path}: {content_type} is not described");
            if content_type == "application/json" {
                assert_valid(&document, schema, &answer.json(), path);
                checked += 1;
            }
        }
    }
    assert!(checked > 20);
}

#[tokio::test]
async fn refusals_are_as_described() {
    let server = fake::serve(&fake::Fake::new());
    let document = document(server.local_addr()).await;
    for (target, status) in [
        ("/api/endpoints/get?port=8883", "409"),
        ("/api/endpoints/get?port=1", "404"),
        ("/api/endpoints/get?port=x", "400"),
        ("/api/endpoints/health?name=site/spare", "503"),
    ] {
        let answer = get(server.local_addr(), target).await;
        assert_eq!(answer.status.to_string(), status);
        let path = target.split('?').next().unwrap();
        let response = resolve(&document, &document["paths"][path]["get"]["responses"][status]);
        assert_valid(&document, &response["content"]["application/json"]["schema"], &answer.json(), target);
    }
}

#[tokio::test]
async fn write_paths_refuse_as_described() {
    let server = fake::serve(&fake::Fake::new());
    let document = document(server.local_addr()).await;
    for verb in ["add", "update", "remove", "import"] {
        let target = format!("/api/endpoints/{verb}");
        let answer = request(server.local_addr(), "POST", &target, &[], "{\"port\": 1883}").await;
        assert_eq!(answer.status, 405);
        assert_valid(&document, &json!({"$ref": "#/components/schemas/ReadOnly"}), &answer.json(), &target);
    }
}

#[tokio::test]
async fn every_path_is_described_in_openapi() {
    let server = fake::serve(&fake::Fake::new());
    let document = document(server.local_addr()).await;
    let described: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let routed: BTreeSet<&str> = weirmq::status::paths().collect();
    assert_eq!(described, routed);
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

fn assert_valid(document: &Value, schema: &Value, answer: &Value, what: &str) {
    let whole = json!({"allOf": [schema], "components": document["components"]});
    let validator = jsonschema::validator_for(&whole).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(answer).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{what}: {}", wrong.join("\n"));
}
