//! Imports `mosquitto.conf` and the files that it includes.

use std::path::Path;

use super::ImportFiles;
use super::draft::{Draft, DraftDocument};
use super::mosquitto_bridge::import_bridge;
use super::mosquitto_conf::{Section, Setting, beside, split_sections};
use super::mosquitto_listener::{import_listener, omit_unsupported};
use crate::config::Kind;

/// Imports a configuration. `file` is its path: other files are relative to its directory.
pub(super) fn import(file: &Path, text: &str, files: &dyn ImportFiles) -> Draft {
    let mut draft = Draft::default();
    let mut settings = Vec::new();
    read(file, text, Some(files), &mut settings, &mut draft);
    let conf = split_sections(settings);
    let anonymous_by_default = conf.listeners.is_empty();
    let listeners = if conf.listeners.is_empty() { vec![Section::default()] } else { conf.listeners.clone() };
    for section in &listeners {
        import_listener(section, &conf, file, files, anonymous_by_default, &mut draft);
    }
    // Unsupported global settings are listed once.
    omit_unsupported(&conf.global, &mut draft);
    let bridges: Vec<String> = conf.bridges.iter().filter_map(|section| import_bridge(section, &mut draft)).collect();
    attach_bridges(&bridges, &mut draft);
    draft
}

/// Reads the lines of a file and of the files that it includes. `files` is `None` in an included file.
fn read(file: &Path, text: &str, files: Option<&dyn ImportFiles>, settings: &mut Vec<Setting>, draft: &mut Draft) {
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let number = files.is_some().then_some(index + 1);
        if let ("include_dir", Some(files)) = (key, files) {
            include(&beside(file, value.trim()), number, files, settings, draft);
            continue;
        }
        settings.push(Setting { line: number, key: key.to_owned(), value: value.trim().to_owned() });
    }
}

fn include(
    directory: &Path,
    line: Option<usize>,
    files: &dyn ImportFiles,
    settings: &mut Vec<Setting>,
    draft: &mut Draft,
) {
    let mut paths = match files.list(directory) {
        Ok(paths) => paths,
        Err(error) => return draft.omit(line, format!("include_dir {}", directory.display()), error.to_string()),
    };
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    for path in paths {
        match files.read(&path) {
            Ok(text) => read(&path, &text, None, settings, draft),
            Err(error) => draft.omit(line, path.display().to_string(), error.to_string()),
        }
    }
}

/// Names the bridges at an endpoint without a mount point: a bridge forwards the messages of its namespace.
fn attach_bridges(bridges: &[String], draft: &mut Draft) {
    if bridges.is_empty() {
        return;
    }
    let shared = |endpoint: &DraftDocument| !endpoint.fields.contains_key("mountpoint");
    match draft.endpoint_mut(shared) {
        Some(endpoint) => {
            endpoint.set("enableBridge", true);
            endpoint.set("bridges", bridges.to_vec());
        }
        None => {
            draft.omit(None, "bridges", format!("every endpoint has a mountpoint; name the {}s at one", Kind::Bridge))
        }
    }
}
