//! For a person: `file:line:col: error: path: message`, the line with the place underlined, and help.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use super::Report;
use crate::cli::print::printable;
use weir_declare::config::{Diagnostic, Position, Severity, SourceFile};

pub(super) fn render(report: &Report<'_>, color: bool) -> String {
    let mut text = String::new();
    for diagnostic in report.diagnostics {
        text.push_str(&finding(report, diagnostic, color));
        text.push('\n');
    }
    text.push_str(&summary(report, color));
    text.push('\n');
    if !report.ignored.is_empty() {
        text.push_str(&format!("ignored: {}\n", report.ignored.join(", ")));
    }
    text
}

fn finding(report: &Report<'_>, diagnostic: &Diagnostic, color: bool) -> String {
    let Diagnostic { severity, file, position, path, .. } = diagnostic;
    let path = if path.is_empty() { String::new() } else { format!("{}: ", printable(path)) };
    let (shown_file, message) = (printable(file), printable(&diagnostic.message));
    let shown = painted(&severity.to_string(), style(*severity), color);
    let mut text = format!("{shown_file}:{}:{}: {shown}: {path}{message}\n", position.line, position.col);
    text.push_str(&excerpt(report, file, *position, diagnostic.severity, None, color));
    for related in &diagnostic.related {
        let at = related.position;
        let (said, file) = (printable(&related.message), printable(&related.file));
        text.push_str(&format!("  {said} at {file}:{}:{}\n", at.line, at.col));
        text.push_str(&excerpt(report, &related.file, at, Severity::Note, None, color));
    }
    if let Some(help) = &diagnostic.help {
        text.push_str(&format!("  {}: {}\n", painted("help", "36;1", color), printable(help)));
    }
    text
}

/// The line, with the spot underlined; nothing where it is not there to be shown.
fn excerpt(
    report: &Report<'_>,
    file: &str,
    at: Position,
    severity: Severity,
    label: Option<&str>,
    color: bool,
) -> String {
    let Some(line) = line_of(report, file, at.line) else { return String::new() };
    let line = masked(&line);
    let offset = |chars: u32| line.char_indices().nth(chars as usize).map_or(line.len(), |(at, _)| at);
    let start = offset(at.col.saturating_sub(1));
    let end = offset(at.col.saturating_sub(1).saturating_add(at.len)).max(start);
    let level = match severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let annotation = AnnotationKind::Primary.span(start..end).label(label);
    let snippet = Snippet::source(line.as_str()).line_start(at.line as usize).annotation(annotation);
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let group = Group::with_level(level).element(snippet);
    let mut text = renderer.decor_style(DecorStyle::Ascii).term_width(140).render(&[group]);
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

fn line_of(report: &Report<'_>, file: &str, number: u32) -> Option<String> {
    let source: &SourceFile = report.snapshot.files.iter().find(|source| *source.shown == *file)?;
    let bytes = source.content.as_ref().ok()?;
    let text = String::from_utf8_lossy(bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes));
    let line = text.split('\n').nth(number.checked_sub(1)? as usize)?.trim_end_matches('\r');
    // Control characters would move the cursor.
    Some(line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect())
}

/// Masks secrets, so that they do not get into a log even where they are misplaced. Lengths stay.
fn masked(line: &str) -> String {
    let mut chars: Vec<char> = line.chars().collect();
    for colon in (0..chars.len()).filter(|&at| chars.get(at) == Some(&':')).collect::<Vec<_>>() {
        let (before, after) = chars.split_at(colon);
        let hidden = if let [':', '/', '/', ..] = after {
            // `mqtt://user:password@host`
            let authority: Vec<char> = after.iter().skip(3).take_while(|c| !matches!(c, '/' | ' ')).copied().collect();
            authority.iter().rposition(|&c| c == '@').map(|at| (colon + 3, colon + 3 + at))
        } else if is_secret_key(before) {
            secret_value(after).map(|(from, to)| (colon + from, colon + to))
        } else {
            None
        };
        if let Some(hidden) = hidden.and_then(|(from, to)| chars.get_mut(from..to)) {
            hidden.iter_mut().filter(|c| !c.is_whitespace()).for_each(|c| *c = '*');
        }
    }
    chars.into_iter().collect()
}

/// Whether the word that ends `before` names a secret, and not the file that holds one.
fn is_secret_key(before: &[char]) -> bool {
    const WORDS: [&str; 9] = ["pass", "pasw", "pwd", "secret", "token", "authorization", "api-key", "apikey", "cookie"];
    let in_word = |c: &&char| c.is_alphanumeric() || matches!(c, '_' | '-' | '"' | '\'');
    let mut word: String = before.iter().rev().take_while(in_word).collect();
    word = word.chars().rev().filter(|c| !matches!(c, '"' | '\'')).flat_map(char::to_lowercase).collect();
    WORDS.iter().any(|secret| word.contains(secret)) && !word.ends_with("file")
}

/// The part of `: value, ...` that is the value; `None` where it is but a reference.
fn secret_value(after: &[char]) -> Option<(usize, usize)> {
    let start = after.iter().skip(1).position(|c| !c.is_whitespace())? + 1;
    let rest = after.get(start..)?;
    let end = match rest.first()? {
        quote @ ('"' | '\'') => rest.iter().skip(1).position(|c| c == quote).map_or(rest.len(), |at| at + 2),
        '{' | '[' => return None,
        _ => rest.iter().position(|c| matches!(c, ',' | '}' | ']')).unwrap_or(rest.len()),
    };
    let text: String = rest.iter().take(end).filter(|c| !matches!(c, '"' | '\'')).collect();
    (!text.starts_with("file:") && !text.starts_with("env:")).then_some((start, start + end))
}

fn summary(report: &Report<'_>, color: bool) -> String {
    let warnings = match report.count(Severity::Warning) {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        n => format!(", {n} warnings"),
    };
    if !report.is_valid() {
        let errors = report.count(Severity::Error);
        let plural = if errors == 1 { "" } else { "s" };
        return painted(&format!("{errors} error{plural}{warnings}"), "31;1", color);
    }
    let counts: Vec<String> = report
        .counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}{}", if *count == 1 || kind.is_single() { "" } else { "s" }))
        .collect();
    let counts = if counts.is_empty() { "nothing is declared".to_owned() } else { counts.join(", ") };
    let digest = report.digest.as_ref().map(|digest| format!("\ndigest {digest}")).unwrap_or_default();
    format!("{}: {counts}{warnings}{digest}", painted("valid", "32;1", color))
}

fn style(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "31;1",
        Severity::Warning => "33;1",
        Severity::Note => "36;1",
    }
}

fn painted(text: &str, style: &str, color: bool) -> String {
    if color { format!("\u{1b}[{style}m{text}\u{1b}[0m") } else { text.to_owned() }
}
