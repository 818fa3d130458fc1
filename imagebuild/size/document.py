"""The frame of a page that needs nothing else: one style, no script, and a policy that forbids every request."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import resources


def render_document(title: str, body: Iterable[str], *, back: str = "") -> bytes:
    """HTML 5 in UTF-8. ``title`` is text; ``body`` is markup, of which empty parts are left out; ``back`` is a link's URL."""
    style = (resources.files("imagebuild") / "size" / "page.css").read_text(encoding="utf-8")
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title>",
        f"<style>{style}</style></head>",
        "<body><main>",
        f'<p class=back><a href="{escape(back)}">Notebook images</a></p>' if back else "",
        *body,
        "</main></body></html>",
    ]
    return ("\n".join(part for part in parts if part) + "\n").encode()
