"""The Open Inference Protocol, REST: every layer as a model. A face over the same services."""

from app.api.v2._app import build_app, build_router, refusal

__all__ = ["build_app", "build_router", "refusal"]
