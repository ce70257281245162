"""Exact posteriors and the test of samplers against them."""
