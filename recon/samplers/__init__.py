"""Posterior samplers, one method a file; `recon.runs.methods` names them and loads them."""
