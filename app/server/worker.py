"""The app factory of each serving process."""

import logging

from starlette.types import ASGIApp

from app.compute.runtime import prepare_process
from app.main import create_app
from app.settings import Settings


def build(settings: Settings) -> ASGIApp:
    """Prepare the process, and build its app."""
    logging.captureWarnings(True)
    prepare_process()
    return create_app(settings)
