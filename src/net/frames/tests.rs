//! Tests of `net/frames`.

use super::*;

fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0, (payload.len() >> 8) as u8, payload.len() as u8, kind, 0, 0, 0, 0, stream];
    out.extend_from_slice(payload);
    out
}

/// SETTINGS, HEADERS and DATA whose payload looks like the head of a reset,
/// two resets for a reason, one without.
fn conversation() -> Vec<u8> {
    let mut all = PREFACE.to_vec();
    all.extend(frame(4, 0, &[]));
    all.extend(frame(1, 1, &[0x82; 300]));
    all.extend(frame(0, 1, &frame(RST_STREAM, 1, &[0, 0, 0, 8])));
    all.extend(frame(RST_STREAM, 1, &[0, 0, 0, 8]));
    all.extend(frame(RST_STREAM, 3, &[0, 0, 0, 0]));
    all.extend(frame(RST_STREAM, 5, &[1, 0, 0, 0]));
    all
}

#[test]
fn resets_are_counted_whatever_the_pieces() {
    for size in [1, 2, 3, 7, 9, 10, 64, 100_000] {
        let mut frames = Frames::of_client();
        conversation().chunks(size).for_each(|piece| frames.feed(piece));
        assert_eq!((frames.resets(), frames.goaway(), frames.is_http2()), (2, false, true), "pieces of {size}");
        frames.feed(&frame(GOAWAY, 0, &[0; 8]));
        assert!(frames.goaway());
    }
}

#[test]
fn a_server_has_no_preface() {
    let mut frames = Frames::of_server();
    frames.feed(&conversation()[PREFACE.len()..]);
    assert_eq!(frames.resets(), 2);
}

#[test]
fn http1_is_left_alone() {
    let mut frames = Frames::of_client();
    frames.feed(b"P");
    assert!(!frames.is_http2());
    frames.feed(b"OST / HTTP/1.1\r\n");
    frames.feed(&conversation());
    assert_eq!((frames.resets(), frames.goaway(), frames.is_http2()), (0, false, false));
}
