"""Who computes when. Knows no HTTP and no torch."""

from app.scheduling.threads import Threads

__all__ = ["Threads"]
