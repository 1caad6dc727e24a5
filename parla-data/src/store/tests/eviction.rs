//! Programs that need more memory than there is, compared with a cache that does nothing but evict the least recently used.

use super::task::Dice;
use super::*;

/// Tiles in a memory with room for some of them: what moves if the least recently used goes, and goes home only if it was changed.
struct Cache {
    room: usize,
    // Least recently used first; whether it was changed.
    tiles: Vec<(usize, bool)>,
    n_in: u64,
    n_out: u64,
}

impl Cache {
    fn touch(&mut self, tile: usize, access: Access) {
        let at = self.tiles.iter().position(|(other, _)| *other == tile);
        let dirty = at.map(|at| self.tiles.remove(at).1);
        if dirty.is_none() {
            if self.tiles.len() == self.room && self.tiles.remove(0).1 {
                self.n_out += 1;
            }
            self.n_in += u64::from(access.reads());
        }
        self.tiles
            .push((tile, dirty.unwrap_or(false) || access.writes()));
    }
}

/// Tasks on one GPU that each read one tile and change another one, four times as many tiles as it has room for.
#[test]
fn a_working_set_four_times_the_memory_moves_little_more_than_the_least_recently_used_rule() {
    const TILE: usize = 16;
    let bytes = (TILE * TILE * ITEM) as u64;
    for (seed, one_array) in [(1, true), (2, false), (3, true), (4, false)] {
        let room = 8;
        let bench = Bench::new(&[room as u64 * bytes]);
        let mut dice = Dice(seed);
        let matrix = array(&[4 * room * TILE, TILE]);
        let tiles: Vec<Array> = (0..4 * room).map(|_| array(&[TILE, TILE])).collect();
        let mut values: Vec<Option<u32>> = vec![None; 4 * room];
        let mut cache = Cache {
            room,
            tiles: Vec::new(),
            n_in: 0,
            n_out: 0,
        };
        let part = |tile: usize, access| {
            if one_array {
                let rows = tile * TILE..(tile + 1) * TILE;
                operand(&matrix, Region::new([rows, 0..TILE]), access)
            } else {
                operand(&tiles[tile], Region::whole(&[TILE, TILE]), access)
            }
        };
        for step in 0..600 {
            // Some tiles are used more than others.
            let read = dice.roll(4 * room).min(dice.roll(4 * room));
            let changed = dice.roll(4 * room);
            if read == changed {
                continue;
            }
            let operands = [part(read, Access::Input), part(changed, Access::InOut)];
            let seen = bench.run(&operands, gpu(0), 10_000 + step);
            for (seen, tile) in seen.iter().zip([read, changed]) {
                assert!(values[tile].is_none_or(|value| *seen == [value; TILE * TILE]));
            }
            values[changed] = Some(10_000 + step);
            cache.touch(read, Access::Input);
            cache.touch(changed, Access::InOut);
        }
        let moved = bench.bytes_into(memory(0)) + bench.bytes_into(MachineModel::HOST);
        let least = (cache.n_in + cache.n_out) * bytes;
        let ratio = moved as f64 / least as f64;
        println!("{moved} bytes moved, {least} by the rule: {ratio:.3}");
        assert!(ratio <= 1.2, "{moved} bytes moved, {least} by the rule");
        bench.check_empty();
        for (tile, value) in values.iter().enumerate() {
            let part = part(tile, Access::Input);
            let home = home_of(&part.array, &part.region);
            assert!(value.is_none_or(|value| home == [value; TILE * TILE]));
        }
    }
}

/// Uses arrays one after the other on a GPU and returns how many instances were looked at to make room.
fn steps(bench: &Bench, arrays: &[Array], access: Access) -> u64 {
    let n_steps = || bench.store.memory(memory(0)).recency.lock().n_steps;
    let before = n_steps();
    for a in arrays {
        bench.run(&[operand(a, line(0, 2), access)], gpu(0), 7);
    }
    n_steps() - before
}

