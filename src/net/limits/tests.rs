//! The bounds of one address, by table.

use super::*;

fn client(address: &str) -> Client {
    Client::from(address.parse::<IpAddr>().unwrap())
}

fn unlimited() -> Config {
    Config {
        connections: 0,
        connections_per_address: 0,
        streams_per_address: 0,
        bytes_per_second: ByteSize::b(0),
        calls_per_second: 0,
        unanswered_bytes: ByteSize::b(0),
    }
}

#[test]
fn an_ipv6_client_is_its_64_network() {
    assert_eq!(client("2001:db8:0:1::1"), client("2001:db8:0:1:ffff::2"));
    assert_ne!(client("2001:db8:0:1::1"), client("2001:db8:0:2::1"));
    assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    assert_ne!(client("192.0.2.2"), client("192.0.2.1"));
}

#[test]
fn connections_are_counted_by_address_and_in_all() {
    let now = Instant::now();
    let (a, b, c) = (client("192.0.2.1"), client("192.0.2.2"), client("192.0.2.3"));
    let mut table = Table::new(Config { connections: 3, connections_per_address: 2, ..unlimited() });
    assert_eq!(table.open(a, now), Ok(()));
    assert_eq!(table.open(a, now), Ok(()));
    assert_eq!(table.open(a, now), Err(Refusal::ConnectionsPerAddress));
    assert_eq!(table.open(b, now), Ok(()));
    assert_eq!(table.open(c, now), Err(Refusal::Connections));
    table.close(a);
    assert_eq!(table.open(c, now), Ok(()));
}

#[test]
fn streams_are_counted_until_they_finish() {
    let now = Instant::now();
    let a = client("192.0.2.1");
    let mut table = Table::new(Config { streams_per_address: 1, ..unlimited() });
    assert_eq!(table.call(a, now), Ok(()));
    assert_eq!(table.call(a, now), Err(Refusal::StreamsPerAddress));
    assert_eq!(table.call(client("192.0.2.2"), now), Ok(()));
    table.finish(a);
    assert_eq!(table.call(a, now), Ok(()));
}

#[test]
fn a_second_of_calls_may_come_at_once_then_they_flow() {
    let start = Instant::now();
    let a = client("192.0.2.1");
    let mut table = Table::new(Config { calls_per_second: 10, ..unlimited() });
    for _ in 0..10 {
        assert_eq!(table.call(a, start), Ok(()));
    }
    let Err(Refusal::CallsPerSecond(wait)) = table.call(a, start) else { panic!("the eleventh call passed") };
    assert_eq!(wait, Duration::from_millis(100));
    assert!(table.call(a, start + Duration::from_millis(50)).is_err());
    assert_eq!(table.call(a, start + Duration::from_millis(101)), Ok(()));
    assert!(table.call(a, start + Duration::from_millis(101)).is_err());
    let later = start + Duration::from_secs(3600);
    assert_eq!((0..20).filter(|_| table.call(a, later).is_ok()).count(), 10, "no more than a second is saved up");
}

#[test]
fn a_refused_call_holds_no_stream() {
    let now = Instant::now();
    let a = client("192.0.2.1");
    let mut table = Table::new(Config { calls_per_second: 1, streams_per_address: 2, ..unlimited() });
    assert_eq!(table.call(a, now), Ok(()));
    for _ in 0..5 {
        assert!(matches!(table.call(a, now), Err(Refusal::CallsPerSecond(_))));
    }
    assert_eq!(table.call(a, now + Duration::from_secs(2)), Ok(()));
}

#[test]
fn bytes_over_the_rate_wait_until_the_debt_is_paid() {
    let start = Instant::now();
    let a = client("192.0.2.1");
    let mut table = Table::new(Config { bytes_per_second: ByteSize::b(1000), ..unlimited() });
    table.open(a, start).unwrap();
    assert_eq!(table.charge(a, 1000, start), Duration::ZERO);
    assert_eq!(table.charge(a, 500, start), Duration::from_millis(500));
    assert_eq!(table.charge(a, 500, start), Duration::from_secs(1));
    assert_eq!(table.charge(a, 0, start + Duration::from_secs(1)), Duration::ZERO);
    assert_eq!(table.charge(client("192.0.2.9"), 1 << 30, start), Duration::ZERO, "unknown: nobody holds it");
}

#[test]
fn zero_means_no_limit() {
    let now = Instant::now();
    let a = client("192.0.2.1");
    let mut table = Table::new(unlimited());
    for _ in 0..10_000 {
        assert_eq!((table.open(a, now), table.call(a, now)), (Ok(()), Ok(())));
    }
    assert_eq!(table.charge(a, usize::MAX, now), Duration::ZERO);
}

