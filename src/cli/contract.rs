//! For tests: the fields of a contract's message, and those of what is printed.

use crate::proto::DESCRIPTORS;
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};
use serde::Serialize;

/// Field names of a message, "pillarbox.admin.v1.PeerDetail".
pub fn fields(message: &str) -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the build made it");
    let (package, name) = message.rsplit_once('.').expect("a qualified name");
    let found: Vec<DescriptorProto> =
        set.file.into_iter().filter(|file| file.package() == package).flat_map(|file| file.message_type).collect();
    let message = found.into_iter().find(|found| found.name() == name).expect(message);
    message.field.iter().map(|field| field.name().to_owned()).collect()
}

/// Top-level keys in the order they are printed.
pub fn keys(value: &impl Serialize) -> Vec<String> {
    let text = serde_json::to_string(value).expect("plain values");
    let map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("an object");
    let mut keys: Vec<_> = map.keys().cloned().collect();
    keys.sort_by_key(|key| text.find(&format!("\"{key}\":")));
    keys
}
