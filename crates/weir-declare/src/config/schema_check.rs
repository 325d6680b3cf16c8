//! Validates a document against the schema.

use serde_json::Value;

use super::explain::{Finding, explain};
use super::json_schema::violations;

/// Findings of one document at most.
const FINDINGS_MAX: usize = 100;
/// Violations that are looked at: several may make one finding.
const VIOLATIONS_MAX: usize = 10 * FINDINGS_MAX;

/// All violations of the schema in `document`.
pub(super) fn check(document: &Value) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for violation in violations(document, VIOLATIONS_MAX) {
        for finding in explain(&violation, FINDINGS_MAX) {
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
