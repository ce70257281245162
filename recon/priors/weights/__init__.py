"""Weights of the shipped priors (safetensors) and their model cards."""
