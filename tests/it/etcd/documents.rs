//! A set of documents, as files and as keys.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;
use weir_declare::config::{LastGood, NodeContext, declaration_digest, load};
use weirmq::source::DirectoryReader;

use super::broker::Broker;
use super::until;
use crate::support::ports;

/// Endpoints by name: the port and more fields, in YAML's flow style. The same as files in a directory.
pub struct Documents {
    directory: TempDir,
    pub endpoints: BTreeMap<String, (u16, String)>,
}

/// An open endpoint's document.
pub fn document(port: u16, more: &str) -> String {
    format!("---\nendpoint: {{port: {port}, enableAuth: false, enableAcl: false{more}}}\n")
}

pub fn key(name: &str) -> String {
    format!("/weir/endpoints/{name}")
}

impl Documents {
    pub fn new(names: &[&str]) -> Self {
        let mut documents = Self { directory: tempfile::tempdir().unwrap(), endpoints: BTreeMap::new() };
        for name in names {
            documents.set(name, ports::free(), "");
        }
        documents
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn port(&self, name: &str) -> u16 {
        self.endpoints[name].0
    }

    pub fn text(&self, name: &str) -> String {
        let (port, more) = &self.endpoints[name];
        document(*port, more)
    }

    pub fn set(&mut self, name: &str, port: u16, more: &str) {
        self.endpoints.insert(name.to_owned(), (port, more.to_owned()));
        let path = self.path().join(format!("{name}.yaml"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, self.text(name)).unwrap();
    }

    pub fn remove(&mut self, name: &str) {
        self.endpoints.remove(name);
        fs::remove_file(self.path().join(format!("{name}.yaml"))).unwrap();
    }

    /// The digest of what the directory declares.
    pub fn digest(&self) -> String {
        let reading = DirectoryReader::new(self.path()).read(None).unwrap();
        let loaded = load(&reading.snapshot, &LastGood::default(), &NodeContext::default());
        assert!(loaded.is_valid(), "{:?}", loaded.diagnostics);
        declaration_digest(&loaded.declared)
    }

    /// Waits until a broker has exactly these, and all of them listen.
    pub fn until_on(&self, broker: &Broker) {
        let digest = self.digest();
        until(&format!("{} has what is declared", broker.name), || broker.digest() == digest);
        for (name, (port, _)) in self.endpoints.iter().filter(|(_, (_, more))| !more.contains("enabled: false")) {
            until(&format!("{} listens for {name}", broker.name), || broker.listens(*port));
        }
    }

    /// Waits until all brokers have exactly these.
    pub fn until_everywhere(&self, brokers: &[Broker]) {
        brokers.iter().for_each(|broker| self.until_on(broker));
    }
}
