//! JSON has the fields of the contract, by name and in order.

use super::*;
use crate::cli::contract::{fields, keys};

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
        assert_eq!(printed, fields(&format!("pillarbox.relay.v1.{message}")), "{message}");
    }
}
