"""Compare the power of the tests of two commits: small faults in src/ddpm, each known by the text of its line.

    python tools/mutants.py draw mutants.json --count 100 --seed 0            in the older checkout
    python tools/mutants.py run mutants.json before.json --repo OLD           and for the newer; a stopped run goes on
    python tools/mutants.py compare before.json after.json                    exit 1 if a mutant survives only now

A mutant meets the tests of its folder: tests/A for src/ddpm/A/..., and for src/ddpm/m.py tests/test_m.py and
tests/test_m_*.py, or all test files directly in tests/. `baseline FILE` records how long tests take and which fail
without a mutation (they are left out); `run --baseline FILE` reads it, otherwise `run` makes its own.
"""

import argparse
import ast
import contextlib
import hashlib
import importlib.util
import io
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tokenize
import xml.etree.ElementTree as xml
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

SWAPS = {"Lt": "<=", "LtE": "<", "Gt": ">=", "GtE": ">", "Eq": "!=", "NotEq": "==", "Is": "is not", "IsNot": "is"}
SWAPS |= {"In": "not in", "NotIn": "in", "And": "or", "Or": "and", "Add": "-", "Sub": "+", "Mult": "/", "Div": "*"}
SWAPS |= {"FloorDiv": "*", "Mod": "*", "Pow": "*", "LShift": ">>", "RShift": "<<", "BitAnd": "|", "BitOr": "&"}
CALLS = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
# Looks, and what only guards against our own slips: a change there is no fault that a test should find.
COSMETIC = {"strict", "indent", "dpi", "figsize", "fontsize", "linewidth", "lw", "markersize", "stacklevel", "daemon"}
PLOTS = {"axes", "ax", "axis", "figure", "panels", "plt", "pyplot", "TypeVar", "NewType"}
NO_CODE = {"Import", "ImportFrom", "JoinedStr", "TemplateStr", "Raise", "Assert", "TypeAlias"}
DEADLINE = [float("inf")]  # by time.monotonic()


def name_of(node):
    return getattr(node, "id", getattr(node, "attr", ""))


