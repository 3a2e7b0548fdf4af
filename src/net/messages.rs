//! Reads along in a request's body: how much of it is a message that is not
//! whole yet.
//!
//! Knows gRPC's frames (a flag, four bytes of length, the message); any other
//! body is one message. Pure: keeps no byte of a message.

const HEAD: usize = 5;

#[derive(Debug)]
pub(super) enum Messages {
    /// The body is one message, whole at its end: the bytes that came.
    One(u64),
    /// One after the other: the head of this one, and the bytes of it that came.
    Framed([u8; HEAD], u64),
}

impl Messages {
    /// `content_type`: of the request. In gRPC-Web's text the frames cannot be seen.
    pub(super) fn of(content_type: &[u8]) -> Self {
        let framed =
            content_type.starts_with(b"application/grpc") && !content_type.starts_with(b"application/grpc-web-text");
        if framed { Self::Framed([0; HEAD], 0) } else { Self::One(0) }
    }

    /// The bytes in their order, in pieces of any size. Returns how many of all
    /// that came are of a message that is not whole.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        match self {
            Self::One(came) => {
                *came += bytes.len() as u64;
                *came
            }
            Self::Framed(head, came) => {
                while let [first, rest @ ..] = bytes {
                    let step = match usize::try_from(*came) {
                        Ok(at) if at < HEAD => {
                            head[at] = *first;
                            bytes = rest;
                            1
                        }
                        _ => {
                            let step = bytes.len().min(usize::try_from(whole(head) - *came).unwrap_or(usize::MAX));
                            bytes = &bytes[step..];
                            step as u64
                        }
                    };
                    *came += step;
                    if *came >= HEAD as u64 && *came == whole(head) {
                        *came = 0;
                    }
                }
                *came
            }
        }
    }
}

/// Bytes of a message with this head, and of the head.
fn whole([_, length @ ..]: &[u8; HEAD]) -> u64 {
    HEAD as u64 + u64::from(u32::from_be_bytes(*length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(lengths: &[usize]) -> Vec<u8> {
        let mut body = Vec::new();
        for length in lengths {
            body.push(0);
            body.extend(u32::try_from(*length).unwrap().to_be_bytes());
            body.resize(body.len() + length, 7);
        }
        body
    }

    #[test]
    fn a_body_that_is_not_grpc_is_one_message() {
        for kind in [&b""[..], b"application/hrpc", b"text/plain", b"application/grpc-web-text+proto"] {
            let mut messages = Messages::of(kind);
            assert_eq!((messages.feed(&framed(&[3])), messages.feed(b"more")), (8, 12));
        }
    }

    #[test]
    fn a_message_counts_until_it_is_whole() {
        for kind in [&b"application/grpc"[..], b"application/grpc+proto", b"application/grpc-web+proto"] {
            let mut messages = Messages::of(kind);
            assert_eq!(messages.feed(&[]), 0);
            assert_eq!(messages.feed(&[0, 0]), 2);
            assert_eq!(messages.feed(&[0, 0, 3, 1]), 6);
            assert_eq!(messages.feed(&[1, 1]), 0);
            assert_eq!(messages.feed(&framed(&[0, 0])), 0, "empty ones are whole at once");
            assert_eq!(messages.feed(&[0, 255, 255, 255, 255, 1]), 6);
        }
    }

    proptest! {
        #[test]
        fn however_it_is_cut_what_is_not_whole_is_what_lies_behind_the_last_whole_one(
            lengths in prop::collection::vec(0usize..40, 0..8),
            cuts in prop::collection::vec(1usize..23, 1..200),
        ) {
            let body = framed(&lengths);
            let ends: Vec<usize> = lengths.iter().scan(0, |at, length| { *at += HEAD + length; Some(*at) }).collect();
            let (mut messages, mut at) = (Messages::of(b"application/grpc"), 0);
            for cut in cuts {
                let next = (at + cut).min(body.len());
                let last = ends.iter().rev().find(|end| **end <= next).copied().unwrap_or(0);
                prop_assert_eq!(messages.feed(&body[at..next]), (next - last) as u64);
                at = next;
            }
        }
    }
}
