"""What is known about mutants, and how it is told."""

import collections
import json
import tomllib

SURVIVED = ("missed", "not reached")
# Columns of the table, in order.
KINDS = ["caught", "timed out", "equivalent", "missed", "not run", "not viable", "constant"]
# Below this line docs/mutants.md is written by `make mutants`.
MARK = "<!-- From here on written by `make mutants MUTANTS=--write`. -->\n"


class Journal:
    """Verdicts by mutant, kept line by line so that a run can be stopped at any time; later lines count."""

    def __init__(self, path):
        self.path = path
        self.known = {}
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self.known[entry["key"]] = entry

    def add(self, key, function, verdict):
        entry = {"key": key, "function": function, "verdict": verdict}
        self.known[key] = entry
        with open(self.path, "a") as file:
            file.write(json.dumps(entry) + "\n")

    def verdict(self, key, function):
        """What became of a mutant, if the function around it is still the same."""
        entry = self.known.get(key)
        return entry["verdict"] if entry and entry["function"] == function else None


class Report:
    """Mutants by kind, and the survivors with their reasons."""

    def __init__(self, mutants, copy, journal, reasons):
        self.mutants = mutants
        self.kinds = {}
        self.reasons = {}
        self.equivalent = set()
        for entry in tomllib.loads(reasons.read_text()).get("survivor", []) if reasons.exists() else []:
            for key in entry["mutants"]:
                self.reasons[key] = entry["reason"]
                if entry.get("equivalent"):
                    self.equivalent.add(key)
        for mutant in mutants:
            self.kinds[mutant["key"]] = self.kind(mutant["key"], copy, journal)

    def kind(self, key, copy, journal):
        if key in copy.unviable:
            return "not viable"
        if key not in copy.woven:
            return "constant"
        verdict = journal.verdict(key, copy.woven[key])
        if verdict is None:
            return "not run"
        if verdict in SURVIVED:
            return "equivalent" if key in self.equivalent else "missed"
        return "timed out" if verdict == "timeout" else "caught"

    def unexplained(self, wanted):
        return [m["key"] for m in wanted if self.kinds[m["key"]] == "missed" and m["key"] not in self.reasons]

    def rows(self, wanted, part):
        groups = collections.defaultdict(collections.Counter)
        for mutant in wanted:
            kind = self.kinds[mutant["key"]]
            for name in (part(mutant["file"]), "all"):
                groups[name][kind] += 1
        order = sorted(name for name in groups if name != "all") + ["all"]
        return [(name, groups[name]) for name in order if name in groups]

    def table(self, wanted, part):
        lines = ["| | mutants | " + " | ".join(KINDS) + " | share caught |", "|---" * (len(KINDS) + 3) + "|"]
        for name, counts in self.rows(wanted, part):
            noticed = counts["caught"] + counts["timed out"]
            judged = noticed + counts["missed"]
            share = f"{100 * noticed / judged:.1f} %" if judged else ""
            cells = [name, sum(counts.values()), *(counts[kind] for kind in KINDS), share]
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
        return "\n".join(lines) + "\n"

    def show(self, wanted):
        print(self.table(wanted, lambda file: file))
        print(self.table(wanted, lambda file: "/".join(file.split("/")[1:2])))
        for key in self.unexplained(wanted):
            print("missed, without a reason:", key)

    def write(self, path):
        """The figures of the whole, and all survivors by reason, at the end of the document."""
        text = path.read_text()
        head = text[:text.index(MARK)] if MARK in text else text + "\n"
        out = [head, MARK, "\n## By module\n\n", self.table(self.mutants, module), "\n## By file\n\n",
               self.table(self.mutants, lambda file: "`" + file.removeprefix("src/") + "`")]
        for title, kind in [("What survives", "missed"), ("What cannot be told apart", "equivalent")]:
            by_reason = collections.defaultdict(list)
            for mutant in self.mutants:
                if self.kinds[mutant["key"]] == kind:
                    by_reason[self.reasons.get(mutant["key"], "Not looked into yet.")].append(mutant["key"])
            out.append(f"\n## {title}\n")
            for reason, keys in by_reason.items():
                out.append(f"\n{reason}\n\n")
                out.extend(f"- `{key.removeprefix('src/')}`\n" for key in keys)
            if not by_reason:
                out.append("\nNothing.\n")
        path.write_text("".join(out))


def module(file):
    """Groups of the table by module: those of which nothing may be missed stand alone."""
    parts = file.removeprefix("src/").split("/")
    if file == "src/wire/checksum.rs":
        return "checksum"
    if parts[:2] == ["nat", "ports"]:
        return "port allocation (`nat/ports`)"
    if file in ("src/nat/expiry.rs", "src/flow/sweep.rs"):
        return "expiry (`nat/expiry.rs`, `flow/sweep.rs`)"
    return "rest of `" + parts[0] + "`"
