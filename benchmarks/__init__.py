"""The figures of spdkthread beside those of its peers, one question per file: ``python -m benchmarks --help``."""
