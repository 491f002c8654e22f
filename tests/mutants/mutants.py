#!/usr/bin/env python3
"""Mutation testing of wire, flow and nat, in one build instead of thousands; docs/mutants.md says what came of it.

cargo-mutants lists the mutants; weave (beside this file) writes a copy of the source with all of them in it, and
NATGATE_MUTANT in the environment says which one lives. Each test runs once to see which mutants it reaches. Then each
mutant gets the tests that reach it, the quickest first, until one fails. What is known is kept in target/mutants, so that a
run can be stopped and taken up again; a verdict holds as long as the function around the mutant stays as it is.

    tests/mutants/mutants.py [--file REGEX] [--sample N [--seed S]] [--again] [--quick] [--jobs N] [--minutes N] [--build]
                             [--report] [--write]

--file takes the mutants of matching files, --sample N of them by chance; --again tries those once more that were missed;
--quick leaves out tests of more than a second, so that `missed` is not the last word; --minutes stops after so long;
--build only builds, --report only tells what earlier runs found; --write puts figures and survivors into docs/mutants.md.
Exit code 1 when a survivor has no reason in reasons.toml.
"""

import argparse
import atexit
import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading

import report

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/mutants"
DIRECTORY = ROOT / "target/mutants"
COPY = DIRECTORY / "copy"
CARGO = shlex.split(os.environ.get("CARGO", "cargo"))

MODULES = ["src/wire", "src/flow", "src/nat"]
# Unit tests of these layers may notice a mutant.
UNITS = re.compile(r"(wire|flow|nat|gateway|dataplane|config::compile)::")
# Other tests that know the packet path, with what they leave out: the kernel beside natgate, and tests of the tests.
BINARIES = {"nat": None, "golden": re.compile("kernel|tap"), "behaviour": None, "model": re.compile("^written")}
# Short runs of the model, and no search for a smaller case when one has failed.
ENVIRONMENT = {
    "NATGATE_MODEL_STEPS": "54000",
    "NATGATE_MODEL_DEPTH": "3",
    "PROPTEST_MAX_SHRINK_ITERS": "0",
    "PROPTEST_FAILURE_PERSISTENCE": "off",
    "RUST_BACKTRACE": "0",
    # Each test has tables of its own; memory that stays in the process is quicker than new pages.
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
}
# A mutant that allocates without end must not take the machine with it.
MEMORY = 6 << 30
# Seconds of a processor that a test may take to belong to a tier.
TIERS = [0.02, 0.1, 0.5, 1e9]
# In place of a mutant's number: none lives, and those reached are written down.
REACH = 1 << 30
# Set when it is time to come to an end.
STOP = threading.Event()

SWITCH = """//! Which mutant lives.
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
const REACH: u32 = 1 << 30;
const UNKNOWN: u32 = u32::MAX;
static ACTIVE: AtomicU32 = AtomicU32::new(UNKNOWN);
static SEEN: [AtomicBool; 16384] = [const { AtomicBool::new(false) }; 16384];
/// True if it is this one.
#[inline(always)]
pub fn is(number: u32) -> bool {
    let active = ACTIVE.load(Relaxed);
    if active < REACH { active == number } else { special(number, active) }
}
#[cold]
#[inline(never)]
fn special(number: u32, active: u32) -> bool {
    if active == UNKNOWN {
        ACTIVE.store(std::env::var("NATGATE_MUTANT").map_or(0, |n| n.parse().unwrap()), Relaxed);
        return is(number);
    }
    if !SEEN[number as usize].swap(true, Relaxed) {
        let path = std::env::var("NATGATE_REACHED").unwrap();
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(format!("{number}\\n").as_bytes()).unwrap();
    }
    false
}
"""


def every_mutant():
    """All mutants, numbered from 1; names are made unique by counting, and free of line numbers."""
    command = [*CARGO, "mutants", "--list", "--json", *(word for m in MODULES for word in ("-f", m + "/**"))]
    listed = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    listed.sort(key=lambda m: (m["file"], m["span"]["start"]["line"], m["span"]["start"]["column"], m["replacement"]))
    counts = collections.Counter()
    mutants = []
    for number, mutant in enumerate(listed, 1):
        place = mutant["span"]["start"]
        key = f"{mutant['file']}: {mutant['name'].split(': ', 1)[1]}"
        counts[key] += 1
        mutants.append({
            "number": number, "file": mutant["file"], "genre": mutant["genre"], "replacement": mutant["replacement"],
            "line": place["line"], "column": place["column"],
            "key": key + (f" ({counts[key]})" if counts[key] > 1 else ""),
        })
    return mutants


