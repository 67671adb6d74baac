"""The limits in force, in groups: each part is handed the group that it keeps to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bodies on their way in."""

    max_json_bytes: int
    max_binary_bytes: int
    idle_timeout_ms: int
    """Longest pause within a body."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold."""

    max_rank: int
    """Axes of a tensor."""
    max_extent: int
    """Kernel, stride, dilation and padding along one axis, elements."""
    max_replicas: int
    """Tensors in a list of inputs."""
    max_batch_requests: int
    max_layers: int
    """Layers of a chain."""


@dataclass(frozen=True, slots=True)
class ResultLimits:
    """What answering one request may take."""

    max_output_bytes: int
    """Result and working memory."""
    max_cost_ms: int
    """Computing time, as estimated."""


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Waiting, and the memory that is waited for."""

    request_timeout_ms: int
    """From a request's arrival to its answer."""
    queue_timeout_ms: int
    """For memory or a turn."""
    max_queued_requests: int
    memory_budget_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """All of them."""

    bodies: BodyLimits
    requests: RequestLimits
    results: ResultLimits
    queue: QueueLimits
