"""Configurations of the shipped priors, read by `recon train`."""
