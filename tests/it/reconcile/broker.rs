//! The broker with its status server, and the queries of the reconciliation tests.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::Path;

use crate::support::client::Client;
use crate::support::until;
use crate::support::weir::Weir;
use crate::wire::Version;

/// An endpoint at 127.0.0.1, open to all, with more `fields`.
pub fn endpoint(name: &str, port: u16, fields: &str) -> String {
    format!("endpoint: {{name: {name}, host: 127.0.0.1, port: {port}, enableAuth: false, enableAcl: false{fields}}}\n")
}

pub fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A client that was let in.
pub fn client(port: u16, id: &str) -> Client {
    Client::connect(at(port), Version::V5, id)
}

/// One condition of an endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct ConditionValue {
    pub holds: bool,
    pub reason: String,
    pub message: String,
}

/// The broker with a status server.
pub struct Broker(Weir);

impl Broker {
    pub fn start(documents: &[(&str, &str)]) -> Self {
        Self::start_with(documents, &[])
    }

    pub fn start_with(documents: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::start_prepared(documents, |_| {}, arguments)
    }

    /// `prepare` does what else is to be done to the directory of the documents before the start.
    pub fn start_prepared(documents: &[(&str, &str)], prepare: impl FnOnce(&Path), arguments: &[&str]) -> Self {
        let weir = Weir::new().with_data().with_status().with_files(documents).with_arguments(arguments);
        prepare(&weir.endpoints());
        let mut broker = Self(weir);
        broker.run_until_answering();
        broker
    }

    fn run_until_answering(&mut self) {
        self.0.run();
        self.until("the status server answers", || TcpStream::connect(self.status()).is_ok());
    }

    /// kill -9, then a start with these arguments alone on what is there.
    pub fn restart(&mut self, arguments: &[&str]) {
        self.0.kill();
        self.0.set_arguments(arguments);
        self.run_until_answering();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.endpoints().join(name)).unwrap();
    }

    pub fn condition(&self, endpoint: &str, kind: &str) -> Option<ConditionValue> {
        let status = self.get(&format!("/api/endpoints/status?name={endpoint}"));
        let found = status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Some(ConditionValue { holds: found["status"] == "True", reason: text("reason"), message: text("message") })
    }

    /// Waits until a condition holds, or not, for a reason.
    pub fn until_condition(&self, endpoint: &str, kind: &str, holds: bool, reason: &str) -> ConditionValue {
        let mut last = None;
        until(
            &format!("{endpoint} {kind} {holds} {reason}"),
            || format!("{}\n{:?}", self.log(), self.condition(endpoint, kind)),
            || {
                last = self.condition(endpoint, kind);
                last.as_ref().is_some_and(|told| told.holds == holds && told.reason == reason)
            },
        );
        last.unwrap()
    }

    pub fn until_listening(&self, endpoint: &str) {
        self.until_condition(endpoint, "Programmed", true, "AsDeclared");
    }

    /// The revision that is live.
    pub fn applied(&self) -> String {
        self.get("/api/source")["appliedRevision"].as_str().unwrap_or_default().to_owned()
    }

    /// Writes a file and waits until a revision that has it is live.
    pub fn apply(&self, name: &str, text: &str) {
        let before = self.applied();
        self.write(name, text);
        self.until("it is applied", || self.applied() != before);
    }

    /// Connected clients of an endpoint.
    pub fn connected(&self, endpoint: &str) -> u64 {
        self.get(&format!("/api/endpoints/status?name={endpoint}"))["connections"]["current"].as_u64().unwrap_or(0)
    }
}

impl Deref for Broker {
    type Target = Weir;

    fn deref(&self) -> &Weir {
        &self.0
    }
}

impl DerefMut for Broker {
    fn deref_mut(&mut self) -> &mut Weir {
        &mut self.0
    }
}
