"""Stores by role. Every role is a Protocol with an embedded default, so that the whole DAG runs with no server."""
