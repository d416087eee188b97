"""The command line: one verb per recipe. Recipes are imported when run, so `--help` costs no torch.

Exit codes, as grep and diff have them: 0 done, or nothing found; 1 a check found something (`diagnose`,
`doctor`) or rows have no answer (`generate`); 2 the command could not do its work: an error of ours, or
wrong arguments.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from seektune.errors import SeektuneError

app = typer.Typer(
    name="seektune",
    help="LoRA fine-tuning and serving for the DeepSeek model family.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigFile = Annotated[Path, typer.Argument(help="YAML configuration; `seektune init NAME` writes one.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides, e.g. training.learning_rate=1e-4")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run already in output_dir.")]
Resume = Annotated[
    str,
    typer.Option(
        "--resume", help="auto: from the newest whole checkpoint; never: start again; or a checkpoint folder."
    ),
]
Model = Annotated[str, typer.Argument(help="A run folder, a model folder, a hub id, or tiny/deepseek_v3.")]
Adapter = Annotated[
    list[Path] | None, typer.Option("--adapter", help="Adapter folder; may be given several times.")
]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token; higher samples.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampling.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"seektune {version('seektune')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """LoRA fine-tuning and serving for the DeepSeek model family."""


@app.command()
def demo(
    model: Annotated[str, typer.Option(help="moe, dense or both.")] = "moe",
    output_dir: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/demo"),
    max_steps: Annotated[int, typer.Option(help="Stop early, to see it work.", show_default="all")] = -1,
    overwrite: Overwrite = False,
) -> None:
    """Train a real 135M model on real medical questions and show what it learned."""
    from seektune.recipes import demo as recipe

    recipe.run(model=model, output_dir=output_dir, max_steps=max_steps, overwrite=overwrite)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="NAME.yaml is written.")],
    base_model: Annotated[str, typer.Option(help="Base model.")] = "tiny/deepseek_v3",
    data: Annotated[str, typer.Option(help="Training data.")] = "train.jsonl",
) -> None:
    """Write a commented configuration to start from."""
    from seektune.recipes import init as recipe

    path = recipe.run(name, base_model=base_model, data=data)
    typer.echo(f"wrote {path}; next: seektune prepare {path}")


@app.command()
def prepare(config: ConfigFile, overrides: Overrides = None) -> None:
    """Clean and check the data, show one sample as the model will see it, and write a report."""
    from seektune.config.run import load_config
    from seektune.recipes import prepare as recipe

    recipe.run(load_config(config, overrides or ()))


@app.command()
def estimate(
    config: ConfigFile,
    overrides: Overrides = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Predict memory, time and disk for each choice, before anything is loaded."""
    from seektune.config.run import load_config
    from seektune.recipes import estimate as recipe

    recipe.run(load_config(config, overrides or ()), as_json=json)


@app.command()
def train(
    config: ConfigFile, overrides: Overrides = None, overwrite: Overwrite = False, resume: Resume = "auto"
) -> None:
    """Train an adapter, prove what trained, evaluate it and write a report."""
    from seektune.config.run import load_config
    from seektune.recipes import train as recipe
    from seektune.training.world import leave

    recipe.run(load_config(config, overrides or ()), overwrite=overwrite, resume=resume)
    leave()


@app.command()
def evaluate(run: Annotated[Path, typer.Argument(help="A finished run folder.")]) -> None:
    """Compare base and adapter on the held-out rows, with intervals and simple baselines."""
    from seektune.recipes import evaluate as recipe

    recipe.run(run)


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="A run folder, finished or broken.")],
    probes: Annotated[
        bool, typer.Option(help="Load the model and try short runs; without, only the folder is read.")
    ] = True,
    budget: Annotated[float, typer.Option(help="Minutes for the short runs.", min=0)] = 10.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a list.")] = False,
) -> None:
    """Say what is wrong with a run, with evidence and the lines to change; exit code 1 when something is."""
    from seektune.recipes import diagnose as recipe

    raise typer.Exit(code=1 if recipe.run(run, probes=probes, budget=budget, as_json=json) else 0)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[
        str, typer.Argument(help="The question, - reads it from standard input; with --out, a JSONL file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the answers to the file PROMPT here; what was begun goes on."),
    ] = None,
    adapter: Adapter = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> None:
    """Answer one question and stream the answer; with --out a file of them, exit code 1 when rows are bad."""
    from seektune.recipes import generate as recipe

    text = sys.stdin.read() if prompt == "-" and out is None else prompt
    bad = recipe.run(
        model,
        text,
        out=out,
        adapters=adapter or (),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    raise typer.Exit(code=1 if bad else 0)


@app.command()
def chat(
    model: Model,
    adapter: Adapter = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> None:
    """Talk to a model; /help lists commands. In a pipe each line is a question, and only answers come out."""
    from seektune.recipes import chat as recipe

    recipe.run(
        model, adapters=adapter or (), max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )


@app.command()
def serve(
    model: Model,
    more: Annotated[list[str] | None, typer.Argument(help="Further adapters, name=folder.")] = None,
    adapters: Annotated[
        list[str] | None, typer.Option("--adapters", help="name=folder; more may follow it.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address; any but this machine's own needs API keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    api_keys: Annotated[
        Path | None, typer.Option(help="File with a line use:KEY or administer:KEY for each key.")
    ] = None,
    cors_origin: Annotated[
        list[str] | None, typer.Option(help="Web origin whose pages may call this server; may be repeated.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16; auto is the run's, else the checkpoint's.")
    ] = "auto",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Setting, e.g. engine.max_num_seqs=32; may be repeated.")
    ] = None,
) -> None:
    """Serve a model and its adapters over HTTP, as OpenAI's API."""
    from seektune.config.serving import serve_config
    from seektune.recipes import serve as recipe

    given = {"host": host, "port": port, "cors_origins": cors_origin or ()}
    config = serve_config(given, settings or ())
    named = [*(adapters or ()), *(more or ())]
    recipe.run(model, config=config, adapters=named, api_keys=api_keys, dtype=dtype)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    to: Annotated[str, typer.Option(help="vllm, peft, triton, or merged: a model without adapter.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not exist.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting of --to triton, as kind=gpu; may be repeated."),
    ] = None,
) -> None:
    """Write a run's adapter for another program; what that one would silently drop is refused."""
    from seektune.recipes import export as recipe

    recipe.run(run, to=to, out=out, settings=settings or ())


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a page.")] = False,
) -> None:
    """Show versions, devices, what works here and what to install."""
    from seektune.recipes import doctor as recipe

    raise typer.Exit(code=0 if recipe.run(as_json=json) else 1)


def main() -> None:
    """Entry point: our own errors are one message and exit code 2, never a traceback."""
    try:
        app()
    except SeektuneError as error:
        if not error.reported:
            typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
