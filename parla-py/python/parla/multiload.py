"""0.2's module for several copies of a library in one process; importing it is an `ImportError`."""

raise ImportError(
    "parla.multiload: several copies of a library in one process (multiload, VECs) need a patched C library and were never finished. To "
    "bound the threads that a library uses inside a task there is parla.environments.ThreadLimit",
    name=__name__,
)
