//! Which paths the node's contracts name, and which of them are streams.
//!
//! Read once from the descriptors, those that reflection hands out too. Never
//! says whether a method is served: the routes do.

use crate::error::Error;
use prost::Message;
use prost_types::FileDescriptorSet;
use std::collections::HashMap;

/// What a path is, as far as the contracts say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Unary,
    /// Messages flow more than once in at least one direction.
    Streaming,
    /// No contract names the path.
    Unknown,
}

/// The methods of a set of contracts, by path.
#[derive(Debug, Default)]
pub struct Methods(HashMap<String, Shape>);

impl Methods {
    /// `sets`: serialized `google.protobuf.FileDescriptorSet`s. Fails with
    /// [`Error::Internal`] on bytes that are none.
    pub fn of(sets: &[&[u8]]) -> Result<Self, Error> {
        let mut methods = HashMap::new();
        for set in sets {
            let set = FileDescriptorSet::decode(*set)
                .map_err(|error| Error::internal(format!("a descriptor set cannot be read: {error}")))?;
            for file in &set.file {
                for service in &file.service {
                    let dot = if file.package().is_empty() { "" } else { "." };
                    for method in &service.method {
                        let path = format!("/{}{dot}{}/{}", file.package(), service.name(), method.name());
                        let streams = method.client_streaming() || method.server_streaming();
                        methods.insert(path, if streams { Shape::Streaming } else { Shape::Unary });
                    }
                }
            }
        }
        Ok(Self(methods))
    }

    pub(super) fn shape(&self, path: &str) -> Shape {
        self.0.get(path).copied().unwrap_or(Shape::Unknown)
    }
}

#[cfg(test)]
mod tests;
