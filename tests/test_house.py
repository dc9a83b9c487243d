"""The house rules that a program can check: sizes, types, docstrings, directions, and what may never be in src/.

Each test gathers every offence and shows them all, so that one run tells the whole list.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from weitiao.core import catalogue

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "weitiao"
FILES = sorted(SRC.rglob("*.py"))
MAX_LINES, MAX_FUNCTION_LINES, MAX_LINE_LENGTH = 400, 80, 120  # the aim is 300, 60 and 110
MAY_PRINT = {"cli", "__main__", "reporting/terminal"}
HEAVY = (
    "torch",
    "transformers",
    "pandas",
    "datasets",
    "sklearn",
    "matplotlib",
    "scipy",
    "peft",
    "accelerate",
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(SRC).with_suffix("").as_posix()


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def nodes(*kinds: type) -> Iterator[tuple[Path, ast.AST]]:
    for path in FILES:
        yield from ((path, node) for node in ast.walk(parsed(path)) if isinstance(node, kinds))


def public_functions(body: list[ast.stmt]) -> Iterator[tuple[Function, bool]]:
    """Public functions of a module and methods of its public classes; the flag says which is a method."""
    for node in body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            methods = (part for part in node.body if isinstance(part, Function))
            yield from ((part, True) for part in methods if not part.name.startswith("_"))


def imports(path: Path) -> Iterator[tuple[ast.AST, str]]:
    """Every module that a file imports, at any depth, as (node, dotted name)."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.module
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def called(node: ast.Call) -> str:
    """The dotted name of what is called, or an empty string for an expression."""
    return ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else ""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


def test_there_is_something_to_check():
    assert len(FILES) > 10


def test_files_and_lines_are_short():
    long = []
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > MAX_LINES:
            long.append(f"{path.relative_to(ROOT)} has {len(lines)} lines")
        for number, line in enumerate(lines, 1):
            if len(line) > MAX_LINE_LENGTH:
                long.append(f"{path.relative_to(ROOT)}:{number} has {len(line)} characters")
    assert not long, "\n".join(long)


def test_functions_are_short():
    long = []
    for path, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        length = node.end_lineno - node.lineno + 1
        if length > MAX_FUNCTION_LINES:
            long.append(f"{place(path, node)} {node.name} has {length} lines")
    assert not long, "\n".join(long)


def test_public_functions_are_typed():
    bare = []
    for path in FILES:
        for function, is_method in public_functions(parsed(path).body):
            spec = function.args
            arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
            static = any(ast.unparse(mark) == "staticmethod" for mark in function.decorator_list)
            if is_method and not static:
                arguments = arguments[1:]
            untyped = [argument.arg for argument in arguments if argument and argument.annotation is None]
            if function.returns is None:
                untyped.append("return")
            if untyped:
                bare.append(f"{place(path, function)} {function.name}: {', '.join(untyped)}")
    assert not bare, "\n".join(bare)


def test_modules_classes_and_functions_say_what_they_are():
    silent = []
    for path in FILES:
        module = parsed(path)
        if module.body and not ast.get_docstring(module):
            silent.append(f"{path.relative_to(ROOT)}:1 the module")
        for node in module.body:
            named = isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_")
            if named and not ast.get_docstring(node):
                silent.append(f"{place(path, node)} {node.name}")
    assert not silent, "No docstring:\n" + "\n".join(silent)


def test_only_the_command_line_prints():
    loud = [
        place(path, node)
        for path, node in nodes(ast.Call)
        if called(node) == "print" and name(path) not in MAY_PRINT
    ]
    assert not loud, "print() outside the command line; yield a NoteEvent instead:\n" + "\n".join(loud)


