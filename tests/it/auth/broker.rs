use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::client::Client;
use crate::support::ports;

/// How long something that must happen may take on a slow machine.
const GUARD: Duration = Duration::from_secs(60);

/// `weir run` on a directory of its own; ends with the value.
pub struct Broker {
    pub place: tempfile::TempDir,
    data: tempfile::TempDir,
    pub address: SocketAddr,
    shards: u16,
    process: Child,
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
        let place = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(place.path().join(name), content).unwrap();
        }
        fs::write(place.path().join("documents.yaml"), documents).unwrap();
        let data = tempfile::tempdir().unwrap();
        let process = spawn(shards, place.path(), data.path());
        let broker = Self { place, data, address, shards, process };
        broker.until("it listens", || TcpStream::connect(broker.address).is_ok());
        broker
    }

    /// Ends the process at once, lets its directory be changed, and starts it again with a new log.
    pub fn restart(&mut self, meanwhile: impl FnOnce(&Path)) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        meanwhile(self.place.path());
        self.process = spawn(self.shards, self.place.path(), self.data.path());
    }

    /// Lets the process open so many files and sockets more than it has, and none beyond.
    pub fn leave_descriptors(&self, count: u64) {
        let id = self.process.id();
        let most = fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() as u64 + count;
        let pid = rustix::process::Pid::from_raw(id.try_into().unwrap());
        let limit = rustix::process::Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Replaces a file at once, as editors and git do.
    pub fn write(&self, name: &str, content: &str) {
        fs::write(self.path("new.tmp"), content).unwrap();
        fs::rename(self.path("new.tmp"), self.path(name)).unwrap();
    }

    /// Replaces a file and waits until the log tells what came of it.
    pub fn write_until(&self, name: &str, content: &str, told: &str) {
        let before = self.log().len();
        self.write(name, content);
        self.until(told, || self.log().get(before..).is_some_and(|new| new.contains(told)));
    }

    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < GUARD, "not in time: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn client(&self, id: &str) -> Client {
        Client::new(self.address, id)
    }
}

fn spawn(shards: u16, place: &Path, data: &Path) -> Child {
    let log = fs::File::create(place.join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["run", "--status-addr", "none", "--host", "127.0.0.1", "--resync-s", "1"])
        .args(["--shards", &shards.to_string()])
        .arg("--data-dir")
        .arg(data)
        .arg("--endpoints")
        .arg(place)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself; a test that cares asks its log.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
