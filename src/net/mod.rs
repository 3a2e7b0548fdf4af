//! Transport: TLS, listening, dialling, hRPC (floor 2).
//!
//! Owns sockets and certificates. Never knows a peer, a row or a principal.

pub mod codec;
