"""The words of the wire: what requests and answers are made of. Pydantic only."""
