//! `kill -9` of sender and receiver under load.

use super::load::{Door, Load, Pair, QUICK, give_up, pause, scratch};
use crate::process::NodeProcess;
use std::time::Duration;

const KILLS: u64 = 24;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// SplitMix64: the same choices for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Starts the node again where it was; sometimes it is killed while it starts.
fn restart(node: &mut NodeProcess, dice: &mut Dice, kills: &mut u64) {
    while dice.below(4) == 0 {
        let starting = NodeProcess::spawn(node.dir(), QUICK);
        // Somewhere between exec and ready.
        pause(Duration::from_millis(dice.below(60)));
        starting.kill();
        *kills += 1;
    }
    let (id, dir) = (node.server_id.clone(), node.dir().to_owned());
    *node = NodeProcess::start(&dir, QUICK);
    assert_eq!(node.server_id, id, "it has its id and port again");
}

#[test]
fn kill_9_of_sender_and_receiver_loses_nothing_and_repeats_nothing() {
    let seed = setting("CRASH_SEED").unwrap_or_else(|| getrandom::u64().unwrap());
    println!("CRASH_SEED={seed}");
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::start(&dir.path().join("a"), &dir.path().join("b"));
    let (at_a, at_b) = (Door::new(&pair.a, &pair.b), Door::new(&pair.b, &pair.a));
    let mut load = Load::new();
    load.write(1, &at_a);
    load.write(2, &at_a);
    load.write(3, &at_b);

    let mut kills = 0;
    let mut round = 0;
    while kills < setting("CRASH_KILLS").unwrap_or(KILLS) {
        // A random moment under load, by the count of what was acknowledged.
        load.progress(0, dice.below(120));
        load.progress(2, dice.below(40));
        match round % 3 {
            0 => {
                pair.a.kill();
                load.progress(2, dice.below(60));
                restart(&mut pair.a, &mut dice, &mut kills);
                kills += 1;
            }
            1 => {
                pair.b.kill();
                load.progress(0, dice.below(200));
                restart(&mut pair.b, &mut dice, &mut kills);
                kills += 1;
            }
            _ => {
                pair.a.kill();
                pair.b.kill();
                if dice.below(2) == 0 {
                    restart(&mut pair.a, &mut dice, &mut kills);
                    load.progress(0, dice.below(60));
                    restart(&mut pair.b, &mut dice, &mut kills);
                } else {
                    restart(&mut pair.b, &mut dice, &mut kills);
                    restart(&mut pair.a, &mut dice, &mut kills);
                }
                kills += 2;
            }
        }
        round += 1;
    }
    // Every writer still gets through after the last one.
    (0..3).for_each(|place| load.progress(place, 20));

    let ledgers = load.end();
    println!("{kills} kills, {:?} acknowledged", ledgers.iter().map(|it| it.acknowledged.len()).collect::<Vec<_>>());
    assert!(ledgers.iter().all(|ledger| ledger.acknowledged.len() >= 20));
    pair.finish(&ledgers[..2], &ledgers[2..]);
}

#[test]
fn a_caller_that_dies_leaves_an_event_that_is_delivered_or_nothing() {
    let dir = scratch();
    let pair = Pair::start(&dir.path().join("a"), &dir.path().join("b"));
    let door = Door::new(&pair.a, &pair.b);
    let ledgers: Vec<_> = (0..5).flat_map(|round| give_up(&door, round * 400..(round + 1) * 400)).collect();
    // No room of the queue stays taken, and no row waits for the next event.
    pair.finish(&ledgers, &[]);
}
