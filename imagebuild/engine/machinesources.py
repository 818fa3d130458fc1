"""Where this machine's own apt gets Debian's packages from. Only the standard library: see imagebuild.starter.debian."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

SUITE = "bookworm"


def parse_apt_sources(texts: Iterable[str]) -> list[tuple[str, str, str]]:
    """(address, suite, keyring) of every binary source in one-line or deb822 form (sources.list(5)); keyring may be empty."""
    found: list[tuple[str, str, str]] = []
    for text in texts:
        for line in text.splitlines():
            match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+\S", line)
            if match:
                keyring = re.search(r"signed-by=(\S+)", match[1] or "")
                found.append((match[2], match[3], keyring[1] if keyring else ""))
        for stanza in re.split(r"\n\s*\n", text):
            fields: dict[str, str] = {}
            for line in stanza.splitlines():
                if line.startswith("#"):
                    continue
                name, colon, value = line.partition(":")
                if colon and re.fullmatch(r"[A-Za-z-]+", name):
                    fields[name.lower()] = value.strip()
            if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() != "no":
                key = fields.get("signed-by", "")
                keyring_path = key if key.startswith("/") else ""
                found += [
                    (address, suite, keyring_path)
                    for address in fields.get("uris", "").split()
                    for suite in fields.get("suites", "").split()
                ]
    return found


def choose_sources(sources: list[tuple[str, str, str]]) -> list[str]:
    """``deb`` lines for :data:`SUITE`, its updates and its security suite, at the addresses this machine already uses.

    Empty when the machine has no Debian source; mmdebstrap then uses its own default.
    """
    debian = [item for item in sources if item[0].rstrip("/").endswith("/debian")]
    security = [item for item in sources if "debian-security" in item[0]]
    lines: list[str] = []
    for items, suites in ((debian, (SUITE, f"{SUITE}-updates")), (security, (f"{SUITE}-security",))):
        if items:
            address, _, keyring = items[0]
            option = f"[signed-by={keyring}] " if keyring else ""
            lines += [f"deb {option}{address} {suite} main" for suite in suites]
    return lines if debian else []


def read_machine_sources(apt: Path = Path("/etc/apt")) -> list[str]:
    """:func:`choose_sources` of a machine's own files."""
    files = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list")), *sorted(apt.glob("sources.list.d/*.sources"))]
    return choose_sources(parse_apt_sources(path.read_text(errors="replace") for path in files if path.is_file()))
