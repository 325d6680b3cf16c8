//! Writing to standard output and standard error.

use std::io::{self, IsTerminal, Write};

/// The form of a verb's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Text for a person
    Human,
    /// One JSON object; errors stay on standard error
    Json,
}

/// Writes to standard output.
///
/// # Errors
/// It cannot be written to; see [`is_closed_pipe`].
pub(super) fn print(text: &str) -> anyhow::Result<()> {
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
