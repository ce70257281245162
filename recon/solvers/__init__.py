"""Iterative solvers as pure functions of callables."""
