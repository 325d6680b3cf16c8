//! Loads whole snapshots, and checks declarations and diagnostics.

mod generate;
mod hostile;
mod json_schema;
mod last_good;
mod properties;
mod schema;
mod values;
mod yaml;

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::config;

/// A snapshot of files, each a path and its content.
fn snapshot(files: &[(&str, &str)]) -> Snapshot {
    let files = files.iter().map(|(path, text)| SourceFile {
        free_ports: false,
        path: Arc::from(*path),
        shown: Arc::from(*path),
        base: Arc::from(Path::new("/etc/weir")),
        content: Ok(Arc::from(text.as_bytes())),
    });
    let revision = Revision::Content { hash: "0".into() };
    Snapshot { origin: Arc::from("test"), revision, files: files.collect() }
}

/// Loads files without last good declarations.
fn first(files: &[(&str, &str)]) -> Loaded {
    load(&snapshot(files), &LastGood::default(), &NodeContext::default())
}

/// Loads files after `before`.
fn then(before: &Loaded, files: &[(&str, &str)]) -> Loaded {
    load(&snapshot(files), &before.last_good, &NodeContext::default())
}

/// The codes and positions of the diagnostics: `a.yaml:2 out-of-range`.
fn codes(loaded: &Loaded) -> Vec<String> {
    let unknown: Vec<&str> = loaded.diagnostics.iter().map(|d| d.code).filter(|code| meaning(code).is_none()).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not in CODES");
    loaded.diagnostics.iter().map(|d| format!("{}:{} {}", d.file, d.position.line, d.code)).collect()
}
