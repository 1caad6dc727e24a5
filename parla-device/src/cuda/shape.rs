//! Copies of boxes as runs of bytes and nested steps, and the driver's calls that make them up. Pure.

use smallvec::SmallVec;

use crate::backend::Copy;

/// Elements along one dimension, and the steps from one to the next on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dimension {
    pub(super) n: usize,
    pub(super) source: isize,
    pub(super) destination: isize,
}

/// A copy of a box: runs of bytes that lie together on both sides, at every combination of the steps, outermost first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Address of the first run.
    pub(super) source: usize,
    /// Address of the first run.
    pub(super) destination: usize,
    pub(super) run: usize,
    pub(super) dimensions: SmallVec<[Dimension; 4]>,
}

/// One side of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

/// What the driver copies in one call: `depth` times `height` rows of `width` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) source: usize,
    pub(super) destination: usize,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) depth: usize,
    /// Bytes from row to row: source, destination.
    pub(super) pitch: (usize, usize),
    /// Rows from slice to slice.
    pub(super) slice: (usize, usize),
}

impl Shape {
    /// The shape of a copy, in the order of the destination; `None` when there is nothing to copy.
    pub(super) fn of(copy: &Copy) -> Option<Self> {
        if copy.bytes() == 0 {
            return None;
        }
        let strides = copy.source.strides.iter().zip(&copy.destination.strides);
        let dimensions = copy
            .shape
            .iter()
            .zip(strides)
            .map(|(&n, (&source, &destination))| Dimension {
                n,
                source,
                destination,
            });
        let shape = Self {
            source: copy.source.block.address() + copy.source.offset,
            destination: copy.destination.block.address() + copy.destination.offset,
            run: copy.item,
            dimensions: dimensions.collect(),
        };
        Some(shape.ordered_by(End::Destination))
    }

    /// The same copy, its dimensions ordered by the size of the steps at one end, where all of them point upwards; dimensions that
    /// make up one run or one dimension together are joined.
    pub(super) fn ordered_by(mut self, end: End) -> Self {
        self.dimensions.retain(|dimension| dimension.n != 1);
        for dimension in &mut self.dimensions {
            let step = dimension.at(end);
            if step < 0 {
                let last = (dimension.n - 1).cast_signed();
                self.source = self.source.wrapping_add_signed(dimension.source * last);
                self.destination = self
                    .destination
                    .wrapping_add_signed(dimension.destination * last);
                dimension.source = -dimension.source;
                dimension.destination = -dimension.destination;
            }
        }
        self.dimensions
            .sort_by_key(|dimension| std::cmp::Reverse(dimension.at(end)));
        while let Some(&inner) = self.dimensions.last() {
            let run = self.run.cast_signed();
            if inner.source != run || inner.destination != run {
                break;
            }
            self.run *= inner.n;
            self.dimensions.pop();
        }
        let mut joined: SmallVec<[Dimension; 4]> = SmallVec::new();
        for inner in self.dimensions.drain(..) {
            let n = inner.n.cast_signed();
            match joined.last_mut() {
                Some(outer)
                    if outer.source == inner.source * n
                        && outer.destination == inner.destination * n =>
                {
                    *outer = Dimension {
                        n: outer.n * inner.n,
                        ..inner
                    };
                }
                _ => joined.push(inner),
            }
        }
        self.dimensions = joined;
        self
    }

    /// Bytes that travel.
    pub(super) fn bytes(&self) -> usize {
        self.dimensions
            .iter()
            .map(|dimension| dimension.n)
            .product::<usize>()
            * self.run
    }

    /// The lowest address that one end touches, and the bytes from there to the last.
    pub(super) fn extent(&self, end: End) -> (usize, usize) {
        let mut low = if end == End::Source {
            self.source
        } else {
            self.destination
        };
        let mut length = self.run;
        for dimension in &self.dimensions {
            let reach = dimension.at(end) * (dimension.n - 1).cast_signed();
            low = low.wrapping_add_signed(reach.min(0));
            length += reach.unsigned_abs();
        }
        (low, length)
    }

    /// The same box with one end packed: dense, in this shape's order, at `address`.
    pub(super) fn packed(&self, end: End, address: usize) -> Self {
        let mut packed = self.clone();
        let mut step = self.run.cast_signed();
        for dimension in packed.dimensions.iter_mut().rev() {
            let place = match end {
                End::Source => &mut dimension.source,
                End::Destination => &mut dimension.destination,
            };
            *place = step;
            step *= dimension.n.cast_signed();
        }
        match end {
            End::Source => packed.source = address,
            End::Destination => packed.destination = address,
        }
        packed
    }

