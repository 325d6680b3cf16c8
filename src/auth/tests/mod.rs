//! Compiled auth and ban documents, and the decisions about logins.

mod certificate;
mod chain;
mod guard;
mod http;
mod jwt;
mod password;
mod scram;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::*;
use weir_broker::{EndpointId, EndpointLimits, EndpointPolicy, Millis, Principal, ProtocolVersions};
use weir_declare::config::{Auth, Ban, Name};
use weir_mqtt::ProtocolVersion;

/// `alice` with the password `secret`, as mosquitto_passwd 2.0 writes her.
const ALICE_6: &str = "alice:$6$yEkqPPOx9a92QGqm$3lox62KIo+BU9PI36lrxgzrKt2FulXmhrSz12hw69vhlDW4vlBBhvsqO8xUHh2CGWZBE+EOgyOiS9YEWkD8zQA==\n";
const ALICE_7: &str = "alice:$7$101$7e92RQakt8KnbE4s$yLgtd/cKo/7fU/ENCVSCXgJyrm9Z2dzRmVaKWJoTjUJoUtl/MIqARYsMwjoJncSg2gvJN3cZ8L89kcYxJcgF5Q==\n";
/// `bob` with the password `password`, from the test vectors of Argon2's reference implementation.
const BOB_ARGON2ID: &str = "bob:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4\n";

/// A declaration, by way of JSON as the loader does it.
fn document<T: serde::de::DeserializeOwned>(yaml: &str) -> T {
    let value: serde_json::Value = serde_yaml::from_str(yaml).unwrap();
    serde_json::from_value(value).unwrap()
}

/// A node's compiler of auth documents, its files and its bans.
#[derive(Default)]
struct Fixture {
    compiler: AuthCompiler,
    files: BTreeMap<String, Vec<u8>>,
    bans: BTreeMap<Name, Arc<Ban>>,
}

impl Fixture {
    fn with(files: &[(&str, &str)]) -> Self {
        let mut fixture = Self::default();
        for (name, content) in files {
            fixture.write(name, content.as_bytes());
        }
        fixture
    }

    fn write(&mut self, name: &str, content: &[u8]) {
        self.files.insert(name.to_owned(), content.to_vec());
    }

    fn ban(&mut self, yaml: &str) {
        self.bans.insert(Name::default(), Arc::new(document(yaml)));
    }

    fn try_chain(&self, yaml: &str) -> Result<TestChain, AuthError> {
        let auth: Auth = document(yaml);
        let read = |path: &Path| {
            let content = self.files.get(path.to_str().unwrap()).map(|content| Arc::from(content.as_slice()));
            content.ok_or_else(|| format!("{}: no such file", path.display()))
        };
        self.compiler.compile(true, Ok(&Arc::new(auth)), &self.bans, &read).map(TestChain)
    }

    fn chain(&self, yaml: &str) -> TestChain {
        self.try_chain(yaml).unwrap()
    }
}

struct TestChain(Arc<dyn Authenticate>);

/// The credentials of a client.
#[derive(Clone)]
struct Login {
    /// Empty: the server assigns one.
    client_id: &'static str,
    username: Option<String>,
    password: Option<Vec<u8>>,
    peer: Option<SocketAddr>,
    certificate: Option<PeerCertificate>,
    method: Option<String>,
    data: Option<Vec<u8>>,
    now: Millis,
}

fn login() -> Login {
    Login {
        client_id: "c1",
        username: None,
        password: None,
        peer: Some(SocketAddr::from(([192, 0, 2, 1], 4000))),
        certificate: None,
        method: None,
        data: None,
        now: 1_000_000,
    }
}

fn user(username: &str, password: &str) -> Login {
    Login { username: Some(username.to_owned()), password: Some(password.into()), ..login() }
}

impl TestChain {
    fn begin(&self, login: &Login) -> Decision {
        let endpoint = EndpointPolicy {
            id: EndpointId(1),
            name: "e".into(),
            generation: 1,
            namespace: "".into(),
            versions: ProtocolVersions::ALL,
            limits: EndpointLimits::default(),
            acl: None,
            interceptors: None,
            admission: None,
        };
        self.0.authenticate(&Credentials {
            endpoint: &endpoint,
            now: login.now,
            version: ProtocolVersion::V5,
            client_id: if login.client_id.is_empty() { "assigned" } else { login.client_id },
            client_id_assigned: login.client_id.is_empty(),
            username: login.username.as_deref(),
            password: login.password.as_deref(),
            peer: login.peer,
            certificate: login.certificate.as_ref(),
            tls: login.certificate.is_some(),
            authentication_method: login.method.as_deref(),
            authentication_data: login.data.as_deref(),
            reauthentication: false,
            start_check: None,
        })
    }

    fn log_in(&self, login: &Login) -> Result<Principal, AuthRefusal> {
        settle(self.begin(login))
    }

    /// `in as USER`, or the refusal.
    fn answer(&self, login: &Login) -> String {
        match self.log_in(login) {
            Ok(principal) => format!("in as {}", principal.username.as_deref().unwrap_or("anonymous")),
            Err(refusal) => format!("{refusal:?}"),
        }
    }

    fn still_valid(&self, principal: &Principal) -> bool {
        self.0.still_valid(principal, "c1")
    }
}

/// Runs pending work to its end.
fn settle(decision: Decision) -> Result<Principal, AuthRefusal> {
    match decision {
        Decision::Admit(principal) | Decision::AdmitWith { principal, .. } => Ok(principal),
        Decision::Refuse(refusal) => Err(refusal),
        Decision::Blocking(work) => settle(work()),
        Decision::Task(task) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            settle(runtime.block_on(task))
        }
        Decision::Continue { .. } => panic!("a question to the client"),
    }
}
