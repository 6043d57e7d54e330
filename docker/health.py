"""Checks that a service is ready; the exit code is 0 if it is, else 1.

Usage: `health.py http://HOST:PORT/PATH`, or `health.py HOST:PORT` for a Ray node. `ray
health-check` does the same but imports all of Ray each time: seconds of CPU time, twice a minute,
on every node.
"""

import os
import sys
import urllib.request

SECONDS = 5
SERVING = b"\x08\x01"
"""grpc.health.v1.HealthCheckResponse(status=SERVING)."""


def http(url: str) -> bool:
    """Return True if a GET of `url` has status 200."""
    with urllib.request.urlopen(url, timeout=SECONDS) as response:
        return bool(response.status == 200)


def ray(address: str) -> bool:
    """Return True if the node's gRPC health service, which Ray's head uses too, reports SERVING."""
    import grpc

    check = grpc.insecure_channel(address).unary_unary("/grpc.health.v1.Health/Check")
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    return bool(
        check(b"", timeout=SECONDS, metadata=[("authorization", f"Bearer {token}")]) == SERVING
    )


if __name__ == "__main__":
    target = sys.argv[1]
    sys.exit(0 if (http if target.startswith("http") else ray)(target) else 1)
