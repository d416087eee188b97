"""The records of a run: training rows and held-out rows."""

from __future__ import annotations

from itertools import groupby

from seektune.config.run import RunConfig
from seektune.data.formats import read_records
from seektune.data.split import split
from seektune.types import Example


def read_examples(config: RunConfig) -> tuple[list[Example], list[Example]]:
    """The training rows, and the held-out rows: a file of their own, a fraction, or none."""
    train: list[Example] = []
    for form, sources in groupby(config.data.train, key=lambda source: source.format):
        paths = [str(source.path) for source in sources]
        train += read_records(paths, format=form, prompt_prefix=config.data.prompt_prefix)
    if config.data.eval.path is not None:
        held_out = read_records(
            config.data.eval.path, prompt_prefix=config.data.prompt_prefix, labels=labels_of(train)
        )
        return train, held_out
    if config.data.eval.fraction is not None:
        return split(train, config.data.eval.fraction, config.training.seed)
    return train, []


def labels_of(examples: list[Example]) -> tuple[str, ...] | None:
    """The label names of classification rows, which all share one set of options; else None."""
    options = {example.options for example in examples}
    return options.pop() if len(options) == 1 and () not in options else None
