"""Both engines build the same layer, path by path: of cosml with its internal package, and of a team with 50 wheels."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from imagebuild import dockerfile
from imagebuild.check.verify.twin import SHOWN, require_twins
from imagebuild.errors import IntegrityError
from imagebuild.pipeline import planning
from imagebuild.pipeline.building import build_twins
from imagebuild.pipeline.planning import plan_image
from imagebuild.workspace import Workspace
from tests.support.builders import make_wheel
from tests.support.servers.registry import Registry
from tests.support.tools import need_docker
from tests.support.workspaces import PROJECT, Built, LayoutImage, run_tool, skopeo_copy

pytestmark = pytest.mark.integration


def test_cosml_is_the_same_from_both_engines(built: Built) -> None:
    need_docker()
    report = json.loads(built.checkout.run("verify", "--twin", "cosml", "--json", timeout=1200).succeeded().out)
    assert (report["count"], report["differences"]) == (0, [])
    headers = built.image.read_headers()
    files = [item for item in headers.values() if item.isreg()]
    assert (report["files"], report["bytes"]) == (len(files), sum(item.size for item in files))
    assert report["bytecode"] == sum(name.endswith(".pyc") for name in headers) > 3000
    assert report["records"] == built.result["packages"]


def test_fifty_wheels_are_the_same_from_both_engines(built: Built, tmp_path: Path) -> None:
    need_docker()
    heavy = built.checkout.fork(tmp_path)
    for name in ("images", "lockfiles"):
        shutil.rmtree(heavy.root / name)
        shutil.copytree(PROJECT / "bench" / "heavy" / name, heavy.root / name)
    settings = heavy.root / "images/heavy/team.toml"
    settings.write_text(settings.read_text() + "\n[layer]\nsplit = true\n")  # the docker engine has them all in one layer
    done = heavy.run("verify", "--twin", "heavy", timeout=1800).succeeded()
    assert "heavy: both engines build the same layer: " in done.out


def test_what_one_engine_leaves_out_is_found(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Dockerfile that is wrong: its pip is told to leave the bytecode out."""
    need_docker()
    fork = built.checkout.fork(tmp_path)

    def render(*arguments: Any) -> str:
        text = dockerfile.render_dockerfile(*arguments)
        assert text.count(" --no-deps ") == 1
        return text.replace(" --no-deps ", " --no-deps --no-compile ")

    monkeypatch.setattr(planning, "render_dockerfile", render)
    workspace = Workspace(fork.root, fork.cache, quiet=True)
    report = build_twins(workspace, plan_image(workspace, "cosml", cutoff="", locked=True, engine="docker"))
    shipped = sum(name.endswith(".pyc") for name in built.image.read_headers())
    assert report.count > shipped  # and RECORD's rows of them, and their folders
    assert len(report.differences) == SHOWN
    assert all(item.path.endswith((".pyc", "/__pycache__", "/RECORD")) and item.docker == "-" for item in report.differences)
    with pytest.raises(IntegrityError, match="the two engines' layers of cosml differ in "):
        require_twins(report, "cosml")


def test_folders_that_hand_their_group_on_make_no_difference(built: Built, hub: Registry, tmp_path: Path) -> None:
    """Debian's and conda's library folders have the setgid bit on many bases."""
    docker = need_docker()
    fork = built.checkout.fork(tmp_path / "fork")
    plain, base = f"{hub.host}/library/starter:1", f"{hub.host}/library/setgid"
    skopeo_copy(f"oci:{fork.layout}:bases/starter:latest", f"docker://{plain}")
    context = tmp_path / "context"
    context.mkdir()
    change = "find /usr/local -type d -exec chgrp 50 {} + -exec chmod 2775 {} +"
    (context / "Dockerfile").write_text(f"FROM {plain}\nUSER root\nRUN --network=none {change}\nUSER 1000\n")
    output = f"type=image,name={base}:1,push=true,store=false,oci-mediatypes=true"
    run_tool(docker, "buildx", "build", "--quiet", "--provenance=false", "--output", output, str(context))
    fork.use_base("starter", base, run_tool("crane", "digest", "--insecure", f"{base}:1").decode().strip())
    report = json.loads(fork.run("verify", "--twin", "cosml", "--json", timeout=1200).succeeded().out)
    assert report["differences"] == []
    assert report["files"] > 9000


