"""A user's own requirements against a team's image, and pip in that image, which takes the pinned file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.servers.index import FakeIndex
from tests.support.tools import need_docker
from tests.support.workspaces import Built, run_tool

pytestmark = pytest.mark.integration


def test_a_users_requirements_on_top_of_an_image(built: Built, tmp_path: Path) -> None:
    docker = need_docker()
    index = FakeIndex()
    index.add("top", "1.0", ["below>=1", "spare; extra == 'more'"])
    index.add("below", "1.0")
    index.add("below", "2.0")
    index.add("spare", "1.0")
    index.add("mine", "1.0", ["below", "helper>=1"])
    index.add("helper", "1.5")
    index.add("modern", "1.0", ["below>=2"])
    with index.serve() as url:
        checkout = built.checkout.fork(tmp_path / "personal")
        checkout.write("images/blue/team.toml", f'base = "starter"\n[[index]]\nname = "house"\nurl = "{url}"\ndefault = true\n')
        checkout.write("images/blue/requirements.in", "top\nbelow<2\n")
        checkout.run("lock", "blue").succeeded()
        wanted = tmp_path / "home" / "wanted.txt"
        wanted.parent.mkdir()
        wanted.write_text("mine\ntop[more]\n")
        pinned = tmp_path / "pinned.txt"
        told = checkout.run("personal", "blue", str(wanted), "-o", str(pinned)).succeeded().out
        piped = checkout.run("personal", "blue", str(wanted), "--resolver", "uv").succeeded()
        assert piped.out == pinned.read_text()
        assert "adds 3 packages to blue's image" in told
        for line in (
            "  + mine 1.0  (asked for by wanted.txt)",
            "  + helper 1.5  (asked for by mine)",
            "  = below 1.0  (in the image)",
        ):
            assert line in told
        assert "127.0.0.1" not in pinned.read_text()
        wanted.write_text("# mine\n\nbelow==2.0\n")
        checkout.run("personal", "blue", str(wanted)).refused(
            4, r"wanted\.txt line 3 asks for below==2\.0; the image of blue has below 1\.0", hint=r"images/blue/requirements\.in"
        )
        wanted.write_text("modern\n")
        for resolver in ("pip-tools", "uv"):
            checkout.run("personal", "blue", str(wanted), "--resolver", resolver).refused(
                4, r"modern( 1\.0)? needs below>=2; the image of blue has below 1\.0", hint=r"images/blue/requirements\.in"
            )
        wanted.write_text("top\n")
        assert "nothing to add" in checkout.run("personal", "blue", str(wanted)).succeeded().err
        loaded = checkout.run("image", "blue", "--load", "--json").succeeded().result
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, data in index.bodies.items():
        (wheels / name).write_bytes(data)
    script = (
        "set -e; pip install --user --no-index --find-links /wheels -r /pinned.txt; pip check; "
        "pip install --user --dry-run --quiet --no-index --find-links /wheels mine 'top[more]' 'below<2'; "
        "python3 -c 'import mine, helper, below; print(mine.__file__, below.__file__)'"
    )
    name = f"blue:{loaded['tag']}"
    try:
        mounts = ["-v", f"{wheels}:/wheels:ro", "-v", f"{pinned}:/pinned.txt:ro", "--tmpfs", "/home/jovyan:uid=1000,exec"]
        out = run_tool(docker, "run", "--rm", "--network=none", *mounts, "--entrypoint", "sh", name, "-c", script).decode()
    finally:
        run_tool(docker, "rmi", "--force", name)
    assert "Successfully installed helper-1.5 mine-1.0 spare-1.0" in out
    assert "No broken requirements found." in out
    assert "Would install" not in out
    last = out.splitlines()[-1].split()
    assert last[0].startswith("/home/jovyan/.local/lib/python3.11/site-packages/mine/")
    assert last[1].startswith("/usr/local/lib/python3.11/dist-packages/below/")
