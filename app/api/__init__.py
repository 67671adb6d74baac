"""The HTTP API: routes generated from the list of layers, problem details, documentation."""
