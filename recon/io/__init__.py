"""File formats behind one registry: sniff, read, write atomically."""
