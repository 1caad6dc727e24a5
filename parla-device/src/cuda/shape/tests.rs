//! Shapes against a list of the elements' addresses.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::backend::{Block, Place};

fn copy(item: usize, shape: &[usize], source: &[isize], destination: &[isize]) -> Copy {
    let place = |address, strides: &[isize]| Place {
        block: Arc::new(Block::foreign(address, 1 << 20, ())),
        offset: 1 << 16,
        strides: strides.into(),
        device: None,
    };
    Copy {
        item,
        shape: shape.into(),
        source: place(1 << 30, source),
        destination: place(1 << 40, destination),
    }
}

/// (from, to) of each byte, sorted.
fn bytes_of(copy: &Copy) -> Vec<(usize, usize)> {
    let start = |place: &Place| place.block.address() + place.offset;
    let mut places = vec![(start(&copy.source), start(&copy.destination))];
    let strides = copy.source.strides.iter().zip(&copy.destination.strides);
    for (&n, (&s, &d)) in copy.shape.iter().zip(strides) {
        let steps = |&(from, to): &(usize, usize)| {
            (0..n.cast_signed()).map(move |i| {
                (
                    from.wrapping_add_signed(s * i),
                    to.wrapping_add_signed(d * i),
                )
            })
        };
        places = places.iter().flat_map(steps).collect();
    }
    runs(&places, copy.item)
}

fn runs(places: &[(usize, usize)], length: usize) -> Vec<(usize, usize)> {
    let bytes = places
        .iter()
        .flat_map(|&(from, to)| (0..length).map(move |i| (from + i, to + i)));
    let mut bytes: Vec<_> = bytes.collect();
    bytes.sort_unstable();
    bytes
}

fn bytes_of_calls(shape: &Shape, most_pitch: usize) -> (Vec<(usize, usize)>, usize) {
    let (mut bytes, mut n_calls) = (Vec::new(), 0);
    let all: Result<(), ()> = shape.calls(most_pitch, |rows| {
        n_calls += 1;
        if rows.height > 1 {
            assert!(
                rows.pitch.0 >= rows.width && rows.pitch.1 >= rows.width,
                "{rows:?}"
            );
            assert!(
                rows.pitch.0 <= most_pitch && rows.pitch.1 <= most_pitch,
                "{rows:?}"
            );
        }
        if rows.depth > 1 {
            assert!(
                rows.slice.0 >= rows.height && rows.slice.1 >= rows.height,
                "{rows:?}"
            );
        }
        for z in 0..rows.depth {
            for y in 0..rows.height {
                let from = rows.source + (z * rows.slice.0 + y) * rows.pitch.0;
                let to = rows.destination + (z * rows.slice.1 + y) * rows.pitch.1;
                bytes.extend(runs(&[(from, to)], rows.width));
            }
        }
        Ok(())
    });
    assert!(all.is_ok());
    assert_eq!(n_calls, shape.n_calls(most_pitch));
    bytes.sort_unstable();
    (bytes, n_calls)
}

fn n_calls(copy: &Copy) -> usize {
    let shape = Shape::of(copy).expect("not empty");
    let (bytes, n_calls) = bytes_of_calls(&shape, 1 << 31);
    assert_eq!(bytes, bytes_of(copy));
    n_calls
}

#[test]
fn dense_boxes_are_one_run() {
    let dense = copy(8, &[3, 4, 5], &[160, 40, 8], &[160, 40, 8]);
    let shape = Shape::of(&dense).expect("not empty");
    assert_eq!((shape.run, shape.dimensions.len()), (480, 0));
    let both_in_fortran_order = copy(8, &[3, 4, 5], &[8, 24, 96], &[8, 24, 96]);
    assert_eq!(
        Shape::of(&both_in_fortran_order).expect("not empty").run,
        480
    );
}

#[test]
fn boxes_inside_boxes_are_one_call() {
    // Rows of a matrix, slices of a cube, both ends reversed.
    assert_eq!(n_calls(&copy(8, &[10, 5], &[800, 8], &[40, 8])), 1);
    assert_eq!(
        n_calls(&copy(4, &[6, 10, 5], &[4000, 40, 4], &[200, 20, 4])),
        1
    );
    assert_eq!(n_calls(&copy(8, &[10, 5], &[-800, 8], &[-40, 8])), 1);
    // A column.
    assert_eq!(n_calls(&copy(8, &[10], &[80], &[8])), 1);
}

#[test]
fn what_the_driver_cannot_do_at_once_is_a_loop() {
    // Reversed at one end; broadcast; windows that overlap; a transposed matrix.
    assert_eq!(n_calls(&copy(8, &[10, 5], &[-800, 8], &[40, 8])), 10);
    assert_eq!(n_calls(&copy(8, &[10, 5], &[0, 8], &[40, 8])), 10);
    assert_eq!(n_calls(&copy(8, &[10, 5], &[8, 8], &[40, 8])), 10);
    assert_eq!(n_calls(&copy(8, &[10, 5], &[8, 80], &[40, 8])), 5);
}

