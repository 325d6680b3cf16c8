//! GitHub's workflow commands: each diagnostic becomes an annotation at its line.

use super::{Report, is_file, with_help, workspace_relative};
use weir_declare::config::{Diagnostic, Severity};

pub(super) fn render(report: &Report<'_>) -> String {
    report.diagnostics.iter().map(command).collect()
}

fn command(diagnostic: &Diagnostic) -> String {
    let name = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "notice",
    };
    let at = diagnostic.position;
    let place = if is_file(&diagnostic.file) {
        let file = property(&workspace_relative(&diagnostic.file));
        format!("file={file},line={},col={},endColumn={},", at.line, at.col, at.col.saturating_add(at.len))
    } else {
        String::new()
    };
    format!("::{name} {place}title={}::{}\n", property(diagnostic.code), data(&with_help(diagnostic, "\n")))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
