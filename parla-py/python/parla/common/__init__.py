"""Where version 0.3 has what programs import from ``parla.common``; new programs find all of it in `parla` and its modules."""
