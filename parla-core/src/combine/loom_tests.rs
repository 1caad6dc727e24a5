//! Every interleaving: no note and no nudge is left behind.

use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::*;

/// Notes that were taken, in order; and what a round saw of the world outside.
#[derive(Default)]
struct Seen {
    notes: Vec<u32>,
    outside: u32,
}

struct World {
    combiner: Combiner<Seen, u32>,
    outside: AtomicU32,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            combiner: Combiner::new(Seen::default()),
            outside: AtomicU32::new(0),
        })
    }

    fn rounds(&self) {
        let work = |seen: &mut Seen, notes: Vec<u32>| {
            seen.notes.extend(notes);
            seen.outside = self.outside.load(Ordering::Relaxed);
        };
        while self.combiner.round(work).is_some() {}
    }

    fn tell(&self, note: u32) {
        self.combiner.post(note);
        self.rounds();
    }
}

fn beside(world: &Arc<World>, one: fn(&World), other: fn(&World)) {
    let elsewhere = Arc::clone(world);
    let thread = thread::spawn(move || one(&elsewhere));
    other(world);
    thread.join().unwrap();
}

#[test]
fn every_note_is_taken_once_and_in_order() {
    loom::model(|| {
        let world = World::new();
        let two = |world: &World| {
            world.tell(1);
            world.tell(2);
        };
        beside(&world, two, |world| world.tell(10));
        let mut notes = world.combiner.lock().notes.clone();
        let of_one: Vec<_> = notes.iter().copied().filter(|note| *note < 10).collect();
        assert_eq!(of_one, [1, 2]);
        notes.sort_unstable();
        assert_eq!(notes, [1, 2, 10]);
    });
}

#[test]
fn three_threads() {
    loom::model(|| {
        let world = World::new();
        let elsewhere = Arc::clone(&world);
        let third = thread::spawn(move || elsewhere.tell(3));
        beside(&world, |world| world.tell(1), |world| world.tell(2));
        third.join().unwrap();
        let mut notes = world.combiner.lock().notes.clone();
        notes.sort_unstable();
        assert_eq!(notes, [1, 2, 3]);
    });
}

#[test]
fn the_last_round_sees_what_was_changed_before_a_nudge() {
    loom::model(|| {
        let world = World::new();
        let change = |world: &World| {
            world.outside.fetch_add(1, Ordering::Relaxed);
            world.combiner.nudge();
            world.rounds();
        };
        beside(&world, change, change);
        assert_eq!(world.combiner.lock().outside, 2);
    });
}

#[test]
fn who_only_looked_does_not_leave_others_notes_behind() {
    loom::model(|| {
        let world = World::new();
        let look = |world: &World| {
            drop(world.combiner.lock());
            world.rounds();
        };
        beside(&world, look, |world| world.tell(1));
        assert_eq!(world.combiner.lock().notes, [1]);
    });
}

#[test]
fn notes_that_were_posted_first_and_worked_on_later() {
    loom::model(|| {
        let world = World::new();
        let later = |world: &World| {
            world.combiner.post(1);
            world.combiner.post(2);
            if world.combiner.has_news() {
                world.rounds();
            }
        };
        beside(&world, later, |world| world.tell(10));
        assert_eq!(world.combiner.lock().notes.len(), 3);
    });
}

#[test]
fn who_takes_the_news_of_several_sees_what_all_of_them_changed() {
    loom::model(|| {
        let world = World::new();
        let change = |world: &World| {
            world.outside.fetch_add(1, Ordering::Relaxed);
            world.combiner.nudge();
        };
        let elsewhere = Arc::clone(&world);
        let third = thread::spawn(move || change(&elsewhere));
        let change_and_work = |world: &World| {
            world.outside.fetch_add(1, Ordering::Relaxed);
            world.combiner.nudge();
            world.rounds();
        };
        beside(&world, change_and_work, World::rounds);
        third.join().unwrap();
        world.rounds();
        assert_eq!(world.combiner.lock().outside, 2);
    });
}
