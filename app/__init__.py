"""Lamina: neural-network layers over HTTP, with their gradients."""

__version__ = "0.1.0"
