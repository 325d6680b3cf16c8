//! Auth and ban documents at work: what is declared, who knocks, what comes of it.

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
use weir_broker::{EndpointId, EndpointLimits, ProtocolVersions};
use weir_declare::config::{Auth, Ban, Name};

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

/// A node's admission, its files and its bans.
#[derive(Default)]
struct House {
    admission: Admission,
    files: BTreeMap<String, Vec<u8>>,
    bans: BTreeMap<Name, Arc<Ban>>,
}

impl House {
    fn with(files: &[(&str, &str)]) -> Self {
        let mut house = Self::default();
        for (name, content) in files {
            house.write(name, content.as_bytes());
        }
        house
    }

    fn write(&mut self, name: &str, content: &[u8]) {
        self.files.insert(name.to_owned(), content.to_vec());
    }

    fn ban(&mut self, yaml: &str) {
        self.bans.insert(Name::default(), Arc::new(document(yaml)));
    }

    fn try_door(&self, yaml: &str) -> Result<Door, String> {
        let auth: Auth = document(yaml);
        let read = |path: &Path| {
            let content = self.files.get(path.to_str().unwrap()).map(|content| Arc::from(content.as_slice()));
            content.ok_or_else(|| format!("{}: no such file", path.display()))
        };
        self.admission.authenticate(true, Some(&Arc::new(auth)), &self.bans, &read).map(Door)
    }

    fn door(&self, yaml: &str) -> Door {
        self.try_door(yaml).unwrap()
    }
}

struct Door(Arc<dyn Authenticate>);

/// Who knocks.
#[derive(Clone)]
struct Knock {
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

fn knock() -> Knock {
    Knock {
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

fn user(username: &str, password: &str) -> Knock {
    Knock { username: Some(username.to_owned()), password: Some(password.into()), ..knock() }
}

impl Door {
    fn begin(&self, knock: &Knock) -> Decision {
        let endpoint = EndpointPolicy {
            id: EndpointId(1),
            name: "e".into(),
            generation: 1,
            namespace: "".into(),
            versions: ProtocolVersions::ALL,
            limits: EndpointLimits::default(),
            acl: None,
            admission: None,
        };
        self.0.authenticate(&Credentials {
            endpoint: &endpoint,
            now: knock.now,
            version: ProtocolVersion::V5,
            client_id: if knock.client_id.is_empty() { "assigned" } else { knock.client_id },
            client_id_assigned: knock.client_id.is_empty(),
            username: knock.username.as_deref(),
            password: knock.password.as_deref(),
            peer: knock.peer,
            certificate: knock.certificate.as_ref(),
            tls: knock.certificate.is_some(),
            authentication_method: knock.method.as_deref(),
            authentication_data: knock.data.as_deref(),
            again: false,
        })
    }

    fn try_knock(&self, knock: &Knock) -> Result<Principal, Refusal> {
        settle(self.begin(knock))
    }

    /// As whom, or why not.
    fn answer(&self, knock: &Knock) -> String {
        match self.try_knock(knock) {
            Ok(principal) => format!("in as {}", principal.username.as_deref().unwrap_or("nobody")),
            Err(refusal) => format!("{refusal:?}"),
        }
    }

    fn confirms(&self, principal: &Principal) -> bool {
        self.0.confirms(principal, "c1")
    }
}

/// Does what a worker would.
fn settle(decision: Decision) -> Result<Principal, Refusal> {
    match decision {
        Decision::Admit(principal) | Decision::AdmitWith { principal, .. } => Ok(principal),
        Decision::Refuse(refusal) => Err(refusal),
        Decision::Pending(work) => settle(work()),
        Decision::Inquire(inquiry) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            settle(runtime.block_on(inquiry))
        }
        Decision::Continue { .. } => panic!("a question to the client"),
    }
}
