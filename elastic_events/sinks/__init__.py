"""Sinks: handlers that write records somewhere. A class each, or its URL: see `sinks.urls`."""
