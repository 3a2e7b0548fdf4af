//! The rules of who reads what, by table and by lists of operations.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn subscriptions() -> Subscriptions {
    Subscriptions::new(4)
}

fn subscribe(subscriptions: &mut Subscriptions, party: &str, session: Option<&str>) -> u64 {
    subscriptions.subscribe(party, session).unwrap().id
}

fn covered(subscriptions: &Subscriptions, party: &str) -> Vec<String> {
    subscriptions.covered(party).map(str::to_owned).collect()
}

#[test]
fn a_session_goes_before_all() {
    let mut all = subscriptions();
    let whole = subscribe(&mut all, "a", None);
    assert_eq!(all.reader("a", "s"), Some(whole));
    let own = all.subscribe("a", Some("s")).unwrap();
    assert_eq!((own.replaced, own.narrowed), (None, Some(whole)));
    assert_eq!((all.reader("a", "s"), all.reader("a", "t")), (Some(own.id), Some(whole)));
    assert_eq!(covered(&all, "a"), ["s"]);
    assert_eq!(all.unsubscribe(own.id), Some(whole));
    assert_eq!(all.reader("a", "s"), Some(whole));
    assert_eq!(covered(&all, "a"), [] as [&str; 0]);
}

#[test]
fn a_subscription_to_all_that_comes_later_takes_nothing_from_a_session() {
    let mut all = subscriptions();
    let own = subscribe(&mut all, "a", Some("s"));
    let whole = all.subscribe("a", None).unwrap();
    assert_eq!((whole.replaced, whole.narrowed), (None, None));
    assert_eq!((all.reader("a", "s"), all.reader("a", "t")), (Some(own), Some(whole.id)));
    assert_eq!(all.unsubscribe(whole.id), None);
    assert_eq!((all.reader("a", "s"), all.reader("a", "t")), (Some(own), None));
}

#[test]
fn the_newer_of_two_to_the_same_replaces_the_older() {
    let mut all = subscriptions();
    for session in [None, Some("s")] {
        let old = subscribe(&mut all, "a", session);
        let new = all.subscribe("a", session).unwrap();
        // The one to all has let go of the session already.
        assert_eq!((new.replaced, new.narrowed), (Some(old), None));
        assert_eq!(all.reader("a", "s"), Some(new.id));
        // The end of the one that was replaced ends nothing.
        assert_eq!(all.unsubscribe(old), None);
        assert_eq!(all.reader("a", "s"), Some(new.id));
    }
    assert_eq!(all.count(), 2);
}

#[test]
fn parties_do_not_touch_each_other() {
    let mut all = subscriptions();
    let a = subscribe(&mut all, "a", Some("s"));
    let b = all.subscribe("b", Some("s")).unwrap();
    assert_eq!((b.replaced, b.narrowed), (None, None));
    assert_eq!((all.reader("a", "s"), all.reader("b", "s"), all.reader("c", "s")), (Some(a), Some(b.id), None));
    all.unsubscribe(a);
    assert!(all.in_use("s") && !all.is_subscribed("a") && all.is_subscribed("b"));
    all.unsubscribe(b.id);
    assert!(!all.in_use("s") && !all.is_subscribed("b"));
    assert_eq!(all.count(), 0);
}

#[test]
fn a_party_has_a_limit_and_replacing_is_free_of_it() {
    let mut all = subscriptions();
    subscribe(&mut all, "a", None);
    for session in ["1", "2", "3"] {
        subscribe(&mut all, "a", Some(session));
    }
    let refused = all.subscribe("a", Some("4")).unwrap_err();
    assert!(matches!(&refused, Refusal::Exhausted(text) if text.contains("limit of 4")), "{refused}");
    assert!(!all.in_use("4"));
    subscribe(&mut all, "a", Some("3"));
    subscribe(&mut all, "a", None);
    subscribe(&mut all, "b", Some("4"));
    assert_eq!(all.count(), 5);
}

proptest! {
    /// Against a list of who subscribed last to what.
    #[test]
    fn each_message_has_one_reader(ops in prop::collection::vec((0..2_u8, 0..4_u8, any::<bool>()), 1..60)) {
        let mut all = subscriptions();
        let mut live: BTreeMap<(String, Option<String>), u64> = BTreeMap::new();
        for (party, session, ends) in ops {
            let key = (format!("p{party}"), (session > 0).then(|| format!("s{session}")));
            if ends {
                let Some(id) = live.remove(&key) else { continue };
                let heir = key.1.as_ref().and_then(|_| live.get(&(key.0.clone(), None)).copied());
                prop_assert_eq!(all.unsubscribe(id), heir);
            } else {
                let done = all.subscribe(&key.0, key.1.as_deref()).unwrap();
                prop_assert_eq!(done.replaced, live.insert(key, done.id));
            }
            prop_assert_eq!(all.count(), live.len());
            for party in ["p0", "p1"] {
                let whole = live.get(&(party.to_owned(), None));
                let mut own = BTreeSet::new();
                for session in ["s1", "s2", "s3"] {
                    let mine = live.get(&(party.to_owned(), Some(session.to_owned())));
                    own.extend(mine.map(|_| session.to_owned()));
                    prop_assert_eq!(all.reader(party, session), mine.or(whole).copied());
                    prop_assert_eq!(all.in_use(session), live.keys().any(|key| key.1.as_deref() == Some(session)));
                }
                prop_assert_eq!(covered(&all, party).into_iter().collect::<BTreeSet<_>>(), own);
                prop_assert_eq!(all.is_subscribed(party), live.keys().any(|key| key.0 == party));
            }
        }
    }
}
