//! The built broker with the endpoints that scripts and clients use.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};

use crate::support::ports;
use crate::support::weir::Weir;

/// The endpoints that every broker of the tests has: name, and fields beside port and host. `memory.rs` has the same.
const ENDPOINTS: &[(&str, &str)] = &[
    ("default", ""),
    ("small", "receiveMaximum: 2, messageMaxSize: 1024, topicAliasMaximum: 3"),
    (
        "limited",
        "keepAliveMaxS: 60, sessionExpiryMaxS: 100, maximumQos: 1, retainAvailable: false, topicAliasMaximum: 0",
    ),
    ("rules", "enableAcl: true"),
    ("websocket", "useWebsocket: true, path: /mqtt"),
    ("scram", "enableAuth: true, auth: scram"),
];

const AUTH: &str = "auth: {name: scram, chain: [{scram: {file: users.scram}}]}\n";

/// Scripts that share a broker put their topics one level down.
const ACL: &str = "acl: {name: default, noMatch: allow, rules: [{permission: deny, action: all, \
                   topics: [\"denied/#\", \"+/denied/#\"]}]}\n";

/// The broker, and the addresses of its endpoints by name.
pub struct Broker {
    weir: Weir,
    endpoints: HashMap<String, SocketAddr>,
}

impl Broker {
    /// Starts a broker of `shards` shards and waits until it listens.
    pub fn start(shards: u16) -> Broker {
        // A port that was free may be taken before the broker binds it: then another is tried.
        let started = (0..5).find_map(|_| Broker::try_start(shards));
        started.expect("a broker whose ports stay free until it binds them")
    }

    /// `None`: another process took one of its ports.
    fn try_start(shards: u16) -> Option<Broker> {
        let weir = Weir::new().with_shards(shards);
        let mut weir = weir.with_file("acl.yaml", ACL).with_file("auth.yaml", AUTH);
        weir.write("users.scram", &crate::scram::users());
        let mut endpoints = HashMap::new();
        for (name, fields) in ENDPOINTS {
            let address = ports::free_address();
            let acl = if fields.contains("enableAcl") { "" } else { "enableAcl: false, " };
            let auth = if fields.contains("enableAuth") { "" } else { "enableAuth: false, " };
            let document = format!("endpoint: {{host: 127.0.0.1, port: {}, {auth}{acl}{fields}}}\n", address.port());
            weir.write(&format!("{name}.yaml"), &document);
            endpoints.insert((*name).to_owned(), address);
        }
        let mut in_use = false;
        weir.run();
        weir.until_running("the broker accepts connections", |weir| {
            in_use = weir.log().contains("in use");
            in_use || endpoints.values().all(|address| TcpStream::connect(address).is_ok())
        });
        (!in_use).then_some(Broker { weir, endpoints })
    }

    /// Its endpoints by name.
    pub fn endpoints(&self) -> &HashMap<String, SocketAddr> {
        &self.endpoints
    }

    /// The address of an endpoint.
    pub fn address(&self, endpoint: &str) -> SocketAddr {
        self.endpoints[endpoint]
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
