//! `weir fmt`

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use pretty_yaml::config::{FormatOptions, LanguageOptions, LayoutOptions, Quotes};
use serde_json::json;

use super::print::{Format, print, printable};
use super::{Exit, wrong_usage};
use crate::source::DirectoryReader;
use weir_declare::config::{FILE_SIZE_MAX, parse_file_documents};

/// Characters of a line, where a list or mapping in brackets is broken.
const WIDTH: usize = 120;
/// A formatted text is formatted again, until nothing changes, at most so often.
const ROUNDS_MAX: usize = 4;

/// Format YAML documents: indentation, quotes, white space. Comments and the order of keys stay.
///
/// A file is written only if its formatted text declares exactly the same. In directories, the visible .yaml and .yml files are
/// formatted, and JSON files are left as they are.
///
/// Exits with 0; with 1 if a file cannot be read, parsed or written, or, with --check, if a file is not formatted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir fmt endpoints.d\n  weir fmt --check endpoints.d    in CI\n  \
    weir fmt - < endpoint.yaml")]
pub(super) struct Args {
    /// Directories (read recursively), files, or - for standard input, whose formatted text is printed
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write nothing; list the files that are not formatted
    #[arg(long)]
    check: bool,
    /// `json`: `{"changed": [...], "errors": [...]}`
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    if args.paths.iter().any(|path| path == Path::new("-")) {
        if args.paths.len() > 1 || args.format == Format::Json {
            let message = "standard input (-) is formatted without other paths and without --format json";
            return Err(wrong_usage("fmt", ErrorKind::ArgumentConflict, message));
        }
        return format_stdin(args.check);
    }
    let (mut changed, mut errors) = (Vec::new(), Vec::new());
    for file in args.paths.iter().map(|path| files(path)).collect::<anyhow::Result<Vec<_>>>()?.concat() {
        match format_file(&file, args.check) {
            Ok(false) => {}
            Ok(true) => changed.push(file.display().to_string()),
            // The other files are formatted all the same.
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    match args.format {
        Format::Json => print(&format!("{:#}\n", json!({"changed": changed, "errors": errors})))?,
        Format::Human => {
            errors.iter().for_each(|error| eprintln!("error: {}", printable(error)));
            print(&changed.iter().map(|file| format!("{file}\n")).collect::<String>())?;
        }
    }
    let unformatted = args.check && !changed.is_empty();
    Ok(if errors.is_empty() && !unformatted { Exit::Success } else { Exit::Failure })
}

/// The files at `path`: itself, or the YAML files of a directory.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let meta = path.metadata().with_context(|| path.display().to_string())?;
    if !meta.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let reading = DirectoryReader::new(path).read(None)?;
    let below = reading.snapshot.files.iter().map(|file| path.join(&*file.path));
    let mut files: Vec<PathBuf> = below.filter(|file| file.extension().is_some_and(|e| e != "json")).collect();
    files.sort();
    Ok(files)
}

fn format_stdin(check: bool) -> anyhow::Result<Exit> {
    let text = read(std::io::stdin().lock()).context("standard input")?;
    let formatted = formatted(&text, "<stdin>")?;
    if !check {
        print(&formatted)?;
        return Ok(Exit::Success);
    }
    if text == formatted {
        return Ok(Exit::Success);
    }
    print("<stdin>\n")?;
    Ok(Exit::Failure)
}

fn read(reader: impl std::io::Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(reader, FILE_SIZE_MAX as u64 + 1), &mut bytes)?;
    String::from_utf8(bytes).context("the text is not UTF-8")
}

/// Formats a file; whether its text changes.
fn format_file(path: &Path, check: bool) -> anyhow::Result<bool> {
    let shown = || path.display().to_string();
    if path.symlink_metadata().with_context(shown)?.is_symlink() {
        bail!("{}: a symbolic link; format the file that it leads to", path.display());
    }
    let text = read(fs::File::open(path).with_context(shown)?).with_context(shown)?;
    let formatted = formatted(&text, &shown())?;
    if formatted == text {
        return Ok(false);
    }
    if !check {
        replace(path, &formatted).with_context(|| format!("{}: cannot be written", path.display()))?;
    }
    Ok(true)
}

/// Writes a file beside `path`, hidden from a broker, and renames it: a reader sees the old text or the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.fmt-{}", std::process::id()));
    let written = fs::File::create_new(&beside).and_then(|mut file| {
        file.set_permissions(path.metadata()?.permissions())?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    });
    if written.is_err() {
        // The error is reported; the file beside may not even exist.
        let _absent = fs::remove_file(&beside);
    }
    written
}

/// The formatted text.
///
/// # Errors
/// `text` is not YAML, or the formatted text would not have the same values and comments.
fn formatted(text: &str, shown: &str) -> anyhow::Result<String> {
    let values = parse_file_documents(text.as_bytes()).map_err(|errors| {
        let lines = errors.iter().map(|(at, message)| format!("{shown}:{}:{}: {message}", at.line, at.col));
        anyhow::anyhow!("{}", lines.collect::<Vec<_>>().join("\n"))
    })?;
    let options = FormatOptions {
        layout: LayoutOptions { print_width: WIDTH, indent_width: 2, ..LayoutOptions::default() },
        language: LanguageOptions {
            quotes: Quotes::PreferDouble,
            brace_spacing: false,
            trim_trailing_whitespaces: true,
            ..LanguageOptions::default()
        },
    };
    let mut formatted = text.to_owned();
    for _ in 0..ROUNDS_MAX {
        let before = formatted;
        formatted = pretty_yaml::format_text(&before, &options)
            .map_err(|error| anyhow::anyhow!("{shown}: cannot be formatted, and stays as it is: {error}"))?;
        if formatted == before {
            break;
        }
    }
    let same = parse_file_documents(formatted.as_bytes()).is_ok_and(|after| after == values);
    if !same || comments(&formatted) != comments(text) {
        bail!("{shown}: stays as it is: its formatted text would not declare the same; please report this file");
    }
    Ok(formatted)
}

/// What follows each `#` that may begin a comment, without white space, sorted. A `#` in a value is there before and after, too.
fn comments(text: &str) -> Vec<String> {
    let comment = |line: &str| {
        let at =
            line.match_indices('#').find(|(at, _)| line[..*at].chars().next_back().is_none_or(char::is_whitespace))?;
        Some(line[at.0..].split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let mut found: Vec<String> = text.lines().filter_map(comment).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_order_and_values_stay_and_white_space_does_not() {
        let text = "# head\nendpoint:   # tail\n      port:   1883\n      # between\n      labels: { a: 'x',b: \"y\" }\n\n\n\n---\n\
                    acl:\n  rules:\n  - {permission: allow, topics: ['a/#']}   \n# end\n";
        let expected = "# head\nendpoint: # tail\n  port: 1883\n  # between\n  labels: {a: \"x\", b: \"y\"}\n\n---\n\
                        acl:\n  rules:\n    - {permission: allow, topics: [\"a/#\"]}\n# end\n";
        assert_eq!(formatted(text, "a.yaml").unwrap(), expected);
        assert_eq!(formatted(expected, "a.yaml").unwrap(), expected);
    }

    #[test]
    fn what_is_not_yaml_is_refused_with_its_position() {
        let error = formatted("endpoint: {port: 1\n", "a.yaml").unwrap_err().to_string();
        assert!(error.starts_with("a.yaml:"), "{error}");
    }
}
