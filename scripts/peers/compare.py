"""Reads a suite's output and compares which tests pass with those that are expected not to.

Usage: compare.py SUITE LOG EXPECTED OUT
EXPECTED: one test a line, two spaces, the reason why it does not pass; `*` at a name's end stands for
any ending. `flaky: ` before the reason: it may pass, too. OUT.passed and OUT.others are written.
Exit 0 when every test that does not pass is named, and every named one does not pass.
"""

import fnmatch
import os
import re
import sys


def kgo(text):
    for line in re.finditer(r"^\s*--- (PASS|FAIL|SKIP): (\S+)", text, re.M):
        yield line[2], line[1]
    # A test that was running when the binary ended has no line of its own.
    if "panic: test timed out" in text:
        for name in re.findall(r"^\s+(Test\S+) \(\d", text, re.M):
            yield name, "FAIL"


def kafka_python(text):
    words = {"PASSED": "PASS", "FAILED": "FAIL", "ERROR": "FAIL", "SKIPPED": "SKIP", "XFAIL": "SKIP"}
    outcomes = "(PASSED|FAILED|ERROR|SKIPPED|XFAIL)"
    for line in re.finditer(rf"^test/integration/(\S+::\S+) {outcomes}\b", text, re.M):
        yield line[1], words[line[2]]
    # What a test prints may stand in the middle of its line; the summary has it once more.
    for line in re.finditer(rf"^{outcomes} test/integration/(\S+::\S+)", text, re.M):
        yield line[2], words[line[1]]


def rdkafka(text):
    suite = "lib"
    for line in text.splitlines():
        running = re.search(r"Running (?:unittests )?(\S+)", line)
        if running:
            suite = os.path.splitext(os.path.basename(running[1]))[0]
        found = re.match(r"test (\S+)(?: - should panic)? \.\.\. (?:.*?)(ok|FAILED|ignored)", line)
        if found:
            yield found[1], {"ok": "PASS", "FAILED": "FAIL", "ignored": "SKIP"}[found[2]]


def expectations(path):
    if not os.path.exists(path):
        return []
    lines = [line.rstrip("\n") for line in open(path, encoding="utf-8")]
    return [tuple(line.split("  ", 1)) for line in lines if line.strip() and not line.startswith("#")]


def main(suite, log, expected, out):
    text = open(log, encoding="utf-8", errors="replace").read()
    parse = {"kgo": kgo, "kafka-python": kafka_python, "rdkafka": rdkafka}[suite]
    results = {}
    for name, outcome in parse(text):
        # Run twice or failed in its teardown: the worse counts.
        if results.get(name) != "FAIL":
            results[name] = outcome
    if not results:
        print(f"{suite}: no test was run; see {log}")
        return 1
    passed = sorted(name for name, outcome in results.items() if outcome == "PASS")
    others = sorted(name for name, outcome in results.items() if outcome != "PASS")
    open(out + ".passed", "w", encoding="utf-8").write("".join(name + "\n" for name in passed))
    reasons = expectations(expected)

    def reason(name):
        return next((why for pattern, why in reasons if fnmatch.fnmatchcase(name, pattern)), None)

    surprises = 0
    with open(out + ".others", "w", encoding="utf-8") as file:
        for name in others:
            why = reason(name)
            if why is None and results[name] == "FAIL":
                surprises += 1
            file.write(f"{results[name]}  {name}  {why or 'NOT EXPECTED'}\n")
            print(f"  {results[name]}  {name}  ({why or 'NOT EXPECTED'})")
    for pattern, why in reasons:
        matched = [name for name in results if fnmatch.fnmatchcase(name, pattern)]
        if matched and all(results[name] == "PASS" for name in matched) and not why.startswith("flaky: "):
            surprises += 1
            print(f"  passes, and is expected not to: {pattern}  ({why})")
    failed = sum(outcome == "FAIL" for outcome in results.values())
    skipped = sum(outcome == "SKIP" for outcome in results.values())
    print(f"{suite}: {len(passed)} passed, {failed} failed, {skipped} skipped by itself, {surprises} not as expected")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
