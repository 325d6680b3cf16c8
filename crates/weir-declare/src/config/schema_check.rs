//! Validates a document against the schema.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

use super::explain::{Finding, explain};
use super::formats::FORMATS;
use super::schema::schema;

#[allow(clippy::expect_used)] // compiled in; every test would fail
static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let mut options = jsonschema::options().with_draft(jsonschema::Draft::Draft7).should_validate_formats(true);
    for &(format, check) in FORMATS {
        options = options.with_format(format, move |text: &str| check(text).is_none());
    }
    options.build(schema()).expect("the schema is a schema")
});

/// Findings of one document at most.
const FINDINGS_MAX: usize = 100;

/// All violations of the schema in `document`.
pub(super) fn check(document: &Value) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for error in VALIDATOR.iter_errors(document) {
        for finding in explain(&error, FINDINGS_MAX) {
            if findings.len() >= FINDINGS_MAX {
                findings.push(Finding::too_many(FINDINGS_MAX));
                return findings;
            }
            // A pattern and a format about one value: the format has the better message.
            if let Some(known) = findings.iter_mut().find(|known| known.is_duplicate_of(&finding)) {
                if finding.code == "format" {
                    *known = finding;
                }
            } else {
                findings.push(finding);
            }
        }
    }
    for finding in findings.iter_mut().filter(|finding| finding.code == "pattern") {
        finding.code = "format";
    }
    findings
}
