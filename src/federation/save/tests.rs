//! What waits to be saved keeps its order; Forgets that wait become one.

use super::*;

const PEER: PeerId = PeerId(7);

fn mark(number: u64) -> Mark {
    Mark { epoch: 5, number, id: number * 10 }
}

fn saver() -> Saver {
    Saver::new(PEER, StreamOut { epoch: 5, settled: 1, settled_id: 10, queued: true })
}

#[test]
fn forgets_that_wait_become_one() {
    let mut saver = saver();
    (2..5).for_each(|number| saver.add(Save::Forget(mark(number))));
    let settle = Change::Settle { peer: PEER, epoch: 5, number: 4, id: 40 };
    assert_eq!(saver.next(), Some((mark(4), settle.into())));
    assert_eq!(saver.next(), None);
}

#[test]
fn saving_one_thing_keeps_the_others() {
    let mut saver = saver();
    saver.add(Save::Forget(mark(2)));
    saver.add(Save::Queued(false));
    saver.add(Save::Forget(mark(3)));
    saver.next();
    let stream = StreamOut { epoch: 5, settled: 2, settled_id: 20, queued: false };
    assert_eq!(saver.next(), Some((mark(2), Change::PutOut { peer: PEER, stream }.into())));
    let renewed = Mark { epoch: 6, number: 0, id: 0 };
    saver.add(Save::Mark { mark: renewed, because: Because::WeWereRestored });
    saver.next();
    let stream = StreamOut { epoch: 6, settled: 0, settled_id: 0, queued: false };
    assert_eq!(saver.next(), Some((renewed, Change::PutOut { peer: PEER, stream }.into())));
}

#[test]
fn a_hole_is_recorded_with_the_mark_it_begins_at() {
    let mut saver = saver();
    saver.add(Save::Mark { mark: mark(4), because: Because::PeerRestored { from: 4, through: 9 } });
    let (_, op) = saver.next().unwrap();
    let Change::Bury(hole) = &op.changes[1] else { panic!("{op:?}") };
    assert_eq!((hole.reason.as_str(), hole.number, hole.last_number), ("hole", 5, 9));
}
