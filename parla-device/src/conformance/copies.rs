//! Copies of boxes, against copies element by element.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Subject, all_of, contents, copy_of_bytes, download, finish, good, host_block, upload};
use crate::backend::{Block, Copy, Device, Place};

/// How a box lies in its block: for each dimension how far out it is in memory, how many elements are left free after each of its rows,
/// whether it runs backwards, and, at a source, whether all its elements are one.
#[derive(Clone, Debug)]
pub struct Layout {
    /// By dimension.
    pub dimensions: Vec<Lie>,
    /// Bytes before the box.
    pub before: usize,
    /// Bytes after it.
    pub after: usize,
}

/// How one dimension of a box lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Lie {
    /// Dimensions with smaller numbers are further in.
    pub rank: u8,
    /// Elements left free.
    pub gap: u8,
    /// Whether it runs backwards.
    pub reversed: bool,
    /// Whether all elements are one; ignored at a destination.
    pub broadcast: bool,
}

/// A copy to try.
#[derive(Clone, Debug)]
pub struct BoxCopy {
    /// Bytes per element.
    pub item: usize,
    /// Elements along each dimension, at most 5.
    pub shape: Vec<usize>,
    /// Where it comes from.
    pub source: Layout,
    /// Where it goes.
    pub destination: Layout,
}

/// Offset, strides, and the size of the block.
type Laid = (usize, Vec<isize>, usize);

fn lay(item: usize, shape: &[usize], layout: &Layout, is_source: bool) -> Laid {
    let mut order: Vec<usize> = (0..shape.len()).collect();
    order.sort_by_key(|&k| (layout.dimensions[k].rank, std::cmp::Reverse(k)));
    let mut strides = vec![0_isize; shape.len()];
    let (mut offset, mut extent) = (layout.before, item);
    for k in order {
        let lie = layout.dimensions[k];
        if is_source && lie.broadcast {
            continue;
        }
        let step = extent + usize::from(lie.gap) * item;
        strides[k] = step as isize;
        if lie.reversed {
            strides[k] = -strides[k];
            offset += step * shape[k].saturating_sub(1);
        }
        extent = step * shape[k].max(1);
    }
    (offset, strides, layout.before + extent + layout.after)
}

/// Which ends of a copy are on which device; `None`: in memory of the host that no backend made.
pub type Ends<'a> = (Option<&'a Arc<dyn Device>>, Option<&'a Arc<dyn Device>>);

/// Does a copy on a stream of the first device that is named, and compares every byte of the destination, those beside the box included.
///
/// # Panics
/// When a byte is wrong, or neither end is on a device.
pub fn check_copy(subject: &Subject, (from, to): Ends<'_>, copy: &BoxCopy) {
    let (s_offset, s_strides, s_bytes) = lay(copy.item, &copy.shape, &copy.source, true);
    let (d_offset, d_strides, d_bytes) = lay(copy.item, &copy.shape, &copy.destination, false);
    let source: Vec<u8> = (0..s_bytes).map(|k| (k * 7 + k / 251) as u8).collect();
    let before: Vec<u8> = (0..d_bytes).map(|k| !(k as u8)).collect();
    let mut expected = before.clone();
    for_each_index(&copy.shape, |index| {
        let at = |offset: usize, strides: &[isize]| {
            let steps = index.iter().zip(strides).map(|(&i, &s)| i as isize * s);
            offset.wrapping_add_signed(steps.sum())
        };
        let (from, to) = (at(s_offset, &s_strides), at(d_offset, &d_strides));
        expected[to..to + copy.item].copy_from_slice(&source[from..from + copy.item]);
    });

    let block = |device: Option<&Arc<dyn Device>>, bytes: Vec<u8>| match device {
        Some(device) => upload(subject, device, bytes),
        None => host_block(bytes),
    };
    let place =
        |block: &Arc<Block>, offset, strides: &[isize], device: Option<&Arc<dyn Device>>| Place {
            block: Arc::clone(block),
            offset,
            strides: SmallVec::from_slice(strides),
            device: device.and_then(|device| subject.key(&**device)),
        };
    let (source, destination) = (block(from, source), block(to, before));
    let Some(device) = from.or(to) else {
        panic!("one end of a copy is on a device");
    };
    let stream = good(device.stream());
    good(stream.copy(Copy {
        item: copy.item,
        shape: SmallVec::from_slice(&copy.shape),
        source: place(&source, s_offset, &s_strides, from),
        destination: place(&destination, d_offset, &d_strides, to),
    }));
    finish(&stream);
    let result = match to {
        Some(device) => download(subject, device, &destination),
        None => contents(&destination),
    };
    assert!(result == expected, "wrong bytes after {copy:?}");
}

