"""Read by each interpreter of a suite as it starts, those that tests start included: which event loop is the default.

Both runs of a suite import the same modules here, so that nothing but the loop differs.
"""

import os

from our_loop import put_in_place

if os.environ.get("SPDKTHREAD_FOREIGN_LOOP") == "ours":
    put_in_place()
