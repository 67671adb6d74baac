"""The surprises of torch's layers, and what Lamina does in each place: `python -m tests.surprises`.

Each file of rows tells what torch 2.13 does on the CPU without saying so, what this service does,
and requests that hold it to that; `test_torch_pools.py` and `test_torch_norms.py` hold torch to
what is told of it. docs/surprises.md is printed from the rows.
"""