#[test]
fn making_room_takes_no_more_steps_among_many_arrays_than_among_few() {
    for (access, each) in [(Access::Input, 1), (Access::Output, 3)] {
        let counted = [100, 1000, 10_000].map(|n| {
            let bench = Bench::new(&[8 * n as u64]);
            let arrays: Vec<Array> = (0..n + 50).map(|_| array(&[2])).collect();
            let (old, new) = arrays.split_at(n);
            assert_eq!(steps(&bench, old, access), 0, "there is room");
            // Half of those that are to go first are used once more.
            assert_eq!(steps(&bench, &old[..25], access), 0);
            let counted = steps(&bench, new, Access::Input);
            assert_eq!(old[24].bytes_allocated(memory(0)), 8);
            assert_eq!(old[74].bytes_allocated(memory(0)), 0);
            bench.check_empty();
            counted
        });
        println!("{access:?}: {counted:?} steps among 100, 1000 and 10 000 arrays");
        assert!(counted.iter().all(|&steps| steps <= 25 + 50 * each));
    }
}

#[test]
fn a_copy_that_holds_nothing_goes_before_one_that_was_used_earlier() {
    let bench = Bench::new(&[24]);
    let arrays: Vec<Array> = (0..7).map(|_| array(&[2])).collect();
    let there = || {
        let there = arrays.iter().enumerate();
        let there = there.filter(|(_, a)| a.bytes_allocated(memory(0)) > 0);
        there.map(|(i, _)| i).collect::<Vec<_>>()
    };
    let read = |i: usize| steps(&bench, &arrays[i..=i], Access::Input);
    assert_eq!([0, 1, 2, 0, 3].map(read), [0, 0, 0, 0, 2]);
    assert_eq!(there(), [0, 2, 3], "the order is 2, 0, 3");
    let overwritten = operand(&arrays[0], line(0, 2), Access::Output);
    let mut writer = bench.staged(&[overwritten], &[CPU]);
    writer.begin();
    read(4);
    assert_eq!(there(), [2, 3, 4], "0 is being written elsewhere");
    writer.end(Ended::Well(Vec::new()));
    let written = bench.store.to_host(&arrays[3], &line(0, 2), true);
    written.expect("it is at home");
    read(5);
    assert_eq!(there(), [2, 4, 5], "3 was written by the host's code");
    let mut failing = bench.staged(&[operand(&arrays[5], line(0, 2), Access::InOut)], &[gpu(0)]);
    failing.begin();
    failing.end(Ended::Badly("it failed".to_owned()));
    read(6);
    assert_eq!(there(), [2, 4, 6], "nobody knows what 5 is");
    bench.check_empty();
}

#[test]
fn arrays_that_are_gone_are_forgotten() {
    let bench = Bench::new(&[1 << 20]);
    for _ in 0..10_000 {
        steps(&bench, &[array(&[2])], Access::Input);
    }
    let n_known = bench.store.arrays.lock().len();
    assert!(n_known < 100, "{n_known} arrays are known, all are gone");
    bench.check_empty();
}

#[test]
fn a_copy_that_holds_nothing_and_lies_inside_another_is_given_back_at_once() {
    let bench = Bench::new(&[1000]);
    let a = array(&[4]);
    bench.run(&[operand(&a, line(0, 2), Access::InOut)], gpu(0), 1);
    bench.run(&[operand(&a, line(0, 4), Access::InOut)], gpu(0), 2);
    assert_eq!(a.bytes_allocated(memory(0)), 16);
    bench.check_empty();
}

