"""How much memory requests may take."""

import os
from pathlib import Path

from app import cgroup

SHARE = 0.7
MIB = 1 << 20
PROCESS_BYTES = 256 * MIB
"""What a process takes before its first request: torch, mostly."""
PARSER_FACTOR = 14
"""What the JSON parser keeps, to the longest body."""
LEAST_BYTES = 64 * MIB


def memory_budget(workers: int, max_json_body_bytes: int, root: Path = cgroup.ROOT) -> int:
    """Bytes for the requests of one process: its share of 70 % of the container's memory, less
    what the process takes by itself.
    """
    share = int(SHARE * memory_limit(root)) // workers
    return max(share - PROCESS_BYTES - PARSER_FACTOR * max_json_body_bytes, LEAST_BYTES)


def memory_limit(root: Path = cgroup.ROOT) -> int:
    """The container's memory, or the machine's where nothing bounds it, bytes."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(min(cgroup.memory_limit(root), physical))
