"""Finds the program in a response: the last fenced code block after the thinking part.

It is a linear scan, since a policy wrote the response.
"""

from __future__ import annotations

import re

from tasks.grading.extract import after_thinking

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")


def program(response: str) -> str | None:
    r"""The text of the last closed code block, or None.

    A block that is still open at the end of the response is not a program.

    **Example:** `program("Read it:\n```python\nprint(input())\n```\nDone.") == "print(input())"`
    """
    code: str | None = None
    fence = ""
    block: list[str] = []
    for line in after_thinking(response).splitlines():
        mark = _FENCE.fullmatch(line)
        if not fence:
            if mark and "`" not in mark.group(2):
                fence, block = mark.group(1), []
        elif mark and mark.group(1).startswith(fence) and not mark.group(2).strip():
            code, fence = "\n".join(block), ""
        else:
            block.append(line)
    return code if code and code.strip() else None
