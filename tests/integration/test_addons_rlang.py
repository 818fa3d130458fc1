"""R packages on a real R, Debian's, in a stand-in base; Debian's own R packages as binaries, and one with C code as source."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuild.addons.archives import archive_path
from imagebuild.addons.lockfile import read_addon_lock
from imagebuild.addons.model import AddonLock
from imagebuild.addons.rlang.sourcepackage import repack_archive
from imagebuild.base.sourceorder import SourceOrder
from imagebuild.config import load_team
from imagebuild.engine.aptsources import prepare_apt_secrets
from imagebuild.engine.insidebase import BuildPlace
from imagebuild.engine.options import DockerOptions
from imagebuild.engine.rpackage import build_r_package
from imagebuild.pipeline.bases import open_base
from imagebuild.workspace import Workspace
from tests.support.rpackages import make_binary, pack, render_description
from tests.support.servers.cran import FakeCran
from tests.support.servers.registry import Registry
from tests.support.tools import need, need_docker
from tests.support.workspaces import PROJECT, Built, Checkout, run_tool

pytestmark = pytest.mark.integration

SITE = "/usr/lib/R/site-library"
DEBIAN = ("r-cran-data.table", "r-cran-jsonlite", "r-cran-r6", "r-cran-xml2")  # installed packages of R, with Built in DESCRIPTION
FASTSUM = {
    "NAMESPACE": "useDynLib(fastsum, C_add)\nimport(jsonlite)\nexport(add)\n",
    "R/add.R": "add <- function(a, b) jsonlite::toJSON(.Call(C_add, a, b))\n",
    "src/add.c": "#include <Rinternals.h>\nSEXP C_add(SEXP a, SEXP b) { return ScalarReal(asReal(a) + asReal(b)); }\n",
    "man/add.Rd": "\\name{add}\\alias{add}\\title{Add}\\description{Adds.}\\usage{add(a, b)}\\arguments{\\item{a}{one}\\item{b}{other}}\n",
}


def make_fastsum() -> bytes:
    """A source package with C code, which needs another package to be built."""
    fields = {
        "Imports": "jsonlite (>= 1.8)",
        "NeedsCompilation": "yes",
        "Author": "A",
        "Maintainer": "A <a@b.example>",
        "Description": "Sums.",
    }
    files = {"DESCRIPTION": render_description("fastsum", "1.0", published="2025-01-02 03:04:05 UTC", **fields), **FASTSUM}
    return pack({f"fastsum/{path}": text for path, text in files.items()})


def fetch_debian_packages(folder: Path, cran: FakeCran) -> None:
    """Debian's R packages, from this machine's apt, as binary archives."""
    apt, dpkg = need("apt-get"), need("dpkg-deb")
    command = [apt, "-qq", "-o", "APT::Sandbox::User=root", "download", *DEBIAN]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        subprocess.run([apt, "-qq", "update"], capture_output=True, check=False)
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for path in folder.glob("*.deb"):
        run_tool(dpkg, "-x", str(path), str(folder / "root"))
    for package in (folder / "root" / SITE.lstrip("/")).iterdir():
        version = next(line for line in (package / "DESCRIPTION").read_text().splitlines() if line.startswith("Version: ")).split()[1]
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.add(package, package.name, filter=lambda item: None if item.issym() else item)  # Debian's own, to its other packages
        cran.add(package.name, version, buffer.getvalue())


@dataclass(frozen=True)
class Team:
    """Team ``rlang`` on the stand-in base, its repository, and where its image goes."""

    checkout: Checkout
    cran: FakeCran
    hub: Registry

    def run(self, *arguments: str) -> str:
        return self.checkout.run(*arguments).succeeded().err

    def write(self, packages: str, more: str = "") -> None:
        url = self.checkout.settings["CRAN"]
        index = f'[[index]]\nname = "cran"\nkind = "cran"\nurl = "{url}"\ndefault = true\n'
        source = '[source]\nsystem = ["gcc", "libc6-dev", "make"]\n'
        self.checkout.write("images/rlang/team.toml", f'base = "stand-in-r"\n{more}[r]\npackages = [{packages}]\n{source}{index}')

    @property
    def lock(self) -> AddonLock:
        return read_addon_lock(self.checkout.root / "lockfiles" / "r.rlang.toml")

    def image(self, *options: str) -> str:
        """Build and push; the image's name."""
        (found,) = json.loads(
            self.checkout.run("image", "rlang", "--json", "--registry", f"{self.hub.host}/rlang", *options).succeeded().out
        )
        return f"{found['image']}:{found['tag']}"