class Copy:
    """The project with all its mutants in it, and what the compiler refused."""

    def __init__(self, mutants):
        self.mutants = mutants
        self.memory = DIRECTORY / "refused.json"
        known = json.loads(self.memory.read_text()) if self.memory.exists() else {}
        self.unviable = set(known.get("unviable", []))
        self.constant = set(known.get("constant", []))
        self.woven = {}

    def prepare(self):
        """Everything but the source; files that stay as they are keep their times."""
        for name in ["tests", "benches", "configs", "docs", "dpdk"]:
            for path in (ROOT / name).rglob("*"):
                if path.is_file():
                    self.put(path.relative_to(ROOT).as_posix(), path.read_bytes())
        for name in ["Cargo.toml", "Cargo.lock", "build.rs", "clippy.toml", "README.md", "Makefile"]:
            self.put(name, (ROOT / name).read_bytes())

    def put(self, name, content):
        path = COPY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)

    def weave(self):
        mutants = [m for m in self.mutants if m["key"] not in self.unviable]
        work = json.dumps({"mutants": mutants, "constant": sorted(self.constant)})
        command = [DIRECTORY / "weave/debug/weave", ROOT / "src", COPY / "src.new"]
        woven = subprocess.run(command, input=work, check=True, capture_output=True, text=True).stdout
        for path in (ROOT / "src").rglob("*"):
            if path.is_file() and path.suffix != ".rs":
                self.put(path.relative_to(ROOT).as_posix(), path.read_bytes())
        library = (COPY / "src.new/lib.rs").read_text()
        head = "\n#![allow(warnings, arithmetic_overflow, unconditional_panic, clippy::all)]\npub mod mutants;\npub mod arch;"
        (COPY / "src.new/lib.rs").write_text(library.replace("\npub mod arch;", head, 1))
        (COPY / "src.new/mutants.rs").write_text(SWITCH)
        wanted = set()
        for path in (COPY / "src.new").rglob("*.rs"):
            name = "src/" + path.relative_to(COPY / "src.new").as_posix()
            wanted.add(name)
            self.put(name, path.read_bytes())
        for path in (COPY / "src").rglob("*.rs"):
            if path.relative_to(COPY).as_posix() not in wanted:
                path.unlink()
        shutil.rmtree(COPY / "src.new")
        by_number = {m["number"]: m for m in mutants}
        self.woven, self.lines = {}, collections.defaultdict(list)
        answer = json.loads(woven)
        self.unviable.update(by_number[number]["key"] for number in answer["impossible"])
        for place in answer["woven"]:
            key = by_number[place["number"]]["key"]
            self.woven[key] = hashlib.sha256(place["function"].encode()).hexdigest()[:16]
            self.lines[place["file"]].append((place["first"], place["last"], key))

    def blame(self, message):
        """The mutant that a compiler's message is about."""
        for span in [s for s in message["spans"] if s["is_primary"]] + message["spans"]:
            while span:
                for first, last, key in self.lines.get(span["file_name"], []):
                    if first <= span["line_start"] <= last:
                        return key
                span = span.get("expansion") and span["expansion"]["span"]
        return None

    def build(self):
        """Builds until the compiler accepts all that is left; returns the test executables by name."""
        subprocess.run([*CARGO, "build", "--quiet", "--locked", "--manifest-path", HERE / "Cargo.toml",
                        "--target-dir", DIRECTORY / "weave"], check=True)
        self.prepare()
        common = ["--locked", "--no-default-features", "--message-format=json"]
        self.settle([*CARGO, "check", *common, "--lib"])
        tests = [word for name in BINARIES for word in ("--test", name)]
        messages = self.settle([*CARGO, "test", *common, "--no-run", "--lib", *tests])
        artifacts = [m for m in messages if m["reason"] == "compiler-artifact" and m.get("executable")]
        return {m["target"]["name"]: m["executable"] for m in artifacts if m["profile"]["test"]}

    def settle(self, command):
        """Runs cargo, without the mutants it complains about, until it does not complain; returns its messages."""
        environment = dict(os.environ, CARGO_TARGET_DIR=str(DIRECTORY / "target"))
        for attempt in range(40):
            self.weave()
            run = subprocess.run(command, cwd=COPY, env=environment, capture_output=True, text=True)
            messages = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
            if run.returncode == 0:
                return messages
            errors = [m["message"] for m in messages if m["reason"] == "compiler-message"]
            errors = [e for e in errors if e["level"] == "error" and e["spans"]]
            before = len(self.unviable) + len(self.constant)
            for error in errors:
                constant = re.search(r"non-const (?:associated function|method|fn|function) `([^`]*)`", error["message"])
                if constant:
                    self.constant.add(function_name(constant.group(1)))
                elif key := self.blame(error):
                    self.unviable.add(key)
            self.memory.write_text(json.dumps({"unviable": sorted(self.unviable), "constant": sorted(self.constant)}, indent=1))
            print(f"build {attempt}: {len(errors)} errors; not viable so far: {len(self.unviable)}", flush=True)
            if len(self.unviable) + len(self.constant) == before:
                for error in errors[:20]:
                    print(error["rendered"], file=sys.stderr)
                sys.exit("an error that no mutant is to blame for\n" + run.stderr[-2000:])
        sys.exit("the build does not come to an end")


