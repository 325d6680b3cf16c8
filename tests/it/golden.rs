//! `tests/golden/<verb>/<case>/`: `cmd` is a shell script, run in a copy of the directory `in`; `stdout`, `stderr` and
//! `exit` are what it must do (absent: nothing, nothing, 0). `$ROOT` is the repository.
//! `UPDATE_GOLDEN=1` rewrites them; `GOLDEN=part` picks cases.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::weir;

#[test]
fn golden() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
    let wanted = std::env::var("GOLDEN").unwrap_or_default();
    let mut ran = 0;
    let mut wrong = Vec::new();
    for verb in directories(&root) {
        for case in directories(&verb) {
            if case.join("cmd").is_file() && case.display().to_string().contains(&wanted) {
                ran += 1;
                wrong.extend(run(&case, update));
            }
        }
    }
    assert!(ran > 0, "no case matches {wanted:?}");
    assert!(wrong.is_empty(), "{} differ (UPDATE_GOLDEN=1 rewrites):\n{}", wrong.len(), wrong.join("\n"));
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// Runs a case; what differs, unless it was rewritten.
fn run(case: &Path, update: bool) -> Vec<String> {
    let place = tempfile::tempdir().unwrap();
    if case.join("in").is_dir() {
        copy(&case.join("in"), place.path());
    }
    let bin = Path::new(weir::PROGRAM).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("sh")
        .arg("-u")
        .arg(case.join("cmd"))
        .current_dir(place.path())
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", place.path())
        .env("ROOT", env!("CARGO_MANIFEST_DIR"))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "Golden")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "golden@example.com")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_DATE"), "2026-01-01T00:00:00Z")))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let place = place.path().display().to_string();
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).replace(&place, "$PWD").replace(env!("CARGO_MANIFEST_DIR"), "$ROOT")
    };
    let status = output.status.code().map_or("killed".to_owned(), |code| code.to_string());
    let exit = if status == "0" { String::new() } else { format!("{status}\n") };
    let got = [("stdout", text(&output.stdout)), ("stderr", text(&output.stderr)), ("exit", exit)];
    got.into_iter().filter_map(|(name, got)| compare(case, name, &got, update)).collect()
}

fn compare(case: &Path, name: &str, got: &str, update: bool) -> Option<String> {
    let file = case.join(name);
    let expected = fs::read_to_string(&file).unwrap_or_default();
    if expected == got {
        return None;
    }
    if update {
        if got.is_empty() {
            fs::remove_file(&file).unwrap();
        } else {
            fs::write(&file, got).unwrap();
        }
        return None;
    }
    let case = case.display();
    Some(weir_declare::config::unified_diff(&expected, got, &format!("{case}/{name}"), &format!("{case}/{name} (now)")))
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
