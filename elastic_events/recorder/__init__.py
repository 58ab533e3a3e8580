"""The flight recorder: rings in a mapped file, which outlive the process that wrote them, and who collects them."""