def function_name(path):
    """`Type::name` or `name` of what the compiler writes as `module::Type::<T>::name`."""
    while "<" in path:
        shorter = re.sub(r"(::)?<[^<>]*>", "", path)
        if shorter == path:
            break
        path = shorter
    last = path.split("::")[-2:]
    return "::".join(last) if len(last) == 2 and last[0][:1].isupper() else last[-1]


def begun(output):
    """The last test that began, by a test executable's output."""
    tests = re.findall(rb"^test (\S+)[^\n]*? \.\.\. ", output, re.M)
    return tests[-1].decode() if tests else None


def limits(seconds):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return limit


def verdict_of(executable, tests, number, seconds, more={}):
    """Runs tests with one mutant alive until one fails: its name, or `timeout` when that takes more than `seconds` of a
    processor (which do not depend on what else the machine does), or None when all pass; and the seconds it took."""
    environment = dict(os.environ, **ENVIRONMENT, **more, NATGATE_MUTANT=str(number))
    command = [executable, "--test-threads=1", "--exact", *tests]
    run = subprocess.Popen(command, cwd=COPY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           preexec_fn=limits(seconds), process_group=0)
    # Whoever sleeps for ever takes no processor.
    alarm = threading.Timer(60 + 20 * seconds, lambda: os.kill(run.pid, signal.SIGKILL))
    alarm.start()
    verdict, text = None, b""
    while chunk := os.read(run.stdout.fileno(), 65536):
        text += chunk
        if (failed := text.find(b" ... FAILED")) >= 0:
            verdict = begun(text[:failed + 5])
            break
    alarm.cancel()
    try:
        os.killpg(run.pid, signal.SIGKILL) if verdict else None
    except ProcessLookupError:
        pass
    run.stdout.close()
    _, status, usage = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    if verdict is None and run.returncode:
        if run.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            verdict = "timeout"
        else:
            verdict = begun(text) or f"ended with {run.returncode}"
    return verdict, usage.ru_utime + usage.ru_stime


