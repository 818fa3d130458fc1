"""What a company and a team allow: ``images/policy.toml``, and the ``[licences]`` and ``[audit]`` tables of team.toml.

About licences and thresholds a team can only be stricter. Ignored findings are those of both files: each has a reason and a last day.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from imagebuild.errors import ConfigurationError
from imagebuild.supply.licences import Licence
from imagebuild.supply.severity import Severity
from imagebuild.toml import decode_toml

Threshold = Literal["low", "medium", "high", "critical"]
_TOKEN = re.compile(r"\(|\)|[^()\s]+")


class LicenceRules(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """``[licences]``. Patterns are SPDX identifiers with ``*``; a licence that no SPDX expression names is unknown."""

    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()  # if given, nothing else is allowed
    allow_unknown: bool = True
    except_packages: dict[str, str] = msgspec.field(default_factory=dict, name="except")  # package -> why it may have any licence


class Ignored(msgspec.Struct, frozen=True, rename="kebab"):
    """``[[audit.ignore]]``: one finding that was looked at. Without ``package``: of every package."""

    id: str
    reason: str
    expires: datetime.date
    package: str = ""


class AuditRules(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """``[audit]``. ``osv`` is a path below the checkout, or absolute; ``osv_url`` an internal mirror."""

    osv: str = ""
    osv_url: str = ""
    fail_on: Threshold = "low"
    max_age_days: int = 0  # of the OSV data; 0: any
    ignore: tuple[Ignored, ...] = ()


class VerifyRules(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """``[verify]`` of images/policy.toml. ``allow_pth``: names of ``.pth`` and ``.start`` files that may run code: ``"coverage.pth"``."""

    allow_pth: tuple[str, ...] = ()


class PolicyRules(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """``[policy]`` of images/policy.toml. ``strict_record``: a wheel whose RECORD is wrong is refused; pip and uv install such wheels."""

    strict_record: bool = False


class Policy(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """All tables."""

    licences: LicenceRules = LicenceRules()
    audit: AuditRules = AuditRules()
    verify: VerifyRules = VerifyRules()
    policy: PolicyRules = PolicyRules()

    @property
    def threshold(self) -> Severity:
        """The least severity that counts."""
        return Severity[self.audit.fail_on.upper()]


def read_policy(images: Path) -> Policy:
    """``images/policy.toml``; a policy that allows everything when there is none."""
    path = images / "policy.toml"
    if not path.is_file():
        return Policy()
    policy = decode_toml(path, Policy)
    check_policy(policy, path)
    return policy


def check_policy(policy: Policy, path: Path) -> None:
    """ConfigurationError for what no licence or finding can match."""
    for item in policy.audit.ignore:
        if not item.id.strip() or not item.reason.strip():
            raise ConfigurationError(f"{path}: audit.ignore needs an id and a reason", "say why it is not a danger here")
    if policy.audit.max_age_days < 0:
        raise ConfigurationError(f"{path}: audit.max-age-days is negative", "write a number of days, or 0 for any age")
    for pattern in (*policy.licences.deny, *policy.licences.allow):
        if not pattern or any(letter.isspace() for letter in pattern):
            raise ConfigurationError(f"{path}: not a licence pattern: {pattern!r}", 'write an SPDX identifier, as in "AGPL-*"')


def join_policies(company: Policy, team: Policy) -> Policy:
    """Both at once: the stricter of the two wherever they differ, the company's data source."""
    mine, its = company.licences, team.licences
    allow = mine.allow
    if its.allow:
        allow = tuple(item for item in its.allow if not mine.allow or _matches(item, mine.allow)) or ("",)  # nothing in common: nothing
    licences = LicenceRules(
        deny=tuple(dict.fromkeys((*mine.deny, *its.deny))),
        allow=allow,
        allow_unknown=mine.allow_unknown and its.allow_unknown,
        except_packages=mine.except_packages,  # a team does not excuse itself
    )
    audit = AuditRules(
        osv=company.audit.osv or team.audit.osv,
        osv_url=company.audit.osv_url or team.audit.osv_url,
        fail_on=min(company.audit.fail_on, team.audit.fail_on, key=lambda word: Severity[word.upper()]),
        max_age_days=min((days for days in (company.audit.max_age_days, team.audit.max_age_days) if days), default=0),
        ignore=(*company.audit.ignore, *team.audit.ignore),
    )
    return Policy(licences, audit, company.verify)


def _matches(identifier: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(identifier.lower(), pattern.lower()) for pattern in patterns)


def judge_licence(licence: Licence, package: str, rules: LicenceRules) -> Literal["allowed", "denied", "unknown"]:
    """Whether a package of this licence may be in an image. Of ``A OR B`` one allowed licence is enough, of ``A AND B`` both are needed."""
    if package in rules.except_packages:
        return "allowed"
    if not licence.expression:
        return "denied" if licence.text and _matches(licence.text, rules.deny) else "unknown"
    tokens = _TOKEN.findall(licence.expression)
    allowed, rest = _read_or(tokens, rules)
    return "allowed" if allowed and not rest else "denied"


def _read_or(tokens: list[str], rules: LicenceRules) -> tuple[bool, list[str]]:
    found, tokens = _read_and(tokens, rules)
    while tokens and tokens[0] == "OR":
        other, tokens = _read_and(tokens[1:], rules)
        found = found or other
    return found, tokens


def _read_and(tokens: list[str], rules: LicenceRules) -> tuple[bool, list[str]]:
    found, tokens = _read_one(tokens, rules)
    while tokens and tokens[0] == "AND":
        other, tokens = _read_one(tokens[1:], rules)
        found = found and other
    return found, tokens


def _read_one(tokens: list[str], rules: LicenceRules) -> tuple[bool, list[str]]:
    if not tokens:
        return False, []
    if tokens[0] == "(":
        found, tokens = _read_or(tokens[1:], rules)
        return (found, tokens[1:]) if tokens and tokens[0] == ")" else (False, tokens)
    identifier, tokens = tokens[0], tokens[1:]
    whole = identifier
    if tokens and tokens[0] == "WITH":
        whole, tokens = f"{identifier} WITH {tokens[1]}", tokens[2:]
    denied = (
        _matches(identifier, rules.deny) and not _matches(whole, rules.allow) if whole != identifier else _matches(identifier, rules.deny)
    )
    allowed = not rules.allow or _matches(identifier, rules.allow) or _matches(whole, rules.allow)
    return allowed and not denied, tokens


def find_ignored(ids: frozenset[str], package: str, rules: AuditRules, today: datetime.date) -> Ignored | None:
    """The entry that says why this finding may stay, and still holds today."""
    for item in rules.ignore:
        if item.id in ids and item.package in ("", package) and today <= item.expires:
            return item
    return None