@pytest.fixture(scope="module")
def team(built: Built, hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The stand-in base by the repository's script, the repository on loopback, and the team locked."""
    need_docker()
    folder = tmp_path_factory.mktemp("rlang")
    cran = FakeCran()
    (folder / "debs").mkdir()
    fetch_debian_packages(folder / "debs", cran)
    cran.add("fastsum", "1.0", make_fastsum())
    with ExitStack() as stack:
        index = stack.enter_context(cran.serve())
        plain = built.checkout.fork(folder / "checkout")
        checkout = Checkout(plain.root, plain.cache, {**plain.settings, "CRAN": index.address})
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(PROJECT),
            "IMAGEBUILD": f"{sys.executable} -m imagebuild.cli",
            "STATE": str(checkout.root / ".imagebuild"),
            "DOCKER_CONFIG": str(checkout.root / "no-docker-config"),
        }
        script = [str(PROJECT / "scripts" / "stand-in-r-base.sh"), f"{hub.host}/bases", "--cache-dir", str(checkout.cache)]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        checkout.write("images/catalogue.toml", (checkout.root / "images/catalogue.toml").read_text() + "\n" + done.stdout)
        checkout.write("images/rlang/requirements.in", "")
        team = Team(checkout, cran, hub)
        team.write('"data.table", "fastsum"')
        team.run("lock", "rlang")
        stack.callback(forget_images, hub.host)
        yield team


def forget_images(host: str) -> None:
    """Remove what this module's runs pulled from a registry."""
    rows = run_tool("docker", "images", "--format", "{{.Repository}} {{.ID}}").decode().splitlines()
    pulled = {row.split()[1] for row in rows if row.startswith(f"{host}/")}
    if pulled:
        subprocess.run(["docker", "image", "rm", "--force", *pulled], capture_output=True, check=False)


CONDA = """\
FROM {base}
USER root
RUN --network=none set -eu; \\
    mkdir -p /opt/conda/bin /opt/conda/conda-meta /opt/conda/lib; \\
    cp -aL /usr/lib/R /opt/conda/lib/R; \\
    rm -rf /usr/lib/R /usr/bin/R /usr/local/lib/R /opt/conda/lib/R/site-library /opt/conda/lib/R/etc/Renviron.site; \\
    sed -i "s#^R_LIBS_SITE=.*#R_LIBS_SITE=\\${{R_LIBS_SITE:-'%S'}}#" /opt/conda/lib/R/etc/Renviron; \\
    sed -i 's#/usr/lib/R#/opt/conda/lib/R#g' /opt/conda/lib/R/bin/R; \\
    mv /usr/bin/Rscript /opt/conda/bin/; \\
    cp /opt/conda/lib/R/bin/R /opt/conda/bin/; \\
    chmod 0664 /etc/passwd
ENV R_HOME=/opt/conda/lib/R RHOME=/opt/conda/lib/R PATH=/opt/conda/bin:/usr/local/bin:/usr/bin:/bin XDG_DATA_HOME=/tmp/data-jovyan
USER 1000
"""


def find_base(team: Team) -> str:
    """The stand-in base by digest."""
    text = (team.checkout.root / "images/catalogue.toml").read_text().partition("[base.stand-in-r]")[2]
    reference, digest = (text.partition(f'{key} = "')[2].partition('"')[0] for key in ("reference", "digest"))
    return f"{reference}@{digest}"


