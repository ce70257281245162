"""The command line, installed as `recon.cli`."""
