//! Round trips, golden bytes, and whatever a peer may send.

use super::*;
use proptest::prelude::*;

const POSITION: Position = Position { epoch: 3, number: 9, id: u64::MAX, after: 5 };
const MARK: Mark = Mark { epoch: 3, number: 9, id: 0x0102_0304_0506_0708 };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_on_the_wire_are_these() {
    let push = push_request(POSITION, Bytes::from_static(&[0x12, 0x02, 0x08, 0x01]));
    // event = 1; position = 1000 {epoch 3, number 9, id fixed64, after 5}
    assert_eq!(hex(&push), "0a0412020801c23e0f0803100919ffffffffffffffff2005");
    assert_eq!(hex(&push_answer(MARK)), "c23e0d080310091908070605040302 01".replace(' ', ""));
    assert_eq!(hex(&pull_request(MARK, 2)), "c23e0d08031009190807060504030201c83e02");
    let page = Page { rows: vec![(POSITION, Bytes::from_static(&[0x12, 0x00]))], state: MARK };
    assert_eq!(hex(&pull_answer(page)), "0a021200c23e0d08031009190807060504030201ca3e0f0803100919ffffffffffffffff2005");
}

#[test]
fn what_we_write_we_read() {
    let body = Bytes::from_static(&[0x12, 0x02, 0x08, 0x01]);
    let row = read_push(push_request(POSITION, body.clone())).unwrap();
    assert_eq!((row.position, row.body), (Some(POSITION), body.clone()));
    assert_eq!(push_response(push_answer(MARK)), Ok(Some(MARK)));
    assert_eq!(read_pull(pull_request(MARK, 2)), Ok((Some(MARK), true)));
    assert_eq!(read_pull(pull_request(MARK, 0)), Ok((Some(MARK), false)));
    let page = Page { rows: vec![(POSITION, body.clone()), (POSITION, body)], state: MARK };
    let answer = pull_response(pull_answer(page)).unwrap();
    assert_eq!((answer.state, answer.rows.len(), answer.rows[1].position), (Some(MARK), 2, Some(POSITION)));
}

#[test]
fn a_stock_peer_says_nothing_of_ours() {
    assert_eq!(read_pull(Bytes::new()), Ok((None, false)));
    assert_eq!(push_response(Bytes::new()), Ok(None));
    let stock = Bytes::from_static(&[0x0a, 0x02, 0x12, 0x00, 0x0a, 0x00]);
    let answer = pull_response(stock.clone()).unwrap();
    assert!(answer.state.is_none() && answer.rows.iter().all(|row| row.position.is_none()));
    assert_eq!((answer.rows.len(), answer.rows[1].body.len()), (2, 0));
}

#[test]
fn positions_and_states_that_cannot_be_are_refused() {
    for bad in [
        Position { epoch: 0, ..POSITION },
        Position { epoch: u64::MAX, ..POSITION },
        Position { number: 0, after: 0, ..POSITION },
        Position { number: u64::MAX, ..POSITION },
        Position { after: 9, ..POSITION },
    ] {
        assert!(read_push(push_request(bad, Bytes::new())).is_err(), "{bad:?}");
    }
    assert!(push_response(push_answer(Mark { epoch: u64::MAX, ..MARK })).is_err());
    let two = Page { rows: vec![(POSITION, Bytes::new()); 2], state: MARK };
    let mut answer = PullResponse::decode(pull_answer(two)).unwrap();
    answer.positions.pop();
    assert!(pull_response(answer.encode_to_vec().into()).is_err());
}

proptest! {
    #[test]
    fn mangled_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>()) {
        let page = Page { rows: vec![(POSITION, Bytes::from_static(b"event")); 3], state: MARK };
        let mut mangled = pull_answer(page).to_vec();
        let at = at % (mangled.len() * 8);
        mangled[at / 8] ^= 1 << (at % 8);
        for bytes in [Bytes::from(bytes), Bytes::from(mangled)] {
            let _ = (read_push(bytes.clone()), read_pull(bytes.clone()));
            let _ = (push_response(bytes.clone()), pull_response(bytes).map(|answer| answer.rows.len()));
        }
    }
}
