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
