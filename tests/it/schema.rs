//! Another validator, check-jsonschema, judges the schema, the examples and generated documents as weir does.

#[path = "../../crates/weir-declare/src/config/tests/generate.rs"]
#[allow(dead_code)] // the unit tests use the rest
mod generate;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use weir_declare::config;
use weir_declare::config::{LastGood, NodeContext, Revision, Snapshot, SourceFile};

use generate::Generator;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The other validator, where `tests/run` has installed it.
fn other() -> Option<Command> {
    let program = root().join("target/test-tools/venv/bin/check-jsonschema");
    if !crate::programs::is_there(&program) {
        return None;
    }
    Some(Command::new(program))
}

fn schema_file() -> PathBuf {
    root().join("schema/endpoint.schema.json")
}

/// Which of the files it refuses.
fn refused_by_other(mut other: Command, files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let output = other.args(["-o", "json", "--schemafile"]).arg(schema_file()).args(files).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["parse_errors"].as_array().map(Vec::len).unwrap_or_default(), 0, "{report}");
    let errors = report["errors"].as_array().into_iter().flatten();
    errors.map(|error| PathBuf::from(error["filename"].as_str().unwrap())).collect()
}

/// Whether weir accepts a document by itself. What is beyond any schema does not count.
fn accepted(document: &Value) -> bool {
    let file = SourceFile {
        free_ports: false,
        path: Arc::from("a.json"),
        shown: Arc::from("a.json"),
        base: Arc::from(Path::new("")),
        content: Ok(Arc::from(document.to_string().as_bytes())),
    };
    let revision = Revision::Content { hash: String::new() };
    let snapshot = Snapshot { origin: Arc::from(""), revision, files: vec![file] };
    let node = NodeContext { status_addr: None, ..NodeContext::default() };
    let loaded = config::load(&snapshot, &LastGood::default(), &node);
    let beyond = |code: &str, message: &str| {
        matches!(code, "missing-reference" | "strip-prefix") || message.starts_with("minMs")
    };
    loaded.diagnostics.iter().all(|d| !d.is_error() || beyond(d.code, &d.message))
}

#[test]
fn the_schema_is_valid_draft_07() {
    let Some(mut other) = other() else { return };
    let output = other.arg("--check-metaschema").arg(schema_file()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Every YAML file below a directory that a pattern is found in.
fn yaml_files(directory: &Path, pattern: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, pattern, found);
        } else if path.extension().is_some_and(|e| e == "yaml") && fs::read_to_string(&path).unwrap().contains(pattern)
        {
            found.push(path);
        }
    }
}

#[test]
fn both_validators_accept_the_examples() {
    let Some(other) = other() else { return };
    let mut files = vec![root().join("tests/golden/validate/every-field/in/a.yaml")];
    yaml_files(&root().join("examples"), "endpoint.schema.json", &mut files);
    assert!(files.len() > 5, "{files:?}");
    // It reads one document per file.
    let place = tempfile::tempdir().unwrap();
    let mut documents = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let text = fs::read_to_string(file).unwrap();
        for (part, document) in text.split("\n---\n").enumerate() {
            let name = file.parent().unwrap().file_name().unwrap().display();
            documents.push(place.path().join(format!("{number}-{part}-{name}.yaml")));
            fs::write(documents.last().unwrap(), document).unwrap();
        }
    }
    assert_eq!(refused_by_other(other, &documents), BTreeSet::new());
}

#[test]
fn both_validators_agree_on_generated_documents() {
    let Some(other) = other() else { return };
    let seed = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    eprintln!("WEIR_SEED={seed}");
    let place = tempfile::tempdir().unwrap();
    let mut generator = Generator::new(seed, 4);
    let mut files = Vec::new();
    let mut refused = BTreeSet::new();
    for number in 0..600 {
        let document = generator.document();
        let file = place.path().join(format!("{number}.json"));
        fs::write(&file, document.to_string()).unwrap();
        if !accepted(&document) {
            refused.insert(file.clone());
        }
        files.push(file);
    }
    let differ: Vec<String> = refused_by_other(other, &files)
        .symmetric_difference(&refused)
        .map(|file| format!("{} (weir refuses it: {})", fs::read_to_string(file).unwrap(), refused.contains(file)))
        .collect();
    assert!(differ.is_empty(), "{differ:#?}");
    // The generator makes enough of both.
    assert!((60..540).contains(&refused.len()), "{} of {} refused", refused.len(), files.len());
}

#[test]
fn the_entry_for_schemastore_names_the_id_of_the_schema() {
    let read = |name: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(root().join("schema").join(name)).unwrap()).unwrap()
    };
    let (schema, entry) = (read("endpoint.schema.json"), read("schemastore-catalog-entry.json"));
    assert_eq!(schema["$id"], entry["url"]);
    for field in ["name", "description", "url"] {
        assert!(entry[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {entry}");
    }
    assert!(entry["fileMatch"].as_array().is_some_and(|patterns| !patterns.is_empty()), "{entry}");
}
