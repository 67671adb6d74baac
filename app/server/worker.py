"""What each serving process does before it builds the app."""

import logging

from starlette.types import ASGIApp

from app.compute.runtime import prepare_process
from app.main import create_app
from app.settings import Settings


def build(settings: Settings) -> ASGIApp:
    """The app of one serving process."""
    logging.captureWarnings(True)
    prepare_process()
    return create_app(settings)
