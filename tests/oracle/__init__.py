"""Clients written apart from the service, by which its answers to `check` are judged."""
