//! Reads along in one direction of an HTTP/2 connection: heads of frames only.
//!
//! Tells how many streams were reset and whether GOAWAY was said, which
//! nothing above the HTTP library can see. Never changes or keeps a byte of
//! it. Pure.

/// What a client says first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// Feed it the bytes in order, in pieces of any size.
#[derive(Debug)]
pub(super) struct Frames {
    at: At,
    resets: u64,
    goaway: bool,
}

#[derive(Debug)]
enum At {
    /// Bytes of the preface seen so far; all of them matched.
    Preface(usize),
    /// Bytes of a head seen so far.
    Head([u8; HEAD], usize),
    /// Bytes of the payload to come.
    Payload(usize),
    /// The error code of RST_STREAM: the bytes seen, any of them not 0.
    Code(usize, bool),
    /// Not HTTP/2: nothing to be read.
    Other,
}

impl Frames {
    /// What a client sends: frames if the preface comes first.
    pub(super) fn of_client() -> Self {
        Self { at: At::Preface(0), resets: 0, goaway: false }
    }

    /// What a server sends: frames from the first byte. Feed it only when the
    /// client spoke HTTP/2.
    pub(super) fn of_server() -> Self {
        Self { at: At::Head([0; HEAD], 0), resets: 0, goaway: false }
    }

    /// Streams reset for a reason other than NO_ERROR (a server says NO_ERROR
    /// when it answered without having read the request to its end).
    pub(super) fn resets(&self) -> u64 {
        self.resets
    }

    pub(super) fn goaway(&self) -> bool {
        self.goaway
    }

    /// The preface was seen whole.
    pub(super) fn is_http2(&self) -> bool {
        !matches!(self.at, At::Preface(_) | At::Other)
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            match &mut self.at {
                At::Other => return,
                At::Payload(left) => {
                    let step = bytes.len().min(*left);
                    *left -= step;
                    bytes = &bytes[step..];
                    if *left == 0 {
                        self.at = At::Head([0; HEAD], 0);
                    }
                    continue;
                }
                At::Preface(seen) => {
                    if *first != PREFACE[*seen] {
                        self.at = At::Other;
                        return;
                    }
                    *seen += 1;
                    if *seen == PREFACE.len() {
                        self.at = At::Head([0; HEAD], 0);
                    }
                }
                At::Head(head, seen) => {
                    head[*seen] = *first;
                    *seen += 1;
                    if *seen == HEAD {
                        let head = *head;
                        self.head(head);
                    }
                }
                At::Code(seen, not_zero) => {
                    *not_zero |= *first != 0;
                    *seen += 1;
                    if *seen == 4 {
                        self.resets += u64::from(*not_zero);
                        self.at = At::Head([0; HEAD], 0);
                    }
                }
            }
            bytes = rest;
        }
    }

    fn head(&mut self, head: [u8; HEAD]) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        self.goaway |= head[3] == GOAWAY;
        self.at = match (head[3], length) {
            (RST_STREAM, 4) => At::Code(0, false),
            (_, 0) => At::Head([0; HEAD], 0),
            _ => At::Payload(length),
        };
    }
}

#[cfg(test)]
mod tests;
