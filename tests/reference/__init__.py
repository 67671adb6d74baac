"""Reference implementations of all layers in NumPy and float64, and tests of the service with them.

The modules that compute depend on neither torch nor the service.
"""
