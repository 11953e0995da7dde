# ruff: noqa: INP001 - a script that the image runs, no package
"""The health check of the image: asks the node of this container whether it lives, as its own settings say where and how.

Exit code 0 = it answers. Only what comes by variables and by the file of DISCLOUD_CONFIG counts, not flags behind
``docker run discloud node``.
"""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from urllib.request import urlopen

from discloud.config import Config, load
from discloud.errors import Invalid

PATIENCE = 2.0
"""Seconds for the answer, below the HEALTHCHECK's own timeout."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not listened on


def address(config: Config) -> str:
    """The URL of the node's ``/livez``."""
    host = EVERYWHERE.get(config.node.listen, config.node.listen)
    scheme = "https" if config.tls.cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.node.port}/livez"


def main() -> None:
    """Ask once. Raises: SystemExit where there is no answer, with the reason in one line."""
    named = os.environ.get("DISCLOUD_CONFIG")
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False  # it asks itself: the certificate names it as others know it
    unchecked.verify_mode = ssl.CERT_NONE
    try:
        where = address(load(Path(named) if named else None, os.environ, {}))
        urlopen(where, timeout=PATIENCE, context=unchecked).close()  # noqa: S310 - http or https, to itself
    except (Invalid, OSError) as error:
        sys.exit(f"not healthy: {error}")


if __name__ == "__main__":
    main()
