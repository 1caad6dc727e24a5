"""Where version 0.3 has what programs import from ``parla.cython``; new programs find all of it in `parla` and its modules.

Nothing here is compiled by Cython.
"""
