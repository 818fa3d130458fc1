"""A licence is read where it is said, and never guessed at."""

from __future__ import annotations

import pytest

from imagebuild.supply.licences import Licence, parse_expression, read_licence
from imagebuild.supply.packages import parse_metadata

OSI = "Classifier: License :: OSI Approved"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["License-Expression: mit OR apache-2.0"], Licence("MIT OR Apache-2.0")),
        (["License-Expression: LicenseRef-Corp", "License: MIT"], Licence("LicenseRef-Corp")),
        (["License-Expression: nonsense nonsense", "License: MIT"], Licence("MIT")),
        (["License: BSD 3-Clause"], Licence("BSD-3-Clause")),
        (["License: Apache 2.0"], Licence("Apache-2.0")),
        (["License: The MIT License (MIT)"], Licence("MIT")),
        ([f"{OSI} :: MIT License"], Licence("MIT")),
        ([f"{OSI} :: GNU Affero General Public License v3"], Licence("AGPL-3.0-only")),
        ([f"{OSI}", f"{OSI} :: ISC License (ISCL)"], Licence("ISC")),
        ([f"{OSI} :: BSD License", "License: BSD-2-Clause"], Licence("BSD-2-Clause")),
        ([f"{OSI} :: BSD License"], Licence("", "BSD License")),  # which of them is not said
        ([f"{OSI} :: MIT License", f"{OSI} :: Apache Software License"], Licence("", "Apache Software License; MIT License")),
        (["Classifier: License :: CC0 1.0 Universal (CC0 1.0) Public Domain Dedication"], Licence("CC0-1.0")),
        (["License: Copyright 2020 Somebody", "        All rights reserved."], Licence()),
        (["License: Copyright 2020 Somebody", "        Permission ...", f"{OSI} :: BSD License"], Licence("", "BSD License")),
        (["License: Proprietary"], Licence("", "Proprietary")),
        (["License: UNKNOWN"], Licence()),
        ([], Licence()),
    ],
)
def test_what_the_metadata_says(lines: list[str], expected: Licence) -> None:
    text = "\n".join(["Metadata-Version: 2.4", "Name: x", "Version: 1", *lines, "", "A description."])
    assert read_licence(parse_metadata(text.encode())) == expected


def test_an_expression_is_valid_or_nothing() -> None:
    assert parse_expression("gpl-3.0-or-later WITH gcc-exception-3.1") == "GPL-3.0-or-later WITH GCC-exception-3.1"
    for wrong in ("", "MIT OR", "MIT AND Nope-1.0", "(" * 500 + "MIT", "MIT " * 1000):
        assert parse_expression(wrong) == ""
