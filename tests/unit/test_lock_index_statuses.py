"""What indexes say of whole projects, from the pages that are kept."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import pytest

from imagebuild.errors import IntegrityError
from imagebuild.lock.index.pagecache import PageCache, keep_page
from imagebuild.lock.index.pages import ProjectPage
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.index.statuses import ProjectStatus, recall_statuses
from imagebuild.supply.audit import audit_packages, encode_audit, format_audit
from imagebuild.supply.policy import Policy
from tests.support.builders import make_package

TODAY = datetime.date(2026, 11, 26)


def test_statuses_come_from_the_index_that_the_lock_names(tmp_path: Path) -> None:
    corp, public = (PackageIndex(name, f"http://{name}.test/simple/") for name in ("corp", "public"))
    for index, name, status in ((corp, "six", "archived"), (public, "six", "quarantined"), (public, "pytz", "")):
        page = ProjectPage(name, (), status, "moved" if status else "")
        PageCache(tmp_path, index.address).remember(name, keep_page(page, "", index.address, "0" * 64))
    six, pytz, local = (msgspec.structs.replace(make_package(name, "1.0"), index=where)
                        for name, where in (("six", "corp"), ("pytz", "public"), ("ours", "local")))  # fmt: skip
    assert recall_statuses(tmp_path, (corp, public), (six, pytz, local)) == (ProjectStatus("six", "1.0", "archived", "moved"),)


@pytest.mark.parametrize(("status", "fails"), [("archived", False), ("deprecated", False), ("quarantined", True)])
def test_the_audit_tells_every_status_and_fails_for_quarantine(status: str, fails: bool) -> None:
    report = audit_packages("cosml", (), None, Policy(), today=TODAY, projects=(ProjectStatus("six", "1.17.0", status, "moved"),))
    assert f"project   six is {status} (moved); 1.17.0 is locked" in format_audit(report)
    assert f'"ok": {str(not fails).lower()}' in encode_audit(report, strict=False)
    if fails:
        with pytest.raises(IntegrityError, match="quarantined by their index: six"):
            report.raise_findings(strict=False)
    else:
        report.raise_findings(strict=True)
