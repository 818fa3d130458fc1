"""What a distribution's metadata says about its licence, as an SPDX expression where it can be read as one.

In order: ``License-Expression`` (PEP 639); the OSI classifiers, where they name one licence each; the free text of
``License``, where it is an SPDX expression or one of the usual spellings. A text is never guessed at further.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from email.message import Message

_TEXT_LIMIT = 100  # characters of a free text that are kept

# The trove classifiers name some families without a version ("BSD License"): those are no SPDX licence.
_CLASSIFIERS = {
    "Academic Free License (AFL)": "",
    "Apache Software License": "Apache-2.0",
    "Artistic License": "",
    "BSD License": "",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Blue Oak Model License (BlueOak-1.0.0)": "BlueOak-1.0.0",
    "Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "CEA CNRS Inria Logiciel Libre License, version 2.1 (CeCILL-2.1)": "CECILL-2.1",
    "Common Development and Distribution License 1.0 (CDDL-1.0)": "CDDL-1.0",
    "Eclipse Public License 1.0 (EPL-1.0)": "EPL-1.0",
    "Eclipse Public License 2.0 (EPL-2.0)": "EPL-2.0",
    "European Union Public Licence 1.2 (EUPL 1.2)": "EUPL-1.2",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 (LGPLv2)": "LGPL-2.0-only",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PostgreSQL License": "PostgreSQL",
    "Python Software Foundation License": "PSF-2.0",
    "SIL Open Font License 1.1 (OFL-1.1)": "OFL-1.1",
    "The Unlicense (Unlicense)": "Unlicense",
    "Universal Permissive License (UPL)": "UPL-1.0",
    "University of Illinois/NCSA Open Source License": "NCSA",
    "Zero-Clause BSD (0BSD)": "0BSD",
    "Zope Public License": "ZPL-2.1",
    "zlib/libpng License": "Zlib",
}

# What people write into the free text, in lower case and without punctuation.
_SPELLINGS = {
    "0bsd": "0BSD",
    "3 clause bsd": "BSD-3-Clause",
    "3 clause bsd license": "BSD-3-Clause",
    "agplv3": "AGPL-3.0-only",
    "agplv3+": "AGPL-3.0-or-later",
    "apache 2": "Apache-2.0",
    "apache 2 license": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license v2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "apache v2": "Apache-2.0",
    "apachev2": "Apache-2.0",
    "asl 2.0": "Apache-2.0",
    "bsd 2 clause": "BSD-2-Clause",
    "bsd 2 clause license": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "bsd 3 clause license": "BSD-3-Clause",
    "gpl v2": "GPL-2.0-only",
    "gpl v3": "GPL-3.0-only",
    "gplv2": "GPL-2.0-only",
    "gplv2+": "GPL-2.0-or-later",
    "gplv3": "GPL-3.0-only",
    "gplv3+": "GPL-3.0-or-later",
    "isc": "ISC",
    "isc license": "ISC",
    "lgplv3": "LGPL-3.0-only",
    "lgplv3+": "LGPL-3.0-or-later",
    "lgplv2+": "LGPL-2.0-or-later",
    "mit license": "MIT",
    "modified bsd": "BSD-3-Clause",
    "modified bsd license": "BSD-3-Clause",
    "mozilla public license 2.0": "MPL-2.0",
    "mozilla public license 2.0 mpl 2.0": "MPL-2.0",
    "mpl 2.0": "MPL-2.0",
    "new bsd": "BSD-3-Clause",
    "new bsd license": "BSD-3-Clause",
    "psf": "PSF-2.0",
    "psfl": "PSF-2.0",
    "simplified bsd": "BSD-2-Clause",
    "the mit license": "MIT",
    "the mit license mit": "MIT",
    "the unlicense": "Unlicense",
}


class Licence(msgspec.Struct, frozen=True):
    """``expression`` is a valid SPDX expression, or empty: then ``text`` says what is written, or nothing."""

    expression: str = ""
    text: str = ""


def read_licence(headers: Message) -> Licence:
    """The licence in core metadata (its headers, parsed)."""
    expression = parse_expression(str(headers.get("License-Expression", "")))
    if expression:
        return Licence(expression)
    free = str(headers.get("License", "")).strip()
    first = free.splitlines()[0].strip() if free else ""
    from_text = _read_free_text(first)
    classifiers = [str(item) for item in headers.get_all("Classifier", [])]
    named = [item.rpartition(" :: ")[2] for item in classifiers if item.startswith("License :: ")]
    named = [name for name in named if name not in ("License", "OSI Approved")]
    found = [_CLASSIFIERS.get(name, "") for name in named]
    if found and all(found) and len(set(found)) == 1:
        return Licence(found[0])
    # Several classifiers do not say whether all hold or one may be chosen; only the text can.
    if from_text:
        return Licence(from_text)
    # A whole licence text is not a name; its first line is mostly a copyright.
    text = free if "\n" not in free and len(free) <= _TEXT_LIMIT and free.upper() != "UNKNOWN" else ""
    return Licence("", text or "; ".join(sorted(set(named))))


def read_licence_text(text: str) -> Licence:
    """The licence in one short text, as other package managers keep it: an SPDX expression, one of the usual spellings, or as it is."""
    return Licence(found) if (found := _read_free_text(text)) else Licence("", text[:_TEXT_LIMIT])


def _read_free_text(text: str) -> str:
    """A free text as an SPDX expression: it is one, or one of the usual spellings; else empty."""
    return parse_expression(text) or _SPELLINGS.get(re.sub(r"[^a-z0-9.+]+", " ", text.lower()).strip(), "")


def parse_expression(text: str) -> str:
    """``text`` in SPDX's own spelling when it is a valid expression of known licences, else empty."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if not text or len(text) > 1000:
        return ""
    try:
        return str(canonicalize_license_expression(text))
    except (InvalidLicenseExpression, RecursionError):
        return ""
