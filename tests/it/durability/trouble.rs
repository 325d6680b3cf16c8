//! A data directory that cannot be used, a declaration that needs one, and a torn end.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::process::{Command, Stdio};

use super::process::Durable;

/// Runs a second broker on a data directory until it ends; answers with what it says.
fn refused(broker: &Durable) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["run", "--status-addr", "none", "--endpoints"])
        .arg(broker.path().join("endpoints.d"))
        .arg("--data-dir")
        .arg(broker.data())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_directory_in_use_or_of_a_newer_version_is_refused() {
    let mut broker = Durable::start(1, "");
    let said = refused(&broker);
    assert!(said.contains("data/store: another weir has it open"), "{said}");
    broker.stop();
    let file = broker.data().join("store/000000000001.log");
    let mut bytes = fs::read(&file).unwrap();
    bytes[8] = 200;
    fs::write(&file, &bytes).unwrap();
    let said = refused(&broker);
    assert!(
        said.contains("file 1 was written by a newer weir (format 200, this one knows 1): start that one"),
        "{said}"
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let mut broker = Durable::start(1, "");
    broker.stop();
    fs::remove_dir_all(broker.data()).unwrap();
    fs::write(broker.data(), "a file").unwrap();
    let said = refused(&broker);
    assert!(said.contains("--data-dir") && said.contains("data"), "{said}");
}

#[test]
fn a_torn_end_is_cut_off_and_said() {
    let mut broker = Durable::start(1, "");
    broker.stop();
    let file = broker.data().join("store/000000000001.log");
    OpenOptions::new().append(true).open(&file).unwrap().write_all(b"wfrm and then the power went").unwrap();
    broker.begin();
    assert!(broker.log().contains("the last commit was cut short"), "{}", broker.log());
}
