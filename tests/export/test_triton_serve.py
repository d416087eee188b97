"""The script as bash runs it, with a server that prints its arguments, and the page beside it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from seektune.export.triton_serve import Service, readme, script

SERVICE = Service(model="llama", adapter="medical", base="/models/a base", gpu=False)
PRINT = '#!/bin/sh\nprintf "%s\\n" "$@" "IN=$PWD" "LIB=$LD_LIBRARY_PATH" "PATH=$PATH"\n'


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def start(folder: Path, *arguments: str, **environment: str) -> list[str]:
    """Run the script in `folder` from another one; what the server printed."""
    serve = executable(folder / "my export" / "serve.sh", script(SERVICE))
    done = subprocess.run(
        ["bash", str(serve), *arguments],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_without_an_environment_the_server_on_path_gets_these_flags(tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "tritonserver", PRINT)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    printed = start(tmp_path, "--log-verbose=1", PATH=path, HTTP_PORT="9000")
    assert printed[:-3] == [
        f"--model-repository={tmp_path}/my export/models",
        "--disable-auto-complete-config",
        "--model-control-mode=explicit",
        "--load-model=llama",
        *("--http-address=127.0.0.1", "--http-port=9000"),
        *("--grpc-address=127.0.0.1", "--grpc-port=8001"),
        *("--metrics-address=127.0.0.1", "--metrics-port=8002"),
        "--log-verbose=1",
    ]
    # The models' Python looks for packages where the server was started, say in a folder beside "triton".
    assert printed[-3] == f"IN={tmp_path}/my export"


def test_an_environment_s_server_finds_its_backend_its_libraries_and_its_python(tmp_path: Path) -> None:
    env = tmp_path / "an env"
    site = env / "site"
    executable(site / "pytriton" / "tritonserver" / "bin" / "tritonserver", PRINT)
    answer = f'case "$2" in *purelib*) echo "{site}";; *) exec {sys.executable} "$@";; esac'
    executable(env / "bin" / "python", f"#!/bin/sh\n{answer}\n")
    *flags, _, libraries, path = start(tmp_path, TRITON_ENV=str(env))
    assert flags[0] == f"--backend-directory={env}/backends"
    assert flags[1].startswith("--model-repository=")
    assert re.fullmatch(rf"LIB=/.+:{re.escape(str(site))}/nvidia_pytriton.libs", libraries)
    assert path.startswith(f"PATH={env}/bin:")


def commands(page: str) -> list[list[str]]:
    """The indented commands of the page as words."""
    lines = re.findall(r"^ {4,}((?=curl|docker|TRITON_ENV)(?:.*\\\n)*.*)$", page, re.MULTILINE)
    return [shlex.split(line.replace("\\\n", " ")) for line in lines]


def test_the_page_calls_the_model_by_its_name() -> None:
    page = readme(SERVICE)
    calls = [words for words in commands(page) if words[0] == "curl"]
    assert [
        next(word for word in words if word.startswith("http")).rpartition("/")[2] for words in calls
    ] == [
        "generate",
        "generate_stream",
        "generate",
    ]
    bodies = [json.loads(words[-1]) for words in calls]
    assert bodies[0]["parameters"]["adapter"] == "medical"
    assert json.loads(bodies[1]["messages"]) == [{"role": "user", "content": "Hello"}]
    assert bodies[2]["parameters"]["control"] == "load"
    assert "has not been run" in page
    assert "Triton asks nobody who he is" in page


def test_the_image_s_line_mounts_a_base_that_is_a_folder_and_asks_for_gpus_where_needed() -> None:
    [words] = [words for words in commands(readme(SERVICE)) if words[0] == "docker"]
    assert words[words.index("-v") : words.index("-v") + 4] == [
        "-v",
        "$PWD:/repo",
        "-v",
        "/models/a base:/models/a base:ro",
    ]
    assert "--gpus" not in words
    [words] = [w for w in commands(readme(replace(SERVICE, base="org/base", gpu=True))) if w[0] == "docker"]
    assert words.count("-v") == 1
    assert words[words.index("--gpus") + 1] == "all"
