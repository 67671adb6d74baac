"""Observability: metrics, logs and traces, and the labels they use."""
