//! Imports the configuration of other brokers: text in, documents and remarks out. Pure: the caller reads files.
//!
//! - `draft`: the documents with comments, and the settings that were left out.
//! - `fluxmq`, `fluxmq_endpoint`: FluxMQ's export and `config.yaml`. `flux_mqtt`: flux-mqtt's TOML. `weir`: Weir's own export.
//! - `hocon`, `settings`: EMQX's file format, and the settings of a section. `emqx`, `emqx_mqtt`, `emqx_listener`, `emqx_auth`,
//!   `emqx_http`: `emqx.conf` of EMQX 5. `acl_conf`: EMQX's `acl.conf`.
//! - `mosquitto`, `mosquitto_conf`, `mosquitto_listener`, `mosquitto_bridge`, `mosquitto_acl`: `mosquitto.conf` and its ACL
//!   files.

mod acl_conf;
mod draft;
mod emqx;
mod emqx_auth;
mod emqx_http;
mod emqx_listener;
mod emqx_mqtt;
mod flux_mqtt;
mod fluxmq;
mod fluxmq_endpoint;
mod hocon;
mod mosquitto;
mod mosquitto_acl;
mod mosquitto_bridge;
mod mosquitto_conf;
mod mosquitto_listener;
mod settings;
mod weir;

use std::io;
use std::path::{Path, PathBuf};

pub use draft::Draft;

use crate::config::InvalidYaml;

/// A broker whose configuration can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// An endpoint export or `config.yaml`.
    Fluxmq,
    /// `emqx.conf` or `cluster.hocon` of EMQX 5, or `acl.conf`.
    Emqx,
    /// flux-mqtt's TOML.
    FluxMqtt,
    /// `mosquitto.conf`, or an ACL file.
    Mosquitto,
    /// Weir's own export.
    Weir,
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
    /// It is not YAML.
    #[error("neither JSON nor YAML: {0}")]
    Syntax(#[from] InvalidYaml),
    /// It declares no listener.
    #[error("no endpoint in it: neither an export nor a config.yaml with `mqtt` or `endpoint`")]
    NoEndpoint,
    /// It has no document.
    #[error("no documents in it: neither a list `documents` nor a document of Weir")]
    NoDocument,
    /// It has no table `mqtt`.
    #[error("no table `mqtt` in it")]
    NoMqttTable,
    /// It is of an EMQX before version 5.
    #[error(
        "this is a configuration of EMQX 4 (`listener.tcp.external`); import its acl.conf, and the configuration of EMQX 5 \
         that its migration tool writes"
    )]
    OldEmqx,
    /// It is an export of a store, not a configuration.
    #[error("this is an export of sessions and messages; `weir store import DIR` reads it")]
    StoreExport,
    /// A line is not understood.
    #[error("line {line}: {message}")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Imports `text`, the content of `file`. Fields that weir would refuse are left out of the documents.
///
/// # Errors
/// `text` is not a configuration of `broker`.
pub fn import(broker: Broker, file: &Path, text: &str, files: &dyn ImportFiles) -> Result<Draft, ImportError> {
    let mut draft = match broker {
        Broker::Fluxmq => fluxmq::import(text)?,
        Broker::Emqx if is_term(first_line(text)) => acl_conf::import(text)?,
        Broker::Emqx => emqx::import(file, text, files)?,
        Broker::FluxMqtt => flux_mqtt::import(text)?,
        Broker::Mosquitto if mosquitto_acl::is_acl_file(text) => mosquitto_acl::import_acl_file(text),
        Broker::Mosquitto => mosquitto::import(file, text, files),
        Broker::Weir => weir::import(file, text)?,
    };
    draft.omit_invalid();
    Ok(draft)
}

/// The first line that is neither empty nor a comment.
fn first_line(text: &str) -> &str {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| !line.is_empty() && !line.starts_with(['#', '%'])).unwrap_or_default()
}

/// Whether a line begins a rule of `acl.conf`.
fn is_term(line: &str) -> bool {
    ["{allow", "{deny", "{ allow", "{ deny"].iter().any(|start| line.starts_with(start))
}

/// Sections of EMQX's files: `listeners.tcp.default {`, `node {`, `authentication = [`.
const EMQX_SECTIONS: [&str; 9] =
    ["authentication", "authorization", "cluster", "dashboard", "listener", "listeners", "log", "mqtt", "node"];

fn is_emqx(file_name: &str, text: &str) -> bool {
    let is_section = |line: &str| {
        let line = line.trim();
        let key_end = line.find([' ', '.', '=', '{', ':']).unwrap_or(line.len());
        let (key, rest) = line.split_at(key_end);
        EMQX_SECTIONS.contains(&key) && (rest.contains('=') || rest.contains('{'))
    };
    file_name.ends_with(".hocon") || file_name.starts_with("emqx") || text.lines().any(is_section)
}

/// The broker whose configuration `text` looks like; `None`: it is not clear.
pub fn detect(file: &Path, text: &str) -> Option<Broker> {
    let content = first_line(text);
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    if is_term(content) {
        return Some(Broker::Emqx);
    }
    let is_toml = name.ends_with(".toml");
    if is_toml || flux_mqtt::is_flux_mqtt(text) {
        return Some(Broker::FluxMqtt);
    }
    let is_yaml = [".yaml", ".yml", ".json"].iter().any(|extension| name.ends_with(extension));
    if (is_yaml || content.starts_with(['{', '[', '-'])) && weir::is_weir(text) {
        return Some(Broker::Weir);
    }
    if content.starts_with(['{', '[']) || is_yaml {
        return Some(Broker::Fluxmq);
    }
    // `key value`, and neither `key: value` nor `key = value`.
    let mut words = content.split_whitespace();
    let looks_like_conf = words.next().is_some_and(mosquitto_conf::is_known) && words.next() != Some("=");
    let is_mosquitto = looks_like_conf || mosquitto_acl::is_acl_file(text) || name.contains("mosquitto");
    if is_mosquitto {
        return Some(Broker::Mosquitto);
    }
    is_emqx(&name, text).then_some(Broker::Emqx)
}