def ask_r(image: str, code: str) -> list[str]:
    """What R prints, as the image's user with an empty home."""
    command = ["docker", "run", "--rm", "--network", "none", "--tmpfs", "/home/jovyan:uid=1000,mode=700", image, "Rscript", "-e", code]
    return run_tool(*command).decode().splitlines()


def test_what_is_read_of_r_is_what_r_says_of_itself(team: Team) -> None:
    facts = json.loads(team.checkout.run("base", "inspect", "stand-in-r", "--json").succeeded().out)["r"]
    told = 'p <- installed.packages(); cat(R.home(), as.character(getRversion()), R.version$platform, .libPaths(), sep = "\\n"); '
    told += 'cat(paste(rownames(p), p[, "Version"], dirname(find.package(rownames(p)))), sep = "\\n")'
    home, version, platform, *rest = ask_r(find_base(team), told)
    assert (facts["home"], facts["version"], facts["platform"]) == (home, version, platform)
    assert facts["libraries"] == rest[:3] == ["/usr/local/lib/R/site-library", SITE, "/usr/lib/R/library"]
    found = {f"{item['name']} {item['version']} {item['library']}" for item in facts["packages"] if item["name"] != "translations"}
    assert found == {line for line in rest[3:] if not line.startswith("translations ")}
    assert facts["library"] == SITE


def test_binaries_and_source_are_locked_and_built_the_same_again(team: Team, tmp_path: Path) -> None:
    forms = {item.name: (item.form, item.index, item.needs) for item in team.lock.addons}
    assert forms == {"data.table": ("binary", "cran", ()), "fastsum": ("source", "cran", ("jsonlite",)), "jsonlite": ("binary", "cran", ())}
    made = next(item for item in team.lock.addons if item.name == "fastsum")
    assert made.source is not None
    assert made.source.sha256 == hashlib.sha256(make_fastsum()).hexdigest()
    assert "building" not in team.run("lock", "rlang")
    assert "r.rlang.toml is fresh" in team.checkout.run("lock", "rlang", "--check").succeeded().out
    # Once more, beside a package that it does not need: the builder runs it anew.
    workspace = Workspace(team.checkout.root, team.checkout.cache, quiet=True)
    settings = load_team(workspace.images, "rlang")
    base = open_base(workspace, "stand-in-r", settings.platform)
    source = archive_path(team.checkout.cache, made.source.sha256, made.source.filename)
    others = [archive_path(team.checkout.cache, item.sha256, item.filename) for item in team.lock.addons if item.form == "binary"]
    order = SourceOrder("fastsum", "1.0", source, tuple(others), 1735787045)
    place = BuildPlace(base, team.checkout.layout, DockerOptions(), settings.source.system, prepare_apt_secrets(base, tmp_path))
    again = build_r_package(order, tmp_path, place)
    assert hashlib.sha256(repack_archive(again, "fastsum")).hexdigest() == made.sha256


def test_r_attaches_them_and_the_user_cannot_change_them(team: Team) -> None:
    image = team.image()
    lines = ask_r(
        image, 'library(data.table); library(fastsum); cat(format(add(1, 2)), find.package(c("data.table", "fastsum")), sep = "\\n")'
    )
    assert lines == ["[3]", f"{SITE}/data.table", f"{SITE}/fastsum"]
    rows = run_tool("docker", "run", "--rm", image, "find", SITE, "-printf", "%u:%g %m %T@ %y %p\n").decode().splitlines()
    files = [row.split(" ", 4) for row in rows if " f " in row]
    assert {(owner, time) for owner, _mode, time, _kind, _path in files} == {("root:root", "315532800.0000000000")}
    assert {mode for _owner, mode, _time, _kind, _path in files} == {"644", "755"}
    done = team.checkout.run("smoke", image, "--run", "own-user").succeeded()
    assert "R packages" in done.out
    assert "3 R packages attached" in done.out


