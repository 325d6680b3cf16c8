//! The crates of the build: each direct one has a reason in `docs/dependencies.md`, none that reads bytes from outside is
//! known to be unmaintained, and the software bill of materials is the same each time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates that their authors have given up, as of November 2026.
const UNMAINTAINED: [&str; 17] = [
    "ansi_term",
    "async-std",
    "atty",
    "backoff",
    "bincode",
    "derivative",
    "encoding",
    "fxhash",
    "instant",
    "json",
    "net2",
    "number_prefix",
    "paste",
    "proc-macro-error",
    "rustls-pemfile",
    "serde_yaml",
    "yaml-rust",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Names in the `[dependencies]` and `[build-dependencies]` of a manifest, those of this workspace left out.
fn direct(manifest: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(manifest).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let mut tables: Vec<&toml::Value> = manifest.get("dependencies").into_iter().collect();
    tables.extend(manifest.get("build-dependencies"));
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    tables.extend(targets.into_iter().flat_map(|targets| targets.values()).filter_map(|each| each.get("dependencies")));
    let names = tables.into_iter().filter_map(toml::Value::as_table).flat_map(|table| table.keys().cloned());
    names.filter(|name| !name.starts_with("weir-")).collect()
}

fn sbom() -> String {
    let output = Command::new(root().join("tools/sbom")).arg("--offline").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_direct_dependency_has_a_reason_in_the_docs_and_no_row_is_left_over() {
    let mut wanted = direct(&root().join("Cargo.toml"));
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        wanted.extend(direct(&entry.unwrap().path().join("Cargo.toml")));
    }
    let docs = std::fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let rows = docs.lines().filter_map(|line| line.strip_prefix("| `")).map(|row| row.split(" | ").collect::<Vec<_>>());
    let mut listed = BTreeSet::new();
    for row in rows {
        assert!(row.len() == 3 && row[2].len() > 5, "{row:?} has no reason");
        listed.insert(row[0].trim_end_matches('`').to_owned());
    }
    assert_eq!(listed, wanted);
}

#[test]
fn the_bill_of_materials_is_deterministic_and_has_no_unmaintained_crate() {
    let text = sbom();
    assert_eq!(text, sbom());
    let bom: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((bom["bomFormat"].as_str(), bom["specVersion"].as_str()), (Some("CycloneDX"), Some("1.5")));
    let components = bom["components"].as_array().unwrap();
    assert!(components.len() > 100);
    for component in components {
        let name = component["name"].as_str().unwrap();
        assert!(!UNMAINTAINED.contains(&name), "{name} is compiled into the broker");
        let is_here = name.starts_with("weir-") || name == "tonic-prost-build";
        assert!(is_here || component["hashes"][0]["alg"] == "SHA-256", "{name} has no checksum");
        assert!(component["licenses"][0]["expression"].is_string(), "{name} has no licence");
    }
}
