//! Regions against sets of points.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn points(region: &Region) -> BTreeSet<(usize, usize)> {
    let ranges: Vec<_> = region.ranges().collect();
    let (rows, columns) = (ranges[0].clone(), ranges[1].clone());
    rows.flat_map(|i| columns.clone().map(move |j| (i, j)))
        .collect()
}

fn regions() -> impl Strategy<Value = Region> {
    (0..6_usize, 0..6_usize, 0..6_usize, 0..6_usize)
        .prop_map(|(a, b, c, d)| Region::new([a..b, c..d]))
}

proptest! {
    #[test]
    fn as_sets_of_points(a in regions(), b in regions()) {
        let (p, q) = (points(&a), points(&b));
        prop_assert_eq!(a.n_elements(), p.len());
        prop_assert_eq!(a.is_empty(), p.is_empty());
        let common = a.intersection(&b).map(|c| points(&c)).unwrap_or_default();
        prop_assert_eq!(common, p.intersection(&q).copied().collect::<BTreeSet<_>>());
        prop_assert_eq!(a.contains(&b), q.is_subset(&p));
        let parts = a.difference(&b);
        let n: usize = parts.iter().map(Region::n_elements).sum();
        let united: BTreeSet<_> = parts.iter().flat_map(points).collect();
        prop_assert_eq!(n, united.len(), "parts are disjoint");
        prop_assert_eq!(united, p.difference(&q).copied().collect::<BTreeSet<_>>());
        let hull = a.hull(&b);
        prop_assert!(hull.contains(&a) && hull.contains(&b));
    }
}

#[test]
fn no_dimensions_is_one_element() {
    let scalar = Region::whole(&[]);
    assert_eq!(scalar.n_elements(), 1);
    assert!(!scalar.is_empty());
    assert_eq!(scalar.intersection(&scalar), Some(scalar.clone()));
    assert!(scalar.contains(&scalar));
    assert!(scalar.difference(&scalar).is_empty());
}

#[test]
fn text_is_numpy_s() {
    assert_eq!(Region::new([0..4, 2..8]).to_string(), "[0:4, 2:8]");
}
