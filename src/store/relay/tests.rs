//! Tests of `store/relay`.
