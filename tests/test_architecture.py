"""The house rules of docs/design.md, enforced on the source itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "seektune"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
SOURCES = [path for path in MODULES if path.name != "__init__.py"]

LEVELS = {
    "errors": -1, "types": -1, "config": 0, "runlog": 0,
    "ops": 1, "data": 1, "reports": 1,
    "models": 2,
    "adapters": 3, "quantization": 3,
    "training": 4, "generation": 4,
    "alignment": 5, "diagnosis": 5, "evaluation": 5, "export": 5, "serving": 5, "quickstart": 5,
    "recipes": 6,
    "cli": 7, "__main__": 8, "__init__": 8,
}  # fmt: skip

# Each foreign library and the only modules (or rooms) that may import it; docs/design.md has the reasons.
DOORS = {
    "pydantic": {"config", "serving.body", "serving.protocol"},
    "yaml": {"config"},
    "jinja2": {"data.templates.render", "reports"},
    "pyarrow": {"data.sources.decoding", "data.sources.tables", "data.prepared"},
    "datasets": {"data.sources.files"},
    "ftfy": {"data.cleaning.filters"},
    "rapidfuzz": {"data.negatives.answers", "data.duplicates.comparison"},
    "numba": {"ops.compiler"},
    "tokenizers": {"models.tiny"},
    "transformers": {"models", "training.schedule", "generation.cache", "quickstart"},
    "huggingface_hub": {"models.fetch"},
    "safetensors": {"models", "adapters.store", "adapters.folder", "training.checkpoint", "quickstart"},
    "accelerate": {"training"},
    "deepspeed": {"training.zero"},
    "sklearn": {"evaluation.baselines", "data.profile.match", "data.negatives.make"},
    "scipy": {"evaluation.compare"},
    "packaging": {"recipes.installation"},
    "fastapi": {"serving.app"},
    "starlette": {"serving"},
    "uvicorn": {"serving.server", "serving.connections"},
    "prometheus_client": {"serving.metrics"},
    "triton_python_backend_utils": {"serving.triton_model"},
    "rich": {"recipes"},
    "typer": {"cli"},
    "torch": set(LEVELS) - {"types", "config", "errors", "runlog", "cli", "reports", "__main__", "__init__"},
    "numpy": set(LEVELS) - {"types", "config", "errors", "runlog", "cli", "__main__", "__init__"},
}
TYPE_ONLY = {"types", "__init__"}  # may name torch and rooms above, for type checkers only
MAX_FILE, MAX_FUNCTION, MAX_RECIPE = 300, 60, 150


def name_of(path: Path) -> str:
    """`seektune/data/batches.py` → `data.batches`; a room's `__init__` → the room."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(name: str) -> str:
    return name.split(".")[0]


def imports_of(path: Path, at_run_time: bool = True) -> Iterator[str]:
    """Absolute names a module imports; those under `if TYPE_CHECKING` only when not `at_run_time`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if at_run_time and id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner_imports(path: Path, at_run_time: bool = True) -> Iterator[str]:
    known = {name_of(other) for other in MODULES}
    for name in imports_of(path, at_run_time):
        if name == "seektune" or not name.startswith("seektune."):
            continue
        dotted = name.removeprefix("seektune.")
        yield dotted if dotted in known else dotted.rpartition(".")[0] or dotted


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def by_name(path: Path) -> str:
    return name_of(path)


@pytest.mark.parametrize("path", SOURCES, ids=by_name)
def test_a_room_imports_only_from_lower_levels(path: Path) -> None:
    name = name_of(path)
    room = room_of(name)
    for other in inner_imports(path, at_run_time=name not in TYPE_ONLY):
        below = LEVELS[room_of(other)] < LEVELS[room] or room_of(other) == room
        assert below, f"{name} (level {LEVELS[room]}) imports {other} (level {LEVELS[room_of(other)]})"


def test_there_are_no_import_cycles() -> None:
    graph = {name_of(path): set(inner_imports(path)) - {name_of(path)} for path in MODULES}
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " → ".join([*trail[trail.index(node) :], node])
        if node not in done:
            for neighbour in sorted(graph.get(node, ())):
                visit(neighbour, (*trail, node))
            done.add(node)

    for node in sorted(graph):
        visit(node, ())


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_a_foreign_library_enters_through_its_door(path: Path) -> None:
    name = name_of(path)
    for imported in imports_of(path, at_run_time=name in TYPE_ONLY):
        library = imported.split(".")[0]
        if library == "seektune" or library in sys.stdlib_module_names:
            continue
        assert library in DOORS, f"{name} imports {library}, which has no door in docs/design.md"
        allowed = DOORS[library]
        assert name in allowed or room_of(name) in allowed, f"{library} may enter by {sorted(allowed)} only"


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_files_and_functions_stay_below_their_ceilings(path: Path) -> None:
    name = name_of(path)
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= (MAX_RECIPE if room_of(name) == "recipes" else MAX_FILE)
    for function in functions_of(path):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= MAX_FUNCTION or path.stem.endswith("_gpu"), f"{name}.{function.name}: {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=by_name)
def test_a_module_has_a_test_file_of_its_name(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    stem = "main" if path.stem == "__main__" else path.stem
    assert (ROOT / "tests" / Path(*parts[:-1]) / f"test_{stem}.py").is_file()


@pytest.mark.parametrize("path", SOURCES, ids=by_name)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{name_of(path)} says nothing about itself"
    scopes: list[ast.Module | ast.ClassDef] = [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))]
    for scope in scopes:
        if isinstance(scope, ast.ClassDef) and scope.name.startswith("_"):
            continue
        for node in scope.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                documented = ast.get_docstring(node) or (
                    isinstance(scope, ast.ClassDef) and node.name == "forward"
                )
                assert documented, f"{name_of(path)}.{node.name} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_nothing_unpickles_evaluates_or_trusts_remote_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.load", "pickle.load", "pickle.loads", "yaml.load"}
            trusting = [k for k in node.keywords if k.arg == "trust_remote_code"]
            assert not trusting, f"{name_of(path)} passes trust_remote_code"


@pytest.mark.parametrize("path", MODULES, ids=by_name)
def test_there_are_no_global_statements_and_no_module_level_mutable_state(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for name in map(ast.unparse, targets):
            constant = name.strip("_").isupper() or name == "__all__"
            mutable = isinstance(node.value, ast.List | ast.Dict | ast.Set)
            assert constant or not mutable, f"{name_of(path)}.{name}: constants are in capitals"


def test_room_packages_are_empty_but_for_ops_and_the_top() -> None:
    full = [name_of(p) for p in MODULES if p.name == "__init__.py" and p.read_text(encoding="utf-8").strip()]
    assert set(full) <= {"__init__", "ops"}
