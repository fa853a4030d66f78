"""TLS over the transports of an event loop: Python classes only, so there is nothing to cimport."""
