"""Classical reconstructions, run like methods."""
