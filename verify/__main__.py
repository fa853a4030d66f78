"""``python -m verify --minutes N [--stage NAME] [--skip NAME] [--seed N]``: every check, or those named.

``docs/reliability.md`` says what each is for.

Every stage runs, also after one has failed. The table at the end says what each found, and so does
``build/verify/report-<python>.json``. The exit status is 0 only when no stage failed. A stage that could not be run
here does not fail, and is said loudly.
"""

import argparse
import json
import os
import platform
import signal
import sys
import sysconfig
import time
import traceback

from verify import flavours
from verify.running import Failed, NotRun, Run
from verify.stages import STAGES

OK, FAILED, NOT_RUN = "ok", "FAILED", "NOT RUN"


def perform(stage, run):
    """``(state, figures, why)`` of one stage."""
    try:
        return OK, stage.check(run), ""
    except NotRun as reason:
        return NOT_RUN, {}, str(reason)
    except Failed as failure:
        return FAILED, failure.figures, str(failure)
    except Exception:
        return FAILED, {}, traceback.format_exc()


def as_text(figures):
    """The figures of a stage in one line, without those that are lists of more."""
    shown = []
    for name, figure in figures.items():
        if isinstance(figure, (dict, list)):
            continue
        number = f"{figure:,}" if isinstance(figure, int) and "seed" not in name else str(figure)
        shown.append(f"{name} {number}")
    return ", ".join(shown)


def main():
    arguments = argparse.ArgumentParser(prog="python -m verify")
    arguments.add_argument("--minutes", type=float, default=3, help="for all stages together, builds not counted")
    arguments.add_argument("--stage", action="append", choices=[stage.name for stage in STAGES])
    arguments.add_argument("--skip", action="append", default=[], choices=[stage.name for stage in STAGES])
    arguments.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    options = arguments.parse_args()
    # A shell's background job ignores Ctrl-C, and what it starts does too: tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    label = flavours.label_of()
    flavours.ROOT.mkdir(parents=True, exist_ok=True)
    run = Run(options.minutes, options.seed, flavours.ROOT / f"log-{label}.txt")
    run.log.write_text("")
    python = f"{platform.python_version()}{'t' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''}"
    print(
        f"verify: {options.minutes:g} minutes on Python {python}, seed {options.seed}, output in {run.log}", flush=True
    )
    results = []
    begun = time.monotonic()
    for stage in STAGES:
        if (options.stage and stage.name not in options.stage) or stage.name in options.skip:
            continue
        begin = time.monotonic()
        state, figures, why = perform(stage, run)
        seconds = time.monotonic() - begin
        results.append({"stage": stage.name, "state": state, "seconds": round(seconds), "figures": figures, "why": why})
        print(f"-------- {stage.name}: {state} after {seconds:.0f} s: {as_text(figures)}", flush=True)
        if why:
            print("\n".join("    " + line for line in why.splitlines()[-40:]), flush=True)
    failed = [one["stage"] for one in results if one["state"] == FAILED]
    report = {
        "python": python,
        "machine": {"system": platform.platform(), "cores": len(os.sched_getaffinity(0))},
        "minutes asked for": options.minutes,
        "minutes taken": round((time.monotonic() - begun) / 60, 1),
        "seed": options.seed,
        "stages": results,
    }
    (flavours.ROOT / f"report-{label}.json").write_text(json.dumps(report, indent=1))
    (flavours.ROOT / "report.json").write_text(json.dumps(report, indent=1))
    print(f"\n{'stage':24} {'':8} {'s':>5}  figures")
    for one in results:
        print(f"{one['stage']:24} {one['state']:8} {one['seconds']:5}  {as_text(one['figures'])}")
    for one in results:
        if one["state"] == NOT_RUN:
            print(f"\nNOT RUN: {one['stage']}: {one['why']}")
    verdict = f"FAILED: {', '.join(failed)}" if failed else "passed"
    print(f"\nverify {verdict}, {report['minutes taken']} minutes, seed {options.seed}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
