//! A size is written without loss.

use super::*;

#[test]
fn a_size_reads_back_as_it_was() {
    for bytes in [0, 1, 1000, 1023, 1024, 65_536, 1_000_000_001, 1 << 30, (1 << 30) + 1, 5 << 40] {
        let size = ByteSize::b(bytes);
        assert_eq!(text(size).parse::<ByteSize>(), Ok(size), "{}", text(size));
    }
}

#[test]
fn the_largest_unit_that_loses_nothing_is_taken() {
    assert_eq!(text(ByteSize::gib(1)), "1GiB");
    assert_eq!(text(ByteSize::kib(1536)), "1536KiB");
    assert_eq!(text(ByteSize::b(0)), "0B");
}
