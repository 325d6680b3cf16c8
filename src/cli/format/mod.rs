//! Diagnostics for a person, and for the machines that run in CI.

mod github;
mod human;
mod json;
mod junit;
mod sarif;

use std::path::Path;

use weir_declare::config::{Diagnostic, Kind, Severity, Snapshot};

/// How to write diagnostics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ReportFormat {
    /// Each with the line it is about.
    Human,
    /// One object; its `version` is 1.
    Json,
    /// GitHub's annotations.
    Github,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// JUnit XML, a test case per file.
    Junit,
}

/// The findings.
pub(super) struct Report<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) diagnostics: &'a [Diagnostic],
    /// Ignored files, as shown.
    pub(super) ignored: &'a [String],
    /// How many documents there are of each kind.
    pub(super) counts: Vec<(Kind, usize)>,
    /// `None` where the set is invalid.
    pub(super) digest: Option<String>,
}

impl Report<'_> {
    pub(super) fn render(&self, format: ReportFormat, color: bool) -> String {
        match format {
            ReportFormat::Human => human::render(self, color),
            ReportFormat::Json => json::render(self),
            ReportFormat::Github => github::render(self),
            ReportFormat::Sarif => sarif::render(self),
            ReportFormat::Junit => junit::render(self),
        }
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    fn is_valid(&self) -> bool {
        self.count(Severity::Error) == 0
    }
}

/// The problem and its help in one text.
fn with_help(diagnostic: &Diagnostic, separator: &str) -> String {
    let path = if diagnostic.path.is_empty() { String::new() } else { format!("{}: ", diagnostic.path) };
    let mut text = format!("{path}{}", diagnostic.message);
    for related in &diagnostic.related {
        let at = related.position;
        text.push_str(&format!("{separator}{}: {}:{}:{}", related.message, related.file, at.line, at.col));
    }
    if let Some(help) = &diagnostic.help {
        text.push_str(separator);
        text.push_str(help);
    }
    text
}

/// A file as CI's annotations want it: relative to the work tree's top, where it lies below it.
fn workspace_relative(file: &str) -> String {
    let file = file.strip_prefix("./").unwrap_or(file);
    let path = Path::new(file);
    if !path.is_absolute() {
        return file.to_owned();
    }
    let workspace = std::env::var_os("GITHUB_WORKSPACE").map(Into::into).or_else(|| std::env::current_dir().ok());
    let relative = workspace.and_then(|top| path.strip_prefix(top).ok().map(|path| path.display().to_string()));
    relative.unwrap_or_else(|| file.to_owned())
}

/// Standard input is no file that could be annotated.
fn is_file(shown: &str) -> bool {
    !shown.starts_with('<')
}
