"""What a layer may add to its base, and what to say when it adds more: by how much, what to drop first, who asked for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from imagebuild.config import BudgetRules
from imagebuild.errors import BudgetError
from imagebuild.size.model import Limit, PackageRemoval, PackageSize, SizeReport
from imagebuild.table import format_table
from imagebuild.text import format_size, name_some

# A prediction is within 5 % of the layer on the measured sets; one is refused on only when it is over by twice that,
# or, where wheels could not be looked into, by half.
_MARGIN, _COARSE_MARGIN = 1.1, 1.5
_SHOWN = 10
_NEARLY = 0.8  # of the excess: what a package costs beside its own files (constraints, folders) goes with it


class LastImage(msgspec.Struct, frozen=True):
    """The team's image before this one; sizes of the layer it added, None where its annotations lack them."""

    tag: str
    compressed: int | None
    installed: int | None


def compute_limits(
    rules: BudgetRules, *, compressed: int | None, installed: int | None, packages: Mapping[str, int], last: LastImage | None = None
) -> tuple[Limit, ...]:
    """Every line of the budget with what it is about; ``packages``: installed bytes by name, ``last`` counts with ``growth`` only.

    A size that is not known, of the layer or of the last image, is over.
    """
    limits = [Limit("stored", compressed, rules.compressed), Limit("unpacked", installed, rules.installed)]
    if rules.growth is not None and last is not None:
        for word, size, before in (("stored", compressed, last.compressed), ("unpacked", installed, last.installed)):
            known = before is not None
            limits.append(Limit(f"{word} after {last.tag}", size if known else None, int((before or 0) * (1 + rules.growth))))
    for name, limit in sorted(rules.packages.items()):
        if name in packages:
            limits.append(Limit("unpacked", packages[name], limit, package=name))
    return tuple(limits)


def list_absent(rules: BudgetRules, packages: Mapping[str, int]) -> tuple[str, ...]:
    """A note when the budget names packages that the layer does not have: a slip of the pen would limit nothing."""
    absent = sorted(set(rules.packages) - set(packages))
    return (f"[budget] packages names what is not in the layer: {', '.join(absent)}",) if absent else ()


def require_budget(report: SizeReport, consequence: str = "nothing was pushed") -> None:
    """BudgetError when a line of ``report.limits`` is broken; the message ends in ``consequence``."""
    over = [limit for limit in report.limits if limit.over]
    if over:
        what = " and ".join(map(describe_limit, over))
        raise BudgetError(f"over budget: {what}; {consequence}", advise(report, over), tabulate_packages(report.packages))


def require_prediction(report: SizeReport) -> None:
    """Refuse before any download what is over by more than a prediction can be wrong."""
    margin = _COARSE_MARGIN if any(item.coarse for item in report.packages) else _MARGIN
    sure = tuple(limit for limit in report.limits if limit.size is None or limit.size > limit.limit * margin)
    if sure:
        require_budget(msgspec.structs.replace(report, limits=sure), "predicted from the lock, nothing was downloaded or built")


def describe_limit(limit: Limit) -> str:
    """One line of the budget, as an error says it."""
    name = f"{limit.package} " if limit.package else ""
    size = "an unknown size" if limit.size is None else format_size(limit.size)
    return f"{name}{size} {limit.what} of {format_size(limit.limit)} allowed"


def advise(report: SizeReport, over: Sequence[Limit]) -> str:
    """What to do first: of what nothing else needs, the smallest that is enough, else the largest."""
    raising = "or raise [budget] in team.toml"
    if any(limit.size is None for limit in over):
        return "leave growth out of [budget] once, or build with an engine that reports the size: an unknown size is never accepted"
    single = next((limit.package for limit in over if limit.package), "")
    if single:
        chain = next((item.chain for item in report.packages if item.name == single), ())
        return f"{single} is there because of {' > '.join(chain) or 'the lock'}: pin a smaller version or drop it, {raising}"
    excess = {word: max((limit.size or 0) - limit.limit for limit in over if limit.what.startswith(word)) for word in _words(over)}
    stored, unpacked = (excess.get(word, 0) * _NEARLY for word in ("stored", "unpacked"))
    enough = [item for item in report.removals if item.compressed >= stored and item.installed >= unpacked]
    measure = "compressed" if "stored" in excess else "installed"
    best: PackageRemoval | None = min(enough, key=lambda item: getattr(item, measure), default=None)
    if best is None:
        best = max(report.removals, key=lambda item: getattr(item, measure), default=None)
    if best is None:
        return "leave a package out, " + raising
    chain = next((item.chain for item in report.packages if item.name == best.name), ())
    along = f" (with {name_some(best.along)})" if best.along else ""
    return (
        f"drop {best.name} first{along}: frees {format_size(best.compressed)} stored, {format_size(best.installed)} unpacked; "
        f"asked for by {' > '.join(chain[:-1]) or 'the lock'}; {raising}"
    )


def _words(over: Sequence[Limit]) -> set[str]:
    return {limit.what.partition(" ")[0] for limit in over}


def tabulate_packages(packages: Sequence[PackageSize], most: int = _SHOWN) -> tuple[str, ...]:
    """The largest packages, a line each: name, version, compressed and installed size, who asked."""
    rows = []
    for item in packages[:most]:
        asked = " > ".join(item.chain) if len(item.chain) > 1 else ""
        rows.append((f"  {item.name} {item.version}", *_show_sizes(item.compressed, item.installed), asked))
    rest = packages[most:]
    if rest:
        stored, unpacked = sum(item.compressed for item in rest), sum(item.installed for item in rest)
        rows.append((f"  and {len(rest)} more", *_show_sizes(stored, unpacked), ""))
    return tuple(format_table(rows))


def _show_sizes(stored: int, unpacked: int) -> tuple[str, str]:
    return f"{format_size(stored):>11} stored", f"{format_size(unpacked):>11} unpacked"