fn for_each_index(shape: &[usize], mut visit: impl FnMut(&[usize])) {
    let n_elements: usize = shape.iter().product();
    let mut index = vec![0; shape.len()];
    for _ in 0..n_elements {
        visit(&index);
        for k in (0..shape.len()).rev() {
            index[k] += 1;
            if index[k] < shape[k] {
                break;
            }
            index[k] = 0;
        }
    }
}

/// All pairs of ends that a subject has.
pub fn directions(devices: &[Arc<dyn Device>]) -> Vec<Ends<'_>> {
    let first = &devices[0];
    let mut ends = vec![
        (None, Some(first)),
        (Some(first), None),
        (Some(first), Some(first)),
    ];
    if let Some(second) = devices.get(1) {
        ends.extend([(Some(first), Some(second)), (Some(second), Some(first))]);
    }
    ends
}

/// Boxes of 0 to 5 dimensions in all layouts, from anywhere to anywhere.
pub fn random_boxes_in_all_directions(subject: &Subject) {
    let mut random = Random(42);
    let devices = subject.backend.devices();
    for ends in directions(&devices) {
        for _ in 0..60 {
            check_copy(subject, ends, &random.copy());
        }
    }
    assert_eq!(devices[0].memory_used(), 0);
}

/// Dense and pitched boxes of some megabytes.
pub fn large_boxes(subject: &Subject) {
    let devices = subject.backend.devices();
    let lie = |rank, gap| Lie {
        rank,
        gap,
        reversed: false,
        broadcast: false,
    };
    let layout = |outer, inner| Layout {
        dimensions: vec![outer, inner],
        before: 8,
        after: 0,
    };
    for ends in directions(&devices) {
        for (source, destination) in [
            (layout(lie(1, 0), lie(0, 0)), layout(lie(1, 0), lie(0, 0))),
            (layout(lie(1, 9), lie(0, 0)), layout(lie(1, 0), lie(0, 0))),
            (layout(lie(0, 0), lie(1, 0)), layout(lie(1, 3), lie(0, 0))),
        ] {
            let copy = BoxCopy {
                item: 8,
                shape: vec![700, 300],
                source,
                destination,
            };
            check_copy(subject, ends, &copy);
        }
    }
}

/// Copies without an element do nothing and are no error.
pub fn copies_of_nothing(subject: &Subject) {
    let device = subject.device();
    let key = subject.key(&*device);
    let stream = good(device.stream());
    let empty = good(device.allocate(0));
    good(stream.copy(copy_of_bytes(
        all_of(&host_block(Vec::new()), None),
        all_of(&empty, key),
    )));
    finish(&stream);
    let lie = Lie {
        rank: 0,
        gap: 1,
        reversed: false,
        broadcast: false,
    };
    let layout = Layout {
        dimensions: vec![lie; 3],
        before: 5,
        after: 5,
    };
    for ends in directions(&subject.backend.devices()) {
        let copy = BoxCopy {
            item: 4,
            shape: vec![3, 0, 2],
            source: layout.clone(),
            destination: layout.clone(),
        };
        check_copy(subject, ends, &copy);
    }
}

/// Numbers that look random and are always the same (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn layout(&mut self, n_dimensions: usize) -> Layout {
        let mut lie = || Lie {
            rank: self.below(5) as u8,
            gap: self.below(6).saturating_sub(3) as u8,
            reversed: self.below(4) == 0,
            broadcast: self.below(8) == 0,
        };
        let dimensions = (0..n_dimensions).map(|_| lie()).collect();
        Layout {
            dimensions,
            before: self.below(9) as usize,
            after: self.below(9) as usize,
        }
    }

    fn copy(&mut self) -> BoxCopy {
        let n_dimensions = self.below(6) as usize;
        BoxCopy {
            item: [1, 2, 3, 4, 8, 16, 24][self.below(7) as usize],
            shape: (0..n_dimensions)
                .map(|_| 1 + self.below(5) as usize)
                .collect(),
            source: self.layout(n_dimensions),
            destination: self.layout(n_dimensions),
        }
    }
}