def children(node):
    """What lies below a node and is code: no annotations, decorators, aliases of types, texts of errors, plots."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body]
        case ast.ClassDef():
            return node.body
        case ast.AnnAssign():
            return [node.value] if node.value else []
        case ast.Call():
            named = [keyword.value for keyword in node.keywords if keyword.arg not in COSMETIC]
            return [] if PLOTS & {name_of(n) for n in ast.walk(node.func)} else [node.func, *node.args, *named]
        case ast.Assign(targets=[ast.Name(id=name), *_]) if re.match("__|[A-Z].*[a-z]", name):
            return []
        case ast.If() if {"TYPE_CHECKING", "__name__"} & {name_of(n) for n in ast.walk(node.test)}:
            return []
    return [] if type(node).__name__ in NO_CODE else list(ast.iter_child_nodes(node))


def places(source):
    """All mutable places of a file, as (row from 0, first column, end column, new text), sorted."""
    lines, found, tokens = source.splitlines(), set(), tokenize.generate_tokens(io.StringIO(source).readline)
    tokens = [t for t in tokens if t.type in (tokenize.OP, tokenize.NAME) and t.string not in "()"]

    def span(node):  # ast counts bytes, tokenize characters
        ends = (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        return [(row, len(lines[row - 1].encode()[:byte].decode())) for row, byte in ends]

    def put(start, end, text):
        if start[0] == end[0]:
            found.add((start[0] - 1, start[1], end[1], text.replace("...", lines[start[0] - 1][start[1] : end[1]])))

    def swap(left, op, right, after=""):
        words = [t for t in tokens if span(left)[1] <= t.start and t.end <= span(right)[0]]
        said = any(isinstance(n, ast.JoinedStr) or isinstance(getattr(n, "value", 0), str) for n in (left, right))
        if type(op).__name__ in SWAPS and not (said and isinstance(op, ast.operator)):
            put(words[0].start, words[-1].end, SWAPS[type(op).__name__] + after)

    def visit(node):
        below = children(node)
        match node:
            case ast.Compare():
                for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                    swap(left, op, right)
            case ast.BoolOp():
                for left, right in zip(node.values, node.values[1:], strict=False):
                    swap(left, node.op, right)
            case ast.BinOp():
                swap(node.left, node.op, node.right)
            case ast.UnaryOp(op=ast.Not()):
                row, start = span(node)[0]
                put((row, start), (row, start + len("not ")), "")
            case ast.Constant(value=bool() as value):
                put(*span(node), str(not value))
            case ast.Constant(value=int() as value):
                put(*span(node), str(value + 1 if value < 1000 else value * 2))
            case ast.Constant(value=float() as value):  # tiny ones are guards: much larger
                put(*span(node), f"{value * (1000 if value < 1e-4 else 1.1) or 1.0:.6}")
            case ast.Call() if name_of(node.func) in CALLS and below:
                row, end = span(node.func)[1]
                put((row, end - len(name_of(node.func))), (row, end), CALLS[name_of(node.func)])
            case ast.Return(value=ast.expr() as value) if getattr(value, "value", 0) is not None:
                put(*span(value), "None")
            case ast.If(test=ast.BoolOp() | ast.Compare() | ast.Call()) if isinstance(node.body[0], ast.Raise):
                put(*span(node.test), "not (...)")
            case ast.AugAssign():
                put(*span(node), "pass")
                swap(node.target, node.op, node.value, "=")
            case ast.Expr(value=ast.Call() as call) if children(call):
                put(*span(node), "pass")
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                put(*span(node), "pass")
            case ast.Assign(targets=[ast.Name(id=name)], value=value):  # else it only leads to a NameError
                if name in {n.id for n in ast.walk(value) if isinstance(n, ast.Name)}:
                    put(*span(node), "pass")
        for child in below:
            visit(child)

    visit(ast.parse(source))
    return sorted(found)


def draw(args, drawn):
    files = {path.relative_to(args.repo).as_posix(): path.read_text() for path in args.repo.glob("src/ddpm/**/*.py")}
    often = Counter(line.strip() for text in files.values() for line in text.splitlines())
    found = [(path, *place) for path in sorted(files) if "plot" not in path for place in places(files[path])]
    random.Random(args.seed).shuffle(found)
    mutants = []
    for path, row, start, end, new in found:
        lines = files[path].splitlines()
        old = lines[row].strip()
        lines[row] = lines[row][:start] + new + lines[row][end:]
        if often[old] > 1 or len(mutants) == args.count:
            continue
        with contextlib.suppress(SyntaxError):
            compile("\n".join(lines), path, "exec")
            if ast.dump(ast.parse("\n".join(lines))) != ast.dump(ast.parse(files[path])):
                mutants.append({"line": old, "mutated": lines[row].strip(), "path": path})
    save(drawn, mutants)


def save(path, content):
    new = path.with_name(path.name + ".unfinished")
    new.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    new.replace(path)


def load(path, repo):
    """What a file holds about exactly this code; nothing, if there is none."""
    files = sorted([*repo.glob("src/ddpm/**/*.py"), *repo.glob("tests/**/*.py")])
    code = hashlib.sha256(b"".join(str(f.relative_to(repo)).encode() + f.read_bytes() for f in files)).hexdigest()
    content = {"code": code, "seconds": {}, "failing": [], "uncollected": [], "outcomes": []}
    content |= json.loads(path.read_text()) if path and path.exists() else {}
    return content if content["code"] == code else sys.exit(f"{path} is about other code than {repo}")


def copied(repo, home):
    """A private copy of the tracked files (of all, outside git), and an environment where its ddpm is everyone's."""
    names = subprocess.run(["git", "-C", repo, "ls-files", "-z"], capture_output=True, text=True).stdout.split("\0")
    for name in names if "pyproject.toml" in names else ():
        if (repo / name).is_file():
            (home / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repo / name, home / "copy" / name)
    if not (home / "copy").exists():
        shutil.copytree(repo, home / "copy", ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "shared"))
    data = repo.parent / "shared/data"
    env = ({"DDPM_TEST_DATA": str(data)} if data.is_dir() else {}) | os.environ
    env |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TMPDIR": str(home / "tmp")}
    env["PYTHONPATH"] = os.pathsep.join([str(home / "copy/src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Bytecode by content: two mutants can share the time and the length by which it is known otherwise.
    compiling = ["-m", "compileall", "-q", "--invalidation-mode", "checked-hash", home / "copy/src"]
    subprocess.run([sys.executable, *compiling], check=True)
    said = subprocess.check_output([sys.executable, "-c", "import ddpm; print(ddpm.__file__)"], env=env, cwd=home)
    assert Path(said.decode().strip()).is_relative_to(home), f"the tests would import {said.decode()}"
    return home, env


def pytest(place, words, limit=float("inf")):
    """The exit code (None: out of time) and output of pytest; all processes that it started are ended."""
    home, env = place
    (home / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *words]
    command += ["-n", "0"] if importlib.util.find_spec("xdist") else []
    with open(home / "log", "w+", errors="replace") as log:
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        process, end = subprocess.Popen(command, cwd=home / "copy", env=env, start_new_session=True, **streams), None
        limit += time.monotonic()
        while not end and time.monotonic() < min(limit, DEADLINE[0]):
            time.sleep(0.1)
            end = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.killpg(process.pid, signal.SIGKILL)  # its number is not free before wait()
        code = process.wait()
        shutil.rmtree(home / "tmp", ignore_errors=True)
        return code if end else None, (home / "log").read_text(errors="replace")


def tests_of(repo, path):
    """The test files that a module meets, those of its own name first."""
    stem, top, parts = Path(path).stem, sorted((repo / "tests").glob("test_*.py")), Path(path).parts[2:]
    if len(parts) == 1:
        found = [file for file in top if f"{file.stem}_".startswith(f"test_{stem}_")]
    else:
        found = sorted((repo / "tests" / parts[0]).rglob("test_*.py"))
    own_first = sorted(found or top, key=lambda file: not file.stem.startswith(f"test_{stem}"))
    return [file.relative_to(repo).as_posix() for file in own_first]


def measure(args, content, files):
    """Record how long test files take without a mutation, and what fails in them, folder by folder."""
    folders = defaultdict(list)
    for file in sorted(set(files) - {*content["seconds"], *content["uncollected"]}):
        folders[Path(file).parts[1:-1][:1]].append(file)

    def task(place, files):
        report = place[0] / "report.xml"
        report.unlink(missing_ok=True)
        words = ["--continue-on-collection-errors", f"--junitxml={report}", *files, *args.extra_args]
        said = pytest(place, words)[1]
        return files, said, [*xml.parse(report).iter("testcase")] if report.exists() else None

    for done in args.each(task, sorted(folders.values(), key=len, reverse=True)):
        if time.monotonic() >= DEADLINE[0]:
            sys.exit("stopped before all tests had run without a mutation")
        files, said, cases = done
        print(f"unmutated {Path(files[0]).parent}: {said.splitlines()[-1:]}", flush=True)
        content["seconds"] |= dict.fromkeys(files, 0.0)
        content["uncollected"] += files if cases is None else []
        for case in cases or ():
            module, name, failed = case.get("classname"), case.get("name"), {"failure", "error"} & {c.tag for c in case}
            whole = module or name  # a file that is not collected has no class
            file = next(f for f in files if f"{whole}.".startswith(f[:-3].replace("/", ".") + "."))
            content["seconds"][file] += float(case.get("time"))
            if failed and module:
                content["failing"].append("::".join(filter(None, [file, *module[len(file) - 2 :].split("."), name])))
            elif failed:
                content["uncollected"].append(file)


def baseline(args, file):
    content = load(file, args.repo)
    measure(args, content, [file.relative_to(args.repo).as_posix() for file in args.repo.glob("tests/**/test_*.py")])
    save(file, content)


def run(args, mutants, file):
    content, where = load(file, args.repo), defaultdict(list)
    if args.baseline:
        content = load(args.baseline, args.repo) | {"outcomes": content["outcomes"]}
    for path in sorted(args.repo.glob("src/ddpm/**/*.py")):
        for row, line in enumerate(path.read_text().splitlines()):
            where[line.strip()].append({"path": path.relative_to(args.repo).as_posix(), "row": row})

    def record(mutant, outcome, seconds=0.0, said=()):
        content["outcomes"].append(mutant | {"outcome": outcome, "seconds": seconds, "said": said})
        save(file, content)
        change = f"{mutant['path']}: {mutant['line']}  ->  {mutant['mutated']}"
        print(f"{len(content['outcomes']):3} {outcome:14} {seconds:5.0f} s  {change}", flush=True)

    def expected(mutant):
        return sum(content["seconds"].get(test, 0) for test in mutant["tests"])

    def task(place, mutant):
        changed, start = place[0] / "copy" / mutant["path"], time.monotonic()
        tests = [test for test in mutant["tests"] if test not in content["uncollected"]]
        left_out = [f"--deselect={test}" for test in content["failing"] if test.split("::")[0] in tests]
        old = changed.read_text()
        lines = old.splitlines(keepends=True)
        lines[mutant["row"]] = lines[mutant["row"]].replace(mutant["line"], mutant["mutated"])
        changed.write_text("".join(lines))
        limit = args.limit_seconds or 60 + 3 * expected(mutant)
        code, said = pytest(place, ["-x", *tests, *left_out, *args.extra_args], limit) if tests else (5, "no tests")
        changed.write_text(old)
        outcome = {None: "killed by time", 0: "survived", 1: "killed"}.get(code, "broken")
        if code in (2, 4) and ("ERROR collecting" in said or "while loading conftest" in said):
            outcome = "killed"  # it cannot even be imported
        end = [] if outcome == "survived" else said.splitlines()[-20 if outcome == "broken" else -2 :]
        stopped = code is None and time.monotonic() >= DEADLINE[0]
        return None if stopped else (mutant, outcome, time.monotonic() - start, end)

    todo, done = [], {(o["line"], o["mutated"]) for o in content["outcomes"]}
    for mutant in json.loads(mutants.read_text()):
        there = where[mutant["line"]]
        mutant |= there[0] if there else {}
        if (mutant["line"], mutant["mutated"]) in done or args.only_path not in mutant["path"]:
            continue
        if len(there) == 1:
            todo.append(mutant | {"tests": tests_of(args.repo, mutant["path"])})
        else:
            record(mutant, "ambiguous" if there else "gone")
    measure(args, content, [test for mutant in todo for test in mutant["tests"]])
    for outcome in filter(None, args.each(task, sorted(todo, key=expected, reverse=True))):
        record(*outcome)


def compare(args, *files):
    both = [{(o["line"], o["mutated"]): o for o in json.loads(f.read_text())["outcomes"]} for f in files]
    groups = defaultdict(list)
    for file, outcomes in zip(files, both, strict=True):
        print(f"{file}: {dict(Counter(o['outcome'] for o in outcomes.values()))}")
    for key in both[0] | both[1]:
        groups[tuple(o[key]["outcome"].removesuffix(" by time") if key in o else "not run" for o in both)].append(key)
    for (before, after), keys in sorted(groups.items()):
        print(f"\n{before} before, {after} after: {len(keys)}")
        for key in keys if (before, after) != ("killed", "killed") else ():
            print("  {path}: {line}  ->  {mutated}".format(**(both[1].get(key) or both[0][key])))
    sys.exit(1 if ("killed", "survived") in groups else 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = {"draw": draw, "baseline": baseline, "run": run, "compare": compare}
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--repo", type=lambda text: Path(text).resolve(), default=Path.cwd())
    for option, default in {"--count": 100, "--seed": 0, "--workers": 1}.items():
        parser.add_argument(option, type=int, default=default)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--only-path", default="", help="only mutants of files with this in their path")
    parser.add_argument("--limit-seconds", type=float, help="of a mutant; else 60 and three times its tests' own time")
    parser.add_argument("--stop-after", type=float, default=float("inf"), metavar="SECONDS", help="of all together")
    parser.add_argument("--extra-args", nargs=argparse.REMAINDER, default=[], help="for pytest; the last option")
    args = parser.parse_args()
    DEADLINE[0] = time.monotonic() + args.stop_after
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="mutants-") as homes, ThreadPoolExecutor(args.workers) as pool:
        spare = queue.SimpleQueue()
        for k in range(args.workers):
            spare.put((Path(homes).resolve() / str(k), None))

        def work(task, item):
            place = spare.get()
            try:
                place = place if place[1] else copied(args.repo, place[0])
                return task(place, item) if time.monotonic() < DEADLINE[0] else None
            finally:
                spare.put(place)

        args.each = lambda task, items: (f.result() for f in as_completed([pool.submit(work, task, i) for i in items]))
        try:
            verbs[args.verb](args, *args.files)
        finally:
            DEADLINE[0] = 0  # what still runs is killed, and nothing else begins


if __name__ == "__main__":
    main()
