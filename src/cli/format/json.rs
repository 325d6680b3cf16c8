//! One JSON object. Its members are only ever added to while `version` is 1.

use serde_json::{Map, Value, json};

use super::Report;
use weir_declare::config::Severity;

pub(super) fn render(report: &Report<'_>) -> String {
    let documents: Map<String, Value> =
        report.counts.iter().map(|(kind, count)| (kind.key().to_owned(), json!(count))).collect();
    let value = json!({
        "version": 1,
        "valid": report.is_valid(),
        "digest": report.digest,
        "errors": report.count(Severity::Error),
        "warnings": report.count(Severity::Warning),
        "documents": documents,
        "ignored": report.ignored,
        "diagnostics": report.diagnostics,
    });
    format!("{value:#}\n")
}
