"""Sample data, installed as `recon.sample_data`."""
