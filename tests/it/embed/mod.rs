//! A server inside of a program: `weirmq::Server`.

mod authenticators;
mod clients;
mod examples;
mod lifecycle;

/// An endpoint without authentication, on a free port.
pub(crate) fn endpoint(name: &str) -> String {
    format!("endpoint: {{name: {name}, port: 0, enableAuth: false, enableAcl: false}}")
}

/// Runs blocking code of a remote client beside the runtime.
async fn remote<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}
