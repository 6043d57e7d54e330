"""An mkdocs hook for links to files that are in the repository but not on the site.

Such a link becomes the file's name in code, with its path as a title.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s:#]+)\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace links to files outside the site. A broken link is kept, so that mkdocs reports it."""
    here, site = Path(page.file.abs_src_path).parent, Path(config.docs_dir).resolve()

    def shown(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = (here / target).resolve()
        if not path.exists() or (path.is_file() and path.is_relative_to(site)):
            return link.group()
        return f'<code title="{path.relative_to(site.parent)}">{text}</code>'

    return "".join(
        part if part.startswith("```") else LINK.sub(shown, part) for part in FENCE.split(markdown)
    )
