//! The properties that the fuzz targets in `fuzz/` try: not a part of the server.

pub use crate::auth::properties::{jwt, scram};
pub use crate::net::properties::{proxy_header, websocket_frames, websocket_upgrade};
