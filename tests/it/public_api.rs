//! What the crates declare as public, against lists in `tests/api`: a change of them is seen in review. `UPDATE_GOLDEN=1` rewrites
//! them.
//!
//! The lists are of source text: every item and field that is `pub`, whether or not its module is reachable. What is not part of an
//! interface is `pub(crate)`.

use std::fs;
use std::path::{Path, PathBuf};

/// Lists, and the folders whose items they hold.
const INTERFACES: &[(&str, &str)] = &[
    ("weir-mqtt", "crates/weir-mqtt/src"),
    ("weir-broker", "crates/weir-broker/src"),
    ("weir-bridge", "crates/weir-bridge/src"),
    ("weir-cluster", "crates/weir-cluster/src"),
    ("weir-declare", "crates/weir-declare/src"),
    ("weirmq-server", "src/server"),
];

#[test]
fn public_items_equal_their_lists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let update = std::env::var("UPDATE_GOLDEN").is_ok_and(|value| value == "1");
    let mut wrong = Vec::new();
    for (name, folder) in INTERFACES {
        let folder = root.join(folder);
        let mut files = Vec::new();
        rust_files(&folder, &mut files);
        files.sort();
        let found: String = files.iter().map(|file| public_items(&folder, file)).collect();
        assert!(!found.is_empty(), "{}: no public item", folder.display());
        let list = root.join("tests/api").join(format!("{name}.txt"));
        if update {
            fs::create_dir_all(list.parent().unwrap()).unwrap();
            fs::write(&list, &found).unwrap();
        }
        let expected = fs::read_to_string(&list).unwrap_or_default();
        let differs = |one: &str, other: &str, sign: char| {
            let lines = one.lines().filter(|line| !other.lines().any(|known| known == *line));
            lines.map(|line| format!("{name}: {sign} {line}")).collect::<Vec<_>>()
        };
        wrong.extend(differs(&expected, &found, '-'));
        wrong.extend(differs(&found, &expected, '+'));
    }
    assert!(wrong.is_empty(), "public items differ (UPDATE_GOLDEN=1 rewrites tests/api):\n{}", wrong.join("\n"));
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            rust_files(&path, files);
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            files.push(path);
        }
    }
}

/// The declarations of a file, each in a line: up to its body.
fn public_items(folder: &Path, file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let shown = file.strip_prefix(folder).unwrap().display().to_string();
    let mut items = String::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        if !line.trim_start().starts_with("pub ") {
            continue;
        }
        let mut item = line.trim().to_owned();
        let (is_use, is_function) = (item.starts_with("pub use"), item.contains(" fn "));
        let ends = |item: &str| match (is_use, is_function) {
            (true, _) => item.ends_with(';'),
            (_, true) => item.ends_with(['{', ';', '}']),
            _ => item.ends_with([';', ',', '{', '}']),
        };
        while !ends(&item)
            && let Some(next) = lines.next()
        {
            item.push(' ');
            item.push_str(next.trim());
        }
        let item = if is_use { item.as_str() } else { item.split(" {").next().unwrap_or(&item) };
        items.push_str(&format!("{shown}: {}\n", item.trim_end_matches([';', ','])));
    }
    items
}
