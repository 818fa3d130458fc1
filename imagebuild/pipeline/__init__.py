"""The main job, step after step: team -> base -> lock -> recipe -> layer -> image -> checks -> registry."""

from __future__ import annotations

from imagebuild.pipeline.bases import open_base, open_base_store
from imagebuild.pipeline.building import (
    adapt_context,
    build_direct_layers,
    build_docker_layer,
    build_twins,
    fetch_team_wheels,
    prepare_bake,
    prepare_context,
)
from imagebuild.pipeline.lockoptions import LockOptions
from imagebuild.pipeline.lockuse import (
    build_local_wheels,
    find_team_lock,
    lock_team,
    read_team_lock,
    resolve_team,
    warn_of_lock,
)
from imagebuild.pipeline.planning import Plan, choose_engine, find_image, plan_image, plan_twins
from imagebuild.pipeline.pushing import BuildOptions, attested_tag, derive_team_image, run_plan

__all__ = [
    "BuildOptions",
    "LockOptions",
    "Plan",
    "adapt_context",
    "attested_tag",
    "build_direct_layers",
    "build_docker_layer",
    "build_local_wheels",
    "build_twins",
    "choose_engine",
    "derive_team_image",
    "fetch_team_wheels",
    "find_image",
    "find_team_lock",
    "lock_team",
    "open_base",
    "open_base_store",
    "plan_image",
    "plan_twins",
    "prepare_bake",
    "prepare_context",
    "read_team_lock",
    "resolve_team",
    "run_plan",
    "warn_of_lock",
]
