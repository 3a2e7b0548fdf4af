//! Tests of `relay/sessions/watchers`.

use super::*;

fn party(name: &str) -> Caller {
    Caller::Principal(Principal::Party(name.into()))
}

fn service() -> Caller {
    Caller::Principal(Principal::Service("x".into()))
}

#[test]
fn one_party_takes_its_share_and_nobody_elses() {
    let watchers = Watchers::default();
    let add = |caller: &Caller| watchers.add("s", caller).map(|(id, ..)| id);
    let alice: Vec<_> = (0..OF_A_PARTY).map(|_| add(&party("alice")).unwrap()).collect();
    let refused = add(&party("alice")).unwrap_err();
    assert!(refused.to_string().contains("32 streams of party:alice"), "{refused}");
    add(&party("bob")).unwrap();
    // Twice is once.
    for _ in 0..2 {
        watchers.remove("s", &party("alice"), alice[0]);
    }
    add(&party("alice")).unwrap();
    add(&party("alice")).unwrap_err();
}

#[test]
fn parties_leave_room_for_services_and_nobody_shuts_the_operator_out() {
    let watchers = Watchers::default();
    let add = |caller: &Caller| watchers.add("s", caller).map(drop);
    let first = watchers.add("s", &party("0")).unwrap().0;
    for number in 1..OF_PARTIES {
        add(&party(&number.to_string())).unwrap();
    }
    add(&party("one more")).unwrap_err();
    for _ in OF_PARTIES..STREAMS {
        add(&service()).unwrap();
    }
    add(&service()).unwrap_err();
    add(&Caller::Operator).unwrap();
    watchers.remove("s", &party("0"), first);
    add(&party("one more")).unwrap();
}

#[test]
fn what_nobody_watches_any_more_is_forgotten() {
    let watchers = Watchers::default();
    let (one, watched, wake) = watchers.add("s", &service()).unwrap();
    let (two, ..) = watchers.add("s", &Caller::Operator).unwrap();
    watched.set_afar(Some([7].into()));
    let woken = || is_woken(&wake);
    assert!(!woken());
    watchers.told(&[8]);
    watchers.changed("t");
    assert!(!woken());
    watchers.told(&[6, 7]);
    assert!(woken());
    watchers.changed("s");
    assert!(woken());
    watchers.remove("s", &service(), one);
    assert!(!watchers.is_idle());
    watchers.remove("s", &Caller::Operator, two);
    let open = watchers.lock();
    assert!(watchers.is_idle() && open.by_session.is_empty() && open.counted.by_party.is_empty());
    assert_eq!((open.counted.all, open.counted.of_parties), (0, 0));
}

fn is_woken(wake: &Notify) -> bool {
    use futures_util::FutureExt;
    wake.notified().now_or_never().is_some()
}
