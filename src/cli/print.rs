//! Writing to standard output and standard error.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

/// The form of a verb's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Text for a person
    Human,
    /// One JSON object; errors stay on standard error
    Json,
}

/// Escapes characters that would control the terminal or hide what they stand beside: names and messages of others must not.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(is_controlling) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_controlling(c) {
            // As JSON escapes them.
            clean.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            clean.push(c);
        }
    }
    Cow::Owned(clean)
}

fn is_controlling(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    reorders || (c.is_control() && !matches!(c, '\n' | '\t'))
}

/// Writes to standard output, escaped by [`printable`].
///
/// # Errors
/// It cannot be written to; see [`is_closed_pipe`].
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    print_styled(&printable(text))
}

/// [`print`] for text that has escape sequences of ours in it; texts of others in it are [`printable`] already.
///
/// # Errors
/// See [`print`].
pub(super) fn print_styled(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Whether a write failed because the reader has closed the pipe.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether standard output may be coloured: it is a terminal, and colours are not disabled (<https://no-color.org>).
pub(super) fn has_color() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !unwanted && !dumb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_control_the_terminal_are_escaped() {
        assert_eq!(printable("a\tb\n"), "a\tb\n");
        let hostile = "{\"topic\":\"a\u{1b}]0;x\u{7}\u{9b}2J\u{7f}\u{202e}b\r\"}";
        assert_eq!(printable(hostile), "{\"topic\":\"a\\u001b]0;x\\u0007\\u009b2J\\u007f\\u202eb\\u000d\"}");
    }
}
