"""Every error seektune raises on purpose.

SeektuneError
├── ConfigError        a key, value or file of the run's configuration
├── DataError          a record or file of the training data
├── ModelError         a base model that is missing, unsupported or not what was asked for
│   └── OfflineError   something had to be fetched and could not be
├── TargetError        target_modules or experts that match nothing, too much, or what must not train
├── AdapterError       an adapter folder that does not fit, is damaged or is unsafe
└── TrainingError      a run that must not go on
    ├── NonFiniteError a loss or gradient that is not a number, with the rows in the batch
    └── GateError      what trained is not what was asked for, or something frozen moved
"""

from __future__ import annotations

from typing import Literal


class SeektuneError(ValueError):
    """Base of all; the message names what is wrong, where, and the fix."""

    reported = False  # by another process of the same run


class ConfigError(SeektuneError):
    """A configuration key, value or file is wrong."""


class DataError(SeektuneError):
    """A record or data file is wrong."""


class ModelError(SeektuneError):
    """The base model is missing, unsupported or not what was asked for."""


class OfflineError(ModelError):
    """Something had to be fetched and could not be."""


class TargetError(SeektuneError):
    """Targets match nothing, too much, or what must not train."""


class AdapterError(SeektuneError):
    """An adapter folder does not fit, is damaged or is unsafe.

    `kind` is for programs: there is none of that name (`missing`), there is no room for it now (`busy`), or a
    change of what is served could not be written down (`unsaved`).
    """

    def __init__(self, message: str, kind: Literal["wrong", "missing", "busy", "unsaved"] = "wrong") -> None:
        super().__init__(message)
        self.kind = kind


class TrainingError(SeektuneError):
    """A run must not go on."""


class NonFiniteError(TrainingError):
    """A loss or gradient is not finite."""


class GateError(TrainingError):
    """What trained is not what was asked for, or something frozen moved."""
