//! `weir man`

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::print::print;
use super::{Cli, Exit, man_documents};

/// Print a manual page, or write all of them into a directory.
///
/// Exits with 0, or with 1 where the directory cannot be written.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir man | man -l -\n  weir man --section 5 | man -l -    the documents\n  \
    weir man --out-dir /usr/local/share/man/man1")]
pub(super) struct Args {
    /// Write weir.1, weir-validate.1, ..., weir-endpoints.5 into this directory, which is created where it does not exist
    #[arg(long, value_name = "DIR", conflicts_with = "section")]
    out_dir: Option<PathBuf>,
    /// The page to print: 1 is weir(1), 5 is weir-endpoints(5), the fields of all documents
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    section: u8,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let mut cli = Cli::command();
    cli.build();
    match (args.out_dir, args.section) {
        (Some(directory), _) => write_all(&cli, &directory)?,
        (None, 1) => print(&page(&cli)?)?,
        (None, 5) => print(&man_documents::page())?,
        (None, section) => anyhow::bail!("there is no page in section {section}; there are 1 and 5"),
    }
    Ok(Exit::Success)
}

fn write_all(cli: &Command, directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("{}: cannot create the directory", directory.display()))?;
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("{}: cannot write the page", path.display()))
    };
    write("weir-endpoints.5", &man_documents::page())?;
    write_pages(cli, &write)
}

/// Writes the page of a command and of all commands below it.
fn write_pages(command: &Command, write: &dyn Fn(&str, &str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    write(&format!("{}.1", name(command)), &page(command)?)?;
    command.get_subcommands().filter(|each| !each.is_hide_set()).try_for_each(|each| write_pages(each, write))
}

/// `weir-acl-explain`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The page of one command.
fn page(command: &Command) -> anyhow::Result<String> {
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let (about, exits) = match about.find("Exits with ") {
        Some(at) => about.split_at(at),
        None => (about.as_str(), ""),
    };
    let shown = command.clone().long_about(about.trim_end().to_owned());
    let version = format!("weir {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(shown).title(name(command)).source(version).manual("Weir");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut text = String::from_utf8(text)?;
    let mut roff = Roff::new();
    exit_status(&mut roff, exits);
    files(&mut roff, command);
    help(&mut roff, command);
    see_also(&mut roff, command);
    text.push_str(&roff.render());
    Ok(text)
}

fn exit_status(roff: &mut Roff, exits: &str) {
    roff.control("SH", ["EXIT STATUS"]);
    if exits.is_empty() {
        roff.text([roman("0: success. 1: a negative answer, or a failure. 2: success with reservations.")]);
    } else {
        roff.text([roman(exits.split_whitespace().collect::<Vec<_>>().join(" "))]);
    }
    roff.control("PP", []);
    roff.text([roman("64: wrong usage.")]);
}

/// The files of a verb; those that all verbs share for the others.
fn files(roff: &mut Roff, command: &Command) {
    const DOCUMENTS: (&str, &str) =
        ("*.yaml, *.yml, *.json", "Documents, in the directory and below it, without hidden files: weir-endpoints(5).");
    const RUN: [(&str, &str); 4] = [
        DOCUMENTS,
        ("DATA_DIR/store/", "Durable sessions and retained messages: weir-store(1) inspects and exports them."),
        ("DATA_DIR/last-known-good.json", "The newest declaration that was applied, for a start without its source."),
        ("DATA_DIR/history.jsonl", "The history that GET /api/endpoints/history shows."),
    ];
    let of: &[(&str, &str)] = match command.get_name() {
        "run" => &RUN,
        "weir" | "validate" | "plan" | "diff" | "render" | "fmt" | "push" | "acl" | "explain" => &[DOCUMENTS],
        _ => &[],
    };
    if !of.is_empty() {
        roff.control("SH", ["FILES"]);
    }
    for (path, meaning) in of {
        roff.control("TP", []);
        roff.text([bold(*path)]);
        roff.text([roman(*meaning)]);
    }
}

/// EXAMPLES and NOTES: the text below the options of `--help`.
fn help(roff: &mut Roff, command: &Command) {
    let text = command.get_after_long_help().or_else(|| command.get_after_help());
    let text = text.map(ToString::to_string).unwrap_or_default();
    let (mut examples, mut notes) = (Vec::new(), Vec::new());
    for paragraph in text.split("\n\n") {
        let mut lines = paragraph.lines().peekable();
        let is_examples = lines.peek().is_some_and(|first| first.ends_with(':'));
        if is_examples {
            examples.extend(lines.skip(1).map(|line| line.trim_start().to_owned()));
        } else if !paragraph.trim().is_empty() {
            notes.push(paragraph.replace('\n', " "));
        }
    }
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
        roff.control("EX", []);
        roff.text([roman(examples.join("\n"))]);
        roff.control("EE", []);
    }
    if !notes.is_empty() {
        roff.control("SH", ["NOTES"]);
    }
    for note in notes {
        roff.control("PP", []);
        roff.text([roman(note)]);
    }
}

fn see_also(roff: &mut Roff, command: &Command) {
    roff.control("SH", ["SEE ALSO"]);
    let whole = if name(command) == "weir" { "" } else { "weir(1), " };
    roff.text([roman(format!("{whole}weir-endpoints(5)"))]);
}
