"""System calls that fail, one after the other: what becomes of a program, of its records, and of the next start."""