class Tests:
    """All tests: their seconds, and which mutants they reach."""

    def __init__(self, executables, jobs, patience):
        self.executables = executables
        self.patience = patience
        self.seconds, self.reached = {}, collections.defaultdict(set)
        for name, executable in executables.items():
            self.look(name, executable, jobs)

    def look(self, name, executable, jobs):
        with open(executable, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        listed = subprocess.run([executable, "--list", "--format=terse"], cwd=COPY, check=True, capture_output=True, text=True)
        tests = re.findall(r"^(\S+): test$", listed.stdout, re.M)
        if name == "natgate":
            tests = [test for test in tests if UNITS.match(test)]
        elif BINARIES[name]:
            tests = [test for test in tests if not BINARIES[name].search(test)]
        memory = DIRECTORY / f"reach-{name}.jsonl"
        lines = memory.read_text().splitlines() if memory.exists() else []
        known = {}
        if lines[:1] == [digest]:
            known = {test: (seconds, reached) for test, seconds, reached in map(json.loads, lines[1:])}
        else:
            memory.write_text(digest + "\n")
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            for answer in pool.map(lambda test: self.reach(executable, test), [t for t in tests if t not in known]):
                if answer:
                    test, *known[test] = answer
                    with open(memory, "a") as file:
                        file.write(json.dumps(answer) + "\n")
        for test, (seconds, reached) in known.items():
            self.seconds[name, test] = seconds
            for number in reached:
                self.reached[number].add((name, test))
        total = sum(seconds for seconds, _ in known.values())
        print(f"{name}: {len(known)} of {len(tests)} tests, {total:.1f} s", flush=True)

    def reach(self, executable, test):
        if STOP.is_set():
            return None
        file = DIRECTORY / f"reached-{threading.get_ident()}"
        file.unlink(missing_ok=True)
        verdict, seconds = verdict_of(executable, [test], REACH, 900, {"NATGATE_REACHED": str(file)})
        if verdict:
            sys.exit(f"without a mutant fails: {test}: {verdict}")
        reached = [int(number) for number in file.read_text().split()] if file.exists() else []
        file.unlink(missing_ok=True)
        return test, seconds, reached

    def rounds(self, mutant, killers):
        """Groups of tests that reach a mutant, the likeliest and quickest first."""
        left = {test for test in self.reached[mutant["number"]] if self.seconds[test] <= self.patience}
        module = mutant["file"].removeprefix("src/").removesuffix(".rs").removesuffix("/mod").replace("/", "::") + "::"
        likely = [test for test, _ in killers.most_common(12) if test in left and self.seconds[test] < 1][:4]
        own = [t for t in left if t[0] == "natgate" and t[1].startswith(module) and self.seconds[t] < 0.5]
        groups = [likely, own] + [[t for t in left if self.seconds[t] < limit] for limit in TIERS]
        for group in groups:
            by_executable = collections.defaultdict(list)
            for test in group:
                if test in left:
                    by_executable[test[0]].append(test)
                    left.remove(test)
            for name in sorted(by_executable, key=lambda name: sum(self.seconds[t] for t in by_executable[name])):
                yield name, [test for _, test in by_executable[name]], sum(self.seconds[t] for t in by_executable[name])

    def judge(self, mutant, killers):
        """What becomes of a mutant: the test that notices it, `timeout`, `missed`, or `not reached`."""
        if not self.reached[mutant["number"]]:
            return "not reached", None
        for name, tests, seconds in self.rounds(mutant, killers):
            verdict, _ = verdict_of(self.executables[name], tests, mutant["number"], 2 + int(4 * seconds))
            if verdict:
                return verdict, (name, verdict)
        return "missed", None


def own_copies(executables):
    """Executables that no build replaces under a run; those of runs that are no more go away."""
    for old in DIRECTORY.glob("run-*"):
        if not pathlib.Path("/proc", old.name.removeprefix("run-")).exists():
            shutil.rmtree(old)
    kept = DIRECTORY / f"run-{os.getpid()}"
    kept.mkdir()
    atexit.register(shutil.rmtree, kept)
    return {name: shutil.copy2(path, kept / name) for name, path in executables.items()}


def wanted_of(mutants, options):
    wanted = [m for m in mutants if re.search(options.file, m["file"])]
    if options.sample:
        chosen = random.Random(options.seed).sample(range(len(wanted)), min(options.sample, len(wanted)))
        wanted = [wanted[at] for at in sorted(chosen)]
    return wanted


def tell(figures, wanted, options):
    """Says what is known, and ends."""
    figures.show(wanted)
    if options.write:
        figures.write(ROOT / "docs/mutants.md")
    sys.exit(1 if figures.unexplained(wanted) else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", default="")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    mutants = every_mutant()
    copy = Copy(mutants)
    wanted = wanted_of(mutants, options)
    journal = report.Journal(DIRECTORY / "journal.jsonl")
    if options.report:
        copy.weave()
        tell(report.Report(mutants, copy, journal, HERE / "reasons.toml"), wanted, options)
    executables = copy.build()
    print(f"{len(mutants)} mutants, {len(copy.woven)} woven, {len(copy.unviable)} not viable", flush=True)
    if options.build:
        return
    executables = own_copies(executables)
    if options.minutes is not None:
        end = threading.Timer(60 * options.minutes, STOP.set)
        end.daemon = True
        end.start()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: STOP.set())
    tests = Tests(executables, options.jobs, 1 if options.quick else 1e9)
    if STOP.is_set():
        return
    killers = collections.defaultdict(collections.Counter)
    lock = threading.Lock()

    def decide(mutant):
        if STOP.is_set():
            return
        key = mutant["key"]
        verdict, killer = tests.judge(mutant, killers[mutant["file"]])
        with lock:
            if killer:
                killers[mutant["file"]][killer] += 1
            journal.add(key, copy.woven[key], verdict)
            if verdict in report.SURVIVED:
                print(f"{verdict}: {mutant['file']}:{mutant['line']}: {key}", flush=True)

    def open_question(mutant):
        known = journal.verdict(mutant["key"], copy.woven[mutant["key"]])
        return known is None or (options.again and known in report.SURVIVED)

    todo = [m for m in wanted if m["key"] in copy.woven and open_question(m)]
    print(f"{len(todo)} of {len(wanted)} to be judged", flush=True)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for _ in pool.map(decide, todo):
            pass
    tell(report.Report(mutants, copy, journal, HERE / "reasons.toml"), wanted, options)


if __name__ == "__main__":
    main()
