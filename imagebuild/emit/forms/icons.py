"""Small pictures for spawner forms, drawn here so that a page needs nothing from elsewhere."""

from __future__ import annotations

from imagebuild.servers import Kind

_FRAME = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 64"><rect width="64" height="64" rx="12" fill="{fill}"/>{shape}</svg>\n'
_SHAPES: dict[Kind, tuple[str, str]] = {
    "jupyter": (  # cells of a notebook
        "#b8500c",
        '<g fill="#fff"><rect x="24" y="14" width="28" height="9" rx="2"/><rect x="24" y="28" width="28" height="9" rx="2"/>'
        '<rect x="24" y="42" width="28" height="9" rx="2"/><circle cx="16" cy="18.500" r="3"/><circle cx="16" cy="32.500" r="3"/>'
        '<circle cx="16" cy="46.500" r="3"/></g>',
    ),
    "vscode": (  # brackets
        "#1f5f99",
        '<path d="M26 16 12 32l14 16M38 16l14 16-14 16" fill="none" stroke="#fff" stroke-width="6" stroke-linecap="round" '
        'stroke-linejoin="round"/>',
    ),
    "rstudio": (  # bars
        "#2f6b4f",
        '<g fill="#fff"><rect x="14" y="34" width="9" height="16"/><rect x="28" y="22" width="9" height="28"/>'
        '<rect x="42" y="14" width="9" height="36"/></g>',
    ),
}


def draw_icon(kind: Kind) -> str:
    """SVG, square."""
    fill, shape = _SHAPES[kind]
    return _FRAME.format(fill=fill, shape=shape)
