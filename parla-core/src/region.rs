//! Parts of arrays: boxes of any rank, and what a task does with them.

use std::fmt;
use std::ops::Range;

use smallvec::SmallVec;

/// What a task does with a part of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reads it.
    Input,
    /// Writes all of it without reading it first: nothing is fetched.
    Output,
    /// Reads and writes it.
    InOut,
}

impl Access {
    /// Whether the old contents matter.
    #[must_use]
    pub fn reads(self) -> bool {
        !matches!(self, Self::Output)
    }

    /// Whether the contents change.
    #[must_use]
    pub fn writes(self) -> bool {
        !matches!(self, Self::Input)
    }
}

/// A box of elements: one range of indices per dimension of its array. An array without dimensions has one element and one region.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Region {
    ranges: SmallVec<[(usize, usize); 2]>,
}

impl Region {
    /// The box with these ranges; a range whose end is before its start is empty.
    pub fn new(ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        let ranges = ranges.into_iter().map(|r| (r.start, r.end.max(r.start)));
        Self {
            ranges: ranges.collect(),
        }
    }

    /// All of an array of this shape.
    #[must_use]
    pub fn whole(shape: &[usize]) -> Self {
        Self::new(shape.iter().map(|&n| 0..n))
    }

    /// Number of dimensions.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.ranges.len()
    }

    /// The range of indices along each dimension.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + '_ {
        self.ranges.iter().map(|&(start, end)| start..end)
    }

    /// Number of indices along each dimension.
    #[must_use]
    pub fn shape(&self) -> SmallVec<[usize; 4]> {
        self.ranges
            .iter()
            .map(|&(start, end)| end - start)
            .collect()
    }

    /// Number of elements.
    #[must_use]
    pub fn n_elements(&self) -> usize {
        self.ranges
            .iter()
            .map(|&(start, end)| end - start)
            .product()
    }

    /// Whether it has no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.iter().any(|&(start, end)| start == end)
    }

    /// What both have; `None` if that is nothing.
    ///
    /// # Panics
    /// When the ranks differ: the boxes belong to different arrays.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        self.same_rank(other);
        let ranges: SmallVec<_> = self
            .ranges
            .iter()
            .zip(&other.ranges)
            .map(|(a, b)| (a.0.max(b.0), a.1.min(b.1)))
            .collect();
        ranges
            .iter()
            .all(|&(start, end)| start < end)
            .then_some(Self { ranges })
    }

    /// Whether `other` lies inside. An empty box lies inside every box of its rank.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.same_rank(other);
        other.is_empty()
            || self
                .ranges
                .iter()
                .zip(&other.ranges)
                .all(|(a, b)| a.0 <= b.0 && b.1 <= a.1)
    }

    /// Disjoint boxes that make up what is in `self` and not in `other`: at most two per dimension.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Vec<Self> {
        let Some(common) = self.intersection(other) else {
            return if self.is_empty() {
                Vec::new()
            } else {
                vec![self.clone()]
            };
        };
        let mut rest = self.clone();
        let mut parts = Vec::new();
        for (dimension, &(start, end)) in common.ranges.iter().enumerate() {
            let (from, to) = rest.ranges[dimension];
            for (a, b) in [(from, start), (end, to)] {
                if a < b {
                    let mut part = rest.clone();
                    part.ranges[dimension] = (a, b);
                    parts.push(part);
                }
            }
            rest.ranges[dimension] = (start, end);
        }
        parts
    }

    /// The smallest box that contains both.
    #[must_use]
    pub fn hull(&self, other: &Self) -> Self {
        self.same_rank(other);
        if self.is_empty() {
            return other.clone();
        }
        if other.is_empty() {
            return self.clone();
        }
        let pairs = self.ranges.iter().zip(&other.ranges);
        Self {
            ranges: pairs.map(|(a, b)| (a.0.min(b.0), a.1.max(b.1))).collect(),
        }
    }

    fn same_rank(&self, other: &Self) {
        assert_eq!(
            self.rank(),
            other.rank(),
            "regions {self} and {other} belong to different arrays"
        );
    }
}

impl fmt::Display for Region {
    /// As NumPy writes it: `[0:4, 2:8]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, (start, end)) in self.ranges.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{start}:{end}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