def test_both_engines_make_the_same_tree(team: Team) -> None:
    report = json.loads(team.checkout.run("verify", "--twin", "rlang", "--json", timeout=1200).succeeded().out)
    assert report["differences"] == []
    assert report["files"] > 50


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ("xml2", r"xml2 1\.3\.\d+: libs/xml2\.so needs libxml2\.so\.2, which base stand-in-r lacks"),
        ("R6", r"R6 2\.5\.\d+ of package index 'cran' is built for R 4\.1, and base stand-in-r has R 4\.2\.2"),
        ("broken", r"broken 1\.0 cannot be built in base stand-in-r: .*error"),
    ],
)
def test_what_does_not_fit_this_r_is_refused_and_the_lock_stays(team: Team, package: str, message: str) -> None:
    before = (team.checkout.root / "lockfiles" / "r.rlang.toml").read_bytes()
    broken = {"broken/DESCRIPTION": render_description("broken", "1.0"), "broken/NAMESPACE": "", "broken/src/x.c": "int x( {\n"}
    team.cran.add("broken", "1.0", pack(broken))
    try:
        team.write(f'"data.table", "{package}"')
        team.checkout.run("lock", "rlang").refused(7 if package == "broken" else 4, message)
        assert (team.checkout.root / "lockfiles" / "r.rlang.toml").read_bytes() == before
    finally:
        team.write('"data.table", "fastsum"')


def test_an_archive_that_was_replaced_is_refused(team: Team) -> None:
    found = next(item for item in team.lock.addons if item.name == "data.table")
    shutil.rmtree(archive_path(team.checkout.cache, found.sha256, found.filename).parent)
    path = f"src/contrib/{found.filename}"
    data = team.cran.files[path]
    try:
        team.cran.files[path] = make_binary("data.table", found.version)
        team.checkout.run("lock", "rlang", "--check").refused(
            8, r"data\.table: data\.table_1\.[0-9.]+\.tar\.gz from index 'cran' is not the expected file"
        )
    finally:
        team.cran.files[path] = data
    team.run("lock", "rlang", "--check")


def test_r_in_conda_gets_them_beside_its_own_library(team: Team, tmp_path: Path) -> None:
    """As Kubeflow's image has it: R_HOME set by ENV, one library, /etc/passwd written by its group, XDG_DATA_HOME below /tmp."""
    (tmp_path / "Dockerfile").write_text(CONDA.format(base=find_base(team)))
    name = f"{team.hub.host}/bases/conda-r"
    output = f"type=image,name={name}:1,push=true,store=false,oci-mediatypes=true"
    run_tool("docker", "buildx", "build", "--quiet", "--provenance=false", "--output", output, str(tmp_path))
    digest = run_tool("crane", "digest", "--insecure", f"{name}:1").decode().strip()
    catalogue = team.checkout.root / "images/catalogue.toml"
    catalogue.write_text(f'{catalogue.read_text()}\n[base.conda-r]\nreference = "{name}"\ntag = "1"\ndigest = "{digest}"\n')
    text = (team.checkout.root / "images/rlang/team.toml").read_text().replace("stand-in-r", "conda-r").replace("fastsum", "jsonlite")
    team.checkout.write("images/rconda/team.toml", text)
    team.checkout.write("images/rconda/requirements.in", "")
    done = team.checkout.run("image", "rconda", "--json", "--registry", f"{team.hub.host}/rlang").succeeded()
    (found,) = json.loads(done.out)
    told = 'library(data.table); cat(.libPaths(), find.package(c("data.table", "jsonlite")), sep = "\\n")'
    own = "/opt/conda/lib/R/library"
    site = "/opt/conda/lib/R/site-library"
    assert ask_r(f"{found['image']}:{found['tag']}", told) == [site, own, f"{site}/data.table", f"{site}/jsonlite"]
