"""The example that makes checksums of a tree, beside find, xargs and sha256sum, on trees made for the purpose."""

import hashlib
import importlib.util
import os
import pty
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "examples" / "checksum_tree.py"
PATIENCE_S = 60.0
CHUNK = 1 << 20
MANY = 1500
SUMMARY = re.compile(
    rb"checksum_tree: ([\d,]+) files, ([\d,]+) bytes in [\d.]+ s, [\d,.]+ MB/s; busy: core \d+ \d+%(, core \d+ \d+%)*\n"
)

pytestmark = [
    pytest.mark.skipif(
        not (shutil.which("sha256sum") and shutil.which("xargs")), reason="compares with sha256sum and xargs"
    ),
    pytest.mark.no_tsan(reason="programs that are started with it loaded into them crash now and then"),
    pytest.mark.no_coverage(reason="is of an example, and compares with other programs"),
]


def checksum_tree(*args, **kwargs):
    """Run the program as a user does; the finished process, output as bytes."""
    return subprocess.run(
        [sys.executable, PROGRAM, *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        **kwargs,
    )


def reference(path, tool="sha256sum", **kwargs):
    """The lines of find, xargs and sha256sum, sorted, and the exit status."""
    done = subprocess.run(
        ["sh", "-c", f'find "$1" -type f -print0 | xargs -0 -r {tool}', "sh", path],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        **kwargs,
    )
    return sorted(done.stdout.splitlines(keepends=True)), done.returncode


def lines(done):
    return sorted(done.stdout.splitlines(keepends=True))


@pytest.fixture
def module():
    """The program as a module, for what cannot be seen from outside."""
    spec = importlib.util.spec_from_file_location("checksum_tree", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules["checksum_tree"] = module  # as an import would
    spec.loader.exec_module(module)
    yield module
    del sys.modules["checksum_tree"]


@pytest.fixture
def odd_tree(tmp_path):
    """One of everything that a tree may hold."""
    top = os.fsencode(tmp_path / "tree")
    files = {
        b"plain": b"plain\n",
        b"empty": b"",
        b".hidden": b"hidden",
        b"-n": b"like an option",
        b"two words": b"2",
        b" leading and trailing ": b"3",
        b"new\nline": b"4",
        b"back\\slash": b"5",
        b"both\\of\nthem": b"6",
        b"carriage\rreturn": b"7",
        b"tab\t'quote\" $HOME `id` *": b"8",
        "Straße/文件".encode(): b"9",
        b"not utf-8 \xff\xfe": b"10",
        b"n" * 255: b"11",
        b"dir/new\nline/back\\slash": b"12",
        b"dir/a/b/c/d/e/f": b"13",
        b"one chunk": b"x" * CHUNK,
        b"one chunk and a byte": b"x" * (CHUNK + 1),
        b"some chunks": bytes(range(256)) * (CHUNK // 64),
    }
    for name, content in files.items():
        path = os.path.join(top, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    os.mkdir(os.path.join(top, b"empty directory"))
    os.symlink(b"plain", os.path.join(top, b"link to a file"))
    os.symlink(b"dir", os.path.join(top, b"link to a directory"))
    os.symlink(b"..", os.path.join(top, b"dir", b"link in a circle"))
    os.symlink(b"nowhere", os.path.join(top, b"dangling link"))
    os.mkfifo(os.path.join(top, b"fifo"))
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.getcwd()
        os.chdir(top)  # the name of a socket must be short
        try:
            bound.bind(b"socket")
        finally:
            os.chdir(here)
    return os.fsdecode(top)


@pytest.fixture(scope="module")
def many_files(tmp_path_factory):
    """More files than fit into small rings. Shared: to be read only."""
    top = tmp_path_factory.mktemp("many")
    for number in range(MANY):
        directory = top / str(number % 7)
        directory.mkdir(exist_ok=True)
        (directory / f"file {number}").write_bytes(b"%d" % number)
    return str(top)


# The same lines


@pytest.mark.parametrize("options", [(), ("--ring-size", "1"), ("--ring-size", "2"), ("--cores", "first")])
def test_it_writes_the_lines_of_find_and_sha256sum(odd_tree, options):
    first = str(min(os.sched_getaffinity(0)))
    done = checksum_tree(odd_tree, *(first if option == "first" else option for option in options))
    assert lines(done) == reference(odd_tree)[0]
    assert done.returncode == 0
    assert SUMMARY.fullmatch(done.stderr)


@pytest.mark.parametrize("path", [".", "./", "dir", "dir/", "dir//a", "plain", "-n", "link to a directory/", "../tree"])
def test_it_takes_every_form_of_a_path(odd_tree, path):
    written = "./-n" if path == "-n" else path  # find and sha256sum would take it for an option
    done = checksum_tree("--", written, cwd=odd_tree)
    assert lines(done) == reference(written, cwd=odd_tree)[0] != []
    assert done.returncode == 0


def test_a_path_that_is_a_symbolic_link_is_not_followed(odd_tree):
    for name in ("link to a directory", "link to a file"):
        done = checksum_tree(name, cwd=odd_tree)
        assert (done.stdout, done.returncode) == (b"", 0)
        assert reference(name, cwd=odd_tree)[0] == []


def test_an_empty_tree_has_an_empty_manifest(tmp_path):
    done = checksum_tree(tmp_path)
    assert (done.stdout, done.returncode) == (b"", 0)
    assert SUMMARY.fullmatch(done.stderr).group(1, 2) == (b"0", b"0")


def test_sha256sum_accepts_the_manifest(odd_tree, tmp_path):
    manifest = tmp_path / "manifest"
    assert checksum_tree(".", "-o", manifest, cwd=odd_tree).returncode == 0
    check = subprocess.run(["sha256sum", "-c", "--quiet", manifest], cwd=odd_tree, capture_output=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


@pytest.mark.parametrize(("algorithm", "tool"), [("md5", "md5sum"), ("sha1", "sha1sum"), ("sha512", "sha512sum")])
def test_other_algorithms_write_the_lines_of_their_tools(odd_tree, algorithm, tool):
    assert lines(checksum_tree(odd_tree, "--algorithm", algorithm)) == reference(odd_tree, tool)[0]


def test_files_that_report_no_size_are_read_to_their_end():
    name = "/proc/version"
    if not os.path.exists(name):
        pytest.skip("no /proc here")
    with open(name, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    assert checksum_tree(name).stdout == f"{digest}  {name}\n".encode()


def test_the_manifest_does_not_list_itself(odd_tree):
    manifest = os.path.join(odd_tree, "dir", "manifest")
    expected = reference(".", cwd=odd_tree)[0]
    done = checksum_tree(".", "-o", manifest, cwd=odd_tree)
    assert done.stdout == b""
    assert sorted(Path(manifest).read_bytes().splitlines(keepends=True)) == expected


def test_the_summary_counts_files_and_bytes(odd_tree):
    sizes = [
        os.lstat(os.path.join(top, name)).st_size
        for top, _, names in os.walk(odd_tree)
        for name in names
        if stat.S_ISREG(os.lstat(os.path.join(top, name)).st_mode)
    ]
    counts = SUMMARY.fullmatch(checksum_tree(odd_tree).stderr).group(1, 2)
    assert [int(count.replace(b",", b"")) for count in counts] == [len(sizes), sum(sizes)]


def test_the_summary_names_the_cores(many_files):
    cores = sorted(os.sched_getaffinity(0))[:2]
    done = checksum_tree(many_files, "--cores", ",".join(map(str, cores)))
    assert [int(core) for core in re.findall(rb"core (\d+) \d+%", done.stderr)] == cores


# What cannot be read


def test_a_path_that_does_not_exist_is_an_error(tmp_path):
    done = checksum_tree(tmp_path / "nowhere")
    assert (done.stdout, done.returncode) == (b"", 1)
    assert b"nowhere: No such file or directory\n" in done.stderr


def test_a_read_error_is_reported_as_sha256sum_reports_it():
    name = "/proc/self/mem"  # a regular file; nothing is mapped at its beginning
    if not os.path.exists(name):
        pytest.skip("no /proc here")
    done = checksum_tree(name)
    assert (done.stdout, done.returncode) == (b"", 1)
    assert done.stderr.startswith(b"checksum_tree: /proc/self/mem: Input/output error\n")
    tool = subprocess.run(["sha256sum", name], capture_output=True, check=False)
    assert (tool.stderr, tool.returncode) == (b"sha256sum: /proc/self/mem: Input/output error\n", 1)


def test_what_has_too_long_a_path_is_reported_and_the_rest_is_done(odd_tree):
    """Unreadable for root as well."""
    here = os.open(odd_tree, os.O_RDONLY)
    depth = 4096 // 201 + 1
    for level in range(depth):
        name = "d" * 200
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        os.close(os.open(f"file {level}", os.O_CREAT, dir_fd=here))
    os.close(here)
    done = checksum_tree(odd_tree)
    expected, status = reference(odd_tree)
    assert lines(done) == expected
    assert status != 0
    assert done.returncode == 1
    assert b"File name too long" in done.stderr


def test_a_file_that_cannot_be_opened_is_reported_and_the_rest_is_done(module, odd_tree, capfdbinary, monkeypatch):
    unreadable = {os.path.join(os.fsencode(odd_tree), name) for name in (b"plain", b"new\nline", b"not utf-8 \xff\xfe")}

    real_open = os.open

    def guarded_open(path, *args, **kwargs):
        if path in unreadable:
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", guarded_open)
    assert module.main([odd_tree]) == 1
    out, err = capfdbinary.readouterr()
    missing = {line for line in reference(odd_tree)[0] if line not in out.splitlines(keepends=True)}
    assert len(missing) == 3
    assert len(out.splitlines()) == len(reference(odd_tree)[0]) - 3
    assert err.count(b"Permission denied") == 3
    assert len(err.splitlines()) == 4  # one line each, whatever is in the name


def test_a_directory_that_cannot_be_listed_is_reported_and_the_rest_is_done(module, odd_tree, capfdbinary, monkeypatch):
    entries = module.entries

    def guarded_entries(directory, at_once=False):
        if directory.endswith(b"/dir"):
            raise PermissionError(13, "Permission denied", directory)
        return entries(directory, at_once)

    monkeypatch.setattr(module, "entries", guarded_entries)
    assert module.main([odd_tree]) == 1
    out, err = capfdbinary.readouterr()
    inside = os.fsencode(odd_tree) + b"/dir/"
    assert sorted(out.splitlines(keepends=True)) == [line for line in reference(odd_tree)[0] if inside not in line]
    assert err.startswith(b"checksum_tree: " + inside[:-1] + b": Permission denied\n")


def test_a_file_that_vanishes_is_reported(module, odd_tree, capfdbinary, monkeypatch):
    gone = os.path.join(os.fsencode(odd_tree), b"plain")
    offer = module.Worker.offer

    def remove_first(worker, path, size):
        if path == gone and os.path.exists(gone):
            os.remove(gone)
        return offer(worker, path, size)

    monkeypatch.setattr(module.Worker, "offer", remove_first)
    assert module.main([odd_tree]) == 1
    out, err = capfdbinary.readouterr()
    assert sorted(out.splitlines(keepends=True)) == reference(odd_tree)[0]
    assert err.startswith(b"checksum_tree: " + gone + b": No such file or directory\n")


# Bounded memory, and a reactor that goes on


@pytest.mark.parametrize("ring_size", ["1", "3", "16"])
def test_with_small_rings_nothing_is_lost_and_nothing_piles_up(module, many_files, tmp_path, ring_size, monkeypatch):
    runs, refusals = [], []
    start = module.Run.__enter__
    offer = module.Worker.offer

    def remember(run):
        runs.append(run)
        return start(run)

    def count_refusals(worker, path, size):
        accepted = offer(worker, path, size)
        if not accepted:
            refusals.append(path)
        return accepted

    monkeypatch.setattr(module.Run, "__enter__", remember)
    monkeypatch.setattr(module.Worker, "offer", count_refusals)
    manifest = tmp_path / "manifest"
    assert module.main([many_files, "--ring-size", ring_size, "-o", str(manifest)]) == 0
    assert sorted(manifest.read_bytes().splitlines(keepends=True)) == reference(many_files)[0]
    assert refusals  # the walker was faster, and waited
    (run,) = runs
    for worker in run.workers:
        assert worker.inbox.stats.high_water <= worker.inbox.ring_size == 1 << (int(ring_size) - 1).bit_length()
        assert worker.thread.stats.errors == 0
    assert run.collector.files == run.walker.files == MANY


def test_a_collector_that_is_slow_makes_the_workers_wait(module, many_files, capfdbinary, monkeypatch):
    manifest_line = module.manifest_line
    waits = []

    def slowly(path, digest):
        if len(waits) < 50:
            waits.append(threading.Event().wait(0.002))
        return manifest_line(path, digest)

    monkeypatch.setattr(module, "manifest_line", slowly)
    monkeypatch.setattr(module, "SMALL_BYTES", 0)  # a worker of another OS thread has files, and goes on meanwhile
    runs = []
    init = module.Run.__init__
    monkeypatch.setattr(module.Run, "__init__", lambda run, *args: (runs.append(run), init(run, *args))[1])
    assert module.main([many_files, "--ring-size", "1"]) == 0
    assert sorted(capfdbinary.readouterr().out.splitlines(keepends=True)) == reference(many_files)[0]
    assert runs[0].collector.thread.stats.ring_full > 0


def test_memory_does_not_grow_with_the_tree(tmp_path):
    name = "n" * 200
    peaks = []
    for count in (1_000, 20_000):
        top = tmp_path / str(count)
        for number in range(count):
            if number % 1000 == 0:
                directory = top / str(number)
                directory.mkdir(parents=True)
            os.close(os.open(f"{directory}/{name}{number}", os.O_CREAT))
        script = (
            "import resource, runpy, sys\n"
            "try: runpy.run_path(sys.argv.pop(1), run_name='__main__')\n"
            "finally: print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, PROGRAM, top, "--ring-size", "16", "-o", os.devnull],
            capture_output=True,
            timeout=PATIENCE_S,
            check=True,
        )
        peaks.append(int(re.search(rb"peak (\d+)", done.stderr).group(1)))
    # In KiB; the paths alone of the larger tree take 5 MB more than those of the smaller one.
    assert peaks[1] - peaks[0] < 2_500


def test_a_tree_may_be_deeper_than_there_are_file_descriptors(tmp_path):
    deep = tmp_path
    for level in range(300):
        deep = deep / "d"
        deep.mkdir()
        if level % 50 == 0:
            (deep / "file").write_text(str(level))

    def few_descriptors():
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))

    done = checksum_tree(tmp_path, preexec_fn=few_descriptors)
    assert lines(done) == reference(tmp_path)[0]
    assert len(lines(done)) == 6
    assert done.returncode == 0


def test_a_large_file_does_not_hold_up_the_other_threads_of_its_reactor(module, tmp_path, monkeypatch):
    """One chunk a turn: the walker has come to its end long before the first file is done."""
    monkeypatch.setattr(module, "POLL_TICKS", 0)
    for number in range(3):
        with open(tmp_path / f"large {number}", "wb") as file:
            file.truncate(20 * CHUNK)
    first = str(min(os.sched_getaffinity(0)))
    written = []
    _, args = module.parse_arguments([str(tmp_path), "--cores", first])
    run = module.Run(args, written.append, None)
    (reactor,) = run.reactors
    turns_of = {}
    while not run.finished.is_set():
        reactor.poll()
        turns_of.setdefault(("walked", run.collector.expected), reactor.stats.turns)
        turns_of.setdefault(("files", run.collector.files), reactor.stats.turns)
    with run:
        pass
    assert len(written) == 3
    assert turns_of["walked", 3] < turns_of["files", 1]
    assert turns_of["files", 3] > 60


# Terminals, pipes and signals


def in_a_terminal(*command, stdout_too=False):
    """Start `command` with standard error on a terminal; the process and our end of it."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=theirs if stdout_too else subprocess.PIPE,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
            start_new_session=True,
        )
    finally:
        os.close(theirs)
    return process, ours


def read_until(fd, wanted=None):
    """Read from a terminal until `wanted` was seen, or to the end."""
    seen = b""
    while wanted is None or wanted not in seen:
        try:
            more = os.read(fd, 65536)
        except OSError:  # the other side is closed
            break
        if not more:
            break
        seen += more
    return seen


def finish(process, ours):
    seen = read_until(ours)
    os.close(ours)
    out = process.communicate(timeout=PATIENCE_S)[0]
    return process.returncode, out, seen.replace(b"\r\n", b"\n")


def test_on_a_terminal_there_is_a_progress_bar(odd_tree):
    pytest.importorskip("rich")
    status, out, seen = finish(*in_a_terminal(sys.executable, PROGRAM, odd_tree))
    assert status == 0
    assert sorted(out.splitlines(keepends=True)) == reference(odd_tree)[0]
    assert "━".encode() in seen
    assert b" files, " in seen
    assert SUMMARY.search(seen)


def test_without_rich_a_line_takes_its_place(odd_tree):
    script = "import runpy, sys; sys.modules['rich'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    status, out, seen = finish(*in_a_terminal(sys.executable, "-c", script, PROGRAM, odd_tree))
    assert status == 0
    assert sorted(out.splitlines(keepends=True)) == reference(odd_tree)[0]
    assert b"pip install rich" in seen
    assert SUMMARY.search(seen)


def test_lines_on_the_same_terminal_stay_whole(many_files):
    status, _, seen = finish(*in_a_terminal(sys.executable, PROGRAM, many_files, stdout_too=True))
    assert status == 0
    printable = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\r", b"", seen)
    assert sorted(re.findall(rb"[0-9a-f]{64}  /[^\n]*\n", printable)) == reference(many_files)[0]


def test_in_a_pipe_there_is_nothing_but_the_summary(many_files):
    assert SUMMARY.fullmatch(checksum_tree(many_files).stderr)


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_it_cleanly(tmp_path, presses):
    for number in range(100):
        (tmp_path / str(number)).write_text("small")
    with open(tmp_path / "endless", "wb") as file:
        file.truncate(1 << 42)
    process, ours = in_a_terminal(sys.executable, "-X", "dev", PROGRAM, tmp_path, "--ring-size", "8")
    read_until(ours, b" files, ")
    for _ in range(presses):
        process.send_signal(signal.SIGINT)
    status, _, seen = finish(process, ours)
    if presses == 1:
        assert status == 130
        assert seen.endswith(b"checksum_tree: interrupted\n")
        for complaint in (b"Traceback", b"Warning", b"Error", b"never ran"):
            assert complaint not in seen
    else:
        assert status != 0


def test_a_reader_that_goes_away_ends_it(many_files):
    process = subprocess.Popen(
        [sys.executable, PROGRAM, many_files], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(PATIENCE_S) == 1
    assert err == b"checksum_tree: standard output: Broken pipe\n"


def test_a_full_disk_ends_it(many_files):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    done = checksum_tree(many_files, "-o", "/dev/full")
    assert (done.returncode, done.stderr) == (1, b"checksum_tree: /dev/full: No space left on device\n")


def test_an_output_that_cannot_be_opened_is_an_error(many_files, tmp_path):
    done = checksum_tree(many_files, "-o", tmp_path / "nowhere" / "manifest")
    assert (done.stdout, done.returncode) == (b"", 1)
    assert done.stderr.endswith(b"manifest: No such file or directory\n")


def test_a_defect_in_a_callback_ends_the_run_instead_of_hanging_it(module, odd_tree, monkeypatch):
    monkeypatch.setattr(module, "manifest_line", lambda path, digest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.main([odd_tree, "-o", os.devnull])


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), b"PATH"),
        (("a", "b"), b"unrecognized arguments: b"),
        ((".", "--algorithm", "crc"), b"no checksum of that name here: 'crc'"),
        ((".", "--algorithm", "shake_128"), b"no checksum of that name here: 'shake_128'"),
        ((".", "--cores", ""), b"cannot read '' as cores"),
        ((".", "--cores", "one"), b"cannot read 'one' as cores"),
        ((".", "--cores", "60000"), b"core 60000 is not available"),
        ((".", "--ring-size", "0"), b"ring_size must be at least 1"),
        ((".", "--ring-size", "-1"), b"ring_size must be at least 1"),
        ((".", "--ring-size", "many"), b"invalid int value: 'many'"),
        ((".", "--ring-size", str(1 << 60)), b"does not fit into memory"),
    ],
)
def test_bad_arguments_are_refused_in_words(tmp_path, arguments, complaint):
    done = checksum_tree(*arguments, cwd=tmp_path)
    assert (done.stdout, done.returncode) == (b"", 2)
    assert complaint in done.stderr
    assert b"Traceback" not in done.stderr
