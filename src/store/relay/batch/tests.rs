//! Tests of `store/relay/batch`.
