"""A plan's size, predicted and measured, against the budget and the team's last image."""

from __future__ import annotations

import msgspec

from imagebuild.errors import BudgetError
from imagebuild.layer.model import TeamLayers
from imagebuild.pipeline.planning import Plan
from imagebuild.size.budget import LastImage, compute_limits, list_absent
from imagebuild.size.model import SizeReport
from imagebuild.workspace import Workspace


def find_last_image(workspace: Workspace, plan: Plan) -> LastImage | None:
    """The newest image of the team that is not this one; asked for only where the budget limits growth."""
    if plan.team.table.budget.rules.growth is None:
        return None
    from imagebuild.catalogue.entries import read_catalogue

    entries = read_catalogue(workspace.target, teams=[plan.repository]).entries
    entry = next((item for item in entries if item.tag != plan.recipe.tag), None)
    return None if entry is None else LastImage(entry.tag, entry.delta_compressed or None, entry.delta_installed or None)


def _judge(plan: Plan, report: SizeReport, last: LastImage | None) -> SizeReport:
    packages = {item.name: item.installed for item in report.packages}
    rules = plan.team.table.budget.rules
    limits = compute_limits(rules, compressed=report.compressed, installed=report.installed, packages=packages, last=last)
    return msgspec.structs.replace(report, limits=limits, notes=(*report.notes, *list_absent(rules, packages)))


def predict_size(workspace: Workspace, plan: Plan, last: LastImage | None) -> SizeReport:
    """What the plan's layer will add, from the lock and what is known of its wheels here; no index is asked."""
    from imagebuild.lock.wheels.shapes import find_shapes
    from imagebuild.size.prediction import find_unknown, predict_report

    unknown = find_unknown(plan.lock)
    if unknown:
        raise BudgetError(
            f"the lock does not give the size of {', '.join(unknown)}; nothing was built", f"lock again: imagebuild lock {plan.team.name}"
        )
    report = predict_report(
        plan.recipe.tag,
        plan.lock,
        find_shapes(plan.lock.packages, workspace.cache, tuple),
        plan.recipe.codec,
        bytecode=plan.base.runtime is not None,
        slim=plan.recipe.slim,
        extra=len(plan.recipe.constraints),
        addons=plan.addons,
    )
    return _judge(plan, report, last)


def measure_size(plan: Plan, made: TeamLayers, last: LastImage | None) -> SizeReport:
    """What the finished layers add."""
    from imagebuild.size.measurement import measure_layers

    return _judge(plan, measure_layers(made, plan.lock, plan.addons, subject=plan.recipe.tag, tree=plan.base.tree), last)
