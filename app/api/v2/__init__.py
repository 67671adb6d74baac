"""The Open Inference Protocol over REST: every layer is a model, served by the same pipeline."""

from app.api.v2._app import build_app, build_router, refusal

__all__ = ["build_app", "build_router", "refusal"]
