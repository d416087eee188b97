"""Groups, module names or a regex → the modules that get an adapter; whatever does not fit is an error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from seektune.errors import TargetError
from seektune.models.families import ALL_LINEAR, ATTENTION_NAMES, GROUPS, MLP_NAMES, Family

_LAYER = re.compile(r"\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Site:
    """One place for an adapter; a routed site is the fused experts module of a layer."""

    name: str
    module: nn.Module
    group: str
    layer: int | None


def all_sites(model: nn.Module, family: Family) -> list[Site]:
    """Every site of the model, in the model's order."""
    patterns = {group: re.compile(pattern) for group, pattern in family.groups.items()}
    return [
        Site(name, module, group, _layer(name))
        for name, module in model.named_modules()
        for group, pattern in patterns.items()
        if pattern.fullmatch(name)
    ]


def groups_by_site(model: nn.Module, family: Family) -> dict[str, str]:
    """The group of every site, by the site's name."""
    return {site.name: site.group for site in all_sites(model, family)}


def find_sites(
    model: nn.Module,
    family: Family,
    target_modules: Sequence[str] | str,
    exclude_modules: Sequence[str] | str = (),
) -> list[Site]:
    """The sites that `target_modules` asks for, less `exclude_modules`, in the model's order.

    A list holds groups, `all-linear` or module names, which match as in PEFT: the whole name or its end
    after a dot. A single string is a group, `all-linear` or a regex on the whole name. The router, the
    head and what the family refuses are never included. Raises TargetError for whatever matches nothing,
    matches only what must not train, or is ambiguous.
    """
    sites = all_sites(model, family)
    chosen = {
        site.name for pattern in _patterns(target_modules) for site in _matched(pattern, model, family, sites)
    }
    for pattern in _patterns(exclude_modules):
        chosen -= _excluded(pattern, [site for site in sites if site.name in chosen])
    if not chosen:
        raise TargetError("exclude_modules leaves nothing of target_modules to train")
    return [site for site in sites if site.name in chosen]


@dataclass(frozen=True)
class _Pattern:
    """One entry of target_modules: the groups it names, or a predicate on module names."""

    text: str
    groups: tuple[str, ...]
    matches: Callable[[str], bool]
    is_regex: bool

    def hits(self, site: Site) -> bool:
        return site.group in self.groups or self.matches(site.name)


def _patterns(targets: Sequence[str] | str) -> list[_Pattern]:
    if isinstance(targets, str):
        return [_pattern(targets, is_regex=True)]
    return [_pattern(target, is_regex=False) for target in targets]


def _pattern(text: str, is_regex: bool) -> _Pattern:
    if text == ALL_LINEAR:
        return _Pattern(text, ("attention", "dense", "shared"), lambda name: False, False)
    if text in GROUPS:
        return _Pattern(text, (text,), lambda name: False, False)
    if not is_regex:
        return _Pattern(text, (), lambda name: name == text or name.endswith(f".{text}"), False)
    try:
        compiled = re.compile(text)
    except re.error as error:
        raise TargetError(f"{text!r} is not a regular expression: {error}") from None
    return _Pattern(text, (), lambda name: compiled.fullmatch(name) is not None, True)


def _matched(pattern: _Pattern, model: nn.Module, family: Family, sites: list[Site]) -> list[Site]:
    found = [site for site in sites if pattern.hits(site)]
    if not found:
        raise TargetError(_nothing(pattern, model, family, sites))
    bare = not (pattern.groups or pattern.is_regex or "." in pattern.text)
    if bare:
        _refuse_ambiguous(pattern.text, found, sites)
    return found


def _excluded(pattern: _Pattern, chosen: list[Site]) -> set[str]:
    where = f"exclude_modules: {pattern.text!r}"
    excluded = {site.name for site in chosen if pattern.hits(site)}
    if pattern.text in MLP_NAMES and any(site.group == "routed" for site in chosen):
        raise TargetError(
            f"{where} cannot leave out a part of the routed experts, which are adapted as a whole"
        )
    if not excluded:
        raise TargetError(f"{where} excludes nothing that target_modules selects; remove it")
    return excluded


def _refuse_ambiguous(name: str, found: list[Site], sites: list[Site]) -> None:
    groups = {site.group for site in found}
    # PEFT 0.21 rewrites these names to the routed experts, whatever else carries them.
    if name in MLP_NAMES:
        groups |= {site.group for site in sites if site.group == "routed"}
    if len(groups) > 1:
        names = ", ".join(group for group in GROUPS if group in groups)
        raise TargetError(
            f"target_modules: {name!r} is ambiguous here, it names parts of several groups; "
            f"say which you mean: {names} (or a regex on full module names)"
        )


def _nothing(pattern: _Pattern, model: nn.Module, family: Family, sites: list[Site]) -> str:
    """Why the pattern matches no site: refused, another generation's name, or misspelt."""
    where = f"target_modules: {pattern.text!r}"
    existing = _summary(sites)
    if pattern.groups:
        return f"{where} has no modules in this {family.model_type} model, which has {existing}"
    for name, _ in model.named_modules():
        reason = _refusal(name, family) if name and pattern.matches(name) else None
        if reason is not None:
            return f"{where} matches only what must not train ({name}): {reason}; this model has {existing}"
    if pattern.is_regex and re.fullmatch(r"\w+", pattern.text):
        hint = f"; one string is a regex on the whole name, write [{pattern.text}] for a module name"
    elif pattern.text in ATTENTION_NAMES:
        hint = "; use the group 'attention'"
    elif _last(pattern.text) in (*MLP_NAMES, "gate_up_proj") and "experts" in pattern.text:
        hint = "; the experts of a layer are one module, adapted as a whole: use the group 'routed'"
    else:
        hint = _near_miss(pattern.text, sites)
    return f"{where} matches no module{hint}; this {family.model_type} model has {existing}"


def _refusal(name: str, family: Family) -> str | None:
    matching = (reason for pattern, reason in family.refused.items() if re.fullmatch(pattern, name))
    return next(matching, None)


def _near_miss(text: str, sites: list[Site]) -> str:
    known = [*GROUPS, ALL_LINEAR, *dict.fromkeys(_last(site.name) for site in sites)]
    near = difflib.get_close_matches(_last(text), known, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _summary(sites: Iterable[Site]) -> str:
    """`attention (q_proj, …), routed (experts)`: the groups that exist and their module names."""
    names: dict[str, dict[str, None]] = {}
    for site in sites:
        names.setdefault(site.group, {})[_last(site.name)] = None
    return ", ".join(f"{group} ({', '.join(names[group])})" for group in GROUPS if group in names)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _layer(name: str) -> int | None:
    found = _LAYER.search(name)
    return int(found[1]) if found else None
