//! `weir render`

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;
use serde_json::json;

use super::Exit;
use super::input::read_all;
use super::print::print;
use weir_declare::config::{
    BuiltInDefaults, Declared, Diagnostic, LastGood, Loaded, NodeContext, Snapshot, canonical, canonical_yaml,
    declaration_digest, load,
};

/// Print the canonical form of declarations.
///
/// Sorted, with `defaults` applied and without fields that have their built-in default. It is equivalent to its input
/// and stable across weir's minor versions, so it can be kept as a golden file.
///
/// Exits with 0, or with 1 where the declarations are not valid or cannot be read.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir render endpoints.d\n  weir render http://127.0.0.1:8080 --all\n  weir render endpoints.d --digest"
)]
pub(super) struct Args {
    /// Directories (read recursively), files, - for standard input, or a broker's http://HOST:PORT.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Write fields out that have their built-in default.
    #[arg(long)]
    all: bool,
    /// Print only the declaration digest.
    #[arg(long, conflicts_with = "all")]
    digest: bool,
    /// `json`: one object, `{"documents": [...], "declarationDigest": "..."}`
    #[arg(long, value_enum, default_value_t = RenderFormat::Yaml, conflicts_with = "digest")]
    format: RenderFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RenderFormat {
    Yaml,
    Json,
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let declared = valid(&read_all(&args.paths)?)?;
    if args.digest {
        print(&format!("{}\n", declaration_digest(&declared)))?;
        return Ok(Exit::Success);
    }
    let defaults = if args.all { BuiltInDefaults::WrittenOut } else { BuiltInDefaults::LeftOut };
    let documents = canonical(&declared, defaults);
    print(&match args.format {
        RenderFormat::Yaml => canonical_yaml(&documents),
        RenderFormat::Json => {
            let documents: Vec<_> = documents.iter().map(|each| json!({each.identity.kind.key(): each.body})).collect();
            let digest = declaration_digest(&declared);
            format!("{:#}\n", json!({"documents": documents, "declarationDigest": digest}))
        }
    })?;
    Ok(Exit::Success)
}

/// The declaration of a valid snapshot, independent of any node's status port.
///
/// # Errors
/// The snapshot's errors, one line each.
pub(super) fn valid(snapshot: &Snapshot) -> anyhow::Result<Declared> {
    Ok(valid_for(snapshot, None)?.declared)
}

/// A snapshot that is valid for a broker with this status address.
///
/// # Errors
/// See [`valid`].
pub(super) fn valid_for(snapshot: &Snapshot, status_addr: Option<SocketAddr>) -> anyhow::Result<Loaded> {
    let node = NodeContext { status_addr, ..NodeContext::default() };
    let loaded = load(snapshot, &LastGood::default(), &node);
    if loaded.is_valid() {
        return Ok(loaded);
    }
    let errors: Vec<&Diagnostic> = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).collect();
    let lines: String = errors.iter().map(|error| format!("\n{error}")).collect();
    bail!("{} is not valid:{lines}", snapshot.origin)
}