#[test]
fn nothing_is_no_shape() {
    assert_eq!(Shape::of(&copy(8, &[0, 5], &[40, 8], &[40, 8])), None);
    assert_eq!(Shape::of(&copy(0, &[5], &[8], &[8])), None);
    let one = Shape::of(&copy(8, &[], &[], &[])).expect("a scalar");
    assert_eq!((one.run, one.bytes()), (8, 8));
}

/// Dense strides of a shape whose dimensions lie in memory in the given order, with gaps, some of them downwards.
fn strides(
    shape: &[usize],
    item: usize,
    order: &[usize],
    gaps: &[usize],
    down: &[bool],
) -> Vec<isize> {
    let mut strides = vec![0; shape.len()];
    let mut step = item;
    for &dimension in order
        .iter()
        .rev()
        .filter(|&&dimension| dimension < shape.len())
    {
        strides[dimension] = step.cast_signed() * if down[dimension] { -1 } else { 1 };
        step *= shape[dimension] + gaps[dimension];
    }
    strides
}

fn any_copy() -> impl Strategy<Value = Copy> {
    let end = || {
        (
            Just(vec![0_usize, 1, 2, 3]).prop_shuffle(),
            prop::collection::vec(0..2_usize, 4),
            prop::collection::vec(any::<bool>(), 4),
        )
    };
    let shape = prop::collection::vec(1..4_usize, 0..=4);
    (
        shape,
        prop::sample::select(vec![1_usize, 3, 8]),
        end(),
        end(),
        any::<bool>(),
    )
        .prop_map(|(shape, item, source, destination, broadcast)| {
            let mut from = strides(&shape, item, &source.0, &source.1, &source.2);
            let to = strides(&shape, item, &destination.0, &destination.1, &destination.2);
            if broadcast && let Some(first) = from.first_mut() {
                *first = 0;
            }
            copy(item, &shape, &from, &to)
        })
}

proptest! {
    #[test]
    fn calls_copy_every_byte_once(copy in any_copy(), most_pitch in prop::sample::select(vec![8_usize, 64, 1 << 31])) {
        let shape = Shape::of(&copy).expect("no dimension is 0");
        prop_assert_eq!(bytes_of_calls(&shape, most_pitch).0, bytes_of(&copy));
        let other = shape.clone().ordered_by(End::Source);
        prop_assert_eq!(bytes_of_calls(&other, most_pitch).0, bytes_of(&copy));
    }

    #[test]
    fn pieces_are_small_and_together_the_whole(copy in any_copy(), most in 1..200_usize) {
        let shape = Shape::of(&copy).expect("no dimension is 0");
        let mut bytes = Vec::new();
        let all: Result<(), ()> = shape.pieces(most, &mut |piece| {
            assert!(piece.bytes() <= most);
            bytes.extend(bytes_of_calls(&piece, 1 << 31).0);
            Ok(())
        });
        prop_assert!(all.is_ok());
        bytes.sort_unstable();
        prop_assert_eq!(bytes, bytes_of(&copy));
    }

    #[test]
    fn through_a_packed_piece_it_is_the_same_copy(copy in any_copy()) {
        let shape = Shape::of(&copy).expect("no dimension is 0").ordered_by(End::Source);
        let between = 1 << 50;
        let (first, second) = (shape.packed(End::Destination, between), shape.packed(End::Source, between));
        let there = bytes_of_calls(&first.ordered_by(End::Source), 1 << 31).0;
        let mut back = bytes_of_calls(&second.ordered_by(End::Destination), 1 << 31).0;
        // Dense: no byte of the piece is used twice, none is left out.
        back.sort_unstable();
        let mut used: Vec<usize> = there.iter().map(|&(_, to)| to).collect();
        used.sort_unstable();
        prop_assert_eq!(used, (between..between + shape.bytes()).collect::<Vec<_>>());
        let mut whole: Vec<(usize, usize)> = there
            .iter()
            .map(|&(from, middle)| {
                let at = back.binary_search_by_key(&middle, |&(middle, _)| middle).expect("the same bytes");
                (from, back[at].1)
            })
            .collect();
        whole.sort_unstable();
        prop_assert_eq!(whole, bytes_of(&copy));
    }

    #[test]
    fn the_extent_holds_every_byte(copy in any_copy()) {
        let shape = Shape::of(&copy).expect("no dimension is 0");
        for end in [End::Source, End::Destination] {
            let (low, length) = shape.extent(end);
            let touched = bytes_of(&copy).into_iter().map(|(from, to)| if end == End::Source { from } else { to });
            let touched: Vec<usize> = touched.collect();
            prop_assert_eq!(touched.iter().min(), Some(&low));
            prop_assert_eq!(touched.iter().max(), Some(&(low + length - 1)));
        }
    }
}
