//! Tests of `store/relay/batch`.

use super::{
    super::{NewSlot, chain::Heads},
    *,
};
use bytes::Bytes;

const PEER: PeerId = PeerId(7);
const FLOOR: i64 = 50;

fn counters() -> Counters {
    Counters { number: 10, cursor: 1, created: FLOOR, push: crate::store::push::Log { next: 2, total: 0, open: false } }
}

fn party(peer: PeerId, name: &str) -> PartyRef {
    PartyRef { peer, name: name.into() }
}

fn message(number: u64, origin: PeerId, accepted_at: i64) -> Change {
    Change::Message(Box::new(NewMessage {
        number,
        origin,
        remote_id: (origin != PeerId::SELF).then(|| "id".into()),
        tag: 1,
        session: "s".into(),
        sender: "alice".into(),
        broadcast: false,
        round: 1,
        kind: "k".into(),
        accepted_at: Millis(accepted_at),
        expires_at: Millis(1000),
        body: Bytes::from_static(b"body"),
        slot: NewSlot::default(),
    }))
}

fn deliver(peer: PeerId, name: &str) -> Change {
    Change::Deliver { party: party(peer, name) }
}

fn finish(seq: u64, message: u64, failed: bool) -> Change {
    Change::Finish { seq, message, failed, at: Millis(1), error: String::new() }
}

fn told(message: u64, state: DeliveryState) -> Change {
    Change::RemoteState(Box::new(RemoteState {
        message,
        party: party(PEER, "bob"),
        state,
        delivered_at: Some(Millis(3)),
        finished_at: None,
        retries: 2,
        error: "why".into(),
    }))
}

fn key() -> Change {
    Change::Idempotent { caller: "c".into(), key: "k".into(), digest: [1; 32] }
}

fn checked(changes: &[Change]) -> Result<(), Error> {
    let mut check = Check::default();
    changes.iter().try_for_each(|change| check.change(change))
}

fn take(batch: &mut Batch<'_>, counters: &mut Counters, changes: &[Change]) {
    checked(changes).unwrap();
    batch.begin();
    changes.iter().for_each(|change| batch.take(change, counters));
}

#[test]
fn what_hangs_on_a_message_needs_one_before_it_in_its_op() {
    for alone in [deliver(PEER, "bob"), key()] {
        assert!(matches!(checked(&[alone]), Err(Error::Internal(_))));
    }
    checked(&[message(4, PeerId::SELF, 1), deliver(PEER, "bob"), key()]).unwrap();
    assert!(matches!(checked(&[message(4, PEER, 1), key()]), Err(Error::Internal(_))), "a key is for a local message");
}

#[test]
fn exactly_a_message_of_another_server_has_a_remote_id() {
    for (origin, remote_id) in [(PEER, None), (PeerId::SELF, Some("id".to_owned()))] {
        let Change::Message(new) = message(4, origin, 1) else { unreachable!() };
        let wrong = Change::Message(Box::new(NewMessage { remote_id, ..*new }));
        assert!(matches!(checked(&[wrong]), Err(Error::Internal(_))));
    }
}

#[test]
fn deliveries_take_numbers_in_their_order_and_their_message_brings_its_own() {
    let (arrivals, mut counters) = (Arrivals::new(0, Heads::default()), counters());
    let mut batch = Batch::new(&arrivals);
    take(&mut batch, &mut counters, &[message(3, PeerId::SELF, 1)]);
    assert!(!batch.is_numbered(), "a message takes none of the writer's");
    let op = [message(77, PeerId::SELF, 1), deliver(PEER, "bob"), key(), deliver(PeerId::SELF, "carol")];
    take(&mut batch, &mut counters, &op);
    take(&mut batch, &mut counters, &[message(5, PEER, 1), deliver(PeerId::SELF, "bob")]);
    assert!(batch.is_numbered());
    let numbers: Vec<_> = batch.messages.iter().map(|row| (row.new.number, row.recipients)).collect();
    assert_eq!(numbers, [(3, 0), (77, 2), (5, 1)]);
    let seqs: Vec<_> = batch.deliveries.iter().map(|row| (row.seq, row.message)).collect();
    assert_eq!(seqs, [(10, 1), (11, 1), (12, 2)]);
    assert_eq!((batch.keys[0].message, counters.number), (77, 13));
}

#[test]
fn the_moments_of_a_recipient_rise_strictly_and_those_of_others_do_not_push_them() {
    let (mut arrivals, mut counters) = (Arrivals::new(FLOOR, Heads::default()), counters());
    let mut batch = Batch::new(&arrivals);
    let to = |name| deliver(PeerId::SELF, name);
    take(&mut batch, &mut counters, &[message(1, PeerId::SELF, 100), to("a"), to("b"), deliver(PEER, "a")]);
    take(&mut batch, &mut counters, &[message(2, PeerId::SELF, 100), to("a")]);
    take(&mut batch, &mut counters, &[message(3, PeerId::SELF, 20), to("a"), to("c"), deliver(PEER, "a")]);
    let created: Vec<_> = batch.deliveries.iter().map(|row| row.created_at).collect();
    assert_eq!(created, [100, 100, 100, 101, 102, FLOOR + 1, 20]);
    assert_eq!(counters.created, 102);

    let given = batch.given;
    arrivals.advance(&given);
    let mut batch = Batch::new(&arrivals);
    take(&mut batch, &mut counters, &[message(4, PeerId::SELF, 100), to("a"), to("b"), to("d")]);
    let created: Vec<_> = batch.deliveries.iter().map(|row| row.created_at).collect();
    assert_eq!(created, [103, 101, 100]);
}

