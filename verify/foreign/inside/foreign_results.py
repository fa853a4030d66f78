"""A pytest plugin: writes down what each test came to as soon as it is known, and leaves out what is known already.

A run that crashed or hung is so continued by another one. Each line is JSON: ``[id, "start"]``, then
``[id, outcome, report]``.
"""

import asyncio
import json
import logging
import os
from pathlib import Path

RESULTS = Path(os.environ["SPDKTHREAD_FOREIGN_RESULTS"])
EXCLUDED = json.loads(os.environ["SPDKTHREAD_FOREIGN_EXCLUDED"])


def write(*line):
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")


def known():
    if not RESULTS.exists():
        return set()
    return {json.loads(line)[0] for line in RESULTS.read_text().splitlines()}


def pytest_configure(config):
    stand_in = os.environ["SPDKTHREAD_FOREIGN_SHIM"]
    if stand_in == "uvloop":
        # Its tests ask this module for loops: they get the default one of this run.
        import uvloop

        uvloop.new_event_loop = lambda: asyncio.SelectorEventLoop()
        uvloop.EventLoopPolicy = asyncio.DefaultEventLoopPolicy
    elif stand_in == "tornado":
        # Its tests count what is logged, and its own runner leaves the requests out.
        logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    elif stand_in == "twisted":
        from twisted.internet import asyncioreactor

        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        asyncioreactor.install(loop)


def pytest_collection_modifyitems(config, items):
    done = known()
    kept, left_out = [], []
    for item in items:
        out = item.nodeid in done or any(part in item.nodeid for part in EXCLUDED)
        (left_out if out else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_runtest_logstart(nodeid, location):
    write(nodeid, "start")


outcomes = {}


def pytest_runtest_logreport(report):
    worst = outcomes.get(report.nodeid)
    now = "failed" if report.failed else "skipped" if report.skipped else "passed"
    if worst is None or now == "failed" or (now == "skipped" and worst[0] == "passed"):
        outcomes[report.nodeid] = (now, report.longreprtext if report.failed else "")


def pytest_runtest_logfinish(nodeid, location):
    write(nodeid, *outcomes.pop(nodeid, ("failed", "no report")))


def pytest_collectreport(report):
    if report.failed:
        write(report.nodeid, "failed", report.longreprtext)
