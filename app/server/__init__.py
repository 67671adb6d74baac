"""The uvicorn side: the command line, workers, the end of the process."""
