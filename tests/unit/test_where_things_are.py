"""CONTRIBUTING.md says in which file a rule is, and with which name to begin: both are there."""

from __future__ import annotations

import ast
import re

from tests.support.sources import ROOT, parse_source, read_sources

ROW = re.compile(r"^\| (?P<rule>.+?) \| `(?P<file>[a-z0-9/_]+\.py)` \| `(?P<name>\w+)` \|$", re.MULTILINE)


def list_names(source: str) -> set[str]:
    """Functions, classes and values of a module."""
    found = set()
    for node in parse_source(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def test_every_rule_of_the_table_is_where_it_says() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("| rule | file in `imagebuild/` | begin at |")[2].partition("\n\n")[0]
    rows = [row.groupdict() for row in ROW.finditer(table)]
    assert len(rows) == table.strip().count("\n") >= 20  # every row but the line below the heads
    sources = read_sources()
    lost = [row for row in rows if row["file"] not in sources or row["name"] not in list_names(sources[row["file"]])]
    assert lost == []
