//! Installing the peers that cargo can install.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Crate and version of each peer: the ones the figures in docs/performance.md are of.
const CRATES: [(&str, &str); 2] = [("rumqttd", "0.20.0"), ("rmqttd", "0.23.0")];

/// `cargo install` into `root`, release builds.
pub fn install(root: &Path) -> Result<()> {
    for (name, version) in CRATES {
        let mut command = Command::new(env!("CARGO"));
        command.args(["install", "--locked", name, "--version", version]).arg("--root").arg(root);
        let status = command.status().context("running cargo install")?;
        ensure!(status.success(), "cargo install {name} ended with {status}");
    }
    Ok(())
}