/// As when another library uses the same GPU.
#[test]
fn a_device_with_less_than_the_books_say_gives_up_copies_until_there_is_enough() {
    let bench = Bench::new(&[100]);
    let arrays: Vec<Array> = (0..3).map(|_| array(&[5])).collect();
    let whole = |a: &Array| operand(a, Region::whole(a.shape()), Access::InOut);
    for (value, a) in (50..).zip(&arrays) {
        bench.run(&[whole(a)], gpu(0), value);
    }
    let real_capacity = &bench.gpus.0[0].real_capacity;
    real_capacity.store(70, Ordering::SeqCst);
    // 40 bytes are free by the books, 10 on the device.
    let (last, more) = (array(&[8]), array(&[4]));
    bench.run(&[whole(&last)], gpu(0), 9);
    let stats = &bench.store.stats().memories[1];
    assert_eq!(
        (stats.used, stats.evictions),
        (52, 2),
        "the oldest, no more"
    );
    for (value, a) in (50..).zip(&arrays[..2]) {
        assert_eq!(a.bytes_allocated(memory(0)), 0);
        assert_eq!(home_of(a, &line(0, 5)), [value; 5], "written back");
    }
    // What is in use is waited for.
    let users = [&last, &arrays[2]].map(|a| bench.staged(&[whole(a)], &[gpu(0)]));
    real_capacity.store(52, Ordering::SeqCst);
    let waits = bench.stage(&[whole(&more)], &[gpu(0)]);
    assert!(waits.try_recv().is_err());
    drop(users);
    drop(waits.recv_timeout(LIMIT).unwrap().unwrap());
    // If there is nothing left to give up, the device's own numbers are told.
    real_capacity.store(10, Ordering::SeqCst);
    let refused = bench.stage(&[whole(&array(&[8]))], &[gpu(0)]);
    let refused = refused.recv_timeout(LIMIT).unwrap().unwrap_err();
    assert_eq!(
        refused.to_string(),
        "gpu:0 is out of memory: 32 bytes requested, 10 free of 10"
    );
    real_capacity.store(100, Ordering::SeqCst);
    bench.run(&[whole(&more)], gpu(0), 1);
    bench.check_empty();
}

/// Two tasks use one memory each, and hand it on to the next ones before them: one that needs both has its turn all the same.
#[test]
fn a_request_for_two_memories_has_its_turn_in_a_steady_stream_of_others() {
    let bench = Bench::new(&[100, 100]);
    let whole = |slot| Operand {
        slot,
        ..operand(&array(&[25]), line(0, 25), Access::InOut)
    };
    let one = |i| bench.stage(&[whole(0)], &[gpu(i)]);
    let mut stream = [one(0), one(1)];
    let both = bench.stage(&[whole(0), whole(1)], &[gpu(0), gpu(1)]);
    let mut n_before = 0;
    let staged = loop {
        if let Ok(staged) = both.try_recv() {
            break staged.unwrap();
        }
        for (i, running) in (0..).zip(&mut stream) {
            let next = one(i);
            if let Ok(staged) = std::mem::replace(running, next).try_recv() {
                staged.unwrap().end(Ended::NotBegun);
                n_before += 1;
            }
        }
        assert!(n_before < 100, "it waits for ever");
    };
    drop(stream);
    staged.end(Ended::NotBegun);
    bench.check_empty();
}

#[test]
fn a_body_that_runs_has_room_before_those_who_wait_for_what_it_uses() {
    let bench = Bench::new(&[100, 100]);
    let whole = |slot| Operand {
        slot,
        ..operand(&array(&[25]), line(0, 25), Access::InOut)
    };
    let runs = bench.staged(&[whole(0)], &[gpu(0)]);
    let both = bench.stage(&[whole(0), whole(1)], &[gpu(0), gpu(1)]);
    let later = bench.stage(&[whole(0)], &[gpu(1)]);
    let (sent, room) = mpsc::channel();
    let done = Box::new(move |staged| drop(sent.send(staged)));
    bench.store.room(gpu(1), 100, done);
    let room = room.try_recv().expect("at once").expect("there is room");
    drop((room, runs));
    drop(both.recv_timeout(LIMIT).unwrap().unwrap());
    drop(later.recv_timeout(LIMIT).unwrap().unwrap());
    bench.check_empty();
}
