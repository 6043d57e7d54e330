"""A hook of mkdocs: links to files of the repository that are no part of the site become the
file's name in code, its path as a title.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s:#]+)\)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """What is there but not in the site; a link to what is nowhere stays as it is, for mkdocs to
    complain of.
    """
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
