#!/usr/bin/env python3
"""Runs the test programs that `cargo test --no-run --message-format=json` built, several at a time.

    script/run-tests.py BUILT TOTALS

cargo runs one test program after the other, and most of these programs spend their time waiting: for a broker, for psad,
for the next tick. The output of a program is printed whole when the program ended. TOTALS is written: `PASSED FAILED
SKIPPED`. A test of libtest that prints `skipped: why` was counted as passed by libtest and is counted as skipped here;
tests of libtest-mimic that are skipped are marked as ignored.

On the reference platform (script/skips.txt names it) a skip that script/skips.txt does not list counts as a failure.
"""

import fnmatch
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

LANES = 3
# A program that takes longer hangs.
SECONDS_MAX = 40 * 60
# The longest first, so that none is alone at the end; the others follow in cargo's order.
LONGEST = ["upgrade", "systemd", "packages", "e2e", "processes", "spool", "psad", "ship", "consume", "daemon"]

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


SKIPS = Path(__file__).resolve().parent / "skips.txt"


def is_reference_platform():
    """Debian 12 on x86-64, as root: there every test runs but for those in script/skips.txt."""
    release = platform.freedesktop_os_release()
    return (release.get("ID"), release.get("VERSION_ID"), platform.machine(), os.geteuid()) == ("debian", "12", "x86_64", 0)


def allowed_skips():
    """(pattern of the test's name, part of the reason) of every line of script/skips.txt."""
    rows = [line.split("|") for line in SKIPS.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [(row[0].strip(), row[1].strip()) for row in rows]


def programs(built):
    """(name, executable, folder of its package) of every test program."""
    found = []
    for line in Path(built).read_text().splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["executable"] and message["profile"]["test"]:
            folder = Path(message["manifest_path"]).parent
            found.append((message["target"]["name"], message["executable"], folder))
    rank = {name: place for place, name in enumerate(LONGEST)}
    return sorted(found, key=lambda program: rank.get(program[0], len(LONGEST)))


RUNNING = set()


def run(program):
    """The output of a program, its exit code (None: the program was killed) and seconds."""
    name, executable, folder = program
    start = time.monotonic()
    # --show-output: a passed test's `skipped: why` is wanted. A session of its own: the kernel shares the processors
    # between sessions (sched(7), autogroup), so a program that tests under load starves itself alone.
    child = subprocess.Popen([executable, "--format=pretty", "--show-output"], cwd=folder, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                             env=dict(os.environ, CARGO_MANIFEST_DIR=str(folder)))
    RUNNING.add(child)
    try:
        output, code = child.communicate(timeout=SECONDS_MAX)[0], child.returncode
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, code = child.communicate()[0], None
    finally:
        RUNNING.discard(child)
    return output.decode(errors="replace"), code, time.monotonic() - start


def stop(*_):
    """Ends the programs and this one: their sessions hear no Ctrl-C."""
    for child in list(RUNNING):
        os.killpg(child.pid, signal.SIGTERM)
    os._exit(1)


def count(name, output, code):
    """passed, failed, and (test, reason) of each skipped one, of one program's output."""
    passed = failed = 0
    skipped, shown, ended = [], None, False
    for line in (COLOUR.sub("", line) for line in output.splitlines()):
        if line.startswith("test result: "):
            ended = True
            number = dict((word, int(n)) for n, word in re.findall(r"(\d+) (passed|failed|ignored)", line))
            passed, failed = number["passed"], number["failed"]
        elif ignored := re.match(r"test (.*?) +\.\.\. ignored(?:, (.*))?$", line):
            skipped.append((ignored[1], ignored[2] or ""))
        elif header := re.match(r"---- (\S+) stdout ----$", line):
            shown = header[1]
        elif re.match(r"(failures|successes|test result):", line):
            shown = None
        elif line.startswith("skipped: ") and shown:
            skipped.append((shown, line.removeprefix("skipped: ")))
            passed, shown = passed - 1, None
    if code != 0 and failed == 0:
        # It crashed, or was killed, before it could count.
        failed = 1
        print(f"{name}: {'killed: it hung' if code is None else f'ended with {code}'}")
    if not ended and code == 0:
        failed += 1
        print(f"{name}: no result line")
    return passed, failed, skipped


def main():
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    all_programs = programs(sys.argv[1])
    passed = failed = 0
    skipped, failures = [], []
    with ThreadPoolExecutor(LANES) as lanes:
        running = {lanes.submit(run, program): program for program in all_programs}
        for future in as_completed(running):
            name = running[future][0]
            output, code, seconds = future.result()
            print(f"\n== {name}: {seconds:.0f} s\n{output}", flush=True)
            ours = count(name, output, code)
            passed, failed = passed + ours[0], failed + ours[1]
            skipped += [(f"{name}: {test}", reason) for test, reason in ours[2]]
            if ours[1]:
                failures.append(name)
    if skipped:
        print("\nskipped:")
        for test, reason in skipped:
            print(f"  {test}: {reason}")
    if is_reference_platform():
        allowed = allowed_skips()
        for test, reason in skipped:
            if not any(fnmatch.fnmatchcase(test, pattern) and part in reason for pattern, part in allowed):
                print(f"\nskipped, although script/skips.txt does not list it for this platform: {test}: {reason}")
                failed += 1
    if failures:
        print(f"\nfailed in: {', '.join(failures)}")
    Path(sys.argv[2]).write_text(f"{passed} {failed} {len(skipped)}\n")


if __name__ == "__main__":
    main()
