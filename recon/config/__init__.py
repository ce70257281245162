"""Typed configuration: schema, presets, overrides, and the origin of every value."""
