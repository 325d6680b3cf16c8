//! `weir validate --watch`.

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::child::ChildGuard;
use crate::support::{until, weir};

#[test]
fn a_watched_directory_is_validated_after_each_change_until_an_interrupt() {
    let directory = tempfile::tempdir().unwrap();
    let (documents, log) = (directory.path().join("endpoints.d"), directory.path().join("log"));
    fs::create_dir(&documents).unwrap();
    let write = |text: &str| fs::write(documents.join("a.yaml"), text).unwrap();
    let shown = || fs::read_to_string(&log).unwrap_or_default();
    write("endpoint: {port: 1883, enableAuth: false}\n");
    let out = fs::File::create(&log).unwrap();
    let mut command = weir::command();
    command.args(["validate", "--watch"]).arg(&documents).stdin(Stdio::null());
    command.stderr(out.try_clone().unwrap()).stdout(out);
    let mut child = ChildGuard::spawn(&mut command);
    until("the first pass", shown, || shown().contains("1 endpoint"));
    write("endpoint: {prt: 1883}\n");
    until("the error", shown, || shown().contains("did you mean"));
    fs::remove_file(documents.join("a.yaml")).unwrap();
    fs::remove_dir(&documents).unwrap();
    until("the directory is missing", shown, || shown().contains("error: ") && shown().contains("o such file"));
    fs::create_dir(&documents).unwrap();
    write("endpoint: {port: 1884, enableAuth: false}\n");
    until("the last pass", shown, || shown().matches("1 endpoint").count() == 2);
    child.signal(Signal::INT);
    let mut exit = None;
    until("the end", shown, || {
        exit = child.exit_status();
        exit.is_some()
    });
    assert_eq!(exit.and_then(|status| status.code()), Some(0), "{}", shown());
}
