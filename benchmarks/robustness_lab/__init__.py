"""Modules of the benchmark scripts beside this folder."""
