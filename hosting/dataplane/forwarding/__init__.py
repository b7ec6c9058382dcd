"""Carries a planned request to its server, and the answer back, whole or as a stream."""
