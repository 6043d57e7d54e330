"""Is a service ready? `health.py http://HOST:PORT/PATH`, or `health.py HOST:PORT` for a Ray node;
exit code 0 when it is.

`ray health-check` would say the same, but imports all of Ray each time: seconds of a core, twice a
minute, on every node.
"""

import os
import sys
import urllib.request

SECONDS = 5
SERVING = b"\x08\x01"
"""grpc.health.v1.HealthCheckResponse(status=SERVING)."""


def http(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        return bool(response.status == 200)


def ray(address: str) -> bool:
    """Ask the node's own gRPC health service, as Ray's head asks it."""
    import grpc

    ask = grpc.insecure_channel(address).unary_unary("/grpc.health.v1.Health/Check")
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    return bool(
        ask(b"", timeout=SECONDS, metadata=[("authorization", f"Bearer {token}")]) == SERVING
    )


if __name__ == "__main__":
    target = sys.argv[1]
    sys.exit(0 if (http if target.startswith("http") else ray)(target) else 1)
