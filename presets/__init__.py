"""Presets (TOML), installed as `recon.presets`."""
