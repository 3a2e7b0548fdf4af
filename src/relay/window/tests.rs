//! The rules of it by table.
