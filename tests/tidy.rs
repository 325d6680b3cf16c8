//! Holds the house: which module may import which, what the pure ones may not call, and how large a file may be.

#![allow(clippy::expect_used)] // a test that cannot read the sources fails

use std::fs;
use std::path::{Path, PathBuf};

/// Which of the crate's modules each module may name. What is not listed here may not exist.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("mqtt", &[]),
    ("broker", &["mqtt"]),
    ("bridge", &["mqtt"]),
    ("config", &["mqtt", "broker"]),
    ("reconcile", &["config"]),
    ("auth", &["mqtt", "broker", "config"]),
    ("net", &["mqtt", "broker", "bridge", "auth"]),
    ("store", &["broker", "config", "reconcile"]),
    ("source", &["config", "reconcile"]),
    ("telemetry", &[]),
    ("cluster", &["config", "reconcile", "source", "apply"]),
    (
        "apply",
        &["mqtt", "broker", "bridge", "config", "reconcile", "auth", "net", "store", "source", "cluster", "telemetry"],
    ),
    (
        "status",
        &[
            "mqtt",
            "broker",
            "bridge",
            "config",
            "reconcile",
            "auth",
            "net",
            "store",
            "source",
            "cluster",
            "apply",
            "telemetry",
        ],
    ),
    (
        "cli",
        &[
            "mqtt",
            "broker",
            "config",
            "reconcile",
            "auth",
            "net",
            "store",
            "source",
            "cluster",
            "apply",
            "status",
            "telemetry",
        ],
    ),
];

/// Modules without IO, clock or chance.
const PURE: &[&str] = &["mqtt", "broker", "bridge", "config", "reconcile"];

/// What a pure module may not name.
const IMPURE: &[&str] = &[
    "tokio::",
    "mio::",
    "socket2::",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "Utc::now",
    "OffsetDateTime::now",
    "rand::",
    "println!",
    "eprintln!",
];

/// A file longer than this has two rooms in it.
const LINES_MAX: usize = 600;

fn rust_files(under: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(under) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => rust_files(&path),
            path if path.extension().is_some_and(|e| e == "rs") => vec![path],
            _ => Vec::new(),
        })
        .collect();
    files.sort();
    files
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn modules() -> Vec<String> {
    let entries = fs::read_dir(root().join("src")).expect("src is there");
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The code of a file, comments left out, with line numbers from 1.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file can be read");
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    text.lines().enumerate().map(|(i, line)| (i + 1, without_comment(line))).collect()
}

fn is_test_file(path: &Path) -> bool {
    let named = |name: &str| name == "tests" || name == "tests.rs" || name.ends_with("_tests.rs");
    path.components().any(|c| c.as_os_str().to_str().is_some_and(named))
}

#[test]
fn modules_import_downwards_only() {
    let mut findings = Vec::new();
    for module in modules() {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            findings.push(format!("src/{module}: no layer is declared for it in tests/tidy.rs"));
            continue;
        };
        for file in rust_files(&root().join("src").join(&module)) {
            for (line, text) in code(&file) {
                for (other, _) in MAY_IMPORT {
                    let names_it =
                        text.contains(&format!("crate::{other}::")) || text.contains(&format!("crate::{other};"));
                    if *other != module && names_it && !allowed.contains(other) {
                        findings.push(format!("{}:{line}: {module} may not import {other}", file.display()));
                    }
                }
            }
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn pure_modules_stay_pure() {
    let mut findings = Vec::new();
    for module in PURE {
        for file in rust_files(&root().join("src").join(module)).into_iter().filter(|f| !is_test_file(f)) {
            for (line, text) in code(&file) {
                if text.contains("#[cfg(test)]") {
                    break;
                }
                for name in IMPURE.iter().filter(|name| text.contains(**name)) {
                    findings.push(format!("{}:{line}: `{name}` in a pure module", file.display()));
                }
            }
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn files_are_of_a_size_to_be_read() {
    let mut findings = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for file in rust_files(&root().join(folder)) {
            let lines = fs::read_to_string(&file).expect("a source file can be read").lines().count();
            if lines > LINES_MAX {
                findings.push(format!("{}: {lines} lines, more than {LINES_MAX}", file.display()));
            }
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn nothing_is_left_open() {
    let marks = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore]"];
    let mut findings = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|folder| rust_files(&root().join(folder))) {
        if file.ends_with("tests/tidy.rs") {
            continue;
        }
        for (line, text) in code(&file) {
            findings
                .extend(marks.iter().filter(|m| text.contains(**m)).map(|m| format!("{}:{line}: {m}", file.display())));
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}
