"""What looks like a credential: by a file's name, and by well-known forms of tokens and keys in its content.

Only forms that say themselves what they are: a prefix that its issuer gave for this purpose, or a private key with its body. A
token's value is never repeated, neither here nor in a message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

OVERLAP = 8192  # bytes: no form below is longer than what may lie across two pieces of a file

_FORMS = {
    "an AWS access key": rb"(?<![A-Za-z0-9])(?:AKIA|ASIA)(?!IOSFODNN7EXAMPLE)[0-9A-Z]{16}(?![A-Za-z0-9])",
    "a GitHub token": rb"gh[pousr]_[A-Za-z0-9]{36,255}(?![A-Za-z0-9])|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}",
    "a GitLab token": rb"(?:glpat|gldt|glrt)-[A-Za-z0-9_-]{20,64}(?![A-Za-z0-9_-])",
    "a Slack token": rb"xox[abeprs]-[0-9]{8,}-[0-9A-Za-z-]{20,}",
    "a Google API key": rb"(?<![A-Za-z0-9])AIza[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])",
    "a PyPI token": rb"pypi-AgE[A-Za-z0-9_-]{50,}",
    "an npm token": rb"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])",
    "a Hugging Face token": rb"(?<![A-Za-z0-9_])hf_[A-Za-z]{34}(?![A-Za-z0-9])",
    "an OpenAI key": rb"sk-[A-Za-z0-9_-]{20,80}T3BlbkFJ[A-Za-z0-9_-]{20,80}",
    "an Anthropic key": rb"sk-ant-(?:api|admin)[0-9]{2}-[A-Za-z0-9_-]{80,}",
    "a Stripe key": rb"(?:sk|rk)_live_[0-9a-zA-Z]{24,}",
    "a private key": rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s*(?:[A-Za-z-]+: [^\n]*\n\s*)*(?:\\n)?[A-Za-z0-9+/=]{40}",
}
# Cheap to look for in hundreds of megabytes: the pattern is tried only where its anchor is. An anchor is a plain text, or an
# expression that begins with plain letters, which is as quick and stands for several.
_ANCHORS: dict[bytes | re.Pattern[bytes], str] = {
    re.compile(rb"A[KS]IA[0-9A-Z]{16}"): "an AWS access key",
    re.compile(rb"gh[pousr]_[A-Za-z0-9]{36}"): "a GitHub token",
    b"github_pat_": "a GitHub token",
    re.compile(rb"gl(?:pat|dt|rt)-[A-Za-z0-9_-]{20}"): "a GitLab token",
    re.compile(rb"xox[abeprs]-[0-9]{8}"): "a Slack token",
    b"AIza": "a Google API key",
    b"pypi-AgE": "a PyPI token",
    re.compile(rb"npm_[A-Za-z0-9]{36}"): "an npm token",
    re.compile(rb"hf_[A-Za-z]{34}"): "a Hugging Face token",
    b"T3BlbkFJ": "an OpenAI key",
    b"sk-ant-": "an Anthropic key",
    b"k_live_": "a Stripe key",
    b" PRIVATE KEY-----": "a private key",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in _FORMS.items()}

_URL_LOGIN = re.compile(rb"[a-z][a-z0-9+.-]*://[^/\s:@\"']+:(?!\$)[^/\s@\"']+@")
_NAMES = re.compile(
    r"(?:.*/)?(?:\.netrc|_netrc|\.pypirc|\.git-credentials|id_(?:rsa|dsa|ecdsa|ed25519)|\.aws/credentials|\.docker/config\.json|\.kube/config)"
)
# Harmless but for what may be written in them.
_SETTINGS = re.compile(r"(?:.*/)?(?:pip\.(?:conf|ini)|uv\.toml|\.condarc|condarc|\.npmrc|\.?gitconfig|sources\.list|auth\.conf)")
_SETTING = re.compile(rb"(?im)^\s*(?:\S*:)?(?:_authToken|_auth|_password|password|token)\s*[=:]\s*(?!\$)\S+|^\s*machine\s+\S+\s+login\s")


def find_secret_name(path: str) -> str:
    """Why a file of that name should be in no image, or empty."""
    return "a file for credentials" if _NAMES.fullmatch(path) else ""


def is_settings(path: str) -> bool:
    """Whether the file is one that :func:`find_setting` understands."""
    return _SETTINGS.fullmatch(path) is not None


def find_setting(data: bytes) -> str:
    """What a settings file gives away, or empty: a password in a URL, a token."""
    if _URL_LOGIN.search(data):
        return "a URL with a password"
    return "a password or token" if _SETTING.search(data) else ""


def find_secrets(data: bytes) -> Iterator[str]:
    """The kinds of secrets that ``data`` holds, each once."""
    found: set[str] = set()
    for anchor, name in _ANCHORS.items():
        near = anchor in data if isinstance(anchor, bytes) else anchor.search(data) is not None
        if near and name not in found and _PATTERNS[name].search(data):
            found.add(name)
            yield name


def is_text(head: bytes) -> bool:
    """Whether a file that begins so is looked through; compiled code, archives and arrays are not."""
    return b"\0" not in head
