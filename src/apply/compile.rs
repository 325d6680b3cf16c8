//! Compiles a declaration and the documents it refers to into a listener's policy.

use std::path::Path;
use std::sync::Arc;

use super::files::{CompileError, FileContents};
use super::interceptors::InterceptorRegistry;
use super::tls;
use crate::auth::{self, AuthCompiler, Authenticate};
use crate::net::{
    AcceptOverflow, AllowedOrigins, ChildOptions, HandshakeLimits, IpRange, KeepAlive, ListenerPolicy,
    ProxyProtocolPolicy, SocketKey, SocketOptions, Transport, WebSocketPolicy,
};
use weir_broker::{Authorize, EndpointId, EndpointPolicy};
use weir_declare::config::{self, BindAddress, Endpoint};
use weir_declare::reconcile::EffectiveEndpoint;

/// The policy of an endpoint as of one of its generations.
///
/// # Errors
/// Which file cannot be used, and why.
pub(super) fn policy(
    id: EndpointId,
    generation: u64,
    effective: &EffectiveEndpoint,
    auth_compiler: &AuthCompiler,
    registered: &InterceptorRegistry,
    files: &FileContents,
) -> Result<ListenerPolicy, CompileError> {
    let endpoint = &*effective.endpoint;
    if endpoint.use_websocket && !cfg!(feature = "websocket") {
        return Err(CompileError::Unregistered("this build has no WebSocket (feature `websocket`)".to_owned()));
    }
    let transport = match &endpoint.ssl_config {
        None => Transport::Plain,
        Some(ssl) => Transport::Tls(tls::load(endpoint, ssl, files)?),
    };
    let authenticate = authenticate(auth_compiler, effective, files)?;
    let interceptors = registered.resolve(&endpoint.interceptors)?;
    Ok(ListenerPolicy {
        endpoint: Arc::new(EndpointPolicy {
            interceptors,
            ..endpoint_policy(id, generation, effective, &authenticate)
        }),
        transport,
        websocket: endpoint.use_websocket.then(|| websocket(endpoint)),
        proxy_protocol: endpoint.proxy_protocol.as_ref().map(proxy_protocol),
        authenticate,
        max_connections: endpoint.max_connection_size,
        max_connections_per_address: endpoint.max_connection_per_address,
        max_pending_connections: endpoint.max_pending_connections,
        max_pending_per_address: Some(endpoint.max_pending_per_address),
        max_connections_per_s: endpoint.max_connection_per_second,
        accept_overflow: match endpoint.accept_overflow {
            config::AcceptOverflow::Delay => AcceptOverflow::Delay,
            config::AcceptOverflow::Refuse => AcceptOverflow::Refuse,
        },
        child: child_options(&endpoint.child_options),
        handshake: handshake_limits(endpoint),
    })
}

fn handshake_limits(endpoint: &Endpoint) -> HandshakeLimits {
    let default = HandshakeLimits::default();
    HandshakeLimits {
        time_ms: endpoint.connect_timeout_ms,
        max_bytes: endpoint.max_connect_bytes.max(default.max_bytes),
        max_connect_bytes: endpoint.max_connect_bytes,
    }
}

fn endpoint_policy(
    id: EndpointId,
    generation: u64,
    effective: &EffectiveEndpoint,
    authenticate: &Arc<dyn Authenticate>,
) -> EndpointPolicy {
    let endpoint = &*effective.endpoint;
    let acl = endpoint.enable_acl.then(|| match &effective.acl {
        Some(acl) => Arc::new(auth::RuleSet::compile(acl)) as Arc<dyn Authorize>,
        None => Arc::new(auth::DenyAll),
    });
    EndpointPolicy {
        id,
        name: endpoint.name.to_arc(),
        generation,
        namespace: endpoint.mountpoint.clone().unwrap_or_default(),
        versions: endpoint.protocol_versions.0,
        limits: endpoint.limits.clone(),
        acl,
        interceptors: None,
        admission: Some(Arc::new(auth::AdmissionCheck(Arc::clone(authenticate)))),
    }
}

fn authenticate(
    auth_compiler: &AuthCompiler,
    effective: &EffectiveEndpoint,
    files: &FileContents,
) -> Result<Arc<dyn Authenticate>, CompileError> {
    let enabled = effective.endpoint.enable_auth;
    let read = |path: &Path| files.get(path).map_err(|error| error.to_string());
    let compiled = auth_compiler.compile(
        enabled,
        effective.auth.as_ref().ok_or(effective.endpoint.auth_name()),
        &effective.bans,
        &read,
    );
    compiled.map_err(|error| match error.is_unregistered() {
        true => CompileError::Unregistered(error.to_string()),
        false => CompileError::content(error.to_string()),
    })
}

fn websocket(endpoint: &Endpoint) -> WebSocketPolicy {
    let origins = &endpoint.websocket.origins;
    WebSocketPolicy {
        path: endpoint.path.to_string(),
        allowed_origins: if origins.is_empty() {
            AllowedOrigins::SameHost
        } else if origins.iter().any(|origin| &**origin == "*") {
            AllowedOrigins::Any
        } else {
            AllowedOrigins::Listed(origins.iter().map(ToString::to_string).collect())
        },
        // A WebSocket message may hold several packets, and part of one.
        max_message_bytes: u64::from(endpoint.limits.message_max_size).saturating_mul(2),
    }
}

fn proxy_protocol(proxy: &config::ProxyProtocol) -> ProxyProtocolPolicy {
    let range = |cidr: &config::Cidr| IpRange { network: cidr.network(), prefix_bits: cidr.prefix_len() };
    ProxyProtocolPolicy {
        sources: proxy.trusted_sources.iter().map(range).collect(),
        client_certificate: proxy.client_certificate,
    }
}

fn child_options(child: &config::ChildOptions) -> ChildOptions {
    ChildOptions {
        no_delay: child.no_delay,
        keep_alive: child.keep_alive.then(|| KeepAlive {
            idle_s: child.keep_alive_idle_s.map(u32::from),
            interval_s: child.keep_alive_interval_s.map(u32::from),
            count: child.keep_alive_count.map(u32::from),
        }),
        send_buffer_bytes: child.send_buffer,
        receive_buffer_bytes: child.receive_buffer,
        user_timeout_ms: child.user_timeout_ms,
    }
}

/// The options of an endpoint's listening socket.
pub(super) fn socket_options(endpoint: &Endpoint) -> SocketOptions {
    let server = &endpoint.server_options;
    SocketOptions {
        backlog: server.backlog,
        reuse_port: server.reuse_port,
        receive_buffer_bytes: server.receive_buffer,
        send_buffer_bytes: server.send_buffer,
        defer_accept_s: server.defer_accept_s.map(u32::from),
        unix_mode: server.unix_mode.map(|mode| mode.0),
    }
}

/// The key of the socket at an address.
pub(super) fn socket_key(address: &BindAddress) -> SocketKey {
    match address {
        BindAddress::Tcp(address) => SocketKey::Tcp(*address),
        BindAddress::Unix(path) => SocketKey::Unix(path.to_path_buf()),
    }
}
