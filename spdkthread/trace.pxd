"""For other Cython code: ``from spdkthread.trace cimport trace_user``."""

from spdkthread.trace_ring cimport trace_user
