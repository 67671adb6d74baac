"""Everything around uvicorn: the command line, worker processes, graceful shutdown."""
