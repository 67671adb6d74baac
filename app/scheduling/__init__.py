"""Who computes when. Knows no HTTP and no torch."""

from app.scheduling.threads import INLINE_MS, Threads

__all__ = ["INLINE_MS", "Threads"]
