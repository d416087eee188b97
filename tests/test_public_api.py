"""The public face: names, laziness."""

from __future__ import annotations

import subprocess
import sys

import pytest

import seektune


def test_the_public_names_are_exactly_these_and_all_resolve() -> None:
    assert seektune.__all__ == [
        "AdapterSpec", "attach", "batches", "detach", "generate", "inventory",
        "load_adapter", "load_model", "read_records", "save_adapter", "train",
    ]  # fmt: skip
    assert all(callable(getattr(seektune, name)) for name in seektune.__all__)
    assert set(seektune.__all__) <= set(dir(seektune))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="tarin"):
        _ = seektune.tarin


@pytest.mark.parametrize(
    "statement",
    [
        "import seektune",
        "import seektune; seektune.AdapterSpec(r=8)",
        "import seektune.cli",
        "import sys; sys.argv = ['seektune', 'train', '--help']\n"
        "from seektune.cli import main\ntry: main()\nexcept SystemExit: pass",
    ],
)
def test_importing_and_asking_for_help_loads_no_torch(statement: str) -> None:
    check = f"{statement}\nimport sys\nassert not {{'torch', 'transformers', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)
