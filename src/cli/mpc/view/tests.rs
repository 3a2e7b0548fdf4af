//! JSON has the fields of the contract, by name and in order.

use super::*;
use crate::proto::DESCRIPTORS;
use prost::Message;
use prost_types::FileDescriptorSet;

/// Field names of a message of `pillarbox.relay.v1`.
fn fields(name: &str) -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the build made it");
    let files = set.file.into_iter().filter(|file| file.package() == "pillarbox.relay.v1");
    let found = files.flat_map(|file| file.message_type).find(|found| found.name() == name).expect(name);
    found.field.iter().map(|field| field.name().to_owned()).collect()
}

/// Top-level keys in the order they are printed.
fn keys(value: &impl Serialize) -> Vec<String> {
    let text = serde_json::to_string(value).expect("plain values");
    let map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("an object");
    let mut keys: Vec<_> = map.keys().cloned().collect();
    keys.sort_by_key(|key| text.find(&format!("\"{key}\":")));
    keys
}

#[test]
fn the_keys_are_the_fields_of_the_contract() {
    let view = wire::View {
        parties: vec![Default::default()],
        rounds: vec![wire::Round { round: 1, parties: vec![Default::default()] }],
        equivocations: vec![Default::default()],
        ..Default::default()
    };
    let shown = View::from(&view);
    let table = [
        (keys(&Session::from(&Default::default())), "Session"),
        (keys(&shown), "View"),
        (keys(&shown.parties[0]), "Party"),
        (keys(&shown.rounds[0]), "Round"),
        (keys(&shown.rounds[0].parties[0]), "Part"),
        (keys(&shown.equivocations[0]), "Claim"),
        (keys(&Slot::from(&Default::default())), "Slot"),
        (keys(&Head::from(&Default::default())), "Head"),
        (keys(&Record::from(&Default::default())), "Record"),
    ];
    for (printed, message) in table {
        assert_eq!(printed, fields(message), "{message}");
    }
}
