//! JUnit XML: a test case per file; its errors are failures, its warnings output.

use std::fmt::Write as _;

use super::{Report, with_help};
use weir_declare::config::Diagnostic;

pub(super) fn render(report: &Report<'_>) -> String {
    let mut files: Vec<&str> = report.snapshot.files.iter().map(|file| &*file.shown).collect();
    files.extend(report.diagnostics.iter().map(|diagnostic| &*diagnostic.file));
    files.sort_unstable();
    files.dedup();
    let mut failed = 0;
    let mut cases = String::new();
    for file in &files {
        let about: Vec<&Diagnostic> = report.diagnostics.iter().filter(|d| *d.file == **file).collect();
        failed += usize::from(about.iter().any(|diagnostic| diagnostic.is_error()));
        write_case(&mut cases, file, &about);
    }
    let total = files.len();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"weir validate\" \
         tests=\"{total}\" failures=\"{failed}\" errors=\"0\" skipped=\"0\">\n{cases}  </testsuite>\n</testsuites>\n"
    )
}

fn write_case(text: &mut String, file: &str, about: &[&Diagnostic]) {
    let name = escaped(file);
    let _infallible = write!(text, "    <testcase name=\"{name}\" classname=\"weir.validate\"");
    if about.is_empty() {
        text.push_str("/>\n");
        return;
    }
    text.push_str(">\n");
    // A test case has one failure at most, as the readers of this format see it.
    let errors: Vec<&&Diagnostic> = about.iter().filter(|diagnostic| diagnostic.is_error()).collect();
    if let Some(first) = errors.first() {
        let _infallible = write!(
            text,
            "      <failure type=\"{}\" message=\"{}\">",
            escaped(first.code),
            escaped(&with_help(first, "; "))
        );
        text.push_str(&escaped(&errors.iter().map(|error| format!("{error}\n")).collect::<String>()));
        text.push_str("</failure>\n");
    }
    let others: String = about.iter().filter(|d| !d.is_error()).map(|d| format!("{}: {d}\n", d.severity)).collect();
    if !others.is_empty() {
        let _infallible = writeln!(text, "      <system-out>{}</system-out>", escaped(&others));
    }
    text.push_str("    </testcase>\n");
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // XML 1.0 has no way to write them.
            c if (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                escaped.push('\u{fffd}');
            }
            c => escaped.push(c),
        }
    }
    escaped
}
