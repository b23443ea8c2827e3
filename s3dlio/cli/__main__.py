"""`python -m s3dlio.cli` is the command `s3dlio`."""

from __future__ import annotations

import sys

from . import main

sys.exit(main())
