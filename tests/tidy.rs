//! Holds what Cargo and clippy cannot: the order of the server's modules, the purity of the crates beneath it, and the
//! size of a file.

#![allow(clippy::expect_used)] // a test that cannot read the sources fails

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The server's modules from the lowest floor to the highest. A module names only modules of lower floors.
const FLOORS: &[&str] = &[
    "authorities",
    "kernel",
    "random",
    "log_value",
    "references",
    "source_address",
    "events",
    "http_client",
    "telemetry",
    "store",
    "source",
    "auth",
    "net",
    "state",
    "fleet",
    "cluster",
    "apply",
    "status",
    "client",
    "server",
    "fuzzing",
    "cli",
];

/// The parts of the broker core from the lowest floor to the highest. A part names only parts of lower floors.
const BROKER_FLOORS: &[&str] = &["values", "observe", "links", "durability", "delivery", "routing", "clients", "core"];

/// What the crates under `crates/` may not name: they do no IO, and time is an argument.
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
    "SystemTime",
    "Utc::now",
    "OffsetDateTime::now",
    "RandomState",
    "rand::",
    "println!",
    "eprintln!",
];

/// Folders whose modules import each other in one direction only.
const WITHOUT_CIRCLES: &[&str] =
    &["crates/weir-declare/src/config", "crates/weir-declare/src/import", "crates/weir-declare/src/reconcile"];

/// Lines of a file at most.
const LINES_MAX: usize = 600;

/// The Rust files under a folder, or the file itself.
fn rust_files(under: &Path) -> Vec<PathBuf> {
    if under.is_file() {
        return vec![under.to_owned()];
    }
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
    let stem = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut names: Vec<String> = entries.filter_map(Result::ok).filter_map(|entry| stem(entry.path())).collect();
    names.retain(|name| !["lib", "main"].contains(&name.as_str()));
    names.sort();
    names
}

/// The code of a file, comments left out, with line numbers from 1.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file can be read");
    let without_comment = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    text.lines().enumerate().map(|(i, line)| (i + 1, without_comment(line))).collect()
}

/// Every line of code under `folder` for which `finds` has something to say.
fn findings(folder: &Path, finds: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let lines_of = |file: PathBuf| code(&file).into_iter().map(move |(line, text)| (file.clone(), line, text));
    rust_files(folder)
        .into_iter()
        .flat_map(lines_of)
        .filter_map(|(file, line, text)| Some(format!("{}:{line}: {}", file.display(), finds(&text)?)))
        .collect()
}

#[test]
fn modules_import_lower_floors_only() {
    let mut found = Vec::new();
    for module in modules() {
        let Some(floor) = FLOORS.iter().position(|name| *name == module) else {
            found.push(format!("src/{module}: FLOORS in tests/tidy.rs does not name it"));
            continue;
        };
        let above = &FLOORS[floor + 1..];
        let finds = |text: &str| {
            let names =
                |other: &str| text.contains(&format!("crate::{other}::")) || text.contains(&format!("crate::{other};"));
            let other = above.iter().find(|other| names(other))?;
            Some(format!("{module} may not import {other}"))
        };
        let at = root().join("src").join(&module);
        found.extend(findings(&at.with_extension("rs"), finds));
        found.extend(findings(&at, finds));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// The modules of a folder, each with the modules beside it that it imports. A name that `mod.rs` re-exports counts as an
/// import of the module that defines it.
fn imports(folder: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut code: BTreeMap<String, String> = BTreeMap::new();
    let entries = fs::read_dir(folder).expect("the folder is there").filter_map(Result::ok).map(|entry| entry.path());
    for path in entries.filter(|path| path.extension().is_some_and(|e| e == "rs")) {
        let module = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let lines: Vec<String> = self::code(&path).into_iter().map(|(_, line)| line).collect();
        code.insert(module, lines.join("\n"));
    }
    code.retain(|module, _| module != "mod" && !module.ends_with("_tests"));
    let word =
        |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
    let mut home: BTreeMap<String, String> = code.keys().map(|module| (module.clone(), module.clone())).collect();
    for (module, text) in &code {
        let items = text.lines().filter_map(|line| line.strip_prefix("pub ").or(line.strip_prefix("pub(super) ")));
        for name in items.filter_map(|item| item.trim_start_matches("const fn").split(' ').nth(1)) {
            home.entry(word(name)).or_insert_with(|| module.clone());
        }
    }
    let own = format!("crate::{}::", folder.file_name().unwrap_or_default().to_string_lossy());
    let imported = |(module, text): (&String, &String)| {
        let paths = text.split("super::").skip(1).chain(text.split(own.as_str()).skip(1));
        let names = paths.flat_map(|path| match path.strip_prefix('{') {
            Some(list) => list.split(';').next().unwrap_or_default().split([',', ' ', ':']).map(word).collect(),
            None => vec![word(path)],
        });
        let modules = names.filter_map(|name| home.get(&name).cloned()).filter(|other| other != module).collect();
        (module.clone(), modules)
    };
    code.iter().map(imported).collect()
}

#[test]
fn modules_of_a_folder_do_not_import_in_circles() {
    for folder in WITHOUT_CIRCLES {
        let mut left = imports(&root().join(folder));
        // A module that imports none of those left is in no circle.
        while let Some(free) = left.iter().find(|(_, imported)| imported.is_empty()).map(|(module, _)| module.clone()) {
            left.remove(&free);
            left.values_mut().for_each(|imported| imported.retain(|module| *module != free));
        }
        assert!(left.is_empty(), "{folder}: these modules import each other in a circle, or one that does: {left:#?}");
    }
}

#[test]
fn parts_of_the_broker_core_import_lower_floors_only() {
    let mut found = Vec::new();
    for (floor, part) in BROKER_FLOORS.iter().enumerate() {
        let above = &BROKER_FLOORS[floor + 1..];
        let folder = root().join("crates/weir-broker/src").join(part);
        assert!(folder.is_dir(), "{} is no folder: BROKER_FLOORS names it", folder.display());
        found.extend(findings(&folder, |text| {
            let other = above.iter().find(|other| text.contains(&format!("crate::{other}::")))?;
            Some(format!("{part} may not import {other}"))
        }));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn crates_below_the_server_do_no_io() {
    let found = findings(&root().join("crates"), |text| {
        let name = IMPURE.iter().find(|name| text.contains(**name))?;
        Some(format!("`{name}` in a pure crate"))
    });
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn files_are_of_a_size_to_be_read() {
    let mut found = Vec::new();
    for file in ["src", "crates", "tests", "benches"].iter().flat_map(|folder| rust_files(&root().join(folder))) {
        let text = fs::read_to_string(&file).expect("a source file can be read");
        let lines = text.lines().count();
        if lines > LINES_MAX && !text.starts_with("// @generated") {
            found.push(format!("{}: {lines} lines, more than {LINES_MAX}", file.display()));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn nothing_is_left_open() {
    let marks = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore]"];
    let mut found = Vec::new();
    for folder in ["src", "crates", "tests/it", "benches"] {
        found.extend(findings(&root().join(folder), |text| {
            marks.iter().find(|mark| text.contains(**mark)).map(|mark| format!("{mark} is left"))
        }));
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
