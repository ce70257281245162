"""Diffusion priors behind one contract, D(x, sigma) -> E[x0 | x0 + sigma n = x]."""
