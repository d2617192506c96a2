"""``python -m ichor`` is the command ``ichor``."""

import sys

from ichor.cli import main

sys.exit(main())
