//! The pictures under `docs/images` and the tables of `docs/performance.md` are what the scripts make of their data.

use std::path::Path;
use std::process::Command;

fn check(script: &str, arguments: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked = Command::new("python3")
        .arg(root.join("tools/figures").join(script))
        .args(arguments)
        .arg("--check")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap_or_else(|error| panic!("python3: {error}; tests/run installs it"));
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn plots_and_tables_equal_the_committed_results() {
    check("plots.py", &[]);
}

/// Runs a broker, a plan and a commit.
#[test]
fn the_picture_of_the_readme_shows_the_output_of_the_program() {
    check("picture.py", &["--weir", env!("CARGO_BIN_EXE_weir")]);
}
