//! Brokers on a real etcd. Each test starts its servers on free ports and ends them.

mod access;
mod broker;
mod chaos;
mod documents;
mod following;
mod members;
mod pushing;
mod servers;
mod speed;
pub mod store;

use std::path::Path;
use std::process::{Output, Stdio};

use crate::support::weir;

/// Waits until a condition holds. Brokers and stores print their logs themselves where a test fails.
fn until(what: &str, condition: impl FnMut() -> bool) {
    crate::support::until(what, String::new, condition);
}

/// Whether etcd is there. Where it is not, the test fails, unless nothing may be installed.
pub fn is_there() -> bool {
    ["etcd", "etcdctl"].iter().all(|program| crate::programs::is_there(Path::new(program)))
}

/// Runs `weir` with arguments.
fn weir(args: &[&str]) -> Output {
    weir::command().args(args).stdin(Stdio::null()).output().unwrap()
}

/// What a program printed, both ways.
fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `weir push` of a directory, which must work.
fn push(directory: &Path, urls: &str, more: &[&str]) -> String {
    let directory = directory.display().to_string();
    let mut args = vec!["push", &directory, "--etcd", urls];
    args.extend(more);
    let output = weir(&args);
    assert!(output.status.success(), "{}", words(&output));
    words(&output)
}