#[test]
fn a_number_that_was_never_given_is_ignored() {
    let (arrivals, mut counters) = (Arrivals::new(0, Heads::default()), counters());
    let mut batch = Batch::new(&arrivals);
    let early = |seq| {
        let sent = Change::Sent { seq, at: Millis(1), retries: 0 };
        [sent, finish(seq, 1, false), Change::Reported { seq, state: DeliveryState::Failed }]
    };
    take(&mut batch, &mut counters, &early(10));
    assert!(batch.sent.is_empty() && batch.phases.is_empty() && batch.reported.is_empty());
    take(&mut batch, &mut counters, &early(9));
    assert_eq!((batch.sent.len(), batch.phases.len(), batch.reported.len()), (1, 1, 1));
}

#[test]
fn what_was_told_of_a_message_before_it_is_there_is_ignored() {
    let (arrivals, mut counters) = (Arrivals::new(0, Heads::default()), counters());
    let mut batch = Batch::new(&arrivals);
    let tell = |message| told(message, DeliveryState::Failed);
    // In two phases, and of its neighbours too.
    take(&mut batch, &mut counters, &[tell(4), tell(5), tell(6), finish(2, 4, false), tell(5)]);
    take(&mut batch, &mut counters, &[message(5, PeerId::SELF, 1), deliver(PEER, "bob")]);
    let told_of = |batch: &Batch<'_>| -> Vec<Vec<u64>> {
        batch.phases.iter().map(|phase| phase.told.keys().map(|(message, _)| *message).collect()).collect()
    };
    assert_eq!(told_of(&batch), [vec![4, 6], vec![]]);
    take(&mut batch, &mut counters, &[tell(5)]);
    assert_eq!(told_of(&batch), [vec![4, 6], vec![5]]);
}

#[test]
fn the_first_final_state_of_a_delivery_holds() {
    let (arrivals, mut counters) = (Arrivals::new(0, Heads::default()), counters());
    let mut batch = Batch::new(&arrivals);
    take(&mut batch, &mut counters, &[finish(5, 4, true), finish(5, 4, false)]);
    assert_eq!(batch.phases[0].finished[&(5, 4)].state, DeliveryState::Failed);

    let states = [DeliveryState::Delivered, DeliveryState::Acknowledged, DeliveryState::Failed, DeliveryState::Pending];
    take(&mut batch, &mut counters, &states.map(|state| told(4, state)));
    let merged = &batch.phases[0].told[&(4, party(PEER, "bob"))];
    assert_eq!((merged.state, merged.finished_at), (DeliveryState::Acknowledged, Some(Millis(0))));
}

#[test]
fn a_finish_after_what_was_told_of_its_message_comes_after_it() {
    let (arrivals, mut counters) = (Arrivals::new(0, Heads::default()), counters());
    let mut batch = Batch::new(&arrivals);
    let op = [finish(3, 1, true), told(4, DeliveryState::Failed), finish(6, 2, true), finish(5, 4, false)];
    take(&mut batch, &mut counters, &op);
    take(&mut batch, &mut counters, &[told(4, DeliveryState::Delivered), told(2, DeliveryState::Failed)]);
    let phases: Vec<_> = batch.phases.iter().map(|phase| (phase.finished.len(), phase.told.len())).collect();
    assert_eq!(phases, [(2, 1), (1, 2)]);
    assert!(batch.phases[1].finished.contains_key(&(5, 4)));
}

#[test]
fn what_happens_to_a_session_is_folded() {
    let (arrivals, mut counters) = (Arrivals::new(0, Heads::default()), counters());
    let mut batch = Batch::new(&arrivals);
    let touch = |until| Change::TouchSessions(vec![("s".into(), Millis(until))]);
    let join = |name| Change::Joined { session: "s".into(), party: party(PEER, name), until: Millis(5) };
    take(&mut batch, &mut counters, &[touch(9), touch(8), join("a")]);
    let session = &batch.sessions["s"];
    assert_eq!(session.touched, Some(Millis(9)), "of a row that was there before");
    assert_eq!(session.put.as_ref().unwrap().until, Millis(5));
    let announced = |owner, parties| Change::Announced { session: "s".into(), owner, parties, until: Millis(4) };
    let put = |batch: &Batch<'_>| {
        let put = batch.sessions["s"].put.as_ref().unwrap();
        let names: Vec<_> = put.parties.iter().map(|party| party.name.clone()).collect();
        (put.owner, put.settled, put.until.0, names.concat())
    };
    take(&mut batch, &mut counters, &[announced(PEER, None), join("z")]);
    assert_eq!(put(&batch), (Some(PEER), false, 5, "az".into()), "its parties stay");
    let parties = vec![party(PEER, "b")];
    take(&mut batch, &mut counters, &[announced(PEER, Some(parties)), join("c"), touch(7)]);
    assert_eq!(put(&batch), (Some(PEER), true, 7, "b".into()), "they are replaced, and nobody joins");
    take(&mut batch, &mut counters, &[announced(PeerId(8), None)]);
    assert_eq!(put(&batch), (Some(PeerId(8)), true, 7, "b".into()));
}
