//! A server inside of a program: `weirmq::Server`.

mod clients;
mod events;
mod lifecycle;

/// An endpoint without authentication, on a free port.
pub(crate) fn endpoint(name: &str) -> String {
    format!("endpoint: {{name: {name}, port: 0, enableAuth: false, enableAcl: false}}")
}
