"""Identities of artifacts: content-based, so that the same work has the same name everywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def identity(kind: str, spec: Mapping[str, Any], inputs: Mapping[str, str], version: int) -> str:
    """Identity of an artifact: `kind-` and 20 hex digits of SHA-256 of the arguments.

    **Arguments:**
        kind: Kind of the artifact, such as `policy` or `rollouts`.
        spec: Settings that affect its values; JSON without NaN or infinity.
        inputs: Role -> identity of each artifact it reads.
        version: `VERSION` of the stage that makes it.
    """
    text = json.dumps(
        [kind, spec, sorted(inputs.items()), version],
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"