#[test]
fn the_defaults_let_two_thousand_clients_behind_one_address_in() {
    let now = Instant::now();
    let a = client("192.0.2.1");
    let mut table = Table::new(Config::default());
    for _ in 0..2_000 {
        assert_eq!((table.open(a, now), table.call(a, now), table.call(a, now)), (Ok(()), Ok(()), Ok(())));
    }
}

#[test]
fn the_table_is_bounded_and_forgets_the_idle() {
    let start = Instant::now();
    let numbered = |n: u32| Client(IpAddr::V4(n.into()));
    let mut table = Table::new(Config { calls_per_second: 1, ..unlimited() });
    table.max_entries = 2_000;
    for n in 0..2_000 {
        assert_eq!(table.call(numbered(n), start), Ok(()));
    }
    assert_eq!(table.call(numbered(9_999), start), Err(Refusal::Addresses), "all of them hold a stream");
    for n in 0..2_000 {
        table.finish(numbered(n));
    }
    assert_eq!(table.call(numbered(9_999), start), Err(Refusal::Addresses), "their buckets are still empty");
    let later = start + Duration::from_secs(2);
    assert_eq!(table.call(numbered(9_999), later), Ok(()));
    assert_eq!(table.entries.len(), 1);
    for n in 0..100_000 {
        let at = later + Duration::from_secs(2) * (n + 1);
        assert_eq!(table.call(numbered(n), at), Ok(()));
        table.finish(numbered(n));
        assert!(table.entries.len() <= SWEEP_FROM + 1);
    }
}

#[test]
fn a_dropped_permit_gives_its_place_back() {
    let limits = Limits::new(Config { connections_per_address: 1, streams_per_address: 1, ..unlimited() });
    let address: IpAddr = "127.0.0.1".parse().unwrap();
    let open = limits.open(address).unwrap();
    let call = limits.call(address).unwrap();
    assert_eq!(limits.open(address).unwrap_err(), Refusal::ConnectionsPerAddress);
    assert_eq!(limits.call(address).unwrap_err(), Refusal::StreamsPerAddress);
    assert_eq!(limits.connections(), 1);
    drop((open, call));
    assert_eq!(limits.connections(), 0);
    let _open = limits.open(address).unwrap();
    let _call = limits.call(address).unwrap();
}

#[test]
fn unknown_keys_are_errors() {
    assert!(serde_json::from_str::<Config>(r#"{"connection":1}"#).is_err());
    let some: Config = serde_json::from_str(r#"{"connections":1}"#).unwrap();
    assert_eq!(some, Config { connections: 1, ..Config::default() });
}

#[test]
fn an_address_holds_as_much_as_stays_free() {
    let now = Instant::now();
    let clients: Vec<Client> = (0..9).map(|last| client(&format!("192.0.2.{last}"))).collect();
    let mut table = Table::new(Config { unanswered_bytes: ByteSize::b(1_000), ..unlimited() });
    assert_eq!(table.hold(clients[0], 501, now), Err(Refusal::UnansweredBytes));
    assert_eq!(table.hold(clients[0], 500, now), Ok(()));
    assert_eq!(table.hold(clients[0], 1, now), Err(Refusal::UnansweredBytes));
    assert_eq!(table.hold(clients[1], 251, now), Err(Refusal::UnansweredBytes), "half of what the first left");
    assert_eq!(table.hold(clients[1], 250, now), Ok(()));
    for client in &clients[2..] {
        assert_eq!(table.hold(*client, 1, now), Ok(()), "the next one always finds some");
    }
    table.release(clients[0], 500);
    assert_eq!(table.hold(clients[2], 300, now), Ok(()));
}

#[test]
fn a_request_holds_all_that_came_until_its_answer_then_what_is_not_whole() {
    let limits = Limits::new(Config { unanswered_bytes: ByteSize::b(1_000), ..unlimited() });
    let held = limits.held("192.0.2.1".parse().unwrap());
    held.came(100, 0).unwrap();
    held.came(150, 50).unwrap();
    assert_eq!(limits.unanswered(), 250);
    assert_eq!(held.came(251, 301), Err(Refusal::UnansweredBytes));
    assert_eq!(limits.unanswered(), 250, "what was refused is not held");
    held.answered();
    assert_eq!(limits.unanswered(), 50);
    held.came(400, 450).unwrap();
    assert_eq!(limits.unanswered(), 450);
    held.came(50, 0).unwrap();
    assert_eq!(limits.unanswered(), 0);
    held.came(7, 7).unwrap();
    drop(held);
    assert_eq!(limits.unanswered(), 0);
}

#[test]
fn without_a_limit_everything_is_held_and_counted() {
    let mut table = Table::new(unlimited());
    let a = client("192.0.2.1");
    assert_eq!(table.hold(a, u64::from(u32::MAX), Instant::now()), Ok(()));
    assert_eq!(table.unanswered, u64::from(u32::MAX));
    table.release(a, u64::from(u32::MAX));
    assert_eq!(table.unanswered, 0);
}
