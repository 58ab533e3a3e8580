"""The core: a bus that knows no torch, no sink and no event."""
