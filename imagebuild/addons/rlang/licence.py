"""The License field of an R package ("Writing R Extensions", 1.1.2) as an SPDX expression."""

from __future__ import annotations

import re

_FILE = re.compile(r"\s*\+?\s*file\s+LICEN[CS]E\s*", re.IGNORECASE)
_SPDX = {
    "agpl-3": "AGPL-3.0-only",
    "agpl (>= 3)": "AGPL-3.0-or-later",
    "apache license 2.0": "Apache-2.0",
    "apache license (== 2.0)": "Apache-2.0",
    "apache license (>= 2)": "Apache-2.0",
    "apache license (>= 2.0)": "Apache-2.0",
    "artistic-2.0": "Artistic-2.0",
    "bsd_2_clause": "BSD-2-Clause",
    "bsd_3_clause": "BSD-3-Clause",
    "bsl-1.0": "BSL-1.0",
    "cc0": "CC0-1.0",
    "cc by 4.0": "CC-BY-4.0",
    "gpl": "GPL-1.0-or-later",
    "gpl-2": "GPL-2.0-only",
    "gpl-3": "GPL-3.0-only",
    "gpl (>= 2)": "GPL-2.0-or-later",
    "gpl (>= 2.0)": "GPL-2.0-or-later",
    "gpl (>= 3)": "GPL-3.0-or-later",
    "gpl (>= 3.0)": "GPL-3.0-or-later",
    "lgpl": "LGPL-2.0-or-later",
    "lgpl-2": "LGPL-2.0-only",
    "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-3": "LGPL-3.0-only",
    "lgpl (>= 2)": "LGPL-2.0-or-later",
    "lgpl (>= 2.1)": "LGPL-2.1-or-later",
    "lgpl (>= 3)": "LGPL-3.0-or-later",
    "mit": "MIT",
    "mpl-2.0": "MPL-2.0",
    "unlimited": "LicenseRef-Unlimited",
}


def read_r_licence(text: str) -> str:
    """``GPL-2 | GPL-3`` -> ``GPL-2.0-only OR GPL-3.0-only``; as it is where a part of it has no SPDX name."""
    parts = [_FILE.sub("", part).strip() for part in text.split("|")]
    found = [_SPDX.get(" ".join(part.lower().split()), "") for part in parts if part]
    return " OR ".join(dict.fromkeys(found)) if found and all(found) else text
