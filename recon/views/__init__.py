"""Pictures: contact sheets and maps."""
