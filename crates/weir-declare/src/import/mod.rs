//! Imports the configuration of other brokers: text in, documents and remarks out. Pure: the caller reads files.
//!
//! - `draft`: the documents with comments, and the settings that were left out.
//! - `fluxmq`, `fluxmq_endpoint`: FluxMQ's export and `config.yaml`. `acl_conf`: EMQ X's `acl.conf`.
//! - `mosquitto`, `mosquitto_conf`, `mosquitto_listener`, `mosquitto_bridge`, `mosquitto_acl`: `mosquitto.conf` and its ACL
//!   files.

mod acl_conf;
mod draft;
mod fluxmq;
mod fluxmq_endpoint;
mod mosquitto;
mod mosquitto_acl;
mod mosquitto_bridge;
mod mosquitto_conf;
mod mosquitto_listener;

use std::io;
use std::path::{Path, PathBuf};

pub use draft::Draft;

use crate::config::InvalidYaml;

/// A broker whose configuration can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// An endpoint export or `config.yaml`.
    Fluxmq,
    /// `acl.conf`.
    Emqx,
    /// `mosquitto.conf`, or an ACL file.
    Mosquitto,
}

/// Reads the files that a configuration includes or refers to.
pub trait ImportFiles {
    /// The content of a file.
    ///
    /// # Errors
    /// The file cannot be read; the import goes on without it.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// The paths of a directory's entries, in any order.
    ///
    /// # Errors
    /// The directory cannot be read; the import goes on without it.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
}

/// Why nothing could be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("neither JSON nor YAML: {0}")]
    Syntax(#[from] InvalidYaml),
    #[error("no endpoint in it: neither an export nor a config.yaml with `mqtt` or `endpoint`")]
    NoEndpoint,
    #[error("line {line}: {message}")]
    AclConf { line: usize, message: String },
}

/// Imports `text`, the content of `file`. Fields that weir would refuse are left out of the documents.
///
/// # Errors
/// `text` is not a configuration of `broker`.
pub fn import(broker: Broker, file: &Path, text: &str, files: &dyn ImportFiles) -> Result<Draft, ImportError> {
    let mut draft = match broker {
        Broker::Fluxmq => fluxmq::import(text)?,
        Broker::Emqx => acl_conf::import(text)?,
        Broker::Mosquitto if mosquitto_acl::is_acl_file(text) => mosquitto_acl::import_acl_file(text),
        Broker::Mosquitto => mosquitto::import(file, text, files),
    };
    draft.omit_invalid();
    Ok(draft)
}

/// The broker whose configuration `text` looks like; `None`: it is not clear.
pub fn detect(file: &Path, text: &str) -> Option<Broker> {
    let content = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with(['#', '%']));
    let content = content.unwrap_or_default();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let is_term = ["{allow", "{deny", "{ allow", "{ deny"].iter().any(|start| content.starts_with(start));
    if is_term {
        return Some(Broker::Emqx);
    }
    if content.starts_with(['{', '[']) || name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json") {
        return Some(Broker::Fluxmq);
    }
    // `key value`, and neither `key: value` nor `key = value`.
    let mut words = content.split_whitespace();
    let looks_like_conf = words.next().is_some_and(mosquitto_conf::is_known) && words.next() != Some("=");
    let is_mosquitto = looks_like_conf || mosquitto_acl::is_acl_file(text) || name.contains("mosquitto");
    is_mosquitto.then_some(Broker::Mosquitto)
}
