"""Surprising behaviors of torch's layers, and what Lamina does instead.

Each file of rows says what torch 2.13 silently does on the CPU and what this service does, with
requests that check the service; `test_torch_pools.py` and `test_torch_norms.py` check torch.
`python -m tests.surprises` writes docs/surprises.md from the rows.
"""