def test_nothing_can_run_code_from_a_file():
    """Pickle, torch.load, yaml.load, eval and exec all run what a file says; a model folder comes from strangers."""
    modules = {
        "pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "marshal",
        "torch.load",
        "yaml.load",
    }
    calls = {"torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
    unsafe = [
        f"{place(path, node)} imports {module}"
        for path in FILES
        for node, module in imports(path)
        if module in modules or module.split(".")[0] in modules
    ]
    for path, node in nodes(ast.Call):
        loose = {"allow_pickle", "trust_remote_code"} & {
            word.arg
            for word in node.keywords
            if not (isinstance(word.value, ast.Constant) and not word.value.value)
        }
        if called(node) in calls or loose:
            unsafe.append(f"{place(path, node)} {ast.unparse(node)[:80]}")
    assert not unsafe, "\n".join(unsafe)


def test_imports_run_downwards():
    """The contract in pyproject.toml, as ``make check`` reads it."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize("family", [family for family in catalogue.FAMILIES if family != "stages"])
def test_members_of_a_family_never_import_each_other(family):
    members = {f"weitiao.{family}.{member}" for member in catalogue.members(family)}
    crossed = [
        f"{place(path, node)} imports {module}"
        for path in sorted((SRC / family).glob("*.py"))
        if path.stem not in ("__init__",)
        for node, module in imports(path)
        if module in members and module != f"weitiao.{family}.{path.stem}"
    ]
    assert not crossed, "\n".join(crossed)


@pytest.mark.parametrize("family", catalogue.FAMILIES)
def test_every_member_has_a_summary(family):
    """The catalogue shows the first line of a member's docstring as its help."""
    for member in catalogue.members(family):
        line = catalogue.summary(family, member)
        assert re.search(r"\w{3}", line), (
            f"{family}/{member}.py: its docstring's first line is its help; it has none"
        )
        assert len(line) <= 110, (
            f"{family}/{member}.py: the first line of the docstring is too long for help: {line}"
        )


@pytest.mark.parametrize("entry", ["import weitiao", "help"])
def test_light_commands_import_nothing_heavy(entry):
    if not (SRC / "__init__.py").exists() or not (SRC / "cli.py").exists():
        pytest.skip("the package has no entry yet")
    run = (
        "import weitiao" if entry != "help" else "from weitiao.cli import main; assert main(['--help']) == 0"
    )
    show = (
        f"import sys; print('heavy:', *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{run}\n{show}"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.strip().splitlines()[-1] == "heavy:"


def test_every_dependency_is_pinned():
    """constraints.txt holds one exact version for each requirement, inside the range that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            package, version = line.split("==")
            assert canonicalize_name(package) not in pins, f"{package} is pinned twice"
            pins[canonicalize_name(package)] = version
    for text in [*project["dependencies"], *(text for extra in extras.values() for text in extra)]:
        wanted = Requirement(text)
        pin = pins.get(canonicalize_name(wanted.name))
        assert pin, f"{wanted.name} has no pin in constraints.txt"
        assert wanted.specifier.contains(pin), f"{wanted.name}=={pin} lies outside {wanted.specifier}"


def test_example_data_is_small_and_licensed(example_data):
    folders = [
        folder for folder in example_data.iterdir() if folder.is_dir() and folder.name != "__pycache__"
    ]
    index = (example_data / "README.md").read_text(encoding="utf-8")
    assert folders
    for folder in folders:
        licence = (folder / "LICENSE.md").read_text(encoding="utf-8")
        for heading in ("Licence:", "Source:", "What was cut:"):
            assert heading in licence, f"{folder.name}/LICENSE.md doesn't say '{heading}'"
        assert f"`{folder.name}/`" in index, f"examples/data/README.md doesn't list {folder.name}/"
    assert sum(file.stat().st_size for file in example_data.rglob("*")) < 2_000_000


@pytest.mark.parametrize("page", sorted(path.name for path in ROOT.glob("*.zh.md")))
def test_pages_in_two_languages_keep_step(page):
    """A Chinese page has the headings and code blocks of its English counterpart, in number and level."""

    def skeleton(path: Path) -> list[str]:
        return re.findall(r"^(?:#+(?= )|```\w*)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)

    assert skeleton(ROOT / page) == skeleton(ROOT / page.replace(".zh.md", ".md"))
