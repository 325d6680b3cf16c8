//! SARIF 2.1.0, as code scanning services read it.

use std::collections::BTreeSet;

use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Report, is_file, with_help, workspace_relative};
use crate::http_client::RESERVED;
use weir_declare::config::{Diagnostic, Position, Severity, meaning};

pub(super) fn render(report: &Report<'_>) -> String {
    let codes: BTreeSet<&str> = report.diagnostics.iter().map(|diagnostic| diagnostic.code).collect();
    let rule = |code: &&str| json!({ "id": code, "shortDescription": { "text": meaning(code).unwrap_or(code) } });
    let rules: Vec<Value> = codes.iter().map(rule).collect();
    let results: Vec<Value> = report.diagnostics.iter().map(result).collect();
    let value = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "weir", "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    });
    format!("{value:#}\n")
}

fn result(diagnostic: &Diagnostic) -> Value {
    let level = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    };
    let related: Vec<Value> = diagnostic
        .related
        .iter()
        .filter_map(|related| {
            let mut location = location(&related.file, related.position)?;
            location["message"] = json!({ "text": related.message });
            Some(location)
        })
        .collect();
    let mut result = json!({
        "ruleId": diagnostic.code,
        "level": level,
        "message": { "text": with_help(diagnostic, "; ") },
        "locations": location(&diagnostic.file, diagnostic.position).into_iter().collect::<Vec<_>>(),
    });
    if !related.is_empty() {
        result["relatedLocations"] = related.into();
    }
    result
}

fn location(file: &str, at: Position) -> Option<Value> {
    let region = json!({
        "startLine": at.line,
        "startColumn": at.col,
        "endColumn": at.col.saturating_add(at.len),
    });
    let uri = uri(&workspace_relative(file));
    is_file(file).then(|| json!({ "physicalLocation": { "artifactLocation": { "uri": uri }, "region": region } }))
}

/// A path as a URI reference.
fn uri(path: &str) -> String {
    const PATH: &AsciiSet = &RESERVED.remove(b'/');
    utf8_percent_encode(path, PATH).to_string()
}
