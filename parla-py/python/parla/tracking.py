"""0.2's module for its own accounting of arrays; importing it is an `ImportError`."""

raise ImportError(
    "parla.tracking: the runtime's books can't be changed from outside. Arrays that are not in use give way by themselves where memory "
    "is short; PArray.evict() gives a copy back at once, rt.stats() says what was evicted",
    name=__name__,
)