def test_replaced_packages_make_no_difference(built: Built, tmp_path: Path) -> None:
    """Of two packages that the base brings other versions are locked: both engines delete the same old files."""
    need_docker()
    fork = built.checkout.fork(tmp_path)
    (team,) = fork.root.glob("images/cosml/team.toml")
    team.write_text('replace = ["idna", "Pygments"]\n' + team.read_text())
    requirements = fork.root / "images/cosml/requirements.in"
    requirements.write_text(requirements.read_text() + "\nidna==3.7\npygments==2.17.2\n")
    fork.run("lock", "cosml").succeeded()
    image = LayoutImage.named(fork.layout, f"cosml:{fork.image('cosml')['tag']}")
    names = {name for name in image.read_headers() if "/.wh." in name}
    assert {name.rpartition("/.wh.")[2].partition("-")[0] for name in names if name.endswith(".dist-info")} == {"idna", "pygments"}
    assert any(name.endswith(".py") for name in names)  # modules that came after those versions
    report = json.loads(fork.run("verify", "--twin", "cosml", "--json", timeout=1200).succeeded().out)
    assert report["differences"] == []
    assert report["files"] == sum(not item.isdir() for item in image.read_headers().values())
    verified = fork.run("verify", f"cosml:{image.manifest['annotations']['org.opencontainers.image.version']}")
    verified.succeeded()


def test_paths_that_two_bring_and_wrong_records_make_no_difference(built: Built, tmp_path: Path) -> None:
    """The real sentry-cli, whose RECORD is wrong, and packages that bring one file and one script each with content of their own."""
    need_docker()
    fork = built.checkout.fork(tmp_path / "fork")
    index = tmp_path / "index"
    wheels = [
        make_wheel(index / "odd-one", "odd_one", files={"ns/__init__.py": b"x = 1\n"}, entry_points="[console_scripts]\nodd = ns:x\n"),
        make_wheel(index / "odd-two", "odd_two", files={"ns/__init__.py": b"x = 2\n", "odd_two-1.0.data/scripts/odd": b"#!python\n2\n"}),
        make_wheel(index / "odd-same", "odd_same", files={"ns/__init__.py": b"x = 1\n"}),
    ]
    for wheel in wheels:
        link = f"{wheel.name}#sha256={hashlib.sha256(wheel.read_bytes()).hexdigest()}"
        (wheel.parent / "index.html").write_text(f'<a href="{link}">{wheel.name}</a>\n')
    team = fork.root / "images/cosml/team.toml"
    text = team.read_text()
    (fork.root / "images/cosml/requirements.in").write_text("odd-one\nodd-two\nodd-same\nsentry-cli==3.8.2\n")
    table = f'\n[[index]]\nname = "odd"\nurl = "{index.as_uri()}/"\nnames = ["odd-*"]\n'
    team.write_text(text + table)
    fork.run("lock", "cosml").succeeded()
    refused = fork.run("verify", "--twin", "cosml", timeout=1200)
    assert refused.code == 7
    assert '[files] "ns/__init__.py" = "odd-one"' in refused.err
    team.write_text(text + table + '\n[files]\n"ns/*" = "odd-two"\n"../../../bin/odd" = "odd-two"\n')
    report = json.loads(fork.run("verify", "--twin", "cosml", "--json", timeout=1200).succeeded().out)
    assert report["differences"] == []
    assert report["records"] >= 4  # these, and the internal packages of cosml
