"""Reconstruct images and volumes from indirect measurements by posterior sampling under diffusion priors."""

__version__ = "0.1.0"
