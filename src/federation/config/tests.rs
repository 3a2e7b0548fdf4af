//! The section refuses what makes no sense, naming the key.

use super::*;

#[test]
fn the_defaults_make_sense() {
    assert_eq!(Config::default().check(), Ok(()));
}

#[test]
fn nonsense_is_refused_by_the_name_of_its_key() {
    type Change = fn(&mut Config);
    let table: [(&str, Change); 13] = [
        ("push_retries", |c| c.push_retries = 101),
        ("retry_base", |c| c.retry_base = Duration::ZERO),
        ("retry_base", |c| c.retry_base = Duration::from_secs(3601)),
        ("retry_max", |c| c.retry_max = c.retry_base - Duration::from_millis(1)),
        ("pull_interval", |c| c.pull_interval = Duration::from_millis(999)),
        ("pull_interval", |c| c.pull_interval = Duration::from_secs(3601)),
        ("queue_max_age", |c| c.queue_max_age = Duration::ZERO),
        ("queue_max_events", |c| c.queue_max_events = 0),
        ("queue_max_bytes", |c| c.queue_max_bytes = ByteSize::b(65_535)),
        ("queue_max_bytes", |c| c.queue_max_bytes = ByteSize::tib(65)),
        ("max_peers", |c| c.max_peers = 0),
        ("stock_settle", |c| c.stock_settle = Duration::ZERO),
        ("stock_settle", |c| c.stock_settle = Duration::from_secs(61)),
    ];
    for (key, change) in table {
        let mut config = Config::default();
        change(&mut config);
        let error = config.check().expect_err(key).to_string();
        assert!(error.starts_with(&format!("federation.{key}: ")), "{error}");
    }
}
