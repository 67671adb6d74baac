"""Every layer from its mathematics, in numpy and float64, and the service held against it.

The modules that compute know neither torch nor the service.
"""
