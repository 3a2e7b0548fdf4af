//! Tests of `net/hrpc/wire`.

use super::*;
use http_body_util::{Full, StreamBody};
use proptest::prelude::*;

/// A body of these chunks, then these trailers.
fn chunked(chunks: Vec<Vec<u8>>, trailers: Option<HeaderMap>) -> impl Body<Data = Bytes, Error = Infallible> {
    let frames = chunks.into_iter().map(|chunk| Frame::data(chunk.into())).chain(trailers.map(Frame::trailers));
    StreamBody::new(tokio_stream::iter(frames.map(Ok).collect::<Vec<_>>()))
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    bytes
}

fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap())).collect()
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn the_content_type_is_compared_without_case_and_parameters() {
    for (value, hrpc, grpc) in [
        ("application/hrpc", true, false),
        ("Application/HRPC; charset=utf-8", true, false),
        (" application/hrpc ;x", true, false),
        ("application/hrpc-json", false, false),
        ("application/grpc", false, true),
        ("APPLICATION/grpc+proto", false, true),
        ("application/grpc-web-text", false, true),
        ("application/json", false, false),
        ("", false, false),
        ("é", false, false),
    ] {
        let headers = headers(&[(header::CONTENT_TYPE, value)]);
        assert_eq!((is_hrpc(&headers), is_grpc(&headers)), (hrpc, grpc), "{value}");
    }
    assert!(!is_hrpc(&HeaderMap::new()) && !is_grpc(&HeaderMap::new()));
}

#[test]
fn only_identity_is_plain() {
    let encoded = |value| is_plain(&headers(&[(header::CONTENT_ENCODING, value)]));
    assert!(is_plain(&HeaderMap::new()) && encoded("identity") && encoded(" Identity"));
    assert!(!encoded("gzip") && !encoded("identity, gzip") && !encoded(""));
}

#[test]
fn the_calls_own_headers_stay_and_the_envelopes_go() {
    let mut all = headers(&[
        (header::AUTHORIZATION, "token"),
        (HeaderName::from_static("grpc-timeout"), "1S"),
        (HeaderName::from_static("x-mine-bin"), "AA"),
        (header::TE, "trailers"),
        (header::CONTENT_LENGTH, "7"),
        (Status::GRPC_STATUS, "0"),
        (VERSION, "1"),
    ]);
    strip(&mut all);
    let mut left: Vec<_> = all.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["authorization", "grpc-timeout", "x-mine-bin"]);
}

#[tokio::test]
async fn a_bare_body_is_read_up_to_its_limit_and_not_beyond() {
    let read = |chunks: &[&[u8]], limit| read_bare(chunked(chunks.iter().map(|c| c.to_vec()).collect(), None), limit);
    assert_eq!(read(&[], 0).await.unwrap(), "");
    assert_eq!(read(&[b"", b"ab", b"", b"c"], 3).await.unwrap(), "abc");
    assert!(matches!(read(&[b"ab", b"cd"], 3).await, Err(Unread::TooLong)));
    assert!(matches!(read_bare(Full::new(Bytes::from("abcd")), 3).await, Err(Unread::TooLong)));
}

#[tokio::test]
async fn a_second_message_is_noticed_before_the_body_ends() {
    let endless = |first: Vec<u8>| {
        let pending = tokio_stream::StreamExt::chain(
            tokio_stream::once(Ok::<_, Infallible>(Frame::data(Bytes::from(first)))),
            tokio_stream::pending(),
        );
        StreamBody::new(pending)
    };
    let mut two = framed(b"one");
    two.push(0);
    assert!(matches!(read_framed(endless(two)).await, Err(Unread::Many)));
    assert!(matches!(read_framed(endless(vec![1, 0, 0, 0, 9])).await, Err(Unread::Compressed)));
}

#[tokio::test]
async fn a_body_that_ends_within_a_frame_is_cut() {
    let whole = framed(b"message");
    for length in 1..whole.len() {
        let read = read_framed(chunked(vec![whole[..length].to_vec()], None)).await;
        assert!(matches!(read, Err(Unread::Cut)), "{length} bytes: {read:?}");
    }
    let (message, trailers) = read_framed(chunked(vec![], None)).await.unwrap();
    assert!(message.is_none() && trailers.is_empty());
}

#[test]
fn details_that_are_not_base64_are_left_out_of_a_status() {
    let with = |details| {
        let pairs = [(Status::GRPC_STATUS, "5"), (Status::GRPC_STATUS_DETAILS, details)];
        status_in(&headers(&pairs)).unwrap()
    };
    assert_eq!((with("%%").code(), with("%%").details()), (tonic::Code::NotFound, &b""[..]));
    assert_eq!((with("YQ").details(), with("YQ==").details()), (&b"a"[..], &b"a"[..]));
    assert!(status_in(&headers(&[(Status::GRPC_STATUS_DETAILS, "%%")])).is_none());
}

proptest! {
    #[test]
    fn a_message_comes_out_of_its_frame_as_it_went_in_however_it_is_cut(
        message in proptest::collection::vec(any::<u8>(), 0..300),
        cuts in proptest::collection::vec(1_usize..40, 1..20),
    ) {
        let mut trailers = HeaderMap::new();
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
        let body = Framed::new(message.clone().into(), Some(trailers.clone())).unwrap();
        let whole = block_on(body.collect()).unwrap();
        prop_assert_eq!(whole.trailers(), Some(&trailers));
        let whole = whole.to_bytes();
        prop_assert_eq!(&whole, &framed(&message));

        let mut rest = &whole[..];
        let mut chunks = Vec::new();
        for cut in cuts.iter().cycle() {
            let (chunk, after) = rest.split_at((*cut).min(rest.len()));
            chunks.push(chunk.to_vec());
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let (read, read_trailers) = block_on(read_framed(chunked(chunks.clone(), Some(trailers.clone())))).unwrap();
        prop_assert_eq!(read.as_deref(), Some(&message[..]));
        prop_assert_eq!(read_trailers, trailers);
        let bare = block_on(read_bare(chunked(chunks, None), whole.len())).unwrap();
        prop_assert_eq!(bare, whole);
    }

    #[test]
    fn no_body_makes_the_reader_panic(chunks in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..9), 0..9)) {
        let whole = chunks.concat();
        match block_on(read_framed(chunked(chunks, None))) {
            Ok((Some(message), _)) => prop_assert_eq!(framed(&message), whole),
            Ok((None, _)) => prop_assert!(whole.is_empty()),
            Err(unread) => prop_assert!(!matches!(unread, Unread::TooLong | Unread::Broken(_))),
        }
    }
}
