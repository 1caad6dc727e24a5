"""0.3's module name for specialized functions."""

from parla.function_decorators import specialize, specialized

__all__ = ["specialize", "specialized"]
