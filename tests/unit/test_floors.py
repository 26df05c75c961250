"""The house's rules: who may import whom, who stays light, how long a file may be, what is documented."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tercet"
MAX_LINES = 400

FLOORS = {
    "core": 0,
    **dict.fromkeys(
        ("engine", "routing", "dialects", "latency", "traffic", "results", "text", "media", "transfer", "http"), 1
    ),
    **dict.fromkeys(("worker", "router", "sim", "bench"), 2),
    **dict.fromkeys(("launch", "plan", "report"), 3),
    "compare": 4,
    "cli": 5,
}

LIGHT_MODULES = ("tercet.cli.main", "tercet.router.app", "tercet.worker.front", "tercet.bench")
HEAVY = ("torch", "transformers")

FILES = sorted(SOURCE.rglob("*.py"))
IDS = [str(path.relative_to(SOURCE)) for path in FILES]


def package_of(path: Path) -> str | None:
    """Return the package of a file, None for those of tercet itself (`__init__`, `__main__`)."""
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else None


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Yield every absolute tercet module that is imported anywhere, function bodies and type checking included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "tercet")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports absolutely"
            if node.module == "tercet":  # from tercet import cli, or __version__, which belongs to no floor
                yield from (f"tercet.{alias.name}" for alias in node.names if (SOURCE / alias.name).is_dir())
            elif node.module and node.module.startswith("tercet."):
                yield node.module


def undocumented(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[str]:
    """Yield public classes, functions and methods without a docstring."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            if ast.get_docstring(child) is None:
                yield f"line {child.lineno}: {prefix}{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from undocumented(child, f"{child.name}.")


def run_python(code: str) -> str:
    """Run `code` in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_package_imports_only_floors_below_it(path: Path) -> None:
    package = package_of(path)
    if package is None:
        return
    for module in imported_modules(ast.parse(path.read_text(encoding="utf-8"))):
        other = module.split(".")[1]
        assert other in FLOORS, f"{module}: the package has no floor"
        allowed = other == package or FLOORS[other] < FLOORS[package]
        assert allowed, f"{package} (floor {FLOORS[package]}) imports {module} (floor {FLOORS[other]})"


def test_tercet_itself_imports_nothing_of_the_house() -> None:
    assert list(imported_modules(ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8")))) == []


def test_every_package_has_a_floor_and_says_so() -> None:
    packages = {path.parts[0] for path in (file.relative_to(SOURCE) for file in FILES) if len(path.parts) > 1}
    assert packages <= set(FLOORS)
    for package in packages:
        init = SOURCE / package / "__init__.py"
        assert init.is_file(), f"{package} has no __init__.py"
        words = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        assert words.startswith(f"Floor {FLOORS[package]}: "), package


@pytest.mark.parametrize("module", LIGHT_MODULES)
def test_routers_fronts_bench_and_commands_import_no_torch(module: str) -> None:
    # A folder without __init__.py imports as a namespace, from no file: that would prove nothing.
    code = (
        f"import sys, {module}; assert sys.modules[{module!r}].__file__;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_everything_but_the_engine_and_its_process_imports_without_torch() -> None:
    """Every module of the core install, not only the entry points: a later import of one must not bring torch in."""
    modules = [
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts)
        for path in FILES
        if package_of(path) not in (None, "engine", "worker") and path.name != "__init__.py"
    ]
    code = (
        f"import importlib, sys\nfor name in {modules!r}:\n    importlib.import_module(name)\n"
        f"    heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert not heavy, f'{name} imports {heavy}'\nprint('light')"
    )
    assert run_python(code) == "light"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_a_file_is_one_noun(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{lines} lines: past {MAX_LINES} it is two nouns"
    assert path.name != "utils.py"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_what_is_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) is not None
    assert list(undocumented(tree)) == []


def test_the_checks_can_fail() -> None:
    tree = ast.parse("def f(): pass\nclass A:\n  'x'\n  def g(self): pass\n  def _h(self): pass\n")
    assert list(undocumented(tree)) == ["line 1: f", "line 4: A.g"]
    inner = ast.parse(
        "def f():\n  from tercet.cli import main\n  import tercet.worker.front as t\nfrom tercet import cli\n"
    )
    assert sorted(imported_modules(inner)) == ["tercet.cli", "tercet.cli", "tercet.worker.front"]
