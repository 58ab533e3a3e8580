"""A small elastic job, for `elastic-events demo`: real processes, a real model, a real kill."""
