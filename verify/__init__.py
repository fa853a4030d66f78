"""Proof of the invariants by tools: ``make verify`` or ``python -m verify --help``. See ``docs/reliability.md``."""
