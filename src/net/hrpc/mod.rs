//! hRPC over HTTP: Harmony's unary calls, translated to and from gRPC.
//!
//! A call is `POST /<package>.<Service>/<Method>`, `application/hrpc`, with the
//! bare protobuf message as body (harmony's hRPC specification). The paths and
//! messages are those of gRPC, so no service knows of it: [`HrpcLayer`] stands
//! in front of the routes, [`HrpcClient`] under a generated client.
//!
//! Owns the framing, the headers and the table of errors. Never opens a
//! connection, never looks into a message, and never speaks hRPC's streams
//! (WebSocket): those are answered "not implemented".

mod client;
mod errors;
mod methods;
mod server;
mod wire;

pub use client::HrpcClient;
pub use errors::IDENTIFIER;
pub use methods::Methods;
pub use server::{Hrpc, HrpcLayer, refused_early};

/// The greatest request body, in bytes, that [`HrpcLayer`] takes unless told
/// otherwise: the limit of gRPC messages between nodes.
pub const DEFAULT_MAX_BODY: usize = 5 << 20;

#[cfg(test)]
mod tests;
