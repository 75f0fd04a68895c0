"""Samplers: generators of states with one signature, started from seeds."""