    /// Cuts the copy into pieces of at most `most` bytes, in order.
    pub(super) fn pieces<E>(
        &self,
        most: usize,
        each: &mut impl FnMut(Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.bytes() <= most {
            return each(self.clone());
        }
        let Some(&outer) = self.dimensions.first() else {
            return (0..self.run).step_by(most.max(1)).try_for_each(|at| {
                each(Self {
                    source: self.source + at,
                    destination: self.destination + at,
                    run: most.min(self.run - at),
                    dimensions: SmallVec::new(),
                })
            });
        };
        let inside = self.bytes() / outer.n;
        let at_once = (most / inside).max(1);
        (0..outer.n).step_by(at_once).try_for_each(|i| {
            let mut piece = self.step(0, i);
            piece.dimensions[0].n = at_once.min(outer.n - i);
            if piece.dimensions[0].n == 1 {
                piece.dimensions.remove(0);
            }
            piece.pieces(most, each)
        })
    }

    /// Begins `i` steps of a dimension later.
    fn step(&self, dimension: usize, i: usize) -> Self {
        let steps = self.dimensions[dimension];
        let mut moved = self.clone();
        moved.source = moved
            .source
            .wrapping_add_signed(steps.source * i.cast_signed());
        moved.destination = moved
            .destination
            .wrapping_add_signed(steps.destination * i.cast_signed());
        moved
    }

    /// What one call of the driver copies, with no pitch above `most_pitch`, and the dimensions along which there are more calls.
    fn plan(&self, most_pitch: usize) -> (Rows, SmallVec<[Dimension; 4]>) {
        let mut rest = self.dimensions.clone();
        let mut rows = Rows {
            source: self.source,
            destination: self.destination,
            width: self.run,
            height: 1,
            depth: 1,
            pitch: (self.run, self.run),
            slice: (1, 1),
        };
        let as_row = |dimension: &Dimension| dimension.pitches(self.run, most_pitch);
        if let Some((i, pitch)) = best(&rest, as_row) {
            rows.height = rest.remove(i).n;
            rows.pitch = pitch;
            rows.slice = (rows.height, rows.height);
            let as_slice = |dimension: &Dimension| dimension.slices(&rows);
            if let Some((i, slice)) = best(&rest, as_slice) {
                rows.depth = rest.remove(i).n;
                rows.slice = slice;
            }
        }
        (rows, rest)
    }

    /// How many calls [`calls`](Self::calls) makes.
    pub(super) fn n_calls(&self, most_pitch: usize) -> usize {
        let (_, rest) = self.plan(most_pitch);
        rest.iter().map(|dimension| dimension.n).product()
    }

    /// The driver's calls that make up this copy, none with a pitch above `most_pitch`.
    pub(super) fn calls<E>(
        &self,
        most_pitch: usize,
        mut each: impl FnMut(Rows) -> Result<(), E>,
    ) -> Result<(), E> {
        let (rows, rest) = self.plan(most_pitch);
        let n_calls: usize = rest.iter().map(|dimension| dimension.n).product();
        (0..n_calls).try_for_each(|call| {
            let (mut left, mut place) = (call, (rows.source, rows.destination));
            for dimension in rest.iter().rev() {
                let i = (left % dimension.n).cast_signed();
                left /= dimension.n;
                place.0 = place.0.wrapping_add_signed(dimension.source * i);
                place.1 = place.1.wrapping_add_signed(dimension.destination * i);
            }
            each(Rows {
                source: place.0,
                destination: place.1,
                ..rows
            })
        })
    }
}

/// The largest dimension that can take a role, with what the role needs.
fn best<T>(dimensions: &[Dimension], role: impl Fn(&Dimension) -> Option<T>) -> Option<(usize, T)> {
    let able = dimensions
        .iter()
        .enumerate()
        .filter_map(|(i, dimension)| Some((i, role(dimension)?)));
    able.max_by_key(|(i, _)| dimensions[*i].n)
}

impl Dimension {
    fn at(&self, end: End) -> isize {
        match end {
            End::Source => self.source,
            End::Destination => self.destination,
        }
    }

    /// As rows of `width` bytes: what the driver takes for a pitch.
    fn pitches(&self, width: usize, most: usize) -> Option<(usize, usize)> {
        let pitch = |step: isize| {
            usize::try_from(step)
                .ok()
                .filter(|step| (width..=most).contains(step))
        };
        Some((pitch(self.source)?, pitch(self.destination)?))
    }

    /// As slices of these rows: the rows from one slice to the next.
    fn slices(&self, rows: &Rows) -> Option<(usize, usize)> {
        let slice = |step: isize, pitch: usize| {
            let step = usize::try_from(step).ok()?;
            (step.is_multiple_of(pitch) && step / pitch >= rows.height).then_some(step / pitch)
        };
        Some((
            slice(self.source, rows.pitch.0)?,
            slice(self.destination, rows.pitch.1)?,
        ))
    }
}

#[cfg(test)]
mod tests;
