"""Other projects' tests, on our event loop and on the standard one. ``python -m verify.foreign --help``."""
