"""Published checkpoints: read without executing anything from the file, identified by family, adapted to Denoisers."""
