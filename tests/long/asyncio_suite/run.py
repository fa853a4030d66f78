"""Run modules of CPython's own test.test_asyncio with `aio.EventLoop` in place of the selector event loop.

    python tests/long/asyncio_suite/run.py test_events test_streams ...

Every place where the standard library makes a selector loop makes ours instead. What fails is printed, one
``FAILED <id>`` a line, before a line with the totals.
"""

import sys
import unittest
import warnings

from verify.foreign.inside.our_loop import put_in_place


class Result(unittest.TextTestResult):
    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error is not None:
            self.failed_ids.add(test.id())

    def addError(self, test, error):
        super().addError(test, error)
        self.failed_ids.add(test.id())

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.failed_ids.add(test.id())

    failed_ids: set[str] = set()  # noqa: RUF012 - one run per process


def main(names):
    put_in_place()
    loader = unittest.TestLoader()
    suite = unittest.TestSuite(
        loader.loadTestsFromName(name if "." in name else f"test.test_asyncio.{name}") for name in names
    )
    warnings.simplefilter("default")
    result = unittest.TextTestRunner(verbosity=0, resultclass=Result, stream=sys.stderr).run(suite)
    for failed in sorted(Result.failed_ids):
        print(f"FAILED {failed}")
    print(f"RAN {result.testsRun} SKIPPED {len(result.skipped)} FAILED {len(Result.failed_ids)}")


if __name__ == "__main__":
    main(sys.argv[1:])
