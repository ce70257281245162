"""Network architectures; each knows nothing of noise levels beyond the embedding it is given."""
