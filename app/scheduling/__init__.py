"""Scheduling: admission by memory and cost, deadlines, threads. No HTTP and no torch."""

from app.scheduling.claims import INLINE_MS, Admission, Claim
from app.scheduling.deadline import Abandoned, Deadline, clock
from app.scheduling.memory import memory_budget
from app.scheduling.threads import Threads

__all__ = [
    "INLINE_MS",
    "Abandoned",
    "Admission",
    "Claim",
    "Deadline",
    "Threads",
    "clock",
    "memory_budget",
]
