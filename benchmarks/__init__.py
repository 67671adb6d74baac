"""Lamina side by side with the service one would write, as ratios in one run."""
