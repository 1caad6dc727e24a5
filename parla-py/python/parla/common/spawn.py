"""0.3's module name for ``spawn``."""

from parla.tasks import spawn

__all__ = ["spawn"]
