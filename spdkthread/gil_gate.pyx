"""The gate before the GIL. See ``gil_gate.pxd``; this module only owns the two words."""
