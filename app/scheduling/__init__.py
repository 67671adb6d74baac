"""Scheduling: admission by memory and cost, deadlines, threads. No HTTP and no torch."""

from app.scheduling.claims import INLINE_MS, Admission, Claim
from app.scheduling.deadline import Abandoned, Deadline, clock
from app.scheduling.memory import memory_budget
from app.scheduling.steps import Steps, finished
from app.scheduling.threads import Threads

__all__ = [
    "INLINE_MS",
    "Abandoned",
    "Admission",
    "Claim",
    "Deadline",
    "Steps",
    "Threads",
    "clock",
    "finished",
    "memory_budget",
]
