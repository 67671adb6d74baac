"""Golden vectors as files: one module for each format, the manifest, and the replay.

A writer takes a set and returns its files, by path within the output folder, and the cases that
the format cannot express, each with the reason.
"""

from app.vector_files._formats import FORMATS, write
from app.vector_files._replay import Failure, UnreadableSet, replay
from app.vector_files._set import VectorSet
from app.vector_files._url import Unreachable, over_http

__all__ = [
    "FORMATS",
    "Failure",
    "Unreachable",
    "UnreadableSet",
    "VectorSet",
    "over_http",
    "replay",
    "write",
]
