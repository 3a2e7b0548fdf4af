//! A place in a push log, as it stands on the wire: twenty digits that only grow.
//!
//! Pure. The node gives them, a gateway hands them on as the events' ids.

use std::{fmt, str::FromStr};

/// As text always twenty digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor(pub u64);

/// The text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        if text.len() != 20 || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NoCursor);
        }
        text.parse().map(Self).map_err(|_| NoCursor)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_twenty_digits() {
        for number in [0, 7, u64::MAX] {
            let text = Cursor(number).to_string();
            assert_eq!((text.len(), text.parse()), (20, Ok(Cursor(number))));
        }
        for bad in [
            "",
            "7",
            "0000000000000000007",
            "000000000000000000007",
            "+0000000000000000007",
            "99999999999999999999",
            "0000000000000000000x",
            " 000000000000000007 ",
            "٠٠٠٠٠٠٠٠٠٠",
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(NoCursor), "{bad}");
        }
        assert!(Cursor(9) < Cursor(10));
    }
}
