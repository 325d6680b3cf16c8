//! The broker with endpoints for tests of authentication and authorization.

use std::fs;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use super::client::Client;
use crate::support::ports;
use crate::support::weir::Weir;

/// The broker, and the address of its first endpoint.
pub struct Broker {
    weir: Weir,
    pub address: SocketAddr,
}

impl Broker {
    /// Serves one endpoint with `fields` more, the `documents`, and the files they name.
    pub fn start(fields: &str, documents: &str, files: &[(&str, &str)]) -> Self {
        Self::start_on(2, fields, documents, files)
    }

    /// The same, on so many shards.
    pub fn start_on(shards: u16, fields: &str, documents: &str, files: &[(&str, &str)]) -> Self {
        let address = ports::free_address();
        let endpoint = format!("endpoint: {{name: main, host: 127.0.0.1, port: {}{fields}}}\n", address.port());
        let files: Vec<_> = files.iter().copied().chain([("endpoint.yaml", endpoint.as_str())]).collect();
        Self::serve_on(shards, address, documents, &files)
    }

    /// Serves `documents`, one of which has an endpoint at `address`.
    pub fn serve(address: SocketAddr, documents: &str, files: &[(&str, &str)]) -> Self {
        Self::serve_on(2, address, documents, files)
    }

    fn serve_on(shards: u16, address: SocketAddr, documents: &str, files: &[(&str, &str)]) -> Self {
        let weir = Weir::new().with_data().with_status().with_shards(shards).with_arguments(&["--host", "127.0.0.1"]);
        let mut weir =
            weir.with_arguments(&["--resync-s", "1"]).with_files(files).with_file("documents.yaml", documents);
        weir.run_until_accepting(&[address]);
        Self { weir, address }
    }

    /// kill -9, then a change of the directory, then a start with an empty log.
    pub fn restart(&mut self, change: impl FnOnce(&Path)) {
        self.weir.kill();
        change(&self.weir.endpoints());
        fs::write(self.weir.log_path(), "").unwrap();
        self.weir.run();
    }

    /// Limits the process to so many more file descriptors than it has open.
    pub fn limit_descriptors(&self, count: u64) {
        let id = self.weir.id();
        let most = fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() as u64 + count;
        let pid = rustix::process::Pid::from_raw(id.try_into().unwrap());
        let limit = rustix::process::Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.weir.endpoints().join(name)
    }

    /// Replaces a file and waits until the log has a new line with `logged`.
    pub fn write_until(&self, name: &str, content: &str, logged: &str) {
        let before = self.log().len();
        self.write(name, content);
        self.until(logged, || self.log().get(before..).is_some_and(|new| new.contains(logged)));
    }

    pub fn client(&self, id: &str) -> Client {
        Client::new(self.address, id)
    }
}

impl Deref for Broker {
    type Target = Weir;

    fn deref(&self) -> &Weir {
        &self.weir
    }
}

impl DerefMut for Broker {
    fn deref_mut(&mut self) -> &mut Weir {
        &mut self.weir
    }
}
