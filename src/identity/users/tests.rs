//! Users
