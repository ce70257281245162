"""What a command does: plan, execute, write; provenance and rerun."""
