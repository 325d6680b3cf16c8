//! `weir diff`

use std::path::Path;

use super::input::read_operand;
use super::print::{Format, has_color, print, print_styled, printable};
use super::render::valid;
use super::{Exit, broker};
use weir_declare::config::{BuiltInDefaults, canonical, diff_documents, masked};

/// Show how two sets of declarations differ in meaning.
///
/// The canonical forms are compared, document by document: the order of keys, comments, files and written-out defaults
/// make no difference. Exits with 0 if they mean the same, with 1 if not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir diff endpoints.d http://127.0.0.1:8080\n  weir diff git:HEAD~1 endpoints.d")]
pub(super) struct Args {
    /// A directory, a file, -, git:REVISION (of the other operand's directory), git:REVISION:PATH, or a broker's
    /// HOST:PORT or URL
    #[arg(value_name = "A")]
    old: String,
    /// The other operand, in the same forms
    #[arg(value_name = "B")]
    new: String,
    /// `json`: `{"same": ..., "diff": "..."}`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

pub(super) fn run(mut args: Args) -> anyhow::Result<Exit> {
    (args.old, args.new) = (broker::operand(&args.old), broker::operand(&args.new));
    let beside = |other: &str| {
        if other.starts_with("git:") || broker::is_url(other) { None } else { Some(Path::new(other).to_owned()) }
    };
    let old = valid(&read_operand(&args.old, beside(&args.new).as_deref())?)?;
    let new = valid(&read_operand(&args.new, beside(&args.old).as_deref())?)?;
    // A broker shows its declaration masked.
    let (old, new) =
        if broker::is_url(&args.old) || broker::is_url(&args.new) { (masked(&old), masked(&new)) } else { (old, new) };
    let form = |declared| canonical(declared, BuiltInDefaults::LeftOut);
    let diff = diff_documents(&form(&old), &form(&new));
    print(&match args.format {
        Format::Json => format!("{:#}\n", serde_json::json!({"same": diff.is_empty(), "diff": diff})),
        Format::Human if has_color() => return print_colored(&diff),
        Format::Human => diff.clone(),
    })?;
    Ok(if diff.is_empty() { Exit::Success } else { Exit::Failure })
}

fn print_colored(diff: &str) -> anyhow::Result<Exit> {
    print_styled(&colored(&printable(diff)))?;
    Ok(if diff.is_empty() { Exit::Success } else { Exit::Failure })
}

/// As git colours it.
pub(super) fn colored(diff: &str) -> String {
    let mut text = String::new();
    for line in diff.split_inclusive('\n') {
        let style = match line.as_bytes() {
            [b'-', b'-', b'-', b' ', ..] | [b'+', b'+', b'+', b' ', ..] => "1",
            [b'@', ..] => "36",
            [b'-', ..] => "31",
            [b'+', ..] => "32",
            _ => "0",
        };
        let bare = line.trim_end_matches('\n');
        text.push_str(&format!("\u{1b}[{style}m{bare}\u{1b}[0m\n"));
    }
    text
}
