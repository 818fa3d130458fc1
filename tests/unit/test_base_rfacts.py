"""R as a base has it, read from Debian's files, from conda's, and from odd ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.base.libraries import follow_links, has_library, list_library_folders
from imagebuild.base.model import Entry, RFacts, RPackage
from imagebuild.base.rfacts import apply_renviron, is_r_text, read_r
from tests.support.trees import MemoryTree, file, folder, link

# What Debian's r-base-core has in these files, its comments left out.
DEBIAN_RENVIRON = """\
R_PLATFORM=${R_PLATFORM-'x86_64-pc-linux-gnu'}
R_TEXI2DVICMD=${R_TEXI2DVICMD-${TEXI2DVI-'/usr/bin/texi2dvi'}}
EDITOR=${EDITOR-${VISUAL-vi}}
R_LIBS_USER=${R_LIBS_USER:-'%U'}
R_LIBS_SITE=${R_LIBS_SITE:-'/usr/local/lib/R/site-library:%S'}
"""
DEBIAN_SITE = 'R_LIBS_SITE="/usr/local/lib/R/site-library/:${R_LIBS_SITE}:/usr/lib/R/library"\n'
SCRIPT = '#!/bin/bash\n# Shell wrapper for R executable.\n\nR_HOME_DIR={home}\nif test 1; then\n   R_HOME_DIR="/usr/${{libnn}}/R"\nfi\n'


def describe(name: str, version: str, built: str = "", priority: str = "") -> bytes:
    lines = [f"Package: {name}", f"Version: {version}"]
    lines += [f"Priority: {priority}"] if priority else []
    lines += ["Description: A package", f" Version: 9 is no field, it is indented ({name})"]
    return "\n".join([*lines, f"Built: {built}"] if built else lines).encode() + b"\n"


class RTree:
    """A base with an R; folders and links as they are asked for."""

    def __init__(self, home: str, program: str = "/usr/bin/R") -> None:
        self.home = home
        self.entries: dict[str, Entry] = {}
        self.texts: dict[str, bytes] = {}
        self.put(program, SCRIPT.format(home=home).encode(), 0o755)
        self.add(f"{home}/library", "base", "4.2.2", "R 4.2.2; ; 2023-01-20 18:24:23 UTC; unix", "base")
        self.add(f"{home}/library", "stats", "4.2.2", "R 4.2.2; x86_64-pc-linux-gnu; 2023-01-20 18:24:19 UTC; unix", "base")

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        parts = path.split("/")
        for count in range(2, len(parts)):
            parent = "/".join(parts[:count])
            self.entries.setdefault(parent, folder(parent))
        self.entries[path], self.texts[path] = file(path, content, mode), content

    def add(self, library: str, name: str, version: str, built: str = "", priority: str = "") -> None:
        self.put(f"{library}/{name}/DESCRIPTION", describe(name, version, built, priority))

    def read(self, *path: str, **environment: str) -> RFacts | None:
        return read_r(MemoryTree(self.entries.values(), self.texts), path or ("/usr/bin",), environment, "/home/jovyan")


@pytest.fixture
def debian() -> RTree:
    """R as Debian lays it out: etc/R in /etc, Renviron a link, three libraries."""
    tree = RTree("/usr/lib/R")
    tree.put("/etc/R/Renviron", DEBIAN_RENVIRON.encode())
    tree.put("/etc/R/Renviron.site", DEBIAN_SITE.encode())
    for name in ("Renviron", "Renviron.site"):
        tree.entries[f"/usr/lib/R/etc/{name}"] = link(f"/usr/lib/R/etc/{name}", f"/etc/R/{name}")
    return tree


def test_debian_has_two_site_libraries_and_a_teams_packages_go_into_the_second(debian: RTree) -> None:
    debian.add("/usr/local/lib/R/site-library", "Rcpp", "1.0.11", "R 4.2.2; x86_64-pc-linux-gnu; 2024-01-01 00:00:00 UTC; unix")
    debian.add("/usr/lib/R/site-library", "Rcpp", "1.0.9")
    debian.add("/usr/lib/R/library", "MASS", "7.3-58.2", "R 4.2.2; x86_64-pc-linux-gnu; 2023-01-20 18:24:19 UTC; unix", "recommended")
    facts = debian.read()
    assert facts is not None
    assert (facts.path, facts.home, facts.version, facts.minor) == ("/usr/bin/R", "/usr/lib/R", "4.2.2", "4.2")
    assert facts.platform == "x86_64-pc-linux-gnu"
    assert facts.libraries == ("/usr/local/lib/R/site-library", "/usr/lib/R/site-library", "/usr/lib/R/library")
    assert facts.library == "/usr/lib/R/site-library"
    assert facts.package("Rcpp") == RPackage("Rcpp", "1.0.11", "/usr/local/lib/R/site-library", "4.2.2")
    assert facts.package("MASS") == RPackage("MASS", "7.3-58.2", "/usr/lib/R/library", "4.2.2", "recommended")
    assert [item.name for item in facts.packages] == ["MASS", "Rcpp", "base", "stats"]
    assert facts.package("mass") is None


def test_conda_has_one_library_and_a_teams_packages_go_beside_it_where_r_looks() -> None:
    tree = RTree("/opt/conda/lib/R", "/opt/conda/bin/R")
    tree.put("/opt/conda/lib/R/etc/Renviron", b"R_LIBS_SITE=${R_LIBS_SITE:-'%S'}\nR_LIBS_USER=${R_LIBS_USER:-'%U'}\n")
    facts = tree.read("/usr/bin", "/opt/conda/bin", R_HOME="/opt/conda/lib/R")
    assert facts is not None
    assert (facts.path, facts.home) == ("/opt/conda/bin/R", "/opt/conda/lib/R")
    assert facts.libraries == ("/opt/conda/lib/R/site-library", "/opt/conda/lib/R/library")
    assert facts.library == "/opt/conda/lib/R/site-library"


@pytest.mark.parametrize(
    ("environment", "libraries"),
    [
        ({"R_LIBS": "/srv/r:/home/jovyan/R:/tmp/x"}, ("/srv/r", "/opt/R/site-library", "/opt/R/library")),
        ({"R_LIBS_SITE": "/a:/b"}, ("/a", "/b", "/opt/R/library")),
        ({"R_LIBS_SITE": "/home/jovyan/R"}, ("/opt/R/library",)),  # what a volume hides is no place for packages of an image
        ({"R_LIBS_SITE": "%S:relative:/x/%v"}, ("/opt/R/site-library", "/opt/R/library")),
        ({"R_LIBS_SITE": "/opt/R/library:/b"}, ("/b", "/opt/R/library")),
    ],
)
def test_the_environment_of_the_image_says_which_libraries_there_are(environment: dict[str, str], libraries: tuple[str, ...]) -> None:
    facts = RTree("/opt/R").read(**environment)
    assert facts is not None
    assert facts.libraries == libraries
    assert facts.library == (libraries[-2] if len(libraries) > 1 else libraries[-1])


def test_r_is_the_first_start_script_on_path_and_needs_its_base_package(debian: RTree) -> None:
    debian.put("/usr/local/bin/R", b"#!/bin/sh\nexec something else\n", 0o755)
    debian.put("/opt/bin/R", SCRIPT.format(home="/opt/R").encode())  # not executable
    facts = debian.read("/usr/local/bin", "/opt/bin", "/usr/bin")
    assert facts is not None
    assert facts.path == "/usr/bin/R"
    assert debian.read("/usr/local/bin") is None
    del debian.entries["/usr/lib/R/library/base/DESCRIPTION"]
    assert debian.read() is None


def test_a_package_whose_folder_has_another_name_is_not_one_that_r_finds(debian: RTree) -> None:
    debian.put("/usr/lib/R/site-library/other/DESCRIPTION", describe("Rcpp", "1.0"))
    debian.put("/usr/lib/R/site-library/deep/er/DESCRIPTION", describe("er", "1.0"))
    facts = debian.read()
    assert facts is not None
    assert [item.name for item in facts.packages] == ["base", "stats"]


def test_links_that_lead_nowhere_are_nothing_r_would_find(debian: RTree) -> None:
    debian.entries["/usr/lib/R/etc/Renviron"] = link("/usr/lib/R/etc/Renviron", "/etc/R/loop")
    debian.entries["/etc/R/loop"] = link("/etc/R/loop", "/nowhere")
    facts = debian.read()
    assert facts is not None
    assert facts.libraries[0] == "/usr/local/lib/R/site-library"


@pytest.mark.parametrize(
    ("path", "size", "kept"),
    [
        ("/usr/bin/R", 8960, True),
        ("/usr/bin/R", 65537, False),
        ("/usr/share/R", 10, False),
        ("/etc/R/Renviron.site", 10, True),
        ("/opt/conda/lib/R/etc/Renviron", 10, True),
        ("/usr/lib/R/etc/Renviron.ucf", 10, False),
        ("/opt/r-libs/data.table/DESCRIPTION", 10, True),
        ("/opt/r-libs/data.table/DESCRIPTION", (1 << 20) + 1, False),
        ("/opt/r-libs/data_table/DESCRIPTION", 10, False),
    ],
)
def test_which_texts_are_kept_while_a_base_is_read(path: str, size: int, kept: bool) -> None:
    assert is_r_text(path.encode(), size) is kept


def test_renviron_is_read_as_r_reads_it() -> None:
    before = {"TEXI2DVI": "mine", "EMPTY": ""}
    after = apply_renviron("# A=1\n A = 'x y' \nB=${EMPTY-no}\nC=${EMPTY:-yes}\nD=${NONE}\nno line\n" + DEBIAN_RENVIRON, before)
    assert (after["A"], after["B"], after["C"], after["D"]) == ("x y", "", "yes", "")
    assert (after["R_TEXI2DVICMD"], after["EDITOR"]) == ("mine", "vi")


def test_a_value_that_doubles_with_every_line_stays_short() -> None:
    text = "A=xx\n" + "A=${A}${A}\n" * 60
    assert len(apply_renviron(text, {})["A"]) <= 4096


@given(st.text(alphabet="AB=${}:-'\"\n x", max_size=200))
def test_any_renviron_is_read(text: str) -> None:
    apply_renviron(text, {"A": "${B}", "B": "b"})


def test_libraries_are_looked_for_where_the_loader_looks() -> None:
    tree = MemoryTree(
        [
            file("/usr/lib/x86_64-linux-gnu/libz.so.1.2"),
            link("/usr/lib/x86_64-linux-gnu/libz.so.1", "libz.so.1.2"),
            link("/usr/lib/x86_64-linux-gnu/libgone.so.1", "libgone.so.1.0"),
            file("/etc/ld.so.conf"),
            file("/etc/ld.so.conf.d/multiarch.conf"),
        ],
        {
            "/etc/ld.so.conf": b"include /etc/ld.so.conf.d/*.conf\n",
            "/etc/ld.so.conf.d/multiarch.conf": b"# here\n/usr/lib/x86_64-linux-gnu # yes\n",
        },
    )
    folders = list_library_folders(tree)
    assert folders == ("/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
    assert has_library(tree, "libz.so.1", folders)
    assert has_library(tree, "/usr/lib/x86_64-linux-gnu/libz.so.1", ())
    assert not has_library(tree, "libgone.so.1", folders)
    assert not has_library(tree, "libm.so.6", folders)
    found = follow_links(tree, "/usr/lib/x86_64-linux-gnu/libz.so.1")
    assert found is not None
    assert found.path.endswith("libz.so.1.2")
