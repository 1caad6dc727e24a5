"""What Parla is meant to reach, measure by measure, beside its peers in the same run."""

from __future__ import annotations

from dataclasses import dataclass

from measure import Measurement

PEER = "threadpool"
"""The peer that ratios in targets refer to."""


@dataclass(frozen=True)
class Target:
    """A bound on Parla's median and, where set, on how many times better than the peer it is."""

    bound: float
    times_better: float | None = None

    def met(self, found: Measurement) -> bool | None:
        """Whether Parla's medians keep it; ``None`` without the needed medians."""
        ours, peer = found.median("parla"), found.median(PEER)
        if ours is None:
            return None
        within = ours >= self.bound if found.higher_is_better else ours <= self.bound
        if self.times_better is None:
            return within
        if peer is None:
            return None
        return within and peer / ours >= self.times_better

    def text(self, found: Measurement) -> str:
        """The target in the measure's own unit."""
        words = f"{'>=' if found.higher_is_better else '<='} {self.bound:g}"
        if self.times_better is not None:
            words += f", {self.times_better:g}x"
        return words


GIL_SHARES = (0, 5, 20, 50, 100)

TARGETS: dict[tuple[str, str], Target] = {
    ("empty", "independent"): Target(2.5, times_better=5),
    ("empty", "chain"): Target(2.5, times_better=5),
    ("empty", "stencil"): Target(4, times_better=5),
    ("empty", "tree"): Target(3, times_better=5),
    ("d50", "independent"): Target(8),
    ("d50", "stencil"): Target(8),
    **{("gil", f"{share} % held"): Target(97) for share in GIL_SHARES},
    ("memory", "pending task"): Target(700),
    ("scale", "most / fewest"): Target(1.5),
    ("cholesky", "time / ideal"): Target(1.15),
    ("idle", "CPU use"): Target(0.5),
    ("coherence", "inout=[array] adds"): Target(1),
    ("coherence", "inout=[slice] adds"): Target(2),
    ("import", "parla, beyond NumPy"): Target(150),
}
"""Keyed by section and measure; units are those of the measurements."""
